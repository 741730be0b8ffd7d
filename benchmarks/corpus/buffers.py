# ruff: noqa: E501  (lines of quoted programs)
"""Memory that is used again: static outputs, preallocated temporaries, constants, unwritten rows."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, GRAPH, TORCH

ENCODER = control(
    "static_outputs_cloned",
    "buffers",
    "Every part of a nested result is cloned out of the graph's memory.",
    """
entry  = "program:Encoder"
inputs = { x = "float32[B, 16]" }
dims   = { B = [1, 6] }
""",
    "\nfrom dataclasses import dataclass\n"
    + TORCH
    + """

@dataclass
class Encoded:
    hidden: torch.Tensor
    pooled: torch.Tensor
    extras: tuple


class Encoder(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.LayerNorm(32))

    def forward(self, x):
        h = self.net(x)
        return Encoded(h, h.mean(-1), (h.argmax(-1), {"spread": h.std()}))
""",
    "\nfrom dataclasses import dataclass\n"
    + TORCH
    + GRAPH
    + ADDRESSES
    + """

@dataclass
class Encoded:
    hidden: torch.Tensor
    pooled: torch.Tensor
    extras: tuple


class Encoder(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.LayerNorm(32))
        self._graphs = {}

    def _run(self, x):
        h = self.net(x)
        return h, h.mean(-1), h.argmax(-1), h.std()

    def forward(self, x):
        if torch.is_grad_enabled():
            hidden, pooled, best, spread = self._run(x)
        else:
            key = (tuple(x.shape), addresses(self))
            if key not in self._graphs:
                self._graphs[key] = Graph(self._run, x)
            hidden, pooled, best, spread = (t.clone() for t in self._graphs[key](x))
        return Encoded(hidden, pooled, (best, {"spread": spread}))
""",
)

SCRATCH = control(
    "temporaries_into_out_buffers",
    "buffers",
    "Temporaries are computed with out= into buffers kept per shape and dtype; the result itself is fresh memory.",
    """
entry  = "program:Smooth"
inputs = { x = "float32[B, 12]", weight = "float in 0.0..1.0" }
dims   = { B = [1, 6] }
""",
    TORCH
    + '''

class Smooth(nn.Module):
    """Blends every feature with its neighbours."""

    def __init__(self, dim=12):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x, weight):
        around = (x.roll(1, -1) + x.roll(-1, -1)) * 0.5
        mixed = x * (1 - weight) + around * weight
        return mixed * self.gain
''',
    TORCH
    + '''

class Smooth(nn.Module):
    """Blends every feature with its neighbours, with temporaries allocated once."""

    def __init__(self, dim=12):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))
        self._buffers_of = {}

    def _scratch(self, name, x):
        key = (name, x.shape, x.dtype, x.device, torch.is_inference_mode_enabled())
        if key not in self._buffers_of:
            self._buffers_of[key] = torch.empty_like(x, memory_format=torch.contiguous_format)
        return self._buffers_of[key]

    def forward(self, x, weight):
        if torch.is_grad_enabled():
            around = (x.roll(1, -1) + x.roll(-1, -1)) * 0.5
            return (x * (1 - weight) + around * weight) * self.gain
        around, mixed = self._scratch("around", x), self._scratch("mixed", x)
        torch.add(x.roll(1, -1), x.roll(-1, -1), out=around)
        around.mul_(0.5 * weight)
        torch.mul(x, 1 - weight, out=mixed)
        mixed.add_(around)
        return torch.mul(mixed, self.gain)
''',
)

CONSTANT = control(
    "constants_built_once",
    "buffers",
    "A table made in every call became a buffer that is not saved with the model.",
    """
entry  = "program:Normalise"
inputs = { images = "float32[B, 3, 4, 4]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + """

class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)
        std = torch.tensor([0.229, 0.224, 0.225], device=images.device)
        images = (images - mean[:, None, None]) / std[:, None, None]
        return self.mix(images)
""",
    TORCH
    + """

