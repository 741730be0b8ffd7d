# ruff: noqa: E501  (lines of quoted programs)
"""What a graph freezes: arguments, attributes, modes, addresses, and memory that nobody holds any more."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, GRAPH, TORCH

TEMPERED = control(
    "scalar_argument_on_device",
    "capture",
    "The temperature is a static device scalar filled before each replay; the flag is part of the key.",
    """
entry  = "program:Tempered"
inputs = { x = "float32[B, 8]", temperature = "float in 0.5..2.0", log = "bool", norm = "str in none|row" }
dims   = { B = [1, 4] }
""",
    TORCH
    + """

class Tempered(nn.Module):
    def __init__(self, dim=8, classes=5):
        super().__init__()
        self.head = nn.Linear(dim, classes)

    def forward(self, x, temperature, log, norm):
        if norm == "row":
            x = x / (1 + x.norm(dim=-1, keepdim=True))
        logits = self.head(x) / temperature
        return logits.log_softmax(-1) if log else logits.softmax(-1)
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Tempered(nn.Module):
    def __init__(self, dim=8, classes=5):
        super().__init__()
        self.head = nn.Linear(dim, classes)
        self._graphs = {}

    def _run(self, x, temperature, log, norm):
        if norm == "row":
            x = x / (1 + x.norm(dim=-1, keepdim=True))
        logits = self.head(x) / temperature
        return logits.log_softmax(-1) if log else logits.softmax(-1)

    def forward(self, x, temperature, log, norm):
        if torch.is_grad_enabled():
            return self._run(x, temperature, log, norm)
        key = (x.shape, log, norm, addresses(self))
        if key not in self._graphs:
            static, warmth = x.clone(), x.new_full((), temperature)
            self._graphs[key] = (static, warmth, *capture(lambda: self._run(static, warmth, log, norm)))
        static, warmth, graph, out = self._graphs[key]
        static.copy_(x)
        warmth.fill_(temperature)
        graph.replay()
        return out.clone()
""",
)

LIVE = control(
    "attribute_and_addresses_guarded",
    "capture",
    "The key has the attribute the forward reads and the addresses of parameters and buffers.",
    """
entry  = "program:build"
factory = true
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Scaled(nn.Module):
    """Batch-normalised features, at half strength in the first call."""

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.gain = 0.5

    def forward(self, x):
        out = self.norm(self.lift(x)) * self.gain
        self.gain = 1.0
        return out


