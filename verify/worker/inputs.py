"""Recipes to values: the same recipe makes the same tensors in every process.

A recipe is JSON. ``{"t": "float32", "shape": [2, 3], "fill": {"k": "normal"}, "seed": 7}`` is a tensor,
``{"v": 0.5}`` a plain value, ``{"dict": {...}}`` and ``{"list": [...]}`` containers; ``{"same": NAME}`` is
the object given for another argument, ``{"view": NAME}`` a view of it, ``{"again": NAME}`` the object the
last call got, ``{"out": K, "else": RECIPE}`` the K-th tensor of the last result where shape and dtype fit,
``{"omit": VALUE}`` an argument that is left out, whose default is VALUE. A tensor's ``"edit"`` changes little
of it: its first, middle or last element, the order of its elements, or the middle one by a breath. Its
``"mix"`` is a second recipe ``"with"`` which it is mixed ``"by"`` a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

EXACT = ("const", "negative", "edge", "peak", "alone", "near", "count")
PLACED = ("edge", "peak", "alone", "near", "count")


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype called ``name``; raises ValueError for anything else."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch has no dtype {name!r}")
    return found


def _floats(shape: list[int], fill: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    kind, scale, shift = fill["k"], float(fill.get("s", 1.0)), float(fill.get("m", 0.0))
    data = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        data = torch.rand(shape, generator=generator, dtype=torch.float64)
    elif kind == "const":
        data = torch.ones(shape, dtype=torch.float64)
    elif kind == "negative":
        data = -data.abs() - 1e-3
    elif kind == "ties":
        data = (data * 2).round() / 2
    elif kind == "grid":  # fine enough for the halves of coarser grids
        data = (data * 64).round() / 64
    elif kind == "sorted":
        data = data.flatten().sort().values.reshape(shape)
    elif kind == "tiny":  # subnormal: of float32 where ``s`` says nothing else
        data = data * 1e-39
    elif kind == "huge":
        data = data * 1e30
    elif kind in ("edge", "peak", "alone"):
        return _at_edge(data, kind, float(fill["s"]))
    elif kind == "near":
        return _near(data, float(fill["s"]))
    elif kind == "count":
        return _counted(data, int(fill["s"]))
    data = data * scale + shift
    if kind in ("nan", "inf", "spike") and data.numel():
        flat = data.view(-1)
        places = _places(data, fill, generator)
        signs = torch.where(torch.rand(places.shape, generator=generator) < 0.5, -1.0, 1.0).double()
        flat[places] = {"nan": float("nan"), "inf": float("inf"), "spike": 1e4}[kind] * signs
    return data


def _places(data: Tensor, fill: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Where special values go, in flat order: one place in eight, or as ``at`` says."""
    count = data.numel()
    at, last = fill.get("at"), count // max(1, data.shape[0]) if data.dim() else 1
    if at == "first":
        return torch.tensor([0])
    if at == "last":
        return torch.tensor([count - 1])
    if at == "row":  # the last index of the first dimension, whole
        return torch.arange(count - last, count)
    return torch.randint(0, count, (1 + count // 8,), generator=generator)


def _at_edge(data: Tensor, kind: str, edge: float) -> Tensor:
    """Every element is ``edge``, or one is and the others are small ("peak") or zero ("alone")."""
    if kind == "edge":
        return torch.full_like(data, edge)
    data = data.clamp(-4, 4) * (0.1 * abs(edge) if kind == "peak" else 0.0)
    data.view(-1)[data.numel() // 3 : data.numel() // 3 + 1] = edge
    return data


def _near(data: Tensor, edge: float) -> Tensor:
    """Elements on both sides of ``edge``, from a 64th of it away to a 2^24th, in turn."""
    number = torch.arange(data.numel(), dtype=torch.float64).view(data.shape)
    away = torch.exp2(-6 - number.div(2, rounding_mode="floor") % 19)
    return edge + (1 - 2 * (number % 2)) * away * (abs(edge) if edge else 1.0)


def _counted(data: Tensor, count: int) -> Tensor:
    """So many elements are large and positive, the others as large and negative."""
    found = -data.abs() - 1.5
    flat = found.view(-1)
    flat[:count] = -flat[:count]
    return found


def _bounded(data: Tensor, fill: Mapping[str, Any], low: float | None, high: float | None) -> Tensor:
    """Move floats into the declared bounds; data that already lies inside stays as it is."""
    if low is None and high is None:
        return data
    if low is not None and high is not None and fill["k"] not in EXACT:
        return low + (high - low) * torch.sigmoid(torch.nan_to_num(data, nan=0.0))
    return torch.nan_to_num(data, nan=0.0).clamp(low, high)


def _integers(
    shape: list[int], fill: Mapping[str, Any], generator: torch.Generator, low: int, high: int
) -> Tensor:
    kind = fill["k"]
    data = torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int64)
    if kind == "near":
        return (round(float(fill["s"])) + torch.arange(data.numel()).view(shape) % 3 - 1).clamp(low, high)
    if kind == "count":
        found = torch.full_like(data, low)
        found.view(-1)[: int(fill["s"])] = high
        return found
    if kind in ("edge", "peak", "alone"):
        edge = min(max(round(float(fill["s"])), low), high)
        base = torch.full_like(data, edge) if kind == "edge" else data.clamp(max=edge) * (kind == "peak")
        base.view(-1)[data.numel() // 3 : data.numel() // 3 + 1] = edge
        return base.clamp(low, high)
    if kind in ("zeros", "tiny", "negative") or (kind == "const" and float(fill.get("s", 1.0)) <= 0):
        return torch.full(shape, low if kind == "negative" or not low <= 0 <= high else 0, dtype=torch.int64)
    if kind in ("ones", "huge", "const"):
        return torch.full(shape, high, dtype=torch.int64)
    if kind in ("nan", "inf", "spike"):  # the ends of the declared range
        return torch.where(data > (low + high) // 2, high, low)
    if kind == "ties":
        return torch.where(data > (low + high) // 2, high, data)
    if kind == "sorted":
        return data.flatten().sort().values.reshape(shape)
    return data


def is_placed(recipe: Any) -> bool:
    """Whether some tensor of it has its values exactly at a number that a program compares with."""
    if isinstance(recipe, Mapping):
        return recipe.get("k") in PLACED or any(map(is_placed, recipe.values()))
    return isinstance(recipe, list) and any(map(is_placed, recipe))


def tensor(recipe: Mapping[str, Any]) -> Tensor:
    """A contiguous tensor on the CPU, as the recipe says."""
    made = _filled(recipe)
    if "mix" in recipe and (made.is_floating_point() or made.is_complex()):
        other, weight = _filled(recipe["mix"]["with"]), float(recipe["mix"]["by"])
        made = (
            made.to(torch.complex128 if made.is_complex() else torch.float64) * (1 - weight) + other * weight
        ).to(made.dtype)
    return edited(made, recipe["edit"], recipe.get("lo"), recipe.get("hi")) if "edit" in recipe else made


def edited(data: Tensor, edit: str, low: float | None, high: float | None) -> Tensor:
    """The same data but for one element or its order: a memo must not take it for the other."""
    flat = data.flatten().clone()
    if edit == "turned" or not flat.numel():
        return flat.flip(0).view(data.shape)
    place = {"first": 0, "last": flat.numel() - 1}.get(edit, flat.numel() // 2)
    value = flat[place].clone()
    if data.dtype == torch.bool:
        flat[place] = ~value
    elif data.is_floating_point() or data.is_complex():
        breath = value * (1 + max(4 * torch.finfo(data.dtype).eps, 2.0**-12))
        other = breath if edit == "breath" else value + 0.5
        if low is not None and high is not None:
            other = low + high - value if edit != "breath" else breath.clamp(low, high)
        elif not data.is_complex() and (low is not None or high is not None):
            other = other.clamp(low, high)
        flat[place] = other
    else:
        first, last = int(low if low is not None else 0), int(high if high is not None else 7)
        flat[place] = int(value) + 1 if int(value) < last else first
    return flat.view(data.shape)


def _filled(recipe: Mapping[str, Any]) -> Tensor:
    dtype, shape = dtype_of(recipe["t"]), list(recipe["shape"])
    fill: Mapping[str, Any] = recipe.get("fill") or {"k": "normal"}
    generator = torch.Generator().manual_seed(int(recipe.get("seed", 0)))
    low, high = recipe.get("lo"), recipe.get("hi")
    if dtype == torch.bool:
        p = {"zeros": 0.0, "negative": 0.0, "tiny": 0.05, "ones": 1.0, "huge": 1.0, "const": 1.0}.get(
            fill["k"], 0.5
        )
        return torch.rand(shape, generator=generator) < p
    if dtype.is_complex:
        real, imaginary = (_floats(shape, fill, generator) for _ in range(2))
        return torch.complex(real, imaginary).to(dtype)
    if dtype.is_floating_point:
        kind = fill["k"]
        if kind in ("zeros", "ones"):
            data = torch.full(shape, float(kind == "ones"), dtype=torch.float64)
            return _bounded(data, {"k": "const"}, low, high).to(dtype)
        return _bounded(_floats(shape, fill, generator), fill, low, high).to(dtype)
    return _integers(
        shape, fill, generator, int(low if low is not None else 0), int(high if high is not None else 7)
    ).to(dtype)


def laid_out(data: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout: only strides and offset change."""
    if layout == "offset":
        base = torch.zeros(data.numel() + 3, dtype=data.dtype, device=data.device)
        view = base[3:].view(data.shape)
        return view.copy_(data)
    if layout == "transposed" and data.dim() >= 2:
        return data.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "stepped" and data.dim() >= 1 and data.numel():
        wide = torch.zeros((*data.shape[:-1], data.shape[-1] * 2), dtype=data.dtype, device=data.device)
        return wide[..., ::2].copy_(data)
    if layout == "expanded" and data.dim() >= 1 and data.shape[0]:
        return data[:1].contiguous().expand(data.shape)
    return data


class Builder:
    """Makes the arguments of one call; knows the last call's arguments and result of the same sequence.

    ``convert`` is applied to new data only, before anything shares its memory: arguments that are one tensor
    stay one tensor.
    """

    def __init__(
        self,
        device: str,
        gradients: tuple[str, ...] = (),
        convert: Callable[[Tensor], Tensor] = lambda data: data,
    ) -> None:
        self.device = device
        self.gradients = gradients
        self.convert = convert
        self.last_arguments: dict[str, Any] = {}
        self.last_tensors: list[Tensor] = []

    def arguments(self, recipes: Mapping[str, Any]) -> dict[str, Any]:
        """Values for all arguments, in the order of the recipes."""
        made: dict[str, Any] = {}
        later = {}
        recipes = {name: recipe for name, recipe in recipes.items() if "omit" not in recipe}
        for name, recipe in recipes.items():
            if "same" in recipe or "view" in recipe:
                later[name] = recipe
            else:
                made[name] = self.value(name, recipe)
        for name, recipe in later.items():
            other = made[recipe.get("same", recipe.get("view"))]
            made[name] = (
                other if "same" in recipe or not isinstance(other, Tensor) else other.view(other.shape)
            )
        self.last_arguments = {name: made[name] for name in recipes}
        return self.last_arguments

    def value(self, name: str, recipe: Mapping[str, Any]) -> Any:
        """One value; ``name`` is its path, as in ``batch.ids``."""
        if "v" in recipe:
            return recipe["v"]
        if "dict" in recipe:
            return {key: self.value(f"{name}.{key}", inner) for key, inner in recipe["dict"].items()}
        if "list" in recipe:
            return [self.value(f"{name}.{i}", inner) for i, inner in enumerate(recipe["list"])]
        if "again" in recipe:
            found = self.last_arguments.get(recipe["again"])
            return found if found is not None else self.value(name, recipe["else"])
        if "out" in recipe:
            return self._output(name, recipe)
        data = laid_out(self.convert(tensor(recipe)).to(self.device), recipe.get("layout", "plain"))
        if name in self.gradients and data.is_floating_point():
            data = data.detach().requires_grad_()
        return data

    def _output(self, name: str, recipe: Mapping[str, Any]) -> Any:
        wanted = recipe["else"]
        dtype = self.convert(torch.empty(0, dtype=dtype_of(wanted.get("t", "float32")))).dtype
        shape = list(wanted.get("shape", []))
        kind = self.device.partition(":")[0]  # a result on the host is no input for a program on the device
        alike = (t for t in self.last_tensors if t.device.type == kind)
        fitting = [t for t in alike if list(t.shape) == shape and t.dtype == dtype]
        if not fitting:
            return self.value(name, wanted)
        return fitting[recipe["out"] % len(fitting)]