class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)
        self.register_buffer("_mean", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("_std", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def forward(self, images):
        images = (images - self._mean[:, None, None]) / self._std[:, None, None]
        return self.mix(images)
""",
)

SCATTER = control(
    "rows_scattered_into_zeros",
    "buffers",
    "Rows that no id names are zero because the buffer is zeroed inside the graph.",
    """
entry  = "program:Spread"
inputs = { rows = "float32[N, 6]", ids = "int64[N] in 0..9" }
dims   = { N = [1, 5] }
""",
    TORCH
    + '''

class Spread(nn.Module):
    """Places rows where their ids say; rows of one id are added."""

    def __init__(self, dim=6, room=10):
        super().__init__()
        self.room = room
        self.lift = nn.Linear(dim, dim)

    def forward(self, rows, ids):
        out = torch.zeros(self.room, rows.shape[1], device=rows.device)
        out.index_add_(0, ids, self.lift(rows))
        used = torch.zeros(self.room, dtype=torch.bool, device=rows.device)
        used[ids] = True
        return out, used
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Spread(nn.Module):
    """Places rows where their ids say; rows of one id are added."""

    def __init__(self, dim=6, room=10):
        super().__init__()
        self.room = room
        self.lift = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, rows, ids):
        out = rows.new_empty(self.room, rows.shape[1])
        out.zero_()
        out.index_add_(0, ids, self.lift(rows))
        used = torch.zeros(self.room, dtype=torch.bool, device=rows.device)
        used.index_fill_(0, ids, True)
        return out, used

    def forward(self, rows, ids):
        if torch.is_grad_enabled():
            return self._run(rows, ids)
        key = (tuple(rows.shape), tuple(ids.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, rows, ids)
        out, used = self._graphs[key](rows, ids)
        return out.clone(), used.clone()
''',
)

ARENA = control(
    "one_output_arena_per_bucket",
    "buffers",
    "Every bucket writes into its own part of one preallocated arena, and callers get copies.",
    """
entry  = "program:Features"
inputs = { x = "float32[N, 8]" }
dims   = { N = [1, 16] }
""",
    TORCH
    + """

class Features(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 8), nn.GELU())

    def forward(self, x):
        return self.net(x)
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Features(nn.Module):
    """Buckets of 2, 4, 8 and 16 rows, whose outputs lie one after the other in one arena."""

    def __init__(self, dim=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 8), nn.GELU())
        self._graphs = {}
        self._arena = None

    def _bucket(self, n, x):
        size = max(2, 1 << (n - 1).bit_length())
        key = (size, addresses(self))
        if key not in self._graphs:
            if self._arena is None:
                self._arena = x.new_empty(32, 8)
            static, place = x.new_zeros(size, x.shape[1]), self._arena[size : 2 * size]
            self._graphs[key] = (static, place, *capture(lambda: place.copy_(self.net(static))))
        return self._graphs[key]

    def forward(self, x):
        if torch.is_grad_enabled() or x.dim() != 2:
            return self.net(x)
        n = x.shape[0]
        static, place, graph, _ = self._bucket(n, x)
        static[:n].copy_(x)
        graph.replay()
        return place[:n].clone()
