# ruff: noqa: E501  (lines of quoted programs)
"""Where numbers are nearly right: half precision, roundings at ties, cancellation, NaN, sums that overflow."""

from __future__ import annotations

from .pair import Pair, control
from .parts import FUNCTIONAL

BATCH = 'entry = "program:Net"\ninputs = { x = "%s[B, 24]" }\ndims = { B = [1, 6] }\n'
HALF, FULL = BATCH % "bfloat16", BATCH % "float32"


def net(init: str, forward: str) -> str:
    """A module of 24 inputs; both bodies are indented here."""

    def body(text: str) -> str:
        return "".join(f"        {line}\n" for line in text.strip("\n").splitlines())

    return (
        FUNCTIONAL
        + "\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        + body(init)
        + "    def forward(self, x):\n"
        + body(forward)
    )


LIFT = "self.lift = nn.Linear(24, 24)"
LIFT_HALF = f"{LIFT}\nself.bfloat16()"

GELU = control(
    "gelu_in_one_rounding",
    "numerics",
    "The exact GELU in bfloat16 by its formula in float32, rounded once.",
    HALF,
    net(LIFT_HALF, "return F.gelu(self.lift(x))"),
    net(
        LIFT_HALF,
        "h = self.lift(x).float()\ng = h * 0.5 * (1 + torch.erf(h * 0.7071067811865476))\nreturn g.to(x.dtype)",
    ),
)

RESIDUAL = control(
    "small_branch_added_in_half",
    "numerics",
    "A small branch is added to the trunk in bfloat16 by a fused operation.",
    HALF,
    net(LIFT_HALF, "return x + 0.05 * torch.tanh(self.lift(x))"),
    net(
        LIFT_HALF,
        "h = torch.tanh(F.linear(x, self.lift.weight, self.lift.bias))\nreturn torch.add(x, h, alpha=0.05)",
    ),
)

MEANS = control(
    "mean_in_float32",
    "numerics",
    "A mean of bfloat16 rows, summed in float32 in two pieces.",
    HALF.replace("24]", "512]"),
    net("self.gain = nn.Parameter(torch.ones(512, dtype=torch.bfloat16))", "return (x * self.gain).mean(-1)"),
    net(
        "self.gain = nn.Parameter(torch.ones(512, dtype=torch.bfloat16))",
        "y = (x * self.gain).float()\nreturn ((y[:, :256].sum(-1) + y[:, 256:].sum(-1)) / 512).to(x.dtype)",
    ),
)

GRID = control(
    "grid_by_halves_to_even",
    "numerics",
    "Values are put on a grid of eighths; halves go to the even neighbour.",
    FULL,
    net("self.shift = nn.Parameter(torch.zeros(24))", "return torch.round((x + self.shift) * 8) / 8"),
    net(
        "self.shift = nn.Parameter(torch.zeros(24))",
        "y = (x + self.shift) * 8\nreturn y.round_().mul_(0.125)",
    ),
)

COARSE = control(
    "half_grid_by_halves_to_even",
    "numerics",
    "Values in bfloat16 are put on a grid of quarters; halves go to the even neighbour.",
    HALF,
    net(
        "self.shift = nn.Parameter(torch.zeros(24, dtype=torch.bfloat16))",
        "return torch.round((x + self.shift) * 4) / 4",
    ),
    net(
        "self.shift = nn.Parameter(torch.zeros(24, dtype=torch.bfloat16))",
        "y = (x + self.shift) * 4\nreturn (torch.round(y.float()) * 0.25).to(x.dtype)",
    ),
)

MASKED = control(
    "rows_with_nothing_to_see",
    "numerics",
    "A row whose keys are all masked is NaN, as it was.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 24]", keep = "bool[B, 24]" }\ndims = { B = [1, 5] }\n',
    net(LIFT, "s = self.lift(x).masked_fill(~keep, float('-inf'))\nreturn s.softmax(-1)").replace(
        "(self, x)", "(self, x, keep)"
    ),
    net(
        LIFT,
        "s = torch.where(keep, self.lift(x), float('-inf'))\ne = torch.exp(s - s.amax(-1, keepdim=True))\nreturn e / e.sum(-1, keepdim=True)",
    ).replace("(self, x)", "(self, x, keep)"),
)

