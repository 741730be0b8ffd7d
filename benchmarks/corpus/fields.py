# ruff: noqa: E501  (lines of quoted programs)
"""Serving, samplers, graphs of nodes, boxes, speech, experts, packed weights: one program of each field."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, FUNCTIONAL

INF = 'mode = "inference"\ndevice = "cuda"\n'
H = FUNCTIONAL + CAPTURE + ADDRESSES

SLOTS = control(
    "padded_tokens_go_to_a_spare_slot",
    "padding",
    "Keys are written to slots of a cache; padded tokens write to a slot that nobody reads.",
    'entry = "program:Net"\ninputs = { x = "float32[T, 6]", start = "int in 0..15" }\ndims = { T = [1, 7] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Linear(6, 6)
        self._cache = None
    def forward(self, x, start):
        if self._cache is None:
            self._cache = x.new_zeros(16, 6)
        slots = (start + torch.arange(x.shape[0], device=x.device)) % 16
        self._cache = self._cache.index_copy(0, slots, self.key(x))
        return torch.softmax(x @ self._cache.t(), -1) @ self._cache
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Linear(6, 6)
        self._cache = None
        self._graphs = {}
    def _run(self, x, slots):
        self._cache.index_put_((slots,), self.key(x))
        held = self._cache[:16]
        return torch.softmax(x @ held.t(), -1) @ held
    def forward(self, x, start):
        n = x.shape[0]
        if self._cache is None:
            self._cache = x.new_zeros(17, 6)
        size = 4 if n <= 4 else 8
        key = (size, addresses(self))
        if key not in self._graphs:
            static = x.new_zeros(size, 6)
            slots = torch.full((size,), 16, dtype=torch.int64, device=x.device)
            self._graphs[key] = (static, slots, *capture(lambda: self._run(static, slots)))
        static, slots, graph, out = self._graphs[key]
        static.zero_()
        static[:n].copy_(x)
        slots.fill_(16)
        slots[:n].copy_((start + torch.arange(n, device=x.device)) % 16)
        graph.replay()
        return out[:n].clone()
""",
)

DRAFTS = control(
    "drafts_taken_back",
    "state",
    "Three drafts are appended to a cache, and all but the accepted ones are taken back; a long text starts anew.",
    'entry = "program:Net"\ninputs = { x = "float32[3, 6]", accepted = "int in 0..3", restart = "bool" }\ndims = {}\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Linear(6, 6)
        self._keys = None
    def forward(self, x, accepted, restart):
        if self._keys is None or restart or len(self._keys) > 20:
            self._keys = x[:0]
        held = torch.cat([self._keys, self.key(x)])
        n, old = len(held), len(self._keys)
        seen = torch.ones(3, n, dtype=torch.bool, device=x.device).tril(diagonal=old)
        scores = (x @ held.t()).masked_fill(~seen, float("-inf"))
        self._keys = held[: old + accepted]
        return torch.softmax(scores, -1) @ held
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Linear(6, 6)
        self._length = 0
        self._held = None
        self._graphs = {}
    def _run(self, x, at):
        here = at + torch.arange(3, device=x.device)
        self._held.index_copy_(0, here, self.key(x))
        seen = torch.arange(24, device=x.device) <= here[:, None]
        scores = (x @ self._held.t()).masked_fill(~seen, float("-inf"))
        clean = torch.where(seen.any(0)[:, None], self._held, torch.zeros_like(self._held))
        return torch.softmax(scores, -1) @ clean
    def forward(self, x, accepted, restart):
        if self._held is None:
            self._held = x.new_zeros(24, 6)
        if restart or self._length > 20:
            self._length = 0
        key = addresses(self)
        if key not in self._graphs:
            static, at = x.clone(), torch.full((1,), self._length, dtype=torch.int64, device=x.device)
            self._graphs[key] = (static, at, *capture(lambda: self._run(static, at)))
        static, at, graph, out = self._graphs[key]
        static.copy_(x)
        at.fill_(self._length)
        graph.replay()
        self._length += accepted
        return out.clone()
""",
)

NIBBLES = control(
    "two_weights_in_a_byte",
    "numerics",
    "Weights of four bits, two in a byte, with a scale for each group of four.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 4] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("packed", torch.randint(0, 256, (5, 4), dtype=torch.uint8))
        self.register_buffer("scales", torch.rand(5, 2) + 0.5)
    def weight(self):
        low, high = (self.packed & 15).to(torch.int8) - 8, (self.packed >> 4).to(torch.int8) - 8
        whole = torch.stack([low, high], -1).reshape(5, 8).float()
        return (whole.view(5, 2, 4) * self.scales[..., None]).view(5, 8)
    def forward(self, x):
        return x @ self.weight().t()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("packed", torch.randint(0, 256, (5, 4), dtype=torch.uint8))
        self.register_buffer("scales", torch.rand(5, 2) + 0.5)
        self._graphs = {}
    def weight(self):
        whole = torch.stack([self.packed & 15, self.packed >> 4], -1).reshape(5, 2, 4).float() - 8
        return (whole * self.scales.unsqueeze(-1)).reshape(5, 8)
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: F.linear(static, self.weight())))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

LEVELS = control(
    "tokens_scaled_one_by_one",
    "numerics",
    "Activations become signed bytes with a scale for each token; a token of zeros stays zero.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 6] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (4, 8)).float())
    def forward(self, x):
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
        levels = (x / scale).round().clamp(-128, 127)
        return (levels @ self.weight.t()) * scale, levels.to(torch.int8)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (4, 8)).float())
        self._graphs = {}
    def _run(self, x):
        scale = torch.clamp_min(x.abs().amax(-1, keepdim=True), 1e-8) / 127
        levels = torch.clamp(torch.round(x / scale), -128, 127)
        return F.linear(levels, self.weight) * scale, levels.to(torch.int8)
    def forward(self, x):
        n, size = x.shape[0], 8
        key = (size, addresses(self))
        if key not in self._graphs:
            static = x.new_zeros(size, 8)
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (out, levels) = self._graphs[key]
        static.zero_()
        static[:n].copy_(x)
        graph.replay()
        return out[:n].clone(), levels[:n].clone()
""",
)

