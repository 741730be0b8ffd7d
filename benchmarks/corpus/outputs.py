# ruff: noqa: E501  (lines of quoted programs)
"""What a caller can look at besides the result: objects, properties, module-level books, inputs written in place."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

H = TORCH + CAPTURE + ADDRESSES
HF = FUNCTIONAL + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'

CLASSES = """
from dataclasses import dataclass, field
from typing import Any

@dataclass
class Meta:
    rows: int
    worst: Any = None
    tags: tuple = ()

@dataclass
class Report:
    scores: torch.Tensor
    meta: Meta
    parts: dict = field(default_factory=dict)
"""

NESTED_REPORT = control(
    "nested_dataclass_report",
    "buffers",
    "A dataclass in a dataclass, with a number of rows, an optional tensor and parts that share memory.",
    'entry="program:Scorer"\ninputs={x="float32[B, 6]", worst="bool"}\ndims={B=[1,9]}\n' + INF,
    TORCH
    + CLASSES
    + """
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
    def forward(self, x, worst):
        h = self.lin(x)
        meta = Meta(len(x), h.min() if worst else None, ("a", 1))
        return Report(h.sum(-1), meta, {"left": h[:, :3], "right": h[:, 1:]})
""",
    H
    + CLASSES
    + """
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)
        self._graphs = {}
    def forward(self, x, worst):
        n = len(x)
        size = 1 << (n - 1).bit_length()
        key = (size, addresses(self))
        if key not in self._graphs:
            s = x.new_zeros(size, 6)
            self._graphs[key] = (s, *capture(lambda: self.lin(s)))
        s, graph, out = self._graphs[key]
        s[:n].copy_(x)
        graph.replay()
        h = out[:n].clone()
        meta = Meta(n, h.min() if worst else None, ("a", 1))
        return Report(h.sum(-1), meta, {"left": h[:, :3], "right": h[:, 1:]})
""",
)

INPUT_IN_PLACE = control(
    "input_clamped_in_place",
    "aliasing",
    "The caller's tensor is changed in place and handed back; a column of it is cleared as well.",
    'entry="program:clean"\ninputs={x="float32[B, 4]", low="float in -1.0..0.0"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
def clean(x, low):
    x.clamp_(min=low)
    x[:, 0] = 0.0
    return x
""",
    TORCH
    + CAPTURE
    + """
_GRAPHS = {}

def _run(x, low):
    torch.maximum(x, low, out=x)
    x[:, 0] = 0.0
    return x

def clean(x, low):
    if x.shape not in _GRAPHS:
        s, l = x.clone(), torch.zeros((), device=x.device)
        _GRAPHS[x.shape] = (s, l, *capture(lambda: _run(s, l)))
    s, l, graph, out = _GRAPHS[x.shape]
    s.copy_(x)
    l.fill_(low)
    graph.replay()
    x.copy_(out)
    return x
""",
)

BOOKS = control(
    "books_of_the_module",
    "state",
    "Counts in a module-level dictionary and a list, a property and a plain object: all are kept outside the graph.",
    'entry="program:Kept"\ninputs={x="float32[B, 4]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
STATS = {"calls": 0, "rows": 0}
SIZES = []

class Meter:
    def __init__(self):
        self.total = 0
        self.widest = 0

class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.meter = Meter()
        self._last = None
    @property
    def last(self):
        return self._last
    def forward(self, x):
        STATS["calls"] += 1
        STATS["rows"] += len(x)
        SIZES.append(len(x))
        self.meter.total += len(x)
        self.meter.widest = max(self.meter.widest, len(x))
        h = self.lin(x)
        self._last = h.sum()
        return h
""",
    H
    + """
STATS = {"calls": 0, "rows": 0}
SIZES = []

class Meter:
    def __init__(self):
        self.total = 0
        self.widest = 0

class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.meter = Meter()
        self._last = None
        self._graphs = {}
    @property
    def last(self):
        return self._last
    def _run(self, x):
        h = self.lin(x)
        return h, h.sum()
    def forward(self, x):
        STATS["calls"] += 1
        STATS["rows"] += len(x)
        SIZES.append(len(x))
        self.meter.total += len(x)
        self.meter.widest = max(self.meter.widest, len(x))
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, graph, (h, total) = self._graphs[key]
        s.copy_(x)
        graph.replay()
        self._last = total.clone()
        return h.clone()
""",
)

MESSAGES = control(
    "refusals_with_numbers",
    "state",
    "A refusal names the offending number, read after the replay; other arguments are checked before it.",
    'entry="program:Checked"\ninputs={ids="int64[N] in 0..12", top="int in 0..7"}\ndims={N=[1,5]}\n' + INF,
    TORCH
    + """
class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(10, 6)
    def forward(self, ids, top):
        if top > 6:
            raise ValueError(f"top is at most 6, got {top}")
        worst = ids.max()
        if worst >= 10:
            raise IndexError(f"id {int(worst)} is not below 10")
        return self.emb(ids).sum(0).topk(top).values
""",
    H
    + """
class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(10, 6)
        self._graphs = {}
    def _run(self, ids, top):
        return self.emb(ids.clamp(max=9)).sum(0).topk(top).values, ids.max()
    def forward(self, ids, top):
        if top > 6:
            raise ValueError(f"top is at most 6, got {top}")
        key = (ids.shape, top, addresses(self))
        if key not in self._graphs:
            s = ids.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s, top)))
        s, graph, (out, worst) = self._graphs[key]
        s.copy_(ids)
        graph.replay()
        if (seen := int(worst)) >= 10:
            raise IndexError(f"id {seen} is not below 10")
        return out.clone()
