"""Each idiom alone, with the verdict of one H100 (torch 2.11): what captures must not be called a hazard."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.findings import Severity
from refactor.source import load

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torch.utils.checkpoint import checkpoint


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)
        self.bag = nn.EmbeddingBag(10, 8)
        self.fc = nn.Linear(8, 8)
        self.stream = torch.cuda.Stream()

    def forward(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        m: torch.BoolTensor,
        idx: torch.LongTensor,
        x: torch.Tensor,
        t: torch.Tensor,
        n: int,
    ):
"""

CAPTURES = """\
a @ b
torch.where(m, a, b)
x[m] = 0
x[m] = 0.5
x[:, 0] = 1
x[0, 1:] = 3.0
x[...] = a
x.index_select(0, idx)
x[idx]
a.topk(3)
a.sort()
a.cumsum(0)
a.index_add_(0, idx, b)
torch.linalg.cholesky_ex(a)
torch.fft.fft(a)
F.conv2d(a, b)
self.lstm(a)
self.bag(idx, idx)
F.interpolate(a, scale_factor=2)
F.interpolate(a, size=(n, n))
F.grid_sample(a, b)
F.pad(a, (0, n))
torch.arange(n, device=x.device)
torch.zeros(n, n, device=x.device)
torch.full((2,), 1.0, device=x.device)
torch.linspace(0, 1, n, device=x.device)
torch.empty_like(a)
x.new_zeros(3)
torch.randn(3, device=x.device)
torch.randperm(n, device=x.device)
torch.multinomial(a, 3)
torch.bernoulli(a)
F.dropout(a)
torch.histc(a, bins=4, min=0, max=1)
F.one_hot(idx, 10)
x.repeat_interleave(2)
torch.repeat_interleave(x, 2, dim=0)
torch.repeat_interleave(x, idx, output_size=12)
a * torch.tensor(2.0)
a.masked_fill(m, torch.tensor(2.0))
a.masked_fill(m, 0.0)
torch.zeros(3).pin_memory().to(x.device, non_blocking=True)
torch._assert_async(m.all())
torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
checkpoint(self.fc, a, use_reentrant=False)
torch.cuda.empty_cache()
torch.cuda.mem_get_info()
a[:n]
a.split([n, 3])
a.shape[0] > n and n > 2
"""

BREAKS = """\
x.sum().item()
float(x.sum())
bool(m.any())
print(x.mean())
x[:t.sum()]
torch.nonzero(m)
torch.where(m)
x[m]
x[m] = a
x[m] += 1
x[m] *= a
torch.masked_select(x, m)
torch.unique(x)
torch.repeat_interleave(x, idx)
F.one_hot(idx)
torch.allclose(a, b)
torch.cuda.synchronize()
self.stream.synchronize()
torch.linalg.svd(a)
torch.linalg.inv(a)
torch.linalg.cholesky(a)
torch.linalg.eigh(a)
torchvision.ops.nms(a, b, 0.5)
torch._grouped_mm(a, b, offs=torch.tensor([1, 2], device=x.device))
x.cpu()
x.tolist()
torch.tensor([1.0, 2.0], device=x.device)
torch.tensor(0.5, device=x.device)
torch.as_tensor([1, 2]).to(x.device)
torch.arange(4).to(x.device)
x.new_tensor([1.0])
x[[0, 1, 2]]
x[..., [-2], :]
torch.bincount(idx, minlength=4)
a.split(idx.tolist())
x[idx] = 0
x[:, idx, idx] = 1
torch.zeros(3, device=x.device)[0] = 1.0
torch.zeros(3, 2, device=x.device)[n, 1] = n
torch.where(m, x, torch.tensor(0.5))
x.masked_fill(m, t.sum())
F.pad(x, (0, n - t.max()))
F.interpolate(x, size=(t.max(), n))
torch.multinomial(a, t.sum())
torch.full((n, t.max()), 0.0, device=x.device)
torch.arange(t.sum(), device=x.device)
a.to_sparse()
F.ctc_loss(a, idx, torch.tensor([3]), torch.tensor([2]))
(a > 0).all() and n > 2
max(t.sum(), 1)
"""

BLOCKS = {
    "a branch on a tensor": "if t.sum() > 0:\n    x = -x",
    "a loop counted by a tensor": "for _ in range(t.sum()):\n    x = -x",
    "a loop while a tensor holds": "while t.sum() > 0:\n    t = t - 1",
    "an assertion on a tensor": "assert (t > 0).all()",
    "an f-string of a tensor": "label = f'{t.sum()}'",
}


def hazards(body: str, folder: Path) -> list[str]:
    (folder / "m.py").write_text(HEAD + textwrap.indent(body, " " * 8) + "\n        return x\n")
    facts = analyze(load(folder / "m.py"), Project(folder))
    assert facts is not None
    return [
        f"{rule.code} {hit.message}"
        for rule in RULES
        for hit in rule.detect(facts)
        if (hit.severity or rule.severity) is Severity.BREAKS
    ]


@pytest.mark.parametrize("idiom", CAPTURES.splitlines())
def test_what_captures_is_no_hazard(idiom: str, tmp_path: Path) -> None:
    assert hazards(idiom, tmp_path) == []


@pytest.mark.parametrize("idiom", BREAKS.splitlines())
def test_what_fails_at_capture_is_found(idiom: str, tmp_path: Path) -> None:
    assert len(hazards(idiom, tmp_path)) >= 1


@pytest.mark.parametrize("body", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_statement_that_needs_a_value_is_found(body: str, tmp_path: Path) -> None:
    assert len(hazards(body, tmp_path)) == 1


def test_a_check_of_half_precision_is_said_to_be_one_and_breaks_nothing_else(tmp_path: Path) -> None:
    body = "if x.dtype == torch.float16 and torch.isinf(x).any():\n    x = x.clamp(-1, 1)"
    (tmp_path / "m.py").write_text(HEAD + textwrap.indent(body, " " * 8) + "\n        return x\n")
    facts = analyze(load(tmp_path / "m.py"), Project(tmp_path))
    assert facts is not None
    (hit,) = (hit for rule in RULES for hit in rule.detect(facts) if rule.code == "CG301")
    assert hit.severity is Severity.COST
    assert "but only where `x.dtype == torch.float16`: there it breaks a capture" in hit.message
