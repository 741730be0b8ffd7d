# ruff: noqa: E501  (lines of quoted programs)
"""Rare values and last places: full buckets, equal scores, halves, NaN, other orders of summation."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

FULL = control(
    "mean_of_a_bucket_with_counts",
    "padding",
    "Rows are padded to a bucket and refilled; the mean divides by the rows that are there.",
    'entry = "program:Pool"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 9] }\n',
    TORCH
    + """
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
    def forward(self, x):
        return torch.relu(self.lift(x)).sum(0) / x.shape[0], self.lift(x)
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """
BUCKETS = (4, 8, 16)

class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, rows, here, count):
        h = self.lift(rows)
        return torch.where(here, torch.relu(h), 0.0).sum(0) / count, h
    def forward(self, x):
        n = x.shape[0]
        if torch.is_grad_enabled():
            return torch.relu(self.lift(x)).sum(0) / n, self.lift(x)
        bucket = next(b for b in BUCKETS if b >= n)
        key = (bucket, addresses(self))
        if key not in self._graphs:
            rows, here = x.new_zeros(bucket, 4), torch.zeros(bucket, 1, dtype=torch.bool, device=x.device)
            count = torch.ones((), device=x.device)
            self._graphs[key] = ((rows, here, count), *capture(lambda: self._run(rows, here, count)))
        (rows, here, count), graph, (mean, h) = self._graphs[key]
        rows[:n].copy_(x)
        rows[n:].zero_()
        here[:n].fill_(True)
        here[n:].fill_(False)
        count.fill_(n)
        graph.replay()
        return mean.clone(), h[:n].clone()
""",
)

TIES = control(
    "first_of_equal_scores",
    "numerics",
    "The index of the greatest score is that of the first among equal ones, and of the first NaN.",
    'entry = "program:Route"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 5] }\n',
    FUNCTIONAL
    + """
class Route(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 2.0]))
    def forward(self, x):
        score = torch.round(x * self.gain * 2)
        return score.argmax(-1), score
""",
    FUNCTIONAL
    + """
class Route(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 2.0]))
    def forward(self, x):
        score = torch.round(x * self.gain * 2)
        order = torch.sort(score, dim=-1, descending=True, stable=True).indices
        return order.select(-1, 0), score
""",
)

HALVES = control(
    "halves_rounded_to_even",
    "numerics",
    "Levels are rounded as torch.round does; a scale that is a power of two changes nothing.",
    'entry = "program:Levels"\ninputs = { x = "float32[B, 5]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(5))
    def forward(self, x):
        level = torch.round((x + self.shift) * 4)
        return level.clamp(-8, 7) / 4
""",
    FUNCTIONAL
    + """
class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(5))
    def forward(self, x):
        level = ((x + self.shift) * 4).round()
        return level.clamp(-8, 7).mul(0.25)
""",
)

GREATER = control(
    "greater_of_two_with_nan",
    "numerics",
    "The greater of two tensors; NaN on either side stays NaN.",
    'entry = "program:Peak"\ninputs = { x = "float32[B, 5]", y = "float32[B, 5]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Peak(nn.Module):
    def __init__(self):
        super().__init__()
        self.floor = nn.Parameter(torch.full((5,), -0.5))
    def forward(self, x, y):
        return torch.maximum(torch.maximum(x, y), self.floor)
""",
    FUNCTIONAL
    + """
class Peak(nn.Module):
    def __init__(self):
        super().__init__()
        self.floor = nn.Parameter(torch.full((5,), -0.5))
    def forward(self, x, y):
        return torch.stack([x, y, self.floor.expand_as(x)]).amax(0)
""",
)

