"""Every rule's own examples: what it must leave alone first, then what it must report."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.findings import Severity
from refactor.place import place_of
from refactor.rule import Example, Rule
from refactor.source import load

VALID = [(rule, i, example) for rule in RULES for i, example in enumerate(rule.valid)]
INVALID = [(rule, i, example) for rule in RULES for i, example in enumerate(rule.invalid)]


def lines_reported(rule: Rule, code: str, folder: Path) -> list[int]:
    path = folder / "example.py"
    source = load(path, code.encode())
    facts = analyze(source, Project(folder))
    if facts is None:
        return []
    return sorted({place_of(source, hit.event.node).line for hit in rule.detect(facts)})


def marked(code: str) -> list[int]:
    return [number for number, line in enumerate(code.splitlines(), 1) if line.endswith("# !")]


@pytest.mark.parametrize(
    ("rule", "example"),
    [(r, e) for r, _, e in VALID],
    ids=[f"{r.code} leaves example {i}" for r, i, _ in VALID],
)
def test_what_a_rule_leaves_alone(rule: Rule, example: Example, tmp_path: Path) -> None:
    assert lines_reported(rule, example.code, tmp_path) == []


@pytest.mark.parametrize(
    ("rule", "example"),
    [(r, e) for r, _, e in INVALID],
    ids=[f"{r.code} reports example {i}" for r, i, _ in INVALID],
)
def test_what_a_rule_reports(rule: Rule, example: Example, tmp_path: Path) -> None:
    expected = marked(example.code)
    assert expected
    assert lines_reported(rule, example.code, tmp_path) == expected


@pytest.mark.parametrize("rule", RULES, ids=[rule.code for rule in RULES])
def test_a_rule_is_documented_and_has_examples(rule: Rule) -> None:
    assert rule.valid
    assert rule.invalid
    assert all(text.strip() for text in (rule.summary, rule.what, rule.why, rule.instead))
    for example in (*rule.valid, *rule.invalid):
        ast.parse(example.code)
    if rule.severity is Severity.BREAKS:
        assert rule.error, "a rule that breaks capture shows the error"


@pytest.mark.parametrize(
    ("rule", "example"), [(r, e) for r, _, e in VALID], ids=[f"{r.code} valid {i}" for r, i, _ in VALID]
)
def test_valid_examples_break_no_other_rule(rule: Rule, example: Example, tmp_path: Path) -> None:
    found = {
        other.code: lines
        for other in RULES
        if other.severity is Severity.BREAKS and (lines := lines_reported(other, example.code, tmp_path))
    }
    assert found == {}


def test_codes_and_names_are_unique_and_in_order() -> None:
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in RULES}) == len(RULES)
