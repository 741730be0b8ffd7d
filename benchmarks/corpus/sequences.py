# ruff: noqa: E501  (lines of quoted programs)
"""Sequences, lengths, losses, experts and selections; arguments that are checked."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL, TORCH

H = TORCH + CAPTURE + ADDRESSES
HF = FUNCTIONAL + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'
EV = 'mode = "eval"\ndevice="cuda"\n'

PADDED_LOSS_IGNORE_INDEX = control(
    "padded_loss_ignore_index",
    "padding",
    "Padded targets are ignored by the loss and written anew in every call.",
    'entry="program:Nll"\ninputs={ids="int64[B, S] in 0..11", targets="int64[B, S] in 0..11"}\ndims={B=[1,4],S=[1,9]}\n'
    + INF,
    FUNCTIONAL
    + """
class Nll(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 8)
        self.out = nn.Linear(8, 12)
    def forward(self, ids, targets):
        return F.cross_entropy(self.out(self.emb(ids)).flatten(0, 1), targets.flatten())
""",
    HF
    + """
class Nll(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 8)
        self.out = nn.Linear(8, 12)
        self._graphs = {}
    def _run(self, ids, targets):
        return F.cross_entropy(self.out(self.emb(ids)).flatten(0, 1), targets.flatten(), ignore_index=-100)
    def forward(self, ids, targets):
        if torch.is_grad_enabled():
            return self._run(ids, targets)
        b, s = ids.shape
        size = (1 << (b - 1).bit_length(), max(4, 1 << (s - 1).bit_length()))
        key = (size, addresses(self))
        if key not in self._graphs:
            si = ids.new_zeros(size)
            st = ids.new_full(size, -100)
            st[:b, :s].copy_(targets)
            self._graphs[key] = (si, st, *capture(lambda: self._run(si, st)))
        si, st, graph, out = self._graphs[key]
        si.zero_()
        si[:b, :s].copy_(ids)
        st.fill_(-100)
        st[:b, :s].copy_(targets)
        graph.replay()
        return out.clone()
""",
)

LENGTHS_MASKED_MEAN = control(
    "lengths_masked_mean",
    "padding",
    "A loop over lengths became a mask and a sum.",
    'entry="program:Pool"\ninputs={x="float32[B, S, 6]", lengths="int64[B] in 1..S"}\ndims={B=[1,4],S=[1,12]}\n'
    + INF,
    TORCH
    + """
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
    def forward(self, x, lengths):
        h = torch.tanh(self.lin(x))
        rows = [h[i, :n].mean(0) for i, n in enumerate(lengths.tolist())]
        return torch.stack(rows)
""",
    H
    + """
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self._graphs = {}
    def _run(self, x, lengths):
        h = torch.tanh(self.lin(x))
        keep = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return torch.where(keep[..., None], h, 0.0).sum(1) / lengths[:, None]
    def forward(self, x, lengths):
        if torch.is_grad_enabled():
            return self._run(x, lengths)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            sx, sl = x.clone(), lengths.clone()
            self._graphs[key] = (sx, sl, *capture(lambda: self._run(sx, sl)))
        sx, sl, graph, out = self._graphs[key]
        sx.copy_(x)
        sl.copy_(lengths)
        graph.replay()
        return out.clone()
""",
)

CAUSAL_RIGHT_PADDING = control(
    "causal_right_padding",
    "padding",
    "Rows behind the end are zeros that no earlier row of a causal attention sees.",
    'entry="program:Causal"\ninputs={x="float32[S, 8]"}\ndims={S=[1,20]}\n' + INF,
    FUNCTIONAL
    + """
class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
    def forward(self, x):
        q, k, v = self.qkv(x)[None, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0].cumsum(0)
""",
    HF
    + """
class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self._graphs = {}
    def _run(self, x):
        q, k, v = self.qkv(x)[None, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0].cumsum(0)
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        n = len(x)
        size = 1 << (n - 1).bit_length()
        key = (size, addresses(self))
        if key not in self._graphs:
            static = x.new_zeros(size, 8)
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static[n:].zero_()
        static[:n].copy_(x)
        graph.replay()
        return out[:n].clone()
