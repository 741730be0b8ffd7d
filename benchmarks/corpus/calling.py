# ruff: noqa: E501  (lines of quoted programs)
"""Callables that a call hands out: functions over results, partials, modules, methods, iterators."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES
ROWS = 'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n'
BODY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _replayed(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lift(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out
"""
PLAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
"""

CLOSURE = control(
    "scorer_over_a_result",
    "buffers",
    "A function comes back that scores other rows against what this call computed.",
    ROWS,
    FUNCTIONAL
    + PLAIN
    + """
    def forward(self, x):
        h = self.lift(x)
        def score(other):
            return (other * h.mean(0)).sum(-1)
        return score
""",
    H
    + BODY
    + """
    def forward(self, x):
        h = self._replayed(x).clone()
        def score(other):
            return (other * h.mean(0)).sum(-1)
        return score
""",
)

PARTIAL = control(
    "partial_over_a_result",
    "buffers",
    "A function with its first argument bound comes back, and its value for these rows.",
    ROWS,
    "import functools\n"
    + FUNCTIONAL
    + """
def gap(centre, other):
    return (other - centre).abs().amax(-1)
"""
    + PLAIN
    + """
    def forward(self, x):
        h = self.lift(x).mean(0)
        return {"gap": functools.partial(gap, h), "here": gap(h, x)}
""",
    "import functools\n"
    + H
    + """
def gap(centre, other):
    return (other - centre).abs().amax(-1)
"""
    + BODY
    + """
    def forward(self, x):
        h = self._replayed(x).mean(0)
        return {"gap": functools.partial(gap, h), "here": gap(h, x)}
""",
)

LAYER = control(
    "layer_made_of_rows",
    "capture",
    "A layer comes back whose weights are what this call computed.",
    ROWS,
    FUNCTIONAL
    + PLAIN
    + """
    def forward(self, x):
        h = self.lift(x)
        layer = nn.Linear(4, h.shape[0], bias=False, device=x.device)
        layer.weight = nn.Parameter(h.clone(), requires_grad=False)
        return layer
""",
    H
    + BODY
    + """
    def forward(self, x):
        h = self._replayed(x)
        layer = nn.Linear(4, h.shape[0], bias=False, device=x.device)
        layer.weight = nn.Parameter(h.clone(), requires_grad=False)
        return layer
""",
)

FACTORY = control(
    "factory_of_a_stepper",
    "capture",
    "The call builds a function that is then called for every step; the rewrite's owns a graph.",
    'entry = "program:make_stepper"\ninputs = { x = "float32[4]", rate = "float in 0.1..0.9" }\ndims = {}\n',
    FUNCTIONAL
    + """
def make_stepper(x, rate):
    start = x.clone()
    def step(x):
        return start * rate + x.tanh() * (1 - rate)
    return step
""",
    FUNCTIONAL
    + CAPTURE
    + """
def make_stepper(x, rate):
    start = x.clone()
    kept = []
    def step(x):
        if not kept:
            static = x.clone()
            kept.append((static, *capture(lambda: start * rate + static.tanh() * (1 - rate))))
        static, graph, out = kept[0]
        static.copy_(x)
        graph.replay()
        return out.clone()
    return step
""",
)

HOLDER = control(
    "answer_with_a_method",
    "buffers",
    "The answer is an object whose method is called later.",
    ROWS,
    FUNCTIONAL
    + """
class Answer:
    def __init__(self, scores):
        self._scores = scores
    def best(self):
        return self._scores.argmax(-1)
    def __call__(self, other):
        return other @ self._scores.mean(0)
"""
    + PLAIN
    + """
    def forward(self, x):
        return Answer(self.lift(x))
""",
    H
    + """
class Answer:
    def __init__(self, scores):
        self._scores = scores
    def best(self):
        return self._scores.argmax(-1)
    def __call__(self, other):
        return other @ self._scores.mean(0)
"""
    + BODY
    + """
    def forward(self, x):
        return Answer(self._replayed(x).clone())
""",
)

PULLED = control(
    "rows_pulled_one_by_one",
    "buffers",
    "A function gives the next row each time it is called.",
    ROWS,
    FUNCTIONAL
    + PLAIN
    + """
    def forward(self, x):
        rows = iter(self.lift(x))
        return lambda: next(rows, None)
""",
    H
    + BODY
    + """
    def forward(self, x):
        rows = iter(self._replayed(x).clone())
        return lambda: next(rows, None)
""",
)

PAIRS: tuple[Pair, ...] = (
    CLOSURE,
    CLOSURE.mutant(
        "scorer_over_the_static_output", "called", "The function reads the graph's memory, which the next call writes over.",
        ("self._replayed(x).clone()", "self._replayed(x)"),
    ),
    CLOSURE.mutant(
        "scorer_over_a_sum", "called", "The function scores against the sum.",
        ("h.mean(0)", "h.sum(0)"),
    ),
    PARTIAL,
    PARTIAL.mutant(
        "partial_of_the_first_rows", "called", "What is bound is what the first call of this size computed.",
        ("functools.partial(gap, h)", "self.__dict__.setdefault(\"_bound\", {}).setdefault(x.shape, functools.partial(gap, h))"),
    ),
    LAYER,
    LAYER.mutant(
        "layer_over_the_static_output", "called|result", "The weights are the graph's own memory.",
        ("nn.Parameter(h.clone(),", "nn.Parameter(h,"),
    ),
    LAYER.mutant(
        "layer_with_the_weights_turned", "called|result", "The rows come in the other order.",
        ("nn.Parameter(h.clone(),", "nn.Parameter(h.flip(0),"),
    ),
    FACTORY,
    FACTORY.mutant(
        "steppers_share_a_graph", "called", "The graph is kept with the factory: the second function replays the first one's.",
        ("    kept = []\n", "    kept = _kept\n"),
        ("def make_stepper", "_kept = []\n\ndef make_stepper"),
    ),
    FACTORY.mutant(
        "stepper_hands_out_its_output", "called", "All steps give one tensor.",
        ("return out.clone()", "return out"),
    ),
    HOLDER,
    HOLDER.mutant(
        "answer_over_the_static_output", "called", "The object's private scores are the graph's memory.",
        ("self._replayed(x).clone()", "self._replayed(x)"),
    ),
    HOLDER.mutant(
        "answer_by_another_mean", "called", "The method weighs by the greatest.",
        ("other @ self._scores.mean(0)", "other @ self._scores.amax(0)"),
    ),
    PULLED,
    PULLED.mutant(
        "pulled_in_the_other_order", "called", "The last row comes first.",
        ("self._replayed(x).clone()", "self._replayed(x).flip(0)"),
    ),
    PULLED.mutant(
        "pulled_from_the_static_output", "called", "The rows are views of the graph's memory.",
        ("self._replayed(x).clone()", "self._replayed(x)"),
    ),
)  # fmt: skip
