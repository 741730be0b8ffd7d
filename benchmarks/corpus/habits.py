# ruff: noqa: E501  (lines of quoted programs)
"""What callers do beside the calls a target spells out: arguments by position, defaults, new instances, states in dicts."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

GRAPHED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x):
        return torch.tanh(self.lift(x))
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
"""
PLAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        return torch.tanh(self.lift(x))
"""
BATCH = 'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n'

DEFAULT = control(
    "defaults_stay_what_they_were",
    "capture",
    "The scale is a static device scalar; left out it is what it was, and the order of arguments stays.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]", scale = "float in 0.5..4.0", shift = "float in -1.0..1.0" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x, scale=2.0, shift=0.5):
        return self.lift(x) * scale + shift
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, x, scale=2.0, shift=0.5):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            held = x.clone(), x.new_zeros(()), x.new_zeros(())
            self._graphs[key] = (held, *capture(lambda: self.lift(held[0]) * held[1] + held[2]))
        held, graph, y = self._graphs[key]
        held[0].copy_(x)
        held[1].fill_(scale)
        held[2].fill_(shift)
        graph.replay()
        return y.clone()
""",
)

OWNER = control(
    "graphs_kept_by_owner_weakly",
    "state",
    "Graphs are kept outside the module, in a dictionary that forgets a module with its last reference.",
    BATCH,
    FUNCTIONAL + PLAIN,
    "import weakref\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
_graphs = weakref.WeakKeyDictionary()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        mine = _graphs.setdefault(self, {})
        key = (x.shape, addresses(self))
        if key not in mine:
            static, layer = x.clone(), self.lift
            mine[key] = (static, *capture(lambda: torch.tanh(layer(static))))
        static, graph, y = mine[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

REPLACED = control(
    "parameters_stay_the_same_objects",
    "state",
    "Weights are laid out anew in memory; the parameters stay the objects that an optimizer knows.",
    BATCH,
    FUNCTIONAL + PLAIN,
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _settle(self):
        for name, p in list(self.lift.named_parameters()):
            p.data = p.data.contiguous()
    def forward(self, x):
        if not self._graphs:
            self._settle()
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: torch.tanh(self.lift(static))))
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

CARRIED = control(
    "state_in_a_dict_goes_round",
    "aliasing",
    "A caller hands the state that he got back in: it is copied in before the replay writes.",
    'entry = "program:Net"\ninputs = { x = "float32[3, 4]", state = { h = "float32[3, 4]", c = "float32[3, 4]" } }\ndims = {}\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x, state):
        h = torch.tanh(self.lift(x) + state["h"])
        return h.sum(-1), {"h": h, "c": 0.5 * state["c"] + h + state["h"]}
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x, h, c):
        new = torch.tanh(self.lift(x) + h)
        return new.sum(-1), new, 0.5 * c + new + h
    def forward(self, x, state):
        key = addresses(self)
        given = x, state["h"], state["c"]
        if key not in self._graphs:
            held = tuple(t.clone() for t in given)
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        held, graph, (total, h, c) = self._graphs[key]
        for static, t in zip(held, given):
            static.copy_(t)
        graph.replay()
        return total.clone(), {"h": h.clone(), "c": c.clone()}
""",
)

DIFFERENTIABLE = control(
    "result_that_leads_back",
    "training",
    "Where gradients are recorded the call is eager, and its result leads back to the weights.",
    BATCH + 'mode = "eval"\n',
    FUNCTIONAL + PLAIN,
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + GRAPHED.replace(
        "        key = (x.shape",
        "        if torch.is_grad_enabled():\n            return self._run(x)\n        key = (x.shape",
    ),
)

LOGGED = control(
    "told_after_the_replay",
    "capture",
    "Two lines that were printed before the work are printed after it, in the same order, with the same numbers.",
    BATCH,
    "import logging\n"
    + FUNCTIONAL
    + """
logger = logging.getLogger(__name__)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        logger.info("rows %d", len(x))
        print("rows", len(x))
        y = torch.tanh(self.lift(x))
        logger.info("mean %.3f", y.mean().nan_to_num().item())
        return y
""",
    "import logging\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
logger = logging.getLogger(__name__)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
        self.register_buffer("_mean", torch.zeros(()), persistent=False)
    def _run(self, x):
        y = torch.tanh(self.lift(x))
        self._mean.copy_(y.mean().nan_to_num())
        return y
    def forward(self, x):
        key = (x.shape, addresses(self.lift))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, self._mean, *capture(lambda: self._run(static)))
        static, mean, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        print("rows", len(x))
        logger.info("rows %d", len(x))
        logger.info("mean %.3f", mean.item())
        return y.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    DEFAULT,
    DEFAULT.mutant("default_scale_is_another", "result", "Left out, the scale is one.", ("scale=2.0", "scale=1.0")),
    DEFAULT.mutant("arguments_in_another_order", "result", "By position, scale and shift change places.", ("self, x, scale=2.0, shift=0.5", "self, x, shift=0.5, scale=2.0")),
    DEFAULT.mutant("argument_without_its_default", "exception", "The shift must be given.", ("self, x, scale=2.0, shift=0.5", "self, x, scale=2.0, *, shift")),
    OWNER,
    OWNER.mutant("graphs_kept_by_id", "result", "The key is the module's id, which a later module may have: it gets the graphs of one that is gone.",
                 ("weakref.WeakKeyDictionary()", "{}"), ("_graphs.setdefault(self, {})", "_graphs.setdefault(id(self), {})"), ("key = (x.shape, addresses(self))", "key = x.shape, self.lift.weight._version")),
    REPLACED,
    REPLACED.mutant("parameters_are_other_objects", "flags", "New parameters take the place of those that an optimizer knows.",
                    ("p.data = p.data.contiguous()", "setattr(self.lift, name, nn.Parameter(p.detach().clone()))")),
    CARRIED,
    CARRIED.mutant("state_written_into_what_comes_back", "result|kept|aliasing", "The state handed out is the static input of the next call, and the order of copies spoils it.",
                   ('return total.clone(), {"h": h.clone(), "c": c.clone()}', 'held[2].copy_(c)\n        return total.clone(), {"h": h.clone(), "c": held[2]}')),
    CARRIED.mutant("state_taken_once", "result", "What the graph left is taken for the state, whatever the caller hands in.",
                   ("            static.copy_(t)\n        graph", "            if t is not state[\"c\"]:\n                static.copy_(t)\n        graph")),
    DIFFERENTIABLE,
    DIFFERENTIABLE.mutant("result_is_a_leaf", "result", "The result asks for gradients and leads nowhere.", ("            return self._run(x)\n        key", "            return self._run(x).detach().requires_grad_()\n        key")),
    LOGGED,
    LOGGED.mutant("told_in_another_order", "printed", "The mean is told before the rows.",
                  ('        logger.info("rows %d", len(x))\n        logger.info("mean %.3f", mean.item())', '        logger.info("mean %.3f", mean.item())\n        logger.info("rows %d", len(x))')),
    LOGGED.mutant("told_with_the_mean_before", "printed", "The mean is that of the call before.", ("        static.copy_(x)\n        graph.replay()\n        print", "        static.copy_(x)\n        mean = mean.clone()\n        graph.replay()\n        print")),
)  # fmt: skip
