"""Apply the three patterns to a copy of the examples, show the diff, verify it, end with a table of verdicts.

Run by ``make demo``; needs the ``refactor`` command beside this interpreter, and a torch it can import.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = ("ragged_encoder", "router", "features", "service")
REFACTOR = Path(sys.executable).with_name("refactor")
# the exit codes of `refactor verify`, worst first
PRECEDENCE = (1, 2, 3, 0)


def copy_before(name: str, work: Path) -> Path:
    """A copy of an example's original code, as a project of its own."""
    project = work / name
    shutil.copytree(HERE / name / "before", project, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n\n[tool.refactor]\n')
    return project


def refactor(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool; its messages (stderr) go straight to the terminal."""
    command = [str(REFACTOR), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)


def shortened(patch: str) -> str:
    """A patch without the lines of the runtime that it adds."""
    parts = re.split(r"(?m)^(?=--- (?:/dev/null|a/))", patch)
    shown = []
    for part in parts:
        head, hunk, lines = part.partition("\n@@ ")
        if hunk and head.endswith("/cuda_graphs.py"):
            count = sum(line.startswith("+") for line in lines.splitlines())
            shown.append(f"{head}\n({count} lines: the runtime, not shown here)\n")
        else:
            shown.append(part)
    return "".join(shown)


def torch_line() -> str:
    """Which torch will run, on what."""
    program = (
        "import torch; device = 'a CPU: verdicts are emulated'\n"
        "if torch.cuda.is_available(): device = torch.cuda.get_device_name()\n"
        "print('torch', torch.__version__, 'on', device)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"torch cannot be imported by {sys.executable}:\n{done.stderr.strip()}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def row(target: dict[str, object]) -> tuple[str, ...]:
    """One line of the table, from one target of the verdict JSON."""
    capture = target.get("capture") or {}
    timing = target.get("timing") or {}
    assert isinstance(capture, dict)
    assert isinstance(timing, dict)
    interval = timing.get("interval")
    speedup = f"{timing['speedup']:.2f}x" if timing.get("speedup") else ""
    if speedup and interval:
        speedup += f" ({interval[0]:.2f}–{interval[1]:.2f})"
    return (
        str(target["name"]),
        str(target["verdict"]),
        str(capture.get("by") or ""),
        str(capture.get("graphs", "")),
        str(capture.get("replays", "")),
        milliseconds(timing.get("before_ms")),
        milliseconds(timing.get("after_ms")),
        speedup,
    )


def show_table(rows: list[tuple[str, ...]]) -> None:
    head = ("target", "verdict", "captured by", "graphs", "replays", "before ms", "after ms", "speedup")
    table = [head, *rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "emulated"))
    parser.add_argument("--examples", type=int, default=25, help="sequences of calls for each target")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "demo")
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    print(torch_line(), flush=True)

    rows, codes, reasons = [], set(), []
    for name in EXAMPLES:
        project = copy_before(name, work)
        print(f"\n== {name}: refactor apply --diff\n", flush=True)
        print(shortened(refactor("apply", "--diff", ".", cwd=project).stdout), flush=True)
        applied = refactor("apply", ".", cwd=project)
        print(applied.stdout, flush=True)
        print(f"== {name}: refactor verify", flush=True)
        checked = refactor(
            "verify", "--before", HERE / name / "before", "--after", project,
            "--targets", HERE / name / "targets.toml", "--device", options.device,
            "--examples", str(options.examples), "--python", sys.executable, "--json", "-", cwd=project,
        )  # fmt: skip
        codes.add(checked.returncode)
        try:
            report = json.loads(checked.stdout)
        except json.JSONDecodeError:
            print(f"refactor verify ended with code {checked.returncode} and no verdicts")
            continue
        device = report.get("device")
        print(f"device: {device if isinstance(device, str) else json.dumps(device)}")
        rows += [row(target) for target in report["targets"]]
        reasons += [f"{t['name']}: {t['reason']}" for t in report["targets"] if t.get("reason")]
    print(f"\nThe rewritten programs are in {work}\n")
    show_table(rows)
    print("\n" + "\n".join(reasons))
    return next((code for code in PRECEDENCE if code in codes), 2)


if __name__ == "__main__":
    sys.exit(main())
