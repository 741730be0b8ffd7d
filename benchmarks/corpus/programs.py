# ruff: noqa: E501  (lines of quoted programs)
"""Programs of other shapes: functions, objects, methods, closures, generators; nested inputs; what is said."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

H = TORCH + CAPTURE + ADDRESSES
HF = FUNCTIONAL + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'

FUNCTION_WITH_GLOBAL_CACHE = control(
    "function_with_global_cache",
    "capture",
    "A plain function keeps its graphs in the module; the weights are an argument and are copied in like any other.",
    'entry="program:score"\ninputs={x="float32[B, 8]", w="float32[8, 4]", temperature="float in 0.5..2.0"}\ndims={B=[1,5]}\n'
    + INF,
    TORCH
    + '''
def score(x, w, temperature):
    """Scores."""
    return torch.softmax(x @ w / temperature, -1)
''',
    H
    + '''
_GRAPHS = {}

def _run(x, w, t):
    return torch.softmax(x @ w / t, -1)

def score(x, w, temperature):
    """Scores."""
    if torch.is_grad_enabled():
        return _run(x, w, temperature)
    key = (tuple(x.shape), tuple(w.shape), x.dtype)
    if key not in _GRAPHS:
        sx, sw, st = x.clone(), w.clone(), torch.full((), temperature, device=x.device)
        _GRAPHS[key] = (sx, sw, st, *capture(lambda: _run(sx, sw, st)))
    sx, sw, st, graph, out = _GRAPHS[key]
    sx.copy_(x)
    sw.copy_(w)
    st.fill_(temperature)
    graph.replay()
    return out.clone()
''',
)

PLAIN_OBJECT_WITH_STATE = control(
    "plain_object_with_state",
    "state",
    "The object is no module; its public average is rebound after every replay.",
    'entry="program:Tracker"\ninit={alpha=0.25}\ninputs={x="float32[6]"}\ndims={}\n' + INF,
    TORCH
    + '''
class Tracker:
    """Exponential average kept on the object."""
    def __init__(self, alpha):
        self.alpha = alpha
        self.value = torch.zeros(6, device="cuda")
        self.count = 0

    def __call__(self, x):
        self.count += 1
        self.value = self.value * (1 - self.alpha) + x * self.alpha
        return x - self.value
''',
    H
    + '''
class Tracker:
    """Exponential average kept on the object."""
    def __init__(self, alpha):
        self.alpha = alpha
        self.value = torch.zeros(6, device="cuda")
        self.count = 0
        self._graph = None

    def _run(self):
        new = self._v * (1 - self.alpha) + self._x * self.alpha
        return new, self._x - new

    def __call__(self, x):
        self.count += 1
        if self._graph is None:
            self._x, self._v = x.clone(), self.value.clone()
            self._graph, self._out = capture(self._run)
        self._x.copy_(x)
        self._v.copy_(self.value)
        self._graph.replay()
        self.value = self._out[0].clone()
        return self._out[1].clone()
''',
)

METHOD_ENTRY = control(
    "method_entry",
    "state",
    "The target is a method; the hidden state is a buffer that is rebound to the result.",
    'entry="program:Decoder.step"\ninit={dim=8}\ninputs={x="float32[8]"}\ndims={}\n' + INF,
    TORCH
    + """
class Decoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.cell = nn.GRUCell(dim, dim)
        self.register_buffer("h", torch.zeros(1, dim))
    def step(self, x):
        self.h = self.cell(x[None], self.h)
        return self.h[0]
""",
    H
    + """
class Decoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.cell = nn.GRUCell(dim, dim)
        self.register_buffer("h", torch.zeros(1, dim))
        self._graphs = {}
    def _run(self, x, h):
        return self.cell(x[None], h)
    def step(self, x):
        if torch.is_grad_enabled():
            self.h = self._run(x, self.h)
            return self.h[0]
        key = tuple(t.data_ptr() for t in self.parameters())
        if key not in self._graphs:
            sx, sh = x.clone(), self.h.clone()
            self._graphs[key] = (sx, sh, *capture(lambda: self._run(sx, sh)))
        sx, sh, graph, out = self._graphs[key]
        sx.copy_(x)
        sh.copy_(self.h)
        graph.replay()
        self.h = out.clone()
        return self.h[0]
