# ruff: noqa: E501  # programs as text
"""Padding, branches, buffers, aliasing and capture, under inference mode."""

from __future__ import annotations

from .model import Mutant, Pair

POOL = Pair(
    "masked_mean",
    "padding",
    """
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.lift(x))
        return self.head(h.mean(0)), h
""",
    """
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self._graphs = {}

    def _run(self, x, mask, count):
        h = torch.tanh(self.lift(x))
        kept = torch.where(mask, h, 0.0)
        return self.head(kept.sum(0) / count), h

    def forward(self, x):
        n = x.shape[0]
        if torch.is_grad_enabled():
            h = torch.tanh(self.lift(x))
            return self.head(h.mean(0)), h
        size = max(4, 1 << (n - 1).bit_length())
        padded = x.new_zeros(size, 8)
        padded[:n] = x
        mask = torch.arange(size, device=x.device)[:, None] < n
        count = x.new_full((), n)
        key = (size, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, padded, mask, count)
        pooled, h = self._graphs[key](padded, mask, count)
        return pooled.clone(), h[:n].clone()
""",
    'entry = "program:Pool"\ninputs = { x = "float32[B, 8]" }\ndims = { B = [1, 16] }',
    (
        Mutant("mean_over_padding", (("kept.sum(0) / count", "kept.mean(0)"),), "result"),
        Mutant("no_mask", (("torch.where(mask, h, 0.0)", "h"),), "result"),
        Mutant(
            "mask_frozen",
            (("self._graphs[key](padded, mask, count)", "self._graphs[key](padded)"),),
            "result",
        ),
        Mutant("not_sliced", (("h[:n].clone()", "h.clone()"),), "result"),
        Mutant("slice_not_cloned", (("h[:n].clone()", "h[:n]"),), "aliasing"),
        Mutant("count_off", (("n)\n        key", "max(n, 2))\n        key"),), "result"),
        Mutant("one_bucket_too_small", (("(n - 1).bit_length()", "n.bit_length() - (n > 9)"),), "exception"),
        Mutant("addresses_ignored", (("(size, addresses(self))", "size"),), "result"),
    ),
)

RESIDUE = Pair(
    "masked_sum_refilled",
    "padding",
    """
class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)

    def forward(self, x):
        return self.lift(x).sum(0)
""",
    """
class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self._graphs = {}

    def _run(self, x, mask):
        return self.lift(x).masked_fill(~mask, 0.0).sum(0)

    def forward(self, x):
        n = x.shape[0]
        if torch.is_grad_enabled():
            return self.lift(x).sum(0)
        key = addresses(self)
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x.new_zeros(32, 4), torch.zeros(32, 1, dtype=torch.bool, device=x.device))
        graph = self._graphs[key]
        static, mask = graph.inputs
        static[:n].copy_(x)
        mask.zero_()
        mask[:n] = True
        graph.graph.replay()
        return graph.outputs.clone()
""",
    'entry = "program:Sum"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 32] }',
    (
        Mutant(
            "multiplied_by_mask",
            (("self.lift(x).masked_fill(~mask, 0.0)", "(self.lift(x) * mask)"),),
            "result",
        ),
        Mutant("mask_only_grows", (("        mask.zero_()\n", ""),), "result"),
        Mutant(
            "keeps_rows",
            (("static[:n].copy_(x)", "static[: max(n - 1, 1)].copy_(x[: max(n - 1, 1)])"),),
            "result",
        ),
    ),
)

GATE = Pair(
    "early_return",
    "branches",
    """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.deep = nn.Linear(6, 6)
        self.taken = 0

    def forward(self, x):
        h = self.stem(x)
        if h.sum() > 0:
            return h
        self.taken += 1
        return self.deep(torch.relu(h))
""",
    """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.deep = nn.Linear(6, 6)
        self.taken = 0
        self._graphs = {}

    def _first(self, x):
        h = self.stem(x)
        return h, h.sum() > 0

    def _second(self, h):
        return self.deep(torch.relu(h))

    def _graphed(self, name, value):
        key = (name, value.shape, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(getattr(self, name), value)
        return self._graphs[key](value)

    def forward(self, x):
        if torch.is_grad_enabled():
            h, early = self._first(x)
            if early:
                return h
            self.taken += 1
            return self._second(h)
        h, early = self._graphed("_first", x)
        if early:
            return h.clone()
        self.taken += 1
        return self._graphed("_second", h).clone()
""",
    'entry = "program:Gate"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 5] }',
    (
        Mutant("predicate_turned", (("return h, h.sum() > 0", "return h, ~(h.sum() <= 0)"),), "attributes"),
        Mutant(
            "counter_lost",
            (("        self.taken += 1\n        return self._graphed", "        return self._graphed"),),
            "attributes",
        ),
        Mutant("early_result_shared", (("return h.clone()", "return h"),), "aliasing"),
        Mutant(
            "second_forgets_relu", (("return self.deep(torch.relu(h))", "return self.deep(h)"),), "result"
        ),
        Mutant(
            "decided_once",
            (
                (
                    "        if early:\n            return h.clone()",
                    "        if self.__dict__.setdefault('_was', bool(early)):\n            return h.clone()",
                ),
            ),
            "result",
        ),
    ),
)

