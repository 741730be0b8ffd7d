# ruff: noqa: E501  (lines of quoted programs)
"""Decisions that tensors make: between replays, or on the device."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, GRAPH, TORCH

ROUTER = control(
    "branch_between_replays",
    "branches",
    "The stem, and each side, has its own graph; the host reads the predicate after the stem's replay.",
    """
entry  = "program:Router"
inputs = { x = "float32[B, 16]" }
dims   = { B = [1, 6] }
""",
    TORCH
    + """

class Router(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.stem = nn.Linear(dim, dim, bias=False)
        self.loud = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.quiet = nn.Linear(dim, dim)

    def forward(self, x):
        h = self.stem(x)
        if h.mean() > 0:
            return self.loud(h)
        return self.quiet(h)
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Router(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.stem = nn.Linear(dim, dim, bias=False)
        self.loud = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.quiet = nn.Linear(dim, dim)
        self._graphs = {}

    def _graph(self, name, fn, x):
        key = (name, tuple(x.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(fn, x)
        return self._graphs[key]

    def _stem(self, x):
        h = self.stem(x)
        return h, h.mean() > 0

    def forward(self, x):
        if torch.is_grad_enabled():
            h, positive = self._stem(x)
            return self.loud(h) if positive else self.quiet(h)
        h, positive = self._graph("stem", self._stem, x)(x)
        if positive.item():
            return self._graph("loud", self.loud, h)(h).clone()
        return self._graph("quiet", self.quiet, h)(h).clone()
""",
)

CLIP = control(
    "where_replaces_clip",
    "branches",
    "Both sides are computed and where() selects; a NaN norm still takes the untouched side.",
    """
entry  = "program:ClipRows"
inputs = { x = "float32[B, 8]", limit = "float in 0.5..4.0" }
dims   = { B = [1, 5] }
""",
    TORCH
    + '''

class ClipRows(nn.Module):
    """Scales a whole batch down when its norm is beyond the limit."""

    def __init__(self, dim=8):
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x, limit):
        norm = x.norm()
        if norm > limit:
            x = x * (limit / norm)
        return self.out(x), norm
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class ClipRows(nn.Module):
    """Scales a whole batch down when its norm is beyond the limit."""

    def __init__(self, dim=8):
        super().__init__()
        self.out = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x, limit):
        norm = x.norm()
        x = torch.where(norm > limit, x * (limit / norm), x)
        return self.out(x), norm

    def forward(self, x, limit):
        if torch.is_grad_enabled():
            return self._run(x, limit)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            sx, bound = x.clone(), x.new_full((), limit)
            self._graphs[key] = (sx, bound, *capture(lambda: self._run(sx, bound)))
        sx, bound, graph, (out, norm) = self._graphs[key]
        sx.copy_(x)
        bound.fill_(limit)
        graph.replay()
        return out.clone(), norm.clone()
''',
)

SOLVER = control(
    "while_loop_between_replays",
    "branches",
    "One step of the solver is a graph, the host reads the residual between replays and counts.",
    """
entry  = "program:FixedPoint"
inputs = { b = "float32[N, 6]" }
dims   = { N = [1, 4] }
""",
    TORCH
    + '''

class FixedPoint(nn.Module):
    """z = tanh(W z + b), iterated until it moves by less than the tolerance."""

    def __init__(self, dim=6, tol=1e-2, limit=12):
        super().__init__()
        self.w = nn.Linear(dim, dim)
        self.tol, self.limit = tol, limit

    def forward(self, b):
        z = torch.zeros_like(b)
        steps = 0
        while steps < self.limit:
            new = torch.tanh(self.w(z) + b)
            moved = (new - z).abs().amax()
            z = new
            steps += 1
            if moved < self.tol:
                break
        return z, steps
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class FixedPoint(nn.Module):
    """z = tanh(W z + b), iterated until it moves by less than the tolerance."""

    def __init__(self, dim=6, tol=1e-2, limit=12):
        super().__init__()
        self.w = nn.Linear(dim, dim)
        self.tol, self.limit = tol, limit
        self._graphs = {}

    def _step(self, z, b):
        new = torch.tanh(self.w(z) + b)
        moved = (new - z).abs().amax()
        z.copy_(new)
        return moved

    def _start(self, b):
        if torch.is_grad_enabled():
            z = torch.zeros_like(b)
            return z, lambda: self._step(z, b)
        key = (b.shape, addresses(self))
        if key not in self._graphs:
            sb, sz = b.clone(), torch.zeros_like(b)
            self._graphs[key] = (sb, sz, *capture(lambda: self._step(sz, sb)))
        sb, sz, graph, moved = self._graphs[key]
        sb.copy_(b)
        sz.zero_()

        def step():
            graph.replay()
            return moved

        return sz, step

    def forward(self, b):
        z, step = self._start(b)
        steps = 0
        while steps < self.limit:
            moved = step()
            steps += 1
            if moved < self.tol:
                break
        return z.clone(), steps
''',
)

CHECKED = control(
    "check_read_after_replay",
    "branches",
    "The check is a flag that the graph computes; it is read after the replay and raises what the original raised.",
    """
entry  = "program:Lookup"
inputs = { ids = "int64[N] in 0..12", scale = "float32[N]" }
dims   = { N = [1, 6] }
""",
    TORCH
    + '''

class Lookup(nn.Module):
    """Embeds ids; an id that is not in the table is the caller's mistake."""

    def __init__(self, rows=11, dim=4):
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, dim))

    def forward(self, ids, scale):
        if (ids >= self.table.shape[0]).any():
            raise ValueError("id beyond the table")
        return self.table[ids] * scale[:, None]
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Lookup(nn.Module):
    """Embeds ids; an id that is not in the table is the caller's mistake."""

    def __init__(self, rows=11, dim=4):
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, dim))
        self._graphs = {}

    def _run(self, ids, scale):
        beyond = (ids >= self.table.shape[0]).any()
        safe = ids.clamp(max=self.table.shape[0] - 1)
        return self.table[safe] * scale[:, None], beyond

    def forward(self, ids, scale):
        if torch.is_grad_enabled():
            out, beyond = self._run(ids, scale)
        else:
            key = (tuple(ids.shape), tuple(scale.shape), addresses(self))
            if key not in self._graphs:
                sids, sscale = ids.clone(), scale.clone()
                self._graphs[key] = (sids, sscale, *capture(lambda: self._run(sids, sscale)))
            sids, sscale, graph, (out, beyond) = self._graphs[key]
            sids.copy_(ids)
            sscale.copy_(scale)
            graph.replay()
        if beyond.item():
            raise ValueError("id beyond the table")
        return out.clone()
