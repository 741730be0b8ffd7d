"""SARIF output against the official schema of SARIF 2.1.0: the real rules, on sources good and bad."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from refactor.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=@/]|%[0-9A-F]{2})+")
"""The characters of a path in RFC 3986; no colon, which would make the first segment a scheme. The schema
says ``format: uri-reference``, which jsonschema checks only with a further package."""

MODEL = """\
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = "é𝄞"; print(x.sum().item())%s
        if x.sum() > 0:
            return x * 2
        return x
"""

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def sarif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Writes files into an empty folder, runs a command there, and gives the run after validating it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.refactor]\n", encoding="utf-8")

    def run(files: dict[str, bytes], *args: str, input: str | None = None) -> dict[str, Any]:
        for name, data in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        done = CliRunner().invoke(
            main, [*args, "--output-format", "sarif"], input=input, catch_exceptions=False
        )
        document = json.loads(done.stdout)
        validate(document)
        (only,) = document["runs"]
        return only

    return run


def validate(document: dict[str, Any]) -> None:
    assert document["$schema"] == SCHEMA["id"]
    errors = jsonschema.Draft4Validator(SCHEMA).iter_errors(document)
    assert [f"{error.json_path}: {error.message[:200]}" for error in errors] == []
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    notes = [note for each in run["invocations"] for note in each["toolExecutionNotifications"]]
    for row in [*run["results"], *notes]:
        for location in row["locations"]:
            assert URI_REFERENCE.fullmatch(location["physicalLocation"]["artifactLocation"]["uri"])


def test_the_schema_rejects_what_is_no_sarif():
    jsonschema.Draft4Validator.check_schema(SCHEMA)
    run = {
        "tool": {"driver": {"name": "refactor"}},
        "results": [{"message": {"text": "x"}, "level": "fatal"}],
    }
    with pytest.raises(jsonschema.ValidationError, match="'fatal' is not one of"):
        jsonschema.validate({"version": "2.1.0", "runs": [run]}, SCHEMA, jsonschema.Draft4Validator)


def test_code_without_hazards_gives_a_run_without_results(sarif: Run):
    assert sarif({"a.py": b"x = 1\n"}, "check")["results"] == []


def test_the_findings_in_all_examples(sarif: Run, tmp_path: Path):
    for example in sorted(EXAMPLES.glob("*/before")):
        shutil.copytree(example, tmp_path / example.parent.name)
    results = sarif({}, "check")["results"]
    assert {"CG201", "CG301"} <= {result["ruleId"] for result in results}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"def\n", id="a syntax error"),
        pytest.param(b"x = '", id="a string without an end, and no line end"),
        pytest.param(b"import torch\n\xff\xfe\n", id="bytes that are no UTF-8"),
        pytest.param(b"# coding: klingon\nimport torch\n", id="an unknown encoding"),
        pytest.param(b"import torch\n\x00\n", id="a null byte"),
        pytest.param(b"import torch\nif 1:\n        x\n    y\n", id="indentation that fits no block"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_notification_and_the_rest_goes_on(sarif: Run, data: bytes):
    run = sarif({"bad.py": data, "good.py": (MODEL % "").encode()}, "check")
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (note,) = invocation["toolExecutionNotifications"]
    assert note["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "bad.py"
    assert {result["ruleId"] for result in run["results"]} >= {"CG301"}


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        pytest.param("a b#c?.py", "a%20b%23c%3F.py", id="blanks and marks of a URI"),
        pytest.param("c:d.py", "c%3Ad.py", id="a colon that is no scheme"),
        pytest.param("é/模型.py", "%C3%A9/%E6%A8%A1%E5%9E%8B.py", id="letters outside ASCII"),
        pytest.param("100%.py", "100%25.py", id="a percent sign"),
    ],
)
def test_a_file_name_is_a_uri_reference(sarif: Run, name: str, uri: str):
    results = sarif({name: (MODEL % "").encode()}, "check")["results"]
    assert {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results} == {uri}


def test_columns_count_code_points(sarif: Run):
    run = sarif({"a.py": (MODEL % "").encode()}, "check", "--select", "CG101")
    assert run["columnKind"] == "unicodeCodePoints"
    regions = [result["locations"][0]["physicalLocation"]["region"] for result in run["results"]]
    line = (MODEL % "").splitlines()[6]
    start = line.index("x.sum()") + 1
    assert regions == [
        {"startLine": 7, "startColumn": start, "endLine": 7, "endColumn": start + len("x.sum().item()")}
    ]


def test_standard_input_has_the_name_it_is_given(sarif: Run):
    results = sarif({}, "check", "-", "--stdin-filename", "pkg/new.py", input=MODEL % "")["results"]
    assert {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results} == {
        "pkg/new.py"
    }


def test_apply_says_of_each_finding_what_became_of_it(sarif: Run, tmp_path: Path):
    shutil.copytree(EXAMPLES / "router" / "before", tmp_path / "router")
    ignored = (MODEL % "  # refactor: ignore[CG101]").encode()
    results = sarif({"ignored.py": ignored}, "apply")["results"]
    assert {"applied", "suppressed"} <= {result["properties"]["status"] for result in results}
    (hidden,) = [result for result in results if result["properties"]["status"] == "suppressed"]
    assert [row["kind"] for row in hidden["suppressions"]] == ["inSource"]
