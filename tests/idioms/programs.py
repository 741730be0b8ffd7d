"""Runs a program as it was and as `apply` leaves it, and compares what ``main`` returns."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.rewrite.whole import rewrite, run

HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n"


def close(left: Any, right: Any) -> None:
    """Equal up to the rounding of other shapes."""
    assert type(left) is type(right), (type(left), type(right))
    if isinstance(left, torch.Tensor):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        torch.testing.assert_close(left.cpu(), right.cpu(), rtol=1e-4, atol=1e-6, equal_nan=True)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            close(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            close(one, other)
    elif isinstance(left, float):
        assert abs(left - right) <= 1e-6 + 1e-4 * abs(left) or left != left
    else:
        assert left == right


def same_before_and_after(code: str, folder: Path, device: str, codes: list[str], least: int) -> str:
    """Rewrite a program; ``main`` must return the same on the CPU and the device, there with replays."""
    after = rewrite(HEAD + code, folder, codes)
    assert after != HEAD + code, "not rewritten"
    results: dict[tuple[str, str], Any] = {}
    for side, text in (("before", HEAD + code), ("after", after)):
        for place in ("cpu", device):
            torch.manual_seed(0)
            counted = _Counted()
            with warnings.catch_warnings(), counted:
                warnings.simplefilter("error", RuntimeWarning)
                results[side, place] = run(text)["main"](place)
            if (side, place) == ("after", device):
                assert counted.number >= least, f"{counted.number} replays"
    for place in ("cpu", device):
        close(results["before", place], results["after", place])
    return after


class _Counted:
    """Counts replays while it is entered."""

    def __enter__(self) -> _Counted:
        self.number, self.real = 0, torch.cuda.CUDAGraph.replay

        def replay(graph: Any) -> Any:
            self.number += 1
            return self.real(graph)

        torch.cuda.CUDAGraph.replay = replay  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        torch.cuda.CUDAGraph.replay = self.real  # type: ignore[method-assign]


def same_script(code: str, folder: Path, device: str, codes: list[str], least: int) -> str:
    """Rewrite a script, which says `DEVICE`; its printed lines and global names must be the same."""
    after = rewrite(HEAD + code, folder, codes)
    assert after != HEAD + code, "not rewritten"
    for place in ("cpu", device):
        sides = []
        for text in (HEAD + code, after):
            counted, printed = _Counted(), io.StringIO()
            with warnings.catch_warnings(), counted, contextlib.redirect_stdout(printed):
                warnings.simplefilter("error", RuntimeWarning)
                names = run(text.replace("DEVICE", repr(place)), "__main__")
            sides.append((_plain(names), printed.getvalue()))
            if text is after and place == device:
                assert counted.number >= least, f"{counted.number} replays"
        (before, shown), (new, shown_after) = sides
        assert shown == shown_after
        close({name: value for name, value in before.items() if name in new}, new)
    return after


def _plain(names: dict[str, Any]) -> dict[str, Any]:
    """What a script leaves behind: tensors and numbers, also in lists, and the weights of its models."""
    kinds = (torch.Tensor, int, float, str, list, tuple, dict)
    found = {n: v for n, v in names.items() if isinstance(v, kinds) and not n.startswith("__")}
    models = {n: v.state_dict() for n, v in names.items() if isinstance(v, torch.nn.Module)}
    return found | models