""",
)

QUEUE = control(
    "queue_of_recent_tensors",
    "state",
    "The last three results are kept in a public queue; each is a copy.",
    'entry="program:Recent"\ninputs={x="float32[4]"}\ndims={}\n' + INF,
    TORCH
    + """
from collections import deque

class Recent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.recent = deque(maxlen=3)
    def forward(self, x):
        h = torch.tanh(self.lin(x))
        self.recent.append(h)
        return torch.stack(list(self.recent)).mean(0)
""",
    H
    + """
from collections import deque

class Recent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.recent = deque(maxlen=3)
        self._graph = None
    def forward(self, x):
        if self._graph is None or self._owner != addresses(self):
            self._x = x.clone()
            self._graph, self._out = capture(lambda: torch.tanh(self.lin(self._x)))
            self._owner = addresses(self)
        self._x.copy_(x)
        self._graph.replay()
        self.recent.append(self._out.clone())
        return torch.stack(list(self.recent)).mean(0)
""",
)

EVERY_TENTH = control(
    "logs_every_tenth_call",
    "state",
    "Every tenth call logs the running loss; the number is read after the replay.",
    'entry="program:Logged"\ninputs={x="float32[B, 4]"}\ndims={B=[1,3]}\n' + INF,
    "\nimport logging\n"
    + TORCH
    + """
log = logging.getLogger(__name__)

class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.calls = 0
    def forward(self, x):
        loss = self.lin(x).square().mean()
        self.mean.mul_(0.9).add_(0.1 * loss)
        self.calls += 1
        if self.calls % 10 == 0:
            log.info("call %d: mean %.4f", self.calls, self.mean.item())
        return loss
""",
    "\nimport logging\n"
    + H
    + """
log = logging.getLogger(__name__)

