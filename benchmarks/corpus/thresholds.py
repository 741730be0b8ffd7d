# ruff: noqa: E501  (lines of quoted programs)
"""Where a decision tips over: constants moved, comparisons turned, rounded thresholds, counts, buckets of lengths."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES
ROWS = 'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n'

REPLAY = """
    def _replayed(self, name, run, x):
        key = (name, x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out
"""

HIDDEN = control(
    "gate_on_a_hidden_mean",
    "branches",
    "The mean of a hidden layer decides, between two replays.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.up = nn.Linear(8, 3)
        self.down = nn.Linear(8, 3)
    def forward(self, x):
        h = self.stem(x).tanh()
        if h.mean() > 0.05:
            return self.up(h)
        return self.down(h)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.up = nn.Linear(8, 3)
        self.down = nn.Linear(8, 3)
        self._graphs = {}
"""
    + REPLAY
    + """
    def _stem(self, x):
        h = self.stem(x).tanh()
        return h, h.mean() > 0.05
    def forward(self, x):
        h, up = self._replayed("stem", self._stem, x)
        if up:
            return self._replayed("up", self.up, h).clone()
        return self._replayed("down", self.down, h).clone()
""",
)

CELLS = control(
    "cells_beyond_a_number",
    "branches",
    "Cells are damped where they lie beyond a number; where they lie exactly there they are not.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, x):
        mask = x > 0.6
        y = x.clone()
        if mask.any():
            y[mask] = y[mask] * 0.5
        return self.lift(y.clamp(-3.3, 3.3))
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self._graphs = {}
"""
    + REPLAY
    + """
    def _run(self, x):
        y = torch.where(x > 0.6, x * 0.5, x)
        return self.lift(y.clamp(-3.3, 3.3))
    def forward(self, x):
        return self._replayed("run", self._run, x).clone()
""",
)

COUNTED = control(
    "count_of_large_entries_decides",
    "branches",
    "More than three entries above one make the call take another way.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, x):
        y = self.lift(x)
        if int((x > 1.0).sum()) > 3:
            return y / y.abs().amax().clamp(min=1e-6)
        return y
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self._graphs = {}
"""
    + REPLAY
    + """
    def _run(self, x):
        y = self.lift(x)
        many = (x > 1.0).sum() > 3
        return torch.where(many, y / y.abs().amax().clamp(min=1e-6), y)
    def forward(self, x):
        return self._replayed("run", self._run, x).clone()
""",
)

RATE = control(
    "number_decides_on_the_host",
    "branches",
    "A number of the caller's decides which way is taken.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 6]", rate = "float in 0.0..1.0", level = "int in 0..9" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, x, rate, level):
        y = self.lift(x)
        if rate > 0.25 and level < 7:
            return y * rate
        return y.tanh()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self._graphs = {}
"""
    + REPLAY
    + """
    def forward(self, x, rate, level):
        y = self._replayed("lift", self.lift, x).clone()
        if rate > 0.25 and level < 7:
            return y * rate
        return y.tanh()
""",
)

RATIO = control(
    "ratio_of_two_norms_decides",
    "branches",
    "Where one half outweighs the other by more than a half, it is scaled back.",
    ROWS,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, x):
        a, b = self.lift(x).chunk(2, -1)
        ratio = (a.norm() / (b.norm() + 1e-6)).item()
        if ratio > 1.5:
            a = a / ratio
        return a + b
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self._graphs = {}
"""
    + REPLAY
    + """
    def _run(self, x):
        a, b = self.lift(x).chunk(2, -1)
        ratio = a.norm() / (b.norm() + 1e-6)
        a = torch.where(ratio > 1.5, a / ratio, a)
        return a + b
    def forward(self, x):
        return self._replayed("run", self._run, x).clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    HIDDEN,
    HIDDEN.mutant("gate_moved_a_little", "result", "The gate opens at 0.06.", ("h.mean() > 0.05", "h.mean() > 0.06")),
    HIDDEN.mutant("gate_moved_by_a_hundredth", "result", "The gate opens at 0.0505.", ("h.mean() > 0.05", "h.mean() > 0.0505")),
    HIDDEN.mutant("gate_on_the_sum", "result", "The gate looks at a mean over one element less.",
                  ("h.mean() > 0.05", "h.sum() / (h.numel() - 1) > 0.05")),
    HIDDEN.mutant("gate_in_half_precision", "result", "The mean is rounded to eight bits before it is compared.",
                  ("h.mean() > 0.05", "h.mean().bfloat16() > 0.05")),
    HIDDEN.mutant("gate_on_the_median", "result", "The gate looks at the middle entry.",
                  ("h.mean() > 0.05", "h.median() > 0.05")),
    CELLS,
    CELLS.mutant("cells_at_the_number_too", "result", "Cells that are exactly there are damped too.", ("x > 0.6", "x >= 0.6")),
    CELLS.mutant("cells_beyond_another_number", "result", "The number is 0.605.", ("x > 0.6", "x > 0.605")),
    CELLS.mutant("cells_beyond_a_rounded_number", "result", "The number is rounded to half precision.",
                 ("x > 0.6", 'x > torch.full((), 0.6, dtype=torch.float16, device=x.device).float()')),
    CELLS.mutant("cells_beyond_a_number_in_double", "result", "The number is not rounded to the precision of the cells.",
                 ("x > 0.6", "x.double() > 0.6")),
    CELLS.mutant("cells_cut_a_little_earlier", "result", "Cells are cut at 3.25.", ("y.clamp(-3.3, 3.3)", "y.clamp(-3.3, 3.25)")),
    CELLS.mutant("cells_cut_below_forgotten", "result", "Cells are cut above only.", ("y.clamp(-3.3, 3.3)", "y.clamp(max=3.3)")),
    COUNTED,
    COUNTED.mutant("count_of_three_is_enough", "result", "Three entries are enough.", (".sum() > 3", ".sum() >= 3")),
    COUNTED.mutant("count_of_five_is_asked", "result", "Five entries are asked for.", (".sum() > 3", ".sum() > 4")),
    COUNTED.mutant("count_of_entries_at_one", "result", "Entries that are exactly one are counted.", ("(x > 1.0)", "(x >= 1.0)")),
    COUNTED.mutant("count_of_large_results", "result", "The entries of the result are counted.", ("(x > 1.0)", "(y > 1.0)")),
    RATE,
    RATE.mutant("number_decides_at_the_number_too", "result", "At a quarter the other way is taken.", ("rate > 0.25", "rate >= 0.25")),
    RATE.mutant("number_decides_later", "result", "The way changes at 0.26.", ("rate > 0.25", "rate > 0.26")),
    RATE.mutant("level_decides_one_later", "result", "Level seven is among the low ones.", ("level < 7", "level <= 7")),
    RATIO,
    RATIO.mutant("ratio_moved", "result", "Scaled back from 1.55 on.", ("ratio > 1.5", "ratio > 1.55")),
    RATIO.mutant("ratio_without_its_epsilon", "result|exception", "The epsilon has become a hundredth.", ("+ 1e-6)", "+ 1e-2)")),
    RATIO.mutant("ratio_of_squares", "result", "The squares of the norms are compared.",
                 ("torch.where(ratio > 1.5", "torch.where(ratio * ratio > 1.5")),
)  # fmt: skip
