# ruff: noqa: E501  (lines of quoted programs)
"""Numbers: what may differ in the last place, and what may not."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, FUNCTIONAL, GRAPH, TORCH

# The input is the whole argument list, and the module keeps one graph for each shape.
REPLAYED = """
    def forward(self, *inputs):
        if torch.is_grad_enabled():
            return self._run(*inputs)
        key = (tuple(t.shape for t in inputs), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, *inputs)
        out = self._graphs[key](*inputs)
        return tuple(t.clone() for t in out) if isinstance(out, tuple) else out.clone()
"""

CHUNKED = control(
    "sums_in_another_order",
    "numerics",
    "The sum is taken in four pieces, which are added at the end: another order, another rounding.",
    """
entry  = "program:Energy"
inputs = { _0 = "float32[B, 1000]" }
dims   = { B = [1, 3] }
""",
    TORCH
    + """

class Energy(nn.Module):
    def __init__(self, dim=1000):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim) + 0.5)

    def forward(self, x):
        return (x * x * self.weight).sum(-1), (x * self.weight).mean(-1)
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Energy(nn.Module):
    def __init__(self, dim=1000):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim) + 0.5)
        self._graphs = {}

    def _run(self, x):
        squares = (x * x * self.weight).view(*x.shape[:-1], 4, -1)
        total = squares.sum(-1).sum(-1)
        mean = (x @ self.weight) / x.shape[-1]
        return total, mean
"""
    + REPLAYED,
)

HALF = control(
    "half_precision_split_gemm",
    "numerics",
    "One float16 product is computed as two over halves of the inner dimension.",
    """
entry  = "program:Projection"
inputs = { _0 = "float16[B, 64]" }
dims   = { B = [1, 9] }
""",
    TORCH
    + """