WHERE = Pair(
    "clip_where",
    "branches",
    """
class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5, 5)

    def forward(self, x, limit):
        h = self.mix(x)
        if h.abs().max() >= limit:
            h = h / h.abs().max()
        return h
""",
    """
class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5, 5)
        self._graphs = {}

    def _run(self, x, limit):
        h = self.mix(x)
        top = h.abs().max()
        return torch.where(top >= limit, h / top, h)

    def forward(self, x, limit):
        if torch.is_grad_enabled():
            return self._run(x, limit)
        key = (x.shape, addresses(self))
        bound = x.new_full((), limit)
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x, bound)
        return self._graphs[key](x, bound).clone()
""",
    'entry = "program:Clip"\ninputs = { x = "float32[B, 5]", limit = "float in 0.5..3.0" }\ndims = { B = [1, 4] }',
    (
        Mutant("limit_frozen", (("self._graphs[key](x, bound)", "self._graphs[key](x)"),), "result"),
        Mutant("sides_swapped", (("h / top, h)", "h, h / top)"),), "result"),
        Mutant(
            "clamped_instead",
            (("torch.where(top >= limit, h / top, h)", "h / top.clamp(min=1.0)"),),
            "result",
        ),
    ),
)

SCRATCH = Pair(
    "scratch_gelu",
    "buffers",
    """
class Gelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        h = self.a(x)
        inner = h * 0.79788456
        return h * torch.tanh(inner) + x
""",
    """
class Gelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self._scratch = {}

    def forward(self, x):
        h = self.a(x)
        if torch.is_grad_enabled():
            return h * torch.tanh(h * 0.79788456) + x
        key = (h.shape, h.dtype)
        if key not in self._scratch:
            self._scratch[key] = torch.zeros_like(h)
        buffer = self._scratch[key]
        torch.mul(h, 0.79788456, out=buffer)
        return h * torch.tanh(buffer) + x
""",
    'entry = "program:Gelu"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 7] }',
    (
        Mutant(
            "zeroed_by_multiplication",
            (("torch.mul(h, 0.79788456, out=buffer)", "buffer.mul_(0).add_(h * 0.79788456)"),),
            "result",
        ),
        Mutant(
            "not_cleared",
            (("torch.mul(h, 0.79788456, out=buffer)", "buffer.add_(h * 0.79788456)"),),
            "result",
        ),
        Mutant(
            "result_in_scratch",
            (("return h * torch.tanh(buffer) + x\n", "return buffer.tanh_().mul_(h).add_(x)\n"),),
            "aliasing",
        ),
        Mutant(
            "input_overwritten",
            (("return h * torch.tanh(buffer) + x\n", "return x.add_(h * torch.tanh(buffer)).clone()\n"),),
            "inputs",
        ),
        Mutant(
            "input_returned",
            (("return h * torch.tanh(buffer) + x\n", "x += h * torch.tanh(buffer)\n        return x\n"),),
            "inputs",
        ),
    ),
)

