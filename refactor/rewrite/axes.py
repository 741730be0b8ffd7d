"""What operations do to the dimensions of a tensor: which of them are the batch and the sequence.

An `Arr` names its dimensions: ``B`` and ``S`` are padded, ``_`` is not, ``BS`` is both flattened. For each
``S`` it may be known what the padded places hold: ``zero``, ``one`` or ``-inf``; otherwise anything. An
operation that would let padded places into real ones raises `Mixed`. Ranks are counted from the right, as
broadcasting does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class Mixed(Exception):
    """Rows meet, or it is not known that they do not."""


class Rank(Mixed):
    """A tensor has another number of dimensions than the code takes."""


@dataclass(frozen=True)
class Arr:
    """A tensor; ``open`` names its unknown number of further dimensions, none of which is padded."""

    axes: tuple[str, ...]
    open: str = ""
    holds: tuple[tuple[int, str], ...] = ()  # (axis from the right, what padded places hold)

    @property
    def labels(self) -> frozenset[str]:
        """The padded dimensions it has."""
        return frozenset(self.axes) - {"_"}

    def at(self, axis: int) -> str:
        """What the padded places of an axis (negative) hold."""
        return dict(self.holds).get(axis, "any")


@dataclass(frozen=True)
class Size:
    """A number that follows the batch or the sequence."""

    label: str


@dataclass(frozen=True)
class Weight:
    """A tensor that does not depend on the batch: a parameter, a buffer, a constant."""


@dataclass(frozen=True)
class Const:
    """A host value that does not depend on the batch; ``value`` where it is a literal."""

    value: object = ...


NEGATIVE = float("-inf")
PROVEN = "!"
"""In the name of an unknown number of dimensions: there is at least one."""
_PICKING = frozenset({"max", "min", "amax", "amin", "argmax", "argmin", "any", "all", "prod"})
_SWAP = {"zero": "one", "one": "zero"}


def axis_of(x: Arr, dim: object) -> int:
    """A dimension as an index from the right; raises `Mixed` where it cannot be told."""
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise Mixed
    if x.open:
        raise Mixed
    rank = len(x.axes)
    if not -rank <= dim < rank:
        raise Rank
    return dim if dim < 0 else dim - rank


def pointwise(values: Iterable[object], holds: bool = False) -> Arr | Weight | Const:
    """Operands that broadcast; ``holds``: what the padded places of the first hold stays."""
    every = list(values)
    if any(isinstance(v, Size) and v.label != "_" for v in every):
        raise Mixed  # a result that contains the size of the batch
    arrays = [v for v in every if isinstance(v, Arr)]
    if not all(isinstance(v, Arr | Weight | Const | Size) for v in every):
        raise Mixed
    if not arrays:
        return Weight() if any(isinstance(v, Weight) for v in every) else Const()
    result = arrays[0] if holds else Arr(arrays[0].axes, arrays[0].open)
    for other in arrays[1:]:
        result = _broadcast(result, other)
    places = {i for x in arrays for i, kind in x.holds if kind == "index"}
    return (
        result if holds or result.open else Arr(result.axes, "", tuple((i, "index") for i in sorted(places)))
    )


def _broadcast(a: Arr, b: Arr) -> Arr:
    if a.open or b.open:
        if a.open.rstrip(PROVEN) != b.open.rstrip(PROVEN) or a.axes != b.axes:
            raise Mixed
        return Arr(a.axes, max(a.open, b.open, key=len))
    rank = max(len(a.axes), len(b.axes))
    left = ("_",) * (rank - len(a.axes)) + a.axes
    right = ("_",) * (rank - len(b.axes)) + b.axes
    axes = []
    for one, two in zip(left, right, strict=True):
        if one != two and "_" not in (one, two):
            raise Rank  # sizes that differ do not broadcast
        axes.append(two if one == "_" else one)
    if axes.count("B") > max(a.axes.count("B"), b.axes.count("B")):
        raise Rank  # rows against rows: of no use with a batch of any size
    return Arr(tuple(axes))


def multiply(a: object, b: object) -> Arr | Weight | Const:
    """A product: padded places that are zero in one factor stay zero."""
    result = pointwise((a, b))
    if isinstance(result, Arr) and not result.open:
        zeros = {i for v in (a, b) if isinstance(v, Arr) for i, kind in v.holds if kind == "zero"}
        return Arr(result.axes, "", tuple(sorted((i, "zero") for i in zeros)))
    return result


def negate(x: object) -> object:
    """A mask turned around."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    return Arr(x.axes, x.open, tuple((i, _SWAP[k]) for i, k in x.holds if k in _SWAP))