class Projection(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.weight = nn.Parameter((torch.randn(dim, 32) * dim**-0.5).half())

    def forward(self, x):
        return torch.relu(x @ self.weight)
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Projection(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.weight = nn.Parameter((torch.randn(dim, 32) * dim**-0.5).half())
        self._graphs = {}

    def _run(self, x):
        left = x[:, :32].float() @ self.weight[:32].float()
        return torch.relu(left + x[:, 32:].float() @ self.weight[32:].float()).half()
"""
    + REPLAYED,
)

INTEGERS = control(
    "integer_keys_exact",
    "numerics",
    "Keys are computed in integers throughout.",
    """
entry  = "program:keys"
inputs = { row = "int64[N] in 0..100000", column = "int64[N] in 0..999", factor = "int in 1..1000" }
dims   = { N = [1, 8] }
""",
    """
import torch


def keys(row, column, factor):
    \"\"\"One number for each place, how many there are of each parity, and which lie far out.\"\"\"
    key = row * 1003 * factor + column
    return key, torch.stack([(key % 2 == 0).sum(), (key % 2 == 1).sum()]), key > 100000
""",
    TORCH.replace("from torch import nn\n", "")
    + GRAPH
    + '''

_graphs = {}


def _keys(row, column, factor):
    key = row * 1003 * factor + column
    return key, torch.stack([(key % 2 == 0).sum(), (key % 2 == 1).sum()]), key > 100000


def keys(row, column, factor):
    """One number for each place, how many there are of each parity, and which lie far out."""
    factor = torch.full((), factor, dtype=torch.int64, device=row.device)
    shape = (row.shape, column.shape)
    if shape not in _graphs:
        _graphs[shape] = Graph(_keys, row, column, factor)
    return tuple(t.clone() for t in _graphs[shape](row, column, factor))
''',
)

TINY = control(
    "tiny_scale_kept",
    "numerics",
    "Results of the order of 1e-6 come out as accurate as large ones.",
    """
entry  = "program:Attenuate"
inputs = { _0 = "float32[B, 64]" }
dims   = { B = [2, 6] }
""",
    TORCH
    + '''

class Attenuate(nn.Module):
    """A strong attenuation, and one row of corrections a thousand times weaker."""

    def __init__(self, dim=64):
        super().__init__()
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        h = self.mix(x) * 1e-6
        return torch.cat([h, h[:1] * 1e-3])
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Attenuate(nn.Module):
    """A strong attenuation, and one row of corrections a thousand times weaker."""

    def __init__(self, dim=64):
        super().__init__()
        self.mix = nn.Linear(dim, dim, bias=False)
        self._graphs = {}

    def _run(self, x):
        h = self.mix(x * 1e-6)
        return torch.cat([h, h[:1] * 1e-3])
'''
    + REPLAYED,
)

SOFTMAX = control(
    "softmax_by_logsumexp",
    "numerics",
    "exp(x - logsumexp(x)) is a softmax with other rounding and the same behaviour at infinity.",
    """
entry  = "program:Heads"
inputs = { _0 = "float32[B, 8]" }
dims   = { B = [1, 5] }
""",
    FUNCTIONAL
    + """

class Heads(nn.Module):
    def __init__(self, dim=8, classes=7):
        super().__init__()
        self.out = nn.Linear(dim, classes)

    def forward(self, x):
        logits = self.out(x)
        return F.softmax(logits, -1), F.log_softmax(logits, -1)
""",
    FUNCTIONAL
    + GRAPH
    + ADDRESSES
    + """

class Heads(nn.Module):
    def __init__(self, dim=8, classes=7):
        super().__init__()
        self.out = nn.Linear(dim, classes)
        self._graphs = {}

    def _run(self, x):
        logits = self.out(x)
        log = F.log_softmax(logits, -1)
        return log.exp(), log
"""
    + REPLAYED,
)

BIG = control(
    "large_output_row_by_row",
    "numerics",
    "A large output whose every element counts: the product is written block by block.",
    """
entry  = "program:Table"
inputs = { _0 = "float32[B, 48]" }
dims   = { B = [120, 128] }
""",
    TORCH
    + """

class Table(nn.Module):
    def __init__(self, dim=48, columns=160):
        super().__init__()
        self.lift = nn.Linear(dim, columns)

    def forward(self, x):
        return self.lift(x).sigmoid()
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Table(nn.Module):
    def __init__(self, dim=48, columns=160):
        super().__init__()
        self.lift = nn.Linear(dim, columns)
        self._graphs = {}

    def _run(self, x):
        out = x.new_empty(x.shape[0], self.lift.out_features)
        for start in range(0, self.lift.out_features, 40):
            rows = slice(start, start + 40)
            out[:, rows] = torch.addmm(self.lift.bias[rows], x, self.lift.weight[rows].T)
        return out.sigmoid_()
"""
    + REPLAYED,
)

PAIRS: tuple[Pair, ...] = (
    CHUNKED,
    CHUNKED.mutant(
        "last_element_left_out",
        "result",
        "The last of a thousand terms is missing: small in the sum, and wrong.",
        ("(x @ self.weight) / x.shape[-1]", "(x[..., :-1] @ self.weight[:-1]) / x.shape[-1]"),
    ),
    CHUNKED.mutant(
        "mean_over_one_less",
        "result",
        "The mean divides by 999.",
        ("/ x.shape[-1]\n        return total", "/ (x.shape[-1] - 1)\n        return total"),
    ),
    CHUNKED.mutant(
        "summed_in_half_precision",
        "result",
        "The products are rounded to half precision before they are added.",
        ("total = squares.sum(-1).sum(-1)", "total = squares.half().float().sum(-1).sum(-1)"),
    ),
    CHUNKED.mutant(
        "result_keeps_a_dimension",
        "result",
        "The sum has shape (B, 1) and would broadcast.",
        ("total = squares.sum(-1).sum(-1)", "total = squares.sum(-1).sum(-1, keepdim=True)"),
    ),
    HALF,
    HALF.mutant(
        "result_in_float32",
        "result",
        "The result is more accurate, and of another dtype.",
        ("@ self.weight[32:].float()).half()", "@ self.weight[32:].float())"),
    ),
    HALF.mutant(
        "computed_in_bfloat16",
        "result",
        "Half of the product is computed with eight bits of mantissa.",
        (
            "x[:, :32].float() @ self.weight[:32].float()",
            "(x[:, :32].bfloat16() @ self.weight[:32].bfloat16()).float()",
        ),
    ),
    HALF.mutant(
        "halves_overlap",
        "result",
        "One column is counted twice.",
        (
            "left + x[:, 32:].float() @ self.weight[32:].float()",
            "left + x[:, 31:].float() @ self.weight[31:].float()",
        ),
    ),
    INTEGERS,
    INTEGERS.mutant(
        "integers_through_float",
        "result",
        "Keys beyond 2 to the 24th lose their last digits.",
        (
            "    key = row * 1003 * factor + column\n    return key, torch.stack",
            "    key = (row.float() * 1003 * factor + column).long()\n    return key, torch.stack",
        ),
    ),
    INTEGERS.mutant(
        "integers_wrap_at_32_bits",
        "result",
        "The product is taken in 32 bits.",
        (
            "    key = row * 1003 * factor + column\n    return key, torch.stack",
            "    key = (row.int() * 1003 * factor.int() + column.int()).long()\n    return key, torch.stack",
        ),
    ),
    INTEGERS.mutant(
        "off_by_one_at_the_end_of_the_range",
        "result",
        "Row 100000 is clamped to 99999.",
        (
            "    key = row * 1003 * factor + column\n    return key, torch.stack",
            "    key = row.clamp(max=99999) * 1003 * factor + column\n    return key, torch.stack",
        ),
    ),
    INTEGERS.mutant(
        "integer_factor_baked",
        "result",
        "The factor of the first call is part of the graph.",
        (
            "Graph(_keys, row, column, factor)",
            "Graph(lambda r, c, f, k=int(factor): _keys(r, c, k), row, column, factor)",
        ),
    ),
    INTEGERS.mutant(
        "bool_output_is_float",
        "result",
        "The mask comes back as zeros and ones.",
        (
            "(key % 2 == 1).sum()]), key > 100000\n\n\ndef keys",
            "(key % 2 == 1).sum()]), (key > 100000).float()\n\n\ndef keys",
        ),
    ),
    TINY,
    TINY.mutant(
        "tiny_values_became_zero",
        "result",
        "Everything below 1e-8 is taken for noise and cleared.",
        (
            "return torch.cat([h, h[:1] * 1e-3])\n\n    def forward",
            "out = torch.cat([h, h[:1] * 1e-3])\n        return torch.where(out.abs() < 1e-8, 0.0, out)\n\n    def forward",
        ),
    ),
    TINY.mutant(
        "small_row_wrong_by_a_percent",
        "result",
        "One row, a thousand times smaller than the others, is off by one percent.",
        (
            "return torch.cat([h, h[:1] * 1e-3])\n\n    def forward",
            "return torch.cat([h, h[:1] * 1.01e-3])\n\n    def forward",
        ),
    ),
    TINY.mutant(
        "epsilon_added",
        "result",
        "A stabilising 1e-8 is added to values of 1e-6.",
        ("h = self.mix(x * 1e-6)", "h = self.mix(x * 1e-6) + 1e-8"),
    ),
    SOFTMAX,
    SOFTMAX.mutant(
        "softmax_without_maximum",
        "result",
        "exp overflows for large logits.",
        (
            "log = F.log_softmax(logits, -1)\n        return log.exp(), log\n",
            "weights = logits.exp()\n        share = weights / weights.sum(-1, keepdim=True)\n        return share, share.log()\n",
        ),
    ),
    SOFTMAX.mutant(
        "log_of_softmax",
        "result",
        "The logarithm is taken afterwards: small probabilities become minus infinity.",
        (
            "        log = F.log_softmax(logits, -1)\n        return log.exp(), log\n",
            "        share = F.softmax(logits, -1)\n        return share, share.log()\n",
        ),
    ),
    SOFTMAX.mutant(
        "nan_replaced",
        "result",
        "NaN is cleaned away on the way.",
        ("logits = self.out(x)\n        log", "logits = self.out(x).nan_to_num()\n        log"),
    ),
    SOFTMAX.mutant(
        "infinity_clamped",
        "result",
        "Logits are clamped to the range of half precision.",
        ("logits = self.out(x)\n        log", "logits = self.out(x).clamp(-65504, 65504)\n        log"),
    ),
    BIG,
    BIG.mutant(
        "one_element_of_many_wrong",
        "result",
        "One of 20,000 elements is off by half a percent.",
        ("return out.sigmoid_()", "out[77, 31] += 0.02\n        return out.sigmoid_()"),
    ),
    BIG.mutant(
        "one_column_of_last_block_missing",
        "result",
        "The last block is one column short: unwritten memory.",
        (
            "rows = slice(start, start + 40)",
            "rows = slice(start, min(start + 40, self.lift.out_features - 1))",
        ),
    ),
    BIG.mutant(
        "two_rows_swapped",
        "result",
        "Two neighbouring rows change places.",
        ("return out.sigmoid_()", "out[50:52] = out[50:52].flip(0)\n        return out.sigmoid_()"),
    ),
)
