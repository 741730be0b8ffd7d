"""The emulated device, there for one test at a time: installing and taking out is part of what is tested."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

PACKAGE = Path(__file__).parents[2] / "verify" / "emulator"
NAME = "_refactor_emulator_tested"

if torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]  # it stands for a GPU that is not there


def _package() -> Any:
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


@pytest.fixture(autouse=True)
def emulator() -> Iterator[Any]:
    """Loaded by path under a private name, as a worker loads it."""
    torch.set_num_threads(1)
    device = _package().install()
    torch.manual_seed(0)
    yield device
    device.uninstall()


Capture = Callable[..., tuple[Any, Any]]


@pytest.fixture
def capture() -> Capture:
    """Warms a function up on a side stream and captures one run: (graph, its outputs)."""

    def capture(fn: Callable[[], Any], *, warmup: int = 1, **options: Any) -> tuple[Any, Any]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                fn()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, **options):
            out = fn()
        return graph, out

    return capture


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing here may leave the process with a device that is not there."""
    for item in items:
        if PACKAGE.name in str(item.path.parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype.*"))