EIGHT = control(
    "scale_from_the_calls_before",
    "state",
    "Values become eight-bit floats by the greatest of the last three calls; the history moves on in the graph.",
    'entry = "program:Net"\ninputs = { x = "float32[4]" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("history", torch.ones(3))
    def forward(self, x):
        scale = self.history.max() / 448
        small = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        self.history.copy_(torch.cat([x.abs().amax().clamp(1e-4, 1e4)[None], self.history[:-1]]))
        return small, small.float() * scale
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("history", torch.ones(3))
        self._graphs = {}
    def _run(self, x):
        scale = self.history.max() / 448
        small = torch.clamp(x / scale, -448, 448).to(torch.float8_e4m3fn)
        back = small.float() * scale
        self.history.copy_(torch.cat([x.abs().amax().clamp(1e-4, 1e4).reshape(1), self.history[:-1]]))
        return small, back
    def forward(self, x):
        key = addresses(self)
        if key not in self._graphs:
            static, kept = x.clone(), self.history.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
            self.history.copy_(kept)
        static, graph, (small, back) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return small.clone(), back.clone()
""",
)

ROOM = control(
    "experts_with_little_room",
    "padding",
    "An expert takes the first tokens that choose it, up to a share of their number; the others pass by.",
    'entry = "program:Net"\ninputs = { x = "float32[T, 4]" }\ndims = { T = [1, 8] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    def forward(self, x):
        odds = torch.softmax(self.gate(x), -1)
        weight, chosen = odds.max(-1)
        room = (x.shape[0] + 1) // 2
        out = x.clone()
        for e, expert in enumerate(self.experts):
            mine = (chosen == e).nonzero()[:room, 0]
            out[mine] = x[mine] + weight[mine, None] * expert(x[mine])
        load = torch.bincount(chosen, minlength=3)
        return out, load
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self._graphs = {}
    def _run(self, x, here, room):
        odds = torch.softmax(self.gate(x), -1)
        weight, chosen = odds.max(-1)
        names = torch.arange(3, device=x.device)
        took = (chosen[:, None] == names) & here[:, None]
        kept = took & (took.long().cumsum(0) <= room)
        made = torch.stack([e(x) for e in self.experts], 1)
        part = torch.where(kept[..., None], made, torch.zeros_like(made)).sum(1)
        return torch.where(kept.any(-1, keepdim=True), x + weight[:, None] * part, x), took.sum(0)
    def forward(self, x):
        n = x.shape[0]
        key = addresses(self)
        if key not in self._graphs:
            static, room = x.new_zeros(8, 4), torch.ones((), dtype=torch.int64, device=x.device)
            here = torch.ones(8, dtype=torch.bool, device=x.device)
            self._graphs[key] = (static, here, room, *capture(lambda: self._run(static, here, room)))
        static, here, room, graph, (out, load) = self._graphs[key]
        static.zero_()
        static[:n].copy_(x)
        here.copy_(torch.arange(8, device=x.device) < n)
        room.fill_((n + 1) // 2)
        graph.replay()
        return out[:n].clone(), load.clone()
""",
)

ADAPTERS = control(
    "adapters_by_name",
    "capture",
    "A call names an adapter, or none; its low-rank part is added in the graph of that name.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 6]", adapter = "str in none|chat|code" }\ndims = { B = [1, 3] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 6)
        self.down = nn.ModuleDict({"chat": nn.Linear(6, 2, bias=False), "code": nn.Linear(6, 2, bias=False)})
        self.up = nn.ModuleDict({"chat": nn.Linear(2, 6, bias=False), "code": nn.Linear(2, 6, bias=False)})
        self.alpha = {"chat": 0.5, "code": 2.0}
    def forward(self, x, adapter):
        out = self.base(x)
        if adapter != "none":
            out = out + self.up[adapter](self.down[adapter](x)) * self.alpha[adapter]
        return out
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 6)
        self.down = nn.ModuleDict({"chat": nn.Linear(6, 2, bias=False), "code": nn.Linear(6, 2, bias=False)})
        self.up = nn.ModuleDict({"chat": nn.Linear(2, 6, bias=False), "code": nn.Linear(2, 6, bias=False)})
        self.alpha = {"chat": 0.5, "code": 2.0}
        self._graphs = {}
    def _run(self, x, adapter):
        out = self.base(x)
        if adapter != "none":
            out = out + self.up[adapter](self.down[adapter](x)) * self.alpha[adapter]
        return out
    def forward(self, x, adapter):
        key = (x.shape, adapter, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static, adapter)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

FINISHED = control(
    "sampling_ends_with_the_last_row",
    "rng",
    "Tokens are drawn until every row has ended; the host reads after each replay whether one goes on.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 5]" }\ndims = { B = [1, 3] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 4)
        self.emb = nn.Embedding(4, 5)
    def forward(self, x):
        ended = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        told = []
        for _ in range(6):
            token = torch.multinomial(torch.softmax(self.out(torch.tanh(x)), -1), 1)[:, 0]
            token = torch.where(ended, 0, token)
            told.append(token)
            ended = ended | (token == 1)
            if ended.all():
                break
            x = x + self.emb(token)
        return torch.stack(told, 1)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 4)
        self.emb = nn.Embedding(4, 5)
        self._graphs = {}
    def _odds(self, x):
        return torch.softmax(self.out(torch.tanh(x)), -1)
    def _after(self, x, ended, drawn):
        token = torch.where(ended, 0, drawn)
        ended.logical_or_(token == 1)
        x.add_(self.emb(token))
        return token, ended.all()
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static, ended = x.clone(), torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
            drawn = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
            first = capture(lambda: self._odds(static))
            second = capture(lambda: self._after(static, ended, drawn))
            self._graphs[key] = (static, ended, drawn, first, second)
        static, ended, drawn, (one, odds), (two, (token, done)) = self._graphs[key]
        static.copy_(x)
        ended.zero_()
        told = []
        for _ in range(6):
            one.replay()
            drawn.copy_(torch.multinomial(odds, 1)[:, 0])
            two.replay()
            told.append(token.clone())
            if done:
                break
        return torch.stack(told, 1)
