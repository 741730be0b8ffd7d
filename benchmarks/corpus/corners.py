# ruff: noqa: E501  (lines of quoted programs)
"""Corners: whose object comes back, generators kept apart, last places of constants, memory between calls."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL

INF = 'mode = "inference"\ndevice = "cuda"\n'
TRAIN = 'mode = "train"\ndevice = "cuda"\n'
H = FUNCTIONAL + CAPTURE + ADDRESSES

BACK = control(
    "callers_objects_come_back",
    "aliasing",
    "The caller's dict comes back with a result in it, and his tensor, cleared in place, as itself.",
    'entry = "program:Net"\ninputs = { batch = { x = "float32[B, 4]" }, state = "float32[4]" }\ndims = { B = [1, 3] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, batch, state):
        batch["y"] = self.lift(batch["x"]) + state
        return batch
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, batch, state):
        key = (batch["x"].shape, addresses(self))
        if key not in self._graphs:
            held = (batch["x"].clone(), state.clone())
            self._graphs[key] = (held, *capture(lambda: self.lift(held[0]) + held[1]))
        held, graph, out = self._graphs[key]
        held[0].copy_(batch["x"])
        held[1].copy_(state)
        graph.replay()
        batch["y"] = out.clone()
        return batch
""",
)

ITSELF = control(
    "changed_tensor_comes_back_itself",
    "aliasing",
    "The caller's tensor is halved in place and handed back.",
    'entry = "program:fade"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n' + INF,
    FUNCTIONAL
    + """
def fade(x):
    x.mul_(0.5).sub_(x.mean())
    return x
""",
    FUNCTIONAL
    + CAPTURE
    + """
_graphs = {}

def fade(x):
    if x.shape not in _graphs:
        static = x.clone()
        _graphs[x.shape] = (static, *capture(lambda: static * 0.5 - (static * 0.5).mean()))
    static, graph, out = _graphs[x.shape]
    static.copy_(x)
    graph.replay()
    x.copy_(out)
    return x
""",
)

KEPT_RANDOM = control(
    "agents_own_generator",
    "rng",
    "An agent explores by a generator of its own, which anyone may look at; what it explores comes from the graph.",
    'entry = "program:Agent.act"\ninputs = { x = "float32[4]" }\ndims = {}\n' + INF,
    "import random\n"
    + FUNCTIONAL
    + """
class Agent:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda")
        self.random = random.Random(7)
    def act(self, x):
        values = self.net(x)
        if self.random.random() < 0.3:
            return torch.full((), self.random.randrange(3), device=x.device), values
        return values.argmax(), values
""",
    "import random\n"
    + FUNCTIONAL
    + CAPTURE
    + """
class Agent:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda")
        self.random = random.Random(7)
        self._graph = None
    def _run(self):
        values = self.net(self._x)
        return values.argmax(), values
    def act(self, x):
        if self._graph is None:
            self._x = x.clone()
            self._graph, (self._best, self._values) = capture(self._run)
        self._x.copy_(x)
        self._graph.replay()
        if self.random.random() < 0.3:
            return torch.full((), self.random.randrange(3), device=x.device), self._values.clone()
        return self._best.clone(), self._values.clone()
""",
)

ROOT = control(
    "norm_with_an_epsilon_in_single_precision",
    "numerics",
    "Rows of ordinary size are divided by their root mean square.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 64] in 1.0..2.0" }\ndims = { B = [1, 8] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 64))
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight * 2**0.5
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 64))
        self._graphs = {}
    def _run(self, x):
        scale = ((x * x).sum(-1, keepdim=True) / 64 + 1e-5).rsqrt()
        return x * (scale * 1.4142135623730951) * self.weight
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

