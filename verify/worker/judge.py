"""Compare two observed sequences: structure exactly; numbers that differ in any bit are left to `measure`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .holdings import IF_BOTH
from .observe import same_bits
from .spoken import quantum


@dataclass(frozen=True)
class Difference:
    """The first place where the two sides differ."""

    step: int
    group: str
    path: str
    text: str
    size: float = 0.0

    def json(self) -> dict[str, Any]:
        """As it is sent to the parent."""
        return {"step": self.step, "group": self.group, "path": self.path, "text": self.text}


@dataclass
class Trace:
    """One observed sequence with its tensors."""

    observed: list[dict[str, Any]]
    tensors: list[Tensor]


def write(trace: Trace, file: str, starts: Mapping[str, Tensor] | None = None) -> None:
    """Put a trace into a file as text and one tensor of bytes: no object of a program's classes, and quick.

    Loading many tensors that nobody trusts takes longer than running the calls that gave them. Of ``starts``,
    which the reader has as well, only the names are written.
    """
    table: list[list[Any]] = []
    parts, at = [], 0
    names = {id(t): name for name, t in (starts or {}).items()}
    for t in trace.tensors:
        if id(t) in names:
            table.append([names[id(t)]])
            continue
        data = t.contiguous().reshape(-1).view(torch.uint8)
        table.append([str(t.dtype).removeprefix("torch."), list(t.shape), at, data.numel()])
        parts.append(data)
        at += data.numel()
    text = json.dumps({"observed": trace.observed, "tensors": table})
    torch.save(
        {"text": text, "bytes": torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)}, file
    )


def read(file: str, starts: Mapping[str, Tensor] | None = None) -> Trace:
    """The trace that `write` put into a file."""
    known_starts = starts or {}
    saved = torch.load(file, weights_only=True)
    known, data = json.loads(saved["text"]), saved["bytes"]
    tensors = [
        known_starts[entry[0]] if len(entry) == 1 else _cut(data, *entry) for entry in known["tensors"]
    ]
    return Trace(known["observed"], tensors)


def _cut(data: Tensor, dtype: str, shape: list[int], at: int, size: int) -> Tensor:
    return data[at : at + size].clone().view(getattr(torch, dtype)).reshape(shape)


@dataclass
class Suspect:
    """A number or tensor that is not equal in every bit."""

    step: int
    group: str
    path: str
    before: Tensor
    after: Tensor
    position: int
    dtype: torch.dtype
    undefined: bool = False  # a gradient, or what came of one, after something that was not finite

    @property
    def exact(self) -> bool:
        """Whether it has no roundings: integers and bools."""
        return not (self.before.is_floating_point() or self.before.is_complex())


@dataclass
class Comparison:
    """Differences that are certain, and numbers that need the float64 run."""

    certain: list[Difference] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


KEPT = ("state", "gradients", "held state", "held gradients")  # what goes into every later step
GROUPS = (
    "exception", "message", "result", "called", "inputs", "containers", "flags", "aliasing", "state",
    "gradients", "held state", "held gradients", "input gradients", "attributes", "optimizers",
    "observed", "printed", "recorded", "files", "random", "kept",
)  # fmt: skip


def compare(before: Trace, after: Trace, strides: bool) -> Comparison:
    """All differences of structure, and all places where numbers differ, in order of the steps."""
    found = Comparison()
    seen: set[tuple[int, int]] = set()
    spoiled, finite = False, True
    for position, (mine, theirs) in enumerate(zip(before.observed, after.observed, strict=False)):
        if spoiled:
            _note_after_misuse(found, position, mine, theirs, before, after, strides, seen)
            return found
        raised = "exception" in mine["groups"], "exception" in theirs["groups"]
        settings = mine.get("settings"), theirs.get("settings")
        if "refused" in settings or (settings[0] and raised[0]):
            break  # the original has no such setting, or not this value of it
        if mine.get("wide") and raised[0]:
            break  # integers nobody declared, and the original does not take them
        if mine.get("pickled") and (raised[0] or raised[1]):
            side = "rewrite" if raised[1] else "original"
            found.notes.append(f"the {side} cannot be pickled")
            break
        if mine.get("laid out") and raised[0] and "message" not in mine["groups"]:
            break  # an operation of the original does not take memory laid out like this
        if mine["outside"] and raised[0]:
            # outside the declared domain only this is asked: what the program refuses must not be accepted
            if not raised[1]:
                text = f"the original raises {mine['groups']['exception']['type']}, the rewrite returns"
                if "message" in mine["groups"]:  # raised by the program, not by an operation in it
                    found.certain.append(Difference(mine["step"], "exception", "call", text))
                else:
                    found.notes.append(f"outside the declared domain: {text}")
            spoiled = True
            continue
        if mine["outside"] and raised[1]:
            text = f"the rewrite raises {theirs['groups']['exception']['type']} outside the declared domain"
            found.notes.append(text)
            break
        if mine["outside"]:
            break  # both accept what the target does not declare: nothing from here on is evidence
        trains = _has_gradients(mine["groups"])
        looked = ("inputs", "state", "held state") if trains else ("inputs",)
        finite = finite and all(_all_finite(mine["groups"].get(g) or [], before) for g in looked)
        first = len(found.suspects)
        for group in GROUPS:
            _compare_group(found, position, mine, theirs, group, before, after, strides, seen)
        if not finite and trains:
            for suspect in found.suspects[first:]:
                suspect.undefined = suspect.group in (*KEPT, "input gradients")
        if raised[0] != raised[1]:
            break
    # a call outside the declared domain may have ended all work of the device, on one side alone
    if len(before.observed) != len(after.observed) and not found.certain and not spoiled:
        text = f"{len(before.observed)} observations against {len(after.observed)}"
        found.certain.append(Difference(len(before.observed), "result", "sequence", text))
    return found


def _all_finite(leaves: list[Any], trace: Trace) -> bool:
    tensors = (trace.tensors[leaf[2]] for _, leaf in leaves if leaf[0] == "tensor")
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


def _has_gradients(groups: dict[str, Any]) -> bool:
    found = [*(groups.get("gradients") or []), *(groups.get("held gradients") or [])]
    return any(leaf[0] == "tensor" for _, leaf in found)


def only_non_finite(suspect: Suspect, bad: Tensor) -> bool:
    """Whether every wrong element is NaN or infinite on one side: backward passes multiply by zero.

    `torch.where` gives NaN to the side that was not taken if that side's derivative is not finite.
    """
    a, b = suspect.before, suspect.after
    if not a.is_floating_point() or bad.shape != a.shape:
        return False
    return not bool((bad & a.isfinite() & b.isfinite()).any())


def _note_after_misuse(
    found: Comparison,
    position: int,
    mine: dict[str, Any],
    theirs: dict[str, Any],
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    """What a refused call outside the declared domain leaves behind is told, and is no failure."""
    later = Comparison()
    for group in ("exception", "result", "state"):
        _compare_group(later, position, mine, theirs, group, before, after, strides, seen)
    if later.certain:
        found.notes.append(f"after a refused call outside the declared domain: {later.certain[0].text}")


def _compare_group(
    found: Comparison,
    position: int,
    mine: dict[str, Any],
    theirs: dict[str, Any],
    group: str,
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    a, b = mine["groups"].get(group), theirs["groups"].get(group)
    step = mine["step"]

    def differs(path: str, text: str) -> None:
        found.certain.append(Difference(step, group, path, text))

    if group == "exception":
        if a is None and b is not None:
            differs("call", f"the rewrite raises {b['type']}: {b['message'][:200]}")
        elif a is not None and b is None:
            differs("call", f"the original raises {a['type']}, the rewrite returns")
        elif a is not None and b is not None and a["type"] != b["type"]:
            differs("call", f"the original raises {a['type']}, the rewrite {b['type']}: {b['message'][:160]}")
        return
    if a is None or b is None:
        return
    if group == "random":
        if a != b:
            differs("generators", "the random generators are in another state: the next draws differ")
        return
    if group == "aliasing":
        if a != b:
            differs(*_alias_text(a, b))
        return
    if group == "attributes":
        a, b = _present(a, b)
    if group in ("optimizers", "held state", "held gradients"):
        a, b = _both(a, b, only_alike=group == "held state")
    if group == "recorded":
        b = _known(b, before)
    _compare_leaves(found, position, step, group, a, b, before, after, strides, seen)


def _present(a: list[Any], b: list[Any]) -> tuple[list[Any], list[Any]]:
    """Attributes the original has: a rewrite may add its own, and wrap submodules."""
    theirs = dict(b)
    modules = {path.rpartition(".training")[0] for path, _ in b if path.endswith(".training")}
    mine, kept = [], []
    for path, leaf in a:
        found = theirs.get(path)
        if path.startswith(IF_BOTH) and not _alike(leaf, found):
            continue
        if found is None and modules and path.rpartition(".")[0] not in modules:
            continue  # a submodule the rewrite has wrapped
        mine.append([path, leaf])
        kept.append([path, found or ["missing", "nothing"]])
    return mine, kept


def _alike(mine: list[Any], theirs: list[Any] | None) -> bool:
    """Whether both sides have something of one kind, tensors of one shape and dtype."""
    if theirs is None or mine[:2] != theirs[:2]:
        return False
    return mine[0] != "tensor" or mine[3:5] == theirs[3:5]


def _both(a: list[Any], b: list[Any], only_alike: bool) -> tuple[list[Any], list[Any]]:
    """What both sides have: a rewrite may keep moments of its own beside the optimizer."""
    mine, theirs = dict(a), dict(b)
    shared = [p for p in mine if p in theirs and (not only_alike or _alike(mine[p], theirs[p]))]
    return [[path, mine[path]] for path in shared], [[path, theirs[path]] for path in shared]


def _known(b: list[Any], before: Trace) -> list[Any]:
    """Log records and warnings of kinds the original gives as well: a rewrite may have more to tell."""
    groups = (entry["groups"].get("recorded") or [] for entry in before.observed)
    told = {leaf[2] for leaves in groups for _, leaf in leaves if leaf[0] == "value"}
    kept: list[Any] = []
    counts = {"logged": 0, "warned": 0}
    name = ""
    for path, leaf in b:
        if leaf[0] == "value":
            kind = path.partition(" ")[0]
            name = f"{kind} {counts[kind]}" if leaf[2] in told else ""
            counts[kind] += bool(name)
        if name:
            kept.append([name if leaf[0] == "value" else f"{name} number {path.rpartition(' ')[2]}", leaf])
    return kept


def _alias_text(a: list[Any], b: list[Any]) -> tuple[str, str]:
    before, after = dict(a), dict(b)
    for path in [*before, *after]:
        if before.get(path) != after.get(path):
            mine = ", ".join(before.get(path, [])) or "nothing"
            theirs = ", ".join(after.get(path, [])) or "nothing"
            return path, f"shares memory with {mine} in the original, with {theirs} in the rewrite"
    return "result", "shares memory with other tensors"


def _compare_leaves(
    found: Comparison,
    position: int,
    step: int,
    group: str,
    a: list[Any],
    b: list[Any],
    before: Trace,
    after: Trace,
    strides: bool,
    seen: set[tuple[int, int]],
) -> None:
    for (path, x), (other, y) in zip(a, b, strict=False):
        if path != other:
            found.certain.append(Difference(step, group, path, f"the rewrite has {other} here"))
            return
        text = _describe_difference(x, y, strides)
        if text is not None:
            found.certain.append(Difference(step, group, path, text))
            return
        if x[0] == "number":
            mine, theirs = number_of(x), number_of(y)
            if not (mine.dtype == theirs.dtype and same_bits(mine, theirs)) and not _printed_alike(x, y):
                mine, theirs = (mine, theirs) if mine.dtype == theirs.dtype else (pair_of(x), pair_of(y))
                found.suspects.append(Suspect(step, group, path, mine, theirs, position, torch.float32))
        elif x[0] == "tensor":
            if (x[2], y[2]) in seen:
                continue
            mine_t, theirs_t = before.tensors[x[2]], after.tensors[y[2]]
            if same_bits(mine_t, theirs_t):
                seen.add((x[2], y[2]))
            else:
                found.suspects.append(Suspect(step, group, path, mine_t, theirs_t, position, mine_t.dtype))
    if len(a) != len(b):
        path, text = (
            (b[len(a)][0], "only the rewrite has it") if len(b) > len(a) else (a[len(b)][0], "is missing")
        )
        found.certain.append(Difference(step, group, path, text))


def _describe_difference(x: list[Any], y: list[Any], strides: bool) -> str | None:
    """Why two leaves differ in kind, type, shape, dtype or device; None if only numbers can."""
    if x[0] != y[0]:
        return f"{_kind(x)} in the original, {_kind(y)} in the rewrite"
    if x[1] != y[1]:
        return f"a {x[1]} in the original, a {y[1]} in the rewrite"
    if x[0] == "tensor":
        names = ("dtype", "shape", "device", "requires_grad", "strides", "layout")
        for name, mine, theirs in zip(names, x[3:9], y[3:9], strict=True):
            if mine != theirs and (name != "strides" or strides):
                return f"{name} {mine} in the original, {theirs} in the rewrite"
        if y[9] and not x[9]:
            return "an inference tensor in the rewrite, which no backward pass may save"
        return None
    if x[0] != "number" and x[2:] != y[2:]:
        return f"{_short(x)} in the original, {_short(y)} in the rewrite"
    return None


def pair_of(leaf: list[Any]) -> Tensor:
    """A Python or printed number as its real and imaginary part, float64 (2,)."""
    value = complex(leaf[2])
    return torch.tensor([value.real, value.imag], dtype=torch.float64)


def number_of(leaf: list[Any]) -> Tensor:
    """A Python number or a printed one; whole printed numbers have no roundings."""
    whole = leaf[1] == "printed" and leaf[2].lstrip("+-").isdigit() and len(leaf[2]) < 18
    return torch.tensor([int(leaf[2])]) if whole else pair_of(leaf)


def _printed_alike(x: list[Any], y: list[Any]) -> bool:
    """Whether two printed numbers may be one value that is rounded up in one text and down in the other."""
    if x[1] != "printed" or not ("." in x[2] and "." in y[2]):
        return False
    unit = quantum(x[2])
    return unit == quantum(y[2]) and abs(float(x[2]) - float(y[2])) < 1.5 * unit


def _kind(leaf: list[Any]) -> str:
    return f"a {leaf[1]}" if len(leaf) > 1 else str(leaf[0])


def _short(leaf: list[Any]) -> str:
    return str(leaf[2])[:120] if len(leaf) > 2 else str(leaf[1])
