"""One side of one model of ``benchmarks/models.py``: builds it from one tree, runs, captures and times it.

Started by path, it imports the libraries of one tree and waits at a socket; each connection gets a copy of
the process to itself (libraries are imported once, and no model sees another). One JSON request a line is
answered with one. It borrows the verifier's worker: what is observed of a call, how two observations are
compared, and how a call is captured.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import importlib.util
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from model_inputs import copied, digest, doubled, moved, redrawn
from torch.utils._python_dispatch import TorchDispatchMode

VERIFY = Path(__file__).resolve().parents[1] / "verify"
CALLS = 4  # with other values each


def borrowed(name: str, folder: Path) -> Any:
    """A package of the verifier under a private name, as its own workers load it."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Count:
    """Captures and replays of this process."""

    captures = replays = 0

    def install(self) -> None:
        """Wrap the graph class that the model will find in ``torch.cuda``."""
        kind: Any = torch.cuda.CUDAGraph
        end, replay = kind.capture_end, kind.replay

        def counted_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.captures += 1
            return end(graph, *args, **kwargs)

        def counted_replay(graph: Any, *args: Any, **kwargs: Any) -> Any:
            self.replays += 1
            return replay(graph, *args, **kwargs)

        kind.capture_end, kind.replay = counted_end, counted_replay


