"""Whether the results of the original depend on what it is given."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from .judge import Trace


class Sensitivity:
    """Whether any result of the original ever changed when its inputs did."""

    def __init__(self) -> None:
        self._pairs = 0
        self._sensitive = False
        self._returned = False
        self._raised = ""

    @property
    def refused(self) -> str:
        """What the calls raised, if none has returned."""
        return "" if self._returned else self._raised

    def add(self, trace: Trace, steps: list[dict[str, Any]]) -> None:
        """Look at one more sequence of the original."""
        plain = all(s["op"] == "call" and not s.get("i") for s in steps)
        results: dict[str, dict[str, str]] = {}
        for entry in trace.observed:
            raised = entry["groups"].get("exception")
            if raised and not entry["outside"]:
                self._raised = f"{raised['type']}: {raised['message'][:200]}"
            result = entry["groups"].get("result")
            self._returned |= result is not None
            if not result or not plain:
                continue
            if not any(
                leaf[0] in ("tensor", "number") for _, leaf in result
            ):  # what it does is what it keeps
                result = [
                    *result,
                    *(entry["groups"].get("called") or []),
                    *(entry["groups"].get("files") or []),
                    *(r for g in ("state", "held state", "attributes") for r in entry["groups"][g]),
                ]
            kinds = repr([(path, leaf[0], leaf[4:5]) for path, leaf in result])
            values = [
                _digest(trace.tensors[leaf[2]]) if leaf[0] == "tensor" else leaf[-1] for _, leaf in result
            ]
            given = repr([_digest(trace.tensors[leaf[2]]) for _, leaf in entry["groups"]["inputs"]])
            seen = results.setdefault(kinds, {})
            if seen and given not in seen:
                self._pairs += 1
                self._sensitive |= repr(values) not in seen.values()
            seen[given] = repr(values)

    @property
    def none(self) -> bool:
        """Whether other inputs gave the same result eight times, and never another."""
        return self._pairs >= 8 and not self._sensitive


def _digest(tensor: torch.Tensor) -> str:
    return (
        hashlib.sha1(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        if tensor.numel()
        else ""
    )