""",
)

FACTORY_CLOSURE = control(
    "factory_closure",
    "capture",
    "A factory gives a closure whose graphs and weights live in its cells.",
    'entry="program:make"\nfactory=true\ninit={dim=6}\ninputs={x="float32[B, 6]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
def make(dim):
    w = torch.linspace(-1, 1, dim * dim, device="cuda").view(dim, dim)
    def call(x):
        return torch.tanh(x @ w)
    return call
""",
    H
    + """
def make(dim):
    w = torch.linspace(-1, 1, dim * dim, device="cuda").view(dim, dim)
    graphs = {}
    def body(x):
        return torch.tanh(x @ w)
    def call(x):
        if torch.is_grad_enabled():
            return body(x)
        if x.shape not in graphs:
            static = x.clone()
            graphs[x.shape] = (static, *capture(lambda: body(static)))
        static, graph, out = graphs[x.shape]
        static.copy_(x)
        graph.replay()
        return out.clone()
    return call
""",
)

NESTED_INPUTS = control(
    "nested_inputs",
    "capture",
    "Dictionaries and lists of tensors are flattened into static buffers, some by one fused copy.",
    'entry="program:Fuse"\ninputs={batch={ids="int64[B, S] in 0..19", mask="bool[B, S]"}, feats=["float32[B, 4]","float32[B, 4]"]}\ndims={B=[1,3],S=[1,5]}\n'
    + INF,
    TORCH
    + """
class Fuse(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 4)
        self.out = nn.Linear(4, 2)
    def forward(self, batch, feats):
        e = self.emb(batch["ids"]) * batch["mask"].unsqueeze(-1)
        h = e.sum(1) / batch["mask"].sum(1, keepdim=True).clamp(min=1)
        for f in feats:
            h = h + f
        return {"logits": self.out(h), "pooled": h}
""",
    H
    + """
class Fuse(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 4)
        self.out = nn.Linear(4, 2)
        self._graphs = {}
    def _run(self, ids, mask, *feats):
        e = self.emb(ids) * mask.unsqueeze(-1)
        h = e.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        for f in feats:
            h = h + f
        return self.out(h), h
    def forward(self, batch, feats):
        args = (batch["ids"], batch["mask"], *feats)
        if torch.is_grad_enabled():
            logits, h = self._run(*args)
            return {"logits": logits, "pooled": h}
        key = (tuple(batch["ids"].shape), len(feats), addresses(self))
        if key not in self._graphs:
            statics = [a.clone() for a in args]
            self._graphs[key] = (statics, *capture(lambda: self._run(*statics)))
        statics, graph, (logits, h) = self._graphs[key]
        torch._foreach_copy_(statics[2:], list(args[2:]))
        for s, a in zip(statics[:2], args[:2]):
            s.copy_(a)
        graph.replay()
        return {"logits": logits.clone(), "pooled": h.clone()}
""",
)

