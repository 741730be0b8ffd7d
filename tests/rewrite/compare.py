"""Equality of results to the bit."""

from __future__ import annotations

from typing import Any

import torch


def assert_same(left: Any, right: Any) -> None:
    """Equal to the bit, NaN equal to NaN, in a tree of tensors and host values."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert torch.equal(left.nan_to_num(7e7), right.nan_to_num(7e7))
        assert torch.equal(left.isnan(), right.isnan())
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right