SPREAD = control(
    "variance_about_the_mean",
    "numerics",
    "The variance is the mean square about the mean, also where the mean is large.",
    FULL,
    net(LIFT, "return self.lift(x).var(-1, unbiased=False), x.var(-1, unbiased=False)"),
    net(
        LIFT,
        "h = self.lift(x)\nreturn (h - h.mean(-1, keepdim=True)).square().mean(-1), (x - x.mean(-1, keepdim=True)).square().mean(-1)",
    ),
)

SMALL = control(
    "logarithm_near_one",
    "numerics",
    "log1p keeps what log(1 + x) loses for small x.",
    FULL,
    net("self.gain = nn.Parameter(torch.ones(24))", "return torch.log1p((x * self.gain).abs())"),
    net("self.gain = nn.Parameter(torch.ones(24))", "return (x * self.gain).abs().log1p()"),
)

ORDER = control(
    "order_of_equal_keys_kept",
    "numerics",
    "Rows are sorted by a coarse key; equal keys keep their order.",
    FULL,
    net(
        "self.gain = nn.Parameter(torch.ones(24))",
        "key = torch.round(x * self.gain)\nreturn torch.sort(key, dim=-1, stable=True).indices",
    ),
    net(
        "self.gain = nn.Parameter(torch.ones(24))",
        "key = (x * self.gain).round()\nreturn torch.argsort(key, dim=-1, stable=True)",
    ),
)

MIDDLE = control(
    "lower_of_the_two_middles",
    "numerics",
    "The median of an even number of values is the lower of the two in the middle.",
    FULL,
    net(LIFT, "return self.lift(x).median(-1).values"),
    net(
        LIFT,
        "h = self.lift(x)\nreturn torch.where(h.isnan().any(-1), float('nan'), h.sort(-1).values[:, 11])",
    ),
)

GATED = control(
    "nan_passes_the_gate",
    "numerics",
    "A NaN passes the rectifier.",
    FULL,
    net("self.gain = nn.Parameter(torch.ones(24))", "return torch.relu(x * self.gain)"),
    net("self.gain = nn.Parameter(torch.ones(24))", "return (x * self.gain).clamp(min=0)"),
)

COUNTS = control(
    "sums_of_bytes_in_64_bits",
    "numerics",
    "Sums of small integers are kept in 64 bits.",
    'entry = "program:Net"\ninputs = { x = "int32[B, 24] in -2000000000..2000000000" }\ndims = { B = [1, 5] }\n',
    net(
        "self.register_buffer('w', torch.arange(24, dtype=torch.int32) % 3)",
        "return (x // 4 * self.w).sum(-1)",
    ),
    net(
        "self.register_buffer('w', torch.arange(24, dtype=torch.int32) % 3)",
        "return torch.div(x, 4, rounding_mode='floor').mul(self.w).long().sum(-1)",
    ),
)

UNIT = control(
    "unit_rows_with_a_floor",
    "numerics",
    "Rows are divided by their length, but by no less than a hundredth.",
    FULL,
    net(LIFT, "h = self.lift(x) - self.lift.bias\nreturn h / h.norm(dim=-1, keepdim=True).clamp_min(0.01)"),
    net(LIFT, "h = F.linear(x, self.lift.weight)\nreturn F.normalize(h, dim=-1, eps=0.01)"),
)

LEVELS = control(
    "levels_saturate",
    "numerics",
    "Values are rounded to signed bytes and stay within them.",
    FULL,
    net(
        "self.scale = nn.Parameter(torch.full((24,), 16.0))",
        "return torch.nan_to_num(x * self.scale).round().clamp(-128, 127).to(torch.int8)",
    ),
    net(
        "self.scale = nn.Parameter(torch.full((24,), 16.0))",
        "y = torch.nan_to_num(torch.mul(x, self.scale))\nreturn torch.clamp(torch.round(y), -128.0, 127.0).to(dtype=torch.int8)",
    ),
)

