"""How code is laid out does not matter: a formatter changes lines and parentheses, never a finding."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.analysis.model import Facts
from refactor.source import load

ROOT = Path(__file__).resolve().parents[2]

Found = tuple[str, str, str]


def found(facts: Facts) -> list[Found]:
    return [
        (rule.code, ast.unparse(hit.event.node), hit.event.region.qualname)  # a message quotes the layout
        for rule in RULES
        for hit in rule.detect(facts)
    ]


def examined(folder: Path, names: list[str]) -> dict[str, list[Found]]:
    """Findings of files of a folder, in order, those in other files that they lead to as well."""
    project = Project(folder)
    every: dict[str, list[Found]] = {}
    for name in names:
        facts = analyze(load(folder / name), project)
        every[name] = [row for f in (facts, *facts.foreign) for row in found(f)] if facts is not None else []
    return every


@pytest.fixture(scope="module")
def sources() -> dict[str, bytes]:
    """The examples of the rules, reported ones and others, and the programs under examples/."""
    made = {
        f"{rule.code.lower()}_{kind}_{number}.py": example.code.encode()
        for rule in RULES
        for kind, examples in (("invalid", rule.invalid), ("valid", rule.valid))
        for number, example in enumerate(examples)
    }
    paths = sorted(ROOT.glob("examples/*/before/**/*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths} | made


@pytest.mark.parametrize("width", [60, 120])
def test_findings_stay_when_a_formatter_lays_real_programs_out_anew(
    width: int, sources: dict[str, bytes], tmp_path: Path
) -> None:
    for side in ("before", "after"):
        for name, data in sources.items():
            target = tmp_path / side / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--quiet", "--line-length", str(width)]
    subprocess.run([*command, str(tmp_path / "after")], check=True)
    names = list(sources)
    changed = [name for name in names if (tmp_path / "after" / name).read_bytes() != sources[name]]
    before, after = examined(tmp_path / "before", names), examined(tmp_path / "after", names)
    assert len(changed) > 10
    assert sum(map(len, before.values())) > 50
    assert after == before
