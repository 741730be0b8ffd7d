"""The language of inputs: ``"int64[B, 16] in 1..S"``, ``"float in 0.5..2.0"``, nested tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FLOATS = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
COMPLEX = ("complex64", "complex128", "complex32")
INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "long", "int", "short")
SMALL = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
DTYPES = (*FLOATS, *COMPLEX, *INTEGERS, *SMALL, "bool")

Dim = int | str
Bound = float | int | str | None


class SpecError(ValueError):
    """A specification that does not parse; the message names the key."""


class Blank(SpecError):
    """A specification with a ``?`` that someone has to fill in."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor: dtype, dims as numbers or names, inclusive bounds that may name a dim."""

    dtype: str
    dims: tuple[Dim, ...]
    low: Bound = None
    high: Bound = None

    @property
    def floating(self) -> bool:
        """Whether its values are real numbers."""
        return self.dtype in FLOATS or self.dtype in SMALL


@dataclass(frozen=True)
class ScalarSpec:
    """A plain ``int``, ``float``, ``bool``, ``str`` of given choices, or ``none``."""

    kind: str
    low: Bound = None
    high: Bound = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class DictSpec:
    """A table of named specifications."""

    items: tuple[tuple[str, Spec], ...]


@dataclass(frozen=True)
class ListSpec:
    """An array of specifications."""

    items: tuple[Spec, ...]


Spec = TensorSpec | ScalarSpec | DictSpec | ListSpec

_TENSOR = re.compile(r"^(?P<dtype>[a-z]\w*)\s*\[(?P<dims>[^\]]*)\]\s*(?:in\s+(?P<range>.+))?$")
_SCALAR = re.compile(r"^(?P<kind>int|float|bool|str|none)\s*(?:in\s+(?P<range>.+))?$")
_NAME = re.compile(r"^[A-Za-z_]\w*$")


def parse(value: object, key: str) -> Spec:
    """Parse one specification; raises SpecError (Blank for a ``?``) naming ``key``."""
    if isinstance(value, Mapping):
        return DictSpec(tuple((str(k), parse(v, f"{key}.{k}")) for k, v in value.items()))
    if isinstance(value, list):
        return ListSpec(tuple(parse(v, f"{key}[{i}]") for i, v in enumerate(value)))
    if not isinstance(value, str):
        raise SpecError(f'{key}: {value!r} is not a specification; write for example "float32[B, 64]"')
    if "?" in value:
        raise Blank(f"{key} = {value!r} is to be filled in")
    text = value.strip()
    found = _TENSOR.match(text)
    if found:
        return _tensor(found["dtype"], found["dims"], found["range"], key)
    found = _SCALAR.match(text)
    if found:
        return _scalar(found["kind"], found["range"], key)
    raise SpecError(
        f'{key}: cannot read {value!r}; write "DTYPE[dims]", "int", "float in 0.5..2.0", "bool", '
        '"str in a|b" or "none"'
    )


def _tensor(dtype: str, dims: str, bounds: str | None, key: str) -> TensorSpec:
    if dtype not in DTYPES:
        raise SpecError(f"{key}: torch has no dtype {dtype!r}")
    parsed: list[Dim] = []
    for part in (p.strip() for p in dims.split(",")):
        if not part:
            if dims.strip():
                raise SpecError(f"{key}: an empty dimension in [{dims}]")
            continue
        if part.isdigit():
            parsed.append(int(part))
        elif _NAME.match(part):
            parsed.append(part)
        else:
            raise SpecError(f"{key}: {part!r} is neither a number nor a name of a dimension")
    low, high = _bounds(bounds, key) if bounds else (None, None)
    return TensorSpec(dtype, tuple(parsed), low, high)


def _scalar(kind: str, bounds: str | None, key: str) -> ScalarSpec:
    if kind == "str":
        if not bounds:
            raise SpecError(f'{key}: "str" needs its choices, as in "str in sum|mean"')
        return ScalarSpec(kind, choices=tuple(c.strip() for c in bounds.split("|")))
    if bounds is None:
        return ScalarSpec(kind)
    if kind in ("bool", "none"):
        raise SpecError(f"{key}: {kind!r} takes no range")
    return ScalarSpec(kind, *_bounds(bounds, key))


def _bounds(text: str, key: str) -> tuple[Bound, Bound]:
    low, dots, high = text.partition("..")
    if not dots:
        raise SpecError(f"{key}: a range is LOW..HIGH, not {text!r}")
    return _bound(low.strip(), key), _bound(high.strip(), key)


def _bound(text: str, key: str) -> Bound:
    if _NAME.match(text):
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{key}: {text!r} is neither a number nor a name of a dimension") from None


def names(spec: Spec) -> Iterator[str]:
    """Every dimension name a specification uses, in dims and in bounds."""
    if isinstance(spec, DictSpec):
        for _, inner in spec.items:
            yield from names(inner)
    elif isinstance(spec, ListSpec):
        for inner in spec.items:
            yield from names(inner)
    else:
        if isinstance(spec, TensorSpec):
            yield from (d for d in spec.dims if isinstance(d, str))
        yield from (b for b in (spec.low, spec.high) if isinstance(b, str))
