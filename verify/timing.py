"""Is the rewrite faster, and by how much: interleaved batches, a control, an interval before any claim."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .process import WorkerDied
from .recipes import Json, cycle
from .report import Timing
from .session import Outcome, Pair, SetupError

ROUNDS = 24
WARM_CYCLES = 5  # every size this often before the clock counts: graphs are captured then
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
    sizes = cycle(pair.target)
    steps: list[Json] = []

    def fresh(count: int) -> list[Json]:
        made = [reseeded(sizes[k % len(sizes)], 1000 + len(steps) + k) for k in range(count)]
        steps.extend(made)
        return made

    pair.control()
    sides = ("before", "after", "control")
    warm = fresh(WARM_CYCLES * len(sizes))
    firsts: dict[str, list[float]] = {}
    try:
        for side in sides:
            answer = pair.time(side, warm, start=True, captured=captured and side == "after")
            firsts[side] = answer["times"]
        steady = {side: statistics.median(times[-2 * len(sizes) :]) for side, times in firsts.items()}
        length = int(min(10.0, max(1.0, BUDGET_MS / ROUNDS / max(steady.values()) / len(sizes)))) * len(sizes)
        batches: dict[str, list[float]] = {side: [] for side in sides}
        order = random.Random(seed)
        memory: dict[str, int] = {}
        kernel: float | None = None
        number = 0
        for turn in range(ROUNDS):
            batch, last = fresh(length), turn == ROUNDS - 1
            for side in order.sample(sides, len(sides)):
                more: Json = {"last": last}
                if last and side == "before":
                    more["kernels"] = sizes
                if last and side != "before":
                    more["write"] = str(pair.folder / ("timed.pt" if side == "after" else "control.pt"))
                answer = pair.time(side, batch, **more)
                batches[side].append(per_call(answer["times"], len(sizes)))
                memory[side] = int(answer["memory"])
                if side == "before" and last:
                    kernel, number = answer.get("kernel_ms"), pair.last_number
    except WorkerDied as died:
        raise SetupError("error", f"a worker {died} while it was timed") from died
    outcome = pair.judge_timed(steps, number)
    timing = conclude(batches, firsts, steady, kernel, seed, captured)
    extra = {"extra_bytes": max(0, memory["after"] - memory["before"]), "before_bytes": memory["before"]}
    return Timed(timing, {**extra, "after_bytes": memory["after"]}, outcome)


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


def reseeded(step: Json, seed: int) -> Json:
    """The same call on other data."""
    return {
        **step,
        "a": {name: _reseeded(recipe, seed + i) for i, (name, recipe) in enumerate(step["a"].items())},
    }


def _reseeded(recipe: Json, seed: int) -> Json:
    if "dict" in recipe:
        return {"dict": {k: _reseeded(r, seed + i) for i, (k, r) in enumerate(recipe["dict"].items())}}
    if "list" in recipe:
        return {"list": [_reseeded(r, seed + i) for i, r in enumerate(recipe["list"])]}
    return {**recipe, "seed": seed} if "t" in recipe else recipe
