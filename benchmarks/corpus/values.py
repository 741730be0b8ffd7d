# ruff: noqa: E501  (lines of quoted programs)
"""Numbers: integers of every size and sign, NaN and infinity, half precision in another order, planes and segments."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

H = TORCH + CAPTURE + ADDRESSES
HF = FUNCTIONAL + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'

# One graph per shape of all positional tensors, which is what every plain function here needs.
CALL = '''
_GRAPHS = {}

def replayed(fn, *given):
    """Replay the graph of fn for these shapes."""
    key = (fn.__name__, *(tuple(t.shape) for t in given))
    if key not in _GRAPHS:
        held = [t.clone() for t in given]
        _GRAPHS[key] = (held, *capture(lambda: fn(*held)))
    held, graph, out = _GRAPHS[key]
    for static, t in zip(held, given):
        static.copy_(t)
    graph.replay()
    return out
'''
R = TORCH + CAPTURE + CALL
RF = FUNCTIONAL + CAPTURE + CALL

BUCKETS_OF_IDS = control(
    "hashed_ids_any_integer",
    "numerics",
    "Ids of any sign and size are hashed into buckets with floor division and remainder.",
    'entry="program:hashed"\ninputs={ids="int64[N]"}\ndims={N=[1,16]}\n' + INF,
    TORCH
    + """
def hashed(ids):
    return (ids * 31 + 7) % 11, torch.div(ids, 4, rounding_mode="floor"), ids.clamp(-50, 300)
""",
    R
    + """
def _run(ids):
    return (ids * 31 + 7) % 11, torch.div(ids, 4, rounding_mode="floor"), ids.clamp(-50, 300)

def hashed(ids):
    return tuple(t.clone() for t in replayed(_run, ids))
""",
)

BYTES = control(
    "bytes_wrap_around",
    "numerics",
    "Pixels are bytes; sums wrap around at 256 as they did.",
    'entry="program:blend"\ninputs={a="uint8[B, 6]", b="uint8[B, 6]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
def blend(a, b):
    return a + b, (a.to(torch.int16) + b.to(torch.int16)).div(2, rounding_mode="floor").to(torch.uint8)
""",
    R
    + """
def _run(a, b):
    return a + b, (a.to(torch.int16) + b.to(torch.int16)).div(2, rounding_mode="floor").to(torch.uint8)

def blend(a, b):
    total, mean = replayed(_run, a, b)
    return total.clone(), mean.clone()
""",
)

