"""Operators, layers and models of PyTorch Geometric, and graphs to call them with.

`zoo_pyg.txt` has one a line: a name, what is called, and the values of `_values` it is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Called(torch.nn.Module):
    """A function as a module, so that it can be run like one; a bound method's module is its submodule."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        owner = getattr(function, "__self__", None)
        if isinstance(owner, torch.nn.Module):
            self.owner = owner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)


def names() -> list[str]:
    """Every line of the list."""
    return list(_rows())


def recipes(name: str, errors: list[str]) -> Iterator[tuple[torch.nn.Module, Call]]:
    """The model as listed, then without the vector that says which graph a node belongs to."""
    code, wanted = _rows()[name]
    values = _values()
    built = eval(code, _scope(code, values))
    model = built if isinstance(built, torch.nn.Module) else Called(built)
    yield model, (tuple(values[word] for word in wanted.split()), {})
    if "b" in wanted.split():
        yield model, (tuple(values[word] for word in wanted.split() if word != "b"), {})


def _rows() -> dict[str, tuple[str, str]]:
    """Code and inputs by name."""
    rows: dict[str, tuple[str, str]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        if not line.startswith("#"):
            name, code, wanted = line.split(" | ")
            rows[name] = (code, wanted)
    return rows


def _scope(code: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the code of a line may name."""
    import torch_geometric.nn as nn
    import torch_geometric.utils as utils
    from torch_geometric.nn import dense, models, pool

    modules = (utils, pool, dense, models, nn)
    scope: dict[str, Any] = {name: value for module in modules for name, value in vars(module).items()}
    scope |= {"torch": torch, "mlp": _mlp, "VEnc": _Encoder, "deg": values["deg"], "e0": values["e"]}
    if "fixed" in code:
        scope["fixed"] = _Fixed(values["e"])
    if "Message" in code:
        from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator

        scope |= {"IdentityMessage": IdentityMessage, "LastAggregator": LastAggregator}
    return scope


class _Fixed(torch.nn.Module):
    """The same edges for all positions, with their lengths."""

    def __init__(self, edges: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("index", edges)
        self.index: torch.Tensor

    def forward(self, at: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.index, (at[self.index[0]] - at[self.index[1]]).norm(dim=-1)


def _graph(nodes: int = 24, edges: int = 96, channels: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, nodes, (2, edges), generator=generator)
    index = index[:, index[0] != index[1]]
    index = torch.unique(torch.cat([index, index.flip(0)], 1), dim=1)
    count = index.size(1)
    return {
        "x": torch.randn(nodes, channels),
        "e": index,
        "w": torch.rand(count),
        "a": torch.randn(count, 8),
        "t": torch.randint(0, 3, (count,)),
        "pos": torch.randn(nodes, 3),
        "nt": torch.randint(0, 3, (nodes,)),
        "b": torch.arange(nodes) // 12,
        "z": torch.randint(1, 9, (nodes,)),
        "n": nodes,
        "normal": torch.nn.functional.normalize(torch.randn(nodes, 3)),
        "p3": torch.rand(count, 3),
    }


def _mlp(*sizes: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i + 2 < len(sizes) else [])
    return torch.nn.Sequential(*layers)


def _values() -> dict[str, Any]:
    g = _graph()
    e, n = g["e"], g["n"]
    dense = torch.rand(2, 12, 12).round()
    return g | {
        "none": None,
        "x3": torch.randn(n, 3, 16),
        "esort": e[:, e[1].argsort()],
        "e0": e,
        "xs": [g["x"], g["x"]],
        "hx": {"p": g["x"], "q": torch.randn(10, 16)},
        "idx": torch.arange(6),
        "he": {("p", "to", "p"): e, ("p", "of", "q"): torch.stack([e[0], e[1] % 10])},
        "hw": torch.rand(n),
        "ha": torch.randn(n, 16),
        "dx": torch.randn(2, 12, 16),
        "dadj": dense,
        "ds": torch.randn(2, 12, 4),
        "deg": torch.bincount(torch.bincount(e[1], minlength=n)),
        "cl": torch.arange(n) // 3,
        "mask": torch.arange(n) % 2 == 0,
        "soft": torch.softmax(torch.randn(n, 3), -1),
        "nt6": g["nt"][:6],
        "m6": torch.arange(n) < 6,
        "face": torch.randint(0, n, (3, 20)),
        "coo": torch.sparse_coo_tensor(e, g["w"], (n, n)).coalesce(),
    }


class _Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv = GCNConv(16, 8)

    def forward(self, x: Any, e: Any) -> Any:
        h = self.conv(x, e)
        return h, h
