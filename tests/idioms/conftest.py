"""Programs run before and after the rewrite, on the CPU and on the (emulated) device, and are compared."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
_EMULATOR = Path(__file__).parents[2] / "verify" / "emulator" / "__init__.py"


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """The name of the device; without a GPU it is emulated while a module's tests run."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        yield "cuda"
        return
    spec = importlib.util.spec_from_file_location("_emulator_for_idioms", _EMULATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    emulator = module.install()
    emulator.poison_empty(True)
    yield "cuda"
    emulator.uninstall()