SPECIAL_TOKEN = control(
    "special_token_is_masked",
    "branches",
    "One token out of a thousand is a pad and one starts a new segment.",
    'entry="program:Segments"\ninputs={ids="int64[B, 8] in 0..999"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Segments(nn.Module):
    PAD = 777
    def __init__(self, start=401):
        super().__init__()
        self.emb = nn.Embedding(1000, 4)
        self.start = start
    def forward(self, ids):
        segment = (ids == self.start).cumsum(-1)
        keep = ids != self.PAD
        h = self.emb(ids) + segment[..., None]
        return torch.where(keep[..., None], h, 0.0).sum(1), keep.sum(-1)
""",
    H
    + """
class Segments(nn.Module):
    PAD = 777
    def __init__(self, start=401):
        super().__init__()
        self.emb = nn.Embedding(1000, 4)
        self.start = start
        self._graphs = {}
    def _run(self, ids):
        segment = (ids == self.start).cumsum(-1)
        keep = ids != self.PAD
        h = self.emb(ids) + segment[..., None]
        return torch.where(keep[..., None], h, 0.0).sum(1), keep.sum(-1)
    def forward(self, ids):
        key = (ids.shape, self.start, addresses(self))
        if key not in self._graphs:
            s = ids.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, graph, out = self._graphs[key]
        s.copy_(ids)
        graph.replay()
        return tuple(t.clone() for t in out)
""",
)

NAN_STATISTICS = control(
    "statistics_that_skip_nan",
    "numerics",
    "NaN is left out of means and maxima; rows of NaN alone give zero.",
    'entry="program:stats"\ninputs={x="float32[B, 7]"}\ndims={B=[1,5]}\n' + INF,
    TORCH
    + """
def stats(x):
    mean = torch.nanmean(x, -1).nan_to_num(0.0)
    high = torch.where(x.isnan(), float("-inf"), x).amax(-1)
    return mean, high, x.isnan().sum(-1), torch.sign(x)
""",
    R
    + """
def _run(x):
    bad = x.isnan()
    total = torch.where(bad, 0.0, x).sum(-1)
    count = (~bad).sum(-1)
    mean = (total / count).nan_to_num(0.0)
    return mean, torch.where(bad, float("-inf"), x).amax(-1), bad.sum(-1), torch.sign(x)

def stats(x):
    return tuple(t.clone() for t in replayed(_run, x))
""",
)

ONLINE_SOFTMAX = control(
    "attention_in_blocks_bf16",
    "numerics",
    "Attention in bfloat16 over blocks of keys with a running maximum, summed in float32.",
    'entry="program:attend"\ninputs={q="bfloat16[M, 16]", k="bfloat16[24, 16]", v="bfloat16[24, 16]"}\ndims={M=[1,6]}\n'
    + INF,
    FUNCTIONAL
    + """
def attend(q, k, v):
    w = torch.softmax((q.float() @ k.float().T) / 4, -1)
    return (w @ v.float()).to(q.dtype)
""",
    RF
    + """
def _run(q, k, v):
    q, k, v = q.float(), k.float(), v.float()
    top = q.new_full((len(q), 1), float("-inf"))
    total = q.new_zeros(len(q), 1)
    out = torch.zeros_like(q)
    for i in range(0, 24, 8):
        score = q @ k[i : i + 8].T / 4
        new = torch.maximum(top, score.amax(-1, keepdim=True))
        old, w = torch.exp(top - new), torch.exp(score - new)
        total = total * old + w.sum(-1, keepdim=True)
        out = out * old + w @ v[i : i + 8]
        top = new
    return (out / total).to(torch.bfloat16)

def attend(q, k, v):
    if not (q.isfinite().all() and k.isfinite().all() and v.isfinite().all()):
        w = torch.softmax((q.float() @ k.float().T) / 4, -1)
        return (w @ v.float()).to(q.dtype)
    return replayed(_run, q, k, v).clone()
""",
)

HALF_NORM = control(
    "layer_norm_by_hand_in_half",
    "numerics",
    "A layer norm in float16 written out: statistics in float32, one rounding at the end.",
    'entry="program:Norm"\ninputs={x="float16[B, 32]"}\ndims={B=[1,6]}\n' + INF,
    FUNCTIONAL
    + """
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 32))
        self.bias = nn.Parameter(torch.linspace(-0.1, 0.1, 32))
    def forward(self, x):
        return F.layer_norm(x.float(), (32,), self.weight, self.bias, 1e-5).half()
""",
    HF
    + """
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 32))
        self.bias = nn.Parameter(torch.linspace(-0.1, 0.1, 32))
        self._graphs = {}
    def _run(self, x):
        h = x.float()
        mean = h.mean(-1, keepdim=True)
        var = (h - mean).square().mean(-1, keepdim=True)
        return ((h - mean) * torch.rsqrt(var + 1e-5) * self.weight + self.bias).half()
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, graph, out = self._graphs[key]
        s.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PLANES = control(
    "padded_planes_masked_between_convolutions",
    "padding",
    "Images are padded to multiples of four in both directions; after each convolution the padding is cleared again.",
    'entry="program:Conv"\ninputs={x="float32[1, 2, H, W]"}\ndims={H=[3,9], W=[3,9]}\n' + INF,
    FUNCTIONAL
    + """
class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 2, 3, padding=1)
    def forward(self, x):
        return self.b(torch.relu(self.a(x))), x.amax((2, 3))
""",
    HF
    + """
class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 2, 3, padding=1)
        self._graphs = {}
    def _run(self, x, keep):
        h = torch.where(keep, torch.relu(self.a(x)), 0.0)
        return self.b(h), torch.where(keep, x, float("-inf")).amax((2, 3))
    def forward(self, x):
        h, w = x.shape[2:]
        size = (-(-h // 4) * 4, -(-w // 4) * 4)
        key = (size, addresses(self))
        if key not in self._graphs:
            s, keep = x.new_zeros(1, 2, *size), torch.zeros(1, 1, *size, dtype=torch.bool, device=x.device)
            self._graphs[key] = (s, keep, *capture(lambda: self._run(s, keep)))
        s, keep, graph, (out, high) = self._graphs[key]
        s.zero_()
        s[:, :, :h, :w].copy_(x)
        keep.zero_()
        keep[:, :, :h, :w] = True
        graph.replay()
        return out[:, :, :h, :w].clone(memory_format=torch.contiguous_format), high.clone()
""",
)

