"""The device the runtime is tested on: a GPU if there is one, else the emulator."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]


def load(name: str, path: Path) -> ModuleType:
    """Load a file or package by path: the GPU machine has no installed `refactor`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """The name of the device; without a GPU it is emulated while a module's tests run."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        yield "cuda"
        return
    emulator = load("_emulator_for_runtime", ROOT / "verify" / "emulator" / "__init__.py").install()
    emulator.poison_empty(True)
    yield "cuda"
    emulator.uninstall()
