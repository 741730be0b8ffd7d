# ruff: noqa: E501  (lines of quoted programs)
"""Who shares memory with whom, and who may write to it."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, GRAPH, TORCH

RECURRENCE = control(
    "mutated_input_copied_back",
    "aliasing",
    "The static copy of the state is copied back into the caller's tensor after every replay.",
    """
entry  = "program:Accumulate"
inputs = { x = "float32[B, 8]", state = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Accumulate(nn.Module):
    """Linear recurrence whose state belongs to the caller."""

    def __init__(self, dim=8):
        super().__init__()
        self.inp = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, state):
        state.mul_(0.9).add_(self.inp(x))
        return self.out(torch.tanh(state))
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Accumulate(nn.Module):
    """Linear recurrence whose state belongs to the caller."""

    def __init__(self, dim=8):
        super().__init__()
        self.inp = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x, state):
        state.mul_(0.9).add_(self.inp(x))
        return self.out(torch.tanh(state))

    def forward(self, x, state):
        if torch.is_grad_enabled() or x.untyped_storage().data_ptr() == state.untyped_storage().data_ptr():
            return self._run(x, state)
        key = (tuple(x.shape), tuple(state.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x, state)
        graph = self._graphs[key]
        out = graph(x, state).clone()
        state.copy_(graph.inputs[1])
        return out
''',
)

SWAP = control(
    "same_tensor_twice_has_its_own_graph",
    "aliasing",
    "Which arguments are the same tensor is part of the key, and the graph gets the same static tensor for both.",
    """
entry  = "program:mix_in_place"
inputs = { a = "float32[N, 4]", b = "float32[N, 4]" }
dims   = { N = [1, 5] }
""",
    """
import torch


def mix_in_place(a, b):
    \"\"\"Adds b to a, then doubles b; with one tensor for both the order matters.\"\"\"
    a.add_(b)
    b.mul_(2.0)
    return a - b.sum(0)
""",
    TORCH.replace("from torch import nn\n", "")
    + CAPTURE
    + '''

_graphs = {}


def _mix(a, b):
    a.add_(b)
    b.mul_(2.0)
    return a - b.sum(0)


def overlap(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def mix_in_place(a, b):
    """Adds b to a, then doubles b; with one tensor for both the order matters."""
    same = a is b
    if torch.is_grad_enabled() or (overlap(a, b) and not same):
        return _mix(a, b)
    key = (a.shape, b.shape, same)
    if key not in _graphs:
        sa = a.clone()
        sb = sa if same else b.clone()
        _graphs[key] = (sa, sb, *capture(lambda: _mix(sa, sb)))
    sa, sb, graph, out = _graphs[key]
    sa.copy_(a)
    if not same:
        sb.copy_(b)
    graph.replay()
    a.copy_(sa)
    if not same:
        b.copy_(sb)
    return out.clone()
''',
)

PASSED = control(
    "input_passed_through",
    "aliasing",
    "What the original hands through is the caller's own tensor, not the static copy of it.",
    """
entry  = "program:Gate"
inputs = { x = "float32[B, 6]", residual = "float32[B, 6]" }
dims   = { B = [1, 5] }
""",
    TORCH
    + """

class Gate(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.gate = nn.Linear(dim, dim)

    def forward(self, x, residual):
        return torch.sigmoid(self.gate(x)) * residual, residual
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Gate(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.gate = nn.Linear(dim, dim)
        self._graphs = {}

    def _run(self, x, residual):
        return torch.sigmoid(self.gate(x)) * residual, residual

    def forward(self, x, residual):
        if torch.is_grad_enabled():
            return self._run(x, residual)
        key = (tuple(x.shape), tuple(residual.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x, residual)
        gated, _ = self._graphs[key](x, residual)
        return gated.clone(), residual
""",
)

VIEWS = control(
    "views_of_one_result",
    "aliasing",
    "The whole is cloned once and the parts are cut from the clone, so they share memory as before.",
    """
entry  = "program:Heads"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 5] }
""",
    TORCH
    + """

class Heads(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.qkv = nn.Linear(dim, 12)

    def forward(self, x):
        whole = self.qkv(x)
        q, k, v = whole.chunk(3, -1)
        return {"whole": whole, "q": q, "k": k, "v": v}
""",
    TORCH
    + GRAPH
    + ADDRESSES
    + """

class Heads(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.qkv = nn.Linear(dim, 12)
        self._graphs = {}

    def forward(self, x):
        if torch.is_grad_enabled():
            whole = self.qkv(x)
        else:
            key = (tuple(x.shape), addresses(self))
            if key not in self._graphs:
                self._graphs[key] = Graph(self.qkv, x)
            whole = self._graphs[key](x).clone()
        q, k, v = whole.chunk(3, -1)
        return {"whole": whole, "q": q, "k": k, "v": v}
""",
)

STRIDED = control(
    "strides_in_the_key",
    "aliasing",
    "The static input keeps the caller's strides, which are part of the key; the result has the original's layout.",
    """
entry  = "program:Sharpen"
inputs = { x = "float32[4, N]" }
dims   = { N = [2, 6] }
vary   = ["strides"]
""",
    TORCH
    + """

class Sharpen(nn.Module):
    def __init__(self):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x + self.amount * (x - x.mean(-1, keepdim=True))
""",
    TORCH
    + CAPTURE
    + ADDRESSES
    + """

class Sharpen(nn.Module):
    def __init__(self):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(1.5))
        self._graphs = {}

    def _run(self, x):
        return x + self.amount * (x - x.mean(-1, keepdim=True))

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, x.stride(), addresses(self))
        if key not in self._graphs:
            # the eager run decides which layout the result has, the same graph gives it
            static = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
            if 0 in x.stride():
                static = x[:1].clone().expand(x.shape) if x.stride(0) == 0 else None
            if static is None:
                return self._run(x)
            if 0 not in x.stride():
                static.copy_(x)
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        if x.stride(0) == 0:
            static[:1].copy_(x[:1])
        else:
            static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

FEEDBACK = control(
    "result_fed_back_as_input",
    "aliasing",
    "Inputs are copied before the replay writes anything, so a former result may be the next input.",
    """
entry  = "program:Diffuse"
inputs = { field = "float32[N, 8]" }
dims   = { N = [2, 6] }
""",
    TORCH
    + '''

class Diffuse(nn.Module):
    """One explicit step of a diffusion on a ring."""

    def __init__(self, rate=0.2):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, field):
        return field + self.rate * (field.roll(1, -1) - 2 * field + field.roll(-1, -1))
''',
    TORCH
    + GRAPH
    + ADDRESSES
    + '''

class Diffuse(nn.Module):
    """One explicit step of a diffusion on a ring."""

    def __init__(self, rate=0.2):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))
        self._graphs = {}

    def _run(self, field):
        return field + self.rate * (field.roll(1, -1) - 2 * field + field.roll(-1, -1))

    def forward(self, field):
        if torch.is_grad_enabled():
            return self._run(field)
        key = (tuple(field.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, field)
        return self._graphs[key](field).clone()
''',
)

PAIRS: tuple[Pair, ...] = (
    RECURRENCE,
    RECURRENCE.mutant(
        "mutated_input_not_copied_back",
        "inputs|kept",
        "Only the static copy of the state moves.",
        ("        state.copy_(graph.inputs[1])\n", ""),
    ),
    RECURRENCE.mutant(
        "stale_state_copied_back",
        "inputs|kept",
        "The state is copied back before the replay, so the caller sees the one of the call before.",
        (
            "        out = graph(x, state).clone()\n        state.copy_(graph.inputs[1])\n        return out",
            "        old = graph.inputs[1].clone()\n        out = graph(x, state).clone()\n        state.copy_(old)\n        return out",
        ),
    ),
    RECURRENCE.mutant(
        "state_copied_in_once",
        "result|inputs",
        "The state lives in the graph from the first call on; what the caller passes later is ignored.",
        (
            "        out = graph(x, state).clone()\n",
            '        keep = graph.inputs[1].clone() if key in self.__dict__.setdefault("_live", set()) else state\n        self._live.add(key)\n        out = graph(x, keep).clone()\n',
        ),
    ),
    RECURRENCE.mutant(
        "warmup_mutates_the_callers_state",
        "inputs|result|kept",
        "The graph is warmed up on the caller's own tensor.",
        (
            "        graph = self._graphs[key]\n        out",
            "            self._run(x, state)\n        graph = self._graphs[key]\n        out",
        ),
    ),
    RECURRENCE.mutant(
        "aliased_arguments_copied_apart",
        "result|inputs|kept",
        "One tensor for both arguments gets two static copies.",
        (" or x.untyped_storage().data_ptr() == state.untyped_storage().data_ptr()", ""),
    ),
    SWAP,
    SWAP.mutant(
        "same_tensor_twice_unnoticed",
        "result|inputs|kept",
        "The key does not say that both arguments are one tensor.",
        ("same = a is b", "same = False"),
        ("(overlap(a, b) and not same)", "(overlap(a, b) and a is not b)"),
    ),
    SWAP.mutant(
        "view_taken_for_another_tensor",
        "result|inputs|kept",
        "Identity of the objects is tested, not of the memory: a view of the first is taken for independent.",
        ("if torch.is_grad_enabled() or (overlap(a, b) and not same):", "if torch.is_grad_enabled():"),
    ),
    SWAP.mutant(
        "second_argument_not_copied_back",
        "inputs|kept",
        "Only the first of two changed arguments is copied back.",
        ("    if not same:\n        b.copy_(sb)\n", ""),
    ),
    PASSED,
    PASSED.mutant(
        "passed_through_input_is_a_copy",
        "aliasing",
        "The caller gets a clone of the static input back.",
        (
            "        gated, _ = self._graphs[key](x, residual)\n        return gated.clone(), residual",
            "        gated, residual = self._graphs[key](x, residual)\n        return gated.clone(), residual.clone()",
        ),
    ),
    PASSED.mutant(
        "static_input_handed_out",
        "aliasing|kept",
        "The caller gets the static input itself, which the next call overwrites.",
        (
            "        gated, _ = self._graphs[key](x, residual)\n",
            "        gated, residual = self._graphs[key](x, residual)\n",
        ),
    ),
    PASSED.mutant(
        "copy_skipped_for_same_address",
        "result",
        "An input whose address did not change is taken to be unchanged.",
        (
            "        gated, _ = self._graphs[key](x, residual)\n",
            '        graph, at = self._graphs[key], (x.data_ptr(), residual.data_ptr())\n        if at == getattr(graph, "last", None):\n'
            "            graph.graph.replay()\n            return graph.outputs[0].clone(), residual\n        graph.last = at\n        gated, _ = graph(x, residual)\n",
        ),
    ),
    VIEWS,
    VIEWS.mutant(
        "views_cloned_apart",
        "aliasing",
        "Each part is cloned for itself: writing to one no longer shows in the whole.",
        (
            'return {"whole": whole, "q": q, "k": k, "v": v}',
            'return {"whole": whole, "q": q.clone(), "k": k.clone(), "v": v.clone()}',
        ),
    ),
    VIEWS.mutant(
        "dict_keys_in_other_order",
        "result",
        "The keys of the result come in another order.",
        ('{"whole": whole, "q": q, "k": k, "v": v}', '{"q": q, "k": k, "v": v, "whole": whole}'),
    ),
    VIEWS.mutant(
        "parts_swapped",
        "result",
        "Keys and values change places.",
        ("q, k, v = whole.chunk(3, -1)", "q, v, k = whole.chunk(3, -1)"),
    ),
    STRIDED,
    STRIDED.mutant(
        "strides_not_in_the_key",
        "result",
        "The first layout of a shape decides the layout of all results of that shape.",
        ("key = (x.shape, x.stride(), addresses(self))", "key = (x.shape, 0 in x.stride(), addresses(self))"),
    ),
    STRIDED.mutant(
        "always_contiguous",
        "result",
        "The static input is contiguous, and so is every result.",
        (
            "static = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)",
            "static = torch.empty(x.shape, dtype=x.dtype, device=x.device)",
        ),
    ),
    FEEDBACK,
    FEEDBACK.mutant(
        "callers_tensor_is_the_static_input",
        "result|kept",
        "The first caller's tensor becomes the static input and is overwritten by later calls.",
        (
            "        self._graphs[key] = Graph(self._run, field)\n",
            "        self._graphs[key] = Graph(self._run, field)\n            self._graphs[key].inputs = [field]\n",
        ),
    ),
    FEEDBACK.mutant(
        "result_written_into_static_input",
        "kept|aliasing",
        "The result is copied into the static input, ready for the next step, and handed out.",
        (
            "        return self._graphs[key](field).clone()",
            "        graph = self._graphs[key]\n        return graph.inputs[0].copy_(graph(field))",
        ),
    ),
)