""",
)

EVAL_GRAD_FALLS_BACK = control(
    "eval_grad_falls_back",
    "capture",
    "With gradients or in training the call is eager.",
    'entry="program:Ev"\ninputs={x="float32[B, 5]"}\ndims={B=[1,4]}\n' + EV,
    TORCH
    + """
class Ev(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(5, 5)
        self.drop = nn.Dropout(0.3)
    def forward(self, x):
        return self.drop(torch.relu(self.lin(x)))
""",
    H
    + """
class Ev(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(5, 5)
        self.drop = nn.Dropout(0.3)
        self._graphs = {}
    def forward(self, x):
        if self.training or torch.is_grad_enabled():
            return self.drop(torch.relu(self.lin(x)))
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: torch.relu(self.lin(s))))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

PINNED_OUTPUT_RING = control(
    "pinned_output_ring",
    "concurrency",
    "The result goes to fresh pinned memory on a side stream that is waited for.",
    'entry="program:Host"\ninputs={x="float32[B, 4]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
    def forward(self, x):
        return self.lin(x).cpu()
""",
    H
    + """
class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self._graphs = {}
        self._side = None
    def forward(self, x):
        if torch.is_grad_enabled():
            return self.lin(x).cpu()
        if self._side is None:
            self._side = torch.cuda.Stream()
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self.lin(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        host = torch.empty(o.shape, dtype=o.dtype, pin_memory=True)
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            host.copy_(o, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        done.synchronize()
        return host
""",
)

TWO_OUTPUT_SLOTS_CLONED = control(
    "two_output_slots_cloned",
    "buffers",
    "Two graphs take turns, and results are cloned.",
    'entry="program:Slots"\ninputs={x="float32[3, 4]"}\ndims={}\n' + INF,
    TORCH
    + """
class Slots(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
    def forward(self, x):
        return torch.sin(self.lin(x))
""",
    H
    + """
class Slots(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self._slots = {}
        self._turn = 0
    def forward(self, x):
        if torch.is_grad_enabled():
            return torch.sin(self.lin(x))
        self._turn ^= 1
        key = (self._turn, addresses(self))
        if key not in self._slots:
            s = x.clone()
            self._slots[key] = (s, *capture(lambda: torch.sin(self.lin(s))))
        s, g, o = self._slots[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

SEED_ARGUMENT_PER_CALL = control(
    "seed_argument_per_call",
    "rng",
    "Noise comes from a generator that each call seeds, outside the graph.",
    'entry="program:Sample"\ninputs={x="float32[B, 6]", seed="int in 0..50"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Sample(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self._gen = None
    def forward(self, x, seed):
        if self._gen is None:
            self._gen = torch.Generator(device=x.device)
        self._gen.manual_seed(seed)
        return self.lin(x) + torch.randn(x.shape, device=x.device, generator=self._gen)
""",
    H
    + """
class Sample(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self._gen = None
        self._graphs = {}
    def forward(self, x, seed):
        if self._gen is None:
            self._gen = torch.Generator(device=x.device)
        self._gen.manual_seed(seed)
        noise = torch.randn(x.shape, device=x.device, generator=self._gen)
        if torch.is_grad_enabled():
            return self.lin(x) + noise
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s, n = x.clone(), noise.clone()
            self._graphs[key] = (s, n, *capture(lambda: self.lin(s) + n))
        s, n, g, o = self._graphs[key]
        s.copy_(x)
        n.copy_(noise)
        g.replay()
        return o.clone()
""",
)

RUNNING_MAX_BUFFER = control(
    "running_max_buffer",
    "state",
    "The greatest value so far is copied in before the replay and rebound after it.",
    'entry="program:Scale"\ninputs={x="float32[B, 4]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("peak", torch.ones(()))
        self.history = []
    def forward(self, x):
        h = self.lin(x)
        self.peak = torch.maximum(self.peak, h.abs().max())
        self.history.append(x.shape[0])
        return h / self.peak
""",
    H
    + """
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("peak", torch.ones(()))
        self.history = []
        self._graphs = {}
    def _run(self, x, peak):
        h = self.lin(x)
        peak = torch.maximum(peak, h.abs().max())
        return h / peak, peak
    def forward(self, x):
        self.history.append(x.shape[0])
        if torch.is_grad_enabled():
            out, self.peak = self._run(x, self.peak)
            return out
        key = (tuple(x.shape), tuple(p.data_ptr() for p in self.parameters()))
        if key not in self._graphs:
            s, k = x.clone(), self.peak.clone()
            self._graphs[key] = (s, k, *capture(lambda: self._run(s, k)))
        s, k, g, (out, peak) = self._graphs[key]
        s.copy_(x)
        k.copy_(self.peak)
        g.replay()
        self.peak = peak.clone()
        return out.clone()
""",
)

OWN_AUTOCAST_REGION = control(
    "own_autocast_region",
    "capture",
    "The autocast region is inside the graph with its cast cache off.",
    'entry="program:Amp"\ninputs={x="float32[B, 16]"}\ndims={B=[1,6]}\n' + INF,
    TORCH
    + """
class Amp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 32)
        self.b = nn.Linear(32, 4)
    def forward(self, x):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return self.b(torch.relu(self.a(x))).float()
""",
    H
    + """
class Amp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 32)
        self.b = nn.Linear(32, 4)
        self._graphs = {}
    def _run(self, x):
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            return self.b(torch.relu(self.a(x))).float()
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

DENSE_EXPERTS_FOR_SPARSE = control(
    "dense_experts_for_sparse",
    "branches",
    "Every expert sees every token; where() keeps what the gate chose.",
    'entry="program:Moe"\ninputs={x="float32[T, 8]"}\ndims={T=[1,10]}\n' + INF,
    TORCH
    + """
class Moe(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    def forward(self, x):
        w, idx = torch.softmax(self.gate(x), -1).topk(2, -1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows, slot = (idx == e).nonzero(as_tuple=True)
            if rows.numel():
                out[rows] += w[rows, slot, None] * expert(x[rows])
        return out
""",
    H
    + """
class Moe(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self._graphs = {}
    def _run(self, x):
        w, idx = torch.softmax(self.gate(x), -1).topk(2, -1)
        dense = torch.zeros(x.shape[0], 3, device=x.device, dtype=x.dtype).scatter(1, idx, w)
        chosen = torch.zeros(x.shape[0], 3, device=x.device, dtype=torch.bool).scatter(1, idx, True)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + torch.where(chosen[:, e, None], dense[:, e, None] * expert(x), 0.0)
        return out
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

SELECTION_BY_NONZERO_STATIC = control(
    "selection_by_nonzero_static",
    "branches",
    "Chosen rows move to the front by nonzero_static, and their number is read after the replay.",
    'entry="program:Select"\ninputs={x="float32[N, 4]"}\ndims={N=[0,12]}\n' + INF,
    TORCH
    + """
class Select(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 1)
    def forward(self, x):
        keep = self.score(x)[:, 0] > 0
        return x[keep] * 2, keep.nonzero()[:, 0]
""",
    H
    + """
class Select(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 1)
        self._graphs = {}
    def _run(self, x):
        keep = self.score(x)[:, 0] > 0
        where = torch.nonzero_static(keep, size=x.shape[0], fill_value=0)[:, 0]
        return x.index_select(0, where) * 2, where, keep.sum()
    def forward(self, x):
        if torch.is_grad_enabled() or x.shape[0] == 0:
            keep = self.score(x)[:, 0] > 0
            return x[keep] * 2, keep.nonzero()[:, 0]
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, g, (rows, where, count) = self._graphs[key]
        s.copy_(x)
        g.replay()
        n = int(count)
        return rows[:n].clone(), where[:n].clone()
""",
)

VALUE_ERROR_KEPT = control(
    "value_error_kept",
    "state",
    "The check of an argument stays in front of the replay.",
    'entry="program:Strict"\ninputs={x="float32[B, 4]", k="int in 0..6"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Strict(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.calls = 0
    def forward(self, x, k):
        self.calls += 1
        if k > 4:
            raise ValueError(f"k is at most 4, got {k}")
        return self.lin(x).topk(k, -1).values if k else None
""",
    H
    + """
class Strict(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.calls = 0
        self._graphs = {}
    def forward(self, x, k):
        self.calls += 1
        if k > 4:
            raise ValueError(f"k is at most 4, got {k}")
        if k == 0:
            return None
        if torch.is_grad_enabled():
            return self.lin(x).topk(k, -1).values
        key = (tuple(x.shape), k, addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self.lin(s).topk(k, -1).values))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    PADDED_LOSS_IGNORE_INDEX,
    PADDED_LOSS_IGNORE_INDEX.mutant(
        "ignore_index_not_refilled",
        "result",
        "Targets of a larger batch count in a smaller one.",
        ("        st.fill_(-100)\n", ""),
    ),
    PADDED_LOSS_IGNORE_INDEX.mutant(
        "padded_targets_are_zero",
        "result",
        "Padded targets are class 0, which counts.",
        ("        st.fill_(-100)\n", "        st.zero_()\n"),
    ),
    LENGTHS_MASKED_MEAN,
    LENGTHS_MASKED_MEAN.mutant(
        "lengths_ignored_in_mask",
        "result",
        "One token too many is taken.",
        ("< lengths[:, None]", "<= lengths[:, None]"),
    ),
    LENGTHS_MASKED_MEAN.mutant(
        "masked_by_product_lengths",
        "result",
        "Tokens behind the end are multiplied by zero, which keeps their NaN.",
        ("torch.where(keep[..., None], h, 0.0)", "(h * keep[..., None])"),
    ),
    CAUSAL_RIGHT_PADDING,
    CAUSAL_RIGHT_PADDING.mutant(
        "causal_padding_on_the_left",
        "result",
        "The padding stands before the rows, which see it.",
        (
            "static[n:].zero_()\n        static[:n].copy_(x)",
            "static[: size - n].zero_()\n        static[size - n :].copy_(x)",
        ),
        ("return out[:n].clone()", "return out[size - n :].clone()"),
    ),
    CAUSAL_RIGHT_PADDING.mutant(
        "causal_flag_lost",
        "result",
        "Every row sees all others.",
        (
            "return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0].cumsum(0)\n    def forward",
            "return F.scaled_dot_product_attention(q, k, v)[0, 0].cumsum(0)\n    def forward",
        ),
    ),
    CAUSAL_RIGHT_PADDING.mutant(
        "causal_tail_left_stale",
        "result",
        "A NaN of a longer sequence behind the end weighs nothing, and nothing times NaN is NaN.",
        ("        static[n:].zero_()\n", ""),
    ),
    EVAL_GRAD_FALLS_BACK,
    PINNED_OUTPUT_RING,
    PINNED_OUTPUT_RING.mutant(
        "pinned_host_not_waited",
        "result",
        "The pinned result is handed out before the copy is done.",
        ("        done.synchronize()\n", ""),
    ),
    PINNED_OUTPUT_RING.mutant(
        "host_buffer_shared",
        "kept|aliasing|result",
        "One pinned buffer serves all results of a shape.",
        (
            "        host = torch.empty(o.shape, dtype=o.dtype, pin_memory=True)\n",
            "        host = self.__dict__.setdefault('_host', {}).setdefault(o.shape, torch.empty(o.shape, dtype=o.dtype, pin_memory=True))\n",
        ),
    ),
    TWO_OUTPUT_SLOTS_CLONED,
    TWO_OUTPUT_SLOTS_CLONED.mutant(
        "two_output_slots_handed_out",
        "kept|aliasing|result",
        "Results are overwritten two calls later.",
        ("        return o.clone()", "        return o"),
    ),
    SEED_ARGUMENT_PER_CALL,
    SEED_ARGUMENT_PER_CALL.mutant(
        "seed_argument_taken_once",
        "result",
        "Only the first call's seed is used.",
        (
            "        self._gen.manual_seed(seed)\n        noise",
            "        if not self._graphs:\n            self._gen.manual_seed(seed)\n        noise",
        ),
    ),
    RUNNING_MAX_BUFFER,
    RUNNING_MAX_BUFFER.mutant(
        "peak_not_carried_over",
        "result|state",
        "Every replay starts from the greatest value at capture.",
        ("        k.copy_(self.peak)\n", ""),
    ),
    RUNNING_MAX_BUFFER.mutant(
        "peak_not_stored",
        "state",
        "The buffer keeps its first value.",
        ("        self.peak = peak.clone()\n", ""),
    ),
    RUNNING_MAX_BUFFER.mutant(
        "history_appended_at_capture_only",
        "attributes",
        "The public history grows only when a graph is made.",
        ("        self.history.append(x.shape[0])\n        if torch", "        if torch"),
        (
            "            s, k = x.clone(), self.peak.clone()\n",
            "            s, k = x.clone(), self.peak.clone()\n            self.history.append(x.shape[0])\n",
        ),
    ),
    OWN_AUTOCAST_REGION,
    OWN_AUTOCAST_REGION.mutant(
        "own_autocast_other_dtype",
        "result",
        "float16 stands for bfloat16.",
        ("dtype=torch.bfloat16, cache_enabled=False", "dtype=torch.float16, cache_enabled=False"),
    ),
    OWN_AUTOCAST_REGION.mutant(
        "own_autocast_result_kept_half",
        "result",
        "The result is not cast back.",
        (
            "cache_enabled=False):\n            return self.b(torch.relu(self.a(x))).float()",
            "cache_enabled=False):\n            return self.b(torch.relu(self.a(x)))",
        ),
    ),
    DENSE_EXPERTS_FOR_SPARSE,
    DENSE_EXPERTS_FOR_SPARSE.mutant(
        "dense_experts_all_taken",
        "result",
        "Every expert takes part, chosen or not.",
        (
            "dense = torch.zeros(x.shape[0], 3, device=x.device, dtype=x.dtype).scatter(1, idx, w)",
            "dense = torch.softmax(self.gate(x), -1)",
        ),
        (
            "torch.where(chosen[:, e, None], dense[:, e, None] * expert(x), 0.0)",
            "dense[:, e, None] * expert(x)",
        ),
    ),
    DENSE_EXPERTS_FOR_SPARSE.mutant(
        "dense_experts_renormalised",
        "result",
        "The two chosen weights are made to add up to one.",
        (".scatter(1, idx, w)\n", ".scatter(1, idx, w / w.sum(-1, keepdim=True))\n"),
    ),
    SELECTION_BY_NONZERO_STATIC,
    SELECTION_BY_NONZERO_STATIC.mutant(
        "selection_not_cut",
        "result",
        "Rows that were not chosen follow the chosen ones.",
        ("        n = int(count)\n", "        n = len(rows)\n"),
    ),
    VALUE_ERROR_KEPT,
    VALUE_ERROR_KEPT.mutant(
        "error_before_the_count",
        "attributes",
        "A refused call is no longer counted.",
        (
            '        self.calls += 1\n        if k > 4:\n            raise ValueError(f"k is at most 4, got {k}")\n        if k == 0',
            '        if k > 4:\n            raise ValueError(f"k is at most 4, got {k}")\n        self.calls += 1\n        if k == 0',
        ),
    ),
    VALUE_ERROR_KEPT.mutant(
        "none_became_empty",
        "result",
        "An empty tensor stands for None.",
        ("            return None\n", "            return x[:, :0]\n"),
    ),
    VALUE_ERROR_KEPT.mutant(
        "k_clamped",
        "exception",
        "Too large a number is cut down instead of refused.",
        (
            '            raise ValueError(f"k is at most 4, got {k}")\n        if k == 0',
            "            k = 4\n        if k == 0",
        ),
    ),
    VALUE_ERROR_KEPT.mutant(
        "k_missing_in_key",
        "result",
        "The number of the first call of a shape decides for all.",
        ("key = (tuple(x.shape), k, addresses(self))", "key = (tuple(x.shape), addresses(self))"),
    ),
)
