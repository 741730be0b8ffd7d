"""``refactor verify -- PROGRAM``: run the user's program, and make targets of what it called."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refactor.cli.sources import RECORDED, before_tree, targets_file
from refactor.cli.streams import Unusable, say
from refactor.journal import JournalError, memory, write_file

if TYPE_CHECKING:
    from refactor.verify.recorded import Made

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HEADER = """\
# Targets completed from a run: `refactor verify -- PROGRAM` writes this file anew. To change one, copy it
# to a targets file of your own, with the harness it names.
"""


@dataclass(frozen=True)
class _Wanted:
    """A target to be completed, with what its file says of it."""

    name: str
    entry: str
    table: Mapping[str, Any]


def record(
    program: Sequence[str], root: Path, src: tuple[str, ...], file: Path | None, before: str | None
) -> None:
    """Run a program, and write the targets it completes to ``.refactor/recorded.toml``.

    Watched are the callables of targets with blanks; where there are no targets, of every region edited.

    Raises:
        Unusable: there is nothing to watch, or the program cannot be started.
        JournalError: ``.refactor`` is locked or cannot be written.
    """
    from refactor.verify.recorded import Watched, made_from, run_program
    from refactor.verify.trees import file_of, roots

    import_roots = roots(root, src)
    source = file or targets_file(root)
    wanted = _blanks(source) if source else _edited(root, src, before)
    watched = []
    for item in wanted:
        found = file_of(item.entry.partition(":")[0], import_roots)
        if found is None:
            say(f"{item.name}: not recorded: there is no module {item.entry.partition(':')[0]!r} in {root}")
        else:
            watched.append(Watched(item.name, item.entry, found))
    if not watched:
        return
    try:
        ran = run_program(program, import_roots, watched, Path.cwd())
    except OSError as error:
        raise Unusable(f"{program[0]}: cannot be started: {error.strerror or error}") from None
    if ran.code:
        say(f"the program ended with exit code {ran.code}; what it did until then was recorded")
    made = {item.name: made_from(ran.rows.get(item.name), item.entry, item.name) for item in wanted}
    _write(root, {item.name: (item, made[item.name]) for item in wanted})


def _blanks(source: Path) -> list[_Wanted]:
    """Targets of a file that have blanks; a draft whose entry is one names the callable in its comment."""
    try:
        text = source.read_text("utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []  # loading the targets tells what is wrong
    tables = data.get("tool", {}).get("refactor", {}).get("target") or data.get("target") or []
    comments = re.findall(r"(?m)^(?:# (\S+:\S+).*\n)?\s*\[\[(?:tool\.refactor\.)?target\]\]", text)
    found = []
    for table, about in zip(tables, comments, strict=False):
        if "?" in str({k: table.get(k) for k in ("entry", "init", "inputs", "dims")}):
            entry = str(table.get("entry", "?"))
            is_ours = "?" in entry or "harness" in table
            entry = about if is_ours and about else entry
            if ":" in entry and "?" not in entry:
                found.append(_Wanted(str(table.get("name")), entry, table))
    return found


def _edited(root: Path, src: tuple[str, ...], before: str | None) -> list[_Wanted]:
    """The callables that were edited; raises Unusable if there are none."""
    from refactor.verify.trees import edited, edited_outside, pair

    with tempfile.TemporaryDirectory(prefix="refactor-before-") as folder:
        trees = pair(before_tree(before, root, Path(folder)), root, src)
        entries, outside = edited(trees), edited_outside(trees)
    if not entries and outside:
        places = ", ".join(outside[:3]) + ", …" * (len(outside) > 3)
        raise Unusable(
            f"{places}: what was edited stands outside any function, where `verify` cannot call it; "
            "`refactor undo`, move it into a function, and apply again"
        )
    if not entries:
        raise Unusable("nothing was edited since, so there is nothing to record")
    return [_Wanted(re.sub(r"\W+", "_", e), e, {"entry": e, "device": "cuda"}) for e in entries]


def _write(root: Path, made: Mapping[str, tuple[_Wanted, Made]]) -> None:
    """Tell what was completed and what was not, and why; keep what earlier runs completed."""
    from refactor.verify.recorded import table
    from refactor.verify.targets import TargetError, load_all

    with memory(root) as folder:
        file = folder / RECORDED
        tables = _kept(file, besides=made)
        for name, (item, found) in made.items():
            reasons = [p for p in found.problems if not p.startswith("note: ")]
            for reason in reasons:
                say(f"{name}: not completed: {reason}")
            if reasons:
                continue
            for note in found.problems:
                say(f"{name}: {note.removeprefix('note: ')}")
            if found.harness:
                write_file(folder / f"harness_{name}.py", found.harness.encode())
            tables.append(_completed(item, found))
            say(f"{name}: completed from {found.calls} call{'s' * (found.calls != 1)}")
        try:
            write_file(file, (HEADER + "".join(f"\n{table(t)}" for t in tables)).encode())
            load_all(file) if tables else None
        except OSError as error:
            raise JournalError(f"{file} cannot be written: {error.strerror or error}") from None
        except TargetError as error:
            raise JournalError(f"a recorded target cannot be used: {error}") from None


def _kept(file: Path, besides: Mapping[str, object]) -> list[dict[str, Any]]:
    """Tables of an earlier recording, other than the ones made anew."""
    try:
        old = tomllib.loads(file.read_text("utf-8")).get("target", [])
    except (OSError, ValueError):
        return []
    return [t for t in old if isinstance(t, dict) and t.get("name") not in besides]


def _completed(item: _Wanted, found: Made) -> dict[str, Any]:
    """The table with its blanks replaced; what has none stays as it is."""
    new = {"name": item.name, **item.table}
    for key in ("init", "inputs", "dims", "harness"):
        if "?" in str(new.get(key)) or key not in new or (key == "dims" and "?" in str(new.get("inputs"))):
            new.pop(key, None)
    new["entry"] = found.values.get("entry", item.entry)
    if "harness" in found.values:
        new.pop("init", None)
        new["harness"] = found.values["harness"]
    elif item.table.get("harness"):
        new.pop("harness", None)
    if "inputs" not in new:
        new["dims"] = found.values.get("dims", {})
        new["inputs"] = found.values["inputs"]
    if "init" not in new and "init" in found.values and "harness" not in found.values:
        new["init"] = found.values["init"]
    new["mode"] = found.values.get("mode", "inference")
    return new
