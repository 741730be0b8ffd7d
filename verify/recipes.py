"""Strategies for sequences of steps. Only recipes are drawn here, never data, so shrinking is quick.

Every strategy draws a list of steps that do not refer to one another: hypothesis can drop any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .spec import INTEGERS, Bound, DictSpec, ListSpec, ScalarSpec, Spec, TensorSpec
from .targets import Target, every_tensor, tensor_names

Json = dict[str, Any]
Dims = Mapping[str, int]

PLAIN_FILLS: tuple[Json, ...] = (
    {"k": "normal"}, {"k": "normal", "s": 3.0}, {"k": "uniform"}, {"k": "normal", "s": 0.1},
)  # fmt: skip
SHIFTED_FILLS: tuple[Json, ...] = (
    {"k": "normal", "m": 2.0}, {"k": "normal", "m": -2.0}, {"k": "normal", "s": 10.0},
    {"k": "normal", "m": 30.0}, {"k": "normal", "m": -30.0}, {"k": "normal", "s": 0.01},
    {"k": "normal", "s": 1e-4}, {"k": "normal", "s": 1e-6},
    {"k": "normal", "m": 100.0, "s": 0.1},
    {"k": "const", "s": 1.5}, {"k": "const", "s": -1.5},
    {"k": "negative"}, {"k": "ties"}, {"k": "grid"}, {"k": "sorted"}, {"k": "zeros"}, {"k": "ones"},
    {"k": "spike"},
)  # fmt: skip
PLACED_FILLS: tuple[Json, ...] = (
    {"k": "nan", "at": "first"}, {"k": "inf", "at": "last"}, {"k": "nan", "at": "row"},
)  # fmt: skip
EXTREME_FILLS: tuple[Json, ...] = ({"k": "nan"}, {"k": "inf"}, {"k": "huge"}, {"k": "tiny"})
# Whole tensors of them as well: the row that a smaller call leaves behind must not be one that was spared.
POISON_FILLS: tuple[Json, ...] = (
    {"k": "nan"}, {"k": "inf"}, {"k": "huge"},
    {"k": "const", "s": "nan"}, {"k": "const", "s": "inf"}, {"k": "const", "s": 1e30},
)  # fmt: skip
SEEDS = st.integers(0, 999)
BESIDE = 2.0**-14  # of a threshold: nearer than half precision tells apart
MOST_COUNTED = 64


@dataclass(frozen=True)
class Hints:
    """What earlier runs have shown: fills, or else whole calls, that take a branch to its other side."""

    fills: tuple[Json, ...] = ()
    calls: tuple[Json, ...] = ()
    thresholds: tuple[float | int, ...] = ()  # numbers that either program compares with
    settings: tuple[Json, ...] = ()  # attributes it reads: {"at": "block", "name": "gain", "values": […]}
    state: tuple[str, ...] = ()  # what its state_dict names
    sizes: tuple[int, ...] = ()  # whole numbers in either program that may be sizes, as of buckets
    near: tuple[list[Json], ...] = ()  # for each branch calls that come ever nearer to where it turns
    sides: tuple[tuple[Json, Json], ...] = ()  # for each branch two calls of one size, one to each side
    turned: tuple[list[Json], ...] = ()  # sequences after which a branch goes to its other side
    operations: int = 0  # of one call; 0 if it is not known
    ranges: tuple[tuple[int, int], ...] = ()  # of integers without bounds that the original takes
    parameters: tuple[tuple[Any, ...], ...] = ()  # of the call, in order: a name, with its default if plain
    wholes: tuple[int, ...] = ()  # values of plain integers without bounds beyond 0..8 that it takes

    @property
    def edges(self) -> tuple[Json, ...]:
        """Fills whose greatest or only value, sum or mean lies exactly at a threshold."""
        found: list[Json] = []
        for number in self.thresholds:
            signs = (number, -number) if number else (0.0,)
            found += [{"k": "edge", "s": s} for s in signs]
            found += [{"k": kind, "s": number} for kind in ("peak", "alone") if number]
        return tuple(found)

    @property
    def neighbours(self) -> tuple[Json, ...]:
        """Fills just beside each threshold: one that was rounded, or moved by little, lies between them."""
        found: list[Json] = []
        for number in self.thresholds:
            found.append({"k": "near", "s": number})
            found += [{"k": "edge", "s": number * (1 + sign * BESIDE)} for sign in (1, -1) if number]
            if number == int(number) and 1 <= number <= MOST_COUNTED:  # a count of what is large
                found += [{"k": "count", "s": int(number) + more} for more in (0, 1)]
        return tuple(found)


@dataclass(frozen=True)
class Scenario:
    """One named way to drive a target; ``steps`` draws a whole sequence."""

    name: str
    steps: SearchStrategy[list[Json]]
    weight: float = 1.0
    note_only: bool = field(default=False)
    always: tuple[list[Json], ...] = ()  # sequences that are run before any is drawn


def boundaries(low: int, high: int) -> list[int]:
    """Sizes around which programs change their mind: the ends, and powers of two with their neighbours."""
    found = {low, high, min(low + 1, high), max(high - 1, low)}
    power = 1
    while power <= high * 2:
        found |= {n for n in (power - 1, power, power + 1, power * 3 // 2) if low <= n <= high}
        power *= 2
    return sorted(found)


def dims_of(target: Target) -> SearchStrategy[dict[str, int]]:
    """Values for every named dimension, mostly at boundaries."""
    return st.fixed_dictionaries(
        {
            name: st.one_of(st.sampled_from(boundaries(low, high)), st.integers(low, high))
            for name, (low, high) in target.dims
        }
    )


class Calls:
    """Recipes of calls of one target."""

    def __init__(self, target: Target, hints: Hints) -> None:
        self.target = target
        self.hints = hints
        self.inputs = target.inputs
        self.train = target.mode == "train"

    def value(self, draw: DrawFn, spec: Spec, dims: Dims, fill: Json, seed: int) -> Json:
        """The recipe of one argument; only plain values are drawn."""
        if isinstance(spec, DictSpec):
            return {
                "dict": {k: self.value(draw, s, dims, fill, seed + i) for i, (k, s) in enumerate(spec.items)}
            }
        if isinstance(spec, ListSpec):
            return {"list": [self.value(draw, s, dims, fill, seed + i) for i, s in enumerate(spec.items)]}
        if isinstance(spec, ScalarSpec):
            return {"v": draw(scalar(spec, dims, self.hints.thresholds))}
        recipe: Json = {"t": spec.dtype, "shape": shape(spec, dims), "fill": fitted(fill, spec), "seed": seed}
        low, high = resolve(spec.low, dims), resolve(spec.high, dims)
        if unbounded(spec) and self.hints.ranges:
            return within(recipe, draw(st.sampled_from((None, *self.hints.ranges))))
        if low is not None:
            recipe["lo"] = low
        if high is not None:
            recipe["hi"] = max(high, low) if low is not None else high
        return recipe

    def arguments(self, draw: DrawFn, dims: Dims, fills: tuple[Json, ...] = PLAIN_FILLS) -> Json:
        """Recipes of all arguments, with one fill for every tensor."""
        fill = draw(
            st.sampled_from(
                (*self.hints.fills, *fills) if self.hints.fills and fills is not POISON_FILLS else fills
            )
        )
        seed = draw(SEEDS)
        made: Json = {}
        for position, (name, spec) in enumerate(self.inputs):
            made[name] = self.value(draw, spec, dims, fill, seed + 31 * position)
        return made

    def step(self, draw: DrawFn, arguments: Json, instance: int = 0) -> Json:
        """The call with these arguments; in train mode what is done about gradients is drawn as well."""
        made: Json = {"op": "call", "i": instance, "a": arguments}
        if is_wide(arguments):
            made["wide"] = True
        if self.train:
            made["backward"] = True
            made["sgd"] = draw(st.booleans())
            zero = draw(st.sampled_from(("", "none", "", "zeros")))
            if zero:
                made["zero"] = zero
        return made

    def call(
        self, draw: DrawFn, dims: Dims, fills: tuple[Json, ...] = PLAIN_FILLS, instance: int = 0
    ) -> Json:
        """A call with arguments drawn."""
        return self.step(draw, self.arguments(draw, dims, fills), instance)


# What integers without bounds are drawn from beside 0..7; a dtype that holds less gets its own ends.
RANGES = ((0, 300), (-8, 7), (-70_000, 70_000), (-(2**31), 2**31 - 1), (-(2**62), 2**62))
_ENDS = {
    "uint8": (0, 255), "int8": (-128, 127), "int16": (-(2**15), 2**15 - 1), "short": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1), "int": (-(2**31), 2**31 - 1), "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1), "uint64": (0, 2**62),
}  # fmt: skip


# What a plain integer without bounds is tried with beside 0..8, nearest first; a count of loops may be meant.
WHOLES = ((-1, -7), (9, 33, 100))


def unbounded(spec: Spec) -> bool:
    """Whether a tensor holds integers whose range nobody has declared."""
    whole = isinstance(spec, TensorSpec) and spec.dtype in INTEGERS
    return whole and spec.low is None and spec.high is None  # type: ignore[union-attr]


def within(recipe: Json, bounds: tuple[int, int] | None) -> Json:
    """The recipe with integers of these bounds, cut to what its dtype holds."""
    if bounds is None:
        return recipe
    low, high = _ENDS.get(str(recipe["t"]), (-(2**62), 2**62))
    return {**recipe, "lo": max(low, bounds[0]), "hi": min(high, bounds[1]), "wide": True}


def is_wide(recipe: Any) -> bool:
    """Whether any integers in it come from a range that was not declared."""
    if isinstance(recipe, Mapping):
        return bool(recipe.get("wide")) or any(map(is_wide, recipe.values()))
    return isinstance(recipe, list) and any(map(is_wide, recipe))


def widened(target: Target, step: Json, bounds: tuple[int, int]) -> Json:
    """The call with every integer tensor without bounds drawn from this range."""

    def inside(spec: Spec, recipe: Json) -> Json:
        if isinstance(spec, DictSpec):
            return {"dict": {k: inside(s, recipe["dict"][k]) for k, s in spec.items}}
        if isinstance(spec, ListSpec):
            return {"list": [inside(s, r) for s, r in zip(spec.items, recipe["list"], strict=True)]}
        return within(recipe, bounds) if unbounded(spec) else recipe

    made = {name: inside(spec, step["a"][name]) for name, spec in target.inputs}
    return {**step, "a": made, "wide": True}


def fitted(fill: Json, spec: TensorSpec) -> Json:
    """A fill for one dtype: what is subnormal or nearly too large in float32 is neither in other formats."""
    kind = _FORMATS.get(spec.dtype, spec.dtype)
    scale = _SCALES.get((str(fill["k"]), kind))
    return {"k": "normal", "s": scale} if scale is not None and set(fill) == {"k"} else dict(fill)


_FORMATS = {"half": "float16", "double": "float64"}
_SCALES = {
    ("tiny", "float16"): 3e-6, ("tiny", "float64"): 1e-309,
    ("huge", "float16"): 1e4, ("huge", "float64"): 1e300,
}  # fmt: skip


def shape(spec: TensorSpec, dims: Dims) -> list[int]:
    """Sizes of a tensor."""
    return [d if isinstance(d, int) else dims[d] for d in spec.dims]


def resolve(bound: Bound, dims: Dims) -> float | int | None:
    """A bound as a number: it may name a dimension."""
    return dims[bound] if isinstance(bound, str) else bound


def scalar(spec: ScalarSpec, dims: Dims, thresholds: Sequence[float | int] = ()) -> SearchStrategy[Any]:
    """Values of a scalar argument: its ends included, and numbers the original compares with."""
    plain = _scalar(spec, dims)
    low, high = resolve(spec.low, dims), resolve(spec.high, dims)
    inside = [n for n in thresholds if (low is None or n >= low) and (high is None or n <= high)]
    if spec.kind == "float" and inside:
        return st.one_of(plain, st.sampled_from([float(n) for n in inside]))
    whole = [int(n) for n in inside if n == int(n) and (low is not None or n >= 0)]
    if spec.kind == "int" and whole:
        return st.one_of(plain, st.sampled_from(whole))
    return plain


def _scalar(spec: ScalarSpec, dims: Dims) -> SearchStrategy[Any]:
    low, high = resolve(spec.low, dims), resolve(spec.high, dims)
    if spec.kind == "bool":
        return st.booleans()
    if spec.kind == "none":
        return st.none()
    if spec.kind == "str":
        return st.sampled_from(spec.choices)
    if spec.kind == "int":
        start, stop = int(low if low is not None else 0), int(high if high is not None else 8)
        return st.integers(start, max(start, stop))
    first = float(low if low is not None else -2.0)
    last = max(first, float(high if high is not None else 2.0))
    return st.integers(0, 20).map(lambda n: first + (last - first) * n / 20)


def cheap(target: Target, dims: Dims, limit: int = 1 << 24) -> bool:
    """Whether one call's tensors stay below ``limit`` elements."""
    total = 0
    for _, spec in target.inputs:
        for t in every_tensor(spec):
            size = 1
            for n in shape(t, dims):
                size *= n
            total += size
    return total <= limit


