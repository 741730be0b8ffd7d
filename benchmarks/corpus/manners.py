# ruff: noqa: E501  (lines of quoted programs)
"""What a call leaves behind and hands out: flags, containers, defaults, hooks, order, devices, ties of weights."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

INF = 'mode = "inference"\n'
PLAIN = FUNCTIONAL

FLAGS = control(
    "grad_mode_given_back",
    "state",
    "Features are computed without gradients; the mode of the caller is back afterwards.",
    'entry = "program:Probe"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 6] }\nmode = "eval"\n',
    PLAIN
    + """
class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        with torch.no_grad():
            h = torch.relu(self.trunk(x))
        return self.head(h)
""",
    PLAIN
    + """
class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            h = torch.addmm(self.trunk.bias, x, self.trunk.weight.t()).clamp_min(0)
        finally:
            torch._C._set_grad_enabled(before)
        return self.head(h)
""",
)

BANK = control(
    "callers_container_left_alone",
    "aliasing",
    "Optional entries of the dict that a caller passes are looked up; the dict stays his.",
    'entry = "program:Join"\ninputs = { batch = { x = "float32[B, 6]", bias = "float32[6]" }, parts = ["float32[B, 6]", "float32[B, 6]"] }\ndims = { B = [1, 5] }\n',
    PLAIN
    + """
class Join(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, batch, parts):
        y = self.lift(batch["x"]) + batch["bias"]
        for part in parts:
            y = y + torch.tanh(part)
        return {"y": y, "norm": y.square().sum(-1)}
""",
    PLAIN
    + """
class Join(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, batch, parts):
        batch, parts = dict(batch), list(parts)
        y = self.lift(batch["x"]) + batch.pop("bias")
        while parts:
            y = y + parts.pop(0).tanh()
        return {"y": y, "norm": (y * y).sum(-1)}
""",
)

DEFAULTS = control(
    "default_argument_made_anew",
    "state",
    "Steps without a history start from an empty one.",
    'entry = "program:Trail"\ninputs = { x = "float32[4]", again = "int in 0..3" }\ndims = {}\n',
    PLAIN
    + """
class Trail(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 4))
    def walk(self, x, again, seen=None):
        seen = [] if seen is None else seen
        for k in range(again + 1):
            seen.append(torch.sin(x * self.w + k))
        return seen
    def forward(self, x, again):
        return torch.stack(self.walk(x, again)).mean(0)
""",
    PLAIN
    + """
class Trail(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 4))
    def walk(self, x, again, seen=()):
        seen = list(seen)
        angle = x * self.w
        seen.extend((angle + k).sin() for k in range(again + 1))
        return seen
    def forward(self, x, again):
        found = self.walk(x, again)
        return torch.stack(found).mean(0)
""",
)

HOOKED = control(
    "forward_hooks_still_called",
    "capture",
    "A hook of the block clips what it returns; the graph is captured around the block's call.",
    'entry = "program:Clipped"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 4] }\n',
    TORCH
    + """
def clip(module, args, output):
    return output.clamp(-0.75, 0.75)

class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.block.register_forward_hook(clip)
        self.head = nn.Linear(8, 2)
    def forward(self, x):
        return self.head(self.block(x))
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """
def clip(module, args, output):
    return output.clamp(-0.75, 0.75)

class Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.block.register_forward_hook(clip)
        self.head = nn.Linear(8, 2)
        self._graphs = {}
    def forward(self, x):
        if torch.is_grad_enabled():
            return self.head(self.block(x))
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.head(self.block(static))))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

TIED = control(
    "tied_weights_stay_tied",
    "training",
    "The decoder uses the embedding's own weight.",
    'entry = "program:Tied"\ninputs = { ids = "int64[B, 5] in 0..11" }\ndims = { B = [1, 3] }\nmode = "train"\n',
    PLAIN
    + """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.mix = nn.Linear(6, 6)
        self.decode = nn.Linear(6, 12, bias=False)
        self.decode.weight = self.embed.weight
    def forward(self, ids):
        return self.decode(torch.tanh(self.mix(self.embed(ids))))
""",
    PLAIN
    + """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.mix = nn.Linear(6, 6)
        self.decode = nn.Linear(6, 12, bias=False)
        self.decode.weight = self.embed.weight
    def forward(self, ids):
        h = self.embed.weight.index_select(0, ids.reshape(-1)).view(*ids.shape, 6)
        h = torch.tanh(self.mix(h))
        return F.linear(h, self.decode.weight)
""",
)

FROZEN = control(
    "frozen_statistics_in_training",
    "state",
    "The normalisation stays in evaluation mode whatever the module is switched to.",
    'entry = "program:Finetuned"\ninputs = { x = "float32[6, 4]" }\ndims = {}\nmode = "train"\n',
    PLAIN
    + """
