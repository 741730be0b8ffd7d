"""The worker's loop: one request, some progress, one answer."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from . import leaks, reference, wire
from .branches import Branches
from .building import LEAST
from .clues import buffers_of, class_files, clues, held_by
from .deciding import Kind, decide, head
from .episode import Episode, Plan
from .files import Files
from .finer import Finer, is_coarse
from .graphs import CaptureBlocked, Capturing, Counter
from .hardware import Hardware
from .holdings import watch_optimizers
from .inputs import is_placed
from .isolation import go_home, is_sticky, part_at_fork
from .judge import Trace, compare, read, write
from .observe import plain, same_bits, state_tensors
from .sensitivity import Sensitivity
from .sites import Sites
from .spoken import Listener
from .timing import Stopwatch, user_settings
from .trees import LoadError, Subject, Target, Tree, parameters_of, place

FEW_MODULES = 20


class Worker:
    """One tree, one target. Every method called ``do_*`` answers one request with plain data."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.counter = Counter()
        self.stepped = False  # whether an optimizer that has a capturable form was stepped
        self.built = 0  # parameters that modules were given: code that builds models in a call
        self.hardware = Hardware()
        self.sites: Sites | None = None
        self.branches: Branches | None = None
        self.target: Target | None = None
        self.tree: Tree | None = None
        self.adopted: dict[int, dict[str, torch.Tensor]] = {}
        self.first: dict[int, dict[str, torch.Tensor]] = {}  # the state the original's instances start from
        self.starts: dict[str, torch.Tensor] = {}  # of it what is large, by the names of a recorder
        self.device = "cpu"
        self.listener = Listener(Path("/"))
        self.files = Files(Path("/"))
        self.traces: dict[int, Trace] = {}
        self.other = Trace([], [])  # what was last compared with
        self.finer = Finer()
        self.instances = 2
        self.sensitivity = Sensitivity()
        self.stopwatch: Stopwatch | None = None
        self.frozen = 0  # modules there were when objects were last put aside from garbage collection

    # -- start ----------------------------------------------------------------------------------------------
    def do_hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Versions and the device; installs the emulator where the parent asks for it."""
        torch.set_num_threads(1)
        emulated, cuda = False, torch.version.cuda
        wanted = request["device"]
        if wanted == "emulated" or (wanted == "auto" and not torch.cuda.is_available()):
            emulated = bool(request["needs_cuda"])
        if wanted == "cuda" and not torch.cuda.is_available():
            seen = f"torch {torch.__version__} sees no CUDA device"
            return {"error": f"{sys.executable}: {seen}; use --device emulated"}
        if emulated:
            from _refactor_emulator import install  # type: ignore[import-not-found]  # loaded by path at the start

            self.hardware.emulator = install()
            self.hardware.emulator.poison_empty(True)  # memory nobody wrote must not look right
        real = bool(request["needs_cuda"]) and not emulated
        if real:
            self.hardware.install()
        if request["needs_cuda"]:
            self.counter.install(self.hardware)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self.device = "cuda" if request["needs_cuda"] else "cpu"
        name = torch.cuda.get_device_name() if real else "emulated" if emulated else "cpu"
        return {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": name,
            "emulated": emulated,
            "cuda": cuda,
        }

    def do_load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the tree, build every instance once, save or adopt the state both sides start from."""
        os.chdir(request["root"])
        self.tree = Tree(request["root"], request["roots"], request.get("harness"))
        self.target = Target(self.tree, request["target"], self.device)
        self.listener = Listener(self.tree.root)
        self.listener.install()
        self.files = Files(self.tree.root)
        self.files.install()
        watch_optimizers()
        if request["side"] == "before":
            register_module_parameter_registration_hook(self._count_built)
            register_optimizer_step_pre_hook(self._note_step)
            self.sites = Sites(self.tree.root, set(request["differing"]))
            self.sites.install()
            self.branches = Branches(self.sites)
            self.branches.install()
        try:
            self.target.first_import()
            subjects = [self.target.build(i) for i in range(self.instances)]
        except LoadError as error:
            return {"error": str(error)}
        answer: dict[str, Any] = {"modules": self.tree.loaded(), "strangers": self.tree.strangers()}
        answer["is_module"] = subjects[0].network is not None
        answer["state"] = list(state_tensors(subjects[0]))
        answer["parameters"] = parameters_of(subjects[0])
        answer |= self._clues(request, answer["modules"], subjects[:1])
        gc.collect()
        gc.freeze()  # torch's own objects: collections between calls look at the program's alone
        self.frozen = len(sys.modules)
        if request.get("state"):
            state = {
                i: {k: v.detach().cpu() for k, v in state_tensors(s).items()} for i, s in enumerate(subjects)
            }
            torch.save(state, request["state"])
            self._start_from(state)
        return answer

    def _start_from(self, state: dict[int, dict[str, torch.Tensor]]) -> None:
        self.first = state
        self.starts = {
            f"{index}:state_dict[{key!r}]": plain(t)
            for index, held in state.items()
            for key, t in held.items()
            if t.layout is torch.strided and t.numel() >= LEAST
        }

    def _clues(self, request: dict[str, Any], modules: list[str], subjects: list[Subject]) -> dict[str, Any]:
        """What the files that differ, and the target's own, compare with; settings that its classes read."""
        assert self.tree is not None
        root, entry = self.tree.root, Path(subjects[0].module.__file__ or "/")
        differing = [m for m in modules if m in request["differing"] and Path(m).name != request["runtime"]]
        compared = clues({entry, *(root / m for m in differing)})
        held = list(held_by(subjects, root))
        named = [*((name, value) for _, name, value in held), *buffers_of(subjects)]
        read = clues(class_files(subjects, root))
        return {"thresholds": compared.thresholds(named), "settings": read.settings(held)}

    def do_adopt(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compare the state this tree starts from with the other's; take the other's where values differ."""
        assert self.target is not None
        saved: dict[int, dict[str, torch.Tensor]] = torch.load(request["state"], weights_only=True)
        self._start_from(saved)
        self.target.fresh()
        for index, theirs in saved.items():
            mine = state_tensors(self.target.build(index))
            if list(mine) != list(theirs):
                missing = [k for k in theirs if k not in mine]
                extra = [k for k in mine if k not in theirs]
                return {"keys": {"missing": missing, "extra": extra, "order": not missing and not extra}}
            for key, value in theirs.items():
                if mine[key].shape != value.shape or mine[key].dtype != value.dtype:
                    sizes = (
                        f"{value.dtype}{list(value.shape)} against {mine[key].dtype}{list(mine[key].shape)}"
                    )
                    return {"keys": {"missing": [], "extra": [], "order": False, "shape": f"{key}: {sizes}"}}
            if not all(same_bits(mine[k].detach().cpu(), v) for k, v in theirs.items()):
                self.adopted[index] = theirs
        return {"adopted": sorted(self.adopted)}

    def do_loaded(self, request: dict[str, Any]) -> dict[str, Any]:
        """Files of the tree that were imported by now."""
        assert self.tree is not None
        return {"modules": self.tree.loaded()}

    # -- sequences ------------------------------------------------------------------------------------------
    def _make(self, index: int) -> Subject:
        assert self.target is not None
        subject = self.target.build(index)
        if index in self.adopted and subject.network is not None:
            subject.network.load_state_dict(self.adopted[index])
        return subject

    def _make_wide(self, index: int) -> Subject:
        """As `_make`, for a run in which everything is float64 and parameters would be drawn otherwise."""
        assert self.target is not None
        subject = self.target.build(index)
        if index in self.first and subject.network is not None:
            subject.network.load_state_dict(self.first[index])
        return subject

    def _plan(self, request: dict[str, Any]) -> Plan:
        assert self.target is not None

        def progress(step: int) -> None:
            wire.send(self.out, {"step": step})

        return Plan(
            device=self.device,
            mode=self.target.mode,
            gradients=tuple(request.get("gradients") or ()),
            strides=bool(request.get("strides")),
            starts=self.starts,
            listener=self.listener,
            files=self.files,
            aside=self.counter.aside,
            hardware=self.hardware,
            on_step=progress,
            looking=self.tree.looking if self.tree is not None else lambda: None,
            unwatched=self.sites.unwatched if self.sites is not None else contextlib.nullcontext,
        )

    def _count_built(self, *_: object) -> None:
        self.built += 1

    def _note_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.stepped |= any("capturable" in group for group in optimizer.param_groups)

    def _episode(self, request: dict[str, Any], plan: Plan) -> Trace:
        assert self.target is not None
        assert self.tree is not None
        go_home(self.tree.root)
        self.files.restore()
        self.target.fresh()
        episode = Episode(self._make_wide if plan.wide else self._make, plan)
        try:
            episode.run(request["steps"], int(request["seed"]))
            return Trace(episode.observed, episode.recorder.tensors)
        finally:
            del episode
            self.files.restore()
            if self.device == "cuda":
                gc.collect()
                self._freeze()

    def _freeze(self) -> None:
        """Let later collections pass over modules imported since: torch's compiler takes 0.2 s each time."""
        if len(sys.modules) > self.frozen + FEW_MODULES:
            gc.freeze()
            self.frozen = len(sys.modules)

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a sequence; keep the trace here, or write it where the request says."""
        captures, replays, self.counter.apart = self.counter.captures, self.counter.replays, 0
        plan = self._plan(request)
        growth: list[int] = []
        built: list[int] = []
        step_report = plan.on_step

        def progress(step: int) -> None:
            growth.append(self.counter.captures - self.counter.apart - captures)
            built.append(self.built)
            step_report(step)

        plan.on_step = progress
        answer: dict[str, Any] = {}
        if request.get("wide"):
            Kind("free1").prepare(plan)
            plan.wide = True
        if request.get("captured"):
            assert self.tree is not None
            root = self.tree.root
            plan.wrap = lambda subject: Capturing(subject, root)
        try:
            trace = self._episode(request, plan)
        except (LoadError, CaptureBlocked) as error:
            return {"error": str(error)}
        if request.get("captured"):
            blocked = _blocked(trace)
            if blocked:
                return {"blocked": blocked}
        if request.get("write"):
            write(trace, request["write"], self.starts)
        else:
            self.traces = {int(request["id"]): trace}
        answer["captures"] = self.counter.captures - captures
        answer["replays"] = self.counter.replays - replays
        answer["growth"] = [*growth, self.counter.captures - self.counter.apart - captures]
        answer["built"] = [*built, self.built]
        answer["poisoned"] = _poisoned(trace)
        if self.sites is not None:
            self.sensitivity.add(trace, request["steps"])
            answer["branches"] = {k: sorted(v) for k, v in self.sites.seen.items()}
            answer["one_sided"] = self.sites.one_sided()
            answer["insensitive"] = self.sensitivity.none
            answer["refused"] = self.sensitivity.refused
        return answer

    def do_probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the original alone, once for each step or sequence: outcomes at every branch, with margins."""
        assert self.sites is not None
        assert self.branches is not None
        taken: list[dict[str, list[bool]]] = []
        margins: list[dict[str, float]] = []
        raised: list[bool] = []
        poisoned = False
        seen = self.sites.seen
        self.branches.measuring = True
        for step in request["steps"]:
            self.sites.seen, self.branches.margins = {}, {}
            steps = step if isinstance(step, list) else [step]
            try:
                trace = self._episode({**request, "steps": steps}, self._plan(request))
                raised.append(any("exception" in entry["groups"] for entry in trace.observed))
                poisoned = poisoned or _poisoned(trace)
            finally:
                taken.append({site: sorted(outcomes) for site, outcomes in self.sites.seen.items()})
                margins.append(self.branches.margins)
            if poisoned:  # nothing works on the device any more
                break
        self.sites.seen, self.branches.measuring = seen, False
        return {"taken": taken, "margins": margins, "raised": raised, "poisoned": poisoned}

    def do_time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time one batch of calls; the first builds a fresh instance, the last hands over the results."""
        if request.get("start"):
            user_settings()
            self.hardware.active = False  # no request for an untimed run comes after this one
            assert self.target is not None
            assert self.tree is not None
            self.target.fresh()
            plan, root = self._plan(request), self.tree.root
            if request.get("captured"):
                plan.wrap = lambda subject: Capturing(subject, root)
            self.stopwatch = Stopwatch(self._make, plan)
        assert self.stopwatch is not None
        answer: dict[str, Any] = {
            "times": self.stopwatch.batch(request["steps"]),
            "memory": self.stopwatch.memory(),
            "captures": self.counter.captures,
        }
        if request.get("kernels"):
            answer["kernel_ms"] = self.stopwatch.kernels(request["kernels"])
        if request.get("last"):
            trace = self.stopwatch.trace()
            if request.get("write"):
                write(trace, request["write"], self.starts)
            else:
                self.traces = {int(request["id"]): trace}
            self.stopwatch = None
            self.files.restore()
        return answer

    def do_judge(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compare the trace kept here with the other worker's."""
        mine = self.traces[int(request["id"])]
        self.other = other = read(request["other"], self.starts)
        compared = compare(mine, other, bool(request.get("strides")))
        if not compared.certain and not compared.suspects:
            return {"equal": True, "notes": compared.notes, "largest": 0.0}
        with self.sites.unwatched() if self.sites is not None else contextlib.nullcontext():
            placed = frozenset(k for k, step in enumerate(request["steps"]) if is_placed(step.get("a")))
            steps, early = request["steps"], head(compared, len(request["steps"]))
            answer: dict[str, Any] = {"equal": True}
            if early is not None:  # a mutant dies of its first difference: the calls after it need no run
                again = partial(self._again, {**request, "steps": steps[: early[0]]})
                answer = decide(again, mine, early[1], self.stepped, placed)
            if answer["equal"]:
                answer = decide(partial(self._again, request), mine, compared, self.stepped, placed)
        return {**answer, "coarse": is_coarse(compared)}

    def do_judge_wide(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compare a float64 run of the original with one of the rewrite, after the runs as they are."""
        theirs = read(request["other"], self.starts)
        with self.sites.unwatched() if self.sites is not None else contextlib.nullcontext():
            mine = self._again(request, Kind("free1"), wide=True)
        if isinstance(mine, str):
            return {"impossible": mine}
        found = self.finer.add((self.traces[int(request["id"])], self.other), (mine, theirs))
        return {"difference": found.json() if found else None}

    def _again(self, request: dict[str, Any], kind: Kind, wide: bool = False) -> Trace | str:
        """A further run of the original; what it raised where the sequence cannot be run in that way."""
        plan = self._plan(request)
        kind.prepare(plan)
        plan.wide = wide
        try:
            return self._episode(request, plan)
        except Exception as error:  # the original itself, in a precision it was not written for
            root = self.tree.root if self.tree is not None else Path("/")
            return place(error, root)

    def do_weigh(self, request: dict[str, Any]) -> dict[str, Any]:
        """Count the operations of a sequence of the original."""
        plan, counting = self._plan(request), reference.Counting()
        plan.contexts = [lambda: counting]
        with self.sites.unwatched() if self.sites is not None else contextlib.nullcontext():
            trace = self._episode(request, plan)
        return {"operations": counting.operations, "poisoned": _poisoned(trace)}

    def do_levels(self, request: dict[str, Any]) -> dict[str, Any]:
        """What there is in the process after some rounds of calls."""
        assert self.target is not None
        assert self.tree is not None
        go_home(self.tree.root)
        self.target.fresh()
        with self.sites.unwatched() if self.sites is not None else contextlib.nullcontext():
            episode = Episode(self._make, self._plan(request))
            found = leaks.levels(episode, request["steps"], request["rounds"])
        self.files.restore()
        return {"levels": found}

    def do_deterministic(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the sequence twice, and tell whether the original gives the same bits."""
        first, second = (self._episode(request, self._plan(request)) for _ in range(2))
        compared = compare(first, second, False)
        if compared.certain:
            return {"same": False, "where": f"{compared.certain[0].path}: {compared.certain[0].text}"}
        if compared.suspects:
            return {"same": False, "where": compared.suspects[0].path}
        return {"same": True}


def _poisoned(trace: Trace) -> bool:
    """Whether the device no longer works: a device-side assert ends every later call of the process."""
    raised = [entry["groups"].get("exception") for entry in trace.observed]
    return any(r and is_sticky(r["message"]) for r in raised)


def _blocked(trace: Trace) -> str:
    for entry in trace.observed:
        raised = entry["groups"].get("exception")
        if raised and raised["type"] == "CaptureBlocked":
            return str(raised["message"])
    return ""


def serve(read: int, write: int) -> None:
    """Answer requests until the parent closes the pipe."""
    os.set_inheritable(read, False)
    os.set_inheritable(write, False)
    part_at_fork(read, write)
    worker = Worker(write)
    while True:
        try:
            request = wire.receive(read)
        except wire.WireClosed:
            os._exit(0)
        try:
            answer = getattr(worker, f"do_{request['op']}")(request)
        except Exception as error:
            root = worker.tree.root if worker.tree is not None else Path("/")
            answer = {"broken": place(error, root), "trace": traceback.format_exc()[-3000:]}
        wire.send(write, {"answer": answer})
