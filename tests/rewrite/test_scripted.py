"""TorchScript compiles a part of Python: what it compiles is left as it is, all beside it is rewritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewrite.whole import rewrite

MODEL = """

class Model(nn.Module):
    def forward(self, x):
        return scale(x) + torch.tensor([1.0, 2.0], device=x.device)
"""
COMPILED = {
    "a function with the decorator": """
@torch.jit.script
def scale(x: torch.Tensor):
    return x * torch.tensor([2.0], device=x.device)
""",
    "a helper that such a function calls": """
def table(x: torch.Tensor):
    return torch.tensor([2.0], device=x.device)


@torch.jit.script
def scale(x: torch.Tensor):
    return x * table(x)
""",
    "a function that is handed over": """
def plain(x: torch.Tensor):
    return x * torch.tensor([2.0], device=x.device)


scale = torch.jit.script(plain)
""",
    "a class": """
@torch.jit.script
class Scale(object):
    def __init__(self, by: float):
        self.by = by

    def apply(self, x: torch.Tensor):
        return x * torch.tensor([2.0], device=x.device)


def scale(x):
    return Scale(2.0).apply(x)
""",
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_is_left_alone(name: str, tmp_path: Path) -> None:
    new = rewrite(f"import torch\nfrom torch import nn\n\n{COMPILED[name]}{MODEL}", tmp_path, ["CG401"])
    assert COMPILED[name] in new
    assert "+ constant([1.0, 2.0], device=x.device)" in new