SCHEDULED = control(
    "closure_with_a_schedule",
    "training",
    "A function trains by an optimizer and a schedule in its closure; the rate is a tensor that the graph reads.",
    'entry = "program:make_step"\nfactory = true\ninputs = { x = "float32[4, 3]" }\ndims = {}\n' + TRAIN,
    FUNCTIONAL
    + """
def make_step():
    model = nn.Linear(3, 2).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    @torch.enable_grad()
    def step(x):
        loss = model(x.detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.detach()
    return step
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + """
def make_step():
    model = nn.Linear(3, 2).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    held = {}
    def whole():
        loss = model(held["x"]).square().mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads):
                p.sub_(held["rate"] * g)
        return loss.detach(), grads
    @torch.enable_grad()
    def step(x):
        if not held:
            held.update(x=x.detach().clone(), rate=torch.full((), 0.1, device=x.device))
            held["step"] = capture_step(whole, list(model.parameters()))
        graph, (loss, grads) = held["step"]
        held["x"].copy_(x.detach())
        held["rate"].fill_(optimizer.param_groups[0]["lr"])
        graph.replay()
        for p, g in zip(model.parameters(), grads):
            p.grad = g.clone()
        optimizer._opt_called = True
        schedule.step()
        return loss.clone()
    return step
""",
)

LAZY = control(
    "tokens_given_out_one_by_one",
    "buffers",
    "A generator gives out one result after another, each for its caller to keep.",
    'entry = "program:Net.stream"\ninputs = { x = "float32[4]", steps = "int in 0..4" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def stream(self, x, steps):
        for k in range(steps):
            x = torch.tanh(self.lift(x)) + k
            yield {"step": k, "x": x}
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def stream(self, x, steps):
        key = addresses(self)
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: torch.tanh(self.lift(static))))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        for k in range(steps):
            graph.replay()
            static.copy_(out + k)
            yield {"step": k, "x": static.clone()}
""",
)

