"""What published models do on a device: lines that ran, lines that made the host wait, what captures.

``python benchmarks/truth.py --out truth.json [--only timm pyg hf] [--device cuda|cpu] [--jobs N]`` writes a
list of ``{"name", "syncs": [[file, line, function, source, times]], "ran": {file: lines}, "captures",
"error", "first"}``, one object a model that could be built and run. Each model runs once to warm up; the
second forward is recorded. Waiting is what ``torch.cuda.set_sync_debug_mode`` warns of. On a CPU only ``ran``
means anything: there it serves to try the recipes. Needs torch, timm, transformers and torch_geometric.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import linecache
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

LIBRARIES = ("timm", "torch_geometric", "transformers", "torchvision")


class Recorder:
    """Lines of the libraries that run, and those from which a synchronisation is reported."""

    def __init__(self, roots: dict[str, str]) -> None:
        self.roots = roots
        self.lines: set[tuple[str, int]] = set()
        self.syncs: Counter[tuple[str, int, str]] = Counter()
        self.files: dict[CodeType, str | None] = {}

    def file(self, code: CodeType) -> str | None:
        """The file of a library's function, relative to where the library lies; None: of something else."""
        if code not in self.files:
            name = code.co_filename
            hit = next((p for lib, p in self.roots.items() if name.startswith(p + "/" + lib + "/")), None)
            self.files[code] = os.path.relpath(name, hit) if hit and code.co_name != "<module>" else None
        return self.files[code]

    def _line(self, code: CodeType, line: int) -> Any:
        name = self.file(code)
        if name is not None:
            self.lines.add((name, line))
        return sys.monitoring.DISABLE

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        name = self.file(frame.f_code)
        if name is None:
            return None
        if event == "line":
            self.lines.add((name, frame.f_lineno))
        return self._trace

    def _warned(self, message: Warning | str, *rest: object, **more: object) -> None:
        if "synchroniz" not in str(message):
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = self.file(frame.f_code)
            if name is not None:
                self.syncs[name, frame.f_lineno, frame.f_code.co_name] += 1
                return
            frame = frame.f_back

    @contextlib.contextmanager
    def recording(self, torch: Any, device: str) -> Any:
        """Record what runs inside."""
        self.lines, self.syncs = set(), Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self._warned  # type: ignore[assignment]
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            monitoring = getattr(sys, "monitoring", None)
            if monitoring is not None:
                monitoring.use_tool_id(3, "truth")
                monitoring.register_callback(3, monitoring.events.LINE, self._line)
                monitoring.set_events(3, monitoring.events.LINE)
                monitoring.restart_events()
            else:
                sys.settrace(self._trace)
            try:
                yield self
            finally:
                if monitoring is not None:
                    monitoring.set_events(3, 0)
                    monitoring.free_tool_id(3)
                else:
                    sys.settrace(None)
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")


def moved(torch: Any, value: Any, device: str) -> Any:
    """A tree of inputs on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: moved(torch, v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(torch, v, device) for v in value)
    return value


def place(error: BaseException, recorder: Recorder) -> list[Any] | None:
    """The innermost library line of a traceback."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        name = recorder.file(trace.tb_frame.f_code)
        if name is not None:
            code = trace.tb_frame.f_code
            found = [
                name,
                trace.tb_lineno,
                code.co_name,
                linecache.getline(code.co_filename, trace.tb_lineno).strip(),
            ]
        trace = trace.tb_next
    return found


def observe(torch: Any, model: Any, inputs: Any, device: str, recorder: Recorder) -> dict[str, Any]:
    """One warm forward, recorded, and an attempt to capture it."""
    model = model.eval().to(device) if isinstance(model, torch.nn.Module) else model
    args, kwargs = moved(torch, inputs, device)
    with torch.no_grad():
        model(*args, **kwargs)
        if device == "cuda":
            torch.cuda.synchronize()
        with recorder.recording(torch, device):
            model(*args, **kwargs)
        ran: dict[str, list[int]] = {}
        for name, line in sorted(recorder.lines):
            ran.setdefault(name, []).append(line)
        paths = {v: k.co_filename for k, v in recorder.files.items() if v is not None}
        syncs = [
            [name, line, function, linecache.getline(paths[name], line).strip(), times]
            for (name, line, function), times in recorder.syncs.items()
        ]
        result: dict[str, Any] = {"syncs": syncs, "ran": ran, "captures": False}
        if device == "cuda":
            result |= capture(torch, lambda: model(*args, **kwargs), recorder)
    return result


def capture(torch: Any, call: Any, recorder: Recorder) -> dict[str, Any]:
    """Whether a call captures and replays, and if not, why and where."""
    try:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
    except Exception as error:  # whatever a model raises is what is recorded
        first = error
        while first.__context__ is not None:
            first = first.__context__  # type: ignore[assignment]
        with contextlib.suppress(Exception):
            torch.cuda.synchronize()
        return {
            "captures": False,
            "error": str(error)[:160],
            "error0": str(first)[:160],
            "first": place(error, recorder),
            "first0": place(first, recorder),
        }
    return {"captures": True}


