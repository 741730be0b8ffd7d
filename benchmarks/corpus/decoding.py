# ruff: noqa: E501  (lines of quoted programs)
"""Decode loops, caches handed in by the caller, memos of derived tensors, segments with host work between them."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, TORCH

H = TORCH + CAPTURE + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'

GREEDY_LOOP = control(
    "greedy_loop_in_one_call",
    "state",
    "A whole decode loop is one call: one graph for a step, the position on the device, the stop read after each replay.",
    'entry="program:Greedy"\ninputs={ids="int64[S] in 0..10", steps="int in 0..6"}\ndims={S=[1,6]}\n' + INF,
    TORCH
    + """
class Greedy(nn.Module):
    EOS = 3
    def __init__(self, dim=8, words=11):
        super().__init__()
        self.emb = nn.Embedding(words, dim)
        self.out = nn.Linear(dim, words)
    def forward(self, ids, steps):
        keys = self.emb(ids)
        made = []
        for _ in range(steps):
            w = torch.softmax(keys @ keys[-1], 0)
            token = self.out(w @ keys).argmax()
            made.append(token)
            if token == self.EOS:
                break
            keys = torch.cat([keys, self.emb(token)[None]])
        return torch.stack(made) if made else ids[:0]
""",
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Greedy(nn.Module):
    EOS = 3
    ROOM = 16
    def __init__(self, dim=8, words=11):
        super().__init__()
        self.emb = nn.Embedding(words, dim)
        self.out = nn.Linear(dim, words)
        self._graph = None
    def _step(self):
        at = torch.arange(self.ROOM, device=self._at.device)
        last = self._keys.index_select(0, self._at)[0]
        score = (self._keys @ last).masked_fill(at > self._at, float("-inf"))
        w = torch.softmax(score, 0)
        token = self.out(w @ self._keys).argmax()
        self._at.add_(1)
        self._keys.index_copy_(0, self._at, self.emb(token)[None])
        return token, token == self.EOS
    def forward(self, ids, steps):
        n = len(ids)
        if self._graph is None or self._owner != addresses(self):
            self._keys = self.emb.weight.new_zeros(self.ROOM, self.emb.weight.shape[1])
            self._at = torch.zeros(1, dtype=torch.int64, device=ids.device)
            self._graph, self._out = capture_step(self._step, [self._keys, self._at])
            self._owner = addresses(self)
        self._keys.zero_()
        self._keys[:n].copy_(self.emb(ids))
        self._at.fill_(n - 1)
        made = []
        for _ in range(steps):
            self._graph.replay()
            made.append(self._out[0].clone())
            if self._out[1]:
                break
        return torch.stack(made) if made else ids[:0]
""",
)

CALLERS_CACHE = control(
    "callers_cache_written_in_place",
    "aliasing",
    "Keys and values live in the caller's dictionary; the row of this step alone is copied back.",
    'entry="program:Step"\ninputs={x="float32[6]", cache={k="float32[5, 6]", v="float32[5, 6]"}, at="int in 0..4"}\ndims={}\n'
    + INF,
    TORCH
    + """
class Step(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
    def forward(self, x, cache, at):
        q, k, v = self.qkv(x).chunk(3)
        cache["k"][at] = k
        cache["v"][at] = v
        w = torch.softmax(cache["k"][: at + 1] @ q, 0)
        return w @ cache["v"][: at + 1]
""",
    H
    + """
class Step(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self._graphs = {}
    def _run(self, x, ck, cv, at):
        q, k, v = self.qkv(x).chunk(3)
        ck.index_copy_(0, at, k[None])
        cv.index_copy_(0, at, v[None])
        later = torch.arange(len(ck), device=x.device) > at
        w = torch.softmax((ck @ q).masked_fill(later, float("-inf")), 0)
        return w @ torch.where(later[:, None], 0.0, cv)
    def forward(self, x, cache, at):
        k, v = cache["k"], cache["v"]
        key = (tuple(k.shape), addresses(self))
        if key not in self._graphs:
            held = [x.clone(), k.clone(), v.clone(), torch.zeros(1, dtype=torch.int64, device=x.device)]
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        (sx, sk, sv, sa), graph, out = self._graphs[key]
        sx.copy_(x)
        sk.copy_(k)
        sv.copy_(v)
        sa.fill_(at)
        graph.replay()
        k[at].copy_(sk[at])
        v[at].copy_(sv[at])
        return out.clone()
""",
)

