"""One exit code for many verdicts: a failure first, then what could not be run, then what stays open."""

from __future__ import annotations

from pathlib import Path

import pytest
from refactor.verify.report import Report, TargetReport
from refactor.verify.run import Options, verify
from refactor.verify.targets import Unfinished


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        pytest.param(("pass", "pass"), 0, id="all pass"),
        pytest.param(("pass", "inconclusive"), 3, id="one is open"),
        pytest.param(("inconclusive", "error", "pass"), 2, id="one could not be run"),
        pytest.param(("error", "fail", "pass"), 1, id="one fails and one could not be run"),
    ],
)
def test_the_worst_verdict_decides(verdicts: tuple[str, ...], code: int) -> None:
    targets = tuple(TargetReport(str(i), v, "") for i, v in enumerate(verdicts))
    assert Report("cpu", "2", targets).exit_code == code


def test_a_target_with_blanks_is_an_error_that_names_them(tmp_path: Path) -> None:
    blank = Unfinished("net", ("inputs.x", "dims"), "targets.toml:4")
    report = verify(Options(targets=(), unfinished=(blank,), before=tmp_path, after=tmp_path))
    assert report.exit_code == 2
    assert [(t.name, t.verdict, t.reason) for t in report.targets] == [
        ("net", "error", "targets.toml:4: fill in the blanks ('?') first: inputs.x, dims")
    ]