class _TooLong(Exception):
    pass


def _alarm(*_: object) -> None:
    raise _TooLong


def work(names: list[str], options: argparse.Namespace) -> None:
    """Run models one after another; a process whose device is lost starts itself anew with what is left."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    roots = {}
    for lib in LIBRARIES:
        with contextlib.suppress(Exception):
            module = __import__(lib)
            roots[lib] = str(Path(module.__file__).parent.parent)
    recorder = Recorder(roots)
    signal.signal(signal.SIGALRM, _alarm)
    for index, name in enumerate(names):
        if time.time() > options.until:
            return
        signal.alarm(options.limit)
        try:
            record, lost = _recorded(torch, name, options.device, recorder)
        except _TooLong:
            record, lost = {"name": name, "failed": ["too long"]}, False
        except Exception as error:
            record, lost = {"name": name, "failed": [f"{type(error).__name__}: {str(error)[:300]}"]}, False
        signal.alarm(0)
        with options.out.open("a") as stream:
            stream.write(json.dumps(record, separators=(",", ":")) + "\n")
        if options.device == "cuda" and (lost or not _works(torch)):
            command = _command(names[index + 1 :], options.out, options)
            os.execv(command[0], command)


def _recorded(torch: Any, name: str, device: str, recorder: Recorder) -> tuple[dict[str, Any], bool]:
    """What the first recipe that runs does, and whether the device was lost."""
    import model_zoo

    record: dict[str, Any] = {"name": name}
    errors: list[str] = []
    for model, inputs in model_zoo.recipes(name, errors):
        try:
            return record | observe(torch, model, inputs, device, recorder), False
        except Exception as error:  # the next recipe may do
            where = place(error, recorder)
            errors.append(f"{type(error).__name__}: {str(error)[:200]} {where[:2] if where else ''}")
        if "CUDA error" in errors[-1]:
            return record | {"failed": errors[-4:]}, True
    return record | {"failed": errors[-4:]}, False


def _works(torch: Any) -> bool:
    """Whether the device still does anything; unused memory is given back."""
    try:
        torch.cuda.empty_cache()
        torch.zeros(1, device="cuda").add_(1).item()
    except Exception:  # an assertion on the device ends all work in this process
        return False
    return True


def _command(names: list[str], out: Path, options: argparse.Namespace) -> list[str]:
    """The command line of a process for some models."""
    more = ["--device", options.device, "--limit", str(options.limit), "--until", str(options.until)]
    return [sys.executable, __file__, "--worker", *names, "--out", str(out), *more]


def _finish(process: subprocess.Popen[bytes], until: float) -> None:
    try:
        process.wait(max(1, until - time.time()))
    except subprocess.TimeoutExpired:
        process.kill()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--skip", type=Path, help="a truth file whose models are left out")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=40, help="seconds a model")
    parser.add_argument("--seconds", type=int, default=200)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--worker", nargs="*")
    parser.add_argument("--until", type=float, default=0)
    return parser.parse_args()


def main() -> None:
    """Spread the models over processes and join what they wrote."""
    options = arguments()
    sys.path.insert(0, str(Path(__file__).parent))
    if options.worker is not None:
        work(options.worker, options)
        return
    import model_zoo

    skipped = {x["name"] for x in json.loads(options.skip.read_text())} if options.skip else set()
    names = options.names or [n for n in model_zoo.names(options.only) if n not in skipped]
    part, parts = map(int, options.part.split("/"))
    names = names[part - 1 :: parts]
    options.until = time.time() + options.seconds
    files = [options.out.with_suffix(f".{i}.jsonl") for i in range(options.jobs)]
    for file in files:
        file.unlink(missing_ok=True)
    running = [
        subprocess.Popen(_command(names[i :: options.jobs], file, options)) for i, file in enumerate(files)
    ]
    for process in running:
        _finish(process, options.until + 5)
    found = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    for file in files:
        file.unlink(missing_ok=True)
    done = sorted((x for x in found if "ran" in x), key=lambda x: x["name"])
    failed = {x["name"]: x["failed"] for x in found if "ran" not in x}
    options.out.write_text(json.dumps(done, separators=(",", ":")))
    options.out.with_suffix(".failed.json").write_text(json.dumps(failed, indent=1))
    counts = Counter(x["name"].split("/")[0] for x in done)
    waited, captured = sum(bool(x["syncs"]) for x in done), sum(x["captures"] for x in done)
    print(
        f"{len(names)} asked, {len(found)} tried, ran: {dict(counts)}, captured {captured}, waited {waited}"
    )


if __name__ == "__main__":
    main()