CACHE = Pair(
    "two_instances",
    "capture",
    """
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, power=1):
        return torch.sigmoid(self.a(x)) ** power
""",
    """
_GRAPHS = {}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, power=1):
        if torch.is_grad_enabled():
            return torch.sigmoid(self.a(x)) ** power
        key = (id(self), x.shape, power, addresses(self))
        if key not in _GRAPHS:
            _GRAPHS[key] = (self, Graph(lambda x: torch.sigmoid(self.a(x)) ** power, x))
        return _GRAPHS[key][1](x).clone()
""",
    'entry = "program:Scale"\ninputs = { x = "float32[B, 4]", power = "int in 1..3" }\ndims = { B = [1, 4] }',
    (
        Mutant(
            "keyed_by_shape", (("(id(self), x.shape, power, addresses(self))", "(x.shape, power)"),), "result"
        ),
        Mutant(
            "power_forgotten",
            (("(id(self), x.shape, power, addresses(self))", "(id(self), x.shape, addresses(self))"),),
            "result",
        ),
        Mutant("rebinding_forgotten", (("x.shape, power, addresses(self))", "x.shape, power)"),), "result"),
        Mutant(
            "captures_for_ever",
            (
                ("_GRAPHS[key] = (self", "_GRAPHS[key] = _GRAPHS[(*key, len(_GRAPHS))] = (self"),
                ("if key not in _GRAPHS:", "if (*key, 0) not in _GRAPHS or True:"),
            ),
            "graph growth",
        ),
    ),
)

LATE = Pair(
    "second_graph_late",
    "capture",
    """
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return torch.sigmoid(self.a(x))
""",
    """
_GRAPHS, _CALLS = {}, {}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        if torch.is_grad_enabled():
            return torch.sigmoid(self.a(x))
        key = (id(self), x.shape, addresses(self))
        _CALLS[key] = _CALLS.get(key, 0) + 1
        key = (*key, min(_CALLS[key] // 5, 1))
        if key not in _GRAPHS:
            _GRAPHS[key] = (self, Graph(lambda x: torch.sigmoid(self.a(x)), x))
        return _GRAPHS[key][1](x).clone()
""",
    'entry = "program:Scale"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }',
    (Mutant("ever_more_graphs", (("min(_CALLS[key] // 5, 1)", "_CALLS[key] // 5"),), "graph growth"),),
)

DROP = Pair(
    "dropout_restored",
    "rng",
    """
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        h = self.a(x)
        return h + torch.randn_like(h)
""",
    """
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self._graphs = {}

    def _run(self, x):
        h = self.a(x)
        return h + torch.randn_like(h)

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            state = torch.cuda.get_rng_state()
            graph = Graph(self._run, x)
            torch.cuda.set_rng_state(state)
            self._graphs[key] = graph
        return self._graphs[key](x).clone()
""",
    'entry = "program:Noise"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }',
    (
        Mutant("warmup_draws", (("            torch.cuda.set_rng_state(state)\n", ""),), "result"),
        Mutant(
            "reseeded",
            (
                (
                    "        return self._graphs[key](x).clone()",
                    "        torch.manual_seed(0)\n        return self._graphs[key](x).clone()",
                ),
            ),
            "result",
        ),
        Mutant(
            "draw_on_host",
            (
                (
                    "h + torch.randn_like(h)\n\n    def forward",
                    "h + torch.randn(h.shape).to(h.device)\n\n    def forward",
                ),
            ),
            "exception",
        ),
        Mutant(
            "drawn_twice",
            (
                (
                    "        return self._graphs[key](x).clone()",
                    "        torch.rand(1, device=x.device)\n        return self._graphs[key](x).clone()",
                ),
            ),
            "result",
        ),
    ),
)

STATE = Pair(
    "caller_state",
    "aliasing",
    """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, state):
        state.add_(self.a(x))
        return x, torch.tanh(state)
""",
    """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self._graphs = {}

    def _run(self, x, state):
        new = state + self.a(x)
        return new, torch.tanh(new)

    def forward(self, x, state):
        if torch.is_grad_enabled():
            state.add_(self.a(x))
            return x, torch.tanh(state)
        key = (x.shape, addresses(self))
        if x is state:
            state.add_(self.a(x))
            return x, torch.tanh(state)
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x, state)
        new, out = self._graphs[key](x, state)
        state.copy_(new)
        return x, out.clone()
""",
    'entry = "program:Step"\ninputs = { x = "float32[B, 4]", state = "float32[B, 4]" }\ndims = { B = [1, 4] }',
    (
        Mutant("state_rebound", (("        state.copy_(new)\n", ""),), "inputs"),
        Mutant("copy_of_x", (("return x, out.clone()", "return x.clone(), out.clone()"),), "aliasing"),
        Mutant("state_returned", (("return x, out.clone()", "return x, state.tanh_()"),), "inputs"),
        Mutant("list_for_tuple", (("return x, out.clone()", "return [x, out.clone()]"),), "result"),
        Mutant("half_precision", (("return x, out.clone()", "return x, out.half().float()"),), "result"),
    ),
)

PAIRS = (POOL, RESIDUE, GATE, WHERE, SCRATCH, CACHE, LATE, DROP, STATE)