class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where the host's generator moves first."""

    def __init__(self, tree: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tree, self.line = tree, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.line or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        state = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(state, torch.get_rng_state()):
            frames = [f for f in traceback.extract_stack() if trees.under(f.filename, self.tree)]
            if frames:
                self.line = f"{Path(frames[-1].filename).relative_to(self.tree)}:{frames[-1].lineno}"
        return result


class Side:
    """One built model. Methods called ``do_*`` answer one request."""

    def __init__(self, tree: Path, builder: Any, device: str) -> None:
        self.tree, self.device = tree, "cpu" if device == "cpu" else "cuda"
        self.real = device == "cuda"
        self.attempts: Iterator[Any] = iter(())
        self.attempt: Any = None
        self.counter = Count()
        if self.device == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]
            self.counter.install()
            torch.backends.cuda.matmul.allow_tf32 = False
            self.usual = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
        self.builder = builder
        self.model: Any = None
        self.inputs: Any = None
        self.traces: dict[str, Any] = {}
        self.call: Callable[..., Any] | None = None
        self.settled = (0, 0)  # captures and replays before the latest call that was observed

    def do_build(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build the first recipe that runs, with inputs of its own."""
        errors: list[str] = []
        for index, (model, inputs) in enumerate(self._recipes(request["name"], errors)):
            self.model = model.eval().to(self.device)
            self.inputs = moved(inputs, self.device)
            try:
                with torch.inference_mode():
                    self.model(*self.inputs[0], **self.inputs[1])
            except Exception as error:  # the next recipe may do
                errors.append(trees.place(error, self.tree))
                continue
            torch.save(moved(self.inputs, "cpu"), request["inputs"])
            return self._about(index)
        return {"error": "; ".join(errors[-3:]) or "no recipe"}

    def _recipes(self, name: str, errors: list[str]) -> Iterator[Any]:
        torch.manual_seed(0)
        yield from self.builder.recipes(name, errors)

    def do_begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the first recipe's model, which mostly is the one, while the other side makes its own."""
        self.attempts = enumerate(self._recipes(request["name"], []))
        self.attempt = next(self.attempts, None)
        return {}

    def do_follow(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the recipe with the number ``recipe`` and the inputs that the other side saved."""
        while self.attempt is not None and self.attempt[0] != request["recipe"]:
            self.attempt = next(self.attempts, None)
        if self.attempt is None:
            return {"error": f"no recipe {request['recipe']}"}
        model, _ = self.attempt[1]
        self.model = model.eval().to(self.device)
        self.inputs = moved(torch.load(request["inputs"], weights_only=True), self.device)
        return self._about(request["recipe"])

    def _about(self, index: int) -> dict[str, Any]:
        sizes = sum(p.numel() for p in self.model.parameters())
        return {
            "recipe": index,
            "parameters": sizes,
            "state": self._state(),
            "strangers": strangers(self.tree)[:3],
            "peak": torch.cuda.max_memory_allocated() if self.real else 0,
        }

    def _state(self) -> list[list[Any]]:
        """Keys of ``state_dict`` with a digest of each value."""
        return [[k, ["value", str(list(v.shape)), digest(v)]] for k, v in self.model.state_dict().items()]

    def _values(self, k: int) -> Any:
        return self.inputs if k == 0 else redrawn(self.inputs, 100 + k)

    def _observe(
        self, call: Callable[..., Any], model: Any, change: Callable[[Any], Any] = lambda v: v
    ) -> Any:
        """A trace of several calls: results, inputs as they are afterwards, aliasing, state, randomness."""
        recorder = observe.Recorder()
        subject = trees.Subject(call, model, sys.modules[type(model).__module__])
        observed = []
        for k in range(CALLS):
            self.settled = self.counter.captures, self.counter.replays
            args, kwargs = change(copied(self._values(k % (CALLS - 1))))
            trees.seed_everything(k)
            groups: dict[str, Any] = {}
            given = list(observe.tensors_of([list(args), kwargs], "inputs"))
            try:
                with torch.inference_mode():
                    result = call(*args, **kwargs)
            except graphs.CaptureBlocked:
                raise
            except Exception as error:
                groups["exception"] = {"type": type(error).__name__, "message": trees.place(error, self.tree)}
            else:
                groups["result"] = recorder.leaves(result, "result")
                groups["aliasing"] = observe.aliases(result, given)
            groups["inputs"] = recorder.leaves([t for _, t in given], "inputs")
            if k == CALLS - 1:
                groups["state"] = self._state()
                groups["attributes"] = holdings.attributes(subject, recorder, 0, self.tree)
            groups["random"] = observe.random_state(self.device)
            observed.append({"step": k, "groups": groups, "outside": False})
        return judge.Trace(observed, recorder.tensors)

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Observe some calls, eager or as captured by the verifier; keep the trace and write it."""
        replays, captures = self.counter.replays, self.counter.captures
        captured = bool(request.get("captured"))
        start = time.perf_counter()
        if captured:
            subject = trees.Subject(self.model, self.model, sys.modules[type(self.model).__module__])
            self.capturing = graphs.Capturing(subject, self.tree)
            args, kwargs = copied(self._values(0))
            try:
                with torch.inference_mode():
                    self.capturing(*args, **kwargs)
            except graphs.CaptureBlocked as blocked:
                return {"blocked": str(blocked)}
            except Exception as error:
                return {"blocked": trees.place(error, self.tree)}
            self.call = self.capturing
        else:
            args, kwargs = copied(self._values(0))
            with torch.inference_mode():
                for _ in range(
                    2 if self.device == "cuda" else 1
                ):  # a runtime of the program's own captures here
                    self.model(*args, **kwargs)
            self.call = self.model
        cold = time.perf_counter() - start
        trace = self._observe(self.call, self.model)
        self.traces[request["label"]] = trace
        torch.save({"observed": json.dumps(trace.observed), "tensors": trace.tensors}, request["write"])
        last = self.counter.captures - self.settled[0], self.counter.replays - self.settled[1]
        raised = [o["groups"]["exception"]["message"] for o in trace.observed if "exception" in o["groups"]]
        return {"replays": self.counter.replays - replays, "captures": self.counter.captures - captures,
                "last": last, "eager": eager_calls(), "cold_s": cold, "raised": raised[:1],
                "peak": torch.cuda.max_memory_allocated() if self.real else 0}  # fmt: skip

    def do_judge(self, request: dict[str, Any]) -> dict[str, Any]:
        """Compare a trace of the other side with the one kept here; numbers go by the verifier's rules."""
        mine = self.traces[request["mine"]]
        saved = torch.load(request["other"], weights_only=True)
        found = judge.compare(mine, judge.Trace(json.loads(saved["observed"]), saved["tensors"]), False)
        if found.certain:
            first = found.certain[0]
            return {"equal": False, "why": f"{first.path}: {first.text}"}
        bitwise = not found.suspects
        runs, largest = numbers.Reference(self._again), 0.0
        for suspect in found.suspects:
            ratio = numbers.obvious(suspect)
            if ratio is None:
                measured = numbers.measure(suspect, runs, ("rerun", "double", "perturbed1", "perturbed2"))
                if measured.bad is not None:
                    return {
                        "equal": False,
                        "why": f"{suspect.path}: {numbers.explain(suspect, measured.bad)}",
                    }
                ratio = measured.largest
            largest = max(largest, ratio)
        return {"equal": True, "bitwise": bitwise, "largest": largest}

    def _again(self, kind: str) -> Any:
        """A further run of the original: the same, in float64, or disturbed in the last place."""
        model = copy.deepcopy(self.model)
        change: Callable[[Any], Any] = lambda values: values  # noqa: E731
        if kind == "rerun":
            self.recording = reference.Recording()
            context: Any = reference.Record(self.recording)
        elif kind == "double":
            model, change = model.double(), doubled
            context = reference.Promote(getattr(self, "recording", reference.Recording()))
        else:
            generator = torch.Generator().manual_seed(int(kind[-1]))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.is_floating_point():
                        parameter.copy_(reference.disturbed(parameter, generator))
            context = reference.Disturb(int(kind[-1]))
        try:
            with context:
                return self._observe(model, model, change)
        except Exception:  # the original itself, in a precision it was not written for
            return None

    def do_time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Milliseconds of single synchronised calls on values drawn anew, for about ``seconds``.

        Timed as torch runs by default: what makes results comparable makes convolutions slow.
        """
        if not hasattr(self, "drawn"):
            self.drawn = [self._values(k) for k in range(1, 5)]
            gc.freeze()
            if self.device == "cuda":
                torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = self.usual
            args, kwargs = copied(self.inputs)
            with torch.inference_mode():
                self.model(*args, **kwargs)  # records anew, where the program has graphs of its own
                if self.call is not self.model:
                    args, kwargs = copied(self.inputs)
                    subject = trees.Subject(self.model, self.model, sys.modules[type(self.model).__module__])
                    self.capturing = graphs.Capturing(subject, self.tree)
                    self.capturing(*args, **kwargs)
                    self.call = replayed(self.capturing, self.inputs)
        call = self.call
        assert call is not None
        times: list[float] = []
        with torch.inference_mode():
            gc.disable()  # as `timeit` does
            end = time.perf_counter() + request["seconds"]
            while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
                args, kwargs = self.drawn[len(times) % len(self.drawn)]
                torch.cuda.synchronize()
                start = time.perf_counter()
                call(*args, **kwargs)
                torch.cuda.synchronize()
                times.append(1e3 * (time.perf_counter() - start))
        gc.enable()
        return {"times": times}

    def do_draws(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first line that draws from the generator of the host, which no replay would advance."""
        seen = Draws(self.tree)
        args, kwargs = copied(self._values(0))
        with torch.inference_mode(), seen:
            self.model(*args, **kwargs)
        return {"line": seen.line}

    def do_rest(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let go of what only comparing needs, before others are timed."""
        self.traces.clear()
        self.attempts, self.attempt = iter(()), None
        if self.real:
            torch.cuda.empty_cache()
        return {}

    def do_files(self, request: dict[str, Any]) -> dict[str, Any]:
        """Files of the tree that are imported by now."""
        files = {getattr(m, "__file__", None) for m in list(sys.modules.values())}
        return {
            "files": sorted(
                str(Path(f).relative_to(self.tree)) for f in files if f and trees.under(f, self.tree)
            )
        }


def eager_calls() -> dict[str, int]:
    """Why segments of the program ran their code, how often: what the vendored runtime says."""
    found: Counter[str] = Counter()
    for runner in gc.get_objects():
        if type(runner).__name__ == "_Runner" and type(runner).__module__.endswith("cuda_graphs"):
            for why, times in runner.stats()["eager"].items():
                found[f"{runner.name}: {why}"] += times
    return dict(found.most_common(8))


def replayed(capturing: Any, inputs: Any) -> Callable[..., Any]:
    """What a hand-written wrapper would do: copy the inputs in, replay, clone the outputs."""
    (captured,) = capturing.graphs.values()

    def call(*args: Any, **kwargs: Any) -> Any:
        given = [t for _, t in observe.tensors_of([list(args), kwargs])]
        for static, value in zip(captured.inputs, given, strict=True):
            static.copy_(value)
        captured.graph.replay()
        return graphs.cloned(captured.result)

    return call


def strangers(tree: Path) -> list[str]:
    """Modules that exist in the tree and were loaded from elsewhere."""
    return trees.Tree(str(tree), [str(tree)], None).strangers()  # type: ignore[no-any-return]


def builder_of(path: Path, tree: Path) -> Any:
    """The module that builds models, with the tree's libraries importable, and imported if it says how."""
    sys.path[:0] = [str(tree), str(path.parent)]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder


def listen(options: argparse.Namespace) -> None:
    """Wait for connections; serve each in a copy of this process, or the only one in the process itself."""
    tree = options.tree.resolve()
    builder = builder_of(options.builder.resolve(), tree)
    if hasattr(builder, "warm"):
        builder.warm(options.packages)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(options.socket))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        if not options.once and os.fork():
            connection.close()
            continue
        listener.close()
        with connection.makefile("rw") as stream, contextlib.suppress(BrokenPipeError):
            log = os.open(json.loads(stream.readline())["log"], os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            hello: dict[str, Any] = {"pid": os.getpid()}
            try:
                side = Side(tree, builder, options.device)
            except RuntimeError as error:  # CUDA that was initialised before the copy was made
                hello["error"] = str(error)
            stream.write(json.dumps(hello) + "\n")
            stream.flush()
            if "error" not in hello:
                serve(side, stream)
        os._exit(0)


def serve(side: Side, stream: TextIO) -> None:
    """Answer requests until the parent closes the connection."""
    for line in stream:
        request = json.loads(line)
        try:
            answer = getattr(side, f"do_{request['op']}")(request)
        except Exception as error:
            answer = {"error": trees.place(error, side.tree), "trace": traceback.format_exc()[-2000:]}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tree", type=Path, required=True)
parser.add_argument("--builder", type=Path, required=True)
parser.add_argument("--socket", type=Path, required=True, help="made here, connected to by the parent")
parser.add_argument("--packages", nargs="*", default=[], help="what models will need")
parser.add_argument("--once", action="store_true", help="serve one connection, without a copy")
parser.add_argument("--device", choices=["cuda", "emulated", "cpu"], required=True)
parser.add_argument(
    "--prelude", type=Path, help="a file run before anything else, such as a stub of an extension"
)

if __name__ == "__main__":
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.prelude is not None:
        exec(compile(options.prelude.read_text(), str(options.prelude), "exec"), {})
    emulator = borrowed("_refactor_emulator", VERIFY / "emulator")
    borrowed("_refactor_worker", VERIFY / "worker")
    from _refactor_worker import graphs, holdings, judge, observe, reference, trees  # type: ignore[import-not-found]
    from _refactor_worker import measure as numbers

    if options.device == "emulated":
        emulator.install()
    listen(options)
