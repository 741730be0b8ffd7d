# ruff: noqa: E501  (lines of quoted programs)
"""What a caller may rely on beside numbers: objects, enums, exceptions, class attributes, settings, frozen parts."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

LEVELS = control(
    "level_as_an_enum",
    "buffers",
    "The level of a call is a member of an enumeration, chosen on the host after the replay.",
    'entry = "program:Meter"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n',
    "import enum\n"
    + FUNCTIONAL
    + """
class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"

class Meter(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
    def forward(self, x):
        h = self.lift(x)
        return h, Level.HIGH if x.sum() > 0 else Level.LOW
""",
    "import enum\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"

class Meter(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self._graphs = {}
    def _run(self, x):
        return self.lift(x), x.sum() > 0
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (h, high) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        level = Level.HIGH if high else Level.LOW
        return h.clone(), level
""",
)

SLOTS = control(
    "report_with_slots",
    "buffers",
    "The result is an object with slots; its tensors are copies.",
    'entry = "program:Scorer"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Report:
    __slots__ = ("scores", "rows")
    def __init__(self, scores, rows):
        self.scores, self.rows = scores, rows

class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 3)
    def forward(self, x):
        return Report(self.lift(x).softmax(-1), x.shape[0])
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Report:
    __slots__ = ("scores", "rows")
    def __init__(self, scores, rows):
        self.scores, self.rows = scores, rows

class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 3)
        self._graphs = {}
    def forward(self, x):
        rows = x.shape[0]
        key = (rows, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lift(static).softmax(-1)))
        static, graph, scores = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return Report(scores.clone(), rows)
""",
)

PROPERTY = control(
    "prediction_behind_a_property",
    "buffers",
    "The result keeps logits under a private name and shows them, and what follows from them, as properties.",
    'entry = "program:Classify"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Prediction:
    def __init__(self, logits):
        self._logits = logits
    @property
    def logits(self):
        return self._logits
    @property
    def label(self):
        return self._logits.argmax(-1)

class Classify(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 5)
    def forward(self, x):
        return Prediction(self.lift(x))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Prediction:
    def __init__(self, logits):
        self._logits = logits
    @property
    def logits(self):
        return self._logits
    @property
    def label(self):
        return self._logits.argmax(-1)

class Classify(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 5)
        self._graphs = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lift(static)))
        static, graph, logits = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return Prediction(logits.clone())
""",
)

RAISED = control(
    "exception_with_its_facts",
    "state",
    "The program's own exception carries the number of bad rows and the first of them.",
    'entry = "program:Checked"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 5] }\n',
    FUNCTIONAL
    + """
class BadRows(ValueError):
    def __init__(self, count, first):
        super().__init__("rows that are not finite")
        self.count, self.first = count, first

class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        bad = ~x.isfinite().all(-1)
        if bad.any():
            raise BadRows(int(bad.sum()), int(bad.int().argmax()))
        return self.lift(x)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class BadRows(ValueError):
    def __init__(self, count, first):
        super().__init__("rows that are not finite")
        self.count, self.first = count, first

class Checked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x):
        bad = ~x.isfinite().all(-1)
        return self.lift(x), torch.stack([bad.sum(), bad.int().argmax()])
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (y, facts) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        count, first = facts.tolist()
        if count:
            raise BadRows(count, first)
        return y.clone()
""",
)

TOTALS = control(
    "calls_counted_on_the_class",
    "state",
    "Calls of all instances are counted on the class, outside the graph.",
    'entry = "program:Counted"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Counted(nn.Module):
    total = 0
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        Counted.total += x.shape[0]
        return torch.tanh(self.lift(x))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Counted(nn.Module):
    total = 0
    _made = 0
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x):
        return torch.tanh(self.lift(x))
    def forward(self, x):
        Counted.total += x.shape[0]
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            Counted._made += 1
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

