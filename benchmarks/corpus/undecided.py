"""Pairs about which no evidence can be had: the verdict must say so, by name."""

from __future__ import annotations

from dataclasses import replace

from .pair import Pair, control
from .parts import ADDRESSES, GRAPH, TORCH

REPLAYED = """
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x)
        return self._graphs[key](x).clone()
"""

ONE_SIDED = replace(
    control(
        "other_side_never_taken",
        "undecided",
        "No input in the declared range takes the branch, so its side is never compared.",
        """
entry  = "program:Guarded"
inputs = { x = "float32[B, 6] in -1.0..1.0" }
dims   = { B = [1, 4] }
""",
        TORCH
        + """

class Guarded(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        if x.abs().sum() > 1000:
            return self.out(x.tanh())
        return self.out(x)
""",
        TORCH
        + GRAPH
        + ADDRESSES
        + """

class Guarded(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.out = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x):
        return self.out(torch.where(x.abs().sum() > 1000, x.tanh(), x))
"""
        + REPLAYED,
    ),
    expect="inconclusive",
)

INSENSITIVE = replace(
    control(
        "result_independent_of_input",
        "undecided",
        "The original gives the same for every input, so a frozen graph cannot be told from a right one.",
        """
entry  = "program:Anchor"
inputs = { x = "float32[B, 6]" }
dims   = { B = [2, 2] }
vary   = ["values", "shapes", "kept outputs"]
""",
        TORCH
        + """

class Anchor(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.anchor = nn.Parameter(torch.randn(dim))

    def forward(self, x):
        return torch.softmax(self.anchor, 0).expand(x.shape) + torch.zeros_like(x)
""",
        TORCH
        + GRAPH
        + ADDRESSES
        + """

class Anchor(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.anchor = nn.Parameter(torch.randn(dim))
        self._graphs = {}

    def _run(self, x):
        return torch.softmax(self.anchor, 0).expand(x.shape) + torch.zeros_like(x)
"""
        + REPLAYED,
    ),
    expect="inconclusive",
)

UNSTABLE = replace(
    control(
        "original_not_repeatable",
        "undecided",
        "The original draws from a generator that is seeded by the clock: two runs of it differ.",
        """
entry  = "program:Jitter"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 4] }
""",
        "\nimport time\n"
        + TORCH
        + """

class Jitter(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        return self.out(x) * (1 + (time.perf_counter_ns() % 997) / 997)
""",
        "\nimport time\n"
        + TORCH
        + GRAPH
        + ADDRESSES
        + """

class Jitter(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.out = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x):
        return self.out(x) * (1 + (time.perf_counter_ns() % 997) / 997)
"""
        + REPLAYED,
    ),
    expect="inconclusive",
)

UNCHANGED = replace(
    control(
        "nothing_was_rewritten",
        "undecided",
        "Both trees hold the same file: there is nothing to compare.",
        """
entry  = "program:Plain"
inputs = { x = "float32[B, 6]" }
dims   = { B = [1, 4] }
""",
        ONE_SIDED.before.replace("Guarded", "Plain"),
        ONE_SIDED.before.replace("Guarded", "Plain"),
    ),
    expect="inconclusive",
)

PAIRS: tuple[Pair, ...] = (ONE_SIDED, INSENSITIVE, UNSTABLE, UNCHANGED)
