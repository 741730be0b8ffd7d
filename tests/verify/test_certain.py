"""What every target is given for every seed: each operation, size, argument and tensor of the state alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from refactor.verify.certain import EDITS, Certain, ends, leaves
from refactor.verify.edits import LENGTH
from refactor.verify.explore import explore, reduced
from refactor.verify.recipes import (
    EXTREME_FILLS,
    PLACED_FILLS,
    PLAIN_FILLS,
    SHIFTED_FILLS,
    Hints,
    fitted,
)
from refactor.verify.scenarios import scenarios
from refactor.verify.session import Outcome
from refactor.verify.spec import ScalarSpec, TensorSpec, parse
from refactor.verify.targets import DEFAULT_VARY, OPT_IN_VARY, Target
from refactor.verify.worker.inputs import tensor

Json = dict[str, Any]
STATE = tuple(f"layer{k}.weight" for k in range(9))
TARGET = Target(
    "t",
    "m:M",
    tuple(
        (n, parse(s, n))
        for n, s in {
            "x": "float32[B, 4]",
            "y": "float32[B, 4]",
            "scale": "float in 0.5..2.0",
            "kind": "str in sum|mean|max",
            "extra": {"flag": "bool", "parts": ["int64[S] in 0..S", "int in 1..3"]},
        }.items()
    ),
    dims=(("B", (0, 6)), ("S", (1, 300))),
    vary=(*DEFAULT_VARY, *OPT_IN_VARY),
)
HINTS = Hints(thresholds=(1.5,), state=STATE, sizes=(100,))


def steps_of(name: str, target: Target = TARGET, hints: Hints = HINTS) -> list[list[Json]]:
    return list(next(s for s in scenarios(target, hints) if s.name == name).always)


def test_no_sequence_is_longer_than_a_user_will_read() -> None:
    plans = [s for s in scenarios(TARGET, HINTS) if s.name != "long"]
    longest = max(len(steps) for s in plans for steps in s.always)
    assert longest <= LENGTH + 1


def test_one_sequence_goes_past_the_greatest_limit_that_the_programs_name() -> None:
    hints = Hints(sizes=(40, 100, 4096))
    assert max(len(steps) for steps in steps_of("long", hints=hints)) > 100
    assert max(len(steps) for steps in steps_of("long", hints=Hints(sizes=(4096,)))) < 60, "4096 is a width"
    assert max(len(steps) for steps in steps_of("long", hints=Hints(operations=30))) > 110, "a light call"


def test_layouts_that_vary_does_not_list_are_tried_as_a_note_only() -> None:
    plain = scenarios(Target("t", "m:M", TARGET.inputs, TARGET.dims), HINTS)
    assert [s.name for s in plain if s.note_only] == ["strides"]
    assert not any(s.note_only for s in scenarios(TARGET, HINTS) if s.name == "strides")


@pytest.mark.parametrize(("how", "state"), [("data", STATE), ("assign", STATE[:3]), ("load", STATE[:3])])
def test_every_tensor_of_the_state_is_rebound_alone_with_a_call_before_and_after(
    how: str, state: tuple[str, ...]
) -> None:
    seen = set()
    for steps in steps_of("rebinding", hints=Hints(state=state)):
        for before, step, after in zip(steps, steps[1:], steps[2:], strict=False):
            if step["op"] == "rebind" and step["how"] == how and "only" in step:
                assert before["op"] == after["op"] == "call"
                seen.add(step["only"])
    assert seen == set(range(len(state)))


def test_all_tensors_are_rebound_together_in_every_way() -> None:
    together = {
        s["how"] for steps in steps_of("rebinding") for s in steps if s["op"] == "rebind" and "only" not in s
    }
    assert together == {"assign", "data", "load", "to", "inplace"}


def test_each_argument_changes_alone_nested_ones_and_every_choice_included() -> None:
    calls = [s["a"] for steps in steps_of("arguments") for s in steps]
    changed: dict[str, set[str]] = {}
    for before, after in pairwise(calls):
        names = [n for n in before if before[n] != after[n]]
        if len(names) == 1:
            changed.setdefault(names[0], set()).add(repr(after[names[0]]))
    assert set(changed) == {"x", "y", "scale", "kind", "extra"}
    assert {repr({"v": v}) for v in ("sum", "mean", "max")} == changed["kind"]
    assert {repr({"v": v}) for v in (0.5, 1.0, 1.25, 1.5, 2.0)} == changed["scale"]
    assert len(list(leaves(TARGET))) == 7


def test_every_size_of_a_short_range_comes_up_and_down_and_boundaries_of_a_long_one() -> None:
    def sizes(call: Json) -> tuple[int, int]:
        return call["x"]["shape"][0], call["extra"]["dict"]["parts"]["list"][0]["shape"][0]

    walks = [[sizes(s["a"]) for s in steps] for steps in steps_of("shapes")]
    batches = [b for b, _ in walks[0]]
    assert batches == [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    lengths = {s for walk in walks for _, s in walk}
    assert {1, 2, 16, 17, 99, 100, 101, 255, 256, 257, 299, 300, 301} <= lengths
    over = [steps for steps in steps_of("shapes") if steps[-1].get("outside")]
    assert [(len(o), o[-1]["a"]["x"]["shape"][0]) for o in over] == [(2, 7), (2, 6)]


def test_every_smaller_size_follows_right_after_a_poisoned_larger_one() -> None:
    pairs = set()
    for steps in steps_of("padding"):
        for poisoned, clean in zip(steps[::2], steps[1::2], strict=True):
            assert poisoned["a"]["x"]["fill"]["k"] == "const"
            assert clean["a"]["x"]["fill"] == {"k": "normal"}
            pairs.add((poisoned["a"]["x"]["shape"][0], clean["a"]["x"]["shape"][0]))
    assert {(n, n - 1) for n in range(1, 7)} <= pairs


def test_every_pair_of_like_tensors_is_given_as_one_tensor_and_as_a_view() -> None:
    given = [s["a"]["y"] for steps in steps_of("aliasing") for s in steps]
    assert {"same": "x"} in given
    assert {"view": "x"} in given


@pytest.mark.parametrize("name", [*(n for n in DEFAULT_VARY), *OPT_IN_VARY])
def test_every_operation_of_vary_has_a_certain_sequence(name: str) -> None:
    hints = Hints(state=STATE, settings=({"at": "", "name": "gain", "values": [1.0, 2.0]},))
    assert steps_of(name, hints=hints)


def test_a_program_is_only_run_once_or_twice() -> None:
    target = replace(TARGET, vary=("runs",))
    (plan,) = scenarios(target, Hints())
    assert [[step["op"] for step in steps] for steps in plan.always] == [["call"], ["call", "call"]]


def test_whole_numbers_stay_inside_their_range() -> None:
    assert ends(ScalarSpec("int", 1, "S"), {"S": 5}, (3, 9, 2.5)) == [1, 5, 3]
    assert ends(ScalarSpec("int", 4, 4), {}, ()) == [4]


def test_the_shortest_sequence_is_what_remains_of_a_long_certain_one() -> None:
    """The difference needs two steps that are far apart: a rebinding of number 6, and a call after it."""

    def run(steps: list[Json]) -> Outcome:
        bound = False
        for number, step in enumerate(steps):
            bound |= step["op"] == "rebind" and step.get("only") == 6 and number > 0
            if bound and step["op"] == "call":
                return Outcome("differs", "here", number)
        return Outcome("equal")

    (rebinding,) = (s for s in scenarios(TARGET, HINTS) if s.name == "rebinding")
    found = explore(rebinding, 1, 0, run, 0.0)
    assert found.failing is not None
    assert found.outcome is not None
    steps, outcome = reduced(found.failing, found.outcome, run)
    assert [s["op"] for s in steps] == ["call", "rebind", "call"]
    assert outcome.step == 2


def test_sizes_of_the_largest_call_stay_affordable() -> None:
    huge = Target("t", "m:M", (("x", parse("float32[B, 4096]", "x")),), dims=(("B", (1, 1 << 20)),))
    made = Certain(huge, Hints())
    assert made.high == {"B": 256}


def test_every_kind_of_value_is_given_once_with_nan_and_infinity_in_chosen_places() -> None:
    given = [s["a"]["x"]["fill"] for steps in steps_of("values") for s in steps]
    assert all(f in given for f in (*PLAIN_FILLS, *SHIFTED_FILLS, *EXTREME_FILLS, *PLACED_FILLS))
    assert {"k": "edge", "s": 1.5} in given


@pytest.mark.parametrize(
    ("dtype", "largest", "smallest"),
    [("float16", 6e4, 6e-5), ("half", 6e4, 6e-5), ("float64", 1e306, 2e-308)],
)
def test_subnormal_and_huge_are_so_in_the_format_of_the_tensor(
    dtype: str, largest: float, smallest: float
) -> None:
    spec = parse(f"{dtype}[4]", "x")
    assert isinstance(spec, TensorSpec)
    assert 4 * fitted({"k": "huge"}, spec)["s"] < largest
    assert 0 < 4 * fitted({"k": "tiny"}, spec)["s"] < smallest
    assert fitted({"k": "tiny", "s": 2}, spec) == {"k": "tiny", "s": 2}


def test_arguments_are_given_by_position_and_left_out_where_their_default_is_declared() -> None:
    given = {"x": "float32[2]", "scale": "float in 0.5..4.0", "mask": "bool[2]", "far": "int in 3..5"}
    target = Target("t", "m:f", tuple((n, parse(s, n)) for n, s in given.items()))
    parameters = (("x",), ("scale", 2.0), ("mask", None), ("far", 1), ("other", 7))
    sure = Certain(target, Hints(parameters=parameters))
    found = [step["a"] for steps in sure.arguments() for step in steps]
    assert any(sorted(a) == ["_0", "_1", "_2", "_3"] for a in found)
    left_out = {name for a in found for name, recipe in a.items() if "omit" in recipe}
    assert left_out == {"scale"}, "a default outside the declared values is nobody's evidence"


def test_each_tensor_is_edited_in_every_way_and_goes_back() -> None:
    edits: dict[str, set[str]] = {}
    for steps in steps_of("arguments"):
        for before, after in pairwise(s["a"] for s in steps):
            for name, recipe in after.items():
                if "edit" in recipe:
                    assert {k: v for k, v in recipe.items() if k != "edit"} == before[name]
                    edits.setdefault(name, set()).add(recipe["edit"])
    assert edits
    assert all(found == set(EDITS) for found in edits.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "complex64"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_something_and_keeps_the_declared_bounds(dtype: str, edit: str) -> None:
    recipe = {"t": dtype, "shape": [5, 3], "fill": {"k": "normal"}, "seed": 4}
    recipe |= {} if dtype in ("bool", "complex64") else {"lo": 1, "hi": 9}
    plain, edited = tensor(recipe), tensor({**recipe, "edit": edit})
    assert plain.dtype == edited.dtype
    assert not torch.equal(plain, edited)
    if "lo" in recipe:
        assert 1 <= edited.min() <= edited.max() <= 9
    if edit != "turned":
        assert int((plain != edited).sum()) == 1


def test_sizes_with_one_product_come_after_one_another() -> None:
    inputs = (("x", parse("float32[B, S]", "x")),)
    target = replace(TARGET, inputs=inputs, dims=(("B", (1, 4)), ("S", (1, 6))))
    walked = [
        [(s["a"]["x"]["shape"][0], s["a"]["x"]["shape"][1]) for s in steps]
        for steps in steps_of("shapes", target)
    ]
    assert any((2, 3) in w and (3, 2) in w for w in walked)