def fill(x: object, mask: object, value: object) -> object:
    """``masked_fill``: where the mask is one the value stands."""
    result = pointwise((x, mask))
    if isinstance(result, Arr) and isinstance(mask, Arr) and isinstance(value, Const) and not result.open:
        name = "-inf" if value.value == NEGATIVE else "zero" if value.value in (0, False) else ""
        held = tuple((i, name) for i, kind in mask.holds if kind == "one" and name)
        return Arr(result.axes, "", held)
    if not isinstance(value, Const):
        raise Mixed
    return result


def choose(mask: object, a: object, b: object) -> object:
    """Three-argument ``where``."""
    if isinstance(b, Const) and isinstance(a, Arr):
        return fill(a, negate(mask), b)
    if isinstance(a, Const) and isinstance(b, Arr):
        return fill(b, mask, a)
    return pointwise((mask, a, b))


def reduce(x: object, name: str, dims: Sequence[object] | None, keep: bool) -> object:
    """A reduction over dimensions, or over all of them."""
    if not isinstance(x, Arr):
        return Weight()
    if dims is None:
        raise Mixed
    if x.open:
        if all(isinstance(d, int) and d >= len(x.axes) for d in dims):
            return Arr(x.axes, f"{x.open}-{len(dims)}" if not keep else x.open)
        if all(d == -1 for d in dims) and (PROVEN in x.open or name not in _PICKING):
            # the last of an unknown number: the batch only if there is no other, which a run would show
            return Arr(x.axes, x.open if keep else f"{x.open}-1")
        raise Mixed
    chosen = {axis_of(x, d) for d in dims}
    for axis in chosen:
        label = x.axes[axis]
        zeros = name in ("sum", "count_nonzero", "any") and x.at(axis) == "zero"
        lowest = name in ("amax", "max", "argmax", "logsumexp") and x.at(axis) == "-inf"
        if label != "_" and not (label == "S" and (zeros or lowest)):
            raise Mixed
    if keep:
        axes = tuple("_" if i - len(x.axes) in chosen else a for i, a in enumerate(x.axes))
        return Arr(axes, "", tuple((i, k) for i, k in x.holds if i not in chosen and name == "sum"))
    return Arr(tuple(a for i, a in enumerate(x.axes) if i - len(x.axes) not in chosen))


def normalise(x: object, dim: object, name: str) -> object:
    """``softmax`` and the like: the shape stays, one dimension meets."""
    if not isinstance(x, Arr):
        return Weight()
    if x.open and isinstance(dim, int) and (dim == -1 or dim >= len(x.axes)):
        return Arr(x.axes, x.open)
    axis = axis_of(x, dim)
    label = x.axes[axis]
    if label == "S" and name == "softmax" and x.at(axis) == "-inf":
        return Arr(x.axes, "", ((axis, "zero"),))
    if label != "_":
        raise Mixed
    return Arr(x.axes, x.open)


def last_dim(x: object) -> object:
    """``Linear``, ``LayerNorm``: the last dimension meets and stays one."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    if x.open:
        return Arr(x.axes, x.open if PROVEN in x.open else x.open + PROVEN)
    if not x.axes or x.axes[-1] != "_":
        raise Mixed
    return Arr(x.axes)


def row_wise(x: object, rank: int) -> object:
    """Convolution, pooling, recurrence: everything but the first dimension meets. ``rank`` 0: any."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    if not x.open and rank and len(x.axes) != rank:
        raise Rank
    if x.axes[:1] != ("B",) or x.axes.count("B") > 1 or x.labels - {"B"}:
        raise Mixed
    return Arr(x.axes, x.open)


def matmul(a: object, b: object) -> object:
    """A matrix product."""
    if isinstance(b, Weight) and isinstance(a, Arr):
        return last_dim(a)
    if not isinstance(a, Arr) or not isinstance(b, Arr) or a.open or b.open:
        raise Mixed
    if len(a.axes) < 2 or len(b.axes) < 2:
        raise Mixed
    if "B" in a.axes[-2:] and "B" in b.axes[-2:] and a.axes[-1] != "B" and b.axes[-2] != "B":
        raise Mixed  # rows against rows: right, but the runtime would have to cut both
    met = {a.axes[-1], b.axes[-2]}
    if met - {"_"} and not (met == {"S"} and "zero" in (a.at(-1), b.at(-2))):
        raise Mixed
    batch = _broadcast(Arr(a.axes[:-2]), Arr(b.axes[:-2]))
    return Arr((*batch.axes, a.axes[-2], b.axes[-1]))


