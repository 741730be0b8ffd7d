"""Programs of the forms people write: what becomes of them, and that it gives what they gave, replayed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rewrite.forms import Form, all_forms, answer_to, compare, load_emulator

torch = pytest.importorskip("torch")
FORMS = all_forms()


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """A GPU, or the emulated one."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        yield "cuda"
        return
    emulator = load_emulator().install()  # type: ignore[attr-defined]
    emulator.poison_empty(True)
    yield "cuda"
    emulator.uninstall()


def test_no_form_is_there_twice_and_there_are_many() -> None:
    names = [form.name for form in FORMS]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_becomes_what_was_reviewed_and_gives_the_same_results(form: Form, device: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        answer, new = answer_to(form, Path(folder))
    assert answer == form.answer
    replays = compare(form, new, device)
    kept_state = "CG60" in answer  # attributes that change at every call: the runtime looks at all of them
    assert replays > 0 or "@segment" not in new or kept_state
