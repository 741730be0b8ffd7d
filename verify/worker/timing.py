"""Time whole calls on the device: fresh inputs, every stream synchronised, results kept for the check."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from .episode import Call, Episode, Plan, Step
from .judge import Trace
from .trees import Subject, seed_everything


class Stopwatch:
    """One instance that is called again and again, in batches that are asked for from outside."""

    def __init__(self, make: Callable[[int], Subject], plan: Plan) -> None:
        self.plan = plan
        self.episode = Episode(make, plan)
        seed_everything(1)
        self.episode.subject(0)
        seed_everything(1)
        self.observed: list[dict[str, Any]] = []
        gc.collect()
        torch.cuda.empty_cache()
        self.reserved = torch.cuda.memory_reserved()

    def batch(self, steps: list[Step]) -> list[float]:
        """Milliseconds of every call; inputs are made before the clock starts."""
        gc.collect()
        gc.disable()
        try:
            return [self._one(step) for step in steps]
        finally:
            gc.enable()

    def _one(self, step: Step) -> float:
        episode = self.episode
        call = Call(len(self.observed), {})
        network = episode.subject(0).network
        if step.get("backward") and network is not None:
            network.zero_grad()
        with episode.mode(), self.plan.listener.listening(call.spoken):
            call.arguments = episode.arguments(0, step)
            torch.cuda.synchronize()
            start = time.perf_counter()
            episode.invoke_quietly(0, call)
            if step.get("backward") and call.error is None:
                episode.backward(0, call, step)
            torch.cuda.synchronize()
            took = (time.perf_counter() - start) * 1e3
        groups: dict[str, Any] = {}
        if call.error is not None:
            groups["exception"] = {"type": type(call.error).__qualname__, "message": str(call.error)[:400]}
        else:
            groups["result"] = episode.recorder.leaves(call.result, "result")
        self.observed.append({"step": call.step, "outside": False, "groups": groups})
        return took

    def trace(self) -> Trace:
        """Results of all timed calls."""
        return Trace(self.observed, self.episode.recorder.tensors)

    def kernels(self, steps: list[Step]) -> float | None:
        """Mean milliseconds of kernel time in a call; None without a profiler for the device."""
        episode = self.episode
        try:
            from torch.profiler import ProfilerActivity, profile

            with contextlib.ExitStack() as stack:
                profiler = stack.enter_context(profile(activities=[ProfilerActivity.CUDA]))
                for step in steps:
                    call = Call(0, {})
                    with episode.mode():
                        call.arguments = episode.arguments(0, step)
                        torch.cuda.synchronize()
                        episode.invoke(0, call)
                        if step.get("backward") and call.error is None:
                            episode.backward(0, call, step)
                        torch.cuda.synchronize()
            events = profiler.events() or []
            busy = [
                e
                for e in events
                if "cuda" in str(e.device_type).lower() and not e.name.startswith("Memcpy HtoD")
            ]
            total = sum(e.time_range.elapsed_us() for e in busy)
            return total / 1e3 / len(steps) if total else None
        except (RuntimeError, ImportError, AttributeError, AssertionError):
            return None

    def memory(self) -> int:
        """Bytes of device memory reserved since this instance was built."""
        return int(torch.cuda.memory_reserved() - self.reserved)


def user_settings() -> None:
    """Precision flags as a program finds them; the comparison had set them to their strictest."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.deterministic = False
