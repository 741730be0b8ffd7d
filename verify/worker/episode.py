"""Run one sequence of steps against one tree, and observe everything after each."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import calling, held, holdings, leaving, observe
from .files import Files
from .hardware import Hardware
from .inputs import Builder, tensor
from .isolation import is_sticky
from .racing import entered, hesitating, together
from .renewing import any_inference, chosen, disturbed, renewed
from .results import by_turns, settled
from .spoken import Listener, Spoken, said_by, told
from .trees import Subject, seed_everything

Step = dict[str, Any]
LOOKS = 3
KEPT = 12  # results kept alive, and looked at again at the end,
EARLY = 3  # and the first ones: a ring of buffers may be longer


@dataclass
class Call:
    """One call: what it got and gave."""

    step: int
    arguments: dict[str, Any]
    result: Any = None
    error: BaseException | None = None
    spoken: Spoken = field(default_factory=Spoken)
    settings: dict[str, str] = field(default_factory=dict)  # of the process, before the call
    left: dict[str, str] = field(default_factory=dict)  # and after it
    parameters: dict[str, Tensor] = field(default_factory=dict)  # of the module, before the call
    called: dict[str, Any] = field(default_factory=dict)  # what came of calling what it gave


@dataclass
class Plan:
    """Settings of one episode."""

    device: str
    mode: str
    gradients: tuple[str, ...] = ()
    strides: bool = False
    perturb: int = 0  # seed of a relative disturbance of the inputs by a few units in the last place
    double: bool = False
    wide: bool = False  # instances are built in float64 as well, not converted afterwards
    starts: Mapping[str, Tensor] = field(default_factory=dict)  # of large state, by the recorder's names
    wrap: Callable[[Subject], Callable[..., Any]] | None = None
    listener: Listener = field(default_factory=lambda: Listener(Path("/")))
    files: Files = field(default_factory=lambda: Files(Path("/")))
    hardware: Hardware = field(default_factory=Hardware)
    on_step: Callable[[int], None] = lambda index: None
    looking: Callable[[], Callable[[Any], Any] | None] = lambda: None
    unwatched: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    aside: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    contexts: list[Callable[[], contextlib.AbstractContextManager[Any]]] = field(default_factory=list)


class Episode:
    """State of one sequence. ``make(i)`` builds instance number i."""

    def __init__(self, make: Callable[[int], Subject], plan: Plan) -> None:
        self.plan, self.make = plan, make
        self.recorder = observe.Recorder(plan.mode == "inference", plan.starts)
        self.subjects: dict[int, Subject] = {}
        self.callables: dict[int, Callable[..., Any]] = {}
        self.optimizers: dict[int, torch.optim.Optimizer] = {}
        self.builders: dict[int, Builder] = {}
        self.looked: dict[int, int] = {}  # calls of an instance after which its parameters were looked at
        self.stepping: set[int] = set()  # instances that change their own parameters in a call
        self.calls: list[Call] = []
        self.observed: list[dict[str, Any]] = []
        self.hooks = leaving.Hooks()
        self.widened: list[tuple[Tensor, torch.dtype]] = []
        self.grad_mode: bool | None = None
        self.autocast: str | None = None
        self.settings = (
            ""  # "altered" once an attribute was changed from outside, "refused" if it could not be
        )

    def run(self, steps: list[Step], seed: int) -> None:
        """Run every step; observations are in ``observed``, their tensors in ``recorder.tensors``."""
        with contextlib.ExitStack() as stack:
            if not self.plan.wide:
                self._build(steps, seed)
            for context in self.plan.contexts:
                stack.enter_context(context())
            if self.plan.wide:
                self._build(steps, seed)
            number = 0
            try:
                for number, step in enumerate(steps):
                    self.plan.on_step(number)
                    getattr(self, "_" + step["op"])(number, step)
                self._finish(len(steps))
            except Exception as error:
                if not is_sticky(str(error)):
                    raise
                self._lost(number, steps[min(number, len(steps) - 1)], error)
            finally:
                held.narrowed(self.widened)

    def _build(self, steps: list[Step], seed: int) -> None:
        seed_everything(seed)
        for index in sorted({int(s.get("i", 0)) for s in steps} | {0}):
            self.subject(index)
        seed_everything(seed)

    def _lost(self, number: int, step: Step, error: Exception) -> None:
        """The device works no more: what it said is the last observation."""
        said = {"type": type(error).__qualname__, "message": str(error)[:400]}
        entry = {"step": number, "outside": bool(step.get("outside")), "settings": self.settings}
        self.observed.append({**entry, "wide": bool(step.get("wide")), "groups": {"exception": said}})

    # -- subjects -------------------------------------------------------------------------------------------
    def subject(self, index: int) -> Subject:
        """Instance number ``index``, built when it is first asked for."""
        if index not in self.subjects:
            subject = self.make(index)
            self._adopt(index, subject)
        return self.subjects[index]

    def _adopt(self, index: int, subject: Subject) -> None:
        if self.plan.double:
            self.widened += held.doubled(subject, self.plan.listener.root)
        if self.plan.perturb and subject.network is not None:
            with torch.no_grad():
                for p in subject.network.parameters():
                    p.copy_(disturbed(p, self.plan.perturb))
        self.subjects[index] = subject
        self.callables[index] = self.plan.wrap(subject) if self.plan.wrap else subject.call
        convert = (self._converted,) if self.plan.perturb or self.plan.double else ()
        self.builders.setdefault(index, Builder(self.plan.device, self.plan.gradients, *convert))

    def mode(self) -> contextlib.AbstractContextManager[Any]:
        """Grad, inference and autocast mode as the target and the steps so far say."""
        stack = contextlib.ExitStack()
        if self.grad_mode is not None:
            stack.enter_context(torch.set_grad_enabled(self.grad_mode))
        elif self.plan.mode == "inference":
            stack.enter_context(torch.inference_mode())
        if self.autocast is not None:
            device = self.plan.device.partition(":")[0]
            stack.enter_context(torch.autocast(device, dtype=getattr(torch, self.autocast)))
        return stack

    # -- steps ----------------------------------------------------------------------------------------------
    def _call(self, number: int, step: Step) -> None:
        index = int(step.get("i", 0))
        self._zero(index, step)
        with self.mode():
            call = Call(number, self.arguments(index, step))
            before = {name: list(observe.tensors_of(v, name)) for name, v in call.arguments.items()}
            held = self._parameters(index)
            call.settings, call.parameters = leaving.settings(), observe.state_tensors(self.subjects[index])
            self.plan.hardware.arrive_late([t for pairs in before.values() for _, t in pairs])
            self.invoke(index, call)
            call.left = leaving.settings()
            if any(not torch.equal(p, old) for p, old in held):
                self.stepping.add(index)
            if step.get("backward") and call.error is None:
                self.backward(index, call, step)
            if call.error is None:
                with self.plan.listener.listening(call.spoken), self.plan.aside():
                    owner = self.subjects[index].network
                    call.called = calling.called(call.result, call.arguments, "result", owner, times=2)
        self.calls.append(call)
        given = [pair for pairs in before.values() for pair in pairs]
        self._observe(number, index, call, given, step)
        self.builders[index].last_tensors = [t for _, t in observe.tensors_of(call.result)]
        for old in self.calls[EARLY:-KEPT]:
            old.result = None

    def arguments(self, index: int, step: Step) -> dict[str, Any]:
        """The arguments of a call, disturbed or in float64 where the plan says so."""
        return self.builders[index].arguments(step["a"])

    def _converted(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value.double() if self.plan.double else disturbed(value, self.plan.perturb)

    def invoke(self, index: int, call: Call) -> None:
        """Call the target; result or exception, and what it said, are kept in ``call``."""
        with self.plan.listener.listening(call.spoken):
            self.invoke_quietly(index, call)

    def invoke_quietly(self, index: int, call: Call, to_the_end: bool = True) -> None:
        """As invoke, without the redirection of output, which belongs to the whole process."""
        positional = sorted(
            (n for n in call.arguments if n[0] == "_" and n[1:].isdigit()), key=lambda n: int(n[1:])
        )
        keywords = {k: v for k, v in call.arguments.items() if k not in positional}
        try:
            result = self.callables[index](*(call.arguments[n] for n in positional), **keywords)
            call.result = settled(result) if to_the_end else result
        except BaseException as error:  # whatever a program raises is what both sides are compared by
            call.error = error

    def _parameters(self, index: int) -> list[tuple[Tensor, Tensor]]:
        """Parameters with copies, in the first calls of an instance that trains."""
        network = self.subjects[index].network
        seen = self.looked.get(index, 0)
        if network is None or self.plan.mode != "train" or index in self.stepping or seen >= LOOKS:
            return []
        self.looked[index] = seen + 1
        return [(p, p.detach().clone()) for p in network.parameters()]

    def _zero(self, index: int, step: Step) -> None:
        """Clear gradients, as the caller of a module that does not step itself must."""
        subject = self.subject(index)
        if step.get("zero") and subject.network is not None and index not in self.stepping:
            subject.network.zero_grad(set_to_none=step["zero"] == "none")

    def backward(self, index: int, call: Call, step: Step) -> None:
        """Differentiate a weighted sum of the outputs, and step when the step says so."""
        outputs = [t for _, t in observe.tensors_of(call.result) if t.requires_grad and t.is_floating_point()]
        if not outputs:
            return
        try:
            total = None
            for k, output in enumerate(outputs):
                weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(k + 1)) + 0.5
                part = (output * weights.to(output.device, output.dtype)).sum() / max(1, output.numel())
                total = part if total is None else total + part
            assert total is not None
            total.backward()  # type: ignore[no-untyped-call]
            network = self.subjects[index].network
            if step.get("sgd") and network is not None and not self._stepped_by_itself(index, network):
                if index not in self.optimizers:
                    self.optimizers[index] = torch.optim.SGD(network.parameters(), lr=0.01)
                self.optimizers[index].step()
        except Exception as error:
            call.error = error

    def _stepped_by_itself(self, index: int, network: nn.Module) -> bool:
        known = self.optimizers.get(index)
        return known is None and holdings.owned_by_optimizer(network)

    def _write_out(self, number: int, step: Step) -> None:
        """Write into every tensor the last call returned, as its owner may."""
        for call in self.calls[-1:]:
            for _, t in observe.tensors_of(call.result):
                with contextlib.suppress(Exception), torch.no_grad(), self.mode():
                    t.fill_(7)

    def _refill(self, number: int, step: Step) -> None:
        """Write new values into the tensors the last call was given."""
        index = int(step.get("i", 0))
        last = self.builders[index].last_arguments if index in self.builders else {}
        for name, recipe in step["a"].items():
            held = last.get(name)
            if isinstance(held, Tensor) and "t" in recipe and list(held.shape) == list(recipe["shape"]):
                with contextlib.suppress(Exception), self.mode(), torch.no_grad():
                    held.copy_(self.builders[index].convert(tensor(recipe)).to(held.device))

    def _mode_switch(self, number: int, step: Step) -> None:
        network = self.subject(int(step.get("i", 0))).network
        if network is not None:
            network.train(bool(step["train"]))

    def _rebind(self, number: int, step: Step) -> None:
        """Give the module other parameters, in one of the ways programs do."""
        network = self.subject(int(step.get("i", 0))).network
        if network is None:
            return
        generator = torch.Generator().manual_seed(int(step.get("seed", 1)))
        how, only, shuffled = step["how"], step.get("only"), bool(step.get("shuffled"))
        if how == "assign" and holdings.owned_by_optimizer(network):
            how = (
                "load"  # the optimizer would go on with the old parameters: no program that trains does this
            )
        if how == "to":
            network.to("cpu").to(self.plan.device)
            return
        if how in ("assign", "load"):
            state = network.state_dict()
            new = {k: renewed(v, generator, shuffled) for k, v in chosen(list(state.items()), only)}
            # a buffer that the program has bound to a result under inference mode can only be written there
            with torch.inference_mode() if any_inference(state.values()) else contextlib.nullcontext():
                network.load_state_dict(new, strict=only is None, assign=how == "assign")
            return
        held = list(network.parameters())
        if only is not None:  # by state_dict: a rewrite may have buffers of its own beside it
            held = chosen(list(network.state_dict(keep_vars=True).values()), only)
        for p in held:
            value = renewed(p, generator, shuffled)
            if how == "data":
                p.data = value
            else:
                with torch.inference_mode() if p.is_inference() else torch.no_grad():
                    p.copy_(value)

    def _attribute(self, number: int, step: Step) -> None:
        """Set a public attribute of the target or of a part of it, as its owner may."""
        index = int(step.get("i", 0))
        subject = self.subject(index)
        holder = subject.owner if subject.owner is not None else subject.call
        try:
            for part in filter(None, step["at"].split(".")):
                holder = getattr(holder, part)
            setattr(holder, step["name"], step["value"])
            self.settings = self.settings or "altered"
        except Exception:  # of the user's own setter, or a part the rewrite keeps elsewhere
            self.settings = "refused"

    def _seed(self, number: int, step: Step) -> None:
        seed_everything(int(step["seed"]))

    def _churn(self, number: int, step: Step) -> None:
        """Free what nobody holds, then fill the allocator's free memory with other values."""
        for call in self.calls[:-2]:
            call.result, call.arguments = None, {}
        gc.collect()
        sizes = (16, 64, 256, 1024, 4096, 16384)
        made = [torch.full((n,), 7.0e8, device=self.plan.device) for n in sizes for _ in range(4)]
        del made

    def _grad(self, number: int, step: Step) -> None:
        self.grad_mode = step["enabled"]

    def _autocast(self, number: int, step: Step) -> None:
        self.autocast = step["dtype"]

    def _deepcopy(self, number: int, step: Step) -> None:
        """Go on with a deep copy of the module, or with one that was pickled and read again."""
        index = int(step.get("i", 0))
        subject = self.subject(index)
        if subject.network is None or subject.call is not subject.owner:
            return
        made: nn.Module = subject.network
        error: Exception | None = None
        try:
            made = held.pickled(made) if step.get("pickled") else copy.deepcopy(made)
        except Exception as raised:
            error = raised
        if step.get("pickled") or error is not None:
            self._observe(number, index, Call(number, {}, error=error), [], step)
        if error is not None:
            return
        self._adopt(index, Subject(made, made, subject.module))

    def _interleave(self, number: int, step: Step) -> None:
        """Several calls before anything of their results is drawn, awaited or looked at."""
        index = int(step.get("i", 0))
        self.subject(index)
        calls = []
        with self.mode(), self.plan.listener.listening(Spoken()):
            for inner in step["calls"]:
                calls.append(Call(number, self.arguments(index, inner)))
                self.invoke_quietly(index, calls[-1], to_the_end=False)
            fine = [call for call in calls if call.error is None]
            for call, result in zip(fine, by_turns([call.result for call in fine]), strict=True):
                call.error = result if isinstance(result, BaseException) else None
                call.result = None if call.error is not None else result
        for call in calls:
            self.calls.append(call)
            given = [pair for n, v in call.arguments.items() for pair in observe.tensors_of(v, n)]
            self._observe(number, index, call, given, step)

    def _threads(self, number: int, step: Step) -> None:
        """Several calls at the same time, each in its own thread."""
        index = int(step.get("i", 0))
        self.subject(index)
        calls = []
        with self.mode():
            calls += [Call(number, self.arguments(index, inner)) for inner in step["calls"]]
        barrier = threading.Barrier(len(calls))

        def work(call: Call) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(10)
            with self.mode(), entered(self.plan.contexts), hesitating(self.plan.listener.root, call.step):
                results = []
                for _ in range(int(step.get("times", 1))):
                    self.invoke_quietly(index, call)
                    results.append(call.result)
                if len(results) > 1 and call.error is None:
                    call.result = results  # each may be the one that another thread wrote over

        workers = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls]
        together(workers)
        for call in calls:
            self.calls.append(call)
            given = [pair for n, v in call.arguments.items() for pair in observe.tensors_of(v, n)]
            self._observe(number, index, call, given, step)

    # -- observations ---------------------------------------------------------------------------------------
    def _observe(
        self, number: int, index: int, call: Call, given: list[tuple[str, Tensor]], step: Step
    ) -> None:
        subject, recorder = self.subjects[index], self.recorder
        groups: dict[str, Any] = {}
        if call.error is not None:
            if isinstance(call.error, Exception) and is_sticky(str(call.error)):
                raise call.error
            groups["exception"] = {"type": type(call.error).__qualname__, "message": str(call.error)[:400]}
            if said_by(call.error, self.plan.listener.root):
                groups["message"] = told("message", str(call.error))
                for name, value in observe.public_items(call.error):
                    groups["message"] += recorder.leaves(value, f"message.{name}")
        else:
            groups["result"] = recorder.leaves(call.result, "result")
            groups["called"] = self._answers(call.called)
            kept = [
                (f"result of step {c.step}: {p}", t)
                for c in self.calls[-4:]
                if c is not call and c.result is not None
                for p, t in observe.tensors_of(c.result)
            ]
            named = [(f"state {k}", v) for k, v in observe.state_tensors(subject).items()]
            groups["aliasing"] = observe.aliases(
                call.result, [*((f"input {p}", t) for p, t in given), *kept, *named]
            )
        groups["inputs"] = [leaf for path, t in given for leaf in recorder.leaves(t, path)]
        groups["containers"] = observe.containers(call.arguments, given, call.result)
        groups["flags"] = leaving.flags(subject, call.settings, call.left, call.parameters)
        groups["flags"] += leaving.said(call.spoken.left)
        call.parameters = {}
        groups["input gradients"] = [
            leaf for path, t in given if t.requires_grad for leaf in recorder.leaves(t.grad, f"{path}.grad")
        ]
        if observe.state_size(subject) <= observe.STATE_LIMIT:
            groups["state"] = observe.state(subject, recorder, index)
            groups["gradients"] = observe.gradients(subject, recorder, index)
        with self.plan.unwatched():
            root = self.plan.listener.root
            parts = held.held(subject, root)
            groups["held state"] = held.state(parts, recorder, index)
            groups["held gradients"] = held.gradients(parts, recorder, index)
            networks = [m for _, m in parts] + ([subject.network] if subject.network is not None else [])
            groups["flags"] += self.hooks.left(index, networks)
            groups["attributes"] = holdings.attributes(subject, recorder, index, root)
            groups["optimizers"] = holdings.optimizers(subject, recorder, index, held.beside(subject, root))
            groups["observed"] = holdings.shown(subject, recorder, index, self.plan.looking())
        groups["printed"] = call.spoken.printed()
        groups["recorded"] = call.spoken.recorded()
        groups["files"] = self.plan.files.leaves(recorder)
        groups["random"] = observe.random_state(self.plan.device)
        entry = {"step": number, "outside": bool(step.get("outside")), "settings": self.settings}
        entry["wide"] = bool(step.get("wide"))
        entry["pickled"] = bool(step.get("pickled"))
        entry["laid out"] = any("layout" in r for r in step.get("a", {}).values())
        self.observed.append({**entry, "groups": groups})

    def _answers(self, called: dict[str, Any]) -> list[list[Any]]:
        """What came of calling what a call gave, as plain data."""
        return [leaf for path, given in called.items() for leaf in self.recorder.leaves(given, path)]

    def _finish(self, number: int) -> None:
        """Look again at everything that was kept."""
        groups: dict[str, Any] = {"kept": [], "state": [], "gradients": [], "called": [], "flags": []}
        groups |= {"held state": [], "held gradients": []}
        for call in [*self.calls[: min(EARLY, max(0, len(self.calls) - KEPT))], *self.calls[-KEPT:]]:
            if call.result is not None:
                label = f"result of step {call.step}"
                groups["kept"] += self.recorder.leaves(call.result, label)
                with self.mode(), self.plan.listener.listening(Spoken()), self.plan.aside():
                    later = calling.called(call.result, call.arguments, label)
                groups["called"] += self._answers(later)
            for name, value in call.arguments.items():
                for path, t in observe.tensors_of(value, f"{name} of step {call.step}"):
                    groups["kept"] += self.recorder.leaves(t, path)
        for index, subject in self.subjects.items():
            groups["state"] += observe.state(subject, self.recorder, index)
            groups["gradients"] += observe.gradients(subject, self.recorder, index)
            parts = held.held(subject, self.plan.listener.root)
            groups["flags"] += leaving.replaced(self.plan.listener.root)
            groups["held state"] += held.state(parts, self.recorder, index, at_end=True)
            groups["held gradients"] += held.gradients(parts, self.recorder, index, at_end=True)
        entry = {"step": number, "outside": False, "settings": self.settings}
        self.observed.append({**entry, "groups": groups})