MEMO = control(
    "memo_of_a_mask_by_content",
    "capture",
    "A mask made from lengths is kept and made anew whenever the lengths hold other numbers.",
    'entry="program:Masked"\ninputs={x="float32[B, 6]", lengths="int64[B] in 1..6"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
    def forward(self, x, lengths):
        keep = torch.arange(6, device=x.device) < lengths[:, None]
        return self.lin(torch.where(keep, x, 0.0))
""",
    H
    + """
class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self._graphs = {}
        self._memo = None
    def _mask(self, lengths):
        if self._memo is None or not torch.equal(self._memo[0], lengths):
            keep = torch.arange(6, device=lengths.device) < lengths[:, None]
            self._memo = (lengths.clone(), keep)
        return self._memo[1]
    def forward(self, x, lengths):
        keep = self._mask(lengths)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            held = [x.clone(), keep.clone()]
            self._graphs[key] = (held, *capture(lambda: self.lin(torch.where(held[1], held[0], 0.0))))
        (sx, sk), graph, out = self._graphs[key]
        sx.copy_(x)
        sk.copy_(keep)
        graph.replay()
        return out.clone()
""",
)
MEMO_TEST = "if self._memo is None or not torch.equal(self._memo[0], lengths):"
MEMO_KEPT = "self._memo = (lengths.clone(), keep)"

ROTARY = control(
    "rotary_table_by_base_and_length",
    "capture",
    "The table of angles is kept per length, base and dtype.",
    'entry="program:Rotary"\ninputs={x="float32[S, 8]", base="float in 10.0..1000.0", offset="int in 0..5"}\ndims={S=[1,7]}\n'
    + INF,
    TORCH
    + """
class Rotary(nn.Module):
    def forward(self, x, base, offset):
        inv = base ** (-torch.arange(0, 4, device=x.device, dtype=torch.float32) / 4)
        at = torch.arange(offset, offset + len(x), device=x.device, dtype=torch.float32)
        angle = at[:, None] * inv
        a, b = x[:, :4], x[:, 4:]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
""",
    TORCH
    + CAPTURE
    + """
class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self._tables = {}
        self._graphs = {}
    def _table(self, n, base, offset, device):
        key = (n, base, offset)
        if key not in self._tables:
            inv = base ** (-torch.arange(0, 4, device=device, dtype=torch.float32) / 4)
            angle = torch.arange(offset, offset + n, device=device, dtype=torch.float32)[:, None] * inv
            self._tables[key] = torch.stack([angle.cos(), angle.sin()])
        return self._tables[key]
    def _run(self, x, table):
        a, b = x[:, :4], x[:, 4:]
        cos, sin = table
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    def forward(self, x, base, offset):
        table = self._table(len(x), base, offset, x.device)
        if len(x) not in self._graphs:
            held = [x.clone(), table.clone()]
            self._graphs[len(x)] = (held, *capture(lambda: self._run(*held)))
        (sx, st), graph, out = self._graphs[len(x)]
        sx.copy_(x)
        st.copy_(table)
        graph.replay()
        return out.clone()
""",
)

SEGMENTS = control(
    "three_segments_counts_between",
    "capture",
    "Gate, experts and merge are graphs of their own; the host reads the counts in between and skips empty experts.",
    'entry="program:Sparse"\ninputs={x="float32[T, 4]"}\ndims={T=[1,6]}\n' + INF,
    TORCH
    + """
class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.load = [0, 0, 0]
    def forward(self, x):
        pick = self.gate(x).argmax(-1)
        counts = torch.stack([(pick == e).sum() for e in range(3)]).tolist()
        out = torch.zeros_like(x)
        for e, n in enumerate(counts):
            self.load[e] += n
            if n:
                out = torch.where((pick == e)[:, None], self.experts[e](x), out)
        return out + x
""",
    H
    + """
class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.load = [0, 0, 0]
        self._graphs = {}
    def _gate(self, x):
        pick = self.gate(x).argmax(-1)
        return pick, torch.stack([(pick == e).sum() for e in range(3)])
    def _segment(self, name, fn, *given):
        key = (name, given[0].shape, addresses(self))
        if key not in self._graphs:
            held = [t.clone() for t in given]
            self._graphs[key] = (held, *capture(lambda: fn(*held)))
        held, graph, out = self._graphs[key]
        for static, t in zip(held, given):
            static.copy_(t)
        graph.replay()
        return out
    def forward(self, x):
        pick, counts = self._segment("gate", self._gate, x)
        out = torch.zeros_like(x)
        for e, n in enumerate(counts.tolist()):
            self.load[e] += n
            if n:
                out = self._segment(e, lambda a, p, o, e=e: torch.where((p == e)[:, None], self.experts[e](a), o), x, pick, out)
        return self._segment("merge", lambda o, a: o + a, out, x).clone()
""",
)

LAYERS = control(
    "one_graph_for_all_layers",
    "buffers",
    "One graph of a layer serves all layers: their weights are copied in before each replay.",
    'entry="program:Deep"\ninputs={x="float32[B, 5]"}\ndims={B=[1,3]}\n' + INF,
    TORCH
    + """
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x
""",
    TORCH
    + CAPTURE
    + """
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        self._graphs = {}
    def forward(self, x):
        if x.shape not in self._graphs:
            sx, w, b = x.clone(), self.layers[0].weight.clone(), self.layers[0].bias.clone()
            self._graphs[x.shape] = (sx, w, b, *capture(lambda: sx + torch.tanh(nn.functional.linear(sx, w, b))))
        sx, w, b, graph, out = self._graphs[x.shape]
        sx.copy_(x)
        for layer in self.layers:
            w.copy_(layer.weight)
            b.copy_(layer.bias)
            graph.replay()
            sx.copy_(out)
        return out.clone()
""",
)

INT_BRANCH = control(
    "branches_on_int_float_and_list",
    "branches",
    "Numbers read as int(), float() and tolist() decide on the host between graphs.",
    'entry="program:Route"\ninputs={x="float32[6]"}\ndims={}\n' + INF,
    TORCH
    + """
class Route(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
    def forward(self, x):
        h = self.lin(x)
        n = int((x > 0).sum())
        if n > 4:
            h = h * 2
        peak = float(x.abs().max())
        if peak < 0.5:
            h = h + 1
        first, *_, last = x.tolist()
        if first > last + 3:
            h = -h
        return h
""",
    H
    + """
class Route(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self._graphs = {}
    def _run(self, x, kind):
        many, small, falling = kind
        h = self.lin(x)
        if many:
            h = h * 2
        if small:
            h = h + 1
        return -h if falling else h
    def forward(self, x):
        n, peak, first, last = torch.stack([(x > 0).sum(), x.abs().max(), x[0], x[-1]]).tolist()
        kind = (n > 4, peak < 0.5, first > last + 3)
        key = (kind, addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s, kind)))
        s, graph, out = self._graphs[key]
        s.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    GREEDY_LOOP,
    GREEDY_LOOP.mutant(
        "greedy_stop_one_late",
        "result",
        "The stop is read before the replay that decides it.",
        (
            "            made.append(self._out[0].clone())\n            if self._out[1]:\n                break\n",
            "            made.append(self._out[0].clone())\n            if len(made) > 1 and made[-2] == self.EOS:\n                break\n",
        ),
    ),
    GREEDY_LOOP.mutant(
        "greedy_tokens_not_cloned",
        "result",
        "All tokens of a call are the last one.",
        ("made.append(self._out[0].clone())", "made.append(self._out[0])"),
    ),
    GREEDY_LOOP.mutant(
        "greedy_never_stops",
        "result",
        "The end of the text is not looked for.",
        ("            if self._out[1]:\n                break\n", ""),
    ),
    GREEDY_LOOP.mutant(
        "greedy_position_not_set",
        "result",
        "The position goes on from the last call.",
        (
            "        self._at.fill_(n - 1)\n",
            "        if int(self._at) == 0 or int(self._at) + steps >= self.ROOM:\n            self._at.fill_(n - 1)\n",
        ),
    ),
    CALLERS_CACHE,
    CALLERS_CACHE.mutant(
        "callers_values_not_written",
        "inputs|kept",
        "Only keys come back to the caller.",
        ("        v[at].copy_(sv[at])\n", ""),
    ),
    CALLERS_CACHE.mutant(
        "callers_cache_row_of_capture",
        "result|inputs",
        "The row is the one of the first call.",
        (
            "        sa.fill_(at)\n",
            "        if len(self._graphs) == 1 and not int(sa):\n            sa.fill_(at)\n",
        ),
    ),
    CALLERS_CACHE.mutant(
        "callers_cache_copied_once",
        "result|inputs",
        "What the caller's cache holds is copied in when the graph is made.",
        ("        sk.copy_(k)\n", ""),
    ),
    CALLERS_CACHE.mutant(
        "callers_cache_rebound",
        "inputs|aliasing|kept",
        "The dictionary gets new tensors, the caller's own stay as they were.",
        (
            "        k[at].copy_(sk[at])\n        v[at].copy_(sv[at])\n",
            '        cache["k"], cache["v"] = sk.clone(), sv.clone()\n',
        ),
    ),
    MEMO,
    MEMO.mutant(
        "memo_by_id",
        "result",
        "Lengths written anew in the same tensor keep the old mask.",
        (
            MEMO_TEST,
            "if self._memo is None or self._memo[0] != id(lengths) or self._memo[1].shape[0] != len(lengths):",
        ),
        (MEMO_KEPT, "self._memo = (id(lengths), keep)"),
    ),
    MEMO.mutant(
        "memo_by_address",
        "result",
        "The address stands for the content.",
        (MEMO_TEST, "if self._memo is None or self._memo[0] != (lengths.data_ptr(), len(lengths)):"),
        (MEMO_KEPT, "self._memo = ((lengths.data_ptr(), len(lengths)), keep)"),
    ),
    MEMO.mutant(
        "memo_by_shape",
        "result",
        "The shape stands for the content.",
        (MEMO_TEST, "if self._memo is None or self._memo[0] != lengths.shape:"),
        (MEMO_KEPT, "self._memo = (lengths.shape, keep)"),
    ),
    MEMO.mutant(
        "memo_by_sum",
        "result",
        "Other lengths with the same sum get the old mask.",
        (MEMO_TEST, "if self._memo is None or self._memo[0] != (int(lengths.sum()), len(lengths)):"),
        (MEMO_KEPT, "self._memo = ((int(lengths.sum()), len(lengths)), keep)"),
    ),
    MEMO.mutant(
        "memo_by_greatest",
        "result",
        "Other lengths with the same greatest get the old mask.",
        (MEMO_TEST, "if self._memo is None or self._memo[0] != (int(lengths.max()), len(lengths)):"),
        (MEMO_KEPT, "self._memo = ((int(lengths.max()), len(lengths)), keep)"),
    ),
    MEMO.mutant(
        "memo_compared_with_itself",
        "result",
        "The kept lengths are the caller's own tensor, which changes with it.",
        (MEMO_KEPT, "self._memo = (lengths, keep)"),
    ),
    ROTARY,
    ROTARY.mutant(
        "rotary_table_by_length",
        "result",
        "The base of the first call of a length is used for all.",
        ("key = (n, base, offset)", "key = (n, offset)"),
    ),
    ROTARY.mutant(
        "rotary_table_without_offset",
        "result",
        "The offset of the first call stays.",
        ("key = (n, base, offset)", "key = (n, base)"),
    ),
    ROTARY.mutant(
        "rotary_table_cut_from_longer",
        "result",
        "A longer table is cut, from zero instead of the offset.",
        (
            "        table = self._table(len(x), base, offset, x.device)",
            "        table = self._table(len(x), base, 0 if offset > 4 else offset, x.device)",
        ),
    ),
    ROTARY.mutant(
        "rotary_base_rounded",
        "result",
        "Bases are whole numbers in the table.",
        (
            "        key = (n, base, offset)\n",
            "        base = float(round(base))\n        key = (n, base, offset)\n",
        ),
    ),
    SEGMENTS,
    SEGMENTS.mutant(
        "segment_counts_of_first_call",
        "result|attributes",
        "Which experts work was decided at the first call of a shape.",
        (
            "enumerate(counts.tolist())",
            "enumerate(self.__dict__.setdefault('_seen', {}).setdefault(x.shape, counts.tolist()))",
        ),
    ),
    SEGMENTS.mutant(
        "segment_expert_key_missing",
        "result",
        "One graph serves all experts.",
        ("out = self._segment(e, lambda", "out = self._segment('expert', lambda"),
    ),
    SEGMENTS.mutant(
        "segment_load_counts_calls",
        "attributes",
        "The load counts calls instead of rows.",
        (
            "self.load[e] += n\n            if n:\n                out = self._segment",
            "self.load[e] += bool(n)\n            if n:\n                out = self._segment",
        ),
    ),
    SEGMENTS.mutant(
        "segment_inputs_after_first_only",
        "result",
        "Only the first input of a segment is copied.",
        (
            "        for static, t in zip(held, given):\n            static.copy_(t)\n",
            "        held[0].copy_(given[0])\n",
        ),
    ),
    LAYERS,
    LAYERS.mutant(
        "layers_share_first_bias",
        "result",
        "The bias of the first layer serves all.",
        ("            b.copy_(layer.bias)\n", ""),
    ),
    LAYERS.mutant(
        "layers_last_replay_lost",
        "result",
        "The input of the last replay is returned.",
        ("        return out.clone()", "        return sx.clone() if x.shape[0] > 2 else out.clone()"),
        (
            "            graph.replay()\n            sx.copy_(out)\n",
            "            graph.replay()\n            if layer is not self.layers[-1]:\n                sx.copy_(out)\n",
        ),
    ),
    LAYERS.mutant(
        "layers_input_not_chained",
        "result",
        "Every layer sees the first input.",
        ("            sx.copy_(out)\n", ""),
    ),
    INT_BRANCH,
    INT_BRANCH.mutant(
        "int_branch_off_by_one",
        "result",
        "Four positive numbers are many.",
        ("kind = (n > 4,", "kind = (n >= 4,"),
    ),
    INT_BRANCH.mutant("int_branch_float_limit", "result", "The limit is 0.4.", ("peak < 0.5", "peak < 0.4")),
    INT_BRANCH.mutant(
        "int_branch_list_limit", "result", "The fall must be five.", ("first > last + 3", "first > last + 5")
    ),
    INT_BRANCH.mutant(
        "int_branch_kind_forgotten",
        "result",
        "Whether the row falls is not part of the key.",
        ("key = (kind, addresses(self))", "key = (kind[:2], addresses(self))"),
    ),
)
