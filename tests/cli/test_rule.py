"""``refactor rule``: every rule is documented, from its data."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from refactor.cli import main
from refactor.engine import catalogue

RULES = catalogue()


def run(*args):
    return CliRunner().invoke(main, ["rule", *args], catch_exceptions=False)


def test_without_a_code_it_lists_every_rule_in_order():
    result = run()
    listed = re.findall(r"^\| (CG\d+) \| (\S+) ", result.stdout, re.M)
    assert listed == [(rule.code, rule.name) for rule in RULES]
    assert result.exit_code == 0
    assert result.stderr == ""


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.code) for rule in RULES])
def test_the_documentation_has_its_sections_in_order(rule):
    text = run(rule.code).stdout
    assert text.startswith(f"# {rule.code} {rule.name}\n")
    sections = re.findall(r"^## (.+)$", text, re.M)
    every = [
        "What it does",
        "Why it is bad",
        "Example",
        "Use instead",
        "Not reported",
        "What the error looks like",
    ]
    assert sections == [section for section in every if section in sections]
    assert {"What it does", "Why it is bad", "Example", "Use instead"} <= set(sections)
    assert text.count("```") % 2 == 0
    assert "# !" not in text


def test_a_rule_can_be_named_in_any_case_and_by_its_name():
    rule = RULES[-1]
    assert run(rule.code.lower()).stdout == run(rule.name).stdout == run(rule.code).stdout


def test_codes_are_unique_and_names_are_kebab_case():
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert all(re.fullmatch(r"CG\d{3}", rule.code) for rule in RULES)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name) for rule in RULES)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        pytest.param("CG3O1", "CG301", id="close to a code"),
        pytest.param("tensor-brunch", "tensor-branch", id="close to a name"),
        pytest.param("CG3", "CG301", id="a family"),
        pytest.param("xyzzy", "`refactor rule` lists all", id="close to nothing"),
    ],
)
def test_an_unknown_code_is_a_usage_error_with_close_matches(code, hint):
    result = run(code)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"no rule is called {code!r}" in result.stderr
    assert hint in result.stderr
