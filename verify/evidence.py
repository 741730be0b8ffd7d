"""Verdicts kept from one run to the next, each bound to what it was reached with.

A pass says something only about the sources, the torch, the driver, the device and the inputs it was reached
with. ``standing`` compares those with what is there now: evidence of anything else is stale and no pass.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .report import Report
from .targets import Target

SCHEMA = 1
Json = dict[str, Any]
UNVERIFIED = "unverified on GPU"
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Surroundings:
    """What verdicts depend on beside the sources: versions of this tool, torch and the driver."""

    tool: str
    torch: str
    driver: str  # "" where there is none
    python: str = ""  # the interpreter whose torch it is


@dataclass(frozen=True)
class Standing:
    """What is known about one target now.

    ``kind`` is ``passed`` (on a GPU), ``emulated`` (passed, not on a GPU), ``failed``, ``inconclusive``,
    ``error``, ``stale`` or ``none``.
    """

    name: str
    kind: str
    text: str


def driver() -> str:
    """Version of the NVIDIA kernel driver, from /proc; empty where none is loaded."""
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?(\d[\d.]+)", _DRIVER.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found else ""


def torch_of(python: str) -> str:
    """Version of the torch that an interpreter would import; it is not imported, which takes seconds."""
    code = "from importlib.metadata import version; print(version('torch'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def digest(target: Target) -> str:
    """Of everything that declares a target and its inputs, the text of its harness included."""
    said = replace(target, place="", harness=_hash(Path(target.harness)) if target.harness else None)
    return hashlib.sha256(repr(said).encode()).hexdigest()


def bound(root: Path, files: Iterable[str]) -> dict[str, str | None]:
    """Hashes of files below a root, by their path; None for one that is not there."""
    return {name: _hash(root / name) for name in sorted(files)}


def remember(
    text: str, report: Report, targets: Iterable[Target], around: Surroundings, examples: int, seed: int
) -> str:
    """The evidence after a run: targets that ran are replaced, the others kept as they are."""
    kept = read(text)
    known = {t.name: t for t in targets}
    for result in report.targets:
        target = known.get(result.name)
        if target is None:
            continue
        kept[result.name] = {
            "verdict": result.verdict,
            "reason": result.reason,
            "device": "cpu" if target.device == "cpu" else report.device,
            "torch": report.torch,
            "torch installed": around.torch,  # as its package says; torch itself adds a suffix
            "driver": around.driver,
            "tool": around.tool,
            "python": around.python,
            "target": digest(target),
            "examples": examples,
            "seed": seed,
            "before": dict(result.before),
            "after": dict(result.after),
            "speedup": result.timing.speedup if result.timing else None,
        }
    return json.dumps({"schema": SCHEMA, "targets": kept}, indent=1, sort_keys=True) + "\n"


def read(text: str) -> dict[str, Json]:
    """Records by the name of their target; none from text that is damaged or of another schema."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return {}
    rows = document.get("targets")
    if not isinstance(rows, dict):
        return {}
    return {str(name): row for name, row in rows.items() if isinstance(row, dict)}


def interpreters(text: str) -> list[str]:
    """The interpreters that evidence was reached with, each once."""
    return list(dict.fromkeys(str(row["python"]) for row in read(text).values() if row.get("python")))


def standing(text: str, target: Target, root: Path, around: Surroundings) -> Standing:
    """What the evidence says about a target as it is now."""
    row = read(text).get(target.name)
    if row is None:
        return Standing(target.name, "none", "not verified yet")
    changes = list(_changes(row, target, root, around))
    if changes:
        return Standing(target.name, "stale", f"{row.get('verdict')} before {changes[0]}")
    verdict, device = str(row.get("verdict")), str(row.get("device"))
    if verdict != "pass":
        kind = "failed" if verdict == "fail" else verdict
        return Standing(target.name, kind, f"{verdict}: {row.get('reason')}")
    if not on_gpu(device):
        how = "emulated" if device == "emulated" else f"on {device}"
        return Standing(target.name, "emulated", f"passed {how}, {UNVERIFIED}")
    driver_ = f", driver {row['driver']}" if row.get("driver") else ""
    return Standing(target.name, "passed", f"passed on {device}, torch {row.get('torch')}{driver_}")


def on_gpu(device: str) -> bool:
    """Whether the name of a device is that of a real GPU."""
    return device not in ("", "emulated", "cpu", "auto", "cuda")


def _changes(row: Mapping[str, Any], target: Target, root: Path, around: Surroundings) -> Iterable[str]:
    """What is no longer as it was, in words; nothing if the evidence still holds."""
    after = row.get("after")
    if not isinstance(after, dict) or not after:
        yield "its sources were recorded"
        return
    for name, known in after.items():
        if _hash(root / name) != known:
            yield f"{name} changed"
    if row.get("target") != digest(target):
        yield "its inputs or its construction were declared otherwise"
    versions = (("torch", "torch installed", around.torch), ("the driver", "driver", around.driver))
    for what, key, now in (*versions, ("refactor", "tool", around.tool)):
        then = str(row.get(key) or "")
        if then != now:
            yield f"{what} changed from {then or 'none'} to {now or 'none'}"


def proves(
    text: str, target: Target, root: Path, around: Surroundings, originals: Mapping[str, bytes | None]
) -> bool:
    """Whether a target has passed on a GPU against exactly these originals, and nothing changed since."""
    if standing(text, target, root, around).kind != "passed":
        return False
    before = read(text)[target.name].get("before") or {}
    return all(
        before[name] == (hashlib.sha256(data).hexdigest() if data is not None else None)
        for name, data in originals.items()
        if name in before
    )


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
