"""Helpers out of a table, shared by many models: one answer for all, and the same as for each alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from refactor.analysis import Project, analyze
from refactor.analysis.analyze import shared
from refactor.analysis.project import FunctionInfo
from refactor.analysis.standins import attributes_read
from refactor.source import load
from tests.analysis.test_hazards import HEAD, marked, reported, write

HELPERS = (
    HEAD
    + """
def plain(module, x, mask, **options):
    if module.causal:
        x = x.tril()
    if options.get("cutoff") is not None:
        x = x.clamp(max=options["cutoff"])
    return x


def peeking(module, x, mask, **options):
    if getattr(module, "limit", None) is None:
        return x
    if mask is not None and mask.all():  # ! CG301
        return x
    return scaled(x, module)


def scaled(x, module):
    if module.scale > 1:  # ! CG301
        return x * module.scale
    return x


def kept(module, x, mask, **options):
    module.last = x
    return module.project(x)


TABLE = {"plain": plain, "peeking": peeking, "kept": kept}
"""
)


def model(name: str, scale: str) -> str:
    return (
        HEAD
        + f"""
from helpers import TABLE


class {name}(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.causal = True
        self.limit = config.limit
        self.scale = {scale}

    def project(self, x):
        return x[x > 0]  # ! CG203

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None):
        helper = TABLE[self.config.kind]
        return helper(self, x, mask, cutoff=1.0, unread=self.config.unread)
"""
    )


def found(folder: Path, project: Project, name: str) -> dict[str, dict[int, str]]:
    facts = analyze(load(folder / name), project)
    assert facts is not None
    rows = {other.source.path.name: reported(other) for other in facts.foreign}
    return {name: reported(facts), **rows}


def test_a_number_is_no_hazard_in_a_shared_helper_and_a_parameter_is(tmp_path: Path) -> None:
    files = {
        "helpers.py": HELPERS,
        "first.py": model("First", "2.0"),
        "second.py": model("Second", "nn.Parameter(torch.ones(()))"),
    }
    project = write(tmp_path, files)
    every = marked(HELPERS)
    by_number = {
        line: code for line, code in every.items() if "module.scale" not in HELPERS.split("\n")[line - 1]
    }
    assert len(by_number) == len(every) - 1
    first = found(tmp_path, project, "first.py")
    assert first["helpers.py"] == by_number
    second = found(tmp_path, project, "second.py")
    assert second["helpers.py"] == every
    # A method of the model that a helper calls is followed for each model.
    assert first["first.py"] == marked(files["first.py"])
    assert second["second.py"] == marked(files["second.py"])


def test_models_that_are_alike_share_one_answer(tmp_path: Path) -> None:
    files = {"helpers.py": HELPERS} | {f"m{i}.py": model(f"Net{i}", "2.0") for i in range(4)}
    project = write(tmp_path, files)
    asked = []
    for i in range(4):
        found(tmp_path, project, f"m{i}.py")
        known = shared(project).answers._known
        asked.append(sum(q[0] == "call" and q[1].name in ("plain", "peeking") for q in known))
    assert asked == [2, 2, 2, 2]


def test_what_a_file_gives_does_not_depend_on_the_files_before_it(tmp_path: Path) -> None:
    files = {
        "helpers.py": HELPERS,
        "first.py": model("First", "2.0"),
        "second.py": model("Second", "nn.Parameter(torch.ones(()))"),
    }
    alone = found(tmp_path, write(tmp_path, files), "second.py")
    after = Project(tmp_path)
    found(tmp_path, after, "first.py")
    assert found(tmp_path, after, "second.py") == alone


READERS = {
    "attributes, hasattr and getattr": ("def f(m):\n    hasattr(m, 'b') or getattr(m, 'c', m.a)\n", "a b c"),
    "a test for None reads nothing": ("def f(m):\n    return 1 if m is None else m.a\n", "a"),
    "what a helper reads counts": ("def f(m):\n    return g(1, m)\ndef g(x, n):\n    return n.z\n", "z"),
    "by the name of the argument": ("def f(m):\n    return g(n=m)\ndef g(n):\n    return n.z\n", "z"),
    "an assigned attribute is more than reading": ("def f(m):\n    m.a = 1\n", None),
    "a deleted attribute is more than reading": ("def f(m):\n    del m.a\n", None),
    "a module that is called": ("def f(m):\n    return m(1)\n", None),
    "a module that is returned": ("def f(m):\n    return m\n", None),
    "a module that is put into a list": ("def f(m):\n    return [m]\n", None),
    "another name for it": ("def f(m):\n    n = m\n    return n.a\n", None),
    "handed to what is not known": ("def f(m):\n    return unknown(m)\n", None),
    "handed to a local of a known name": ("def f(m, g):\n    return g(m)\ndef g(n):\n    return n.z\n", None),
    "handed on after a star": ("def f(m, *r):\n    return g(*r, m)\ndef g(n):\n    return n.z\n", None),
    "its class is asked for": ("def f(m):\n    return isinstance(m, int)\n", None),
    "an attribute named at run time": ("def f(m, n):\n    return getattr(m, n)\n", None),
    "a function inside takes the name": ("def f(m):\n    return (lambda m: m.a)(1)\n", None),
    "helpers that call each other": ("def f(m):\n    return g(m)\ndef g(m):\n    return f(m)\n", None),
}  # fmt: skip


@pytest.mark.parametrize(("code", "read"), READERS.values(), ids=READERS)
def test_only_a_parameter_whose_attributes_alone_are_read_is_stood_in_for(
    code: str, read: str | None, tmp_path: Path
) -> None:
    project = write(tmp_path, {"m.py": code})
    source = load(tmp_path / "m.py")
    target = project.add(source, ast.parse(code)).table["f"]
    assert isinstance(target, FunctionInfo)
    assert attributes_read(target, "m") == (frozenset(read.split()) if read is not None else None)
