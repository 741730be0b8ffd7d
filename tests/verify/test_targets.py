"""Targets files: what is wrong is said with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from refactor.verify.spec import ScalarSpec, SpecError, TensorSpec, parse
from refactor.verify.targets import DEFAULT_VARY, TargetError, load

GOOD = '[[target]]\nname = "m"\nentry = "m:M"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [0, 9] }\n'


def write(folder: Path, text: str, name: str = "targets.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_defaults_are_inference_on_the_device_with_every_default_operation(tmp_path: Path) -> None:
    (target,) = load(write(tmp_path, GOOD))
    assert (target.mode, target.device, target.vary, target.factory) == (
        "inference",
        "cuda",
        DEFAULT_VARY,
        False,
    )
    assert target.dims == (("B", (0, 9)),)


def test_targets_of_a_project_come_from_its_own_table(tmp_path: Path) -> None:
    text = GOOD.replace("[[target]]", "[[tool.refactor.target]]")
    assert [t.name for t in load(write(tmp_path, text, "pyproject.toml"))] == ["m"]


def test_opt_in_operations_alone_are_added_to_the_default(tmp_path: Path) -> None:
    (target,) = load(write(tmp_path, GOOD + 'vary = ["threads"]\n'))
    assert target.vary == (*DEFAULT_VARY, "threads")


def test_a_list_with_default_operations_is_the_whole_list(tmp_path: Path) -> None:
    (target,) = load(write(tmp_path, GOOD + 'vary = ["runs"]\n'))
    assert target.vary == ("runs",)
    (target,) = load(write(tmp_path, GOOD + 'vary = ["shapes", "kept-outputs"]\n'))
    assert target.vary == ("shapes", "kept outputs")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        pytest.param(
            '"float32[B, 4]"', '"float33[B, 4]"', 4, "inputs.x: torch has no dtype 'float33'", id="dtype"
        ),
        pytest.param('"float32[B, 4]"', '"float32[B, 4] in 1"', 4, "a range is LOW..HIGH", id="range"),
        pytest.param('"float32[B, 4]"', '"float32[B, T]"', 4, "the dimension 'T'", id="unknown dimension"),
        pytest.param('"float32[B, 4]"', '"?"', 4, "fill in the blanks ('?') first: inputs.x", id="blank"),
        pytest.param('"m:M"', '"m.M"', 3, 'is not "module:qualname"', id="entry"),
        pytest.param("[0, 9]", "[9, 0]", 5, "dims.B is a number or [LOW, HIGH]", id="dims"),
        pytest.param("dims =", "dim =", 5, "unknown key 'dim'", id="unknown key"),
        pytest.param("dims =", 'mode = "fast"\ndims =', 5, "mode is one of", id="mode"),
        pytest.param("dims =", 'harness = "h.py"\ndims =', 5, "is not beside targets.toml", id="harness"),
        pytest.param("dims =", 'vary = ["shape"]\ndims =', 5, "vary does not know 'shape'", id="vary"),
        pytest.param("dims =", 'grad = ["y"]\ndims =', 5, "grad names 'y'", id="grad"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:{line}: target 'm': ")
    assert said in str(caught.value)


def test_a_file_that_does_not_parse_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "mode = \n")
    with pytest.raises(TargetError, match=rf"{file}:6: not valid TOML"):
        load(file)


def test_a_file_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("float32[B, 64]", TensorSpec("float32", ("B", 64))),
        ("bfloat16[]", TensorSpec("bfloat16", ())),
        ("int64[B] in 1..S", TensorSpec("int64", ("B",), 1, "S")),
        ("float in 0.5..2.0", ScalarSpec("float", 0.5, 2.0)),
        ("float in -1e-3..1e3", ScalarSpec("float", -1e-3, 1e3)),
        ("str in sum|mean", ScalarSpec("str", choices=("sum", "mean"))),
        ("none", ScalarSpec("none")),
    ],
)
def test_specifications_read_as_they_are_written(text: str, spec: object) -> None:
    assert parse(text, "inputs.x") == spec


@pytest.mark.parametrize(
    "text", ["float32", "float32[B", "tensor[3]", "float32[B,,2]", "str", "bool in 0..1", "int in a|b"]
)
def test_anything_else_is_refused_by_key(text: str) -> None:
    with pytest.raises(SpecError, match=r"^inputs\.x"):
        parse(text, "inputs.x")