THAWED = control(
    "parameters_stay_trainable",
    "training",
    "The graph is captured over detached parameters; the module's own keep asking for gradients.",
    'entry = "program:Frozen"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.base.requires_grad_(False)
    def forward(self, x):
        return self.head(torch.relu(self.base(x)))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.base.requires_grad_(False)
        self._graphs = {}
    def _run(self, x):
        return self.head(torch.relu(self.base(x)))
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            asked = [p.requires_grad for p in self.parameters()]
            self.requires_grad_(False)
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
            for p, wanted in zip(self.parameters(), asked):
                p.requires_grad_(wanted)
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

PLAIN_RESULT = control(
    "plain_tensors_under_no_grad",
    "capture",
    "Features are computed under no_grad: a caller may go on with them where gradients are recorded.",
    'entry = "program:Features"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\nmode = "eval"\n',
    FUNCTIONAL
    + """
class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    @torch.no_grad()
    def forward(self, x):
        return torch.tanh(self.lift(x))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    @torch.no_grad()
    def forward(self, x):
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

COLLECTED = control(
    "garbage_collected_again_after_capture",
    "state",
    "No garbage is collected during a capture; afterwards it is as the caller had it.",
    'entry = "program:Quiet"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Quiet(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        return F.silu(self.lift(x))
""",
    "import gc\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Quiet(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            collecting = gc.isenabled()
            gc.disable()
            self._graphs[key] = (static, *capture(lambda: F.silu(self.lift(static))))
            if collecting:
                gc.enable()
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

STREAM = control(
    "callers_stream_given_back",
    "concurrency",
    "The replay runs on a stream of the module's own; the caller's is the current one again afterwards.",
    'entry = "program:Aside"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Aside(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        return torch.sigmoid(self.lift(x))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Aside(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, torch.cuda.Stream(), *capture(lambda: torch.sigmoid(self.lift(static))))
        static, side, graph, y = self._graphs[key]
        caller = torch.cuda.current_stream()
        side.wait_stream(caller)
        torch.cuda.set_stream(side)
        static.copy_(x)
        graph.replay()
        out = y.clone()
        torch.cuda.set_stream(caller)
        caller.wait_stream(side)
        out.record_stream(caller)
        return out
""",
)

WINDOW = control(
    "window_that_is_not_saved",
    "state",
    "The last rows are a public buffer that is not saved with the model.",
    'entry = "program:Window"\ninputs = { x = "float32[4]" }\ndims = {}\n',
    FUNCTIONAL
    + """
class Window(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
    def forward(self, x):
        self.last.copy_(x)
        self.seen += 1
        return self.lift(x)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Window(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
        self._graphs = {}
    def _run(self, x):
        self.last.copy_(x)
        self.seen += 1
        return self.lift(x)
    def forward(self, x):
        key = addresses(self)
        if key not in self._graphs:
            static, seen = x.clone(), self.seen.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
            self.seen.copy_(seen)
        static, graph, y = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return y.clone()
""",
)

DISTRIBUTION = control(
    "distribution_returned",
    "buffers",
    "A normal distribution over copies of the graph's results.",
    'entry = "program:Policy"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(4, 2)
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.25]))
    def forward(self, x):
        return torch.distributions.Normal(self.mean(x), self.log_std.exp(), validate_args=False)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(4, 2)
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.25]))
        self._graphs = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: (self.mean(static), self.log_std.exp())))
        static, graph, (mean, std) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return torch.distributions.Normal(mean.clone(), std.clone(), validate_args=False)
""",
)

CHOSEN = control(
    "function_handed_out",
    "state",
    "A function of its own counts its calls; the graphs are kept beside it.",
    'entry = "program:squash"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
def squash(x):
    squash.calls += 1
    return torch.tanh(x) * 0.5

squash.calls = 0
""",
    FUNCTIONAL
    + CAPTURE
    + """
_graphs = {}

def squash(x):
    squash.calls += 1
    if x.shape not in _graphs:
        static = x.clone()
        _graphs[x.shape] = (static, *capture(lambda: torch.tanh(static) * 0.5))
    static, graph, y = _graphs[x.shape]
    static.copy_(x)
    graph.replay()
    return y.clone()

squash.calls = 0
""",
)

PAIRS: tuple[Pair, ...] = (
    LEVELS,
    LEVELS.mutant(
        "enum_of_the_first_call",
        "result",
        "The member is kept with the graph.",
        ("        level = Level.HIGH if high else Level.LOW\n        return h.clone(), level",
         "        self._level = getattr(self, \"_level\", None) or (Level.HIGH if high else Level.LOW)\n        return h.clone(), self._level"),
    ),
    SLOTS,
    SLOTS.mutant(
        "slots_hold_the_static_output", "kept|aliasing|result",
        "The object's tensor is the graph's own memory.",
        ("Report(scores.clone(), rows)", "Report(scores, rows)"),
    ),
    SLOTS.mutant(
        "slots_hold_logits", "result", "The softmax is left to the caller.",
        ("self.lift(static).softmax(-1)", "self.lift(static)"),
    ),
    PROPERTY,
    PROPERTY.mutant(
        "property_shows_the_static_output", "kept|aliasing|result",
        "The logits behind the property are the graph's own memory.",
        ("Prediction(logits.clone())", "Prediction(logits)"),
    ),
    PROPERTY.mutant(
        "label_of_the_least", "result", "The label is that of the least logit.",
        ("self._logits.argmax(-1)", "self._logits.argmin(-1)"),
    ),
    RAISED,
    RAISED.mutant(
        "exception_without_its_count", "exception", "The exception always says one row.",
        ("raise BadRows(count, first)", "raise BadRows(1, first)"),
    ),
    TOTALS,
    TOTALS.mutant(
        "class_counts_captures", "attributes", "The class counts only what is captured.",
        ("        Counted.total += x.shape[0]\n", ""),
        ("Counted._made += 1", "Counted.total += x.shape[0]"),
    ),
    TOTALS.mutant(
        "instance_counts_instead", "attributes", "Each instance counts for itself; the class stays at zero.",
        ("Counted.total += x.shape[0]", "self.total += x.shape[0]"),
    ),
    THAWED,
    THAWED.mutant(
        "parameters_stay_frozen", "state|flags", "The parameters are not given back their wish for gradients.",
        ("p.requires_grad_(wanted)", "pass"),
    ),
    THAWED.mutant(
        "frozen_base_thawed", "state|flags", "The base learns again after the first capture.",
        ("p.requires_grad_(wanted)", "p.requires_grad_(True)"),
    ),
    PLAIN_RESULT,
    PLAIN_RESULT.mutant(
        "inference_tensors_handed_out", "result",
        "The results are inference tensors, which no one may save for a backward pass.",
        ("@torch.no_grad()", "@torch.inference_mode()"),
    ),
    COLLECTED,
    COLLECTED.mutant(
        "garbage_never_collected_again", "flags", "Collection stays off for the whole process.",
        ("            if collecting:\n                gc.enable()\n", ""),
    ),
    STREAM,
    STREAM.mutant(
        "own_stream_stays_current", "flags|result", "Everything the caller does next runs on the module's stream.",
        ("        torch.cuda.set_stream(caller)\n", ""),
    ),
    WINDOW,
    WINDOW.mutant(
        "unsaved_buffer_of_first_row", "attributes", "The public buffer keeps the row of the first call.",
        ("        self.last.copy_(x)\n        self.seen += 1\n        return self.lift(x)\n    def forward",
         "        self.seen += 1\n        return self.lift(x)\n    def forward"),
    ),
    WINDOW.mutant(
        "unsaved_count_of_warmup", "attributes", "The count of the warmup stays.",
        ("            self.seen.copy_(seen)\n", ""),
    ),
    DISTRIBUTION,
    DISTRIBUTION.mutant(
        "distribution_over_static_output", "kept|aliasing|result", "The mean is the graph's own memory.",
        ("Normal(mean.clone(), std.clone()", "Normal(mean, std.clone()"),
    ),
    CHOSEN,
    CHOSEN.mutant(
        "function_counts_captures", "attributes", "The function's own count stands still in a replay.",
        ("    squash.calls += 1\n    if x.shape", "    if x.shape"),
        ("        static = x.clone()\n", "        static = x.clone()\n        squash.calls += 1\n"),
    ),
)  # fmt: skip
