"""Sequences that every target is given, whatever is drawn: each operation, size and argument at least once.

Drawing leaves rare events to chance: that of ten tensors the seventh alone is rebound, that a call of the
largest size comes right before one that is a row smaller. What is listed here happens for every seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile

from .edits import Path, Steps, changed, cut, held, once_more, reordered, shares, spread, switch
from .recipes import (
    EXTREME_FILLS,
    PLACED_FILLS,
    PLAIN_FILLS,
    SHIFTED_FILLS,
    Dims,
    Hints,
    Json,
    boundaries,
    cheap,
    plain_call,
    resolve,
    shape,
    tensors,
    widened,
)
from .spec import DictSpec, ListSpec, ScalarSpec, Spec, TensorSpec
from .targets import Target

EVERY_SIZE = 24  # a dimension with at most as many sizes is walked through one by one
SHORTEST, LONGEST = 36, 150  # calls of the long sequence; no number above the second is taken for a limit
LIGHT, LIGHTEST = 100, 110  # a call of at most so many operations is made so often
FEW_TENSORS = 4
MOST_TENSORS = 32  # of a state_dict that are rebound one by one: the first, the last, and some between
POISONS: tuple[Json, ...] = ({"k": "const", "s": "nan"}, {"k": "const", "s": 1e30})
EDITS = ("first", "middle", "last", "turned", "breath")
MOST_EDITED = 8  # tensors of a call that are edited
LAYOUTS = ("transposed", "stepped", "expanded", "offset")
NORMAL = PLAIN_FILLS[0]
ZEROS: Json = {"k": "zeros"}


class Certain:
    """Certain sequences of one target, by the name of their scenario."""

    def __init__(self, target: Target, hints: Hints) -> None:
        self.target, self.hints = target, hints
        self.low = {n: v[0] for n, v in target.dims}
        self.high = affordable(target)
        self.middle = {n: (self.low[n] + self.high[n] + 1) // 2 for n in self.low}
        self.tensors = tensors(target)

    def call(self, dims: Dims, seed: int, fill: Json = NORMAL, instance: int = 0) -> Json:
        """A call in which nothing is left to chance."""
        return {**plain_call(self.target, dims, fill, seed), "i": instance}

    def runs(self) -> Iterator[Steps]:
        """One run of a program, and one behind another."""
        first, second = self.call(self.low, 0), self.call(self.low, 1)
        yield [first]
        yield [second, first]

    # -- values and arguments -------------------------------------------------------------------------------
    def values(self) -> Iterator[Steps]:
        """Every threshold, every extreme and every other fill once, at one size; a call is repeated."""
        extremes = (*EXTREME_FILLS[::-1], *PLACED_FILLS, {"k": "const", "s": "nan"})
        plain = (*PLAIN_FILLS, *SHIFTED_FILLS)
        for group in (self.hints.edges, self.hints.neighbours, extremes, plain):
            if group and self.tensors:
                fills = (NORMAL, *group, NORMAL)
                steps = [self.call(self.high, 17 + k, fill) for k, fill in enumerate(fills)]
                yield [*steps, steps[-1], steps[0]]
        fills = (NORMAL, {"k": "spike"}, {"k": "ties"})
        wide = [
            widened(self.target, self.call(self.high, 417 + k, fill), bounds)
            for bounds in self.hints.ranges
            for k, fill in enumerate(fills)
        ]
        yield from cut(wide)
        if self.target.mode == "train":
            yield self.training()

    def training(self) -> Steps:
        """Gradients accumulate, are cleared in both ways, and are stepped on, in every order."""
        plans: Steps = [
            {},
            {},
            {"sgd": True},
            {"zero": "none"},
            {"sgd": True, "zero": "zeros"},
            {},
            {"sgd": True},
        ]
        plans += [{"zero": "none", "sgd": True}] * 3 + [{"zero": "zeros"}, {}]
        return [{**self.call(self.high, 60 + k), **plan} for k, plan in enumerate(plans)]

    def branches(self) -> Iterator[Steps]:
        """To and fro between the sides of every branch, with arguments of one size."""
        for first, second in self.hints.sides:
            yield [first, second, first, first, second, second, first, second]
        yield from self.hints.near
        for change, call in self.hints.turned:
            yield [call, change, call, call, {**change, "seed": change["seed"] + 500}, call, change, call]

    def arguments(self) -> Iterator[Steps]:
        """Each argument changes alone, to every kind of value it may take, and goes back."""
        for dims in dict.fromkeys((tuple(self.high.items()), tuple(self.low.items()))):
            base = self.call(dict(dims), 23)
            steps = [base]
            for path, spec in leaves(self.target):
                steps += [changed(base, path, r) for r in self._others(spec, dict(dims), held(base, path))]
                steps.append(base)
            yield from cut(steps)
            yield from self._undeclared(base)
        yield from self._by_habit(self.call(self.high, 24))
        yield from self._edited(self.call(self.high, 25))

    def _edited(self, base: Json) -> Iterator[Steps]:
        """Of each tensor one element changes, or the order: a memo by a part of it shows."""
        steps = [base]
        for path in [path for path, spec in leaves(self.target) if isinstance(spec, TensorSpec)][
            :MOST_EDITED
        ]:
            for edit in EDITS:
                steps += [changed(base, path, {**held(base, path), "edit": edit}), base]
        yield from cut(steps if len(steps) > 1 else [])

    def _by_habit(self, base: Json) -> Iterator[Steps]:
        """Arguments are given by position, and left out where their default is a declared value."""
        specs, steps = dict(self.target.inputs), [base]
        named = [p[0] for p in self.hints.parameters]
        first = list(takewhile(specs.__contains__, named))
        if len(first) > 1 and not self.target.grad:
            given = {f"_{k}": base["a"][name] for k, name in enumerate(first)}
            steps.append({**base, "a": {**given, **{n: r for n, r in base["a"].items() if n not in first}}})
        known = [p for p in self.hints.parameters if len(p) == 2 and p[0] in specs]
        able = {n: {"omit": v} for n, v in known if declared(specs[n], v, self.high)}
        steps += [{**base, "a": {**base["a"], name: recipe}} for name, recipe in able.items()]
        if len(able) > 1:
            steps.append({**base, "a": {**base["a"], **able}})
        turned = {name: reordered(recipe) for name, recipe in reversed(base["a"].items())}
        if json.dumps(turned) != json.dumps(base["a"]):
            steps.append({**base, "a": turned})  # names and keys in another order
        if len(steps) > 1:
            yield [*steps, base]

    def _undeclared(self, base: Json) -> Iterator[Steps]:
        """Plain integers without bounds beyond what is drawn, one by one and back."""
        for path, spec in leaves(self.target):
            if isinstance(spec, ScalarSpec) and spec.kind == "int" and spec.low is None and spec.high is None:
                wide = [{**changed(base, path, {"v": v}), "wide": True} for v in self.hints.wholes]
                yield from ([step, base, step] for step in wide)

    def _others(self, spec: Spec, dims: Dims, recipe: Json) -> list[Json]:
        if isinstance(spec, ScalarSpec):
            return [{"v": v} for v in ends(spec, dims, self.hints.thresholds) if {"v": v} != recipe]
        assert isinstance(spec, TensorSpec)
        fills: list[Json] = [NORMAL, {"k": "zeros"}, {"k": "huge"}]
        fills += [{"k": "nan"}] if spec.floating and spec.low is None and spec.high is None else []
        return [{**recipe, "seed": recipe["seed"] + 500 + k, "fill": fill} for k, fill in enumerate(fills)]

    # -- sizes ----------------------------------------------------------------------------------------------
    def shapes(self) -> Iterator[Steps]:
        """Every boundary of every dimension, up and down, alone and all together."""
        for walk in self._walks():
            steps = [self.call(dims, 29 + k) for k, dims in enumerate([*walk, *walk[-2::-1]])]
            yield from cut(steps)
        yield from ([self.call(d, 29, ZEROS) for d in walk] for walk in self._alike(self._sized()))
        for name, (low, high) in self.target.dims:
            over = {**self.high, name: high + 1}
            if low != high and cheap(self.target, over, 1 << 20):
                yield [self.call(self.high, 3), {**self.call(over, 4), "outside": True}]

    def padding(self) -> Iterator[Steps]:
        """Each size filled with NaN or 1e30 comes right before the next smaller one."""
        for poison in POISONS:
            for walk in self._walks():
                down = walk[::-1]
                steps: Steps = []
                for k, (larger, smaller) in enumerate(pairwise(down)):
                    steps += [self.call(larger, 37 + k, poison), self.call(smaller, 67 + k)]
                yield from cut(steps)

    def _walks(self) -> Iterator[list[dict[str, int]]]:
        """Rising sizes: one dimension while the others are at their largest, then all of them in step."""
        sized = self._sized()
        every = {n: self.sizes(low, high) for n, low, high in sized}
        for name, sizes in every.items():
            yield [{**self.high, name: size} for size in sizes]
        if len(sized) > 1:
            longest = max(len(s) for s in every.values())
            yield [
                {**self.high, **{n: s[k * (len(s) - 1) // max(1, longest - 1)] for n, s in every.items()}}
                for k in range(longest)
            ]
        yield from self._alike(sized)

    def _sized(self) -> list[tuple[str, int, int]]:
        return [(n, low, self.high[n]) for n, (low, _) in self.target.dims if low != self.high[n]]

    def _alike(self, sized: list[tuple[str, int, int]]) -> Iterator[list[dict[str, int]]]:
        """Sizes of two dimensions with one product, or one sum: a lookup by either finds another."""
        for (a, low_a, high_a), (b, low_b, high_b) in pairwise(sized):
            every = [
                (m, n)
                for m in range(max(1, low_a), min(high_a, max(1, low_a) + 7) + 1)
                for n in range(max(1, low_b), min(high_b, max(1, low_b) + 7) + 1)
            ]
            for multiplied in (True, False):
                groups: dict[int, list[tuple[int, int]]] = {}
                for m, n in every:
                    groups.setdefault(m * n if multiplied else m + n, []).append((m, n))
                most = max(groups.values(), key=len, default=[])
                if len(most) > 1:
                    yield [{**self.high, a: m, b: n} for m, n in most[:4]]

    def sizes(self, low: int, high: int) -> list[int]:
        """All sizes of a short range; else boundaries, and numbers of the programs with their neighbours."""
        if high - low < EVERY_SIZE:
            return list(range(low, high + 1))
        near = {m for n in self.hints.sizes for m in (n - 1, n, n + 1) if low <= m <= high}
        return sorted({*boundaries(low, high), *near})

    # -- what callers do with tensors -----------------------------------------------------------------------
    def kept(self) -> Iterator[Steps]:
        """Results are kept over calls of the same and of another size, written into, and looked at again."""
        churn, write = {"op": "churn"}, {"op": "write_out"}
        a, b, c = (self.call(self.high, 41 + k) for k in range(3))
        other = self.call(self.low, 44)
        yield [a, b, a, churn, other, write, a, write, b, other, churn, c, a]
        if self.target.mode != "train":  # of two passes forward, graphs of training keep the last alone
            yield [a, {"op": "interleave", "calls": [a, b]}, {"op": "interleave", "calls": [c, b, a]}, a]

    def mutation(self) -> Iterator[Steps]:
        """The caller writes into each of his tensors alone, then all, and calls with the same objects."""
        given = self.call(self.high, 45)
        again = {**given, "a": {n: once_more(n, r) for n, r in given["a"].items()}}
        steps = [given, again]
        fresh = self.call(self.high, 47)["a"]
        for name, _ in self.tensors:
            steps += [{"op": "refill", "a": {name: fresh[name]}}, again]
        yield [*steps, {"op": "refill", "a": self.call(self.high, 49)["a"]}, again, given, again]

    def aliasing(self) -> Iterator[Steps]:
        """Like tensors are given as one, and as a view; each is a result; before and after other calls."""
        base, other = self.call(self.high, 51), self.call(self.high, 53)
        changes: list[Json] = []
        for i, (first, spec) in enumerate(self.tensors):
            changes += [
                {second: {kind: first}}
                for second, like in self.tensors[i + 1 :]
                if spec == like
                for kind in ("same", "view")
            ]
            changes += [{first: {"out": k, "else": base["a"][first]}} for k in (0, 1)]
            changes.append({first: {**base["a"][first], "layout": "offset"}})
        aliased = [{**base, "a": {**base["a"], **change}} for change in changes]
        yield from cut([base, *(s for step in aliased for s in (step, step, other))])
        yield from ([step, other, step] for step in aliased if shares(step))

    def layouts(self) -> Iterator[Steps]:
        """Each tensor in each memory layout, before and after the plain one."""
        base, other = self.call(self.high, 54), self.call(self.high, 55)
        varied = [
            changed(base, (n,), {**base["a"][n], "layout": k}) for n, _ in self.tensors for k in LAYOUTS
        ]
        yield from cut([base, *(s for step in varied for s in (step, other))])
        yield from ([step, other] for step in varied)

    # -- what callers do with the module --------------------------------------------------------------------
    def rebinding(self) -> Iterator[Steps]:
        """Every tensor of the state alone, then all together, in every way programs do it; at two sizes.

        Given other memory behind the same object, a tensor shows every guard that leaves it out, whatever the
        guard compares; the other ways are tried one by one only where there are few tensors.
        """
        a, b = self.call(self.high, 71), self.call(self.low, 72)
        count = len(self.hints.state)
        chosen = spread(count, MOST_TENSORS)
        for way in ("data", "assign", "load") if count <= FEW_TENSORS else ("data",):
            steps = [a]
            for k in chosen:
                steps += [{"op": "rebind", "how": way, "seed": 5 + k, "only": k}, a]
            yield from cut(steps, keep=1)
        whole: Steps = [a, b]
        for k, way in enumerate(("assign", "data", "load", "to", "inplace")):
            whole += [{"op": "rebind", "how": way, "seed": 90 + k}, b, a]
        yield whole

    def modes(self) -> Iterator[Steps]:
        """From evaluation to training and back, twice; then from training first."""
        a, on, off = self.call(self.high, 73), switch(True), switch(False)
        yield [a, on, a, a, off, a, a, on, a, off, a]
        yield [on, a, a, off, a, a, on, a]

    def reseeding(self) -> Iterator[Steps]:
        """The same seed twice gives the same draws."""
        a, b = self.call(self.high, 74), self.call(self.low, 75)
        one, two = {"op": "seed", "seed": 1}, {"op": "seed", "seed": 2}
        yield [one, a, a, one, a, a, two, a, b, one, b, a]

    def instances(self) -> Iterator[Steps]:
        """Two instances take turns; one of them is rebound and switched, and the other must not change."""
        a0, b0 = self.call(self.high, 76), self.call(self.low, 77)
        a1, b1 = ({**self.call(d, 78 + k), "i": 1} for k, d in enumerate((self.high, self.low)))
        steps = [a0, a1, a0, b1, b0, a1, a0]
        if "rebinding" in self.target.vary:
            steps += [{"op": "rebind", "how": "assign", "seed": 7, "i": 1}, a0, a1, b0, b1]
        if "train/eval" in self.target.vary:
            steps += [{**switch(self.target.mode != "train"), "i": 1}, a0, a1, a0]
        yield steps

    def long(self) -> Iterator[Steps]:
        """More calls than the greatest limit that the programs name: counters, rings and full caches show.

        One size; flags are off throughout, then off except in every seventh call.
        """
        named = [n for n in self.hints.sizes if n <= LONGEST]
        usual = LIGHTEST if 0 < self.hints.operations <= LIGHT else SHORTEST
        count = max((usual, *named)) + 6
        least = {n: max(self.low[n], min(1, self.high[n])) for n in self.low}
        flags = [
            path for path, spec in leaves(self.target) if isinstance(spec, ScalarSpec) and spec.kind == "bool"
        ]
        steps: Steps = []
        for k in range(count):
            step = self.call(least, 200 + k)
            for path in flags:
                step = changed(step, path, {"v": False})
            steps.append(step)
        yield steps
        if flags:
            base = steps[:SHORTEST]
            yield [
                changed(s, flags[k % len(flags)], {"v": True}) if k % 7 == 6 else s
                for k, s in enumerate(base)
            ]

    def exceptions(self) -> Iterator[Steps]:
        """Each fixed dimension of each tensor is one too large once."""
        base = self.call(self.middle, 79)
        for name, spec in self.tensors:
            for place, size in enumerate(spec.dims):
                if isinstance(size, int) and size > 0:
                    wrong = shape(spec, self.middle)
                    wrong[place] += 1
                    bad = changed(base, (name,), {**base["a"][name], "shape": wrong})
                    yield [base, {**bad, "outside": True}, base]

    def settings(self) -> Iterator[Steps]:
        """Each attribute alone takes each other value, and goes back."""
        a = self.call(self.high, 80)
        for found in self.hints.settings:
            base = {"op": "attribute", "at": found["at"], "name": found["name"]}
            first, *others = found["values"]
            yield [a, *(s for v in (*others, first) for s in ({**base, "value": v}, a))]

    def autocast(self) -> Iterator[Steps]:
        """Into autocast and out of it, in both precisions; then in it first."""
        a = self.call(self.high, 81)
        half, brain, off = ({"op": "autocast", "dtype": d} for d in ("float16", "bfloat16", None))
        yield [a, half, a, off, a, brain, a, a, half, a, off, a]
        yield [brain, a, off, a]

    def grad(self) -> Iterator[Steps]:
        """Gradients on and off."""
        a = self.call(self.high, 82)
        on, off, default = ({"op": "grad", "enabled": e} for e in (True, False, None))
        yield [a, on, a, off, a, default, a, on, a, default, a]
        yield [on, a, off, a]

    def deepcopy(self) -> Iterator[Steps]:
        """A copy before the first call, after it, and after other parameters; then one by way of a file."""
        a, b, copied = self.call(self.high, 83), self.call(self.low, 84), {"op": "deepcopy"}
        rebind = {"op": "rebind", "how": "assign", "seed": 9}
        yield [copied, a, b, copied, a, b, rebind, a, copied, a]
        yield [a, b, {**copied, "pickled": True}, a, b, a]

    def threads(self) -> Iterator[Steps]:
        """Calls of one size and of two sizes at the same time, before and after single ones."""
        a, b, c = self.call(self.high, 85), self.call(self.high, 86), self.call(self.low, 87)
        yield [a, {"op": "threads", "calls": [a, b], "times": 5}, b, c]
        yield [{"op": "threads", "calls": [a, c, b, a], "times": 5}, a]


def affordable(target: Target, limit: int = 1 << 20) -> dict[str, int]:
    """The largest sizes, halved towards the smallest until a call has at most ``limit`` elements."""
    dims = {n: v[1] for n, v in target.dims}
    low = {n: v[0] for n, v in target.dims}
    while dims != low and not cheap(target, dims, limit):
        dims = {n: max(low[n], dims[n] // 2) for n in dims}
    return dims


def leaves(target: Target) -> Iterator[tuple[Path, TensorSpec | ScalarSpec]]:
    """Every single tensor and number among the arguments, with its path."""

    def inside(spec: Spec, path: Path) -> Iterator[tuple[Path, TensorSpec | ScalarSpec]]:
        if isinstance(spec, DictSpec):
            for key, inner in spec.items:
                yield from inside(inner, (*path, key))
        elif isinstance(spec, ListSpec):
            for place, inner in enumerate(spec.items):
                yield from inside(inner, (*path, place))
        else:
            yield path, spec

    for name, spec in target.inputs:
        yield from inside(spec, (name,))


def declared(spec: Spec, value: object, dims: Dims) -> bool:
    """Whether a default is among the values that the target declares for a plain argument."""
    if not isinstance(spec, ScalarSpec):
        return False
    if spec.kind in ("none", "str", "bool"):
        kinds: dict[str, type] = {"none": type(None), "str": str, "bool": bool}
        return isinstance(value, kinds[spec.kind]) and (spec.kind != "str" or value in spec.choices)
    if isinstance(value, bool) or not isinstance(value, int if spec.kind == "int" else (int, float)):
        return False
    low, high = resolve(spec.low, dims), resolve(spec.high, dims)
    return low is not None and high is not None and low <= value <= high


def ends(spec: ScalarSpec, dims: Dims, thresholds: Sequence[float | int]) -> list[object]:
    """Values of a scalar that must be tried: both ends, the middle, thresholds; every choice of a text."""
    if spec.kind == "none":
        return []
    if spec.kind == "bool":
        return [True, False]
    if spec.kind == "str":
        return list(spec.choices)
    low, high = resolve(spec.low, dims), resolve(spec.high, dims)
    whole = spec.kind == "int"
    first: float | int = low if low is not None else (0 if whole else -2.0)
    last = max(first, high if high is not None else (8 if whole else 2.0))
    inside = [n for n in thresholds if first <= n <= last and (not whole or n == int(n))][:8]
    plain = [n for n in (0, 1, -1) if first <= n <= last]  # for which programs have ways of their own
    found = (first, last, (first + last) / 2, *inside, *plain)
    return list(dict.fromkeys(int(n) if whole else float(n) for n in found))
