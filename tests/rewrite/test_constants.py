"""Constants, transfers and index lists: the same tensor to the bit, and what is left alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from refactor.rewrite.constants import propose_constant
from refactor.rewrite.transfers import propose_transfer
from tests.rewrite.compare import assert_same
from tests.rewrite.support import calls, facts_of, patch_nodes
from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")


def _rewritten(expression: str, call: str, transfer: bool = False) -> str:
    """The expression after the rewrite of its outermost call of that name."""
    facts = facts_of(
        f"import torch\nimport math\n\ndef f(self, x):\n    y = {expression}\n    return y.sum()\n"
    )
    propose = propose_transfer if transfer else propose_constant
    patch = patch_nodes(facts, propose, calls(facts, call)[-1 if transfer else 0])
    (outcome,) = patch.outcomes
    if outcome.status == "refused":
        return outcome.reason
    return patch.new.decode().partition("    y = ")[2].partition("\n")[0]


NUMBERS = ["1", "-1e4", "True", "0.1", "3 - 2j", "math.pi", "float('-inf')", "1 / 3", "2**40", "-0.0"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", ["", ", dtype=torch.float16", ", dtype=torch.float64"])
def test_a_number_is_filled_with_the_dtype_and_value_of_torch_tensor(number: str, dtype: str) -> None:
    if "j" in number and dtype:
        pytest.skip("torch.tensor refuses it as well")
    original = f"torch.tensor({number}{dtype}, device=x.device)"
    new = _rewritten(original, "tensor")
    assert new == f"torch.full((), {number}{dtype}, device=x.device)"
    names = {"torch": torch, "math": __import__("math"), "x": torch.zeros(())}
    left, right = eval(original, names), eval(new, names)
    assert (left.dtype, left.shape, repr(left)) == (right.dtype, right.shape, repr(right))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torch.tensor([1, 2], device=x.device)", "constant([1, 2], device=x.device)"),
        ("torch.as_tensor(self.mean, dtype=x.dtype, device=x.device)",
         "constant(self.mean, dtype=x.dtype, device=x.device)"),
        ("torch.tensor(data=[1.0], device=x.device, requires_grad=False)",
         "constant(data=[1.0], device=x.device)"),
        ("torch.tensor([1, 2], device=x.device).add_(1)",
         "constant([1, 2], device=x.device).clone().add_(1)"),
        ("keep(torch.tensor([1, 2], device=x.device))", "keep(constant([1, 2], device=x.device).clone())"),
    ],
)  # fmt: skip
def test_other_data_becomes_a_constant_cloned_where_it_is_not_only_read(before: str, after: str) -> None:
    name = "as_tensor" if "as_tensor" in before else "tensor"
    assert _rewritten(before, name) == after


def test_new_tensor_keeps_dtype_and_device() -> None:
    assert _rewritten("x.new_tensor(3)", "new_tensor") == "x.new_full((), 3)"
    assert _rewritten("x.new_tensor([3])", "new_tensor") == "constant([3], dtype=x.dtype, device=x.device)"


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("torch.tensor([1.0], device=x.device, requires_grad=True)", "cannot have `requires_grad=`"),
        ("torch.tensor([x, x], device=x.device)", "built from tensors"),
        ("torch.tensor(*args, device=x.device)", "unpacked"),
        ("torch.tensor([1, 2])", "the device is not named"),
        ("torch.tensor([(n := 2)], device=x.device)", "side effects"),
    ],
)
def test_what_cannot_be_a_shared_constant_is_left_alone(expression: str, reason: str) -> None:
    assert reason in _rewritten(expression, "tensor")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torch.arange(4).to(x.device)", "torch.arange(4, device=x.device)"),
        ("torch.eye(3).to(x)", "torch.eye(3, dtype=x.dtype, device=x.device)"),
        ("torch.arange(4).to(x)", "torch.arange(4, device=x.device).to(x.dtype)"),
        ("torch.ones(3, 3).tril().bool().to(x.device)", "torch.ones(3, 3, device=x.device).tril().bool()"),
        ("torch.tensor([1.0, 2.0]).to(x.device)", "constant([1.0, 2.0], device=x.device)"),
        ("torch.tensor(0.1).to(x.device, torch.float16)",
         "torch.full((), 0.1, device=x.device).to(torch.float16)"),
        ("self.table.to(x.device)", "constant(self.table, device=x.device)"),
        ("self.table.to(x)", "constant(self.table, dtype=x.dtype, device=x.device)"),
        ("(torch.arange(4)[None] < torch.arange(3)[:, None]).to(x.device)",
         "(torch.arange(4, device=x.device)[None] < torch.arange(3, device=x.device)[:, None])"),
    ],
)  # fmt: skip
def test_exact_tensors_are_made_on_the_device_and_kept_ones_become_constants(before: str, after: str) -> None:
    assert _rewritten(before, "to", transfer=True) == after


@pytest.mark.parametrize(
    "made", ["torch.linspace(0, 1, 5)", "torch.arange(0, 1, 0.1)", "torch.arange(4) / 3"]
)
def test_what_a_device_would_round_differently_is_made_on_the_cpu_and_its_copy_kept(made: str) -> None:
    assert _rewritten(f"({made}).to(x.device)", "to", transfer=True) == f"constant({made}, device=x.device)"


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("torch.randn(3).to(x.device)", "`randn` draws another value at every call"),
        ("(torch.arange(4) / torch.rand(4)).to(x.device)", "`rand` draws another value at every call"),
        ("torch.arange(4).to(x.device, copy=True)", "not understood"),
        ("torch.arange(4).to(where)", "not understood"),
    ],
)
def test_what_is_drawn_or_not_understood_stays(expression: str, reason: str) -> None:
    assert reason in _rewritten(expression, "to", transfer=True)


TEMPORARIES = """\
import torch
import torch.nn as nn


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor):
        u = self.fc(x)
        kept = u * 2
        used = u * 3
        view = used[:, :2]
        written = u + 1
        written += u
        once = torch.exp(u)
        left = 2 - u
        for _ in range(2):
            step = u * 0.5
            u = u + step.sum()
        return kept, view.sum() + once.mean() + written.sum() + left.sum(), u
