"""What code says of its values is believed, and no more: the marked lines, and no others, are reported."""

from __future__ import annotations

import textwrap

import pytest

from tests.analysis.test_forms import reported

CASES = {
    "decorators of the code base around forward and what it calls": """
        import functools
        import torch
        from torch import nn
        def checked(fn):
            @functools.wraps(fn)
            def wrapper(self, x, *args, **kwargs):
                if not torch.isfinite(x).all():  # !
                    raise ValueError("x")
                out = fn(self, x, *args, **kwargs)
                self.seen = out.mean().item()  # !
                return out
            return wrapper
        def scaled(factor):
            def decorate(fn):
                def inner(*args, **kwargs):
                    y = fn(*args, **kwargs)
                    return y * torch.tensor(factor, device=y.device)  # !
                return inner
            return decorate
        def logged(fn):
            def wrapper(*args, **kwargs):
                if len(args) > 3 and max(len(kwargs), 1) > 2:
                    print(fn.__name__)
                return fn(*args, **kwargs)
            return wrapper
        def unused(fn):
            def wrapper(x):
                return fn(x).cpu()
            return wrapper
        class Model(nn.Module):
            @checked
            @torch.no_grad()
            def forward(self, x: torch.Tensor, *, scale: float = 1.0):
                return self.step(x) * scale + norm(x)
            @scaled(2.0)
            @logged
            def step(self, x):
                return x[x > 0].sum()  # !
        @logged
        def norm(x):
            return x / x.norm()
    """,
    "a dtype, a device and a size are no tensors": """
        import torch
        from torch import nn
        def code_of(value):
            if isinstance(value, torch.dtype):
                return str(value)[6:]
            if isinstance(value, torch.Tensor):
                return int(value.item())
            return value
        def count(value):
            if isinstance(value, (tuple, list)):
                return len(value)
            return int(value)
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                return x, code_of(x.dtype), code_of(x.device), count(x.shape[1:])
    """,
    "an array is no tensor where isinstance has said so": """
        import numpy as np
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x, mask):
                both = self.pick(x, mask)
                if isinstance(both, np.ndarray):
                    return np.asarray(both)
                return both
            def pick(self, x, mask):
                return x.relu() if self.training else mask
    """,
    "an argument that may be a list is followed as a list too": """
        from typing import List, Union
        import torch
        from torch import nn
        class Loss(nn.Module):
            def forward(self, x: Union[torch.Tensor, List[torch.Tensor]], y: torch.Tensor):
                if isinstance(x, (list, tuple)):
                    total = torch.tensor(0.0, device=y.device)  # !
                    for one in x:
                        total = total + (one.float() - y).mean()
                    return total
                return (x.float() - y).mean()
        class Plain(nn.Module):
            def forward(self, x: torch.Tensor):
                if isinstance(x, (list, tuple)):
                    return torch.tensor(0.0, device=x[0].device)
                return x
    """,
    "torch's arithmetic on numbers stays on the host": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                rows = [[], []]
                index = x.argmax().item()  # !
                row = torch.div(index, 4, rounding_mode="floor")
                if len(rows[row]) == 2:
                    rows[row].append(x)
                return x
    """,
    "a tensor given to a module's constructor stays on the host unless it is registered": """
        import torch
        from torch import nn
        class Weighted(nn.Module):
            def __init__(self, weight: torch.Tensor, scale: torch.Tensor, order: torch.Tensor):
                super().__init__()
                self.weight = weight
                self.register_buffer("scale", scale)
                self.order = nn.Parameter(order, requires_grad=False)
            def forward(self, x: torch.Tensor):
                w = self.weight.to(x.device)  # !
                return x * w * self.scale.to(x.device) + self.order.to(x)
        class Box:
            def __init__(self, corners: torch.Tensor):
                self.corners = corners
        class Head(nn.Module):
            def forward(self, x: torch.Tensor):
                return Box(x).corners.to(x.device)
    """,
    "a table made on the host on one path, through views": """
        import torch
        from torch import nn
        class Rope(nn.Module):
            def table(self, device=None):
                return torch.arange(0, 8, 2).float().to(device)
            def forward(self, x: torch.Tensor, own: bool = False):
                freqs = x.new_ones(4) if own else self.table()
                freqs = freqs[None, :, None].expand(2, -1, 1).to(x.device)  # !
                return freqs @ x
        class Cached(nn.Module):
            def __init__(self):
                super().__init__()
                self.build(4)
            def build(self, n):
                table = torch.ones(n)
                if hasattr(self, "table"):
                    table = table.to(self.table.device)
                self.table = nn.Buffer(table, persistent=False)
            def forward(self, x: torch.Tensor, ids: torch.Tensor):
                return self.table.index_select(0, ids).view(2, -1).to(x.device)
    """,
    "cast says what it is given": """
        from typing import Optional, cast
        import torch
        from torch import nn
        class Tracker(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = None
            def forward(self, x: torch.Tensor, n: Optional[int] = None):
                size = cast(int, n)
                if size > 3:
                    x = x[:size]
                return torch.inverse(cast(torch.Tensor, self.last)) @ x  # !
    """,
    "fields of what linear algebra returns": """
        import torch
        from torch import nn
        class Filter(nn.Module):
            def __init__(self, n: int):
                super().__init__()
                self.coeffs = self.solve(n)
            @staticmethod
            def solve(n):
                a = torch.arange(n).float().outer(torch.arange(n).float())
                return torch.linalg.lstsq(a, torch.zeros(n, 1)).solution.squeeze()
            def forward(self, x: torch.Tensor):
                return x * self.coeffs.to(device=x.device)  # !
    """,
    "what is a number on one path is copied": """
        import torch
        from torch import nn
        class Loss(nn.Module):
            def __init__(self, weight, schedule=None):
                super().__init__()
                self.weight, self.schedule = weight, schedule
            def forward(self, x: torch.Tensor):
                zero = x.new_zeros(())
                w = zero
                if self.schedule is None:
                    w = 0.5
                w = torch.tensor(w, device=x.device)  # !
                return w * x.mean()
    """,
    "settings that a method replaces by name": """
        import torch
        from torch import nn
        class Config:
            def __init__(self, given=None):
                self.tuned = False
                self.fixed = False
                if given is not None:
                    self.update(given)
            def update(self, given):
                self.__dict__.update(given)
        class Model(nn.Module):
            def __init__(self, given):
                super().__init__()
                self.config = Config(given)
                self.head = nn.Linear(2, 2) if self.config.tuned else None
            def forward(self, x: torch.Tensor, mask: torch.BoolTensor):
                if self.head is not None:
                    x = self.head(x)[mask]  # !
                return x
    """,
    "a decorator that gives a function other arguments": """
        import functools
        import torch
        from torch import nn
        from six.moves import map, zip
        def weighted(fn):
            @functools.wraps(fn)
            def wrapper(pred, target, weight=None, reduction="mean", **kwargs):
                loss = fn(pred, target, **kwargs)
                return (loss if weight is None else loss * weight).mean()
            return wrapper
        @weighted
        def smooth(pred, target, beta: float = 1.0):
            assert beta > 0
            return (pred - target).abs()[target > beta]  # !
        def each(func, *args):
            return tuple(map(list, zip(*map(func, *args))))
        class Loss(nn.Module):
            def __init__(self, beta=1.0):
                super().__init__()
                self.beta = beta
            def forward(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, **kwargs):
                return smooth(pred, target, weight, beta=self.beta, reduction="none", **kwargs)
        class Head(nn.Module):
            def forward(self, feats: tuple[torch.Tensor]):
                return each(self.one, feats)
            def one(self, x):
                return x * x.new_tensor([1.0, 2.0]), x  # !
    """,
    "sizes of something computed from tensors": """
        import torch
        from torch import nn
        class Pool(nn.Module):
            def __init__(self, layers):
                super().__init__()
                self.layers = layers
            def forward(self, x: torch.Tensor):
                outs = self.layers.run(x)
                n = torch.tensor(outs.size()[1:]).prod()
                if outs.dim() > 2 and outs.numel() > 4:
                    outs = outs.view(x.size(0), n)
                return outs.view(torch._shape_as_tensor(x)[0], -1)
    """,
    "a shape made a tensor is moved like any other": """
        import torch
        from torch import nn
        class Grid(nn.Module):
            def forward(self, x: torch.Tensor):
                return x * torch._shape_as_tensor(x)[2:].to(x.device)  # !
    """,
    "arrays stay on the host": """
        import numpy as np
        import torch
        from torch import nn
        class Link(nn.Module):
            def forward(self, tracks: np.ndarray) -> np.ndarray:
                return tracks[np.argsort(tracks[:, 0])]
    """,
    "moving what is empty copies nothing": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def __init__(self, parts):
                super().__init__()
                self.parts = parts
            def forward(self, x: torch.Tensor):
                found = torch.Tensor().to(x.device)
                other = torch.zeros(0, 4).to(x.device)
                third = torch.tensor([], dtype=torch.long).to(x.device)
                fourth = torch.zeros(1, 4).to(x.device)  # !
                names = []
                self.parts.fill(names)
                fifth = torch.tensor(names).to(x.device)  # !
                here = torch.ones(2).to(torch.empty(0).device)
                return torch.cat([found, other, third, fourth, fifth, here])
    """,
    "an optional mask that is used as an index": """
        import torch
        from torch import nn
        class Loss(nn.Module):
            def forward(self, x: torch.Tensor, mask=None, order=None):
                loss = x.square()
                if mask is not None:
                    loss = loss[mask]  # !
                if order is not None:
                    loss = loss[order]
                return loss.mean()
    """,
    "dimensions that are unpacked, tested or asserted": """
        import torch
        from torch import nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, w: torch.Tensor):
                b, n = x.shape
                out = torch.zeros_like(x)
                out[0, 1] = 5.0  # !
                out[0] = 5.0
                if y.dim() == 3:
                    y[0, 0, 0] = 1.0  # !
                    y[0, 0] = 1.0
                y[0, 0, 0] = 1.0
                assert len(z.size()) == 1
                z[b - 1] = 0  # !
                if w.ndim != 2:
                    return out
                w[0, 0] = 0  # !
                return out, y, z, w
    """,
    "a forward that is exported and called by another with every argument": """
        import torch
        from torch import nn
        __all__ = ["Encoder", "Model"]
        class Encoder(nn.Module):
            def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None):
                if mask is None:
                    mask = torch.ones(x.shape[:2]).to(x.device)  # !
                return x * mask
        class Inner(nn.Module):
            def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None):
                if mask is None:
                    mask = torch.ones(x.shape[:2]).to(x.device)
                return x * mask
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.inner = Encoder(), Inner()
            def forward(self, x: torch.Tensor, mask: torch.Tensor):
                return self.inner(self.encoder(x, mask), mask)
    """,
    "numbers that libraries name are numbers": """
        import math
        import numpy as np
        import torch
        from torch import inf, nn
        class Model(nn.Module):
            def forward(self, x: torch.Tensor, fill: torch.Tensor):
                masked = x > 0
                x[masked] = -torch.inf
                x[masked] = torch.nan
                x[masked] = -math.inf
                x[masked] = np.pi
                x[masked] = inf
                x[masked] = torch.finfo(x.dtype).min
                x[:, torch.newaxis][masked[:, torch.newaxis]] = torch.pi
                x[masked] = fill  # !
                return x
    """,
    "a dataclass does not run the constructor of its base": """
        from dataclasses import dataclass
        import torch
        from torch import nn
        class Output:
            def __init__(self, value):
                print(value)
        @dataclass
        class Written(Output):
            value: torch.Tensor
        @dataclass
        class Own(Output):
            value: torch.Tensor
            def __init__(self, value):
                self.value = value.item()  # !
        class Model(nn.Module):
            def forward(self, x: torch.Tensor):
                return Written(x.relu()), Own(x.relu())
    """,
    "an attribute that a helper makes, read or not": """
        import torch
        from torch import nn
        class Plan:
            def __init__(self, width: int):
                self.width = width
            @classmethod
            def of(cls, config):
                return cls(config.width)
            def table(self):
                return torch.arange(self.width)
        def table_of(config):
            return torch.linspace(0, 1, config.width)
        class Model(nn.Module):
            def __init__(self, config, other: bool):
                super().__init__()
                self.plan = Plan.of(config) if self.planned() else None
                self.table = table_of(config)
                self.unread = table_of(config)
                self.twice = table_of(config)
                self.twice = 3
                self.early = table_of(config)
                self.register_buffer("kept", self.early * 2)
                self.made = self.table.numel()
                name = table_of(config)
                self.named = name
            @classmethod
            def planned(cls):
                return cls.__name__ != "Model"
            def forward(self, x: torch.Tensor):
                x = x + self.table.to(x.device)  # !
                x = x + self.plan.table().to(x.device)  # !
                x = x + self.named.to(x.device)  # !
                if self.made > 3:
                    x = x * self.kept
                return x * self.early.to(x.device)  # !
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_what_code_says_of_its_values_decides_what_is_reported(case: str) -> None:
    code = textwrap.dedent(CASES[case])
    assert reported(code) == {n for n, line in enumerate(code.splitlines(), 1) if line.endswith("# !")}