MASKED = control(
    "mask_cut_to_the_rows_below",
    "branches",
    "Queries at the end of a longer list of keys see those up to their own place.",
    'entry = "program:Net"\ninputs = { q = "float32[Q, 6]", k = "float32[K, 6]" }\ndims = { Q = [1, 3], K = [3, 7] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def forward(self, q, k):
        seen = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        return F.scaled_dot_product_attention(q[None], k[None], k[None], attn_mask=seen)[0]
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._graphs = {}
    def _run(self, q, k):
        places = torch.arange(len(k) - len(q), len(k), device=q.device)
        seen = torch.arange(len(k), device=q.device) <= places[:, None]
        return F.scaled_dot_product_attention(q[None], k[None], k[None], attn_mask=seen)[0]
    def forward(self, q, k):
        key = (q.shape, k.shape)
        if key not in self._graphs:
            held = (q.clone(), k.clone())
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        held, graph, out = self._graphs[key]
        held[0].copy_(q)
        held[1].copy_(k)
        graph.replay()
        return out.clone()
""",
)

SPARSE = control(
    "few_entries_of_a_matrix",
    "numerics",
    "A product with a sparse matrix of twelve entries adds what is there, and nothing where nothing is.",
    'entry = "program:Net"\ninputs = { x = "float32[6, 3]", values = "float32[12]" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.arange(12) % 5, persistent=False)
        self.register_buffer("columns", torch.arange(12) * 5 % 6, persistent=False)
    def forward(self, x, values):
        out = x.new_zeros(5, 3)
        for r, c, v in zip(self.rows, self.columns, values):
            out[r] += v * x[c]
        return out
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.arange(12) % 5, persistent=False)
        self.register_buffer("columns", torch.arange(12) * 5 % 6, persistent=False)
        self._graphs = {}
    def _run(self, x, values):
        return x.new_zeros(5, 3).index_add(0, self.rows, values[:, None] * x[self.columns])
    def forward(self, x, values):
        key = addresses(self)
        if key not in self._graphs:
            held = (x.clone(), values.clone())
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        held, graph, out = self._graphs[key]
        held[0].copy_(x)
        held[1].copy_(values)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    BACK,
    BACK.mutant(
        "another_dict_comes_back",
        "inputs|aliasing",
        "A new dict comes back; the caller's has the result as well.",
        ("        return batch", "        return dict(batch)"),
    ),
    BACK.mutant(
        "callers_dict_stays_as_it_was",
        "inputs",
        "The caller's dict is left alone.",
        (
            '        batch["y"] = out.clone()\n        return batch',
            '        return {**batch, "y": out.clone()}',
        ),
    ),
    ITSELF,
    ITSELF.mutant(
        "changed_tensor_comes_back_as_a_view",
        "aliasing",
        "A view of the caller's tensor comes back.",
        ("    return x", "    return x.view_as(x)"),
    ),
    ITSELF.mutant(
        "changed_tensor_comes_back_detached",
        "aliasing",
        "Another object over the same memory comes back.",
        ("    return x", "    return x.detach()"),
    ),
    KEPT_RANDOM,
    KEPT_RANDOM.mutant(
        "explores_by_one_draw",
        "attributes|result|random",
        "The action is drawn whether it is needed or not.",
        (
            "        if self.random.random() < 0.3:\n            return torch.full((), self.random.randrange(3)",
            "        explores, action = self.random.random() < 0.3, self.random.randrange(3)\n        if explores:\n            return torch.full((), action",
        ),
    ),
    KEPT_RANDOM.mutant(
        "explores_by_everybodys_generator",
        "random|result|attributes",
        "The module's functions draw from the generator of the process.",
        ("        if self.random.random() < 0.3:", "        if random.random() < 0.3:"),
    ),
    ROOT,
    ROOT.mutant(
        "epsilon_of_another_norm",
        "result",
        "The epsilon is that of another model.",
        ("/ 64 + 1e-5)", "/ 64 + 1e-6)"),
    ),
    ROOT.mutant(
        "root_with_six_digits",
        "result",
        "The root of two is typed with six digits.",
        ("1.4142135623730951", "1.41421"),
    ),
    ROOT.mutant(
        "epsilon_left_out",
        "result",
        "Rows are large enough to do without the epsilon.",
        ("/ 64 + 1e-5)", "/ 64)"),
    ),
    SCHEDULED,
    SCHEDULED.mutant(
        "closures_rate_of_the_first_step",
        "attributes|result",
        "The rate is not filled in again.",
        ('        held["rate"].fill_(optimizer.param_groups[0]["lr"])\n', ""),
    ),
    LAZY,
    LAZY.mutant(
        "given_out_one_and_the_same",
        "result|aliasing",
        "Every token is the static input.",
        ('"x": static.clone()}', '"x": static}'),
    ),
    LAZY.mutant(
        "given_out_all_at_once",
        "result",
        "A list comes back that ends one early.",
        ("range(steps)", "range(max(steps - 1, 0))"),
    ),
    MASKED,
    MASKED.mutant(
        "mask_cut_to_the_rows_above",
        "result",
        "The mask is laid at the upper left.",
        ("torch.arange(len(k) - len(q), len(k), device=q.device)", "torch.arange(len(q), device=q.device)"),
    ),
    MASKED.mutant(
        "mask_without_the_own_place",
        "result",
        "A query does not see its own place, unless it is the first.",
        ("<= places[:, None]", "< places[:, None].clamp(min=1)"),
    ),
    SPARSE,
    SPARSE.mutant(
        "nothing_times_what_is_not_finite",
        "result",
        "The matrix is written out: zero times infinity is NaN.",
        (
            "return x.new_zeros(5, 3).index_add(0, self.rows, values[:, None] * x[self.columns])",
            "return x.new_zeros(5, 6).index_put((self.rows, self.columns), values, accumulate=True) @ x",
        ),
    ),
    SPARSE.mutant(
        "entries_replace_each_other",
        "result",
        "Of two entries at one place the last counts.",
        (
            "return x.new_zeros(5, 3).index_add(0, self.rows, values[:, None] * x[self.columns])",
            "return torch.stack([values[r : r + 1] * x.index_select(0, self.columns[r : r + 1])[0] for r in range(5)])",
        ),
    ),
)
