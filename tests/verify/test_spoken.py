"""What a program says is compared: words exactly, printed numbers to the place they are printed to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from refactor.verify.worker.judge import Trace, compare
from refactor.verify.worker.spoken import Listener, Spoken, quantum


def trace(**said: Any) -> Trace:
    spoken = Spoken(logged=said.get("logged", []), warned=said.get("warned", []))
    spoken.out.write(said.get("out", ""))
    spoken.err.write(said.get("err", ""))
    groups = {"result": [], "printed": spoken.printed(), "recorded": spoken.recorded()}
    return Trace([{"step": 0, "outside": False, "groups": groups}], [])


def found(before: Trace, after: Trace) -> tuple[int, int]:
    """Certain differences, and numbers that must be measured."""
    compared = compare(before, after, False)
    return len(compared.certain), len(compared.suspects)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"out": "loss 0.123\n"}, {"out": "loss 0.124\n"}, id="rounded up, and down"),
        pytest.param({"out": "<X at 0x7f01>"}, {"out": "<X at 0x7f02>"}, id="another address"),
        pytest.param({}, {"logged": ["INFO captured 3 graphs"]}, id="a record only the rewrite gives"),
        pytest.param({}, {"warned": ["UserWarning runs eagerly"]}, id="a warning only the rewrite gives"),
        pytest.param(
            {"logged": ["INFO batch 3"]},
            {"logged": ["DEBUG captured", "INFO batch 3"]},
            id="a record of its own before the original's",
        ),
        pytest.param(
            {"err": "\rbatches:   0%|          | 0/4 [00:00<?, ?it/s]\r" + " " * 60 + "\r"},
            {
                "err": "\rbatches:   0%|          | 0/4 [00:00<?, ?it/s]"
                "\rbatches:  50%|█████     | 2/4 [00:01<00:01,  1.71it/s]\r" + " " * 60 + "\r"
            },
            id="a progress bar redrawn more often, then cleared",
        ),
        pytest.param(
            {"err": "\r 50%|█| 1/2 [00:00<?, ?it/s]\r100%|█| 2/2 [00:00<00:00, 31.2it/s, loss=0.1]\n"},
            {"err": "\r100%|█| 2/2 [00:02<00:00,  1.02s/it, loss=0.1]\n"},
            id="a progress bar that took longer",
        ),
        pytest.param({"out": "done\r\n"}, {"out": "done\n"}, id="a carriage return before the line ends"),
    ],
)
def test_right_rewrites_may_say_it_so(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert found(trace(**before), trace(**after)) == (0, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"out": "done\n"}, {}, id="a printed line is lost"),
        pytest.param({"err": "slow\n"}, {}, id="a line on stderr is lost"),
        pytest.param(
            {"err": "\r 50%|█| 1/2\r100%|█| 2/2 [00:00<00:00, 31.2it/s, best=a]\n"},
            {"err": "\r 50%|█| 1/2\r100%|█| 2/2 [00:00<00:00, 31.2it/s, best=b]\n"},
            id="what a progress bar says in the end",
        ),
        pytest.param({"err": "\r100%|█| 2/2 [00:00<00:00, 31.2it/s]\n"}, {}, id="a progress bar is lost"),
        pytest.param({"logged": ["INFO batch 3"]}, {}, id="a record is lost"),
        pytest.param({"logged": ["WARNING batch 3"]}, {"logged": ["INFO batch 3"]}, id="another level"),
        pytest.param({"logged": ["INFO a"]}, {"logged": ["INFO a", "INFO a"]}, id="a record is given twice"),
        pytest.param({"warned": ["UserWarning x"]}, {"warned": ["FutureWarning x"]}, id="another category"),
    ],
)
def test_what_is_lost_or_changed_is_a_difference(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert found(trace(**before), trace(**after))[0] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("3 rows", "4 rows", id="whole numbers are exact"),
        pytest.param("1000000 rows", "1000001 rows", id="large whole numbers too"),
        pytest.param("loss 0.123", "loss 0.126", id="three units in the last place"),
    ],
)
def test_other_numbers_are_measured(before: str, after: str) -> None:
    assert found(trace(out=before), trace(out=after)) == (0, 1)


@pytest.mark.parametrize(("text", "unit"), [("0.12", 0.01), ("12", 1.0), ("1.5e-3", 1e-4), ("-2.", 1.0)])
def test_the_last_place_of_a_printed_number(text: str, unit: float) -> None:
    assert quantum(text) == pytest.approx(unit)


@pytest.mark.parametrize(
    ("code", "left"),
    [
        pytest.param(
            "with w.catch_warnings():\n    simplefilter('error')\n"
            "w.filterwarnings('ignore', message='a library')",
            "as before the call",
            id="a filter that is taken back, while a library sets one",
        ),
        pytest.param("simplefilter('error')", "changed", id="a filter that stays"),
    ],
)
def test_filters_of_warnings_count_where_the_program_leaves_them(
    code: str, left: str, tmp_path: Path
) -> None:
    listener, spoken = Listener(tmp_path), Spoken()
    program = compile(code, str(tmp_path / "program.py"), "exec")
    with listener.listening(spoken):
        exec(program, {"w": warnings, "simplefilter": listener._told_of(warnings.simplefilter)})
    assert spoken.left["filters of warnings"] == left