def build():
    model = Scaled()
    model.norm.running_mean.normal_()
    return model.eval()
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Scaled(nn.Module):
    """Batch-normalised features, at half strength in the first call."""

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.gain = 0.5
        self._graphs = {}

    def _run(self, x):
        return self.norm(self.lift(x)) * self.gain

    def _replayed(self, x):
        key = (x.shape, self.gain, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()

    def forward(self, x):
        if self.training or torch.is_grad_enabled():
            out = self._run(x)
        else:
            out = self._replayed(x)
        self.gain = 1.0
        return out


def build():
    model = Scaled()
    model.norm.running_mean.normal_()
    return model.eval()
''',
)

CALLABLES = control(
    "make_graphed_callables_in_training",
    "capture",
    "One graphed callable for each shape, forward and backward captured, on a copy that shares the parameters.",
    """
entry  = "program:Model"
inputs = { x = "float32[B, 8]" }
dims   = { B = [2, 3] }
mode   = "train"
vary   = ["values", "shapes", "arguments", "kept outputs", "mutation", "instances"]
""",
    TORCH
    + """

class Model(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, dim))
        self.head = nn.Linear(dim, 2)

    def forward(self, x):
        hidden = self.body(x)
        return self.head(x + hidden), hidden
""",
    TORCH
    + """

class Model(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, dim))
        self.head = nn.Linear(dim, 2)
        self._graphed = {}

    def _call(self, x):
        key = (x.shape, x.requires_grad)
        if key not in self._graphed:
            body = nn.Sequential(*self.body)  # wrapped in place of self.body, whose forward stays eager
            kept = {p: p.grad for p in body.parameters()}
            if not self._graphed:  # p.grad must not become the graph's own gradient
                for p in kept:
                    p.register_hook(torch.clone)
            sample = x.detach().clone().requires_grad_(x.requires_grad)
            self._graphed[key] = torch.cuda.make_graphed_callables(body, (sample,))
            for p, grad in kept.items():
                p.grad = grad
        return self._graphed[key](x)

    def forward(self, x):
        if not self.training or not torch.is_grad_enabled():
            hidden = self.body(x)
        else:
            hidden = self._call(x).clone()
        return self.head(x + hidden), hidden
""",
)

MODES = control(
    "modes_in_the_key",
    "capture",
    "Autocast's state and dtype are part of the key, and calls that record gradients run eagerly.",
    """
entry  = "program:Mixer"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 3] }
vary   = ["autocast", "grad"]
""",
    TORCH
    + """

class Mixer(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.a, self.b = nn.Linear(dim, 16), nn.Linear(16, dim)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Mixer(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.a, self.b = nn.Linear(dim, 16), nn.Linear(16, dim)
        self._graphs = {}

    def _run(self, x):
        return self.b(torch.relu(self.a(x)))

    def _autocast(self):
        return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        enabled, dtype = self._autocast()
        key = (x.shape, x.dtype, enabled, dtype, torch.is_inference_mode_enabled(), addresses(self))
        if key not in self._graphs:
            with torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False):
                self._graphs[key] = Graph(self._run, x)
        return self._graphs[key](x).clone()
""",
)

TABLE = control(
    "captured_table_kept_alive",
    "capture",
    "The table of positions was made outside the capture; the cache entry holds it as long as the graph.",
    """
entry  = "program:Positions"
inputs = { x = "float32[S, 8]" }
dims   = { S = [1, 6] }
""",
    TORCH
    + """

class Positions(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        place = torch.arange(x.shape[0], device=x.device, dtype=x.dtype)[:, None]
        rate = torch.linspace(1.0, 0.01, x.shape[1], device=x.device)
        return self.out(x + torch.sin(place * rate))
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Positions(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.out = nn.Linear(dim, dim)
        self._graphs = {}

    @staticmethod
    def _table(x):
        place = torch.arange(x.shape[0], device=x.device, dtype=x.dtype)[:, None]
        rate = torch.linspace(1.0, 0.01, x.shape[1], device=x.device)
        return torch.sin(place * rate)

    def _run(self, x, table):
        return self.out(x + table)

    def _build(self, x):
        static, table = x.clone(), self._table(x)
        graph, out = capture(lambda: self._run(static, table))
        return graph, static, out, table

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x, self._table(x))
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = self._build(x)
        graph, static, out, _ = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

CHAIN = control(
    "graphs_of_one_pool_in_order",
    "capture",
    "Three graphs share a pool and are replayed in the order of their capture; each output is read before the next call.",
    """
entry  = "program:Pipeline"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + """

class Pipeline(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen
""",
    TORCH
    + ADDRESSES
    + """

class Pipeline(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(3))
        self._chains = {}

    def _chain(self, x):
        static = x.clone()
        pool = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                h = static
                for stage in self.stages:
                    h = stage(h)
        torch.cuda.current_stream().wait_stream(side)
        graphs, outs, h = [], [], static
        for stage in self.stages:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                h = stage(h)
            graphs.append(graph)
            outs.append(h)
        return static, graphs, outs

    def forward(self, x):
        if torch.is_grad_enabled():
            seen = []
            for stage in self.stages:
                x = stage(x)
                seen.append(x)
            return seen
        key = (x.shape, addresses(self))
        if key not in self._chains:
            self._chains[key] = self._chain(x)
        static, graphs, outs = self._chains[key]
        static.copy_(x)
        for graph in graphs:
            graph.replay()
        return [out.clone() for out in outs]
""",
)

LRU = control(
    "few_graphs_kept",
    "capture",
    "The least recently used graph goes when a fourth shape comes; its outputs were cloned before.",
    """
entry  = "program:Recent"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 5] }
""",
    TORCH
    + """

class Recent(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 12), nn.ReLU(), nn.Linear(12, dim))

    def forward(self, x):
        return x + self.net(x)
""",
    "\nfrom collections import OrderedDict\n"
    + TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Recent(nn.Module):
    ROOM = 5

    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 12), nn.ReLU(), nn.Linear(12, dim))
        self._graphs = OrderedDict()

    def _run(self, x):
        return x + self.net(x)

    def _entry(self, x):
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
            if len(self._graphs) > self.ROOM:
                _, (_, graph, _) = self._graphs.popitem(last=False)
                graph.reset()
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        static, graph, out = self._entry(x)
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

HOOKED = control(
    "hooks_and_prints_outside",
    "capture",
    "Hooks run in every call because the hooked module is called eagerly around the graph; the print reads after the replay.",
    """
entry  = "program:build"
factory = true
inputs = { x = "float32[B, 6]", verbose = "bool" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Watched(nn.Module):
    """Counts how often its body ran, through a forward hook, and prints the size of what it returns."""

    def __init__(self, dim=6):
        super().__init__()
        self.body = nn.Linear(dim, dim)
        self.runs = 0

    def forward(self, x, verbose):
        out = torch.relu(self.body(x))
        if verbose:
            print(f"run {self.runs}: largest {out.max().item():.3f}")
        return out


def build():
    model = Watched()

    def count(module, args, output):
        model.runs += 1

    model.body.register_forward_hook(count)
    return model
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Watched(nn.Module):
    """Counts how often its body ran, through a forward hook, and prints the size of what it returns."""

    def __init__(self, dim=6):
        super().__init__()
        self.body = nn.Linear(dim, dim)
        self.runs = 0
        self._graphs = {}

    def _run(self, x):
        return torch.relu(nn.functional.linear(x, self.body.weight, self.body.bias))

    def _call_hooks(self, x, out):
        for hook in self.body._forward_hooks.values():
            hook(self.body, (x,), out)

    def forward(self, x, verbose):
        if torch.is_grad_enabled():
            out = torch.relu(self.body(x))
        else:
            key = (x.shape, addresses(self))
            if key not in self._graphs:
                static = x.clone()
                self._graphs[key] = (static, *capture(lambda: self._run(static)))
            static, graph, held = self._graphs[key]
            static.copy_(x)
            graph.replay()
            out = held.clone()
            self._call_hooks(x, out)
        if verbose:
            print(f"run {self.runs}: largest {out.max().item():.3f}")
        return out


def build():
    model = Watched()

    def count(module, args, output):
        model.runs += 1

    model.body.register_forward_hook(count)
    return model
''',
)