""",
)

GUIDED = control(
    "guided_steps_with_noise",
    "rng",
    "Steps of an ancestral sampler with guidance; noise is drawn in every step but the last.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]", guidance = "float in 0.0..5.0", steps = "int in 1..4" }\ndims = { B = [1, 3] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)
    def denoised(self, x, sigma, told):
        return torch.tanh(self.net(torch.cat([x, sigma.expand(len(x), 1), told.expand(len(x), 1)], -1)))
    def forward(self, x, guidance, steps):
        sigmas = torch.linspace(2.0, 0.0, steps + 1, device=x.device)
        one, none = x.new_ones(1), x.new_zeros(1)
        for k in range(steps):
            sigma, then = sigmas[k], sigmas[k + 1]
            free = self.denoised(x, sigma, none)
            d = (x - (free + guidance * (self.denoised(x, sigma, one) - free))) / sigma
            down = then * 0.8
            x = x + d * (down - sigma)
            if k < steps - 1:
                x = x + torch.randn_like(x) * (then**2 - down**2).sqrt()
        return x
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)
        self._graphs = {}
    def _step(self, x, sigma, then, guidance):
        n = len(x)
        told = torch.cat([x.new_zeros(n, 1), x.new_ones(n, 1)])
        both = torch.cat([x.repeat(2, 1), sigma.expand(2 * n, 1), told], -1)
        free, led = torch.tanh(self.net(both)).chunk(2)
        d = (x - (free + guidance * (led - free))) / sigma
        down = then * 0.8
        return x + d * (down - sigma), (then**2 - down**2).sqrt()
    def forward(self, x, guidance, steps):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            held = (x.clone(), x.new_ones(()), x.new_ones(()), x.new_ones(()))
            self._graphs[key] = (held, *capture(lambda: self._step(*held)))
        (static, sigma, then, scale), graph, (out, spread) = self._graphs[key]
        static.copy_(x)
        scale.fill_(guidance)
        sigmas = torch.linspace(2.0, 0.0, steps + 1, device=x.device)
        for k in range(steps):
            sigma.copy_(sigmas[k])
            then.copy_(sigmas[k + 1])
            graph.replay()
            static.copy_(out)
            if k < steps - 1:
                static.add_(torch.randn_like(static) * spread)
        return static.clone()
""",
)

NODES = control(
    "nodes_with_spare_edges",
    "padding",
    "Messages go along edges; padded edges go from and to a node that is not there, and nodes without edges keep themselves.",
    'entry = "program:Net"\ninputs = { x = "float32[5, 4]", source = "int64[E] in 0..4", target = "int64[E] in 0..4" }\ndims = { E = [0, 8] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.message, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x, source, target):
        sent = torch.relu(self.message(x))[source]
        total = torch.zeros_like(x).index_add(0, target, sent)
        count = torch.bincount(target, minlength=5).clamp(min=1)
        return self.own(x) + total / count[:, None]
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.message, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x, source, target):
        sent = torch.cat([torch.relu(self.message(x)), x.new_zeros(1, 4)])[source]
        total = x.new_zeros(6, 4).index_add(0, target, sent)
        count = torch.zeros(6, dtype=torch.int64, device=x.device).index_add(0, target, torch.ones_like(target)).clamp(min=1)
        return self.own(x) + (total / count[:, None])[:5]
    def forward(self, x, source, target):
        n = len(source)
        size = 4 if n <= 4 else 8
        key = (size, addresses(self))
        if key not in self._graphs:
            held = (x.clone(), *(torch.full((size,), 5, dtype=torch.int64, device=x.device) for _ in range(2)))
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        (static, sources, targets), graph, out = self._graphs[key]
        static.copy_(x)
        sources.fill_(5)
        targets.fill_(5)
        sources[:n].copy_(source)
        targets[:n].copy_(target)
        graph.replay()
        return out.clone()
""",
)

BOXES = control(
    "boxes_without_their_neighbours",
    "branches",
    "Of overlapping intervals the one with the greater score stays; a loop on the device stands for one on the host.",
    'entry = "program:Net"\ninputs = { low = "float32[6] in -4..4", size = "float32[6] in 0..4", score = "float32[6]" }\ndims = {}\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def forward(self, low, size, score):
        order = score.argsort(descending=True, stable=True)
        low, high = low[order], (low + size)[order]
        stay = []
        for i in range(len(order)):
            alone = True
            for j in stay:
                both = (torch.minimum(high[i], high[j]) - torch.maximum(low[i], low[j])).clamp(min=0)
                if bool(both > 0.5 * (high[i] - low[i] + high[j] - low[j] - both)):
                    alone = False
            if alone:
                stay.append(i)
        kept = torch.zeros(6, dtype=torch.bool, device=low.device)
        kept[order[stay]] = True
        return kept
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._graph = None
    def _run(self, low, size, score):
        order = score.argsort(descending=True, stable=True)
        low, high = low[order], (low + size)[order]
        both = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0)
        long = high - low
        close = both > 0.5 * (high[:, None] - low[:, None] + high - low - both)
        stay = torch.ones(6, dtype=torch.bool, device=low.device)
        for i in range(1, 6):
            stay[i] = ~(close[i, :i] & stay[:i]).any()
        return torch.zeros_like(stay).scatter(0, order, stay)
    def forward(self, low, size, score):
        if self._graph is None:
            self._held = (low.clone(), size.clone(), score.clone())
            self._graph = capture(lambda: self._run(*self._held))
        for static, given in zip(self._held, (low, size, score)):
            static.copy_(given)
        self._graph[0].replay()
        return self._graph[1].clone()
""",
)