class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.calls = 0
        self._graphs = {}
    def _run(self, x):
        loss = self.lin(x).square().mean()
        self.mean.mul_(0.9).add_(0.1 * loss)
        return loss
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            s, old = x.clone(), self.mean.clone()
            made = capture(lambda: self._run(s))
            self.mean.copy_(old)
            self._graphs[key] = (s, *made)
        s, graph, out = self._graphs[key]
        s.copy_(x)
        graph.replay()
        self.calls += 1
        if self.calls % 10 == 0:
            log.info("call %d: mean %.4f", self.calls, self.mean.item())
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    NESTED_REPORT,
    NESTED_REPORT.mutant(
        "report_rows_of_bucket",
        "result",
        "The number of rows is the bucket's.",
        ("meta = Meta(n, h.min()", "meta = Meta(size, h.min()"),
    ),
    NESTED_REPORT.mutant(
        "report_worst_over_padding",
        "result",
        "The worst is looked for in the padding as well.",
        ("h.min() if worst", "out.min() if worst"),
    ),
    NESTED_REPORT.mutant(
        "report_parts_apart",
        "aliasing|kept",
        "Left and right no longer share memory.",
        ('{"left": h[:, :3], "right": h[:, 1:]})', '{"left": h[:, :3].clone(), "right": h[:, 1:].clone()})'),
    ),
    NESTED_REPORT.mutant(
        "report_none_became_tensor",
        "result",
        "Where nothing was asked for a tensor comes back.",
        ("h.min() if worst else None", "h.min() if worst else h.new_zeros(())"),
    ),
    NESTED_REPORT.mutant(
        "report_tags_list",
        "result",
        "A tuple became a list.",
        (
            '("a", 1))\n        return Report(h.sum(-1), meta, {"left": h[:, :3], "right"',
            '["a", 1])\n        return Report(h.sum(-1), meta, {"left": h[:, :3], "right"',
        ),
    ),
    INPUT_IN_PLACE,
    INPUT_IN_PLACE.mutant(
        "clamped_input_not_written",
        "inputs|aliasing|kept",
        "A clean copy comes back, and the caller's tensor stays as it was.",
        ("    x.copy_(out)\n    return x\n", "    return out.clone()\n"),
    ),
    INPUT_IN_PLACE.mutant(
        "clamped_copy_handed_back",
        "aliasing",
        "The caller's tensor is written, and a copy of it handed back.",
        ("    x.copy_(out)\n    return x\n", "    x.copy_(out)\n    return out.clone()\n"),
    ),
    INPUT_IN_PLACE.mutant(
        "clamped_low_baked",
        "result|inputs",
        "The bound of the first call is the bound of all.",
        ("    l.fill_(low)\n", "    if not l:\n        l.fill_(low)\n"),
    ),
    INPUT_IN_PLACE.mutant(
        "clamped_nan_replaced",
        "result|inputs",
        "NaN becomes the bound.",
        ("torch.maximum(x, low, out=x)", "torch.fmax(x, low, out=x)"),
    ),
    BOOKS,
    BOOKS.mutant(
        "books_count_captures",
        "attributes",
        "The module-level count grows only when a graph is made.",
        (
            '        STATS["calls"] += 1\n        STATS["rows"] += len(x)\n        SIZES.append(len(x))\n        self.meter.total += len(x)\n        self.meter.widest = max(self.meter.widest, len(x))\n        key',
            '        STATS["rows"] += len(x)\n        SIZES.append(len(x))\n        self.meter.total += len(x)\n        self.meter.widest = max(self.meter.widest, len(x))\n        key',
        ),
        ("            s = x.clone()\n", '            s = x.clone()\n            STATS["calls"] += 1\n'),
    ),
    BOOKS.mutant(
        "books_list_forgotten",
        "attributes",
        "Nothing is appended to the module's list.",
        (
            "        SIZES.append(len(x))\n        self.meter.total += len(x)\n        self.meter.widest = max(self.meter.widest, len(x))\n        key",
            "        self.meter.total += len(x)\n        self.meter.widest = max(self.meter.widest, len(x))\n        key",
        ),
    ),
    BOOKS.mutant(
        "books_meter_forgotten",
        "attributes",
        "The meter of the object counts in the first call of a shape.",
        (
            "        self.meter.total += len(x)\n        self.meter.widest = max(self.meter.widest, len(x))\n        key",
            "        self.meter.widest = max(self.meter.widest, len(x))\n        key",
        ),
        (
            "            s = x.clone()\n",
            "            s = x.clone()\n            self.meter.total += len(x)\n",
        ),
    ),
    BOOKS.mutant(
        "books_property_stale",
        "attributes",
        "The property gives the number of the call that made the graph.",
        (
            "        self._last = total.clone()\n",
            "        if self._last is None:\n            self._last = total.clone()\n",
        ),
    ),
    MESSAGES,
    MESSAGES.mutant(
        "refusal_names_clamped_id",
        "exception",
        "The message names the clamped id.",
        (
            'raise IndexError(f"id {seen} is not below 10")',
            'raise IndexError(f"id {min(seen, 9)} is not below 10")',
        ),
    ),
    MESSAGES.mutant(
        "refusal_order_changed",
        "exception",
        "A bad id is found before a bad number is refused.",
        (
            '        if top > 6:\n            raise ValueError(f"top is at most 6, got {top}")\n        key',
            "        key",
        ),
        (
            "        s, graph, (out, worst)",
            '        if top > 6:\n            raise ValueError(f"top is at most 6, got {top}")\n        s, graph, (out, worst)',
        ),
        ("ids.clamp(max=9)).sum(0).topk(top)", "ids.clamp(max=9)).sum(0).topk(min(top, 6))"),
        (
            "            s = ids.clone()\n",
            '            s = ids.clone()\n            if (seen := int(s.max())) >= 10:\n                raise IndexError(f"id {seen} is not below 10")\n',
        ),
    ),
    MESSAGES.mutant(
        "refusal_of_last_replay",
        "exception|result",
        "The worst id is that of the call before.",
        (
            "        s.copy_(ids)\n        graph.replay()\n        if (seen := int(worst)) >= 10:\n",
            "        s.copy_(ids)\n        seen = int(worst)\n        graph.replay()\n        if seen >= 10:\n",
        ),
    ),
    QUEUE,
    QUEUE.mutant(
        "queue_holds_the_static_output",
        "result|attributes",
        "All entries are one tensor.",
        ("self.recent.append(self._out.clone())", "self.recent.append(self._out)"),
    ),
    QUEUE.mutant(
        "queue_one_longer",
        "attributes|result",
        "Four results are kept.",
        (
            "        self.recent = deque(maxlen=3)\n        self._graph",
            "        self.recent = deque(maxlen=4)\n        self._graph",
        ),
    ),
    EVERY_TENTH,
    EVERY_TENTH.mutant(
        "logs_every_call",
        "printed",
        "Every call logs.",
        (
            '        if self.calls % 10 == 0:\n            log.info("call %d: mean %.4f", self.calls, self.mean.item())\n        return out',
            '        log.info("call %d: mean %.4f", self.calls, self.mean.item())\n        return out',
        ),
    ),
    EVERY_TENTH.mutant(
        "logs_loss_for_mean",
        "printed",
        "The loss is logged instead of its running mean.",
        ("self.calls, self.mean.item())\n        return out", "self.calls, out.item())\n        return out"),
    ),
    EVERY_TENTH.mutant(
        "logs_one_call_early",
        "printed",
        "The count is raised after the line.",
        (
            '        self.calls += 1\n        if self.calls % 10 == 0:\n            log.info("call %d: mean %.4f", self.calls, self.mean.item())\n        return out',
            '        if self.calls % 10 == 0:\n            log.info("call %d: mean %.4f", self.calls, self.mean.item())\n        self.calls += 1\n        return out',
        ),
    ),
)
