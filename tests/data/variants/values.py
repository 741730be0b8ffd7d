"""Models that keep and pass values in many ways; each marked line is a hazard of the code named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from helpers import choose, count_valid, masked_mean, shape_of, threshold_all


@dataclass
class State:
    h: torch.Tensor
    mask: torch.Tensor
    steps: int = 0


class Out(NamedTuple):
    logits: torch.Tensor
    n: int


class Batch(TypedDict):
    ids: torch.Tensor
    mask: torch.Tensor


class M01(nn.Module):  # dataclass-held tensor branch
    def forward(self, s: State):
        if s.mask.any():  # ! CG301
            return s.h
        if s.steps > 3:
            return s.h * 2
        return s.h * s.steps


class M02(nn.Module):  # NamedTuple
    def step(self, x):
        return Out(x * 2, x.shape[0])

    def forward(self, x: torch.Tensor):
        out = self.step(x)
        if out.n > 4:
            x = x + 1
        if out.logits.max() > 0:  # ! CG301
            x = x - 1
        return x


class M03(nn.Module):  # TypedDict
    def forward(self, batch: Batch):
        ids, mask = batch["ids"], batch["mask"]
        n = mask.sum().item()  # ! CG101
        return ids[:, :n] if n > 2 else ids


class M04(nn.Module):  # partial
    def __init__(self):
        super().__init__()
        self.f = partial(choose, cutoff=0.5)

    def forward(self, x: torch.Tensor):
        return self.f(x)


class M05(nn.Module):  # Sequential of own
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), Inner(), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class Inner(nn.Module):
    def forward(self, x):
        if torch.isnan(x).any():  # ! CG104
            raise ValueError("nan")
        return x


class M06(nn.Module):  # ModuleDict
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"a": HeadA(), "b": HeadB()})

    def forward(self, x: torch.Tensor, task: str):
        return self.heads[task](x)


class HeadA(nn.Module):
    def forward(self, x):
        idx = x.argmax(-1)
        return x[idx > 0]  # ! CG203


class HeadB(nn.Module):
    def forward(self, x):
        return x[:, 0]


class M07(nn.Module):  # match on host
    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor):
        match self.kind:
            case "a":
                return x + 1
            case "b" if x.shape[0] > 2:
                return x
            case _:
                return x.sum()


class M08(nn.Module):  # match on value read back
    def forward(self, x: torch.Tensor):
        match int(x.argmax()):  # ! CG101
            case 0:
                return x
            case _:
                return -x


class M09(nn.Module):  # walrus
    def forward(self, x: torch.Tensor):
        if (m := x.mean()) > 0:  # ! CG301
            return x * m
        if (n := x.size(0)) > 4:
            return x * n
        return x


class M10(nn.Module):  # comprehension
    def forward(self, xs: list[torch.Tensor]):
        lens = [x.shape[0] for x in xs]
        keep = [x for x in xs if x.sum() > 0]  # ! CG304
        return keep, max(lens)


class M11(nn.Module):  # generator
    def chunks(self, x):
        for i in range(x.shape[0]):
            yield x[i]

    def forward(self, x: torch.Tensor):
        return sum(c.max().item() for c in self.chunks(x))  # ! CG101


class M12(nn.Module):  # property
    @property
    def scale(self):
        return self.weight.abs().max().item()  # ! CG101

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x / self.scale


class M13(nn.Module):  # einops ok
    def forward(self, x: torch.Tensor):
        y = rearrange(x, "b (h d) -> b h d", h=4)
        b, h, d = y.shape
        if h > d:
            y = y.transpose(1, 2)
        if y.ndim == 3:
            y = y + 1
        return repeat(y, "b h d -> b h d k", k=2)


class M15(nn.Module):  # hook
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.lin.register_forward_hook(self._hook)

    def _hook(self, mod, inp, out):
        if out.abs().max() > 100:  # ! CG301
            return out.clamp(-100, 100)
        return out

    def forward(self, x):
        return self.lin(x)


class M16(nn.Module):  # nested function
    def forward(self, x: torch.Tensor):
        def inner(t):
            return t.nonzero()  # ! CG202

        return inner(x)


class Base(nn.Module):
    def forward(self, x: torch.Tensor):
        h = self.encode(x)
        return self.decode(h)

    def encode(self, x):
        raise NotImplementedError

    def decode(self, h):
        return h


class M17(Base):
    def encode(self, x):
        k = int(x.max())  # ! CG101
        return F.one_hot(x.long(), k)


class M18(nn.Module):  # cross-file helpers
    def forward(self, x: torch.Tensor, mask: torch.Tensor):
        y = masked_mean(x, mask)
        if threshold_all(mask):  # ! CG301
            y = y + 1
        n = count_valid(mask)
        b, c = shape_of(x)
        if b > c:
            y = y * 2
        return y / n


class M19(nn.Module):  # host constants
    def __init__(self):
        super().__init__()
        self.mean = torch.tensor([0.5, 0.5])
        self.register_buffer("std", torch.tensor([0.5, 0.5]))

    def forward(self, x: torch.Tensor):
        x = x - self.mean.to(x.device)  # ! CG402
        return x / self.std.to(x.device)


class M20(nn.Module):  # arange device
    def forward(self, x: torch.Tensor):
        pos = torch.arange(x.shape[1], device=x.device)
        pos2 = torch.arange(x.shape[1]).to(x)  # ! CG402
        w = torch.tensor([1.0, 2.0], device=x.device)  # ! CG401
        z = x.new_tensor([1.0])  # ! CG401
        return pos + pos2 + w.sum() + z + x.new_zeros(3).sum()


class M21(nn.Module):  # ternary
    def forward(self, x: torch.Tensor, w: torch.Tensor | None = None):
        y = x if w is None else x * w
        z = y if y.sum() > 0 else -y  # ! CG301
        return z


class M22(nn.Module):  # tensors in dict & sorted & max
    def forward(self, x: torch.Tensor):
        d = {"a": x.mean(), "b": x.std()}
        return max(d["a"], d["b"])  # ! CG304


class M23(nn.Module):  # sizes
    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        mx = int(lengths.max())  # ! CG101
        mask = torch.arange(mx, device=x.device)[None] < lengths[:, None]
        return F.pad(x, (0, mx - x.shape[1])), mask


class M24(nn.Module):  # while
    def forward(self, x: torch.Tensor):
        while (x > 1).any():  # ! CG302
            x = x / 2
        i = 0
        while i < 3:
            x = x + 1
            i += 1
        return x


class M25(nn.Module):  # guards
    def forward(self, x: torch.Tensor):
        if not torch.jit.is_scripting() and not torch.cuda.is_current_stream_capturing():
            if x.isnan().any():
                raise ValueError
        if self.training:
            print("training")
        return x