CHUNKS = control(
    "sound_in_pieces",
    "state",
    "A causal filter over pieces of any length remembers the last two samples; letters are told once where they repeat.",
    'entry = "program:Net"\ninputs = { x = "float32[T, 3]", first = "bool" }\ndims = { T = [1, 6] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(3, 4, 3)
        self._tail = None
        self._last = None
    def forward(self, x, first):
        if self._tail is None or first:
            self._tail, self._last = x.new_zeros(2, 3), x.new_zeros(1, dtype=torch.int64)
        whole = torch.cat([self._tail, x])
        letters = self.filter(whole.t()[None])[0].argmax(0)
        before = torch.cat([self._last, letters[:-1]])
        self._tail, self._last = whole[-2:].clone(), letters[-1:].clone()
        return torch.where((letters != before) & (letters != 0), letters, -1)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(3, 4, 3)
        self._tail = None
        self._graphs = {}
    def _run(self, x):
        whole = torch.cat([self._tail, x])
        letters = self.filter(whole.t()[None])[0].argmax(0)
        before = torch.cat([self._last, letters[:-1]])
        told = torch.where((letters != before) & (letters != 0), letters, -1)
        self._tail.copy_(whole[-2:])
        self._last.copy_(letters[-1:])
        return told
    def forward(self, x, first):
        if self._tail is None:
            self._tail, self._last = x.new_zeros(2, 3), x.new_zeros(1, dtype=torch.int64)
        if first:
            self._tail.zero_()
            self._last.zero_()
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static, held = x.clone(), (self._tail.clone(), self._last.clone())
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
            self._tail.copy_(held[0])
            self._last.copy_(held[1])
        static, graph, told = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return told.clone()
""",
)

SINGULAR = control(
    "what_cannot_be_solved_is_refused",
    "branches",
    "A matrix without a square root is refused, by the number that the graph computed.",
    'entry = "program:Net"\ninputs = { a = "float32[3, 3]", b = "float32[3, 1]" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def forward(self, a, b):
        root, info = torch.linalg.cholesky_ex(a @ a.t())
        if info.item() != 0:
            raise ValueError("the matrix is not positive definite")
        return torch.cholesky_solve(b, root)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._graph = None
    def _run(self, a, b):
        root, info = torch.linalg.cholesky_ex(a @ a.t())
        return torch.cholesky_solve(b, root), info
    def forward(self, a, b):
        if self._graph is None:
            self._held = (torch.eye(3, device=a.device), b.clone())
            self._graph = capture(lambda: self._run(*self._held))
        self._held[0].copy_(a)
        self._held[1].copy_(b)
        self._graph[0].replay()
        solved, info = self._graph[1]
        if info.item() != 0:
            raise ValueError("the matrix is not positive definite")
        return solved.clone()
""",
)

TURNED = control(
    "pairs_turned_as_complex_numbers",
    "numerics",
    "Neighbouring numbers are the parts of one complex number, which is turned by its place.",
    'entry = "program:Net"\ninputs = { x = "float32[S, 6]", offset = "int in 0..9" }\ndims = { S = [1, 5] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rates", 100.0 ** (-torch.arange(3) / 3), persistent=False)
    def forward(self, x, offset):
        places = offset + torch.arange(len(x), device=x.device)
        turn = torch.polar(torch.ones(len(x), 3, device=x.device), places[:, None] * self.rates)
        return torch.view_as_real(torch.view_as_complex(x.view(-1, 3, 2)) * turn).flatten(1)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rates", 100.0 ** (-torch.arange(3) / 3), persistent=False)
        self._graphs = {}
    def _run(self, x, offset):
        angle = (offset + torch.arange(len(x), device=x.device))[:, None] * self.rates
        even, odd = x[:, 0::2], x[:, 1::2]
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(1)
    def forward(self, x, offset):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            held = (x.clone(), torch.zeros((), dtype=torch.int64, device=x.device))
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        held, graph, out = self._graphs[key]
        held[0].copy_(x)
        held[1].fill_(offset)
        graph.replay()
        return out.clone()
""",
)

ADVANTAGES = control(
    "advantages_from_the_end",
    "state",
    "Advantages are summed from the end, cut where an episode is done, and normalised; the scale of returns is kept.",
    'entry = "program:Net"\ninputs = { reward = "float32[6]", value = "float32[7]", done = "bool[6]" }\ndims = {}\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))
    def forward(self, reward, value, done):
        going = (~done).float()
        delta = reward + 0.9 * value[1:] * going - value[:-1]
        running, found = torch.zeros_like(delta[0]), []
        for t in range(5, -1, -1):
            running = delta[t] + 0.9 * 0.8 * going[t] * running
            found.append(running)
        found = torch.stack(found[::-1])
        self.count += 6
        self.square += found.square().sum()
        return (found - found.mean()) / (found.std() + 1e-4), (self.square / self.count).sqrt()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))
        self._graphs = {}
    def _run(self, reward, value, done):
        going = torch.where(done, 0.0, 1.0)
        delta = reward + 0.9 * value[1:] * going - value[:-1]
        found = torch.empty_like(delta)
        running = torch.zeros_like(delta[0])
        for t in reversed(range(6)):
            running = delta[t] + 0.9 * 0.8 * going[t] * running
            found[t] = running
        self.count.add_(6)
        self.square.add_(found.square().sum())
        return (found - found.mean()) / (found.std() + 1e-4), (self.square / self.count).sqrt()
    def forward(self, reward, value, done):
        key = addresses(self)
        if key not in self._graphs:
            held, old = (reward.clone(), value.clone(), done.clone()), (self.count.clone(), self.square.clone())
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
            self.count.copy_(old[0])
            self.square.copy_(old[1])
        held, graph, (advantage, scale) = self._graphs[key]
        for static, given in zip(held, (reward, value, done)):
            static.copy_(given)
        graph.replay()
        return advantage.clone(), scale.clone()
""",
)

