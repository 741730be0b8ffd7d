"""What calls leave behind in the process: tensors that stay alive, device memory, threads, open files."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from typing import Any

import torch
from torch import Tensor

from .episode import Call, Episode, Step
from .trees import seed_everything


def levels(episode: Episode, steps: list[Step], rounds: list[int]) -> list[dict[str, int]]:
    """How much there is after so many rounds of the steps, whose results and arguments are dropped.

    Args:
        episode: that has run nothing yet. A round is every step once, on its first instance.
        steps: calls.
        rounds: before each look, counted from the look before.
    """
    seed_everything(1)
    subject = episode.subject(0)
    found, number = [], 0
    for count in rounds:
        for _ in range(count):
            for step in steps:
                episode.plan.on_step(number)
                number += 1
                _call(episode, subject.network, step)
        found.append(_level(episode.plan.device))
    return found


def _call(episode: Episode, network: torch.nn.Module | None, step: Step) -> None:
    if step.get("backward") and network is not None and 0 not in episode.stepping:
        network.zero_grad(set_to_none=True)
    with episode.mode():
        call = Call(0, episode.arguments(0, step))
        episode.invoke(0, call)
        if step.get("backward") and call.error is None:
            episode.backward(0, call, step)
    episode.builders[0].last_arguments, episode.builders[0].last_tensors = {}, []


def _level(device: str) -> dict[str, int]:
    """Live tensors that Python knows, the bytes behind them, and what the process holds besides."""
    gc.collect()
    tensors, storages = 0, {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            tensors += 1
            with contextlib.suppress(Exception):  # one without memory of its own
                storage: Any = thing.untyped_storage()
                storages[storage._cdata] = int(storage.nbytes())
    found = {"tensors": tensors, "bytes": sum(storages.values()), "threads": threading.active_count()}
    if device == "cuda" and torch.version.cuda is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        found["device bytes"] = int(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError):
        found["open files"] = len(os.listdir("/proc/self/fd"))
    return found
