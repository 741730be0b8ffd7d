# ruff: noqa: E501  (lines of quoted programs)
"""Wrong in rare company: other orders of arguments, memos that come near, answers drawn side by side, what an exception leaves."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

H = FUNCTIONAL + CAPTURE + ADDRESSES
ROWS = 'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n'
REPLAY = """
    def _replayed(self, name, run, *given):
        key = (name, *(g.shape for g in given), addresses(self))
        if key not in self._graphs:
            static = [g.clone() for g in given]
            self._graphs[key] = (static, *capture(lambda: run(*static)))
        static, graph, out = self._graphs[key]
        for held, g in zip(static, given):
            held.copy_(g)
        graph.replay()
        return out
"""
LIFT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(6, 6)
"""
GRAPHS = LIFT + "        self._graphs = {}\n" + REPLAY

NAMED = control(
    "parts_given_by_name",
    "capture",
    "Parts come by name, in any order, and are weighed by their names.",
    'entry = "program:Net"\ninputs = { a = "float32[B, 6]", b = "float32[B, 6]", c = "float32[B, 6]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, **parts):
        return self.lift(parts["a"] - 2 * parts["b"]) * parts["c"]
""",
    H
    + GRAPHS
    + """
    def _run(self, a, b, c):
        return self.lift(a - 2 * b) * c
    def forward(self, **parts):
        return self._replayed("run", self._run, parts["a"], parts["b"], parts["c"]).clone()
""",
)

BATCH = control(
    "batch_is_a_dict_of_any_order",
    "capture",
    "A dict comes in whatever order its keys were put in.",
    'entry = "program:Net"\ninputs = { batch = { rows = "float32[B, 6]", scale = "float32[B, 6]" } }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, batch):
        return self.lift(batch["rows"]) * batch["scale"]
""",
    H
    + GRAPHS
    + """
    def _run(self, rows, scale):
        return self.lift(rows) * scale
    def forward(self, batch):
        return self._replayed("run", self._run, batch["rows"], batch["scale"]).clone()
""",
)

DIRECTION = control(
    "direction_of_rows",
    "numerics",
    "Only the direction of a row matters, however short the row is.",
    ROWS,
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-30)
""",
    H
    + GRAPHS
    + """
    def _run(self, x):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    def forward(self, x):
        return self._replayed("run", self._run, x).clone()
""",
)

PLANE = control(
    "sums_of_a_plane",
    "numerics",
    "Rows and columns vary; a memo knows content, shape and weights.",
    'entry = "program:Net"\ninputs = { x = "float32[B, S]" }\ndims = { B = [1, 6], S = [1, 6] }\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
    def forward(self, x):
        return (x * self.gain).cumsum(0).tanh()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self._graphs = {}
        self._memo = None
"""
    + REPLAY
    + """
    def _run(self, x):
        return (x * self.gain).cumsum(0).tanh()
    def forward(self, x):
        key = (x.shape, x.cpu().numpy().tobytes(), self.gain.item())
        if self._memo is None or self._memo[0] != key:
            self._memo = (key, self._replayed("run", self._run, x).clone())
        return self._memo[1].clone()
""",
)

STREAMED = control(
    "streams_of_states",
    "state",
    "A generator goes on from its own state, however many others are under way.",
    'entry = "program:Net"\ninputs = { x = "float32[6]" }\ndims = {}\n',
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        h = x
        for _ in range(4):
            h = torch.tanh(self.lift(h) + x)
            yield h
""",
    H
    + GRAPHS
    + """
    def _run(self, h, x):
        return torch.tanh(self.lift(h) + x)
    def forward(self, x):
        h = x
        for _ in range(4):
            h = self._replayed("run", self._run, h, x).clone()
            yield h
""",
)

CHECKED = control(
    "refused_rows_leave_nothing",
    "state",
    "Rows that are not finite are refused; the next call is as if it had not been.",
    ROWS,
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        if not torch.isfinite(x).all():
            raise ValueError("rows are not finite")
        return self.lift(x).relu()
""",
    H
    + GRAPHS
    + """
    def _run(self, x):
        return self.lift(x).relu(), torch.isfinite(x).all()
    def forward(self, x):
        out, fine = self._replayed("run", self._run, x)
        if not fine:
            raise ValueError("rows are not finite")
        return out.clone()
""",
)

