"""Dispatch modes are thread-local: every thread that Python starts enters its own."""

from __future__ import annotations

import threading
from typing import Any

from .core import Gpu
from .patches import Patches


def watch_threads(gpu: Gpu, patches: Patches) -> None:
    """Make every thread started from now on run under the emulator.

    `_bootstrap_inner` is what all of `threading.Thread`, its subclasses and executors run first.
    """
    original: Any = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def bootstrap(self: threading.Thread) -> None:
        with gpu.watch:
            original(self)

    patches.set(threading.Thread, "_bootstrap_inner", bootstrap)