SCAN = control(
    "running_sums_by_doubling",
    "numerics",
    "Running sums are added up in five rounds of shifted additions instead of one after another.",
    'entry = "program:Scan"\ninputs = { x = "float32[B, 24]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Scan(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(24) + 0.5)
    def forward(self, x):
        return (x * self.w).cumsum(-1)
""",
    FUNCTIONAL
    + """
class Scan(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(24) + 0.5)
    def forward(self, x):
        y = x * self.w
        step = 1
        while step < 24:
            y = torch.cat([y[:, :step], y[:, step:] + y[:, :-step]], -1)
            step *= 2
        return y
""",
)

SCALED = control(
    "scale_moved_into_the_query",
    "numerics",
    "Attention in bfloat16 with the scale applied to the query before the product.",
    'entry = "program:Attend"\ninputs = { x = "bfloat16[B, S, 12]" }\ndims = { B = [1, 2], S = [1, 7] }\n',
    FUNCTIONAL
    + """
class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.bfloat16()
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        score = (q @ k.transpose(-1, -2)) * 12 ** -0.5
        return score.softmax(-1) @ v
""",
    FUNCTIONAL
    + """
class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.bfloat16()
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        score = torch.matmul(q * 12 ** -0.5, k.mT)
        return torch.softmax(score, -1) @ v
""",
)

ROOT = control(
    "root_of_the_mean_square",
    "numerics",
    "Normalisation by the root of the mean square, with the epsilon under the root.",
    'entry = "program:Norm"\ninputs = { x = "float16[B, 16]" }\ndims = { B = [1, 5] }\n',
    FUNCTIONAL
    + """
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(16).half() + 0.5)
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.gain
""",
    FUNCTIONAL
    + """
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(16).half() + 0.5)
    def forward(self, x):
        wide = x.float()
        power = (wide * wide).view(-1, 4, 4).sum(1).sum(-1, keepdim=True) / 16
        return (wide / torch.sqrt(power + 1e-6)).to(x.dtype) * self.gain
""",
)

CACHED = control(
    "positions_beyond_eight",
    "state",
    "A cache of twelve rows whose position is a number on the device.",
    'entry = "program:Cache"\ninputs = { x = "float32[3]", restart = "bool" }\ndims = {}\n',
    TORCH
    + """
class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(12, 3))
        self.at = 0
    def forward(self, x, restart):
        if restart or self.at == 12:
            self.at = 0
            self.rows.zero_()
        self.rows[self.at] = x
        self.at += 1
        return self.rows.sum(0), self.at
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """
class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(12, 3))
        self.at = 0
        self._graphs = {}
    def _put(self, x, at):
        self.rows.index_copy_(0, at, x[None])
        return self.rows.sum(0)
    def forward(self, x, restart):
        if restart or self.at == 12:
            self.at = 0
            self.rows.zero_()
        key = addresses(self)
        if key not in self._graphs:
            saved = self.rows.clone()
            static, at = x.clone(), torch.zeros(1, dtype=torch.int64, device=x.device)
            self._graphs[key] = (static, at, *capture(lambda: self._put(static, at)))
            self.rows.copy_(saved)
        static, at, graph, out = self._graphs[key]
        static.copy_(x)
        at.fill_(self.at)
        graph.replay()
        self.at += 1
        return out.clone(), self.at
""",
)

NOISE = control(
    "noise_drawn_once",
    "rng",
    "One draw a call, whatever the values are.",
    'entry = "program:Noise"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n',
    FUNCTIONAL
    + """
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))
    def forward(self, x):
        y = x * self.w + 0.1 * torch.randn_like(x)
        return torch.nan_to_num(y, nan=-1.0)
""",
    FUNCTIONAL
    + """
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))
    def forward(self, x):
        y = torch.addcmul(0.1 * torch.randn_like(x), x, self.w)
        return torch.where(y.isnan(), -1.0, y).nan_to_num()
""",
)

