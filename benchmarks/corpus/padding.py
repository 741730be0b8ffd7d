# ruff: noqa: E501  (lines of quoted programs)
"""Batches padded to buckets: what is in the rows that nobody asked for must not reach the rows that count."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, GRAPH, TORCH

BAG = control(
    "padded_bag_refilled",
    "padding",
    "The tail of the static buffer is zeroed at every call, and zero rows drop out of the sum.",
    """
entry  = "program:BagOfItems"
inputs = { items = "float32[N, 16]" }
dims   = { N = [1, 40] }
""",
    FUNCTIONAL
    + '''

class BagOfItems(nn.Module):
    """Sum of item embeddings, as in a basket model."""

    def __init__(self, dim=16):
        super().__init__()
        self.lift = nn.Linear(dim, dim, bias=False)
        self.head = nn.Linear(dim, 4)

    def forward(self, items):
        return self.head(F.relu(self.lift(items)).sum(0) / items.shape[0] ** 0.5)
''',
    "\nimport bisect\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + '''

class BagOfItems(nn.Module):
    """Sum of item embeddings, as in a basket model."""

    BUCKETS = (1, 4, 16, 32)

    def __init__(self, dim=16):
        super().__init__()
        self.lift = nn.Linear(dim, dim, bias=False)
        self.head = nn.Linear(dim, 4)
        self._graphs = {}

    def _run(self, items, root):
        return self.head(F.relu(self.lift(items)).sum(0) / root)

    def _entry(self, bucket, items):
        key = (bucket, addresses(self))
        if key not in self._graphs:
            static, root = items.new_zeros(bucket, items.shape[1]), items.new_ones(())
            self._graphs[key] = (static, root, *capture(lambda: self._run(static, root)))
        return self._graphs[key]

    def forward(self, items):
        n = items.shape[0]
        if n > self.BUCKETS[-1] or torch.is_grad_enabled():
            return self._run(items, n**0.5)
        bucket = self.BUCKETS[bisect.bisect_left(self.BUCKETS, n)]
        static, root, graph, out = self._entry(bucket, items)
        static[:n].copy_(items)
        static[n:].zero_()
        root.fill_(n**0.5)
        graph.replay()
        return out.clone()
''',
)

ATTENTION = control(
    "padded_keys_masked",
    "padding",
    "Padded keys get minus infinity before the softmax and their values are zeroed, so NaN times 0 cannot happen.",
    """
entry  = "program:ReadMemory"
inputs = { query = "float32[4, 16]", memory = "float32[S, 16]" }
dims   = { S = [1, 24] }
""",
    TORCH
    + '''

class ReadMemory(nn.Module):
    """Attention of a few queries over a memory of any length."""

    def __init__(self, dim=16):
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, query, memory):
        k, v = self.kv(memory).chunk(2, -1)
        scores = self.q(query) @ k.T * query.shape[-1] ** -0.5
        return scores.softmax(-1) @ v
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class ReadMemory(nn.Module):
    """Attention of a few queries over a memory of any length, padded to powers of two."""

    def __init__(self, dim=16):
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self._graphs = {}

    def _run(self, query, memory, used):
        padding = torch.arange(memory.shape[0], device=memory.device) >= used
        k, v = self.kv(memory).chunk(2, -1)
        v = v.masked_fill(padding[:, None], 0.0)
        scores = self.q(query) @ k.T * query.shape[-1] ** -0.5
        return scores.masked_fill(padding, float("-inf")).softmax(-1) @ v

    def forward(self, query, memory):
        n = memory.shape[0]
        if torch.is_grad_enabled():
            return self._run(query, memory, n)
        bucket = 1 << (n - 1).bit_length()
        key = (bucket, addresses(self))
        if key not in self._graphs:
            q, m = query.clone(), memory.new_zeros(bucket, memory.shape[1])
            used = torch.zeros((), dtype=torch.int64, device=memory.device)
            self._graphs[key] = (q, m, used, *capture(lambda: self._run(q, m, used)))
        q, m, used, graph, out = self._graphs[key]
        q.copy_(query)
        m[:n].copy_(memory)
        used.fill_(n)
        graph.replay()
        return out.clone()
''',
)

POOL = control(
    "padded_pools_with_counts",
    "padding",
    "Mean, maximum and variance take only real rows: where() instead of a product, the real count as divisor.",
    """
