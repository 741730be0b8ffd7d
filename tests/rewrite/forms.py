"""Programs of the forms people write, each with what becomes of it: text files under ``forms``.

A file is a list of cases. A case is the sentence that names it, the program (which defines ``Model``), for
some an ``inputs:`` line, and the golden answer: what was refused and why, and the program after ``apply``.
``python -m tests.rewrite.forms`` writes the answers anew; read the diff, it is a review of the tool.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.rewrite.compare import assert_same
from tests.rewrite.whole import patch_file, run

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "forms"
HEAD = """\
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F


def mlp():
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))


"""
INPUTS = "x=torch.randn(B, 8) * s"
SCALES = (0.01, 0.3, 1.0, 4.0, 30.0)


@dataclass(frozen=True)
class Form:
    """One program and what the tool makes of it."""

    name: str
    code: str
    inputs: str
    answer: str


def forms(path: Path) -> Iterator[Form]:
    """The cases of a file."""
    for part in path.read_text(encoding="utf-8").split("\n=== "):
        name, _, rest = part.removeprefix("=== ").partition("\n")
        body, _, answer = rest.partition("\n--- becomes\n")
        code, _, inputs = body.partition("\ninputs: ")
        yield Form(name, code.strip("\n") + "\n", inputs.strip() or INPUTS, answer.strip("\n"))


def all_forms() -> list[Form]:
    """The cases of all files."""
    return [form for path in sorted(FOLDER.glob("*.txt")) for form in forms(path)]


def answer_to(form: Form, folder: Path) -> tuple[str, str]:
    """The answer in the golden form, and the whole rewritten module."""
    path = folder / "model.py"
    text = HEAD + form.code
    path.write_text(text, encoding="utf-8")
    patch = patch_file(path)
    new = patch.new.decode()
    path.write_text(new, encoding="utf-8")
    again = patch_file(path).new.decode()
    assert again == new, f"a second application changes the file again:\n{again}"
    lines = [
        f"refused: {row.finding.code} `{_line(text, row.finding.line)}`: {row.reason}"
        for row in patch.outcomes
        if row.status == "refused"
    ]
    start = new.index("def mlp():")
    body = new[start:].removeprefix(HEAD[HEAD.index("def mlp():") :])
    changed = [] if body == form.code else [body.strip("\n")]
    return "\n".join([*lines, *changed] or ["nothing found"]), new


def _line(text: str, number: int) -> str:
    return text.splitlines()[number - 1].strip()


def rendered(path: Path, answers: dict[str, str]) -> str:
    """The file with new answers."""
    parts = []
    for form in forms(path):
        inputs = "" if form.inputs == INPUTS else f"inputs: {form.inputs}\n"
        parts.append(f"=== {form.name}\n{form.code}{inputs}\n--- becomes\n{answers[form.name]}\n")
    return "\n".join(parts)


# -- running both


def load_emulator() -> ModuleType:
    """The emulated device, loaded by path as a worker does."""
    name = "_emulator_for_forms"
    if name not in sys.modules:
        path = ROOT / "verify" / "emulator" / "__init__.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@contextmanager
def counted_replays() -> Iterator[Callable[[], int]]:
    """How many graphs were replayed since."""
    import torch

    original = torch.cuda.CUDAGraph.replay
    replays = [0]

    def replay(graph: Any) -> Any:
        replays[0] += 1
        return original(graph)

    torch.cuda.CUDAGraph.replay = replay
    try:
        yield lambda: replays[0]
    finally:
        torch.cuda.CUDAGraph.replay = original


def _outcome(model: Any, arguments: dict[str, Any]) -> tuple[str, Any]:
    import torch

    try:
        with torch.inference_mode():
            return "returned", model(**arguments)
    except (ValueError, RuntimeError, AssertionError, NameError) as error:
        return type(error).__name__, str(error)


def _plain(value: Any) -> Any:
    """Objects of the program's own classes by what they hold: the two programs have a class each."""
    if isinstance(value, tuple | list):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, _plain(vars(value))]
    return value


def state_of(model: Any) -> dict[str, Any]:
    """Everything a user can see of a model besides its results."""
    public = {k: v for k, v in vars(model).items() if not k.startswith(("_cuda", "__")) and k not in _TORCH}
    kept = {k: v for k, v in public.items() if isinstance(v, int | float | list | str)}
    return {"state": dict(model.state_dict()), **kept}


_TORCH = ("_parameters", "_buffers", "_modules")


def compare(form: Form, new: str, device: str) -> int:
    """Run both programs on the same inputs; the number of graphs replayed by the new one."""
    import torch

    torch.manual_seed(0)
    before, after = (run(text)["Model"]().to(device).eval() for text in (HEAD + form.code, new))
    after.load_state_dict(before.state_dict())
    with warnings.catch_warnings(), counted_replays() as replays:
        warnings.filterwarnings("ignore", message=".*runs eagerly.*")
        for seed in range(len(SCALES) * 3):
            seen = []
            for model in (before, after):
                torch.manual_seed(seed % 10)
                names = {"torch": torch, "B": seed % 2 + 2, "s": SCALES[seed % len(SCALES)]}
                made = eval(f"dict({form.inputs.replace(';', ',')})", names)
                arguments = {k: v.to(device) if hasattr(v, "to") else v for k, v in made.items()}
                kind, value = _outcome(model, arguments)
                seen.append([kind, _plain(value), arguments, state_of(model)])
            assert_same(*seen)
        return replays()


def write(names: list[str]) -> None:
    """Write all answers anew."""
    for path in sorted(FOLDER.glob("*.txt")):
        if names and path.stem not in names:
            continue
        answers = {}
        for form in forms(path):
            with tempfile.TemporaryDirectory() as folder:
                answers[form.name] = answer_to(form, Path(folder))[0]
        path.write_text(rendered(path, answers), encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1:])