def tensors(target: Target) -> list[tuple[str, TensorSpec]]:
    """Names and specifications of the arguments that are tensors."""
    return tensor_names(target.inputs)


def plain_call(target: Target, dims: Dims, fill: Json, seed: int) -> Json:
    """A call without anything drawn: scalars take the middle of their range."""
    made: Json = {}
    for position, (name, spec) in enumerate(target.inputs):
        made[name] = _plain_value(spec, dims, fill, seed + 31 * position)
    step: Json = {"op": "call", "i": 0, "a": made}
    if target.mode == "train":
        step["backward"] = True
    return step


def _plain_value(spec: Spec, dims: Dims, fill: Json, seed: int) -> Json:
    if isinstance(spec, DictSpec):
        return {"dict": {k: _plain_value(s, dims, fill, seed + i) for i, (k, s) in enumerate(spec.items)}}
    if isinstance(spec, ListSpec):
        return {"list": [_plain_value(s, dims, fill, seed + i) for i, s in enumerate(spec.items)]}
    low, high = resolve(spec.low, dims), resolve(spec.high, dims)
    if isinstance(spec, TensorSpec):
        recipe: Json = {"t": spec.dtype, "shape": shape(spec, dims), "fill": fitted(fill, spec), "seed": seed}
        recipe |= {} if low is None else {"lo": low}
        recipe |= {} if high is None else {"hi": high if low is None else max(low, high)}
        return recipe
    if spec.kind == "str":
        return {"v": spec.choices[0]}
    middle = ((low if low is not None else 0) + (high if high is not None else 2)) / 2
    plain: dict[str, Any] = {"bool": True, "none": None, "int": int(middle), "float": float(middle)}
    return {"v": plain[spec.kind]}


