"""On any program: no crash, the same findings again, and the same after the code is laid out anew."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.analysis.model import Facts
from refactor.config import Settings
from refactor.engine import Examiner, Job, Task
from refactor.source import load

NAMES = st.sampled_from(["x", "y", "z", "mask", "n", "self.w", "self.cache", "item"])
TARGETS = st.sampled_from(["x", "y", "z", "n", "x, y", "self.cache", "x[0]", "x[mask]", "(y, *z)", "item"])
LEAVES = st.one_of(
    NAMES, st.sampled_from(["1", "-2.5", "None", "True", "'cpu'", "x.shape", "x.device", "[0, 2]", "()"])
)
TEMPLATES = [
    "({0} + {1})", "({0} @ {1})", "({0} > {1})", "(not {0})", "({0} and {1})", "({0} if {1} else {2})",
    "{0}.mean()", "{0}.item()", "{0}.to({1})", "{0}[{1}]", "{0}[:, {1}]", "{0}[{1}:]", "torch.where({0})",
    "torch.cat([{0}, {1}], dim=0)", "torch.tensor({0}, device={1})", "self.layer({0})", "helper({0}, {1})",
    "[v for v in {0} if {1}]", "{{'a': {0}, **{1}}}", "(lambda a: a + {0})({1})", "int({0})", "max({0}, {1})",
    "f'{{{0}}}'", "(q := {0})", "range({0})",
    "torch.zeros({0})", "torch.nonzero({0})", "isinstance({0}, int)",
    "getattr({0}, 'shape')", "sorted({0})", "zip({0}, {1})", "self.method({0})", "super().forward({0})",
    "unknown({0}).part", "unknown({0}).part.other({1})", "torch.where({0}, unknown({1}).a, unknown({2}).b)",
    "torch.maximum({0}, {1})", "torch.equal({0}, {1})", "list(zip(*{0}))", "Clip.apply({0}, {1})",
    "torch.stack([{0}, {1}])", "{0}.nonzero(as_tuple={1})", "torch.full(({0},), {1}, device={2})",
    "torch.sparse_coo_tensor({0}, {1}, {2})", "F.pad({0}, ({1}, 1))", "F.one_hot({0}, num_classes={1})",
    "{0}.repeat_interleave({1}, output_size={2})", "[{0}, *{1}]", "next(iter({0}))", "sum({0})",
    "{0}.view({1}, -1)", "torch.arange({0})", "{0}.sum({1}).nonzero()", "({0} is None)", "({0}, {1})",
]  # fmt: skip


def expressions(depth: int = 3) -> st.SearchStrategy[str]:
    if depth == 0:
        return LEAVES
    inner = expressions(depth - 1)
    made = st.builds(lambda t, a, b, c: t.format(a, b, c), st.sampled_from(TEMPLATES), inner, inner, inner)
    return st.one_of(LEAVES, made)


def indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


SIMPLE = st.one_of(
    st.builds(lambda t, e: [f"{t} = {e}"], TARGETS, expressions()),
    st.builds(lambda e: [f"{e}"], expressions()),
    st.builds(lambda e: ["x += " + e], expressions()),
    st.builds(lambda e: [f"return {e}"], expressions()),
    st.builds(lambda e: [f"assert {e}"], expressions()),
    st.sampled_from([["pass"], ["del y"], ["raise ValueError(x)"], ["global G"], ["import math as m"]]),
)
BLOCKS = st.recursive(
    st.lists(SIMPLE, min_size=1, max_size=3).map(lambda rows: [line for row in rows for line in row]),
    lambda body: st.one_of(
        st.builds(lambda e, a, b: [f"if {e}:", *indent(a), "else:", *indent(b)], expressions(2), body, body),
        st.builds(lambda e, a: [f"for item in {e}:", *indent(a)], expressions(2), body),
        st.builds(lambda e, a: [f"while {e}:", *indent(a), *indent(["break"])], expressions(2), body),
        st.builds(lambda a, b: ["try:", *indent(a), "except Exception as e:", *indent(b)], body, body),
        st.builds(lambda e, a: [f"with {e} as y:", *indent(a)], expressions(1), body),
        st.builds(lambda a, b: ["def inner(x, y=1):", *indent(a), "z = inner(x)", *b], body, body),
        st.builds(lambda e, a: [f"match {e}:", *indent(["case [y, *_]:", *indent(a)])], expressions(1), body),
        st.builds(lambda a, b: [*a, *b], body, body),
    ),
    max_leaves=5,
)


def program(forward: list[str], method: list[str], helper: list[str]) -> str:
    lines = [
        "import torch",
        "import torch.nn as nn",
        "import torch.nn.functional as F",
        "from elsewhere import unknown",
        "class Clip(torch.autograd.Function):",
        *indent(["@staticmethod", "def forward(ctx, x, y):", *indent(["return x.clamp(max=y).cpu()"])]),
        "def helper(x, y=None):",
        *indent(helper),
        "class Base(nn.Module):",
        *indent(
            ["def __init__(self, w=None):", *indent(["super().__init__()", "self.layer = nn.Linear(2, 2)"])]
        ),
        "class Model(Base):",
        *indent(["def method(self, x, mask=None):", *indent(method)]),
        *indent(
            ["def forward(self, x: torch.Tensor, mask: torch.BoolTensor, n: int = 3):", *indent(forward)]
        ),
        "def train(model, loader, optimizer):",
        *indent(["for x in loader:", *indent(["model(x).backward()", "optimizer.step()"])]),
    ]
    return "\n".join(lines) + "\n"


def reordered(tree: ast.Module) -> ast.Module:
    """The program with its classes and functions in the opposite order."""
    imports = [stmt for stmt in tree.body if isinstance(stmt, ast.Import | ast.ImportFrom)]
    return ast.Module([*imports, *reversed([stmt for stmt in tree.body if stmt not in imports])], [])


def findings(facts: Facts | None) -> list[tuple[str, str, str]]:
    assert facts is not None
    return [
        (rule.code, ast.unparse(hit.event.node), hit.event.region.qualname)
        for rule in RULES
        for hit in rule.detect(facts)
    ]


def examined(code: str) -> list[tuple[str, str, str]]:
    folder = Path("/nonexistent")
    return findings(analyze(load(folder / "program.py", code.encode()), Project(folder)))


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(BLOCKS, BLOCKS, BLOCKS)
def test_any_program_is_analysed_the_same_again_laid_out_anew_or_in_another_order(
    forward: list[str], method: list[str], helper: list[str]
) -> None:
    code = program(forward, method, helper)
    try:
        tree = ast.parse(code)
    except SyntaxError:  # e.g. a starred target that the grammar of one position forbids
        return
    first = examined(code)
    assert examined(code) == first
    assert examined(ast.unparse(tree) + "\n# laid out anew\n") == first
    assert sorted(examined(ast.unparse(reordered(tree)))) == sorted(first)


@pytest.mark.parametrize("depth", [50, 2000, 100_000])
def test_deep_nesting_is_analysed_or_reported_never_a_crash(depth: int, tmp_path: Path) -> None:
    deep = "-" * depth + "x" if depth < 5000 else "(" * depth + "x" + ")" * depth
    code = f"import torch.nn as nn\nclass M(nn.Module):\n    def forward(self, x):\n        return {deep}\n"
    path = tmp_path / "deep.py"
    row = Examiner(Task(Settings(tmp_path), tmp_path)).examine(Job(path, "deep.py", code.encode()))
    assert row.failure is None or (depth > 2000 and "nested" in row.failure.error.message)


def test_a_file_of_fifty_thousand_lines_is_examined_by_every_rule(tmp_path: Path) -> None:
    lines = ["        x = x + 1"] * 50_000 + ["        return x.item()"]
    code = "import torch.nn as nn\nclass M(nn.Module):\n    def forward(self, x):\n" + "\n".join(lines) + "\n"
    path = tmp_path / "long.py"
    row = Examiner(Task(Settings(tmp_path), tmp_path)).examine(Job(path, "long.py", code.encode()))
    assert row.failure is None
    assert "CG101" in {raw.finding.code for raw in row.raws}
