"""Generated modules are rewritten and run on the CPU: results, state and gradients are as before."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rewrite.compare import assert_same
from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")

NAMES = ("h", "u", "v")
HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F

SHIFT = [0.5, -0.25, 0.125, 1.0]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU())
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.register_buffer("seen", torch.zeros(4))
        self.table = torch.arange(4.0)
        self.calls = 0
        self.limit = 0.1

    def forward(self, x, scale=1.5):
        h = self.a(x)
        u = x * 2
        v = torch.zeros_like(x)
"""

expressions = st.sampled_from(
    [
        "self.a({0})", "self.b({0})", "torch.tanh({0})", "{0} * {1}", "{0} + {1}", "{0} - 0.5", "{0}.relu()",
        "F.softmax({0}, dim=-1)", "torch.where({0} > 0, {0}, {1})",
        "{0} * torch.tensor(0.5, device=x.device)",
        "{0} + torch.tensor(SHIFT, device=x.device)", "{0}[:, [1, 0, 3, 2]]", "{0} * scale", "{0}.clone()",
        "{0} + self.table.to(x.device)", "{0} @ torch.eye(4).to({0})",
        "{0} + n", "self.layers[0]({0})", "{0}",
        "{0}[:, :]", "torch.exp({0}).clamp(max=3)",
    ]
)  # fmt: skip
tests = st.sampled_from(
    [
        "{0}.mean() > 0", "{0}.sum() > {1}.sum()", "{0}.abs().max() > self.limit", "({0} > 0).any()",
        "n > 1 and {0}.mean() > 0", "{0}.mean() > 0 and n > 1",
        "not {0}.std() > 1", "self.a({0}).norm().item() > 1",
        "n % 2", "self.training",
    ]
)  # fmt: skip
name = st.sampled_from(NAMES)


def _filled(draw: st.DrawFn, template: str) -> str:
    return template.format(draw(name), draw(name))


@st.composite
def blocks(draw: st.DrawFn, depth: int, loop: bool) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        lines += draw(statements(depth, loop))
    return lines


@st.composite
def statements(draw: st.DrawFn, depth: int, loop: bool) -> list[str]:
    kinds = ["assign"] * 6 + ["augment", "count", "state", "buffer", "append", "comment", "unpack"]
    if depth:
        kinds += (
            ["if"] * 4
            + ["choose", "for", "for", "while", "layers", "return"]
            + (["break", "continue"] if loop else [])
        )
    kind = draw(st.sampled_from(kinds))
    if kind == "assign":
        return [f"{draw(name)} = {_filled(draw, draw(expressions))}"]
    if kind == "choose":
        value = _filled(draw, "self.b(self.a({0})) if " + draw(tests) + " else self.b({1})")
        return [f"{draw(name)} = {value}  # either"]
    if kind == "augment":
        return [
            f"{draw(name)} {draw(st.sampled_from(['+=', '*=', '-=']))} {_filled(draw, draw(expressions))}"
        ]
    if kind == "unpack":
        return [f"{draw(name)}, part = {_filled(draw, '({0} * 2, {1}.sum())')}", f"{draw(name)} = x - part"]
    if kind == "comment":
        return ["# a remark, kept", f"{draw(name)} = {_filled(draw, draw(expressions))}  # and one behind"]
    if kind == "count":
        return ["n += 1"]
    if kind == "state":
        return ["self.calls += 1"]
    if kind == "buffer":
        return [f"self.seen.add_({draw(name)}.detach().sum(0))"]
    if kind == "append":
        return [f"kept.append({draw(name)})"]
    if kind in ("break", "continue"):
        return [f"if {_filled(draw, draw(tests))}:", f"    {kind}"]
    if kind == "return":
        return [f"if {_filled(draw, draw(tests))}:", f"    return {_filled(draw, '{0} + {1}')}, n, kept"]
    inside = draw(blocks(depth - 1, loop or kind in ("for", "while", "layers")))
    body = [f"    {line}" for line in inside]
    if kind == "if":
        lines = [f"if {_filled(draw, draw(tests))}:", *body]
        if draw(st.booleans()):
            other = [f"    {line}" for line in draw(blocks(depth - 1, loop))]
            head = "else:" if draw(st.booleans()) else f"elif {_filled(draw, draw(tests))}:"
            lines += [head, *other]
        return lines
    if kind == "for":
        return [f"for i in range({draw(st.integers(1, 3))}):", "    n += i", *body]
    if kind == "layers":
        return ["for layer in self.layers:", f"    {draw(name)} = layer({draw(name)})", *body]
    lines = ["rounds = 0", f"while {_filled(draw, '{0}.abs().mean() > self.limit')} and rounds < 3:"]
    return [*lines, "    rounds += 1", *body]


@st.composite
def modules(draw: st.DrawFn) -> str:
    body = [
        "n = 1",
        "kept = []",
        *draw(blocks(2, False)),
        *draw(statements(2, False)),
        *draw(blocks(1, False)),
    ]
    result = draw(st.sampled_from(["h, n, kept", "(h + u) * v, n, kept", "{'h': h, 'u': u}, n, kept"]))
    return HEAD + "".join(f"        {line}\n" for line in [*body, f"return {result}"])


def _call(model: Any, mode: str, x: Any) -> tuple[Any, Any]:
    """What the model returns and, where gradients are recorded, those of the input and of every parameter."""
    if mode == "inference":
        with torch.inference_mode():
            return model(x), None
    model.zero_grad()
    x = x.requires_grad_()
    result = model(x * 1)  # forward may write into its argument, which no leaf allows
    floats = [t for t in _tensors(result) if t.requires_grad]
    if floats:
        weights = (torch.arange(1.0, t.numel() + 1).view(t.shape).cos() for t in floats)
        total = sum((t * w).sum() for t, w in zip(floats, weights, strict=True))
        try:
            torch.autograd.backward(total)
        except RuntimeError:  # written in place after autograd had saved it: no fault of a rewrite
            return _detached(result), None
    names = {name: p.grad for name, p in model.named_parameters()}
    return _detached(result), {"x": x.grad, **names}


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    return type(value)(map(_detached, value)) if isinstance(value, list | tuple) else value


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(modules(), st.sampled_from(["inference", "train"]))
def test_a_rewritten_module_gives_what_the_original_gives(code: str, mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        new = rewrite(code, Path(folder))
    torch.manual_seed(0)
    before = run(code)["Model"]()
    after = run(new)["Model"]()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert before.state_dict().keys() == after.state_dict().keys()
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(seed + 1, 4)
        y = x.clone()
        (result, gradients), (other, others) = _call(before, mode, x), _call(after, mode, y)
        assert_same(result, other)
        if gradients is not None:
            assert_same(gradients, others)
        assert_same(x.detach(), y.detach())
    assert before.calls == after.calls
    assert_same(dict(before.state_dict()), dict(after.state_dict()))