entry  = "program:Pools"
inputs = { x = "float32[N, 8]" }
dims   = { N = [2, 20] }
""",
    TORCH
    + '''

class Pools(nn.Module):
    """Statistics over the rows of a set."""

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)

    def forward(self, x):
        h = self.lift(x)
        return {"mean": h.mean(0), "max": h.amax(0), "var": h.var(0)}
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Pools(nn.Module):
    """Statistics over the rows of a set, for sets of up to 16 rows in one graph."""

    ROOM = 16

    def __init__(self, dim=8):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x, valid, count):
        h = self.lift(x)
        mean = torch.where(valid, h, 0.0).sum(0) / count
        largest = torch.where(valid, h, float("-inf")).amax(0)
        var = torch.where(valid, (h - mean).square(), 0.0).sum(0) / (count - 1)
        return {"mean": mean, "max": largest, "var": var}

    def forward(self, x):
        n = x.shape[0]
        if n > self.ROOM or torch.is_grad_enabled():
            h = self.lift(x)
            return {"mean": h.mean(0), "max": h.amax(0), "var": h.var(0)}
        key = addresses(self)
        if key not in self._graphs:
            rows = x.new_zeros(self.ROOM, x.shape[1])
            valid = torch.zeros(self.ROOM, 1, dtype=torch.bool, device=x.device)
            count = x.new_full((), 2.0)
            self._graphs[key] = (rows, valid, count, *capture(lambda: self._run(rows, valid, count)))
        rows, valid, count, graph, out = self._graphs[key]
        rows[:n].copy_(x)
        valid[:n] = True
        valid[n:] = False
        count.fill_(n)
        graph.replay()
        return {name: t.clone() for name, t in out.items()}
''',
)

TOKENS = control(
    "padded_tokens_two_dims",
    "padding",
    "Rows and columns are padded with token 0, whose embedding is zero, so the convolution sees what it would see at the edge.",
    """
entry  = "program:Tagger"
inputs = { tokens = "int64[B, S] in 0..29" }
dims   = { B = [1, 5], S = [1, 12] }
""",
    TORCH
    + '''

class Tagger(nn.Module):
    """A label for every token, from a window of three."""

    def __init__(self, vocab=30, dim=12, labels=5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        with torch.no_grad():
            self.embed.weight[0] = 0.0
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)
        self.out = nn.Linear(dim, labels)

    def forward(self, tokens):
        h = self.embed(tokens) * (tokens != 0).unsqueeze(-1)
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        logits = self.out(torch.relu(h))
        return logits, logits.argmax(-1)
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Tagger(nn.Module):
    """A label for every token, from a window of three."""

    def __init__(self, vocab=30, dim=12, labels=5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        with torch.no_grad():
            self.embed.weight[0] = 0.0
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)
        self.out = nn.Linear(dim, labels)
        self._graphs = {}

    def _run(self, tokens):
        h = self.embed(tokens) * (tokens != 0).unsqueeze(-1)
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        logits = self.out(torch.relu(h))
        return logits, logits.argmax(-1)

    def forward(self, tokens):
        if torch.is_grad_enabled():
            return self._run(tokens)
        b, s = tokens.shape
        rows, columns = 4 * -(-b // 4), 8 * -(-s // 8)
        key = (rows, columns, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, tokens.new_zeros(rows, columns))
        padded = tokens.new_zeros(rows, columns)
        padded[:b, :s] = tokens
        logits, labels = self._graphs[key](padded)
        return logits[:b, :s].clone(), labels[:b, :s].clone()
''',
)

TOPK = control(
    "padded_topk_sentinel",
    "padding",
    "Padded candidates score minus infinity, so they never win; fewer candidates than k run eagerly.",
    """
entry  = "program:Shortlist"
inputs = { candidates = "float32[N, 8]" }
dims   = { N = [3, 16] }
""",
    TORCH
    + '''

class Shortlist(nn.Module):
    """The three best candidates."""

    def __init__(self, dim=8):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, candidates):
        scores = self.score(candidates).squeeze(-1)
        best, index = scores.topk(3)
        return best, index
''',
    TORCH
    + CAPTURE
    + ADDRESSES
    + '''

class Shortlist(nn.Module):
    """The three best candidates."""

    def __init__(self, dim=8):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 1))
        self._graphs = {}

    def _run(self, candidates, used):
        scores = self.score(candidates).squeeze(-1)
        beyond = torch.arange(candidates.shape[0], device=candidates.device) >= used
        best, index = scores.masked_fill(beyond, float("-inf")).topk(3)
        return best, index

    def forward(self, candidates):
        n = candidates.shape[0]
        if torch.is_grad_enabled():
            return self._run(candidates, n)
        bucket = 4 if n <= 4 else 16
        key = (bucket, addresses(self))
        if key not in self._graphs:
            static = candidates.new_zeros(bucket, candidates.shape[1])
            used = torch.full((), n, device=candidates.device)
            self._graphs[key] = (static, used, *capture(lambda: self._run(static, used)))
        static, used, graph, (best, index) = self._graphs[key]
        static[:n] = candidates
        static[n:] = 0
        used.fill_(n)
        graph.replay()
        return best.clone(), index.clone()
''',
)

EMPTY = control(
    "padded_empty_batch_eager",
    "padding",
    "An empty batch runs eagerly, batches of up to eight share a graph, longer ones run in pieces of eight.",
    """