def attention(q: object, k: object, v: object, mask: object, causal: bool) -> object:
    """``scaled_dot_product_attention``."""
    if not all(isinstance(x, Arr) and not x.open and len(x.axes) >= 3 for x in (q, k, v)):
        raise Mixed
    assert isinstance(q, Arr)
    assert isinstance(k, Arr)
    assert isinstance(v, Arr)
    if k.axes != v.axes or "B" in (*q.axes[-2:], *k.axes[-2:]) or q.axes[-1] != "_" or k.axes[-1] != "_":
        raise Mixed
    batch = _broadcast(Arr(q.axes[:-2]), Arr(k.axes[:-2]))
    if isinstance(mask, Arr):
        if mask.open:
            raise Mixed
        if len(mask.axes) > len(batch.axes) + 2:
            raise Rank
        _broadcast(Arr((*batch.axes, q.axes[-2], k.axes[-2])), mask)
    if k.axes[-2] == "S":
        hidden = isinstance(mask, Arr) and mask.at(-1) in ("zero", "-inf")
        if not hidden and not (causal and mask is None):
            raise Mixed
    return Arr((*batch.axes, q.axes[-2], "_"))


def permute(x: object, order: Sequence[object]) -> object:
    """Dimensions in another order."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    chosen = [axis_of(x, d) for d in order]
    if sorted(chosen) != list(range(-len(x.axes), 0)):
        raise Mixed
    held = dict(x.holds)
    rank = len(chosen)
    holds = tuple((i - rank, held[axis]) for i, axis in enumerate(chosen) if axis in held)
    return Arr(tuple(x.axes[axis] for axis in chosen), "", holds)


def transpose(x: object, one: object, two: object) -> object:
    """Two dimensions exchanged."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    if x.open:
        inner = all(isinstance(d, int) and d >= len(x.axes) for d in (one, two))
        if not inner:
            raise Mixed
        return x
    a, b = axis_of(x, one), axis_of(x, two)
    order: list[object] = list(range(-len(x.axes), 0))
    order[a], order[b] = order[b], order[a]
    return permute(x, order)


def reshape(x: object, sizes: Sequence[object]) -> object:
    """``view`` and ``reshape``: the batch and the sequence stay what they are, or are flattened together."""
    if not isinstance(x, Arr):
        return Weight()
    labels = [s.label if isinstance(s, Size) else "_" for s in sizes]
    unknown = [i for i, s in enumerate(sizes) if isinstance(s, Const) and s.value == -1]
    if x.open or ("S" not in x.axes and "BS" not in x.axes):
        if x.axes[:1] != ("B",) or "B" in x.axes[1:] or labels[:1] != ["B"] or len(set(labels[1:]) - {"_"}):
            raise Mixed
        return Arr(tuple(labels))
    old = [a for a in x.axes if a != "_"]
    new = [a for a in labels if a != "_"]
    if old == ["B", "S"] and x.axes[:2] == ("B", "S"):
        if new == ["B", "S"] and labels[:2] == ["B", "S"]:
            return Arr(tuple(labels))
        if (not new and unknown == [0]) or labels[0] == "BS":
            return Arr(("BS", *("_" for _ in labels[1:])))
    if old == ["BS"] and x.axes[0] == "BS" and labels[:2] == ["B", "S"] and new == ["B", "S"]:
        return Arr(tuple(labels))
    raise Mixed