''',
)

PAIRS: tuple[Pair, ...] = (
    ENCODER,
    ENCODER.mutant(
        "output_not_cloned",
        "kept|aliasing|result",
        "Results are the graph's own memory: the next call of the shape overwrites them.",
        ("(t.clone() for t in self._graphs[key](x))", "self._graphs[key](x)"),
    ),
    ENCODER.mutant(
        "nested_output_not_cloned",
        "kept|aliasing|result",
        "The two main tensors are cloned, the one inside the dict is forgotten.",
        (
            "hidden, pooled, best, spread = (t.clone() for t in self._graphs[key](x))",
            "hidden, pooled, best, spread = self._graphs[key](x)\n            hidden, pooled, best = hidden.clone(), pooled.clone(), best.clone()",
        ),
    ),
    ENCODER.mutant(
        "dataclass_became_tuple",
        "result",
        "The result has the right tensors in another container.",
        (
            'return Encoded(hidden, pooled, (best, {"spread": spread}))',
            'return (hidden, pooled, (best, {"spread": spread}))',
        ),
    ),
    ENCODER.mutant(
        "field_became_list",
        "result",
        "A tuple inside the result became a list.",
        ('(best, {"spread": spread})', '[best, {"spread": spread}]'),
    ),
    ENCODER.mutant(
        "index_output_is_int32",
        "result",
        "The integer output has another dtype.",
        ("h.argmax(-1), h.std()", "h.argmax(-1).int(), h.std()"),
    ),
    ENCODER.mutant(
        "scalar_output_has_a_dimension",
        "result",
        "Shape (1,) stands where a scalar tensor was.",
        ("h.argmax(-1), h.std()", "h.argmax(-1), h.std().view(1)"),
    ),
    SCRATCH,
    SCRATCH.mutant(
        "scratch_returned_to_caller",
        "kept|aliasing",
        "The result is written into a buffer as well, and the caller gets that buffer.",
        ("return torch.mul(mixed, self.gain)", "return torch.mul(mixed, self.gain, out=mixed)"),
    ),
    SCRATCH.mutant(
        "nan_survives_in_accumulator",
        "result",
        "The buffer is cleared by a product: NaN and infinity of an earlier call stay.",
        (
            "        torch.mul(x, 1 - weight, out=mixed)\n        mixed.add_(around)",
            "        mixed.mul_(0).add_(x * (1 - weight)).add_(around)",
        ),
    ),
    SCRATCH.mutant(
        "accumulator_not_cleared",
        "result",
        "The blend is added to what the last call left.",
        ("torch.mul(x, 1 - weight, out=mixed)", "mixed.add_(x, alpha=1 - weight)"),
        ("torch.empty_like(x, memory_format=torch.contiguous_format)", "torch.zeros_like(x)"),
    ),
    SCRATCH.mutant(
        "two_temporaries_share_a_buffer",
        "result",
        "Both names get the same memory, the second overwrites the first.",
        ('self._scratch("mixed", x)', 'self._scratch("around", x)'),
    ),
    SCRATCH.mutant(
        "scratch_over_the_input",
        "inputs|result",
        "To save a buffer the product is written into the caller's tensor.",
        (
            "        torch.mul(x, 1 - weight, out=mixed)\n        mixed.add_(around)\n        return torch.mul(mixed",
            "        x.mul_(1 - weight)\n        x.add_(around)\n        return torch.mul(x",
        ),
    ),
    CONSTANT,
    CONSTANT.mutant(
        "constant_saved_with_model",
        "state|load",
        "The buffers are persistent: checkpoints get other keys.",
        ("torch.tensor([0.485, 0.456, 0.406]), persistent=False)", "torch.tensor([0.485, 0.456, 0.406]))"),
    ),
    CONSTANT.mutant(
        "constant_in_half_precision",
        "result",
        "The table is stored in half precision; 0.485 is not a half-precision number.",
        ("torch.tensor([0.229, 0.224, 0.225])", "torch.tensor([0.229, 0.224, 0.225]).half()"),
    ),
    CONSTANT.mutant(
        "reciprocal_constant_rounded",
        "result",
        "Division became multiplication by reciprocals typed with four digits.",
        ("torch.tensor([0.229, 0.224, 0.225])", "torch.tensor([4.367, 4.464, 4.444])"),
        (") / self._std[:, None, None]", ") * self._std[:, None, None]"),
    ),
    CONSTANT.mutant(
        "constant_mutated_in_place",
        "result",
        "The shared table is changed by the first call.",
        ("(images - self._mean[:, None, None])", "(images - self._mean.mul_(1.0 + 1e-3)[:, None, None])"),
    ),
    SCATTER,
    SCATTER.mutant(
        "unwritten_rows_of_empty",
        "result",
        "Rows that no id names are whatever was in the memory.",
        (
            "        out.zero_()\n        out.index_add_(0, ids, self.lift(rows))",
            "        out.index_copy_(0, ids, self.lift(rows))",
        ),
    ),
    SCATTER.mutant(
        "duplicates_overwrite",
        "result",
        "Rows of one id replace each other instead of being added.",
        ("out.index_add_(0, ids, self.lift(rows))", "out.index_copy_(0, ids, self.lift(rows))"),
    ),
    SCATTER.mutant(
        "buffer_zeroed_once",
        "result",
        "Zeros are made before the capture, so rows add up over replays.",
        (
            "        out = rows.new_empty(self.room, rows.shape[1])\n        out.zero_()\n",
            "        out = self._room\n",
        ),
        (
            "            self._graphs[key] = Graph(self._run, rows, ids)\n        out, used",
            "            self._room = rows.new_zeros(self.room, rows.shape[1])\n            self._graphs[key] = Graph(self._run, rows, ids)\n            self._room.zero_()\n        out, used",
        ),
        (
            "            return self._run(rows, ids)\n        key",
            "            self._room = rows.new_zeros(self.room, rows.shape[1])\n            return self._run(rows, ids)\n        key",
        ),
    ),
    SCATTER.mutant(
        "mask_output_is_uint8",
        "result",
        "The mask became a byte tensor.",
        (
            "torch.zeros(self.room, dtype=torch.bool, device=rows.device)",
            "torch.zeros(self.room, dtype=torch.uint8, device=rows.device)",
        ),
        ("ids, True", "ids, 1"),
    ),
    ARENA,
    ARENA.mutant(
        "output_view_of_shared_arena",
        "kept|aliasing|result",
        "Callers get views of the arena.",
        ("return place[:n].clone()", "return place[:n]"),
    ),
    ARENA.mutant(
        "rows_beyond_the_bucket_lost",
        "result|exception",
        "Buckets are rounded down, rows that do not fit are cut off.",
        ("size = max(2, 1 << (n - 1).bit_length())", "size = max(2, 1 << (n.bit_length() - 1))"),
        ("static[:n].copy_(x)", "static[:n].copy_(x[: len(static)])"),
    ),
)