LOGGING_KEPT = control(
    "logging_kept",
    "capture",
    "Log records and warnings are given in every call, outside the graph.",
    'entry="program:Logged"\ninputs={x="float32[B, 4]"}\ndims={B=[1,6]}\n' + INF,
    "import logging\nimport warnings\n"
    + TORCH
    + """
log = logging.getLogger(__name__)
class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        log.warning("call %d with %d rows", self.calls, x.shape[0])
        if x.shape[0] > 4:
            warnings.warn("large batch")
        return self.lin(x)
""",
    "import logging\nimport warnings\n"
    + H
    + """
log = logging.getLogger(__name__)
class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.calls = 0
        self._graphs = {}
    def forward(self, x):
        self.calls += 1
        log.warning("call %d with %d rows", self.calls, x.shape[0])
        if x.shape[0] > 4:
            warnings.warn("large batch")
        if torch.is_grad_enabled():
            return self.lin(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lin(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PRINTED_TO_STDERR = control(
    "printed_to_stderr",
    "capture",
    "A line on stderr is printed after the replay, from the tensor that the graph wrote.",
    'entry="program:Err"\ninputs={x="float32[3]"}\ndims={}\n' + INF,
    "import sys\n"
    + TORCH
    + """
class Err(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
    def forward(self, x):
        h = self.lin(x)
        print("mean", round(h.mean().item(), 3), file=sys.stderr)
        return h
""",
    "import sys\n"
    + H
    + """
class Err(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self._graphs = {}
    def _run(self, x):
        h = self.lin(x)
        return h, h.mean()
    def forward(self, x):
        if torch.is_grad_enabled():
            h, m = self._run(x)
        else:
            key = addresses(self)
            if key not in self._graphs:
                static = x.clone()
                self._graphs[key] = (static, *capture(lambda: self._run(static)))
            static, graph, (h, m) = self._graphs[key]
            static.copy_(x)
            graph.replay()
            h = h.clone()
        print("mean", round(m.item(), 3), file=sys.stderr)
        return h
""",
)

YIELDS_CHUNKS = control(
    "yields_chunks",
    "buffers",
    "A generator replays one graph for each piece and yields a copy.",
    'entry="program:Chunks"\ninputs={x="float32[B, 4]"}\ndims={B=[1,9]}\n' + INF,
    TORCH
    + """
class Chunks(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
    def forward(self, x):
        for part in x.split(4):
            yield self.lin(part)
""",
    H
    + """
class Chunks(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self._graphs = {}
    def forward(self, x):
        for part in x.split(4):
            if torch.is_grad_enabled():
                yield self.lin(part)
                continue
            key = addresses(self)
            if key not in self._graphs:
                static = x.new_zeros(4, 4)
                self._graphs[key] = (static, *capture(lambda: self.lin(static)))
            static, graph, out = self._graphs[key]
            static[: len(part)].copy_(part)
            graph.replay()
            yield out[: len(part)].clone()
""",
)

RETURNS_FLOATS_AND_NUMPY = control(
    "returns_floats_and_numpy",
    "buffers",
    "Numbers, lists and arrays are read after the replay.",
    'entry="program:Stats"\ninputs={x="float32[B, 4]"}\ndims={B=[1,6]}\n' + INF,
    TORCH
    + """
class Stats(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
    def forward(self, x):
        h = self.lin(x)
        return {"mean": h.mean().item(), "rows": h.sum(1).tolist(), "array": h.cpu().numpy(), "best": int(h.sum(0).argmax())}
""",
    H
    + """
class Stats(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self._graphs = {}
    def _run(self, x):
        h = self.lin(x)
        return h, h.mean(), h.sum(1), h.sum(0).argmax()
    def forward(self, x):
        if torch.is_grad_enabled():
            h, m, s, b = self._run(x)
        else:
            key = (tuple(x.shape), addresses(self))
            if key not in self._graphs:
                static = x.clone()
                self._graphs[key] = (static, *capture(lambda: self._run(static)))
            static, graph, (h, m, s, b) = self._graphs[key]
            static.copy_(x)
            graph.replay()
        return {"mean": m.item(), "rows": s.tolist(), "array": h.cpu().numpy(), "best": int(b)}
""",
)

STATIC_BUFFERS_REGISTERED = control(
    "static_buffers_registered",
    "buffers",
    "The static input and output are registered as buffers that are not saved.",
    'entry="program:Reg"\ninputs={x="float32[B, 4]"}\ndims={B=[1,8]}\n' + INF,
    TORCH
    + """
class Reg(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
    def forward(self, x):
        return torch.relu(self.lin(x))
""",
    H
    + """
class Reg(nn.Module):
    def __init__(self, most=8):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("static_in", torch.zeros(most, 4), persistent=False)
        self.register_buffer("static_out", torch.zeros(most, 4), persistent=False)
        self._graph = None
        self._owner = None
    def _run(self):
        self.static_out.copy_(torch.relu(self.lin(self.static_in)))
    def forward(self, x):
        if torch.is_grad_enabled():
            return torch.relu(self.lin(x))
        if self._owner != addresses(self):
            self._graph, _ = capture(self._run)
            self._owner = addresses(self)
        n = x.shape[0]
        self.static_in[:n].copy_(x)
        self._graph.replay()
        return self.static_out[:n].clone()
""",
)

HALF_SOFTMAX_PADDED_COLUMNS = control(
    "half_softmax_padded_columns",
    "padding",
    "Keys are padded with a mask that is written anew; their values are zeroed.",
    'entry="program:Attn"\ninputs={q="float16[H, 16]", k="float16[N, 16]", v="float16[N, 16]"}\ndims={H=4,N=[1,40]}\n'
    + INF,
    TORCH
    + """
class Attn(nn.Module):
    def forward(self, q, k, v):
        return torch.softmax((q @ k.T).float() / 4, -1).half() @ v
""",
    H
    + """
class Attn(nn.Module):
    def __init__(self):
        super().__init__()
        self._graphs = {}
    def _run(self, q, k, v, m):
        s = (q @ k.T).float() / 4
        return torch.softmax(s.masked_fill(~m, float("-inf")), -1).half() @ v.masked_fill(~m[:, None], 0)
    def forward(self, q, k, v):
        n = k.shape[0]
        if torch.is_grad_enabled():
            return self._run(q, k, v, torch.ones(n, dtype=torch.bool, device=q.device))
        size = max(8, 1 << (n - 1).bit_length())
        if size not in self._graphs:
            st = (q.clone(), k.new_zeros(size, 16), v.new_zeros(size, 16), torch.zeros(size, dtype=torch.bool, device=q.device))
            self._graphs[size] = (st, *capture(lambda: self._run(*st)))
        (sq, sk, sv, sm), graph, out = self._graphs[size]
        sq.copy_(q); sk[:n].copy_(k); sv[:n].copy_(v)
        sm.fill_(False); sm[:n].fill_(True)
        graph.replay()
        return out.clone()
""",
)

VIEW_OF_INPUT_RETURNED = control(
    "view_of_input_returned",
    "aliasing",
    "What the original returns of the caller's tensor stays a view of it.",
    'entry="program:Split"\ninputs={x="float32[B, 6]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
    def forward(self, x):
        a, b = x[:, :3], x[:, 3:]
        return a, self.lin(b)
""",
    H
    + """
class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self._graphs = {}
    def forward(self, x):
        a, b = x[:, :3], x[:, 3:]
        if torch.is_grad_enabled():
            return a, self.lin(b)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = b.clone()
            self._graphs[key] = (s, *capture(lambda: self.lin(s)))
        s, g, o = self._graphs[key]
        s.copy_(b)
        g.replay()
        return a, o.clone()
""",
)

OPTIMIZER_WITH_SCHEDULE = control(
    "optimizer_with_schedule",
    "training",
    "Gradients come from a graph; momentum SGD and its schedule run outside.",
    'entry="program:Trainer"\ninputs={x="float32[B, 6]", y="int64[B] in 0..2"}\ndims={B=[1,4]}\nmode="train"\ndevice="cuda"\n',
    FUNCTIONAL
    + """
class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.sched = torch.optim.lr_scheduler.StepLR(self.opt, 2, 0.5)
    @torch.enable_grad()
    def forward(self, x, y):
        self.opt.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.opt.step()
        self.sched.step()
        return loss.detach()
""",
    HF
    + """
class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.sched = torch.optim.lr_scheduler.StepLR(self.opt, 2, 0.5)
        self._graphs = {}
    def _grads(self, x, y):
        loss = F.cross_entropy(self.net(x), y)
        return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))
    @torch.enable_grad()
    def forward(self, x, y):
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            sx, sy = x.clone(), y.clone()
            self._graphs[key] = (sx, sy, *capture(lambda: self._grads(sx, sy)))
        sx, sy, g, (loss, grads) = self._graphs[key]
        sx.copy_(x); sy.copy_(y)
        g.replay()
        for p, d in zip(self.net.parameters(), grads):
            p.grad = d.clone()
        self.opt.step()
        self.sched.step()
        return loss.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    FUNCTION_WITH_GLOBAL_CACHE,
    FUNCTION_WITH_GLOBAL_CACHE.mutant(
        "weights_argument_frozen",
        "result",
        "The weights of the first call stay in the static buffer.",
        ("    sw.copy_(w)\n", ""),
    ),
    PLAIN_OBJECT_WITH_STATE,
    PLAIN_OBJECT_WITH_STATE.mutant(
        "count_forgotten_on_object",
        "attributes",
        "Calls are counted only when a graph is made.",
        (
            "        self.count += 1\n        if self._graph is None:",
            "        if self._graph is None:\n            self.count += 1",
        ),
    ),
    METHOD_ENTRY,
    METHOD_ENTRY.mutant(
        "hidden_state_of_first_step",
        "state|result|kept",
        "The hidden state of the first step is read for ever.",
        ("        sh.copy_(self.h)\n", ""),
    ),
    METHOD_ENTRY.mutant(
        "returned_state_is_a_copy",
        "aliasing|kept|state",
        "The original hands out a view of its state, the rewrite a copy.",
        (
            "        self.h = out.clone()\n        return self.h[0]\n",
            "        self.h = out.clone()\n        return out[0].clone()\n",
        ),
    ),
    FACTORY_CLOSURE,
    NESTED_INPUTS,
    NESTED_INPUTS.mutant(
        "nested_mask_not_copied",
        "result",
        "The mask of the first batch hides tokens of all others.",
        ("zip(statics[:2], args[:2])", "zip(statics[:1], args[:1])"),
    ),
    NESTED_INPUTS.mutant(
        "second_feature_not_copied",
        "result",
        "Only the first of two features is copied in.",
        (
            "torch._foreach_copy_(statics[2:], list(args[2:]))",
            "torch._foreach_copy_(statics[2:3], list(args[2:3]))",
        ),
    ),
    LOGGING_KEPT,
    LOGGING_KEPT.mutant(
        "log_line_lost",
        "printed",
        "The record of every call is gone.",
        (
            '        log.warning("call %d with %d rows", self.calls, x.shape[0])\n        if x.shape[0] > 4:\n            warnings.warn("large batch")\n        if torch',
            '        if x.shape[0] > 4:\n            warnings.warn("large batch")\n        if torch',
        ),
    ),
    LOGGING_KEPT.mutant(
        "warning_lost",
        "printed",
        "Large batches no longer warn.",
        ('        if x.shape[0] > 4:\n            warnings.warn("large batch")\n', ""),
    ),
    LOGGING_KEPT.mutant(
        "log_only_when_capturing",
        "printed",
        "The record is given when a graph is made and not when it is replayed.",
        ('        log.warning("call %d with %d rows", self.calls, x.shape[0])\n', ""),
        (
            "            static = x.clone()\n",
            '            static = x.clone()\n            log.warning("call %d with %d rows", self.calls, x.shape[0])\n',
        ),
    ),
    LOGGING_KEPT.mutant(
        "log_with_padded_rows",
        "printed",
        "The record names the padded number of rows.",
        ("self.calls, x.shape[0])", "self.calls, max(4, x.shape[0]))"),
    ),
    LOGGING_KEPT.mutant(
        "log_level_changed", "printed", "A warning became information.", ("log.warning(", "log.info(")
    ),
    PRINTED_TO_STDERR,
    PRINTED_TO_STDERR.mutant(
        "stderr_line_lost",
        "printed",
        "The line on stderr is gone.",
        ('        print("mean", round(m.item(), 3), file=sys.stderr)\n', ""),
    ),
    YIELDS_CHUNKS,
    YIELDS_CHUNKS.mutant(
        "yielded_views",
        "kept|result|aliasing",
        "All pieces are views of one static output.",
        ("yield out[: len(part)].clone()", "yield out[: len(part)]"),
    ),
    RETURNS_FLOATS_AND_NUMPY,
    RETURNS_FLOATS_AND_NUMPY.mutant(
        "floats_became_tensors",
        "result",
        "A Python float became a tensor.",
        ('"mean": m.item()', '"mean": m.cpu()'),
    ),
    RETURNS_FLOATS_AND_NUMPY.mutant(
        "floats_of_capture",
        "result",
        "The best column is taken from sums over rows.",
        ('"best": int(b)', '"best": int(s.argmax())'),
    ),
    STATIC_BUFFERS_REGISTERED,
    STATIC_BUFFERS_REGISTERED.mutant(
        "registered_buffers_saved",
        "state",
        "A static buffer is saved with the model.",
        (
            'self.register_buffer("static_out", torch.zeros(most, 4), persistent=False)',
            'self.register_buffer("static_out", torch.zeros(most, 4))',
        ),
    ),
    HALF_SOFTMAX_PADDED_COLUMNS,
    HALF_SOFTMAX_PADDED_COLUMNS.mutant(
        "half_mask_never_shrinks",
        "result",
        "After a longer set the mask still names its keys.",
        ("sm.fill_(False); ", ""),
    ),
    HALF_SOFTMAX_PADDED_COLUMNS.mutant(
        "half_values_not_masked",
        "result",
        "Padded keys weigh nothing, and nothing times a NaN left in their values is NaN.",
        ("v.masked_fill(~m[:, None], 0)", "v"),
    ),
    VIEW_OF_INPUT_RETURNED,
    VIEW_OF_INPUT_RETURNED.mutant(
        "view_became_a_copy",
        "aliasing|kept",
        "The part handed through is a copy: writing to it no longer reaches the input.",
        ("        return a, o.clone()", "        return a.clone(), o.clone()"),
    ),
    OPTIMIZER_WITH_SCHEDULE,
    OPTIMIZER_WITH_SCHEDULE.mutant(
        "schedule_not_advanced",
        "state|attributes",
        "The rate never falls.",
        ("        self.sched.step()\n", ""),
    ),
    OPTIMIZER_WITH_SCHEDULE.mutant(
        "momentum_lost",
        "state",
        "The optimizer forgets its momentum in every step.",
        ("        self.opt.step()\n", "        self.opt.state.clear()\n        self.opt.step()\n"),
    ),
    OPTIMIZER_WITH_SCHEDULE.mutant(
        "weight_decay_added",
        "state",
        "The optimizer decays weights a little.",
        ("lr=0.1, momentum=0.9)", "lr=0.1, momentum=0.9, weight_decay=1e-3)"),
    ),
    OPTIMIZER_WITH_SCHEDULE.mutant(
        "step_before_gradients",
        "state",
        "The step uses the gradients of the call before.",
        (
            "            p.grad = d.clone()\n        self.opt.step()\n",
            "            pass\n        self.opt.step()\n        for p, d in zip(self.net.parameters(), grads):\n            p.grad = d.clone()\n",
        ),
    ),
)
