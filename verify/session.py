"""Two workers in step: the same sequence in both trees, judged by the worker of the original."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .process import NO_TORCH, OutOfTime, Worker, WorkerDied
from .recipes import Hints
from .targets import Target
from .trees import RUNTIME, Trees, sizes_in

FINER_CHECKS = 8  # sequences that are run in float64 on both sides
START_TIMEOUT_S = 60.0  # at least, and five times what a step may take: importing on a cold, busy machine
JUDGE_TIMEOUT_S = 300.0

Json = dict[str, Any]


class SetupError(Exception):
    """The target cannot be run at all; the message is the reason of the verdict."""

    def __init__(self, verdict: str, reason: str, check: str = "load") -> None:
        super().__init__(reason)
        self.verdict, self.reason, self.check = verdict, reason, check


@dataclass(frozen=True)
class Outcome:
    """How one sequence ended. ``status`` is equal, differs or error (the original's fault)."""

    status: str
    text: str = ""
    step: int | None = None
    group: str = ""
    notes: tuple[str, ...] = ()
    unmeasured: str = ""
    largest: float = 0.0
    coarse: bool = False  # equal but for roundings to half precision


@dataclass(frozen=True)
class Probed:
    """One call of the original: outcomes at every branch, and by how much comparisons in it hold."""

    taken: dict[str, list[bool]]
    margins: dict[str, float]
    raised: bool = False


@dataclass
class Tally:
    """What the runs of one target have shown so far."""

    sequences: int = 0
    calls: int = 0
    captures: int = 0
    replays: int = 0
    branches: dict[str, list[bool]] = field(default_factory=dict)
    one_sided: dict[str, bool] = field(default_factory=dict)
    insensitive: bool = False
    refused: str = ""  # what the original raised, if it has raised in every call so far
    largest: float = 0.0
    notes: list[str] = field(default_factory=list)
    unmeasured: str = ""


class Pair:
    """The two workers of one target. Restarted when one of them dies."""

    def __init__(self, target: Target, trees: Trees, python: str, device: str, timeout: float) -> None:
        self.target, self.trees, self.python, self.device = target, trees, python, device
        self.timeout = timeout
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="refactor-verify-", dir=shared)
        self.folder = Path(self._folder.name)
        self.workers: dict[str, Worker] = {}
        self.hello: Json = {}
        self.is_module = False
        self.over = threading.Event()  # the time of the target is over: nothing more is asked
        self.is_down = False  # a worker died: both are started anew before the next request
        self.modules: set[str] = set()  # files that were imported, relative to a root
        self.clues = Hints()
        self.tally = Tally()
        self._number = 0
        self._finer_left = FINER_CHECKS

    def control(self) -> Worker:
        """A second process of the original, for the noise between processes. Raises SetupError."""
        if "control" not in self.workers:
            self.workers["control"] = Worker("control", self.python, self.trees.before, self.over)
            self._one("control", {"op": "hello", "device": self.device, "needs_cuda": True})
            answer = self._one("control", {**self._load_request("before"), "state": None})
            if "error" in answer:
                raise SetupError("error", f"control: {answer['error']}")
        return self.workers["control"]

    def time(self, side: str, steps: list[Json], **more: Any) -> Json:
        """One timed batch in one worker. Raises SetupError and WorkerDied."""
        answer = self.workers[side].ask({**self.request(steps, 1), "op": "time", **more}, self.timeout * 4)
        if "broken" in answer:
            raise SetupError("error", f"timing of {side} failed: {answer['broken']}")
        return answer

    def judge_timed(self, steps: list[Json], number: int) -> Outcome:
        """Compare the results of all timed calls."""
        return self._judge({**self.request(steps, 1), "id": number}, self.folder / "timed.pt")

    def close(self) -> None:
        """End the workers and remove what they wrote."""
        for worker in self.workers.values():
            worker.stop(kill=True)
        self._folder.cleanup()

    def interrupt(self) -> None:
        """End whatever is under way, from another thread: it raises OutOfTime there."""
        self.over.set()
        for worker in list(self.workers.values()):
            worker.interrupt()

    # -- start ----------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start both workers, import both trees, give both the same state. Raises SetupError."""
        self.is_down = False
        for worker in self.workers.values():
            worker.stop(kill=True)
        for side, root in (("before", self.trees.before), ("after", self.trees.after)):
            try:
                self.workers[side] = Worker(side, self.python, root, self.over)
            except OSError as error:  # noqa: PERF203
                raise SetupError(
                    "error", f"cannot start the interpreter {self.python}: {error.strerror}"
                ) from error
        hello = self._both({"op": "hello", "device": self.device, "needs_cuda": self.target.device == "cuda"})
        for answer in hello.values():
            if "error" in answer:
                raise SetupError("error", answer["error"])
        self.hello = hello["before"]
        loads = {side: self._load_request(side) for side in self.workers}
        answers = self._both(loads["before"], loads["after"])
        self._check_loaded(answers)
        self.modules |= {m for answer in answers.values() for m in answer["modules"]}
        self.is_module = bool(answers["before"]["is_module"])
        told = answers["before"]
        others = [n for n in answers["after"]["thresholds"] if n not in told["thresholds"]]
        self.clues = Hints(
            thresholds=(*told["thresholds"], *others),
            settings=tuple(told["settings"]),
            state=tuple(told["state"]),
            sizes=sizes_in(self.trees),
            parameters=tuple(tuple(p) for p in told["parameters"]),
        )
        if self.is_module and answers["after"]["is_module"]:
            adopted = self._one("after", {"op": "adopt", "state": str(self.folder / "state.pt")})
            if "keys" in adopted:
                raise SetupError("fail", _keys_text(adopted["keys"]), "state")

    def _load_request(self, side: str) -> Json:
        before = side == "before"
        return {
            "op": "load",
            "side": side,
            "root": str(self.trees.before if before else self.trees.after),
            "roots": list(self.trees.before_roots if before else self.trees.after_roots),
            "harness": self.target.harness,
            "target": self.target.wire(),
            "differing": sorted(self.trees.differing),
            "runtime": RUNTIME,
            "state": str(self.folder / "state.pt") if before else None,
        }

    def _check_loaded(self, answers: dict[str, Json]) -> None:
        place = f"{self.target.place}: " if self.target.place else ""
        if "error" in answers["before"]:
            raise SetupError("error", f"{place}before: {answers['before']['error']}")
        if "error" in answers["after"]:
            raise SetupError("fail", f"only the rewrite cannot be built: {answers['after']['error']}")
        for side, answer in answers.items():
            if answer["strangers"]:
                raise SetupError(
                    "error",
                    f"{side}: a module of the tree was loaded from elsewhere: {answer['strangers'][0]}",
                )
        loaded = set(answers["before"]["modules"]) | set(answers["after"]["modules"])
        if not loaded & self.trees.differing:
            raise SetupError(
                "inconclusive", "nothing to compare: no module that was loaded differs between the trees"
            )

    def _both(self, request: Json, other: Json | None = None) -> dict[str, Json]:
        """Ask both at the same time; a dead worker is a SetupError here."""
        self.workers["before"].begin(request)
        self.workers["after"].begin(other or request)
        return {side: self._one(side, None) for side in ("before", "after")}

    def _one(self, side: str, request: Json | None) -> Json:
        worker = self.workers[side]
        try:
            if request is not None:
                worker.begin(request)
            answer = worker.finish(max(START_TIMEOUT_S, 5 * self.timeout))
        except WorkerDied as died:
            if died.code == NO_TORCH:
                text = f"{self.python} cannot import torch; name an interpreter that can with --python"
                raise SetupError("error", text) from died
            verdict = "fail" if side == "after" else "error"
            raise SetupError(verdict, f"the {side} worker {died} while loading {self.target.entry}") from died
        if "broken" in answer:
            raise SetupError("error", f"{side}: {answer['broken']}")
        return answer

    def loaded(self) -> set[str]:
        """Files that either side has imported, relative to its root; of a dead one what was known before."""
        for worker in () if self.over.is_set() else self.workers.values():
            with contextlib.suppress(WorkerDied, OutOfTime):
                if worker.alive:
                    self.modules |= set(worker.ask({"op": "loaded"}, self.timeout).get("modules", ()))
        return self.modules

    @property
    def last_number(self) -> int:
        """The number of the last request, under which the original's worker keeps its trace."""
        return self._number

    # -- sequences ------------------------------------------------------------------------------------------
    def request(self, steps: list[Any], seed: int, **more: Any) -> Json:
        """A numbered request to run a sequence, for workers that are up."""
        if self.is_down:
            self.start()
        self._number += 1
        common = {"id": self._number, "steps": steps, "seed": seed, "gradients": list(self.target.grad)}
        return {"op": "run", **common, "strides": "strides" in self.target.vary, **more}

    def run(self, steps: list[Json], seed: int, captured: bool = False) -> tuple[Outcome, Json]:
        """One sequence in both trees, compared; the after worker's answer comes with the outcome.

        In the answer ``growth`` counts the graphs captured before each step and at the end, and ``built`` the
        parameters that the original's modules were given until then.
        """
        request = self.request(steps, seed)
        written = self.folder / "after.pt"
        more = {"write": str(written), "captured": captured}
        dead: dict[str, WorkerDied] = {}
        answers: dict[str, Json] = {}
        for side in ("before", "after"):
            try:
                self.workers[side].begin(request if side == "before" else {**request, **more})
            except WorkerDied as died:  # noqa: PERF203
                dead[side] = died
        for side in ("before", "after"):
            if side not in dead:
                try:
                    answers[side] = self.workers[side].finish(self.timeout)
                except WorkerDied as died:
                    dead[side] = died
        if dead:
            return self._after_death(dead), answers.get("after", {})
        before, after = answers["before"], answers["after"]
        after["built"] = before.get("built")
        if not captured:
            self._count(steps, before, after)
        for side, answer in answers.items():
            trouble = answer.get("broken") or answer.get("error")
            if trouble:
                status = "differs" if side == "after" and "error" in answer else "error"
                return Outcome(status, f"{side}: {trouble}", group="load"), after
        if "blocked" in after:
            return Outcome("equal"), after
        judged = self._judge(request, written)
        if judged.coarse and not captured:
            judged = self._finer(request) or judged
        if any(answer.get("poisoned") for answer in answers.values()):
            self.is_down = True
        return judged, after

    def probe(self, steps: Sequence[Json | list[Json]]) -> list[Probed]:
        """What the original did at every branch, for each of some calls or sequences; empty if it died."""
        try:
            answer = self.workers["before"].ask({**self.request(list(steps), 0), "op": "probe"}, self.timeout)
        except WorkerDied:
            self.is_down = True
            return []
        self.is_down = self.is_down or bool(answer.get("poisoned")) or "broken" in answer
        keys = ("taken", "margins", "raised")
        return [Probed(*found) for found in zip(*(answer.get(k, []) for k in keys), strict=False)]

    def weigh(self, steps: list[Json]) -> int:
        """Operations the original needs for some calls; 0 if it died."""
        try:
            answer = self.workers["before"].ask({**self.request(steps, 0), "op": "weigh"}, self.timeout)
        except WorkerDied:
            self.is_down = True
            return 0
        self.is_down = self.is_down or bool(answer.get("poisoned")) or "broken" in answer
        return int(answer.get("operations", 0))

    def levels(self, steps: list[Json], rounds: list[int]) -> tuple[list[Json], list[Json]] | None:
        """What there is in either process after rounds of calls; None if one of them cannot tell."""
        request = {**self.request(steps, 1), "op": "levels", "rounds": rounds}
        found: list[list[Json]] = []
        try:
            for side in ("before", "after"):
                self.workers[side].begin(request)
            answers = [self.workers[side].finish(self.timeout) for side in ("before", "after")]
            found = [answer["levels"] for answer in answers if "levels" in answer]
        except WorkerDied:
            self.is_down = True
        return (found[0], found[1]) if len(found) == 2 else None

    def _judge(self, request: Json, written: Path) -> Outcome:
        try:
            judged = self.workers["before"].ask(
                {**request, "op": "judge", "other": str(written)}, JUDGE_TIMEOUT_S
            )
        except WorkerDied as died:
            self.is_down = True
            return Outcome("error", f"the judge {died}")
        if "broken" in judged:
            return Outcome("error", f"the judge failed: {judged['broken']}")
        self.tally.largest = max(self.tally.largest, float(judged["largest"]))
        self.tally.notes += [n for n in judged["notes"] if n not in self.tally.notes]
        self.tally.unmeasured = self.tally.unmeasured or judged.get("unmeasured", "")
        if judged["equal"]:
            known = not judged.get(
                "unmeasured"
            )  # an original that is another one each time tells nothing more
            return Outcome("equal", coarse=known and bool(judged.get("coarse")))
        difference = judged["difference"]
        text = f"{difference['path']}: {difference['text']}"
        return Outcome("differs", text, difference["step"], difference["group"])

    def _finer(self, request: Json) -> Outcome | None:
        """Run both sides in float64 too, and say what is off by less than half precision shows."""
        if self._finer_left <= 0 or self.is_down:
            return None
        self._finer_left -= 1
        written = str(self.folder / "wide.pt")
        judged: Json = {}
        try:
            wide = self.workers["after"].ask({**request, "write": written, "wide": True}, self.timeout)
            if not any(key in wide for key in ("broken", "error")):
                judge = {**request, "op": "judge_wide", "other": written}
                judged = self.workers["before"].ask(judge, JUDGE_TIMEOUT_S)
        except WorkerDied:  # in a precision it was not written for
            self.is_down = True
        found = judged.get("difference")
        if found is None:
            self._finer_left = self._finer_left if "difference" in judged else 0
            return None
        self._finer_left = 0
        return Outcome("differs", f"{found['path']}: {found['text']}", found["step"], found["group"])

    def _after_death(self, dead: dict[str, WorkerDied]) -> Outcome:
        """Only the rewrite dying is a difference; both workers are started again when they are needed."""
        self.is_down = True
        if "before" in dead:
            return Outcome("error", f"the original's worker {dead['before']}", dead["before"].step, "worker")
        died = dead["after"]
        return Outcome("differs", f"the rewrite's worker {died}, the original goes on", died.step, "worker")

    def _count(self, steps: list[Json], before: Json, after: Json) -> None:
        tally = self.tally
        tally.sequences += 1
        tally.calls += sum(1 for s in steps if s["op"] == "call")
        tally.captures += int(after.get("captures", 0))
        tally.replays += int(after.get("replays", 0))
        for site, outcomes in (before.get("branches") or {}).items():
            tally.branches[site] = sorted(set(tally.branches.get(site, [])) | set(outcomes))
        tally.one_sided = {
            s: v for s, v in (before.get("one_sided") or {}).items() if len(tally.branches.get(s, [])) < 2
        }
        tally.insensitive = bool(before.get("insensitive", False))
        tally.refused = str(before.get("refused", ""))


def _keys_text(keys: Json) -> str:
    if keys.get("shape"):
        return f"state_dict differs: {keys['shape']}"
    if keys["missing"]:
        return f"state_dict of the rewrite lacks {', '.join(keys['missing'][:5])}"
    if keys["extra"]:
        return f"state_dict of the rewrite has other keys: {', '.join(keys['extra'][:5])}"
    return "state_dict has its keys in another order"