"""


def test_only_temporaries_that_nothing_can_still_refer_to_get_a_buffer(tmp_path: Path) -> None:
    new = rewrite(TEMPORARIES, tmp_path, ["CG404"])
    tree = ast.parse(new)
    assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and "scratch" in ast.unparse(n.value)]
    assert [ast.unparse(n.targets[0]) for n in assigned] == ["used", "once", "step"]
    results = []
    for code in (TEMPORARIES, new):
        torch.manual_seed(0)
        model = run(code)["Halves"]()
        with torch.inference_mode():
            results.append([model(torch.ones(2, 4)), model(torch.zeros(3, 4))])
    assert_same(*results)


def test_a_list_of_integers_of_unknown_length_becomes_a_constant_too(tmp_path: Path) -> None:
    code = """\
import torch
import torch.nn as nn


def zigzag(n: int):
    return [i * n + j for i in range(n) for j in range(n)]


class Model(nn.Module):
    def __init__(self, n: int = 2):
        super().__init__()
        self.order = zigzag(n)

    def forward(self, x: torch.Tensor):
        return x[:, self.order]
"""
    new = rewrite(code, tmp_path, ["CG403"])
    assert "x[:, constant(self.order, dtype=torch.long, device=x.device)]" in new
    x = torch.randn(3, 4)
    assert_same(run(code)["Model"]()(x), run(new)["Model"]()(x))


def test_every_index_on_the_host_in_one_pair_of_brackets_is_kept_on_the_device(tmp_path: Path) -> None:
    code = """import torch
from torch import nn


class Pairs(nn.Module):
    def forward(self, x: torch.Tensor):
        rows, columns = torch.triu_indices(3, 3, 1)
        first = torch.tensor([i for i in range(2)])
        return x[:, rows, columns], x[:, [0, 1], [1, 2]], x[first, :, [2, 0]], x[0][[0, 2]][:, [1]]
"""
    new = rewrite(code, tmp_path, ["CG403"])
    assert new.count("constant(") == 8
    x = torch.randn(2, 3, 3)
    assert_same(run(code)["Pairs"]()(x), run(new)["Pairs"]()(x))


STEPS = {
    "a mask made in two steps": (
        'm = torch.full((t, t), float("-inf"))\n        m = torch.triu(m, diagonal=1).to(x)',
        'm = torch.full((t, t), float("-inf"), device=x.device)\n'
        "        m = torch.triu(m, diagonal=1).to(x.dtype)",
    ),
    "a comparison that is moved under its own name": (
        "p = torch.arange(t)\n        m = p[:, None] >= p[None]\n        m = m.to(x.device)",
        "p = torch.arange(t, device=x.device)\n        m = p[:, None] >= p[None]\n        m = m.to(x.device)",
    ),
    "a division is computed where it was": (
        "m = torch.ones(t)\n        m = m / 3\n        m = m.to(x.device)",
        "m = torch.ones(t)\n        m = m / 3\n        m = constant(m, device=x.device)",
    ),
    "a step that is used on the host as well": (
        "p = torch.arange(t)\n        m = (p + 1).to(x.device)\n        self.last = int(p[-1])",
        "p = torch.arange(t)\n        m = constant(p + 1, device=x.device)\n        self.last = int(p[-1])",
    ),
    "a device that is not known where the step stands": (
        "p = torch.arange(t)\n        x = x.relu()\n        m = (p + 1).to(x.device)",
        "p = torch.arange(t)\n        x = x.relu()\n        m = constant(p + 1, device=x.device)",
    ),
}


@pytest.mark.parametrize(("before", "after"), STEPS.values(), ids=STEPS)
def test_what_is_made_in_steps_before_it_is_moved(before: str, after: str, tmp_path: Path) -> None:
    code = f"""import torch
from torch import nn


class Masked(nn.Module):
    def forward(self, x: torch.Tensor):
        b, t, d = x.shape
        {before}
        return x, m + 0
"""
    new = rewrite(code, tmp_path, ["CG402"])
    assert after in new
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    assert_same(run(code)["Masked"]()(x), run(new)["Masked"]()(x))


def test_a_list_computed_on_the_host_is_an_index_even_when_it_is_empty(tmp_path: Path) -> None:
    code = """import torch
from torch import nn

LEFT, RIGHT = (1, 2), [0]


class Mirror(nn.Module):
    def __init__(self):
        super().__init__()
        self.odd = [i for i in range(1) if i % 2]
        self.pairs = [(0, 1), (1, 2)]

    def forward(self, x: torch.Tensor):
        some = x[:, [i for i in range(3) if i != 1]], x[:, [b for a, b in self.pairs]]
        return x[:, [0, *LEFT, *RIGHT]], x[:, list(LEFT)], x[:, sorted(RIGHT)], x[:, self.odd], some
"""
    new = rewrite(code, tmp_path, ["CG403"])
    assert new.count("constant(") == 6
    x = torch.randn(2, 3)
    assert_same(run(code)["Mirror"]()(x), run(new)["Mirror"]()(x))