def unsqueeze(x: object, dim: object) -> object:
    """A new dimension of size one."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    if not isinstance(dim, int):
        raise Mixed
    if x.open:
        if 0 <= dim < len(x.axes):
            raise Mixed
        return Arr(x.axes, f"{x.open}+1")
    place = dim if dim >= 0 else dim + len(x.axes) + 1
    behind = len(x.axes) - place  # dimensions to the right of the new one
    holds = tuple((i if -i <= behind else i - 1, kind) for i, kind in x.holds)
    return Arr((*x.axes[:place], "_", *x.axes[place:]), "", holds)


def squeeze(x: object, dim: object) -> object:
    """A dimension of size one gone; which of them has size one is not known here."""
    if not isinstance(x, Arr):
        return pointwise((x,))
    if x.open:
        if dim == -1 and PROVEN in x.open:
            return Arr(x.axes, f"{x.open.rstrip(PROVEN)}-1")
        if isinstance(dim, int) and dim >= len(x.axes):
            return Arr(x.axes, f"{x.open.rstrip(PROVEN)}-1")
        raise Mixed
    axis = axis_of(x, dim)
    if x.axes[axis] != "_":
        raise Mixed
    return drop(x, axis)


def flatten(x: object, start: object, stop: object) -> object:
    """Several dimensions become one."""
    if not isinstance(x, Arr):
        return Weight()
    if stop == -1 and isinstance(start, int) and start > 0 and x.axes[:1] == ("B",):
        if x.open and start >= len(x.axes):
            return Arr((*x.axes, *("_",) * (start - len(x.axes)), "_"))
        if not x.open and start < len(x.axes) and not set(x.axes[start:]) - {"_"}:
            return Arr((*x.axes[:start], "_"))
    if (start, stop) == (0, 1) and not x.open and x.axes[:2] == ("B", "S"):
        return Arr(("BS", *x.axes[2:]))
    raise Mixed


def expand(x: object, sizes: Sequence[object]) -> object:
    """Dimensions of size one repeated."""
    labels = tuple(s.label if isinstance(s, Size) else "_" for s in sizes)
    if isinstance(x, Weight):
        return Arr(labels) if set(labels) - {"_"} else Weight()
    if not isinstance(x, Arr) or x.open or len(labels) < len(x.axes):
        raise Mixed
    old = ("_",) * (len(labels) - len(x.axes)) + x.axes
    if any(a not in ("_", b) and b != "_" for a, b in zip(old, labels, strict=True)):
        raise Mixed
    return Arr(tuple(b if a == "_" else a for a, b in zip(old, labels, strict=True)), "", x.holds)


def along(x: object, dim: object, gone: bool) -> object:
    """A part of a tensor along a dimension that is not padded."""
    if not isinstance(x, Arr):
        return Weight()
    if x.open:
        if not gone and ((isinstance(dim, int) and dim >= len(x.axes)) or (dim == -1 and PROVEN in x.open)):
            return Arr(x.axes, x.open)
        raise Mixed
    axis = axis_of(x, dim)
    if x.axes[axis] != "_":
        raise Mixed
    return drop(x, axis) if gone else Arr(x.axes)


def gather(x: object, args: Sequence[object]) -> object:
    """Elements picked along a dimension that is not padded, by an index of the same rows."""
    index = next((a for a in args[1:] if isinstance(a, Arr)), None)
    dim = next((a.value for a in args[1:] if isinstance(a, Const)), None)
    if not isinstance(x, Arr) or index is None or index.open or x.open or len(index.axes) != len(x.axes):
        raise Mixed
    axis = axis_of(x, dim)
    if x.axes[axis] != "_" or index.axes != x.axes:
        raise Mixed
    return Arr(index.axes)


def drop(x: Arr, axis: int) -> Arr:
    """One dimension (from the right) gone."""
    index = axis + len(x.axes)
    holds = tuple((i + 1 if i < axis else i, kind) for i, kind in x.holds if i != axis)
    return Arr((*x.axes[:index], *x.axes[index + 1 :]), "", holds)


def concatenate(values: Sequence[object], dim: object) -> object:
    """``cat`` along a dimension that is not padded."""
    arrays = [v for v in values if isinstance(v, Arr)]
    if not arrays:
        return Weight()
    first = arrays[0]
    if any(not isinstance(v, Arr) for v in values):
        raise Mixed
    if any(v.axes != first.axes or v.open.rstrip(PROVEN) != first.open.rstrip(PROVEN) for v in arrays):
        raise Mixed
    if first.open:
        if not (isinstance(dim, int) and (dim >= len(first.axes))):
            raise Mixed
        return Arr(first.axes, first.open)
    if first.axes[axis_of(first, dim)] != "_":
        raise Mixed
    return Arr(first.axes)


def einsum(equation: str, operands: Sequence[object]) -> object:
    """Dimensions by letter; one that is summed must not be padded."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(operands):
        raise Mixed
    found: dict[str, set[str]] = {}
    zero: set[str] = set()
    for term, value in zip(terms, operands, strict=True):
        if isinstance(value, Weight):
            continue
        if not isinstance(value, Arr) or value.open or len(term) != len(value.axes):
            raise Mixed
        for i, letter in enumerate(term):
            found.setdefault(letter, set()).add(value.axes[i])
            zero |= {letter} if value.at(i - len(term)) == "zero" else set()
    labels: Mapping[str, str] = {k: next(iter(v - {"_"}), "_") for k, v in found.items()}
    if any(len(v - {"_"}) > 1 for v in found.values()):
        raise Mixed
    for letter, label in labels.items():
        if letter not in right and label != "_" and not (label == "S" and letter in zero):
            raise Mixed
    return Arr(tuple(labels.get(letter, "_") for letter in right))