SKIPPED = control(
    "schedule_goes_on_when_a_step_is_skipped",
    "training",
    "Bad gradients are thrown away; the schedule counts the call all the same.",
    'entry = "program:Step"\ninputs = { x = "float32[6, 4]" }\ndims = {}\nmode = "train"\n',
    FUNCTIONAL
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.opt, 2, 0.5)
    @torch.enable_grad()
    def forward(self, x):
        loss = self.net(x).square().mean()
        loss.backward()
        bad = sum((~p.grad.isfinite()).sum() for p in self.net.parameters()).item()
        if not bad:
            self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        self.schedule.step()
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.opt, 2, 0.5)
        self._graphs = {}
    def _grads(self, x):
        loss = self.net(x).square().mean()
        grads = torch.autograd.grad(loss, list(self.net.parameters()))
        bad = sum((~g.isfinite()).sum() for g in grads)
        return loss.detach(), grads, bad
    @torch.enable_grad()
    def forward(self, x):
        key = addresses(self)
        if key not in self._graphs:
            static = x.detach().clone()
            self._graphs[key] = (static, *capture(lambda: self._grads(static)))
        static, graph, (loss, grads, bad) = self._graphs[key]
        with torch.no_grad():
            static.copy_(x)
        graph.replay()
        for p, g in zip(self.net.parameters(), grads):
            p.grad = g.clone() if p.grad is None else p.grad.add_(g)
        if not bad.item():
            self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        self.schedule.step()
        return loss.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    FULL,
    FULL.mutant(
        "mean_wrong_for_a_full_bucket",
        "result",
        "The count is taken modulo the bucket, which is nothing where the bucket is full.",
        ("count.fill_(n)", "count.fill_(n % bucket or 1)"),
    ),
    FULL.mutant(
        "mask_stale_after_smaller_batch",
        "result",
        "The mask is only ever set: rows of an earlier, larger batch count as present.",
        ("        here[n:].fill_(False)\n", ""),
    ),
    FULL.mutant(
        "largest_bucket_is_exclusive",
        "result",
        "A batch as large as its bucket goes to the next one, where another test looks up the rows.",
        ("here[:n].fill_(True)", "here[: min(n, 8)].fill_(True)"),
    ),
    FULL.mutant(
        "rows_are_a_view_from_the_second_size_on",
        "kept|result|aliasing",
        "Only the first bucket's rows are copied out.",
        ("h[:n].clone()", "h[:n].clone() if len(self._graphs) < 2 else h[:n]"),
    ),
    TIES,
    TIES.mutant(
        "last_of_equal_scores",
        "result",
        "Among equal scores the last one is named.",
        (
            "order = torch.sort(score, dim=-1, descending=True, stable=True).indices\n        return order.select(-1, 0), score",
            "order = torch.sort(score, dim=-1, stable=True).indices\n        return order.select(-1, -1), score",
        ),
    ),
    TIES.mutant(
        "nan_is_not_the_greatest",
        "result",
        "The first score equal to the maximum: none is where the maximum is NaN.",
        (
            "order = torch.sort(score, dim=-1, descending=True, stable=True).indices\n        return order.select(-1, 0), score",
            "best = score == score.amax(-1, keepdim=True)\n        return best.to(torch.uint8).argmax(-1), score",
        ),
    ),
    HALVES,
    GREATER,
    GREATER.mutant(
        "nan_loses_against_a_number",
        "result",
        "fmax prefers the number where the other is NaN.",
        ("torch.stack([x, y, self.floor.expand_as(x)]).amax(0)", "torch.fmax(torch.fmax(x, y), self.floor)"),
    ),
    SCAN,
    SCAN.mutant(
        "running_sums_one_round_short",
        "result",
        "The last round is missing: sums of more than sixteen terms lack the first ones.",
        ("while step < 24", "while step < 16"),
    ),
    SCAN.mutant(
        "running_sums_by_a_triangle",
        "result",
        "A product with a triangle of ones adds zero times a later NaN to every sum.",
        (
            "        step = 1\n        while step < 24:\n            y = torch.cat([y[:, :step], y[:, step:] + y[:, :-step]], -1)\n            step *= 2\n        return y",
            "        return y @ torch.ones(24, 24, device=x.device).triu()",
        ),
    ),
    SCALED,
    SCALED.mutant(
        "scale_of_another_head_size",
        "result",
        "The scale is that of twice as many dimensions.",
        ("q * 12 ** -0.5", "q * 24 ** -0.5"),
    ),
    ROOT,
    ROOT.mutant(
        "epsilon_beside_the_root",
        "result",
        "The epsilon is added to the root: rows of tiny values differ.",
        ("torch.sqrt(power + 1e-6)", "(torch.sqrt(power) + 1e-6)"),
    ),
    CACHED,
    CACHED.mutant(
        "position_late_after_eight",
        "state|result",
        "From the ninth row on every row is written one place too far.",
        ("at.fill_(self.at)", "at.fill_(min(11, self.at + (self.at >= 8)))"),
    ),
    NOISE,
    NOISE.mutant(
        "drawn_again_where_something_is_nan",
        "random|result",
        "A result with NaN is computed once more, and the generator moves twice.",
        (
            "        return torch.where",
            "        if y.isnan().any():\n            y = torch.addcmul(0.1 * torch.randn_like(x), x, self.w)\n        return torch.where",
        ),
    ),
    SKIPPED,
    SKIPPED.mutant(
        "schedule_waits_with_a_skipped_step",
        "attributes",
        "A call whose gradients are thrown away does not count for the schedule.",
        (
            "        self.schedule.step()\n        return loss.clone()",
            "        if not bad.item():\n            self.schedule.step()\n        return loss.clone()",
        ),
    ),
    SKIPPED.mutant(
        "skipped_gradients_stay",
        "gradients|state",
        "Gradients are cleared after a step only: those of a skipped one are added to the next.",
        (
            "            self.opt.step()\n        self.opt.zero_grad",
            "            self.opt.step()\n            self.opt.zero_grad",
        ),
    ),
)