def probes(target: Target, edges: tuple[Json, ...] = ()) -> list[tuple[Json, Json]]:
    """Fills on a grid of scale and shift, each with one call: some take a branch to its other side."""
    sizes = [{n: v[k] for n, v in target.dims} for k in (0, 1)]
    fills: list[Json] = [*edges, *SHIFTED_FILLS, *EXTREME_FILLS]
    fills += [
        {"k": "normal", "s": s, "m": m}
        for s in (1e-3, 0.1, 1.0, 10.0, 100.0)
        for m in (-10.0, -1.0, -0.2, 0.2, 1.0, 10.0)
    ]
    fills += [{"k": "const", "s": s} for s in (-100.0, -10.0, -3.0, -0.3, 0.3, 3.0, 10.0, 100.0)]
    found = []
    for dims in sizes:
        if cheap(target, dims, 1 << 20):
            found += [(fill, plain_call(target, dims, fill, 5)) for fill in fills]
    return found


def cycle(target: Target) -> list[Json]:
    """Three calls of different sizes and values, to be repeated."""
    low = {n: v[0] for n, v in target.dims}
    high = {n: v[1] for n, v in target.dims}
    middle = {n: (v[0] + v[1]) // 2 for n, v in target.dims}
    sizes = [d if cheap(target, d, 1 << 20) else low for d in (low, high, middle)]
    return [plain_call(target, dims, PLAIN_FILLS[0], 11 + i) for i, dims in enumerate(sizes)]