PACKED = control(
    "packed_segments_pooled",
    "padding",
    "Rows of several documents in one tensor are pooled by segment numbers; empty documents give zero.",
    'entry="program:pool"\ninputs={x="float32[N, 4]", lengths="int64[D] in 0..6"}\ndims={N=[24,24], D=[1,4]}\n'
    + INF,
    TORCH
    + """
def pool(x, lengths):
    out, start = [], 0
    for n in lengths.tolist():
        out.append(x[start : start + n].mean(0) if n else x.new_zeros(4))
        start += n
    return torch.stack(out)
""",
    R
    + """
def _run(x, lengths):
    ends = lengths.cumsum(0)
    at = torch.arange(len(x), device=x.device)
    which = torch.searchsorted(ends, at, right=True)
    inside = which < len(lengths)
    rows = torch.where(inside[:, None], x, 0.0)
    total = x.new_zeros(len(lengths) + 1, 4).index_add_(0, which, rows)[:-1]
    return torch.where(lengths[:, None] > 0, total / lengths[:, None].clamp(min=1), 0.0)

def pool(x, lengths):
    return replayed(_run, x, lengths).clone()
""",
)

BIG_BATCH = control(
    "buckets_up_to_a_hundred",
    "padding",
    "Buckets of 16, 64 and 100 rows; what is longer runs eagerly.",
    'entry="program:Rows"\ninputs={x="float32[B, 3]"}\ndims={B=[0,130]}\n' + INF,
    TORCH
    + """
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
    def forward(self, x):
        return torch.sigmoid(self.lin(x))
""",
    H
    + """
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self._graphs = {}
    def _run(self, x):
        return torch.sigmoid(self.lin(x))
    def forward(self, x):
        n = len(x)
        size = next((b for b in (16, 64, 100) if n <= b), None)
        if size is None or n == 0:
            return self._run(x)
        key = (size, addresses(self))
        if key not in self._graphs:
            s = x.new_zeros(size, 3)
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, graph, out = self._graphs[key]
        s[:n].copy_(x)
        graph.replay()
        return out[:n].clone()
""",
)

PERMUTED = control(
    "mixup_with_permutation",
    "rng",
    "A permutation and a mixing weight are drawn in every replay from the default generator.",
    'entry="program:mix"\ninputs={x="float32[8, 4]", p="float in 0.0..1.0"}\ndims={}\n' + INF,
    TORCH
    + """
def mix(x, p):
    order = torch.randperm(len(x), device=x.device)
    w = torch.rand((), device=x.device) * p
    flip = torch.bernoulli(torch.full((len(x), 1), p, device=x.device))
    return x * (1 - w) + x[order] * w, x * (1 - 2 * flip)
""",
    TORCH
    + """
_GRAPHS = {}

def _run(x, p):
    order = torch.randperm(len(x), device=x.device)
    w = torch.rand((), device=x.device) * p
    flip = torch.bernoulli(p.expand(len(x), 1))
    return x * (1 - w) + x[order] * w, x * (1 - 2 * flip)

def mix(x, p):
    if x.shape not in _GRAPHS:
        held = [x.clone(), torch.full((), p, device=x.device)]
        state = torch.cuda.get_rng_state()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                _run(*held)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.set_rng_state(state)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = _run(*held)
        _GRAPHS[x.shape] = (held, graph, out)
    (sx, sp), graph, out = _GRAPHS[x.shape]
    sx.copy_(x)
    sp.fill_(p)
    graph.replay()
    return tuple(t.clone() for t in out)
""",
)

