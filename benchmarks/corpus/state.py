# ruff: noqa: E501  (lines of quoted programs)
"""State between calls: caches, counters, buffers, and what belongs to which instance."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, GRAPH, TORCH

RING = control(
    "ring_cache_on_device",
    "state",
    "The cache grown by cat became a ring with its position on the device; unused slots are masked.",
    """
entry  = "program:Window"
inputs = { x = "float32[8]", reset = "bool" }
dims   = {}
""",
    TORCH
    + '''

class Window(nn.Module):
    """Attention over the last six vectors."""

    def __init__(self, dim=8, room=6):
        super().__init__()
        self.room = room
        self.kv = nn.Linear(dim, 2 * dim)
        self._past = None

    def forward(self, x, reset):
        if reset or self._past is None:
            self._past = x.new_zeros(0, 2 * x.shape[-1])
        self._past = torch.cat([self._past, self.kv(x)[None]])[-self.room :]
        k, v = self._past.chunk(2, -1)
        return (k @ x / 3).softmax(0) @ v
''',
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + '''

class Window(nn.Module):
    """Attention over the last six vectors."""

    def __init__(self, dim=8, room=6):
        super().__init__()
        self.room = room
        self.kv = nn.Linear(dim, 2 * dim)
        self._graph = None
        self._owner = None
        self._used = 0

    def _step(self):
        self._ring.index_copy_(0, self._at, self.kv(self._x)[None])
        empty = torch.arange(self.room, device=self._ring.device) >= self._filled
        k, v = self._ring.chunk(2, -1)
        weights = (k @ self._x / 3).masked_fill(empty, float("-inf")).softmax(0)
        return weights @ v

    def forward(self, x, reset):
        if self._graph is None:
            self._x = x.clone()
            self._ring = x.new_zeros(self.room, 2 * x.shape[0])
            self._at = torch.zeros(1, dtype=torch.int64, device=x.device)
            self._filled = torch.ones(1, dtype=torch.int64, device=x.device)
        if self._owner != addresses(self):
            self._graph, self._out = capture_step(self._step, [self._ring])
            self._owner = addresses(self)
        if reset:
            self._used = 0
            self._ring.zero_()
        self._x.copy_(x)
        self._at.fill_(self._used % self.room)
        self._used += 1
        self._filled.fill_(min(self._used, self.room))
        self._graph.replay()
        return self._out.clone()
''',
)

EMA = control(
    "buffer_updated_in_graph",
    "state",
    "The running mean is written in place inside the graph, and put back after warmup.",
    """
entry  = "program:Centre"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Centre(nn.Module):
    """Subtracts a running mean, which it updates in every call."""

    def __init__(self, dim=6):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        h = self.lift(x)
        self.mean.lerp_(h.detach().mean(0), 0.1)
        self.seen += 1
        return h - self.mean
''',
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + '''

class Centre(nn.Module):
    """Subtracts a running mean, which it updates in every call."""

    def __init__(self, dim=6):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._graphs = {}

    def _run(self, x):
        h = self.lift(x)
        self.mean.lerp_(h.detach().mean(0), 0.1)
        self.seen += 1
        return h - self.mean

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture_step(lambda: self._run(static), [self.mean, self.seen]))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
''',
)

SCHEDULE = control(
    "counter_outside_gain_on_device",
    "state",
    "The counter is advanced in Python and its gain goes to the device before each replay.",
    """
entry  = "program:WarmGain"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class WarmGain(nn.Module):
    """The gain grows over the first eight calls; every call is remembered in a short history."""

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.calls = 0
        self.history = []

    def forward(self, x):
        self.calls += 1
        self.history = [*self.history[-2:], x.shape[0]]
        return self.lift(x) * min(1.0, self.calls / 8)
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class WarmGain(nn.Module):
    """The gain grows over the first eight calls; every call is remembered in a short history."""

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.calls = 0
        self.history = []
        self._graphs = {}

    def _run(self, x, gain):
        return self.lift(x) * gain

    def forward(self, x):
        self.calls += 1
        self.history = [*self.history[-2:], x.shape[0]]
        gain = min(1.0, self.calls / 8)
        if torch.is_grad_enabled():
            return self._run(x, gain)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static, factor = x.clone(), x.new_full((), gain)
            self._graphs[key] = (static, factor, *capture(lambda: self._run(static, factor)))
        static, factor, graph, out = self._graphs[key]
        static.copy_(x)
        factor.fill_(gain)
        graph.replay()
        return out.clone()
''',
)