''',
)

ELIF = control(
    "three_way_branch_by_index",
    "branches",
    "The side is computed on the device as a number, read once, and each side is a graph; NaN takes the last side.",
    """
entry  = "program:Gears"
inputs = { x = "float32[8]" }
dims   = {}
""",
    TORCH
    + """

class Gears(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.low, self.mid, self.high = (nn.Parameter(torch.randn(dim)) for _ in range(3))

    def forward(self, x):
        speed = x.abs().max()
        if speed < 1:
            return x * self.low
        elif speed <= 10:
            return torch.relu(x * self.mid)
        return x * self.high + speed / 16
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Gears(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.low, self.mid, self.high = (nn.Parameter(torch.randn(dim)) for _ in range(3))
        self._graphs, self._built_for = {}, None

    def _side(self, x):
        speed = x.abs().max()
        return speed, torch.where(speed < 1, 0, torch.where(speed <= 10, 1, 2))

    def _high(self, x, speed):
        return x * self.high + speed / 16

    def _mid(self, x, speed):
        return torch.relu(x * self.mid)

    def _low(self, x, speed):
        return x * self.low

    def forward(self, x):
        sides = (self._low, self._mid, self._high)
        if torch.is_grad_enabled() or x.shape != (8,):
            speed, side = self._side(x)
            return sides[int(side)](x, speed)
        if self._built_for != addresses(self):
            self._graphs = {"side": Graph(self._side, x)}
            self._built_for = addresses(self)
        speed, side = self._graphs["side"](x)
        chosen = int(side)
        if chosen not in self._graphs:
            self._graphs[chosen] = Graph(sides[chosen], x, speed)
        return self._graphs[chosen](x, speed).clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    ROUTER,
    ROUTER.mutant(
        "branch_baked_at_first_call",
        "result",
        "The decision about the first batch of a shape is remembered with its graphs.",
        (
            "        if positive.item():",
            '        side = self._graphs.setdefault(("side", x.shape), positive.item())\n        if side:',
        ),
    ),
    ROUTER.mutant(
        "predicate_inverted_for_nan",
        "result",
        "not (mean <= 0) is true for NaN where mean > 0 is false.",
        ("return h, h.mean() > 0", "return h, ~(h.mean() <= 0)"),
    ),
    ROUTER.mutant(
        "threshold_greater_or_equal",
        "result",
        "A mean of exactly zero goes the other way.",
        ("return h, h.mean() > 0", "return h, h.mean() >= 0"),
    ),
    ROUTER.mutant(
        "branch_lags_one_call",
        "result",
        "The host uses the flag it read before this replay.",
        (
            '        h, positive = self._graph("stem", self._stem, x)(x)\n        if positive.item():',
            '        h, positive = self._graph("stem", self._stem, x)(x)\n        last, self._last = getattr(self, "_last", None), positive.item()\n'
            "        if self._last if last is None else last:",
        ),
    ),
    ROUTER.mutant(
        "sides_swapped_in_graph_cache",
        "result",
        "Both sides are stored under one key: whoever comes first is replayed for both.",
        ('self._graph("quiet", self.quiet, h)', 'self._graph("loud", self.quiet, h)'),
    ),
    CLIP,
    CLIP.mutant(
        "clip_by_clamped_factor",
        "result",
        "min(1, limit / norm) is not the branch: a NaN norm spoils every element and infinity turns others to zero or NaN.",
        ("torch.where(norm > limit, x * (limit / norm), x)", "x * (limit / norm).clamp(max=1.0)"),
    ),
    CLIP.mutant(
        "where_sides_swapped_for_nan",
        "result",
        "The condition is turned around, so NaN now scales.",
        (
            "torch.where(norm > limit, x * (limit / norm), x)",
            "torch.where(norm <= limit, x, x * (limit / norm))",
        ),
    ),
    CLIP.mutant(
        "limit_baked_at_capture",
        "result",
        "The limit of the first call is the limit of all.",
        ("        bound.fill_(limit)\n", ""),
    ),
    CLIP.mutant(
        "epsilon_added_to_norm",
        "result",
        "A harmless looking epsilon changes rows of small norm limits by more than rounding.",
        ("x * (limit / norm), x)", "x * (limit / (norm + 1e-3)), x)"),
    ),
    CLIP.mutant(
        "norm_of_clipped_returned",
        "result",
        "The norm is taken after the clipping.",
        (
            "        return self.out(x), norm\n\n    def forward",
            "        return self.out(x), x.norm()\n\n    def forward",
        ),
    ),
    SOLVER,
    SOLVER.mutant(
        "loop_count_of_first_call",
        "result",
        "The number of steps found in the first call is used for all later ones.",
        (
            "            if moved < self.tol:\n                break\n",
            '            if moved < self.tol if not hasattr(self, "_n") else steps >= self._n:\n                break\n        self._n = steps\n',
        ),
    ),
    SOLVER.mutant(
        "iterate_not_reset",
        "result",
        "The iteration starts from the solution of the call before.",
        ("        sz.zero_()\n", ""),
    ),
    SOLVER.mutant(
        "warm_start_in_first_call_only",
        "result",
        "Warmup and capture leave a moved iterate, reset only in later calls.",
        (
            "        sb, sz, graph, moved = self._graphs[key]\n        sb.copy_(b)\n        sz.zero_()\n",
            "        else:\n            self._graphs[key][1].zero_()\n        sb, sz, graph, moved = self._graphs[key]\n        sb.copy_(b)\n",
        ),
    ),
    SOLVER.mutant(
        "steps_counted_after_test",
        "result",
        "The returned number of steps is one short when the loop ends early.",
        (
            "            steps += 1\n            if moved < self.tol:\n                break\n",
            "            if moved < self.tol:\n                break\n            steps += 1\n",
        ),
    ),
    SOLVER.mutant(
        "steps_returned_as_tensor",
        "result",
        "The count comes back as a tensor.",
        ("return z.clone(), steps\n", "return z.clone(), torch.tensor(steps)\n"),
    ),
    CHECKED,
    CHECKED.mutant(
        "check_dropped",
        "exception",
        "The flag is never read: a wrong id gets the last row.",
        ('        if beyond.item():\n            raise ValueError("id beyond the table")\n', ""),
    ),
    CHECKED.mutant(
        "other_exception_type",
        "exception",
        "Callers that catch ValueError no longer do.",
        ('raise ValueError("id beyond the table")', 'raise IndexError("id beyond the table")'),
    ),
    CHECKED.mutant(
        "check_only_while_warming_up",
        "exception",
        "The check runs in the first call of each shape only.",
        (
            "        if beyond.item():",
            '            if ids.shape in self.__dict__.setdefault("_checked", set()):\n                return out.clone()\n'
            "            self._checked.add(ids.shape)\n        if beyond.item():",
        ),
    ),
    CHECKED.mutant(
        "check_off_by_one",
        "exception",
        "The first id beyond the table passes.",
        ("beyond = (ids >= self.table.shape[0]).any()", "beyond = (ids > self.table.shape[0]).any()"),
    ),
    ELIF,
    ELIF.mutant(
        "nan_takes_the_first_side",
        "result",
        "Written the other way round, a NaN speed ends in the first gear.",
        (
            "torch.where(speed < 1, 0, torch.where(speed <= 10, 1, 2))",
            "torch.where(speed > 10, 2, torch.where(speed >= 1, 1, 0))",
        ),
    ),
    ELIF.mutant(
        "boundary_of_elif_moved",
        "result",
        "A speed of exactly ten changes gear.",
        ("speed <= 10", "speed < 10"),
    ),
    ELIF.mutant(
        "speed_of_capture_in_branch",
        "result",
        "The last side adds the speed it was captured with.",
        (
            "self._graphs[chosen] = Graph(sides[chosen], x, speed)\n        return self._graphs[chosen](x, speed).clone()",
            "speed = speed.clone()\n            self._graphs[chosen] = Graph(lambda v: sides[chosen](v, speed), x)\n        return self._graphs[chosen](x).clone()",
        ),
    ),
)
