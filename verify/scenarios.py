"""The ways a sequence can go wrong, one strategy each; their names are the checks of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .certain import Certain
from .edits import Steps
from .recipes import (
    EXTREME_FILLS,
    PLAIN_FILLS,
    POISON_FILLS,
    SEEDS,
    SHIFTED_FILLS,
    Calls,
    Dims,
    Hints,
    Json,
    Scenario,
    boundaries,
    cheap,
    dims_of,
    resolve,
    scalar,
    shape,
    tensors,
)
from .spec import ScalarSpec, TensorSpec
from .targets import RUNS, Target

ANY_FILLS = (*PLAIN_FILLS, *SHIFTED_FILLS)
Draw = Callable[[DrawFn], Any]


def scenarios(target: Target, hints: Hints) -> list[Scenario]:
    """Scenarios for the operations the target's ``vary`` lists, the most telling first.

    Each has its certain sequences, which are run whatever is drawn, and a strategy for more. Long, because it
    is one list: an entry for each operation, in the order in which they are tried.
    """
    make, sure = _Maker(target, hints), Certain(target, hints)
    found: list[Scenario] = []
    wanted = set(target.vary)
    has_sizes = any(low != high for _, (low, high) in target.dims)
    has_tensors = bool(tensors(target))

    def add(
        name: str,
        steps: SearchStrategy[list[Json]],
        always: Iterable[Steps] = (),
        weight: float = 1.0,
        note_only: bool = False,
    ) -> None:
        found.append(Scenario(name, steps, weight, note_only, tuple(always)))

    if RUNS in wanted:
        add("runs", make.runs(), sure.runs())
        return found
    if "values" in wanted:
        add("values", make.values(), sure.values(), 2.0)
        if hints.sides or hints.fills or hints.calls or hints.turned or hints.near:
            add("branches", make.values(), sure.branches())
    if "shapes" in wanted and has_sizes:
        add("shapes", make.shapes(), sure.shapes(), 2.0)
        if make.poisonable:
            add("padding", make.padding(), sure.padding(), 1.5)
    if "arguments" in wanted and target.inputs:
        add("arguments", make.arguments(), sure.arguments(), 1.5)
    if "kept outputs" in wanted:
        add("kept outputs", make.kept(), sure.kept())
    if "mutation" in wanted and has_tensors:
        add("mutation", make.mutation(), sure.mutation())
    if "aliasing" in wanted and has_tensors:
        add("aliasing", make.aliasing(), sure.aliasing())
    for name, operation, always, weight in (
        ("rebinding", make.rebind, sure.rebinding, 1.0),
        ("train/eval", make.switch, sure.modes, 1.0),
        ("reseeding", make.reseed, sure.reseeding, 0.7),
    ):
        if name in wanted:
            add(name, make.among(operation), always(), weight)
    if "instances" in wanted:
        add("instances", make.instances(), sure.instances())
    if "exceptions" in wanted and make.can_misuse:
        add("exceptions", make.among(make.misuse), sure.exceptions())
    add("long", make.long(), sure.long(), weight=0.8)
    opt_in: dict[str, tuple[SearchStrategy[list[Json]], Callable[[], Iterable[Steps]]]] = {
        "strides": (make.strides(), sure.layouts),
        "threads": (make.threads(), sure.threads),
        "autocast": (make.among(make.autocast), sure.autocast),
        "grad": (make.among(make.grad), sure.grad),
        "deepcopy": (make.among(make.copy), sure.deepcopy),
    }
    for name, (steps, sequences) in opt_in.items():
        if name in wanted:
            add(name, steps, sequences())
    if len(found) > 4:
        add("mixed", make.mixed(), weight=1.5)
    if hints.settings:
        listed = "attributes" in wanted
        add("attributes", make.among(make.setting), sure.settings(), 1.0 if listed else 0.5, not listed)
    if "aliasing" in wanted and "strides" not in wanted and has_tensors:
        add("strides", make.strides(), sure.layouts(), 0.3, note_only=True)
    return found


class _Maker:
    """Strategies for one target."""

    def __init__(self, target: Target, hints: Hints) -> None:
        self.target = target
        self.calls = Calls(target, hints)
        self.dims: SearchStrategy[dict[str, int]] = dims_of(target).filter(lambda d: cheap(target, d))
        self.poisonable = any(
            (spec.floating and spec.low is None and spec.high is None) or not spec.floating
            for _, spec in tensors(target)
        )
        self.any_fills = (*ANY_FILLS, *hints.edges)
        self.can_misuse = any(isinstance(d, int) and d > 0 for _, s in tensors(target) for d in s.dims)

    def values(self) -> SearchStrategy[list[Json]]:
        """The same sizes again and again, with values of every kind: a branch taken at capture shows."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            dims = draw(self.dims)
            call = self._call(dims, (*self.any_fills, *EXTREME_FILLS))
            if self.calls.hints.edges:
                call = st.one_of(call, call, self._call(dims, self.calls.hints.edges))
            if self.calls.hints.calls:
                call = st.one_of(call, st.sampled_from(self.calls.hints.calls))
            return draw(st.lists(call, min_size=4, max_size=9))

        return strategy()

    def runs(self) -> SearchStrategy[list[Json]]:
        """A whole run of a program, or two in one process."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            return draw(st.lists(self._call(draw(self.dims), PLAIN_FILLS), min_size=1, max_size=2))

        return strategy()

    def shapes(self) -> SearchStrategy[list[Json]]:
        """Sizes up and down across boundaries."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            return draw(st.lists(self._sized(PLAIN_FILLS), min_size=4, max_size=12))

        return strategy()

    def padding(self) -> SearchStrategy[list[Json]]:
        """A call with NaN, infinity or 1e30 comes before smaller calls of the same bucket."""

        @st.composite
        def pair(draw: DrawFn) -> list[Json]:
            big = draw(self.dims)
            small = dict(big)
            for name, (low, high) in self.target.dims:
                if low != high:
                    sizes = boundaries(low, high)
                    big[name] = draw(st.sampled_from([n for n in sizes if n > low][::-1]))
                    below = [n for n in sizes if n < big[name]]
                    near = [n for n in below if n > big[name] // 2] or below
                    small[name] = draw(st.sampled_from((*near[::-1], *below)))
            if not cheap(self.target, big):
                big = dict(small)
            fills = draw(st.sampled_from((POISON_FILLS, POISON_FILLS, PLAIN_FILLS)))
            return [self.calls.call(draw, big, fills), self.calls.call(draw, small)]

        return st.lists(pair(), min_size=2, max_size=5).map(lambda pairs: [s for p in pairs for s in p])

    def arguments(self) -> SearchStrategy[list[Json]]:
        """One argument at a time changes, the rest stays."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            dims = draw(self.dims)
            base = self.calls.arguments(draw, dims, self.any_fills)
            scalars = [(n, s) for n, s in self.target.inputs if isinstance(s, ScalarSpec)]
            others = [(n, s) for n, s in self.target.inputs if not isinstance(s, ScalarSpec)]

            @st.composite
            def varied(draw: DrawFn) -> Json:
                given = dict(base)
                name, spec = draw(st.sampled_from(scalars * 3 + others))
                if isinstance(spec, ScalarSpec):
                    given[name] = {"v": draw(scalar(spec, dims, self.calls.hints.thresholds))}
                else:
                    given[name] = self.calls.value(
                        draw, spec, dims, draw(st.sampled_from(self.any_fills)), draw(SEEDS)
                    )
                return self.calls.step(draw, given)

            return [self.calls.step(draw, base), *draw(st.lists(varied(), min_size=3, max_size=8))]

        return strategy()

    def kept(self) -> SearchStrategy[list[Json]]:
        """Results are kept, written into, and looked at again at the end."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            dims = draw(self.dims)
            call = self._call(dims, PLAIN_FILLS)
            other = st.sampled_from(({"op": "write_out"}, {"op": "churn"}))
            steps = draw(st.lists(st.one_of(call, call, other), min_size=3, max_size=9))
            return [draw(call), *steps, draw(call)]

        return strategy()

    def mutation(self) -> SearchStrategy[list[Json]]:
        """The caller reuses his tensors: writes into them and calls again with the same objects."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            dims = draw(self.dims)
            given = self.calls.arguments(draw, dims)
            again = self._again(given)

            @st.composite
            def more(draw: DrawFn) -> list[Json]:
                refill = {"op": "refill", "a": self.calls.arguments(draw, dims)}
                call = self.calls.step(draw, again)
                return draw(st.sampled_from(([refill, call], [call], [call, refill])))

            pieces = draw(st.lists(more(), min_size=2, max_size=5))
            return [self.calls.step(draw, given), *(s for p in pieces for s in p)]

        return strategy()

    def _again(self, given: Json) -> Json:
        return {n: ({"again": n, "else": r} if "t" in r else r) for n, r in given.items()}

    def aliasing(self) -> SearchStrategy[list[Json]]:
        """The same tensor for two arguments, views, views into larger memory, a result as the next input."""

        @st.composite
        def one(draw: DrawFn) -> Json:
            dims = draw(self.dims)
            given = self.calls.arguments(draw, dims)
            named = [n for n, _ in tensors(self.target)]
            pairs = [(a, b) for i, a in enumerate(named) for b in named[i + 1 :] if alike(given[a], given[b])]
            kinds = ["offset", "out", *(["same", "view"] if pairs else [])]
            kind = draw(st.sampled_from(kinds))
            if kind in ("same", "view"):
                first, second = draw(st.sampled_from(pairs))
                given[second] = {kind: first}
            elif kind == "out":
                name = draw(st.sampled_from(named))
                given[name] = {"out": draw(st.integers(0, 3)), "else": given[name]}
            else:
                name = draw(st.sampled_from(named))
                given[name] = {**given[name], "layout": "offset"}
            return self.calls.step(draw, given)

        plain = self._sized(PLAIN_FILLS)
        return st.lists(st.one_of(one(), plain, one()), min_size=3, max_size=8)

    def among(self, operation: Callable[[DrawFn], Json]) -> SearchStrategy[list[Json]]:
        """Calls of one or two sizes with the operation between them."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            sizes = [draw(self.dims), draw(self.dims)]
            call = st.sampled_from(sizes).flatmap(lambda d: self._call(d, PLAIN_FILLS))
            between = st.composite(operation)()
            pairs = draw(st.lists(st.tuples(between, call), min_size=2, max_size=5))
            return [draw(self._call(sizes[0], PLAIN_FILLS)), *(s for pair in pairs for s in pair)]

        return strategy()

    def rebind(self, draw: DrawFn) -> Json:
        """All parameters, or one parameter or buffer: a guard must look at every one."""
        how = draw(st.sampled_from(("assign", "data", "load", "to", "inplace")))
        step: Json = {"op": "rebind", "how": how, "seed": draw(SEEDS)}
        if how != "to" and draw(st.booleans()):
            step["only"] = draw(st.integers(0, 7))
        return step

    def setting(self, draw: DrawFn) -> Json:
        """A public attribute the original reads gets another value, or its first one again."""
        chosen = draw(st.sampled_from(self.calls.hints.settings))
        value = draw(st.sampled_from((*chosen["values"][1:], chosen["values"][0])))
        return {"op": "attribute", "at": chosen["at"], "name": chosen["name"], "value": value}

    def switch(self, draw: DrawFn) -> Json:
        return {"op": "mode_switch", "train": draw(st.booleans())}

    def reseed(self, draw: DrawFn) -> Json:
        return {"op": "seed", "seed": draw(SEEDS)}

    def autocast(self, draw: DrawFn) -> Json:
        return {"op": "autocast", "dtype": draw(st.sampled_from(("bfloat16", "float16", None)))}

    def grad(self, draw: DrawFn) -> Json:
        return {"op": "grad", "enabled": draw(st.sampled_from((True, False, None)))}

    def copy(self, draw: DrawFn) -> Json:
        return draw(st.just({"op": "deepcopy"}))  # hypothesis warns of a composite that draws nothing

    def misuse(self, draw: DrawFn) -> Json:
        """A call the original refuses: one fixed dimension of one tensor is one too large."""
        dims = draw(self.dims)
        given = self.calls.arguments(draw, dims)
        able = [(n, s) for n, s in tensors(self.target) if any(isinstance(d, int) and d > 0 for d in s.dims)]
        name, spec = draw(st.sampled_from(able))
        fixed = [i for i, d in enumerate(spec.dims) if isinstance(d, int) and d > 0]
        wrong = shape(spec, dims)
        wrong[draw(st.sampled_from(fixed))] += 1
        given[name] = {**given[name], "shape": wrong}
        return {**self.calls.step(draw, given), "outside": True}

    def instances(self) -> SearchStrategy[list[Json]]:
        """Two instances of the target take turns."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            dims = draw(self.dims)
            turn = st.integers(0, 1).flatmap(lambda i: self._call(dims, PLAIN_FILLS, i))
            return draw(st.lists(turn, min_size=4, max_size=8))

        return strategy()

    def long(self) -> SearchStrategy[list[Json]]:
        """Many calls, few sizes, plain arguments mostly as they were: counters and caches show."""

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            sizes = draw(st.lists(self.dims, min_size=1, max_size=draw(st.sampled_from((1, 2, 12)))))
            base = self.calls.arguments(draw, sizes[0])
            steady = {n: base[n] for n, s in self.target.inputs if isinstance(s, ScalarSpec)}
            change = draw(st.integers(2, 60))
            steps: list[Json] = []
            for number in range(draw(st.sampled_from((26, 36, 48)))):
                call = self.calls.call(draw, sizes[number % len(sizes)])
                if number % change:
                    call["a"] |= steady
                steps.append(call)
            return steps

        return strategy()

    def strides(self) -> SearchStrategy[list[Json]]:
        """The same values in other memory layouts."""

        @st.composite
        def one(draw: DrawFn) -> Json:
            given = self.calls.arguments(draw, draw(self.dims))
            name = draw(st.sampled_from([n for n, _ in tensors(self.target)]))
            layout = draw(st.sampled_from(("transposed", "stepped", "expanded", "offset")))
            given[name] = {**given[name], "layout": layout}
            return self.calls.step(draw, given)

        if not tensors(self.target):
            return self.shapes()
        return st.lists(st.one_of(one(), self._sized(PLAIN_FILLS)), min_size=3, max_size=8)

    def threads(self) -> SearchStrategy[list[Json]]:
        """Several calls at the same time."""

        @st.composite
        def together(draw: DrawFn) -> Json:
            dims = draw(self.dims)
            calls = draw(st.lists(self._call(dims, PLAIN_FILLS), min_size=2, max_size=4))
            return {"op": "threads", "calls": calls, "times": draw(st.sampled_from((1, 5, 20)))}

        @st.composite
        def strategy(draw: DrawFn) -> list[Json]:
            first = draw(st.lists(self._sized(PLAIN_FILLS), max_size=2))
            return [*first, *draw(st.lists(together(), min_size=1, max_size=3))]

        return strategy()

    def mixed(self) -> SearchStrategy[list[Json]]:
        """Everything in one sequence."""
        wanted = set(self.target.vary)
        operations: list[SearchStrategy[Json]] = [self._sized((*self.any_fills, *EXTREME_FILLS))] * 4
        table: list[tuple[str, Callable[[DrawFn], Json]]] = [
            ("rebinding", self.rebind), ("train/eval", self.switch), ("reseeding", self.reseed),
        ]  # fmt: skip
        if self.can_misuse:
            table.append(("exceptions", self.misuse))
        operations += [st.composite(operation)() for name, operation in table if name in wanted]
        if "kept outputs" in wanted:
            operations.append(st.sampled_from(({"op": "write_out"}, {"op": "churn"})))
        if "instances" in wanted:
            operations.append(self._sized(ANY_FILLS, 1))
        return st.lists(st.one_of(operations), min_size=5, max_size=14)

    def _call(self, dims: Dims, fills: tuple[Json, ...], instance: int = 0) -> SearchStrategy[Json]:
        @st.composite
        def strategy(draw: DrawFn) -> Json:
            return self.calls.call(draw, dims, fills, instance)

        return strategy()

    def _sized(self, fills: tuple[Json, ...], instance: int = 0) -> SearchStrategy[Json]:
        @st.composite
        def strategy(draw: DrawFn) -> Json:
            return self.calls.call(draw, draw(self.dims), fills, instance)

        return strategy()


def alike(a: Json, b: Json) -> bool:
    """Whether one tensor can be given for both recipes."""
    keys = ("t", "shape", "lo", "hi")
    return "t" in a and "t" in b and all(a.get(k) == b.get(k) for k in keys)


__all__ = ["TensorSpec", "resolve", "scenarios"]