entry  = "program:Scorer"
inputs = { rows = "float32[N, 12]" }
dims   = { N = [0, 19] }
""",
    TORCH
    + """

class Scorer(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, rows):
        return self.net(rows).squeeze(-1)
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Scorer(nn.Module):
    CHUNK = 8

    def __init__(self, dim=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.SiLU(), nn.Linear(32, 1))
        self._graph = None
        self._owner = None

    def _chunk(self, rows):
        padded = rows.new_zeros(self.CHUNK, rows.shape[1])
        padded[: len(rows)] = rows
        return self._graph(padded)[: len(rows)].clone()

    def forward(self, rows):
        if torch.is_grad_enabled() or rows.shape[0] == 0:
            return self.net(rows).squeeze(-1)
        if self._owner != addresses(self):
            self._graph = Graph(lambda r: self.net(r).squeeze(-1), rows.new_zeros(self.CHUNK, rows.shape[1]))
            self._owner = addresses(self)
        return torch.cat([self._chunk(piece) for piece in rows.split(self.CHUNK)])
""",
)

WIDE = control(
    "padded_bf16_mlp",
    "padding",
    "Rows are independent, so padding changes only which GEMM runs: bfloat16 results differ by rounding.",
    """
entry  = "program:Block"
inputs = { x = "bfloat16[N, 128]" }
dims   = { N = [1, 70] }
""",
    TORCH
    + """