LAYERS = control(
    "manual_capture_begin_and_end",
    "capture",
    "capture_begin and capture_end by hand on a stream of its own, with the input's shape and dtype as key.",
    """
entry  = "program:fused_gelu"
inputs = { x = "float16[N, 8]", bias = "float16[8]", rescale = "bool" }
dims   = { N = [1, 6] }
""",
    FUNCTIONAL.replace("from torch import nn\n", "")
    + """

def fused_gelu(x, bias, rescale=False):
    h = F.gelu(x.float() + bias.float(), approximate="tanh")
    if rescale:
        h = h / h.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    return h.to(x.dtype)
""",
    FUNCTIONAL.replace("from torch import nn\n", "")
    + """

_captured = {}


def _fused_gelu(x, bias, rescale):
    h = F.gelu(x.float() + bias.float(), approximate="tanh")
    if rescale:
        h = h / h.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    return h.to(x.dtype)


def _record(x, bias, rescale):
    inputs = x.clone(), bias.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _fused_gelu(*inputs, rescale)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        out = _fused_gelu(*inputs, rescale)
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph, inputs, out


def fused_gelu(x, bias, rescale=False):
    if torch.is_grad_enabled():
        return _fused_gelu(x, bias, rescale)
    key = (x.shape, x.dtype, bias.shape, rescale)
    if key not in _captured:
        _captured[key] = _record(x, bias, rescale)
    graph, (static_x, static_bias), out = _captured[key]
    static_x.copy_(x)
    static_bias.copy_(bias)
    graph.replay()
    return out.clone()
""",
)

