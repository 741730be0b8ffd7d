"""Branches on numbers read from tensors, and the search for calls that take a branch to its other side."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from refactor.verify.certain import Certain
from refactor.verify.recipes import Hints
from refactor.verify.session import Probed
from refactor.verify.sides import search, sides
from refactor.verify.spec import parse
from refactor.verify.targets import Target

Json = dict[str, Any]
TARGET = Target(
    "t", "m:f", (("x", parse("float32[B]", "x")), ("n", parse("int in 0..90", "n"))), dims=(("B", (1, 4)),)
)


def probe(value: Any) -> Any:
    """An original with one branch, ``value(step) > 0``, at program.py:3."""

    def run(steps: list[Json]) -> list[Probed]:
        margins = [value(s["a"]) for s in steps]
        return [Probed({"program.py:3": [m > 0]}, {"program.py:3": m}) for m in margins]

    return run


def shifted(a: Json) -> float:
    """A branch that turns for a shift between 41.3 and 41.8 at a small scale alone."""
    return (
        0.25
        - abs(a["x"]["fill"].get("m", 0.0) - 41.55)
        - math.log10(abs(a["x"]["fill"].get("s", 1.0)) + 1e-9)
    )


def test_the_margin_leads_the_search_to_the_other_side() -> None:
    named = "program.py:3 (x.mean().item() > 3)"

    def run(steps: list[Json]) -> list[Probed]:
        return [Probed({named: r.taken["program.py:3"]}, r.margins) for r in probe(shifted)(steps)]

    step = search(TARGET, Hints(), named, True, run, 0)
    assert step is not None
    assert shifted(step["a"]) > 0


def test_a_side_that_cannot_be_reached_gives_up_after_so_many_calls() -> None:
    assert search(TARGET, Hints(), "program.py:3", True, probe(lambda a: -1.0), 0) is None


def test_both_sides_come_as_two_calls_of_one_size() -> None:
    known = sides(TARGET, Hints(), {"program.py:3": False}, probe(shifted), 0)
    ((first, second),) = known.sides
    assert shifted(first["a"]) > 0 >= shifted(second["a"])
    assert known.calls


PROGRAM = """
def forward(self, x):
    n = x.sum().item() * 2
    if n > 3:
        x = x + 1
    y = 1 if x.max().item() >= 0 else 2
    if x.min().item() < -100:
        raise ValueError(n)
    while (x.norm() > 1).any() and y < 5:
        x = x / 2
    if x.numel() > 4:
        return x
    return [v for v in (1, 2) if v > y]
"""


@pytest.fixture
def original(tmp_path: Path) -> Any:
    """The program as the worker imports it, and what watches it; torch is the real one."""
    torch = pytest.importorskip("torch")
    from refactor.verify.worker import branches
    from refactor.verify.worker.sites import Sites

    watching = branches.Branches(Sites(tmp_path, {"watched.py"}))
    (tmp_path / "watched.py").write_text(PROGRAM)
    finders, path, was = list(sys.meta_path), list(sys.path), torch.Tensor.__bool__
    watching.install()
    sys.path.insert(0, str(tmp_path))
    try:
        import watched  # type: ignore[import-not-found]

        yield torch, watched, watching
    finally:
        sys.meta_path[:], sys.path[:] = finders, path
        sys.modules.pop("watched", None)
        assert torch.Tensor.__bool__ is was


def test_tests_on_numbers_count_by_name_and_sizes_and_refusals_do_not(original: Any) -> None:
    torch, watched, watching = original
    for value in (1.0, -1.0):
        watched.forward(None, torch.full((3,), value))
    assert {site: sorted(seen) for site, seen in watching.sites.seen.items()} == {
        "watched.py:4 (n > 3)": [False, True],
        "watched.py:6 (x.max().item() >= 0)": [False, True],
    }


def test_margins_tell_by_how_much_a_comparison_holds(original: Any) -> None:
    torch, watched, watching = original
    watching.measuring = True
    watched.forward(None, torch.tensor([1.0, 0.5]))
    assert watching.margins["watched.py:4"] == pytest.approx(0.0)
    assert watching.margins["watched.py:6"] == pytest.approx(1.0)
    assert watching.margins["watched.py:11"] == -2.0


def test_a_marked_program_keeps_its_lines_and_what_it_gives(original: Any) -> None:
    torch, watched, _ = original
    from refactor.verify.worker.branches import marked

    plain: Json = {}
    exec(compile(PROGRAM, "plain", "exec"), plain)
    for values in ([1.0, 2.0], [-1.0, 0.0, 9.0], [0.0] * 6):
        given = torch.tensor(values)
        a, b = plain["forward"](None, given), watched.forward(None, given)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    with pytest.raises(ValueError, match="-402") as caught:
        watched.forward(None, torch.tensor([-201.0]))
    assert caught.traceback[-1].lineno == 7
    lines = [n.lineno for n in ast.walk(marked(ast.parse(PROGRAM), "p.py")) if isinstance(n, ast.stmt)]
    assert lines == [n.lineno for n in ast.walk(ast.parse(PROGRAM)) if isinstance(n, ast.stmt)]


def test_a_side_that_no_argument_reaches_is_sought_with_other_parameters() -> None:
    asked: list[Any] = []

    def run(steps: Any) -> list[Probed]:
        asked.extend(steps)
        turned = [isinstance(s, list) and s[0]["seed"] == 5 for s in steps]
        return [Probed({"program.py:3": [t]}, {}) for t in turned]

    known = sides(TARGET, Hints(state=("weight",)), {"program.py:3": False}, run, 0)
    ((change, call),) = known.turned
    assert change["op"] == "rebind"
    assert call["op"] == "call"
    (steps,) = Certain(TARGET, known).branches()
    assert [s["op"] for s in steps].count("rebind") == 3
    assert not sides(TARGET, Hints(), {"program.py:3": False}, run, 0).turned