class Block(nn.Module):
    def __init__(self, dim=128):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.to(torch.bfloat16)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Block(nn.Module):
    def __init__(self, dim=128):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.to(torch.bfloat16)
        self._graphs = {}

    def _run(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))

    def forward(self, x):
        n = len(x)
        if n > 64 or torch.is_grad_enabled():
            return self._run(x)
        bucket = max(8, 1 << (n - 1).bit_length())
        key = (bucket, addresses(self))
        if key not in self._graphs:
            static = x.new_zeros(bucket, x.shape[1])
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static[:n].copy_(x)
        graph.replay()
        return out[:n].clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    BAG,
    BAG.mutant(
        "stale_tail_of_bigger_batch",
        "result",
        "Rows of a bigger bag stay in the buffer and are summed with a smaller one.",
        ("        static[n:].zero_()\n", ""),
    ),
    BAG.mutant(
        "tail_zeroed_by_product",
        "result",
        "NaN and infinity in the tail survive a multiplication by zero.",
        ("static[n:].zero_()", "static[n:].mul_(0)"),
    ),
    BAG.mutant(
        "bucket_boundary_off_by_one_at_max",
        "exception",
        "A bag of exactly the largest bucket finds no bucket.",
        ("bisect.bisect_left", "bisect.bisect_right"),
    ),
    BAG.mutant(
        "bigger_than_largest_bucket_truncated",
        "result",
        "Bags beyond the largest bucket lose the rows that do not fit.",
        ("if n > self.BUCKETS[-1] or torch.is_grad_enabled()", "if torch.is_grad_enabled()"),
        ("bisect.bisect_left(self.BUCKETS, n)]", "min(bisect.bisect_left(self.BUCKETS, n), 3)]"),
        ("static[:n].copy_(items)", "static[:n].copy_(items[:bucket])"),
    ),
    BAG.mutant(
        "divided_by_bucket_instead_of_count",
        "result",
        "The size of the bucket stands where the number of real rows belongs.",
        ("root.fill_(n**0.5)", "root.fill_(bucket**0.5)"),
    ),
    BAG.mutant(
        "count_baked_at_capture",
        "result",
        "The number of rows of the call that captured is a constant of the graph.",
        ("        root.fill_(n**0.5)\n", ""),
        (
            "static, root = items.new_zeros(bucket, items.shape[1]), items.new_ones(())",
            "static, root = items.new_zeros(bucket, items.shape[1]), items.new_full((), len(items) ** 0.5)",
        ),
    ),
    ATTENTION,
    ATTENTION.mutant(
        "softmax_over_padded_keys",
        "result",
        "Zero keys are not ignored by a softmax: each takes a share.",
        ('scores.masked_fill(padding, float("-inf")).softmax(-1)', "scores.softmax(-1)"),
        ("m[:n].copy_(memory)", "m[:n].copy_(memory)\n        m[n:].zero_()"),
    ),
    ATTENTION.mutant(
        "weight_zero_times_stale_nan",
        "result",
        "Weights of padded keys are zero, but a NaN left in their values makes the product NaN.",
        ("        v = v.masked_fill(padding[:, None], 0.0)\n", ""),
    ),
    ATTENTION.mutant(
        "mask_off_by_one",
        "result",
        "The first padded key takes part.",
        (">= used", "> used"),
    ),
    ATTENTION.mutant(
        "weights_multiplied_by_mask",
        "result",
        "Masking after the softmax leaves the wrong denominator.",
        ('scores.masked_fill(padding, float("-inf")).softmax(-1) @ v', "(scores.softmax(-1) * ~padding) @ v"),
    ),
    POOL,
    POOL.mutant(
        "mean_over_padded_rows",
        "result",
        "The divisor is right, the rows are not: the bias of the layer makes padded rows count.",
        ("torch.where(valid, h, 0.0).sum(0) / count", "h.sum(0) / count"),
    ),
    POOL.mutant(
        "mask_by_product_keeps_nan",
        "result",
        "A NaN row of an earlier, bigger set stays NaN when multiplied by zero.",
        ("torch.where(valid, h, 0.0).sum(0)", "(h * valid).sum(0)"),
    ),
    POOL.mutant(
        "maximum_filled_with_zero",
        "result",
        "With only negative values the padding is the maximum.",
        ('torch.where(valid, h, float("-inf")).amax(0)', "torch.where(valid, h, 0.0).amax(0)"),
    ),
    POOL.mutant(
        "biased_variance",
        "result",
        "The divisor of the variance is the count, not one less.",
        ("/ (count - 1)", "/ count"),
    ),
    POOL.mutant(
        "mask_only_grows",
        "result",
        "A smaller set after a bigger one still has the bigger one's rows marked as real.",
        ("        valid[n:] = False\n", ""),
    ),
    TOKENS,
    TOKENS.mutant(
        "columns_of_longer_batch_left",
        "result",
        "The padded batch is kept between calls and only its corner is written: the window at the edge sees old tokens.",
        (
            "        padded = tokens.new_zeros(rows, columns)\n        padded[:b, :s] = tokens\n        logits, labels = self._graphs[key](padded)",
            "        graph = self._graphs[key]\n        graph.inputs[0][:b, :s] = tokens\n        logits, labels = graph(*graph.inputs)",
        ),
    ),
    TOKENS.mutant(
        "output_not_cut_to_length",
        "result",
        "Only the rows are cut, the padded columns stay.",
        ("logits[:b, :s].clone()", "logits[:b].clone()"),
    ),
    TOKENS.mutant(
        "padded_with_a_real_token",
        "result",
        "The padding is an ordinary word, which the convolution reads next to the last one.",
        ("padded = tokens.new_zeros(rows, columns)", "padded = tokens.new_full((rows, columns), 1)"),
    ),
    TOPK,
    TOPK.mutant(
        "topk_padding_scores_zero",
        "result",
        "When all real scores are negative the padding wins.",
        ('float("-inf")', "0.0"),
    ),
    TOPK.mutant(
        "topk_padding_not_masked",
        "result",
        "Zero rows get a score like any other.",
        ('scores.masked_fill(beyond, float("-inf")).topk(3)', "scores.topk(3)"),
    ),
    TOPK.mutant(
        "used_rows_baked",
        "result",
        "The count of the first call of each bucket stays in the graph.",
        ("        used.fill_(n)\n", ""),
    ),
    EMPTY,
    EMPTY.mutant(
        "empty_batch_gives_a_row",
        "result|exception",
        "An empty batch is treated like a batch of one.",
        (" or rows.shape[0] == 0", ""),
        ("[: len(rows)].clone()", "[: max(1, len(rows))].clone()"),
    ),
    EMPTY.mutant(
        "pieces_share_their_output",
        "result",
        "Every piece is a view of the static output, so all pieces are the last one.",
        ("[: len(rows)].clone()", "[: len(rows)]"),
    ),
    EMPTY.mutant(
        "last_piece_dropped",
        "result",
        "Whole pieces only: the rest of a batch is lost.",
        (
            "for piece in rows.split(self.CHUNK)])",
            "for piece in rows.split(self.CHUNK) if len(piece) == self.CHUNK or len(rows) < self.CHUNK])",
        ),
    ),
    WIDE,
    WIDE.mutant(
        "last_row_not_copied",
        "result",
        "The last row is the one of an earlier batch; all others are right.",
        ("static[:n].copy_(x)", "static[: n - 1].copy_(x[: n - 1])"),
    ),
    WIDE.mutant(
        "residual_from_copied_input",
        "result",
        "The residual is added in place to the static input before the branch reads it.",
        (
            "return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))\n\n    def forward",
            "return self.down(torch.nn.functional.gelu(self.up(self.norm(x)))).add_(x[:1])\n\n    def forward",
        ),
    ),
)
