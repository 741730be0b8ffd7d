"""Is the rewrite faster, and by how much: interleaved batches, a control, an interval before any claim."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .process import WorkerDied
from .recipes import Json, cycle
from .report import Timing
from .session import Outcome, Pair, SetupError
from .spec import COMPLEX, FLOATS, SMALL

ROUNDS = 24
POOL = 4  # values that may decide shapes inside, such as lengths, take turns among this many
WARM_CYCLES = 5  # every size at least this often before the clock counts: graphs are captured then
MOST_CYCLES = 60  # and at most this often, while the rewrite still captures
WARM_S = 20.0
RESAMPLES = 4000
BUDGET_MS = 4000.0  # of timed calls for each side


@dataclass(frozen=True)
class Timed:
    """Times, memory, and how the results of the timed calls compared."""

    timing: Timing | None
    memory: dict[str, int]
    outcome: Outcome


def per_call(times: Sequence[float], sizes: int) -> float:
    """Mean over the sizes of the median of each: calls of one size come ``sizes`` apart."""
    return statistics.fmean(statistics.median(times[k::sizes]) for k in range(sizes))


def bootstrap(
    before: Sequence[float], after: Sequence[float], seed: int
) -> tuple[float, tuple[float, float]]:
    """Ratio of the medians, and its 95 % interval from resampling the paired batches."""
    generator = random.Random(seed)
    indices = range(len(before))
    ratios = []
    for _ in range(RESAMPLES):
        chosen = generator.choices(indices, k=len(before))
        ratios.append(
            statistics.median(before[i] for i in chosen) / statistics.median(after[i] for i in chosen)
        )
    ratios.sort()
    low, high = ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES) - 1]
    return statistics.median(before) / statistics.median(after), (low, high)


def measure(pair: Pair, seed: int, captured: bool) -> Timed:
    """Time both sides and a second process of the original; check the results of the timed calls.

    Raises SetupError when a side cannot be timed.
    """
    inputs = _Inputs(cycle(pair.target))
    count = len(inputs.sizes)
    pair.control()
    sides = ("before", "after", "control")
    try:
        firsts = {"after": _settle(pair, inputs, captured)}
        warm = list(inputs.steps)
        for side in ("before", "control"):
            firsts[side] = pair.time(side, warm, start=True)["times"]
        steady = {side: statistics.median(times[-2 * count :]) for side, times in firsts.items()}
        length = int(min(10.0, max(1.0, BUDGET_MS / ROUNDS / max(steady.values()) / count))) * count
        batches: dict[str, list[float]] = {side: [] for side in sides}
        order = random.Random(seed)
        memory: dict[str, int] = {}
        kernel: float | None = None
        number = 0
        for turn in range(ROUNDS):
            batch, last = inputs.fresh(length), turn == ROUNDS - 1
            for side in order.sample(sides, len(sides)):
                more: Json = {"last": last}
                if last and side == "before":
                    more["kernels"] = inputs.sizes
                if last and side != "before":
                    more["write"] = str(pair.folder / ("timed.pt" if side == "after" else "control.pt"))
                answer = pair.time(side, batch, **more)
                batches[side].append(per_call(answer["times"], count))
                memory[side] = int(answer["memory"])
                if side == "before" and last:
                    kernel, number = answer.get("kernel_ms"), pair.last_number
    except WorkerDied as died:
        raise SetupError("error", f"a worker {died} while it was timed") from died
    outcome = pair.judge_timed(inputs.steps, number)
    timing = conclude(batches, firsts, steady, kernel, seed, captured)
    extra = {"extra_bytes": max(0, memory["after"] - memory["before"]), "before_bytes": memory["before"]}
    return Timed(timing, {**extra, "after_bytes": memory["after"]}, outcome)


class _Inputs:
    """Calls in the order in which every side is timed: the sizes in turn, values new in each call.

    What may decide shapes inside repeats: whole numbers and bools take turns among ``POOL`` seeds for each
    size, and floats as well once ``repeating`` is set. The tensors are new objects all the same.
    """

    def __init__(self, sizes: list[Json]) -> None:
        self.sizes = sizes
        self.steps: list[Json] = []
        self.repeating = False

    def fresh(self, count: int) -> list[Json]:
        """The next calls."""
        made = []
        for k in range(len(self.steps), len(self.steps) + count):
            turn, size = divmod(k, len(self.sizes))
            again = 1000 + 97 * (turn % POOL)
            made.append(reseeded(self.sizes[size], again if self.repeating else 5000 + 97 * k, again))
        self.steps += made
        return made


def _settle(pair: Pair, inputs: _Inputs, captured: bool) -> list[float]:
    """Call the rewrite until it captures no new graph in two whole turns of the inputs; all times so far.

    Where floats decide shapes (a mask), new values never stop new graphs: from half the time on they repeat.
    """
    times: list[float] = []
    started = time.monotonic()
    graphs, quiet = 0, 0
    for number in range(MOST_CYCLES):
        late = time.monotonic() - started
        if late > WARM_S and number >= WARM_CYCLES:
            break
        inputs.repeating |= number >= MOST_CYCLES // 2 or late > WARM_S / 2
        more: Json = {} if number else {"start": True, "captured": captured}
        answer = pair.time("after", inputs.fresh(len(inputs.sizes)), **more)
        times += answer["times"]
        quiet = quiet + 1 if answer["captures"] == graphs else 0
        graphs = answer["captures"]
        if quiet > 2 * POOL:  # some capture a shape when they see it for the second or third time
            break
    return times


def conclude(
    batches: dict[str, list[float]],
    firsts: dict[str, list[float]],
    steady: dict[str, float],
    kernel: float | None,
    seed: int,
    captured: bool,
) -> Timing:
    """Claim nothing from an interval with 1 in it, nor less than two runs of the original differ by."""
    ratio, interval = bootstrap(batches["before"], batches["after"], seed)
    _, control = bootstrap(batches["before"], batches["control"], seed)
    noise = max(abs(math.log(control[0])), abs(math.log(control[1])))
    certain = not interval[0] <= 1.0 <= interval[1] and min(abs(math.log(r)) for r in interval) > noise
    before, after = statistics.median(batches["before"]), statistics.median(batches["after"])
    start = (
        sum(firsts["after"])
        - sum(firsts["before"])
        - (steady["after"] - steady["before"]) * len(firsts["after"])
    )
    gain = before - after
    even = math.ceil(max(0.0, start) / gain) if certain and gain > 0 else None
    label = "if captured" if captured else ""
    return Timing(before, after, ratio if certain else None, interval, even, kernel, control, label)


def reseeded(step: Json, seed: int, whole: int) -> Json:
    """The same call on other data: ``seed`` for floating values, ``whole`` for numbers that may be sizes."""
    given = {n: _reseeded(r, seed + i, whole + i) for i, (n, r) in enumerate(step["a"].items())}
    return {**step, "a": given}


def _reseeded(recipe: Json, seed: int, whole: int) -> Json:
    if "dict" in recipe:
        inner = enumerate(recipe["dict"].items())
        return {"dict": {k: _reseeded(r, seed + i, whole + i) for i, (k, r) in inner}}
    if "list" in recipe:
        return {"list": [_reseeded(r, seed + i, whole + i) for i, r in enumerate(recipe["list"])]}
    if "t" not in recipe:
        return recipe
    return {**recipe, "seed": seed if recipe["t"] in (*FLOATS, *COMPLEX, *SMALL) else whole}