BEST = control(
    "greatest_with_its_places",
    "buffers",
    "The result of torch.max has names; the rewrite's has them too.",
    ROWS,
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        return self.lift(x).max(-1)
""",
    H
    + GRAPHS
    + """
    def forward(self, x):
        lifted = self._replayed("lift", self.lift, x)
        return lifted.max(-1)
""",
)

THREE = control(
    "graphs_for_every_size",
    "capture",
    "Every size has its own static input.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 9] }\n',
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        return self.lift(x).softmax(0)
""",
    H
    + LIFT
    + """
        self._graphs = {}
        self._slots = {}
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            slot = len(self._graphs)
            self._slots[slot] = x.clone()
            self._graphs[key] = (slot, *capture(lambda: self.lift(self._slots[slot]).softmax(0)))
        slot, graph, out = self._graphs[key]
        self._slots[slot].copy_(x)
        graph.replay()
        return out.clone()
""",
)

FOLDED = control(
    "weights_folded_by_version",
    "capture",
    "Two layers are multiplied into one, anew whenever a weight is another or has been written to.",
    ROWS.replace("6]", "6] in -8.0..8.0"),
    FUNCTIONAL
    + LIFT
    + """
        self.drop = nn.Linear(6, 3, bias=False)
    def forward(self, x):
        return self.drop(self.lift(x))
""",
    H
    + LIFT
    + """
        self.drop = nn.Linear(6, 3, bias=False)
        self._folded = None
        self._graphs = {}
"""
    + REPLAY
    + """
    def _key(self):
        held = (self.lift.weight, self.lift.bias, self.drop.weight)
        return [t.detach().clone() for t in held]
    def forward(self, x):
        now = self._key()
        if self._folded is None or not all(torch.equal(a, b) for a, b in zip(now, self._folded[0])):
            w = self.drop.weight @ self.lift.weight
            self._graphs.clear()
            self._folded = (now, w.detach().clone(), (self.drop.weight @ self.lift.bias).detach().clone())
        _, w, b = self._folded
        return self._replayed("run", lambda x: x @ w.t() + b, x).clone()
""",
)

PATCHED = control(
    "smooth_step_of_its_own",
    "capture",
    "A function of torch's is used through a wrapper of the program's own.",
    ROWS,
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, x):
        return F.softsign(self.lift(x))
""",
    H
    + """
def steps(t):
    return t / (1 + t.abs())
"""
    + GRAPHS
    + """
    def _run(self, x):
        return steps(self.lift(x))
    def forward(self, x):
        return self._replayed("run", self._run, x).clone()
""",
)

MASKED = control(
    "attention_over_allowed_places",
    "numerics",
    "Places that are not allowed take no part, whatever their scores are.",
    'entry = "program:Net"\ninputs = { q = "float32[B, 6]", k = "float32[S, 6]", allowed = "bool[B, S]" }\ndims = { B = [1, 3], S = [2, 6] }\n',
    FUNCTIONAL
    + LIFT
    + """
    def forward(self, q, k, allowed):
        scores = self.lift(q) @ k.t()
        scores = scores.masked_fill(~allowed, float("-inf"))
        best = scores.amax(-1, keepdim=True)
        weights = torch.where(allowed, (scores - torch.where(best.isinf(), torch.zeros_like(best), best)).exp(), torch.zeros_like(scores))
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-20) @ k
""",
    H
    + GRAPHS
    + """
    def _run(self, q, k, allowed):
        scores = self.lift(q) @ k.t()
        scores = scores.masked_fill(~allowed, float("-inf"))
        best = scores.amax(-1, keepdim=True)
        weights = torch.where(allowed, (scores - torch.where(best.isinf(), torch.zeros_like(best), best)).exp(), torch.zeros_like(scores))
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-20) @ k
    def forward(self, q, k, allowed):
        return self._replayed("run", self._run, q, k, allowed).clone()