SHARED = control(
    "module_level_cache_by_owner",
    "state",
    "The cache is global, and its key has the addresses of the instance's parameters.",
    """
entry  = "program:Probe"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 3] }
""",
    TORCH
    + """

class Probe(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

GRAPHS = {}


class Probe(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, 2)

    def _run(self, x):
        return self.second(torch.tanh(self.first(x)))

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (id(self), x.shape, addresses(self))
        if key not in GRAPHS:
            GRAPHS[key] = Graph(self._run, x)
        return GRAPHS[key](x).clone()
""",
)

COPIED = control(
    "deepcopy_starts_without_graphs",
    "state",
    "A copy of the module has no graphs: they would read the parameters of the original.",
    """
entry  = "program:Student"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 3] }
vary   = ["deepcopy"]
""",
    TORCH
    + """

class Student(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x):
        return x + self.net(x)
""",
    TORCH
    + GRAPH
    + """

class Student(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self._graphs = {}

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_graphs"] = {}
        return state

    def _run(self, x):
        return x + self.net(x)

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        where = tuple(p.data_ptr() for p in self.parameters())
        key = (x.shape, where)
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x)
        return self._graphs[key](x).clone()
""",
)

NORM = control(
    "batchnorm_running_statistics",
    "state",
    "In training mode the graph updates the statistics in place; what warmup did to them is taken back.",
    """
entry  = "program:Normed"
inputs = { x = "float32[B, 6]" }
dims   = { B = [2, 5] }
""",
    TORCH
    + """

class Normed(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim, momentum=0.2)

    def forward(self, x):
        return torch.relu(self.norm(self.lift(x)))
""",
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + """

class Normed(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim, momentum=0.2)
        self._graphs = {}

    def _run(self, x):
        return torch.relu(self.norm(self.lift(x)))

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, self.training, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            statistics = list(self.norm.buffers())
            self._graphs[key] = (static, *capture_step(lambda: self._run(static), statistics))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    RING,
    RING.mutant(
        "position_baked",
        "result",
        "The position stays where it was in the first call.",
        ("        self._at.fill_(self._used % self.room)\n", ""),
    ),
    RING.mutant(
        "ring_wraps_one_late",
        "result|exception",
        "The ring believes it has one slot more.",
        ("self._used % self.room)", "min(self._used, self.room - 1))"),
    ),
    RING.mutant(
        "unused_slots_not_masked",
        "result",
        "Zero keys take part in the softmax until the ring is full.",
        ('.masked_fill(empty, float("-inf"))', ""),
    ),
    RING.mutant(
        "reset_forgotten",
        "result",
        "A new sequence sees the old one's vectors.",
        ("        if reset:\n            self._used = 0\n            self._ring.zero_()\n", ""),
    ),
    RING.mutant(
        "warmup_left_in_cache",
        "result",
        "The warm-up has counted as calls.",
        (
            "            self._owner = addresses(self)\n",
            "            self._owner = addresses(self)\n            self._used = 3\n",
        ),
    ),
    EMA,
    EMA.mutant(
        "warmup_advances_buffers",
        "state|result",
        "Warmup has updated the mean three times more.",
        ("self._run(static), [self.mean, self.seen])", "self._run(static), [])"),
    ),
    EMA.mutant(
        "one_buffer_not_put_back",
        "state",
        "The mean is restored after warmup, the counter of calls is not.",
        ("self._run(static), [self.mean, self.seen])", "self._run(static), [self.mean])"),
    ),
    EMA.mutant(
        "buffer_rebound_in_graph",
        "state|result",
        "The buffer is replaced instead of written: the attribute points at graph memory, and replays do not rebind.",
        (
            "        self.mean.lerp_(h.detach().mean(0), 0.1)\n",
            "        self.mean = self.mean.lerp(h.detach().mean(0), 0.1)\n",
        ),
    ),
    EMA.mutant(
        "buffer_not_saved",
        "state|load",
        "The counter is no longer part of state_dict.",
        ("torch.zeros((), dtype=torch.int64))", "torch.zeros((), dtype=torch.int64), persistent=False)"),
    ),
    EMA.mutant(
        "update_skipped_in_replay",
        "state|result",
        "Statistics are updated only while nothing is being captured.",
        (
            "        self.mean.lerp_(h.detach().mean(0), 0.1)\n",
            "        if not torch.cuda.is_current_stream_capturing():\n            self.mean.lerp_(h.detach().mean(0), 0.1)\n",
        ),
    ),
    SCHEDULE,
    SCHEDULE.mutant(
        "counter_baked",
        "result",
        "The gain of the call that captured is a constant.",
        ("self._run(static, factor))", "self._run(static, gain))"),
    ),
    SCHEDULE.mutant(
        "counter_advances_at_capture",
        "attributes|result",
        "The counter is advanced only when a graph is made.",
        (
            "        self.calls += 1\n        self.history",
            "        self.calls += (x.shape, addresses(self)) not in self._graphs\n        self.history",
        ),
    ),
    SCHEDULE.mutant(
        "history_lost",
        "attributes",
        "The list of sizes is kept in the eager path only.",
        (
            "        self.history = [*self.history[-2:], x.shape[0]]\n        gain = min(1.0, self.calls / 8)\n        if torch.is_grad_enabled():\n",
            "        gain = min(1.0, self.calls / 8)\n        if torch.is_grad_enabled():\n            self.history = [*self.history[-2:], x.shape[0]]\n",
        ),
    ),
    SCHEDULE.mutant(
        "gain_one_call_late",
        "result",
        "The counter is read before it is advanced.",
        ("self.calls / 8)\n        if", "(self.calls - 1) / 8)\n        if"),
    ),
    SCHEDULE.mutant(
        "attribute_renamed",
        "attributes",
        "The public counter has another name.",
        ("        self.calls = 0\n", "        self._calls = 0\n"),
        ("        self.calls += 1\n", "        self._calls += 1\n"),
        ("self.calls / 8", "self._calls / 8"),
    ),
    SHARED,
    SHARED.mutant(
        "cache_shared_between_instances",
        "result",
        "The global cache is looked up by shape: the second instance gets the first one's graph.",
        ("key = (id(self), x.shape, addresses(self))", "key = (type(self), x.shape)"),
    ),
    SHARED.mutant(
        "cache_by_class_and_device",
        "result",
        "Only the first parameter's shape and device are compared.",
        (
            "key = (id(self), x.shape, addresses(self))",
            "key = (self.first.weight.shape, self.first.weight.device, x.shape)",
        ),
    ),
    COPIED,
    COPIED.mutant(
        "deepcopy_shares_graphs",
        "result",
        "The copy keeps the original's graphs under the same keys.",
        (
            '        state["_graphs"] = {}\n        return state\n',
            "        return state\n\n    def __deepcopy__(self, memo):\n        import copy\n\n        new = type(self)()\n        new.load_state_dict(copy.deepcopy(self.state_dict()))\n        new._graphs = self._graphs\n        return new.to(next(self.parameters()).device).train(self.training)\n",
        ),
        ("where = tuple(p.data_ptr() for p in self.parameters())", "where = ()"),
    ),
    COPIED.mutant(
        "deepcopy_impossible",
        "exception",
        "A graph cannot be copied: deepcopy of the module raises.",
        ('        state["_graphs"] = {}\n', ""),
    ),
    NORM,
    NORM.mutant(
        "statistics_of_warmup_kept",
        "state",
        "Running statistics are advanced four times by the first call.",
        ("self._run(static), statistics)", "self._run(static), [])"),
    ),
    NORM.mutant(
        "batches_not_counted",
        "state",
        "num_batches_tracked is put back to what it was before the call.",
        (
            "        graph.replay()\n",
            "        counted = self.norm.num_batches_tracked.clone()\n        graph.replay()\n        self.norm.num_batches_tracked.copy_(counted)\n",
        ),
    ),
    NORM.mutant(
        "train_flag_not_in_key",
        "result|state",
        "Whichever mode came first is replayed in both.",
        ("key = (x.shape, self.training, addresses(self))", "key = (x.shape, addresses(self))"),
    ),
)