GRU_DONE = control(
    "recurrent_rows_reset_when_done",
    "state",
    "The hidden state of rows that are done is cleared before the step; the state is a buffer of the module.",
    'entry="program:Agent"\ninputs={x="float32[4, 6]", done="bool[4]"}\ndims={}\n' + INF,
    TORCH
    + """
class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("hidden", torch.zeros(4, 5))
    def forward(self, x, done):
        hidden = torch.where(done[:, None], 0.0, self.hidden)
        hidden = self.cell(x, hidden)
        self.hidden.copy_(hidden)
        return self.head(hidden).argmax(-1), hidden
""",
    H
    + """
class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("hidden", torch.zeros(4, 5))
        self._graphs = {}
    def _run(self, x, done):
        hidden = torch.where(done[:, None], 0.0, self.hidden)
        hidden = self.cell(x, hidden)
        self.hidden.copy_(hidden)
        return self.head(hidden).argmax(-1), hidden
    def forward(self, x, done):
        key = addresses(self)
        if key not in self._graphs:
            held, old = [x.clone(), done.clone()], self.hidden.clone()
            made = capture(lambda: self._run(*held))
            self.hidden.copy_(old)
            self._graphs[key] = (held, *made)
        (sx, sd), graph, (action, hidden) = self._graphs[key]
        sx.copy_(x)
        sd.copy_(done)
        graph.replay()
        return action.clone(), hidden.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    BUCKETS_OF_IDS,
    BUCKETS_OF_IDS.mutant(
        "hashed_truncated_remainder",
        "result",
        "Negative ids get negative buckets.",
        ("    return (ids * 31 + 7) % 11, torch.div", "    return torch.fmod(ids * 31 + 7, 11), torch.div"),
    ),
    BUCKETS_OF_IDS.mutant(
        "hashed_truncated_division",
        "result",
        "Negative ids are rounded towards zero.",
        (
            'rounding_mode="floor"), ids.clamp(-50, 300)\n\ndef',
            'rounding_mode="trunc"), ids.clamp(-50, 300)\n\ndef',
        ),
    ),
    BUCKETS_OF_IDS.mutant(
        "hashed_clamped_at_255",
        "result",
        "The upper bound is 255.",
        ("ids.clamp(-50, 300)\n\ndef", "ids.clamp(-50, 255)\n\ndef"),
    ),
    BUCKETS_OF_IDS.mutant(
        "hashed_through_float",
        "result",
        "Large ids lose their last digits.",
        (
            "    return (ids * 31 + 7) % 11, torch.div",
            "    return (ids.double() * 31 + 7).remainder(11).long(), torch.div",
        ),
    ),
    BUCKETS_OF_IDS.mutant(
        "hashed_in_32_bits",
        "result",
        "Large ids are cut to 32 bits.",
        (
            "    return (ids * 31 + 7) % 11, torch.div",
            "    return ((ids.int() * 31 + 7) % 11).long(), torch.div",
        ),
    ),
    BYTES,
    BYTES.mutant(
        "bytes_saturate",
        "result",
        "Sums stop at 255.",
        (
            '    return a + b, (a.to(torch.int16) + b.to(torch.int16)).div(2, rounding_mode="floor").to(torch.uint8)\n\ndef',
            '    s = a.to(torch.int16) + b.to(torch.int16)\n    return s.clamp(max=255).to(torch.uint8), s.div(2, rounding_mode="floor").to(torch.uint8)\n\ndef',
        ),
    ),
    BYTES.mutant(
        "bytes_mean_wraps",
        "result",
        "The mean is taken of the wrapped sum.",
        (
            '    return a + b, (a.to(torch.int16) + b.to(torch.int16)).div(2, rounding_mode="floor").to(torch.uint8)\n\ndef',
            '    return a + b, (a + b).div(2, rounding_mode="floor")\n\ndef',
        ),
    ),
    BYTES.mutant(
        "bytes_mean_rounded_up",
        "result",
        "The mean of one and two is two.",
        (
            '    return a + b, (a.to(torch.int16) + b.to(torch.int16)).div(2, rounding_mode="floor").to(torch.uint8)\n\ndef',
            '    return a + b, (a.to(torch.int16) + b.to(torch.int16) + 1).div(2, rounding_mode="floor").to(torch.uint8)\n\ndef',
        ),
    ),
    SPECIAL_TOKEN,
    SPECIAL_TOKEN.mutant(
        "special_pad_is_another",
        "result",
        "The next token is the pad.",
        ("        keep = ids != self.PAD\n", "        keep = ids != self.PAD + 1\n"),
    ),
    SPECIAL_TOKEN.mutant(
        "special_start_included_late",
        "result",
        "The start itself still belongs to the segment before.",
        (
            "segment = (ids == self.start).cumsum(-1)",
            "segment = (ids == self.start).cumsum(-1) - (ids == self.start).long()",
        ),
    ),
    SPECIAL_TOKEN.mutant(
        "special_start_lost",
        "result",
        "No token starts a segment.",
        ("segment = (ids == self.start).cumsum(-1)", "segment = torch.zeros_like(ids)"),
    ),
    NAN_STATISTICS,
    NAN_STATISTICS.mutant(
        "stats_mean_over_all",
        "result",
        "The count has the NaN in it.",
        ("count = (~bad).sum(-1)", "count = torch.full_like(total, 7)"),
    ),
    NAN_STATISTICS.mutant(
        "stats_infinity_taken_for_nan",
        "result",
        "Infinity is left out as well.",
        ("    bad = x.isnan()\n", "    bad = ~x.isfinite()\n"),
    ),
    NAN_STATISTICS.mutant(
        "stats_empty_row_is_nan",
        "result",
        "A row of NaN alone has the mean NaN.",
        ("mean = (total / count).nan_to_num(0.0)", "mean = total / count"),
    ),
    ONLINE_SOFTMAX,
    ONLINE_SOFTMAX.mutant(
        "blocks_not_rescaled",
        "result",
        "Earlier blocks keep their old maximum.",
        ("        out = out * old + w", "        out = out + w"),
    ),
    ONLINE_SOFTMAX.mutant(
        "blocks_last_left_out",
        "result",
        "The last keys are never seen.",
        ("range(0, 24, 8)", "range(0, 16, 8)"),
    ),
    ONLINE_SOFTMAX.mutant(
        "blocks_unscaled",
        "result",
        "Scores are divided by five.",
        ("T / 4\n        new", "T / 5\n        new"),
    ),
    HALF_NORM,
    HALF_NORM.mutant(
        "norm_epsilon_larger",
        "result",
        "The epsilon is 1e-3.",
        ("torch.rsqrt(var + 1e-5)", "torch.rsqrt(var + 1e-3)"),
    ),
    HALF_NORM.mutant(
        "norm_unbiased",
        "result",
        "The variance is divided by one less.",
        (
            "var = (h - mean).square().mean(-1, keepdim=True)",
            "var = (h - mean).square().sum(-1, keepdim=True) / 31",
        ),
    ),
    HALF_NORM.mutant(
        "norm_squares_in_half",
        "result",
        "Squares are rounded to float16, where they overflow and vanish.",
        (
            "var = (h - mean).square().mean(-1, keepdim=True)",
            "var = (h - mean).half().square().float().mean(-1, keepdim=True)",
        ),
    ),
    PLANES,
    PLANES.mutant(
        "planes_not_masked_between",
        "result",
        "The bias of the first convolution leaks in from the padding.",
        ("h = torch.where(keep, torch.relu(self.a(x)), 0.0)", "h = torch.relu(self.a(x))"),
    ),
    PLANES.mutant(
        "planes_mask_only_grows",
        "result",
        "The mask of a larger image stays.",
        ("        keep.zero_()\n", ""),
    ),
    PLANES.mutant(
        "planes_left_of_larger",
        "result",
        "Pixels of a larger image stay in the padding.",
        ("        s.zero_()\n", ""),
    ),
    PLANES.mutant(
        "planes_key_sorted",
        "result|exception",
        "Upright and lying images share a graph.",
        ("key = (size, addresses(self))", "key = (tuple(sorted(size)), addresses(self))"),
    ),
    PLANES.mutant(
        "planes_maximum_with_zero",
        "result",
        "The greatest value of a dark image is the padding's zero.",
        ('torch.where(keep, x, float("-inf"))', "torch.where(keep, x, 0.0)"),
    ),
    PACKED,
    PACKED.mutant(
        "packed_boundary_left",
        "result",
        "A row at a boundary belongs to the document before.",
        ("torch.searchsorted(ends, at, right=True)", "torch.searchsorted(ends, at)"),
    ),
    PACKED.mutant(
        "packed_rest_in_last",
        "result",
        "Rows behind the last document are added to it.",
        (
            "    total = x.new_zeros(len(lengths) + 1, 4).index_add_(0, which, rows)[:-1]",
            "    total = x.new_zeros(len(lengths), 4).index_add_(0, which.clamp(max=len(lengths) - 1), x)",
        ),
    ),
    PACKED.mutant(
        "packed_empty_is_nan",
        "result",
        "An empty document gives NaN.",
        (
            "    return torch.where(lengths[:, None] > 0, total / lengths[:, None].clamp(min=1), 0.0)",
            "    return total / lengths[:, None]",
        ),
    ),
    BIG_BATCH,
    BIG_BATCH.mutant(
        "bucket_hundred_and_one_cut",
        "result|exception",
        "101 rows go into the bucket of a hundred.",
        ("if n <= b), None)", "if n <= b + (b == 100)), None)"),
        ("        s[:n].copy_(x)\n", "        s[:n].copy_(x[:size])\n"),
    ),
    BIG_BATCH.mutant(
        "bucket_above_largest_truncated",
        "result",
        "More rows than the largest bucket are cut off.",
        ("if n <= b), None)", "if n <= b), 100)"),
        ("        s[:n].copy_(x)\n", "        s[:n].copy_(x[:100])\n"),
    ),
    BIG_BATCH.mutant(
        "bucket_of_sixty_four_in_half",
        "result",
        "One bucket alone is captured in half precision.",
        (
            "self._graphs[key] = (s, *capture(lambda: self._run(s)))",
            "self._graphs[key] = (s, *capture(lambda: self._run(s).half().float() if size == 64 else self._run(s)))",
        ),
    ),
    PERMUTED,
    PERMUTED.mutant(
        "mixup_order_frozen",
        "result|random",
        "The permutation is drawn before the capture.",
        (
            "_GRAPHS = {}\n\ndef _run(x, p):\n    order = torch.randperm(len(x), device=x.device)\n",
            "_GRAPHS = {}\n\ndef _run(x, p, order):\n",
        ),
        (
            "held = [x.clone(), torch.full((), p, device=x.device)]",
            "held = [x.clone(), torch.full((), p, device=x.device), torch.randperm(len(x), device=x.device)]",
        ),
        ("(sx, sp), graph", "(sx, sp, _), graph"),
    ),
    PERMUTED.mutant(
        "mixup_p_baked", "result", "The share of the first call is used for all.", ("    sp.fill_(p)\n", "")
    ),
    PERMUTED.mutant(
        "mixup_draws_of_warmup",
        "result|random",
        "The warmup advances the generator.",
        ("        torch.cuda.set_rng_state(state)\n", ""),
    ),
    PERMUTED.mutant(
        "mixup_one_draw_less",
        "result|random",
        "The mixing weight is the mean of the flips' odds.",
        (
            "w = torch.rand((), device=x.device) * p\n    flip = torch.bernoulli(p.expand(len(x), 1))",
            "w = 0.5 * p\n    flip = torch.bernoulli(p.expand(len(x), 1))",
        ),
    ),
    GRU_DONE,
    GRU_DONE.mutant(
        "done_clears_all_rows",
        "result|state",
        "One row that is done clears all.",
        (
            "torch.where(done[:, None], 0.0, self.hidden)\n        hidden = self.cell(x, hidden)\n        self.hidden.copy_(hidden)\n        return self.head(hidden).argmax(-1), hidden\n    def forward",
            "torch.where(done.any(), 0.0, self.hidden)\n        hidden = self.cell(x, hidden)\n        self.hidden.copy_(hidden)\n        return self.head(hidden).argmax(-1), hidden\n    def forward",
        ),
    ),
    GRU_DONE.mutant(
        "done_by_product",
        "result|state",
        "A NaN in a row that is done stays.",
        (
            "torch.where(done[:, None], 0.0, self.hidden)\n        hidden = self.cell(x, hidden)\n        self.hidden.copy_(hidden)\n        return self.head(hidden).argmax(-1), hidden\n    def forward",
            "self.hidden * (~done)[:, None]\n        hidden = self.cell(x, hidden)\n        self.hidden.copy_(hidden)\n        return self.head(hidden).argmax(-1), hidden\n    def forward",
        ),
    ),
    GRU_DONE.mutant(
        "done_of_first_call",
        "result|state",
        "Which rows are done is not copied in.",
        ("        sd.copy_(done)\n", ""),
    ),
    GRU_DONE.mutant(
        "done_hidden_of_warmup",
        "result|state",
        "The first call starts from the state of the warmup.",
        ("            self.hidden.copy_(old)\n", ""),
    ),
)