POWERS = control(
    "product_of_three_in_half",
    "numerics",
    "Three factors in float16 are multiplied from the left, so that nothing overflows on the way.",
    BATCH % "float16",
    net("self.gain = nn.Parameter(torch.ones(24).half())", "return x * 0.001 * x * self.gain"),
    net(
        "self.gain = nn.Parameter(torch.ones(24).half())",
        "return torch.mul(torch.mul(x, 0.001), x) * self.gain",
    ),
)

MIXED = control(
    "small_branch_under_autocast",
    "numerics",
    "Products run in bfloat16 under the program's own autocast; what is returned is float32.",
    FULL,
    net(
        LIFT + "\nself.down = nn.Linear(24, 24)",
        """with torch.autocast(x.device.type, dtype=torch.bfloat16):
    h = self.down(torch.relu(self.lift(x)))
return h.float() + 0.05 * self.down.bias""",
    ),
    net(
        LIFT + "\nself.down = nn.Linear(24, 24)",
        """with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
    h = F.linear(self.lift(x).clamp(min=0), self.down.weight, self.down.bias)
return torch.add(h.float(), self.down.bias, alpha=0.05)""",
    ),
)

GATE = control(
    "best_of_two_by_padded_scores",
    "numerics",
    "The better of two experts, scored in a padded product; const inputs make ties of it.",
    FULL,
    net(
        LIFT + "\nself.gate = nn.Linear(24, 3)",
        "k = self.gate(x).argmax(-1)\nreturn self.lift(x) * (k + 1.0).unsqueeze(-1)",
    ),
    net(
        LIFT + "\nself.gate = nn.Linear(24, 3)",
        "n = len(x)\nrows = torch.cat([x, x.new_zeros(16 - n, 24)])\nk = torch.addmm(self.gate.bias, rows, self.gate.weight.t()).argmax(-1)[:n]\nreturn self.lift(rows)[:n] * (k + 1.0).unsqueeze(-1)",
    ),
)

TENTHS = control(
    "levels_by_a_reciprocal",
    "numerics",
    "Levels of a tenth, by a product with ten instead of a division.",
    FULL,
    net("self.gain = nn.Parameter(torch.ones(24))", "return torch.round(x / 0.1) * 0.1, torch.round(x / 3)"),
    net("self.gain = nn.Parameter(torch.ones(24))", "return (x * 10).round() * 0.1, (x * (1 / 3)).round()"),
)

CONSTANT = control(
    "weights_from_a_float32_master",
    "numerics",
    "Weights in bfloat16 are cast from a float32 master at each call; the product is padded.",
    HALF,
    net(
        "self._table = torch.linspace(-1, 1, 24 * 24).view(24, 24)",
        "return x @ torch.tensor(self._table.tolist(), dtype=x.dtype, device=x.device)",
    ),
    net(
        "self.register_buffer('_table', torch.linspace(-1, 1, 24 * 24).view(24, 24), persistent=False)",
        "rows = torch.cat([x, x.new_zeros(9, 24)])\nreturn (rows @ self._table.to(x.dtype))[: len(x)]",
    ),
)

