"""The examples: `refactor apply` makes the golden trees, and they run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from refactor.vendor import copy_in

_spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

REWRITTEN = [name for name in golden.names() if (golden.EXAMPLES / name / "after").exists()]
RUNTIMES = ("cuda_graphs.py", "triage/cuda_graphs.py")
SCRIPTS = {"ragged_encoder": "embed.py"}
PATTERNS = ["features", "ragged_encoder", "router", "service"]


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every example after `refactor apply`."""
    folder = tmp_path_factory.mktemp("applied")
    for name in golden.names():
        done = golden.apply(name, folder / name)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_an_example_without_a_golden_tree_is_left_alone(applied: Path) -> None:
    for name in set(golden.names()) - set(REWRITTEN):
        assert golden.tree(applied / name) == golden.tree(golden.EXAMPLES / name / "before"), name


@pytest.mark.parametrize("name", REWRITTEN)
def test_apply_makes_the_golden_tree(name: str, applied: Path) -> None:
    made, wanted = golden.tree(applied / name), golden.tree(golden.EXAMPLES / name / "after")
    assert made.keys() == wanted.keys()
    for file in wanted.keys() - set(RUNTIMES):
        assert made[file].decode() == wanted[file].decode(), f"{name}/{file}: make golden, then read the diff"


def test_the_golden_trees_have_the_runtime_of_this_version() -> None:
    for name in REWRITTEN:
        for file, contents in golden.tree(golden.EXAMPLES / name / "after").items():
            copy = copy_in(Path(file), contents) if file in RUNTIMES else None
            assert copy is None or copy.is_current, f"examples/{name}: make golden"


def test_a_second_apply_changes_nothing(applied: Path) -> None:
    for name in PATTERNS:
        before = golden.tree(applied / name)
        assert golden.run_apply(applied / name).returncode == 0
        assert golden.tree(applied / name) == before


def test_all_three_patterns_are_rewritten() -> None:
    assert set(PATTERNS) <= set(REWRITTEN)
    used = {}
    for name in PATTERNS:
        files = golden.tree(golden.EXAMPLES / name / "after").items()
        text = "".join(code.decode() for file, code in files if not file.endswith("cuda_graphs.py"))
        used[name] = {word for word in ("graphed(", "@segment", "scratch(", "constant(") if word in text}
    assert used["ragged_encoder"] == {"graphed("}
    assert used["router"] == {"@segment"}
    assert "constant(" in used["features"]
    assert used["service"] >= {"graphed(", "@segment", "constant("}


@pytest.mark.parametrize("name", golden.names())
def test_a_program_prints_the_same_before_and_after_on_a_cpu(name: str) -> None:
    printed = []
    for side in ("before", "after") if name in REWRITTEN else ("before",):
        folder = golden.EXAMPLES / name / side
        start = ["-m", "triage"] if name == "service" else [SCRIPTS.get(name, f"{name}.py")]
        done = subprocess.run(
            [sys.executable, *start], cwd=folder, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0].strip()
    assert len(set(printed)) == 1