COUNTED = control(
    "hits_counted_over_calls",
    "state",
    "Hits and misses are counted over calls; labels of minus one are left out, and the caller starts anew.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 3]", label = "int64[B] in -1..2", anew = "bool" }\ndims = { B = [1, 6] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(3, 3, dtype=torch.int64), persistent=False)
    def forward(self, x, label, anew):
        if anew:
            self.table.zero_()
        known = label >= 0
        pairs = label[known] * 3 + x.argmax(-1)[known]
        self.table += torch.bincount(pairs, minlength=9).view(3, 3)
        return self.table.diagonal().sum() / self.table.sum()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(3, 3, dtype=torch.int64), persistent=False)
        self._graphs = {}
    def _run(self, x, label):
        pairs = torch.where(label >= 0, label * 3 + x.argmax(-1), 9)
        ones = torch.ones_like(pairs)
        self.table.add_(torch.zeros(10, dtype=torch.int64, device=x.device).index_add(0, pairs, ones)[:9].view(3, 3))
        return self.table.diagonal().sum() / self.table.sum()
    def forward(self, x, label, anew):
        if anew:
            self.table.zero_()
        n, key = len(x), addresses(self)
        if key not in self._graphs:
            held, kept = (x.new_zeros(8, 3), label.new_full((8,), -1)), self.table.clone()
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
            self.table.copy_(kept)
        held, graph, out = self._graphs[key]
        held[1].fill_(-1)
        held[0][:n].copy_(x)
        held[1][:n].copy_(label)
        graph.replay()
        return out.clone()
""",
)

LEFT = control(
    "prompts_padded_on_the_left",
    "padding",
    "Prompts of unequal length end together; places are counted from the first token that is there.",
    'entry = "program:Net"\ninputs = { ids = "int64[3, S] in 0..8", lengths = "int64[3] in 1..S" }\ndims = { S = [1, 6] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(9, 6), nn.Embedding(8, 6)
    def forward(self, ids, lengths):
        found = []
        for row, n in zip(ids, lengths.tolist()):
            h = self.embed(row[len(row) - n :]) + self.place.weight[:n]
            found.append(torch.softmax(h @ h[-1], 0) @ h)
        return torch.stack(found)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(9, 6), nn.Embedding(8, 6)
        self._graphs = {}
    def _run(self, ids, lengths):
        size = ids.shape[1]
        there = torch.arange(size, device=ids.device) >= size - lengths[:, None]
        places = (there.long().cumsum(1) - 1).clamp(min=0)
        h = self.embed(ids) + self.place(places)
        scores = (h @ h[:, -1:].transpose(1, 2))[..., 0].masked_fill(~there, float("-inf"))
        return (torch.softmax(scores, -1)[:, None] @ h)[:, 0]
    def forward(self, ids, lengths):
        n, key = ids.shape[1], addresses(self)
        if key not in self._graphs:
            held = (ids.new_zeros(3, 8), lengths.clone())
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        held, graph, out = self._graphs[key]
        held[0].zero_()
        held[0][:, 8 - n :].copy_(ids)
        held[1].copy_(lengths)
        graph.replay()
        return out.clone()
""",
)

LABELS = control(
    "loss_over_labels_that_are_there",
    "numerics",
    "A loss with smoothed labels over those that are not left out; NaN where all are.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]", label = "int64[B] in -1..3" }\ndims = { B = [1, 5] }\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def forward(self, x, label):
        return F.cross_entropy(x, label, ignore_index=-1, label_smoothing=0.1)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._graphs = {}
    def _run(self, x, label):
        there = label >= 0
        odds = F.log_softmax(x, -1)
        own = odds.gather(1, label.clamp(min=0)[:, None])[:, 0]
        each = -(0.9 * own + 0.1 * odds.mean(-1))
        return torch.where(there, each, 0.0).sum() / there.sum()
    def forward(self, x, label):
        if x.shape not in self._graphs:
            held = (x.clone(), label.clone())
            self._graphs[x.shape] = (held, *capture(lambda: self._run(*held)))
        held, graph, out = self._graphs[x.shape]
        held[0].copy_(x)
        held[1].copy_(label)
        graph.replay()
        return out.clone()
""",
)

HALFWAY = control(
    "refused_before_anything_is_kept",
    "state",
    "A step that is refused leaves the cache as it was.",
    'entry = "program:Net"\ninputs = { x = "float32[4]", weight = "float in -1.0..1.0" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.steps = 0
        self._sum = None
    def forward(self, x, weight):
        if self._sum is None:
            self._sum = torch.zeros_like(x)
        if weight < 0:
            raise ValueError(f"a weight of {weight:.2f} at step {self.steps}")
        self.steps += 1
        self._sum = self._sum * 0.5 + weight * torch.tanh(self.lift(x))
        return self._sum.clone()
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.steps = 0
        self._sum = None
        self._graphs = {}
    def _run(self, x, weight):
        self._sum.mul_(0.5).add_(weight * torch.tanh(self.lift(x)))
    def forward(self, x, weight):
        if self._sum is None:
            self._sum = torch.zeros_like(x)
        if weight < 0:
            raise ValueError(f"a weight of {weight:.2f} at step {self.steps}")
        self.steps += 1
        key = addresses(self)
        if key not in self._graphs:
            held, kept = (x.clone(), x.new_ones(())), self._sum.clone()
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
            self._sum.copy_(kept)
        held, graph, _ = self._graphs[key]
        held[0].copy_(x)
        held[1].fill_(weight)
        graph.replay()
        return self._sum.clone()
""",
)