""",
)

ROOTS = control(
    "roots_by_newtons_way",
    "branches",
    "As many rounds as it takes, at most two hundred; the rewrite asks after every eight.",
    'entry = "program:root"\ninputs = { x = "float32[8] in 0.0..1e30" }\ndims = {}\n',
    FUNCTIONAL
    + """
def root(x):
    r = torch.ones_like(x)
    for _ in range(200):
        new = 0.5 * (r + x / r)
        done = ((new - r).abs() <= 1e-6 * new).all()
        r = new
        if done:
            break
    return r
""",
    FUNCTIONAL
    + CAPTURE
    + """
_kept = []

def _rounds(r, x):
    done = torch.zeros((), dtype=torch.bool, device=x.device)
    for _ in range(8):
        new = 0.5 * (r + x / r)
        stop = ((new - r).abs() <= 1e-6 * new).all()
        r = torch.where(done, r, new)
        done = done | stop
    return r, done

def root(x):
    if not _kept:
        given = (torch.ones_like(x), x.clone())
        _kept.append((given, *capture(lambda: _rounds(*given))))
    (r, static), graph, (out, done) = _kept[0]
    static.copy_(x)
    r.fill_(1.0)
    for _ in range(25):
        graph.replay()
        if done:
            break
        r.copy_(out)
    return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    NAMED,
    NAMED.mutant("parts_taken_in_order", "result", "Parts are taken in the order in which they are named.",
                 ('parts["a"], parts["b"], parts["c"]).clone()', "*parts.values()).clone()")),
    BATCH,
    BATCH.mutant("batch_taken_in_order", "result", "The values of the dict are taken in its order.",
                 ('batch["rows"], batch["scale"]).clone()', "*batch.values()).clone()")),
    DIRECTION,
    DIRECTION.mutant("direction_of_rows_that_were_near", "result", "Rows that are close to the last ones are taken for them.",
                     ("        return self._replayed(\"run\", self._run, x).clone()",
                      "        last = self.__dict__.get(\"_last\")\n        if last is None or last[0].shape != x.shape or not torch.allclose(last[0], x):\n            self._last = last = (x.clone(), self._replayed(\"run\", self._run, x).clone())\n        return last[1].clone()")),
    DIRECTION.mutant("direction_with_a_larger_floor", "result", "Rows shorter than a millionth are no longer of length one.",
                     ("clamp(min=1e-30)", "clamp(min=1e-6)")),
    PLANE,
    PLANE.mutant("plane_known_by_its_bytes", "result", "The memo does not know the shape.", ("key = (x.shape, x.cpu()", "key = (x.cpu()")),
    PLANE.mutant("plane_known_without_its_gain", "result", "The memo does not know the gain.", (", self.gain.item())", ")")),
    PLANE.mutant("plane_handed_out_twice", "aliasing|kept|result", "The memo's own tensor is handed out.", ("return self._memo[1].clone()", "return self._memo[1]")),
    STREAMED,
    STREAMED.mutant("streams_share_their_state", "result", "The state is the graph's own input: streams that are drawn from by turns go on from each other.",
                    ("            h = self._replayed(\"run\", self._run, h, x).clone()\n            yield h\n",
                     "            self._h = self._replayed(\"run\", self._run, self._h, x).clone()\n            yield self._h\n"),
                    ("        h = x\n        for", "        self._h = x\n        for")),
    STREAMED.mutant("streams_share_their_input", "result", "The input is that of the stream that was begun last.",
                    ("        h = x\n        for", "        h = x\n        self._x = x\n        for"),
                    ("self._run, h, x).clone()", "self._run, h, self._x).clone()")),
    CHECKED,
    CHECKED.mutant("refused_one_call_late", "exception", "The check is read in the next call.",
                   ("        out, fine = self._replayed(\"run\", self._run, x)\n",
                    "        fine = self.__dict__.get(\"_fine\", True)\n        out, now = self._replayed(\"run\", self._run, x)\n        self._fine = bool(now)\n")),
    CHECKED.mutant("refused_for_good", "exception", "After a refusal everything is refused.",
                   ("        if not fine:\n", "        self._bad = self.__dict__.get(\"_bad\", False) or not bool(fine)\n        if self._bad:\n")),
    CHECKED.mutant("refused_and_then_eager_without_activation", "result|exception", "After a refusal the call goes another, wrong way.",
                   ("        if not fine:\n", "        if self.__dict__.get(\"_bad\"):\n            return self.lift(x)\n        if not fine:\n            self._bad = True\n")),
    CHECKED.mutant("refused_infinities_only", "exception", "NaN passes the check.", ("torch.isfinite(x).all()", "~torch.isinf(x).any()")),
    BEST,
    BEST.mutant("greatest_as_a_plain_tuple", "result", "The result has lost its names.", ("return lifted.max(-1)", "return tuple(lifted.max(-1))")),
    BEST.mutant("greatest_as_a_list", "result", "The result is a list.", ("return lifted.max(-1)", "return list(lifted.max(-1))")),
    BEST.mutant("greatest_handed_out_statically", "kept|aliasing|result", "The results lie in the graph's memory.",
                ("        lifted = self._replayed(\"lift\", self.lift, x)\n        return lifted.max(-1)", "        return self._replayed(\"lift\", lambda x: self.lift(x).max(-1), x)")),
    THREE,
    THREE.mutant("third_size_takes_the_firsts_input", "result|exception", "There are two static inputs, which sizes take by turns.",
                 ("slot = len(self._graphs)", "slot = len(self._graphs) % 2")),
    THREE.mutant("fourth_size_takes_the_firsts_graph", "result|exception", "Only three graphs are kept, by their number.",
                 ("        if key not in self._graphs:\n", "        if key not in self._graphs and len(self._graphs) > 5:\n            return self.lift(x).softmax(-1)\n        if key not in self._graphs:\n")),
    FOLDED,
    FOLDED.mutant("folded_by_counted_writes", "result|state", "A weight is known by how often it was written to, which another memory behind it does not change.",
                  ("return [t.detach().clone() for t in held]", "return [torch.tensor(t._version) for t in held]")),
    FOLDED.mutant("folded_by_its_first_weight", "result", "The weights of the second layer are not looked at.",
                  ("held = (self.lift.weight, self.lift.bias, self.drop.weight)", "held = (self.lift.weight, self.lift.bias)")),
    FOLDED.mutant("folded_by_sums", "result", "Weights are known by their sums: shuffled, they are the same.",
                  ("return [t.detach().clone() for t in held]", "return [t.detach().sum().round(decimals=2) for t in held]")),
    PATCHED,
    PATCHED.mutant("functions_of_torch_replaced", "flags|result", "The wrapper takes the place of torch's own function, for everybody.",
                   ("def steps(t):\n    return t / (1 + t.abs())\n", "def steps(t):\n    return t / (1 + t.abs())\n\nF.softsign = steps\n")),
    MASKED,
    MASKED.mutant("scores_of_minus_ten_thousand", "result", "Places that are not allowed get a low score, which is not the lowest.",
                  ("weights = torch.where(allowed, (scores", "weights = torch.where(allowed | True, (scores"),
                  ('masked_fill(~allowed, float("-inf"))', "masked_fill(~allowed, -1e4)")),
    MASKED.mutant("nothing_allowed_is_everything_allowed", "result", "Where nothing is allowed, everything is.",
                  ("scores.masked_fill(~allowed,", "scores.masked_fill(~allowed & allowed.any(-1, keepdim=True),"),
                  ("weights = torch.where(allowed, ", "weights = torch.where(allowed | ~allowed.any(-1, keepdim=True), ")),
    ROOTS,
    ROOTS.mutant("roots_after_a_few_rounds", "result", "There are at most 24 rounds.", ("range(25)", "range(3)")),
    ROOTS.mutant("roots_go_on_from_the_last", "result", "The first guess is the last root.", ("    r.fill_(1.0)\n", "")),
)  # fmt: skip
