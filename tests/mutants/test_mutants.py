"""Golden trees broken by hand: the verifier passes the golden tree and fails every one of these.

A mutant is a text replacement in the golden tree of an example, in its code or its copy of the runtime. Each
is a mistake that hand-written CUDA-graph code makes; the comments say which call sequence shows it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REFACTOR = Path(sys.executable).with_name("refactor")


@dataclass(frozen=True)
class Mutant:
    """What is broken, and how: every `old` occurs exactly once in its file and becomes `new`."""

    example: str
    name: str
    seen_by: str  # the operation of `vary` that shows it; verified with that one alone, to be quick
    edits: tuple[tuple[str, str, str], ...]  # (file, old, new)


SEQUENCES = 10  # asked for; the verifier runs a few for each kind of sequence at least
RUNTIME = "cuda_graphs.py"
STALE = """\
def roomy(model, tokens):
    rooms = model.__dict__.setdefault("_rooms", {})
    if len(tokens) not in rooms:
        rooms[len(tokens)] = tokens.new_zeros(len(tokens), 64)
    room = rooms[len(tokens)]
    room[:, : tokens.shape[1]] = tokens
    return room.clone(), (room != 0).long()


"""
MUTANTS = [
    # Two batches of one bucket in a row: the first result is the memory that the second replay writes.
    Mutant(
        "ragged_encoder",
        "outputs are handed out without a clone",
        "shapes",
        (("embed.py", "pad={", "clone=False, pad={"),),
    ),
    # One buffer for every length: beyond a short batch there are still the tokens of a longer one.
    Mutant(
        "ragged_encoder",
        "the padding is stale",
        "shapes",
        (
            ("embed.py", "@torch.inference_mode()\n", STALE + "@torch.inference_mode()\n"),
            ("embed.py", "graphed_model(tokens, mask)", "graphed_model(*roomy(model, tokens))"),
        ),
    ),
    # Noisy frames after calm ones, or the other way round, with the same instance.
    Mutant(
        "router",
        "the side of the branch is the one seen first",
        "values",
        (
            (
                "router.py",
                "        if exceeds_noisy:",
                '        if self.__dict__.setdefault("_side", bool(exceeds_noisy)):',
            ),
        ),
    ),
    # A result that the caller keeps changes when the instance is called again.
    Mutant(
        "router",
        "segments hand out their static memory",
        "kept outputs",
        (
            (
                RUNTIME,
                "results = [output.clone() for output in self.outputs]",
                "results = list(self.outputs)",
            ),
        ),
    ),
    # 102.4 and 12.9 are not half-precision numbers.
    Mutant(
        "features",
        "a constant has the wrong dtype",
        "values",
        (("features.py", "constant(CENTRE, dtype=columns.dtype,", "constant(CENTRE, dtype=torch.float16,"),),
    ),
    # The second constant of a dtype and device is the first one.
    Mutant(
        "features",
        "constants are looked up without their content",
        "values",
        (
            (
                RUNTIME,
                "key = (content, dtype, torch.get_default_dtype()",
                "key = (len(data), dtype, torch.get_default_dtype()",
            ),
        ),
    ),
    # Every call of one shape gets the decision about the first.
    Mutant(
        "service",
        "inputs are copied in for the first replay only",
        "values",
        (
            (
                f"triage/{RUNTIME}",
                "    def load(self, call: _Call) -> list[Tensor]:\n",
                "    def load(self, call: _Call) -> list[Tensor]:\n"
                "        if self.replays:\n            return []\n",
            ),
        ),
    ),
    # The decision lags one batch behind.
    Mutant(
        "service",
        "the branch takes the decision about the batch before",
        "values",
        (
            (
                "triage/model.py",
                "        if exceeds_threshold:",
                "        before = getattr(self, '_before', exceeds_threshold)\n"
                "        self._before = exceeds_threshold\n"
                "        if before:",
            ),
        ),
    ),
]


def verdict(example: str, after: Path, targets: Path, sequences: int) -> dict[str, Any]:
    """The only target of an example, verified with capture imitated on the CPU."""
    command = [
        *(REFACTOR, "verify", "--before", EXAMPLES / example / "before", "--after", after),
        *("--targets", targets, "--device", "emulated", "--python", sys.executable),
        *("--examples", sequences, "--json", "-"),
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=targets.parent, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.stdout, done.stderr
    (target,) = json.loads(done.stdout)["targets"]
    assert done.returncode == {"pass": 0, "fail": 1, "error": 2, "inconclusive": 3}[target["verdict"]]
    return dict(target)


@pytest.mark.parametrize("example", ["features", "ragged_encoder", "router", "service"])
def test_the_golden_tree_passes(example: str) -> None:
    target = verdict(example, EXAMPLES / example / "after", EXAMPLES / example / "targets.toml", SEQUENCES)
    assert target["verdict"] == "pass", target["reason"]
    assert target["capture"]["replays"] > 0
    assert target["capture"]["by"] == ("verifier" if example == "features" else "program")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.example}: {m.name}")
def test_a_broken_tree_fails(mutant: Mutant, tmp_path: Path) -> None:
    after = tmp_path / "after"
    shutil.copytree(EXAMPLES / mutant.example / "after", after)
    for file, old, new in mutant.edits:
        text = (after / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has changed: {old!r} occurs {text.count(old)} times"
        (after / file).write_text(text.replace(old, new), encoding="utf-8")
    targets = tmp_path / "targets.toml"
    shown = (EXAMPLES / mutant.example / "targets.toml").read_text(encoding="utf-8")
    targets.write_text(f'{shown}vary = ["{mutant.seen_by}"]\n', encoding="utf-8")
    harness = EXAMPLES / mutant.example / "harness.py"
    if harness.exists():
        shutil.copy(harness, tmp_path)
    target = verdict(mutant.example, after, targets, SEQUENCES)
    assert target["verdict"] == "fail", (target["verdict"], target["reason"])
    assert target["counterexample"]["script"]
