"""What was verified, for every listing: kept in ``.refactor/evidence.json``, and read without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refactor import __version__
from refactor.cli.streams import Unusable, say
from refactor.journal import FOLDER, JournalError, mark_passed, memory, originals, write_file

if TYPE_CHECKING:
    from refactor.verify.evidence import Surroundings
    from refactor.verify.report import Report
    from refactor.verify.targets import Target, Unfinished

FILE = "evidence.json"
SHOWN = 8
_KINDS = {
    "passed": "passed on a GPU",
    "emulated": "passed, unverified on GPU",
    "failed": "failed",
    "inconclusive": "inconclusive",
    "error": "not run to the end",
    "stale": "stale",
    "none": "not verified yet",
}


def evidence_text(root: Path) -> str:
    """The evidence file of a project; empty if there is none."""
    try:
        return (root / FOLDER / FILE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def surroundings(python: str) -> Surroundings:
    """Versions the evidence is bound to, as they are now."""
    from refactor.verify.evidence import Surroundings, driver, torch_of

    return Surroundings(__version__, torch_of(python), driver(), python)


def keep_evidence(
    root: Path, report: Report, targets: Sequence[Target], around: Surroundings, examples: int, seed: int
) -> None:
    """Add the verdicts of a run. They are shown all the same where they cannot be kept."""
    from refactor.verify.evidence import remember

    try:
        with memory(root) as folder:
            text = remember(evidence_text(root), report, targets, around, examples, seed)
            write_file(folder / FILE, text.encode())
    except (JournalError, OSError) as error:
        say(f"the evidence was not kept: {error}")


def settle_passed(
    root: Path, complete: Sequence[Target], unfinished: Sequence[Unfinished], around: Surroundings
) -> None:
    """Mark the applies as passed once every target has passed on a GPU against what they replaced.

    Every file they wrote has to be one that some target loads: a region that no target reaches stays open.
    """
    from refactor.verify.evidence import proves, read

    before = originals(root)
    if not before or unfinished or not complete:
        return
    text = evidence_text(root)
    if not all(proves(text, target, root, around, before) for target in complete):
        return
    rows = read(text)
    reached = {name for target in complete for name in rows[target.name]["after"]}
    if reached >= set(before):
        mark_passed(root)


def standing_lines(
    root: Path, targets: Sequence[Target], around: Surroundings, besides: Collection[str] = ()
) -> list[str]:
    """One line that counts what is known of all targets, and one for each whose evidence is stale or bad.

    Args:
        root: of the project.
        targets: all it has.
        around: as it is now.
        besides: targets that were just shown, of which no line of their own is needed.
    """
    from refactor.verify.evidence import standing

    text = evidence_text(root)
    found = [standing(text, target, root, around) for target in targets]
    if not found:
        return []
    counts = Counter(s.kind for s in found)
    said = ", ".join(f"{counts[kind]} {words}" for kind, words in _KINDS.items() if counts[kind])
    lines = [f"evidence for {len(found)} target{'s' * (len(found) != 1)}: {said}"]
    others = [s for s in found if s.name not in besides and s.kind not in ("passed", "none")]
    lines += [f"  {s.name}: {s.kind}: {s.text}" for s in others[:SHOWN]]
    if len(others) > SHOWN:
        lines.append(f"  and {len(others) - SHOWN} more")
    return lines


def project_standing(root: Path) -> list[str]:
    """``standing_lines`` of a project for other commands; nothing where no evidence was ever kept."""
    text = evidence_text(root)
    if not text:
        return []
    from refactor.cli.sources import targets_of
    from refactor.verify.evidence import interpreters
    from refactor.verify.process import interpreter

    try:
        complete, _ = targets_of(root)
    except Unusable:
        return []
    known = next((p for p in interpreters(text) if Path(p).is_file()), None)
    return standing_lines(root, complete, surroundings(interpreter(known, root)))