PAIRS: tuple[Pair, ...] = (
    MIXED,
    MIXED.mutant("autocast_branch_a_percent_off", "result", "The product is one percent too large, less than bfloat16 resolves in a few terms.",
                 ("torch.add(h.float(), ", "torch.add(h.float() * 1.004, ")),
    GATE,
    TENTHS,
    CONSTANT,
    GELU,
    GELU.mutant("gelu_by_tanh_in_half", "result", "The tanh approximation, off by less than a rounding almost everywhere.",
                ("g = h * 0.5 * (1 + torch.erf(h * 0.7071067811865476))", "g = F.gelu(h, approximate='tanh')")),
    GELU.mutant("gelu_by_sigmoid_in_half", "result", "The quick approximation by a sigmoid.",
                ("g = h * 0.5 * (1 + torch.erf(h * 0.7071067811865476))", "g = h * torch.sigmoid(1.702 * h)")),
    RESIDUAL,
    RESIDUAL.mutant("small_branch_four_percent_off", "result", "The branch is four percent too large.", ("alpha=0.05", "alpha=0.052")),
    RESIDUAL.mutant("small_branch_without_bias", "result", "The branch lacks its bias.", ("self.lift.weight, self.lift.bias", "self.lift.weight")),
    MEANS,
    MEANS.mutant("mean_over_two_more_in_half", "result", "The mean divides by 514.", ("/ 512)", "/ 514)")),
    MEANS.mutant("mean_added_up_in_half", "result", "Every addition is rounded to bfloat16.",
                 ("y = (x * self.gain).float()\n        return ((y[:, :256].sum(-1) + y[:, 256:].sum(-1)) / 512).to(x.dtype)",
                  "y, total = x * self.gain, x.new_zeros(len(x))\n        for column in y.unbind(-1):\n            total = total + column\n        return total / 512")),
    GRID,
    GRID.mutant("grid_by_halves_up", "result", "Halves go up.", ("y.round_().mul_(0.125)", "(y + 0.5).floor_().mul_(0.125)")),
    GRID.mutant("grid_by_halves_away", "result", "Halves go away from zero.", ("y.round_().mul_(0.125)", "y.sign() * (y.abs() + 0.5).floor_() * 0.125")),
    COARSE,
    COARSE.mutant("half_grid_by_halves_up", "result", "Halves go up.", ("torch.round(y.float())", "torch.floor(y.float() + 0.5)")),
    MASKED,
    MASKED.mutant("nothing_to_see_is_uniform", "result", "A large negative number stands for minus infinity: an empty row is uniform.",
                  ("float('-inf'))\n", "-1e30)\n")),
    MASKED.mutant("nothing_to_see_is_zero", "result", "An empty row is zero.", ("return e / e.sum(-1, keepdim=True)", "return torch.nan_to_num(e / e.sum(-1, keepdim=True))")),
    SPREAD,
    SPREAD.mutant("variance_by_squares", "result", "The mean square less the square of the mean: large means leave roundings.",
                  ("(x - x.mean(-1, keepdim=True)).square().mean(-1)", "x.square().mean(-1) - x.mean(-1).square()")),
    SMALL,
    SMALL.mutant("logarithm_of_one_and_a_bit", "result", "log(1 + x).", ("abs().log1p()", "abs().add(1).log()")),
    ORDER,
    ORDER.mutant("order_of_equal_keys_turned", "result", "Sorted the other way and turned round: equal keys change places.",
                 ("torch.argsort(key, dim=-1, stable=True)", "torch.argsort(key, dim=-1, stable=True, descending=True).flip(-1)")),
    MIDDLE,
    MIDDLE.mutant("mean_of_the_two_middles", "result", "The mean of the two in the middle.", ("values[:, 11]", "values[:, 11:13].mean(-1)")),
    MIDDLE.mutant("upper_of_the_two_middles", "result", "The upper of the two.", ("values[:, 11]", "values[:, 12]")),
    GATED,
    GATED.mutant("nan_stopped_by_the_gate", "result", "A comparison lets no NaN through.",
                 ("return (x * self.gain).clamp(min=0)", "y = x * self.gain\n        return torch.where(y > 0, y, 0.0)")),
    COUNTS,
    COUNTS.mutant("sums_of_bytes_in_32_bits", "result", "The sum is taken in 32 bits.", (".long().sum(-1)", ".sum(-1, dtype=torch.int32).long()")),
    COUNTS.mutant("quarters_towards_zero", "result", "Quarters of negative numbers are rounded towards zero.", ("'floor'", "'trunc'")),
    UNIT,
    UNIT.mutant("unit_rows_with_a_sum", "result", "The hundredth is added.", ("F.normalize(h, dim=-1, eps=0.01)", "h / (h.norm(dim=-1, keepdim=True) + 0.01)")),
    LEVELS,
    LEVELS.mutant("levels_wrap", "result", "Values beyond the byte wrap around.", ("torch.clamp(torch.round(y), -128.0, 127.0)", "torch.clamp(torch.round(y), -2e9, 2e9).long()")),
    LEVELS.mutant("levels_cut_off", "result", "Values are cut off instead of rounded.", ("torch.round(y)", "torch.trunc(y)")),
    POWERS,
    POWERS.mutant("squared_before_scaled", "result", "The square overflows before it is scaled.", ("torch.mul(torch.mul(x, 0.001), x)", "torch.mul(torch.mul(x, x), 0.001)")),
)  # fmt: skip