class Finetuned(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.train()
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self
    def forward(self, x):
        return self.head(self.norm(x))
""",
    PLAIN
    + """
class Finetuned(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.train()
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self
    def forward(self, x):
        n = self.norm
        scale = n.weight / torch.sqrt(n.running_var + n.eps)
        return self.head((x - n.running_mean) * scale + n.bias)
""",
)

PLACED = control(
    "count_stays_on_the_device",
    "buffers",
    "The number of positive rows is returned as a tensor where the input is.",
    'entry = "program:Count"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 6] }\n',
    PLAIN
    + """
class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Linear(4, 1)
    def forward(self, x):
        score = self.w(x).squeeze(-1)
        return score, (score > 0).sum(), torch.full((2,), 0.5, device=x.device)
""",
    PLAIN
    + """
class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Linear(4, 1)
        self._half = {}
    def forward(self, x):
        score = self.w(x)[:, 0]
        if x.device not in self._half:
            with torch.inference_mode(False):
                self._half[x.device] = torch.full((2,), 0.5, device=x.device)
        return score, score.gt(0).count_nonzero(), self._half[x.device].clone()
""",
)

LAZY = control(
    "constant_for_every_dtype",
    "buffers",
    "A table is built when it is first needed, once for each type, and is no part of the state.",
    'entry = "program:Scaled"\ninputs = { x = "float32[B, 6]", low = "bool" }\ndims = { B = [1, 3] }\n',
    PLAIN
    + """
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Parameter(torch.rand(6) + 0.5)
    def forward(self, x, low):
        y = x.to(torch.float16) if low else x
        ramp = torch.linspace(0.1, 1.0, 6, device=x.device, dtype=y.dtype)
        return y * ramp + self.base.to(y.dtype)
""",
    PLAIN
    + """
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Parameter(torch.rand(6) + 0.5)
    def ramp(self, like):
        name = "ramp_" + str(like.dtype).partition(".")[2]
        if name not in self._buffers:
            with torch.inference_mode(False):
                made = torch.linspace(0.1, 1.0, 6, device=like.device, dtype=like.dtype)
            self.register_buffer(name, made, persistent=False)
        return self._buffers[name]
    def forward(self, x, low):
        y = x.to(torch.float16) if low else x
        return y * self.ramp(y) + self.base.to(y.dtype)
""",
)

ERRORS = control(
    "own_exception_kept",
    "state",
    "A level that the table lacks is refused with the program's own error.",
    'entry = "program:Levels"\ninputs = { x = "float32[3]", level = "int in 0..6" }\ndims = {}\n',
    PLAIN
    + """
class NoLevel(IndexError):
    pass

class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.gains = [0.5, 1.0, 2.0, 4.0]
        self.refused = 0
    def forward(self, x, level):
        try:
            gain = self.gains[level]
        except IndexError:
            self.refused += 1
            raise NoLevel(f"there is no level {level}") from None
        return x * gain
""",
    PLAIN
    + """
class NoLevel(IndexError):
    pass

class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.gains = [0.5, 1.0, 2.0, 4.0]
        self.refused = 0
    def forward(self, x, level):
        if level < 4:
            return x.mul(self.gains[level])
        self.refused += 1
        raise NoLevel(f"there is no level {level}")
""",
)

WRAPPED = control(
    "wrapped_model_passes_attributes_on",
    "capture",
    "A wrapper replays a graph and is in all else the module that it wraps.",
    'entry = "program:build"\nfactory = true\ninputs = { x = "float32[B, 5]" }\ndims = { B = [1, 4] }\n',
    TORCH
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 5
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 2)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Server(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
        self.width = self.net.width
    def forward(self, x):
        return self.net(x)

def build():
    return Server()
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 5
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 2)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Fast:
    def __init__(self, module):
        self._module, self._graphs = module, {}
    def __getattr__(self, name):
        return getattr(self.__dict__["_module"], name)
    def __call__(self, x):
        module = self._module
        if torch.is_grad_enabled():
            return module(x)
        key = (x.shape, addresses(module))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: module(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()

class Server(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
        self._fast = Fast(self.net)
        self.width = self._fast.width
    def forward(self, x):
        return self._fast(x)

def build():
    return Server()
""",
)

PROGRESS = control(
    "progress_shown_less_often",
    "state",
    "Progress on one line of the terminal, redrawn now and then; it ends with the same text.",
    'entry = "program:Denoise"\ninputs = { x = "float32[4]", steps = "int in 1..6" }\ndims = {}\n',
    "\nimport sys\n"
    + TORCH
    + CAPTURE
    + """
class Denoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = 0.9
    def forward(self, x, steps):
        for k in range(steps):
            x = torch.tanh(x) * 0.9 + 0.01
            print(f"\\r{k + 1}/{steps}", end="", file=sys.stderr)
        print(file=sys.stderr)
        print("done after", steps)
        return x
""",
    "\nimport sys\n"
    + TORCH
    + CAPTURE
    + """
class Denoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = 0.9
        self._graph = None
    def forward(self, x, steps):
        if self._graph is None:
            static = x.clone()
            def step():
                return torch.tanh(static) * 0.9 + 0.01
            self._graph = (static, *capture(step))
        static, graph, out = self._graph
        static.copy_(x)
        for k in range(steps):
            graph.replay()
            static.copy_(out)
            if k % 2 == 1 or k + 1 == steps:
                print(f"\\r{k + 1}/{steps}", end="", file=sys.stderr)
        print(file=sys.stderr)
        print("done after", steps)
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    FLAGS,
    FLAGS.mutant(
        "grad_mode_left_off",
        "result|flags",
        "Gradients stay off for the caller as well.",
        ("torch._C._set_grad_enabled(before)", "pass"),
    ),
    FLAGS.mutant(
        "precision_left_lowered",
        "flags|result",
        "Matrix products of the whole process are of lower precision from now on.",
        (
            "        before = torch",
            '        torch.set_float32_matmul_precision("high")\n        before = torch',
        ),
    ),
    FLAGS.mutant(
        "head_without_gradients",
        "result",
        "The head is computed without gradients too: its result requires none.",
        ("return self.head(h)", "return self.head(h).detach()"),
    ),
    BANK,
    BANK.mutant(
        "callers_dict_loses_a_key",
        "inputs",
        "The bias is taken out of the caller's own dict.",
        ("batch, parts = dict(batch), list(parts)", "parts = list(parts)"),
    ),
    BANK.mutant(
        "callers_list_is_emptied",
        "inputs",
        "The parts are taken out of the caller's own list.",
        ("batch, parts = dict(batch), list(parts)", "batch = dict(batch)"),
    ),
    DEFAULTS,
    DEFAULTS.mutant(
        "default_argument_grows",
        "result",
        "One list is the default of every call.",
        ("seen=()", "seen=[]"),
        ("        seen = list(seen)\n", ""),
    ),
    HOOKED,
    HOOKED.mutant(
        "forward_hook_bypassed",
        "result",
        "The block's forward is called, not the block: its hook does not run.",
        (
            "capture(lambda: self.head(self.block(static)))",
            "capture(lambda: self.head(self.block.forward(static)))",
        ),
    ),
    TIED,
    TIED.mutant(
        "tied_weight_copied",
        "gradients|state",
        "The decoder starts with a copy of the weight and goes its own way.",
        (
            "self.decode.weight = self.embed.weight",
            "self.decode.weight = nn.Parameter(self.embed.weight.detach().clone())",
        ),
    ),
    FROZEN,
    FROZEN.mutant(
        "frozen_switched_to_training",
        "attributes|result|state",
        "The override of train is gone: the statistics are those of the batch.",
        ("        self.norm.eval()\n", ""),
    ),
    PLACED,
    PLACED.mutant(
        "constant_output_on_the_host",
        "result",
        "The constant comes back on the CPU.",
        (
            "return score, score.gt(0).count_nonzero(), self._half[x.device].clone()",
            "return score, score.gt(0).count_nonzero(), torch.full((2,), 0.5)",
        ),
    ),
    PLACED.mutant(
        "constant_output_shared",
        "kept|result|aliasing",
        "Every call hands out the same constant, which a caller may write into.",
        ("self._half[x.device].clone()", "self._half[x.device]"),
    ),
    LAZY,
    LAZY.mutant(
        "constant_of_the_first_dtype",
        "result",
        "One table, of the type of the call that came first.",
        ('"ramp_" + str(like.dtype).partition(".")[2]', '"ramp_"'),
    ),
    LAZY.mutant(
        "lazy_constant_saved",
        "state",
        "After the first call the table is in the state_dict.",
        ("persistent=False", "persistent=True"),
    ),
    ERRORS,
    ERRORS.mutant(
        "own_exception_became_its_base",
        "exception",
        "The base class of the program's own error is raised.",
        ('raise NoLevel(f"there', 'raise IndexError(f"there'),
    ),
    WRAPPED,
    WRAPPED.mutant(
        "wrapper_is_a_second_owner",
        "state",
        "The wrapper is a module that registers the wrapped one again: the state has every key twice.",
        ("class Fast:", "class Fast(nn.Module):"),
        (
            "self._module, self._graphs = module, {}",
            "super().__init__()\n        self._module, self._graphs = module, {}",
        ),
        (
            'return getattr(self.__dict__["_module"], name)',
            'modules = self.__dict__.get("_modules") or {}\n        if name in modules:\n            return modules[name]\n        return getattr(modules["_module"], name)',
        ),
    ),
    WRAPPED.mutant(
        "parts_defined_in_other_order",
        "state",
        "The layers change places in the constructor: state_dict lists them in another order.",
        (
            "        self.a = nn.Linear(5, 5)\n        self.b = nn.Linear(5, 2)\n",
            "        self.b = nn.Linear(5, 2)\n        self.a = nn.Linear(5, 5)\n",
        ),
    ),
    PROGRESS,
    PROGRESS.mutant(
        "progress_ends_early",
        "printed",
        "The last step is not shown when their number is odd.",
        ("k % 2 == 1 or k + 1 == steps", "k % 2 == 1"),
    ),
    PROGRESS.mutant(
        "lines_in_other_order",
        "printed",
        "The summary comes before the line is ended, on the same stream.",
        (
            '        print(file=sys.stderr)\n        print("done after", steps)\n',
            '        print("done after", steps, file=sys.stderr)\n        print(file=sys.stderr)\n',
        ),
    ),
)
