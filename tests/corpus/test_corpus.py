"""The corpus is what it says: pairs that parse, mutants with one mistake, and a handful run for real."""

from __future__ import annotations

import ast
import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCENARIOS = {
    "values", "shapes", "padding", "arguments", "kept outputs", "mutation", "aliasing", "rebinding",
    "train/eval", "reseeding", "instances", "exceptions", "long", "mixed", "graph growth", "memory growth",
    "load", "deepcopy",
}  # fmt: skip


def imported(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


kill_rate = imported("kill_rate")
PAIRS = kill_rate.PAIRS
BY_NAME = {p.name: p for p in PAIRS}
CHECKS = SCENARIOS | {name for name, _ in kill_rate.SHOWN} | {"inputs"}
MUTANTS = [p for p in PAIRS if p.expect == "fail"]


def changed_lines(a: str, b: str) -> int:
    before, after = Counter(a.splitlines()), Counter(b.splitlines())
    return sum(((before - after) + (after - before)).values())


def test_names_are_unique_and_every_family_is_there() -> None:
    assert len(BY_NAME) == len(PAIRS)
    kinds = Counter((p.family, p.expect) for p in PAIRS)
    families = {p.family for p in PAIRS} - {"undecided"}
    assert len(families) == 10
    assert all(kinds[family, "pass"] >= 3 and kinds[family, "fail"] >= 5 for family in families)
    assert kinds["undecided", "inconclusive"] >= 3


def test_the_corpus_is_as_large_as_promised() -> None:
    assert sum(p.expect == "pass" for p in PAIRS) >= 25
    assert len(MUTANTS) >= 60


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p.name)
def test_both_programs_compile_and_the_target_is_read(pair, tmp_path: Path) -> None:
    from refactor.verify import targets

    for source in (pair.before, pair.after):
        compile(source, pair.name, "exec", flags=ast.PyCF_ONLY_AST)
    file = tmp_path / "targets.toml"
    file.write_text(pair.toml, encoding="utf-8")
    (target,) = targets.load(file)
    module, _, entry = target.entry.partition(":")
    assert (target.name, f"{module}.py") == (pair.name, kill_rate.FILE)
    for source in (pair.before, pair.after):
        assert entry.partition(".")[0] in {getattr(node, "name", None) for node in ast.parse(source).body}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda p: p.name)
def test_a_mutant_is_its_control_with_one_small_mistake(mutant) -> None:
    right = BY_NAME[mutant.control]
    assert right.expect == "pass"
    assert (mutant.before, mutant.target) == (right.before, right.target)
    assert ast.dump(ast.parse(mutant.after)) != ast.dump(ast.parse(right.after))
    assert changed_lines(mutant.after, right.after) <= 14
    assert mutant.why.endswith(".")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda p: p.name)
def test_a_mutant_names_checks_that_exist(mutant) -> None:
    assert set(mutant.check.split("|")) <= CHECKS


def test_an_edit_that_does_not_occur_exactly_once_is_refused() -> None:
    right = next(p for p in PAIRS if p.expect == "pass")
    for old in ("no such text", "self"):
        with pytest.raises(ValueError, match=r"occurs \d+ times"):
            right.mutant("broken", "result", "It cannot be made.", (old, "x"))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("shapes: result[0]: 2 of 4 values differ; at [0] 1.0 in the original", "result"),
        ("values: result of step 2: 1 of 1 values differ", "kept"),
        ("kept outputs: result: shares memory with nothing in the original", "aliasing"),
        ("values: call: the rewrite raises RuntimeError: no", "exception"),
        ("rebinding: state_dict['mean']: 3 of 3 values differ", "state"),
        ("values: grad['w']: a NoneType in the original, a Tensor in the rewrite", "gradients"),
        ("long: self.calls: 3 in the original, 1 in the rewrite", "attributes"),
        ("values: stdout number 0: 1 of 2 values differ", "printed"),
        ("values: generators: the random generators are in another state", "random"),
        ("values: file scores.csv: 'a' in the original", "files"),
        ("values: result['gap']()[0]: 4 of 4 values differ", "called"),
        ("values: state: 3 of 3 values differ", "inputs"),
    ],
)
def test_the_observation_is_read_from_the_reason(reason: str, kind: str) -> None:
    assert kill_rate.observation(reason) == kind


# Quick ones, each of another kind; the whole corpus is a benchmark.
@pytest.mark.parametrize(
    "name",
    [
        "divided_by_bucket_instead_of_count",
        "check_dropped",
        "constant_saved_with_model",
        "integers_through_float",
    ],
)
def test_the_verifier_kills_a_mutant_by_the_check_it_names(name: str) -> None:
    found = kill_rate.run(BY_NAME[name], "emulated", 12, 120.0)
    assert found.as_expected, (found.verdict, found.reason)
    assert found.named, (found.killed_by, found.reason)


@pytest.mark.parametrize(
    "name",
    [
        "static_outputs_cloned",
        "padded_topk_sentinel",  # equal scores: which of them an index names is left to chance
    ],
)
def test_the_verifier_passes_a_control(name: str) -> None:
    found = kill_rate.run(BY_NAME[name], "emulated", 8, 120.0)
    assert found.as_expected, (found.verdict, found.reason)