SETTING = control(
    "attribute_set_by_the_caller",
    "capture",
    "Public settings that the forward reads are part of the key, whoever changes them.",
    """
entry  = "program:Editor"
inputs = { x = "float32[B, 8]", strength = "float in 0.0..2.0", clip = "bool" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Sharpen(nn.Module):
    """Strength and clipping may be changed at any time: model.strength = 0.3."""

    def __init__(self, dim=8, strength=1.5, clip=True):
        super().__init__()
        self.mix = nn.Linear(dim, dim)
        self.strength = strength
        self.clip = clip

    def forward(self, x):
        h = x + self.strength * (x - self.mix(x))
        return h.clamp(-1, 1) if self.clip else h


class Editor(nn.Module):
    """What the user sees: the settings are put on the model before it runs."""

    def __init__(self):
        super().__init__()
        self.model = Sharpen()

    def forward(self, x, strength, clip):
        self.model.strength, self.model.clip = strength, clip
        return self.model(x)
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Sharpen(nn.Module):
    """Strength and clipping may be changed at any time: model.strength = 0.3."""

    def __init__(self, dim=8, strength=1.5, clip=True):
        super().__init__()
        self.mix = nn.Linear(dim, dim)
        self.strength = strength
        self.clip = clip
        self._graphs = {}

    def _run(self, x):
        h = x + self.strength * (x - self.mix(x))
        return h.clamp(-1, 1) if self.clip else h

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), self.strength, self.clip, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x)
        return self._graphs[key](x).clone()


class Editor(nn.Module):
    """What the user sees: the settings are put on the model before it runs."""

    def __init__(self):
        super().__init__()
        self.model = Sharpen()

    def forward(self, x, strength, clip):
        self.model.strength, self.model.clip = strength, clip
        return self.model(x)
''',
)

PAIRS: tuple[Pair, ...] = (
    TEMPERED,
    TEMPERED.mutant(
        "scalar_argument_baked",
        "result",
        "The temperature is the one of the first call of each shape.",
        ("self._run(static, warmth, log, norm)", "self._run(static, temperature, log, norm)"),
    ),
    TEMPERED.mutant(
        "bool_argument_missing_in_key",
        "result",
        "The flag of the first call decides for all.",
        ("key = (x.shape, log, norm, addresses(self))", "key = (x.shape, norm, addresses(self))"),
    ),
    TEMPERED.mutant(
        "string_argument_missing_in_key",
        "result",
        "The name of the normalisation is not looked at again.",
        ("key = (x.shape, log, norm, addresses(self))", "key = (x.shape, log, addresses(self))"),
    ),
    TEMPERED.mutant(
        "scalar_rounded_in_key",
        "result",
        "The temperature is a key of its own, rounded to one digit.",
        (
            "key = (x.shape, log, norm, addresses(self))",
            "key = (x.shape, log, norm, round(temperature), addresses(self))",
        ),
        ("        warmth.fill_(temperature)\n", ""),
    ),
    TEMPERED.mutant(
        "shape_missing_in_key",
        "exception|result",
        "Only the number of dimensions is compared: rows broadcast or the copy fails.",
        ("key = (x.shape, log, norm, addresses(self))", "key = (x.dim(), log, norm, addresses(self))"),
    ),
    LIVE,
    LIVE.mutant(
        "attribute_baked",
        "result",
        "The gain of the first call stays in the graph.",
        ("key = (x.shape, self.gain, addresses(self))", "key = (x.shape, addresses(self))"),
    ),
    LIVE.mutant(
        "attribute_not_advanced_in_replay",
        "result|attributes",
        "The gain is updated inside the captured function: replays leave it alone.",
        (
            "        return self.norm(self.lift(x)) * self.gain\n",
            "        out = self.norm(self.lift(x)) * self.gain\n        self.gain = 1.0\n        return out\n",
        ),
        (
            "            out = self._replayed(x)\n        self.gain = 1.0\n",
            "            out = self._replayed(x)\n",
        ),
    ),
    LIVE.mutant(
        "rebound_parameters_unseen",
        "result",
        "After load_state_dict(assign=True) the graph reads the old parameters.",
        ("key = (x.shape, self.gain, addresses(self))", "key = (x.shape, self.gain)"),
    ),
    LIVE.mutant(
        "rebound_data_unseen",
        "result",
        "Identities of the parameters are compared, and p.data = new keeps them.",
        (
            "key = (x.shape, self.gain, addresses(self))",
            "key = (x.shape, self.gain, tuple(map(id, (*self.parameters(), *self.buffers()))))",
        ),
    ),
    LIVE.mutant(
        "rebound_buffers_unseen",
        "result",
        "Only parameters are compared, running statistics are not.",
        (
            "key = (x.shape, self.gain, addresses(self))",
            "key = (x.shape, self.gain, tuple(p.data_ptr() for p in self.parameters()))",
        ),
    ),
    LIVE.mutant(
        "first_parameter_only_guarded",
        "result",
        "The address of the first parameter stands for all of them.",
        (
            "key = (x.shape, self.gain, addresses(self))",
            "key = (x.shape, self.gain, next(self.parameters()).data_ptr())",
        ),
    ),
    LIVE.mutant(
        "train_flag_missing",
        "result|state",
        "In training mode the graph of evaluation mode is replayed: running statistics do not move.",
        ("if self.training or torch.is_grad_enabled():", "if torch.is_grad_enabled():"),
    ),
    LIVE.mutant(
        "weights_folded_at_capture",
        "result",
        "Normalisation is folded into a copy of the weights when the graph is made; in-place updates are lost.",
        (
            "            static = x.clone()\n            self._graphs[key] = (static, *capture(lambda: self._run(static)))",
            "            static, gain = x.clone(), self.gain\n            scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()\n"
            "            shift = self.norm.bias - self.norm.running_mean * scale\n"
            "            self._graphs[key] = (static, *capture(lambda: (self.lift(static) * scale + shift) * gain), scale, shift)",
        ),
        (
            "        static, graph, out = self._graphs[key]\n",
            "        static, graph, out = self._graphs[key][:3]\n",
        ),
    ),
    CALLABLES,
    CALLABLES.mutant(
        "graphed_gradients_stolen",
        "gradients|state|result",
        "The first p.grad is the graph's static gradient itself, and the next replay overwrites what was accumulated.",
        ("                    p.register_hook(torch.clone)\n", "                    p.requires_grad_()\n"),
    ),
    CALLABLES.mutant(
        "graphed_callable_output_kept",
        "kept|result|aliasing",
        "The body's output is the static output of its graph, and the next call overwrites it.",
        ("hidden = self._call(x).clone()", "hidden = self._call(x)"),
    ),
    CALLABLES.mutant(
        "graphed_detached_body",
        "gradients|result",
        "The body is called without gradients, so its parameters never learn.",
        (
            "hidden = self._call(x).clone()",
            "hidden = self._call(x).detach().clone()",
        ),
    ),
    CALLABLES.mutant(
        "graphed_copy_of_the_body",
        "result|gradients",
        "What is graphed is a deep copy: it gets the gradients, and never the updates.",
        ("body = nn.Sequential(*self.body)", 'body = __import__("copy").deepcopy(self.body)'),
    ),
    MODES,
    MODES.mutant(
        "autocast_missing_in_key",
        "result",
        "A graph captured in full precision is replayed under autocast.",
        ("key = (x.shape, x.dtype, enabled, dtype, ", "key = (x.shape, x.dtype, "),
    ),
    MODES.mutant(
        "autocast_dtype_missing_in_key",
        "result",
        "float16 and bfloat16 autocast share a graph.",
        ("enabled, dtype, torch.is_inference", "enabled, torch.is_inference"),
    ),
    MODES.mutant(
        "grad_mode_ignored",
        "result",
        "Results of a replay carry no gradient where the caller asks for one.",
        ("        if torch.is_grad_enabled():\n            return self._run(x)\n", ""),
        ("            with torch.autocast(", "            with torch.no_grad(), torch.autocast("),
        (
            "return self._graphs[key](x).clone()",
            "with torch.no_grad():\n            return self._graphs[key](x).clone()",
        ),
    ),
    TABLE,
    TABLE.mutant(
        "captured_input_freed",
        "result",
        "Nothing holds the table after the capture: its memory is used for something else.",
        ("        return graph, static, out, table\n", "        return graph, static, out, None\n"),
        (
            "graph, out = capture(lambda: self._run(static, table))",
            "graph, out = capture(lambda: self._run(static, table))\n        table = None",
        ),
    ),
    TABLE.mutant(
        "static_input_freed",
        "result",
        "The static input is a temporary; copies go to another tensor.",
        (
            "static, table = x.clone(), self._table(x)\n        graph, out = capture(lambda: self._run(static, table))",
            "static, table = x.clone(), self._table(x)\n        graph, out = capture(lambda: self._run(static, table))\n        static = x.clone()",
        ),
    ),
    TABLE.mutant(
        "table_of_another_length",
        "result",
        "The table of the first length is kept for all: longer inputs broadcast or fail.",
        (
            "static, table = x.clone(), self._table(x)",
            'static = x.clone()\n        self._longest = max(getattr(self, "_longest", 0), len(x))\n        table = self._table(x.new_zeros(self._longest, x.shape[1]))[-len(x) :].clone()',
        ),
    ),
    CHAIN,
    CHAIN.mutant(
        "pool_replayed_out_of_order",
        "result",
        "The last graph is replayed first.",
        (
            "        for graph in graphs:\n            graph.replay()\n",
            "        for graph in reversed(graphs):\n            graph.replay()\n",
        ),
    ),
    LRU,
    LRU.mutant(
        "output_of_a_reset_graph",
        "kept|result|aliasing",
        "Outputs are handed out uncloned, and the graph they live in is reset when another shape comes.",
        ("ROOM = 5", "ROOM = 1"),
        ("return out.clone()", "return out"),
    ),
    LRU.mutant(
        "captured_again_for_ever",
        "graph growth",
        "The key under which a graph is stored is not the one it is looked up with: every call captures.",
        (
            "self._graphs.move_to_end(key)\n        return self._graphs[key]",
            "self._graphs.move_to_end(key)\n        self._graphs[key, len(self._graphs)] = entry = self._graphs.pop(key)\n        return entry",
        ),
        ("ROOM = 5", "ROOM = 5000"),
    ),
    HOOKED,
    HOOKED.mutant(
        "hook_lost_in_replay",
        "attributes|printed",
        "The hook runs while warming up and capturing, and never again.",
        ("nn.functional.linear(x, self.body.weight, self.body.bias)", "self.body(x)"),
        ("            self._call_hooks(x, out)\n", ""),
    ),
    HOOKED.mutant(
        "hook_never_called",
        "attributes|printed",
        "The module is taken apart and its hooks are forgotten.",
        ("            self._call_hooks(x, out)\n", ""),
    ),
    HOOKED.mutant(
        "print_lost",
        "printed",
        "Printing was taken for debugging and dropped from the replayed path.",
        (
            "            self._call_hooks(x, out)\n",
            "            self._call_hooks(x, out)\n            return out\n",
        ),
    ),
    HOOKED.mutant(
        "printed_with_other_number",
        "printed",
        "The number is printed before the hook has counted.",
        (
            "            self._call_hooks(x, out)\n",
            '            if verbose:\n                print(f"run {self.runs}: largest {out.max().item():.3f}")\n            self._call_hooks(x, out)\n            return out\n',
        ),
    ),
    LAYERS,
    LAYERS.mutant(
        "second_input_not_copied",
        "result",
        "The bias of the capture is used for ever.",
        ("    static_bias.copy_(bias)\n", ""),
    ),
    LAYERS.mutant(
        "output_left_in_float32",
        "result",
        "The result is not cast back.",
        ("    return h.to(x.dtype)\n\n\ndef _record", "    return h\n\n\ndef _record"),
    ),
    LAYERS.mutant(
        "other_approximation",
        "result",
        "The exact GELU stands for the tanh approximation.",
        ('F.gelu(x.float() + bias.float(), approximate="tanh")', "F.gelu(x.float() + bias.float())"),
    ),
    SETTING,
    SETTING.mutant(
        "setting_of_the_caller_baked",
        "result",
        "The strength at the first call stays, whatever the caller sets later.",
        ("self.strength, self.clip, addresses", "self.clip, addresses"),
    ),
    SETTING.mutant(
        "flag_of_the_caller_baked",
        "result",
        "The flag at the first call stays.",
        ("self.strength, self.clip, addresses", "self.strength, addresses"),
    ),
)
