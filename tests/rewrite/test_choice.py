"""Branches as choices on the device: results to the bit, and gradients where one side would spoil them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.rewrite.forms import HEAD
from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")

SPECIAL = (0.0, -0.0, 1.0, -1.0, 3.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
TESTS = (
    *("h.mean() > 0", "norm > self.limit", "not torch.isfinite(h).all()", "(h > 2).any()", "peak == 0"),
    *("torch.isnan(h).any() or torch.isinf(h).any()", "self.on and h.sum() < 1", "h.max().item() > 1"),
    "h.std() > 1e-4",
)
LEAVES = ("h", "h", "h", "torch.zeros_like(h)", "rows")
GROWN = (
    *("-{0}", "({0} + 1.5)", "({0} * 0.5)", "({0} / 255.0)", "({0} * self.limit)", "(self.limit / {0})"),
    *(
        "({0} * (self.limit / norm))",
        "({0} / norm * self.limit)",
        "({0} * {1})",
        "({0} / {1})",
        "({0} - {1})",
    ),
    *("torch.tanh({0})", "{0}.exp()", "torch.sqrt({0})", "{0}.log()", "{0}.abs()", "torch.clamp({0}, -1, 1)"),
    *(
        "torch.nan_to_num({0})",
        "F.softmax({0}, dim=-1)",
        "F.normalize({0}, dim=-1)",
        "{0}.relu()",
        "({0} ** 2)",
    ),
    *("({0} - {0}.mean(-1, keepdim=True))", "({0} / {0}.norm(dim=-1, keepdim=True))", "({0} - {0}.mean())"),
    *(
        "({0} / {0}.std())",
        "{0}.masked_fill(torch.isnan({0}), 0.0)",
        "torch.where({0} > 0, {0}, 0.25)",
        "({0} / peak)",
    ),
)


def expressions() -> st.SearchStrategy[str]:
    """Sides over ``h``."""
    return st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.builds(lambda form, a, b: form.format(a, b), st.sampled_from(GROWN), inner, inner),
        max_leaves=3,
    )


@st.composite
def branches(draw: st.DrawFn) -> str:
    """A statement or two that decide what becomes of ``h``."""
    test, side = draw(st.sampled_from(TESTS)), draw(expressions())
    kind = draw(st.sampled_from(("plain", "plain", "else", "return", "in place", "ternary", "two")))
    if kind == "else":
        return f"if {test}:\n    h = {side}\nelse:\n    h = {draw(expressions())}\nreturn h"
    if kind == "return":
        return f"if {test}:\n    return {side}\nreturn {draw(expressions())}"
    if kind == "in place":
        how = draw(st.sampled_from(("*= 0.5", "+= 1", "*= self.limit / norm", "/= peak")))
        return f"if {test}:\n    h {how}\nreturn h"
    if kind == "ternary":
        return f"h = {side} if {test} else h\nreturn h"
    if kind == "two":
        return f"if {test}:\n    h = {side}\n    u = h0 * 2\nelse:\n    h = -h\n    u = h0 + 1\nreturn h + u"
    return f"if {test}:\n    h = {side}\nreturn h"


def program(branch: str) -> str:
    """A module around a branch."""
    lines = "\n".join("        " + line for line in branch.splitlines())
    return f"""{HEAD}class Model(nn.Module):
    def __init__(self, limit=2.0, on=True):
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.limit, self.on = limit, on

    def forward(self, x):
        h = self.a(x)
        h0 = self.a(x)
        norm = h.norm()
        peak = h.abs().max()
        rows = torch.sigmoid(h)
{lines}
"""


def outcome(code: str, limit: float, on: bool, x: Any) -> tuple[Any, Any]:
    """The result and the gradient of the input, or the error."""
    model = run(code)["Model"](limit, on)
    with torch.no_grad():
        model.a.weight.copy_(torch.eye(4))
    x = x.clone().requires_grad_()
    try:
        result = model(x)
        if not result.requires_grad:
            return result, None
        result.backward(torch.arange(1.0, 1 + result.numel()).view_as(result))
    except RuntimeError as error:  # as when what a gradient needs was changed in place
        return type(error), None
    return result.detach(), x.grad


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    branch=branches(),
    values=st.lists(st.sampled_from(SPECIAL) | st.floats(-4, 4, width=32), min_size=8, max_size=8),
    limit=st.sampled_from((2.0, 0.5, 0.0, float("inf"))),
    on=st.booleans(),
)
def test_results_and_gradients_are_those_of_the_branch(
    branch: str, values: list[float], limit: float, on: bool
) -> None:
    before = program(branch)
    with tempfile.TemporaryDirectory() as folder:
        after = rewrite(before, Path(folder), ["CG301", "CG304"])
    event(f"a choice: {after.count('torch.where') > before.count('torch.where')}")
    x = torch.tensor(values).view(2, 4)
    (was, gradient), (now, other) = (outcome(code, limit, on, x) for code in (before, after))
    if not isinstance(was, torch.Tensor):
        return
    torch.testing.assert_close(now, was, rtol=0, atol=0, equal_nan=True)
    assert (gradient is None) == (other is None)
    if gradient is not None:
        torch.testing.assert_close(other, gradient, rtol=1e-5, atol=1e-6, equal_nan=True)
