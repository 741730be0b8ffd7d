"""What the layers of ``torch.nn`` take: dtype, rank and sizes of their first argument.

Source: the shape sections of the classes in PyTorch's documentation of ``torch.nn``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Size = int | str
_SPATIAL = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(frozen=True)
class Shape:
    """What is known about a tensor: sizes by index (negative: from the end), rank, dtype, largest value."""

    sizes: Mapping[int, Size] = field(default_factory=dict)
    rank: int | None = None
    usual: int = 2
    """Rank to draft where the code takes any."""
    dtype: str | None = None
    high: int | None = None

    def merged(self, other: Shape) -> Shape:
        """Both taken together; what is already known wins."""
        return Shape(
            {**other.sizes, **self.sizes},
            self.rank if self.rank is not None else other.rank,
            max(self.usual, other.usual),
            self.dtype or other.dtype,
            self.high if self.high is not None else other.high,
        )

    def dims(self) -> tuple[Size, ...]:
        """Sizes and names for every dimension; the first one without a size is the batch ``B``."""
        rank = self.rank or max([self.usual, *(i + 1 if i >= 0 else -i for i in self.sizes)])
        row: list[Size | None] = [None] * rank
        for index, size in sorted(self.sizes.items(), key=lambda item: _certainty(item[1])):
            if -rank <= index < rank:
                row[index] = size
        spare = iter(("B", "S", "T", "U", "V", "W"))
        taken = {size for size in row if isinstance(size, str)}
        return tuple(
            next(name for name in spare if name not in taken) if size is None else size for size in row
        )


def _certainty(size: Size) -> int:
    """A number beats ``?`` (one size, not known which), and that beats a name."""
    return 2 if isinstance(size, int) else int(size == "?")


@dataclass(frozen=True)
class Layer:
    """A submodule: class name, and the arguments of its constructor as values."""

    name: str
    args: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[Layer] = ()
    """Of a container, or the layer an encoder repeats."""

    def argument(self, index: int, name: str) -> Any:
        """An argument by position or name; None if it is left to its default."""
        return self.args[index] if index < len(self.args) else self.keywords.get(name)


TRANSPARENT = frozenset(
    [
        "Identity",
        "ReLU",
        "ReLU6",
        "GELU",
        "SiLU",
        "Mish",
        "Sigmoid",
        "Tanh",
        "LeakyReLU",
        "ELU",
        "SELU",
        "CELU",
        "Softplus",
        "Softsign",
        "Hardtanh",
        "Hardswish",
        "Hardsigmoid",
        "LogSigmoid",
        "PReLU",
        "Softmax",
        "LogSoftmax",
        "Dropout",
        "Dropout1d",
        "Dropout2d",
        "Dropout3d",
        "AlphaDropout",
    ]
)
"""Layers that keep the shape and take any."""
KEEPS_SHAPE = TRANSPARENT | frozenset(
    [
        "LayerNorm",
        "RMSNorm",
        "GroupNorm",
        "BatchNorm1d",
        "BatchNorm2d",
        "BatchNorm3d",
        "InstanceNorm1d",
        "InstanceNorm2d",
        "InstanceNorm3d",
        "TransformerEncoder",
        "TransformerEncoderLayer",
    ]
)


def expected(layer: Layer) -> Shape | None:
    """What a layer takes; None where it is not known."""
    name = layer.name
    if name in ("Sequential", "ModuleList", "TransformerEncoder", "TransformerDecoder"):
        parts = [part for part in layer.parts if part.name not in TRANSPARENT]
        return expected(parts[0]) if parts else None
    first = layer.argument(0, _FIRST.get(name, ""))
    if name == "Linear":
        return Shape({-1: _size(first)}, usual=2)
    if name in ("Embedding", "EmbeddingBag"):
        return Shape(usual=2, dtype="int64", high=first - 1 if isinstance(first, int) else None)
    if name in ("LayerNorm", "RMSNorm"):
        shape = first if isinstance(first, tuple) else (first,)
        sizes = {index - len(shape): _size(size) for index, size in enumerate(shape)}
        return Shape(sizes, usual=len(shape) + 1)
    if name == "GroupNorm":
        return Shape({1: _size(layer.argument(1, "num_channels"))}, usual=4)
    if name in (
        "LSTM",
        "GRU",
        "RNN",
        "TransformerEncoderLayer",
        "TransformerDecoderLayer",
        "MultiheadAttention",
    ):
        return _sequence(layer, first)
    if name in ("LSTMCell", "GRUCell", "RNNCell"):
        return Shape({1: _size(first)}, rank=2)
    return _spatial(name, first)


_FIRST = {
    "Linear": "in_features",
    "Embedding": "num_embeddings",
    "EmbeddingBag": "num_embeddings",
    "LayerNorm": "normalized_shape",
    "RMSNorm": "normalized_shape",
    "LSTM": "input_size",
    "GRU": "input_size",
    "RNN": "input_size",
    "LSTMCell": "input_size",
    "GRUCell": "input_size",
    "RNNCell": "input_size",
    "TransformerEncoderLayer": "d_model",
    "TransformerDecoderLayer": "d_model",
    "MultiheadAttention": "embed_dim",
    **{f"{kind}{n}d": "in_channels" for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)},
    **{f"{kind}{n}d": "num_features" for kind in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)},
}


def _spatial(name: str, first: Any) -> Shape | None:
    kind, digit = name[:-2], name[-2:-1]
    if name[-1:] != "d" or digit not in "123" or not digit:
        return None
    rank = int(digit)
    if name == "BatchNorm1d":
        return Shape({1: _size(first)}, usual=2)
    if kind in ("Conv", "ConvTranspose", "BatchNorm", "InstanceNorm"):
        sizes: dict[int, Size] = {index + 2: label for index, label in enumerate(_SPATIAL[rank])}
        return Shape({1: _size(first), **sizes}, rank=rank + 2)
    if kind.endswith("Pool"):
        return Shape({index + 2: label for index, label in enumerate(_SPATIAL[rank])}, rank=rank + 2)
    return None


def _sequence(layer: Layer, first: Any) -> Shape:
    batch_first = layer.keywords.get("batch_first")
    batch, steps = (0, 1) if batch_first is True else (1, 0)
    return Shape({batch: "B", steps: "S", 2: _size(first)}, rank=3)


def _size(value: Any) -> Size:
    return value if isinstance(value, int) and not isinstance(value, bool) else "?"


def generic() -> Shape:
    """A tensor of which the code takes any shape."""
    return Shape({-1: 16}, usual=2)


def known(shape: Shape) -> bool:
    """Whether anything at all was learnt."""
    return bool(shape.sizes or shape.rank or shape.dtype)