BOTH_WAYS = control(
    "smoothed_both_ways",
    "padding",
    "Rows are smoothed from the front and from the end; the way back starts at the last row that is there.",
    'entry = "program:Net"\ninputs = { x = "float32[T, 3]" }\ndims = { T = [1, 7] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(3, 3)
    def forward(self, x):
        h = self.lift(x)
        front, back = [h[0]], [h[-1]]
        for k in range(1, len(h)):
            front.append(0.5 * front[-1] + 0.5 * h[k])
            back.append(0.5 * back[-1] + 0.5 * h[len(h) - 1 - k])
        return torch.cat([torch.stack(front), torch.stack(back[::-1])], -1)
""",
    H
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(3, 3)
        self._graphs = {}
    def _run(self, x, n):
        h = self.lift(x)
        front, back = [h[0]], []
        state = torch.zeros_like(h[0])
        for k in range(1, 8):
            front.append(0.5 * front[-1] + 0.5 * h[k])
        for k in range(7, -1, -1):
            state = torch.where(k == n - 1, h[k], 0.5 * state + 0.5 * h[k])
            back.append(state)
        return torch.cat([torch.stack(front), torch.stack(back[::-1])], -1)
    def forward(self, x):
        n, key = len(x), addresses(self)
        if key not in self._graphs:
            held = (x.new_zeros(8, 3), torch.ones((), dtype=torch.int64, device=x.device))
            self._graphs[key] = (held, *capture(lambda: self._run(*held)))
        (static, count), graph, out = self._graphs[key]
        static.zero_()
        static[:n].copy_(x)
        count.fill_(n)
        graph.replay()
        return out[:n].clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    SLOTS,
    SLOTS.mutant(
        "padded_tokens_go_to_the_last_slot",
        "result",
        "Padded tokens are written to the last slot that is read.",
        ("        slots.fill_(16)\n", "        slots.fill_(15)\n"),
    ),
    SLOTS.mutant(
        "slots_of_the_longer_call",
        "result",
        "Behind the tokens stand the slots of a longer call.",
        ("        slots.fill_(16)\n", ""),
    ),
    SLOTS.mutant(
        "spare_slot_is_read",
        "result",
        "The spare slot takes part in the softmax.",
        ("held = self._cache[:16]", "held = self._cache"),
    ),
    DRAFTS,
    DRAFTS.mutant(
        "one_draft_too_many_stays",
        "result",
        "One more than the accepted ones stays.",
        ("self._length += accepted", "self._length += min(accepted + 1, 3)"),
    ),
    DRAFTS.mutant(
        "drafts_are_not_taken_back",
        "result",
        "All three stay.",
        ("self._length += accepted", "self._length += 3"),
    ),
    DRAFTS.mutant(
        "drafts_see_each_other",
        "result",
        "A draft sees those behind it.",
        ("<= here[:, None]", "<= at + 2 + 0 * here[:, None]"),
    ),
    DRAFTS.mutant(
        "drafts_of_the_longer_text_seen",
        "result",
        "A place behind the last is seen as well.",
        ("<= here[:, None]", "<= here[:, None] + 1"),
    ),
    NIBBLES,
    NIBBLES.mutant(
        "high_half_first",
        "result",
        "The halves of a byte change places.",
        ("[self.packed & 15, self.packed >> 4]", "[self.packed >> 4, self.packed & 15]"),
    ),
    NIBBLES.mutant(
        "offset_after_the_scale",
        "result",
        "Eight is taken off after scaling.",
        (".float() - 8", ".float()"),
        ("(whole * self.scales.unsqueeze(-1))", "(whole * self.scales.unsqueeze(-1) - 8)"),
    ),
    NIBBLES.mutant(
        "unpacked_once",
        "rebinding|result",
        "Weights are unpacked when the graph is made: loading in place is not seen.",
        ("            static = x.clone()\n", "            static, weight = x.clone(), self.weight()\n"),
        ("F.linear(static, self.weight())", "F.linear(static, weight)"),
    ),
    LEVELS,
    LEVELS.mutant(
        "one_scale_for_all_tokens",
        "result",
        "The greatest of all tokens is the scale of each.",
        ("x.abs().amax(-1, keepdim=True)", "x.abs().amax().expand(8, 1)"),
    ),
    LEVELS.mutant("levels_down_to_127", "result", "The least level is -127.", ("-128, 127)", "-126, 127)")),
    LEVELS.mutant(
        "scale_with_an_epsilon",
        "result",
        "A small number is added to the scale.",
        (
            "torch.clamp_min(x.abs().amax(-1, keepdim=True), 1e-8) / 127",
            "x.abs().amax(-1, keepdim=True) / 127 + 1e-8",
        ),
    ),
    LEVELS.mutant(
        "levels_cut_instead_of_rounded",
        "result",
        "Levels are cut off.",
        ("torch.round(x / scale)", "torch.trunc(x / scale)"),
    ),
    EIGHT,
    EIGHT.mutant(
        "scale_of_this_call",
        "result",
        "The history takes in the call before the scale is read.",
        (
            "        scale = self.history.max() / 448\n        small = torch",
            "        self.history[0].copy_(torch.maximum(self.history[0], x.abs().amax().clamp(1e-4, 1e4)))\n        scale = self.history.max() / 448\n        small = torch",
        ),
    ),
    EIGHT.mutant(
        "history_of_the_warmup",
        "state|result",
        "The history has the warmup in it.",
        ("            self.history.copy_(kept)\n", ""),
    ),
    EIGHT.mutant(
        "eight_bits_of_another_kind",
        "result",
        "The wider and coarser kind is handed out.",
        (
            "return small.clone(), back",
            "return small.float().to(torch.float8_e5m2).float().to(torch.float8_e4m3fn), back",
        ),
    ),
    ROOM,
    ROOM.mutant(
        "room_of_the_bucket",
        "result",
        "The room is a share of the bucket.",
        ("room.fill_((n + 1) // 2)", "room.fill_(4)"),
    ),
    ROOM.mutant(
        "padding_takes_room",
        "result",
        "Padded tokens count among those that choose an expert.",
        ("(chosen[:, None] == names) & here[:, None]", "(chosen[:, None] == names)"),
    ),
    ROOM.mutant(
        "tokens_without_room_are_lost",
        "result",
        "A token that finds no room becomes zero.",
        ("x + weight[:, None] * part, x)", "x + weight[:, None] * part, torch.zeros_like(x))"),
    ),
    ROOM.mutant(
        "last_tokens_first",
        "result",
        "The last tokens that choose an expert are taken.",
        ("took & (took.long().cumsum(0) <= room)", "took & (took.long().flip(0).cumsum(0).flip(0) <= room)"),
    ),
    ADAPTERS,
    ADAPTERS.mutant(
        "adapter_of_the_first_call",
        "result",
        "The name is not in the key.",
        ("(x.shape, adapter, addresses(self))", "(x.shape, addresses(self))"),
    ),
    ADAPTERS.mutant(
        "adapters_share_a_strength",
        "result",
        "Both adapters have the first one's strength.",
        ("* self.alpha[adapter]", '* self.alpha["chat"]'),
    ),
    ADAPTERS.mutant(
        "adapter_merged_for_good",
        "state|result",
        "The low-rank part is added to the weight, and not taken off again.",
        (
            "            out = out + self.up[adapter](self.down[adapter](x)) * self.alpha[adapter]",
            "            self.base.weight.data.add_(self.up[adapter].weight @ self.down[adapter].weight, alpha=1e-3)\n            out = out + self.up[adapter](self.down[adapter](x)) * self.alpha[adapter]",
        ),
    ),
    FINISHED,
    FINISHED.mutant(
        "draws_after_the_end",
        "random|result",
        "The loop always makes six steps and cuts the rest off.",
        (
            "            told.append(token.clone())\n            if done:\n                break\n",
            "            if not told or not over:\n                told.append(token.clone())\n            over = bool(done)\n",
        ),
    ),
    FINISHED.mutant(
        "ended_rows_go_on",
        "result",
        "Rows that ended keep their tokens.",
        ("token = torch.where(ended, 0, drawn)", "token = drawn.clone()"),
    ),
    FINISHED.mutant(
        "ends_of_the_call_before",
        "result",
        "Which rows ended is not cleared.",
        ("        ended.zero_()\n", ""),
    ),
    GUIDED,
    GUIDED.mutant(
        "guidance_of_the_first_call",
        "result",
        "The scale of guidance is not filled in.",
        ("        scale.fill_(guidance)\n", ""),
    ),
    GUIDED.mutant(
        "guided_away",
        "result",
        "The halves of the batch change places.",
        ("free, led = torch", "led, free = torch"),
    ),
    GUIDED.mutant(
        "noise_in_the_last_step",
        "random",
        "Noise is drawn in the last step too, times zero.",
        (
            "            if k < steps - 1:\n                static.add_",
            "            if True:\n                static.add_",
        ),
    ),
    GUIDED.mutant(
        "sigma_of_the_step_before",
        "result",
        "The first two steps have the same sigma.",
        ("then.copy_(sigmas[k + 1])", "then.copy_(sigmas[k + 1] if k != 1 else sigmas[k])"),
    ),
    NODES,
    NODES.mutant(
        "spare_edges_at_the_first_node",
        "result",
        "Padded edges go to the first node: zeros are added and counted.",
        ("        targets.fill_(5)\n", "        targets.fill_(0)\n"),
    ),
    NODES.mutant(
        "spare_edges_of_the_larger_graph",
        "result",
        "Edges of a larger graph stay.",
        ("        sources.fill_(5)\n        targets.fill_(5)\n", ""),
    ),
    NODES.mutant(
        "lonely_nodes_are_nan",
        "result",
        "Nodes without edges divide by zero.",
        ("torch.ones_like(target)).clamp(min=1)", "torch.ones_like(target))"),
    ),
    NODES.mutant(
        "edges_turned_round",
        "result",
        "Sources and targets change places.",
        ("sources[:n].copy_(source)", "sources[:n].copy_(target)"),
        ("targets[:n].copy_(target)", "targets[:n].copy_(source)"),
    ),
    BOXES,
    BOXES.mutant(
        "boxes_that_touch_by_half",
        "result",
        "An overlap of exactly a half counts.",
        ("close = both > 0.5", "close = both >= 0.5"),
    ),
    BOXES.mutant(
        "gone_boxes_still_count",
        "result",
        "Boxes that are gone push others away.",
        ("(close[i, :i] & stay[:i]).any()", "close[i, :i].any()"),
    ),
    BOXES.mutant(
        "last_of_equal_boxes",
        "result",
        "Of equal scores the last comes first.",
        (
            "score.argsort(descending=True, stable=True)",
            "5 - score.flip(0).argsort(descending=True, stable=True)",
        ),
    ),
    CHUNKS,
    CHUNKS.mutant(
        "short_pieces_lose_a_sample",
        "result",
        "A piece of one sample is remembered twice.",
        (
            "self._tail.copy_(whole[-2:])",
            "self._tail.copy_(whole[-2:] if len(x) > 1 else whole[-1:].expand(2, 3))",
        ),
    ),
    CHUNKS.mutant(
        "letters_told_again",
        "result",
        "At the start of a piece nothing was told before.",
        (
            "before = torch.cat([self._last, letters[:-1]])",
            "before = torch.cat([self._last * 0, letters[:-1]])",
        ),
    ),
    CHUNKS.mutant(
        "tail_of_the_warmup",
        "result",
        "The first piece starts with what the warmup left.",
        ("            self._tail.copy_(held[0])\n", ""),
    ),
    SINGULAR,
    SINGULAR.mutant(
        "unsolvable_is_solved",
        "exception",
        "The number is not read.",
        (
            '        if info.item() != 0:\n            raise ValueError("the matrix is not positive definite")\n        return solved',
            "        return solved",
        ),
    ),
    SINGULAR.mutant(
        "solved_with_a_ridge",
        "exception|result",
        "A small ridge makes every matrix solvable.",
        (
            "torch.linalg.cholesky_ex(a @ a.t())",
            "torch.linalg.cholesky_ex(a @ a.t() + 1e-6 * torch.eye(3, device=a.device))",
        ),
    ),
    TURNED,
    TURNED.mutant(
        "turned_the_other_way",
        "result",
        "The conjugate turns back.",
        ("even * cos - odd * sin, even * sin + odd * cos", "even * cos + odd * sin, odd * cos - even * sin"),
    ),
    TURNED.mutant(
        "halves_for_neighbours",
        "result",
        "The parts are taken from the two halves.",
        ("x[:, 0::2], x[:, 1::2]", "x[:, :3], x[:, 3:]"),
    ),
    TURNED.mutant(
        "turned_in_halves",
        "result",
        "The parts come back one half after the other.",
        ("even * sin + odd * cos], -1).flatten(1)", "even * sin + odd * cos], 1).flatten(1)"),
    ),
    ADVANTAGES,
    ADVANTAGES.mutant(
        "advantages_past_the_end",
        "result",
        "What comes after the end is added.",
        ("0.9 * 0.8 * going[t] * running", "0.9 * 0.8 * running"),
    ),
    ADVANTAGES.mutant(
        "ends_a_step_late",
        "result",
        "The end of the step before cuts.",
        ("0.9 * 0.8 * going[t] * running", "0.9 * 0.8 * going[t - 1] * running"),
    ),
    ADVANTAGES.mutant(
        "advantages_by_the_biased_spread",
        "result",
        "The spread is divided by the number.",
        ("(found.std() + 1e-4)", "(found.std(unbiased=False) + 1e-4)"),
    ),
    ADVANTAGES.mutant(
        "scale_counts_the_warmup",
        "state|result",
        "The sum of squares has the warmup in it.",
        ("            self.square.copy_(old[1])\n", ""),
    ),
    COUNTED,
    COUNTED.mutant(
        "left_out_labels_are_misses",
        "result|attributes",
        "Labels of minus one count for the first row.",
        ("torch.where(label >= 0, label * 3 + x.argmax(-1), 9)", "label.clamp(min=0) * 3 + x.argmax(-1)"),
    ),
    COUNTED.mutant(
        "labels_of_the_larger_call",
        "result|attributes",
        "Labels of a larger call are counted again.",
        ("        held[1].fill_(-1)\n", ""),
    ),
    LEFT,
    LEFT.mutant(
        "places_from_the_buckets_front",
        "result",
        "Places are counted from the front of the bucket.",
        (
            "(there.long().cumsum(1) - 1).clamp(min=0)",
            "torch.arange(size, device=ids.device).expand(3, size)",
        ),
    ),
    LEFT.mutant(
        "padding_on_the_left_is_seen",
        "result",
        "The padding takes part in the softmax.",
        ('.masked_fill(~there, float("-inf"))', ""),
    ),
    LEFT.mutant(
        "places_start_at_one",
        "result",
        "The first token has the second place.",
        ("(there.long().cumsum(1) - 1).clamp(min=0)", "there.long().cumsum(1).clamp(max=7)"),
    ),
    LABELS,
    LABELS.mutant(
        "no_labels_cost_nothing",
        "result",
        "The loss is zero where all labels are left out.",
        ("/ there.sum()", "/ there.sum().clamp(min=1)"),
    ),
    LABELS.mutant(
        "mean_over_labels_left_out",
        "result",
        "Labels that are left out are in the mean.",
        ("/ there.sum()", "/ len(label)"),
    ),
    LABELS.mutant(
        "labels_smoothed_over_the_others",
        "result",
        "The smoothing goes to the other labels alone.",
        ("-(0.9 * own + 0.1 * odds.mean(-1))", "-(0.9 * own + 0.1 * (odds.sum(-1) - own) / 3)"),
    ),
    HALFWAY,
    HALFWAY.mutant(
        "refused_after_it_was_counted",
        "attributes",
        "The step is counted, then refused.",
        (
            '        if weight < 0:\n            raise ValueError(f"a weight of {weight:.2f} at step {self.steps}")\n        self.steps += 1\n',
            '        self.steps += 1\n        if weight < 0:\n            raise ValueError(f"a weight of {weight:.2f} at step {self.steps - 1}")\n',
        ),
    ),
    HALFWAY.mutant(
        "refused_after_it_was_kept",
        "result",
        "The sum is halved, then the step is refused.",
        ("        if weight < 0:\n", "        if weight < 0:\n            self._sum.mul_(0.5)\n"),
    ),
    HALFWAY.mutant(
        "refused_and_zero",
        "exception",
        "A weight below zero is taken for zero.",
        (
            '        if weight < 0:\n            raise ValueError(f"a weight of {weight:.2f} at step {self.steps}")\n',
            "        weight = max(weight, 0.0)\n",
        ),
    ),
    BOTH_WAYS,
    BOTH_WAYS.mutant(
        "way_back_from_the_bucket",
        "result",
        "The way back starts at the end of the bucket.",
        ("torch.where(k == n - 1, h[k], 0.5 * state + 0.5 * h[k])", "0.5 * state + 0.5 * h[k]"),
    ),
    BOTH_WAYS.mutant(
        "way_back_a_row_late",
        "result",
        "The way back starts behind the last row.",
        ("torch.where(k == n - 1, h[k]", "torch.where(k == n, h[k]"),
    ),
)
