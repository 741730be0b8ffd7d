"""What `verify` compares: the targets of a project, and the tree as it was before."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from refactor.cli.streams import Unusable
from refactor.journal import FOLDER, originals

RECORDED = "recorded.toml"
"""Targets completed from a run of the user's program, in the project's .refactor folder."""

if TYPE_CHECKING:
    from refactor.verify.targets import Target, Unfinished


def targets_of(root: Path, file: Path | None = None) -> tuple[list[Target], list[Unfinished]]:
    """Targets of the file named, else of pyproject.toml, else of targets.toml, else those `apply` drafted.

    Blanks that a run of the user's program has filled in count as filled in.

    Raises:
        Unusable: there are none, or the file is wrong; the message names file and line.
    """
    from refactor.verify.targets import TargetError, load_all

    found = file or targets_file(root)
    recorded = root / FOLDER / RECORDED
    try:
        completed = {t.name: t for t in load_all(recorded)[0]} if recorded.is_file() else {}
    except TargetError:
        completed = {}  # written by an older version, or by hand: as if it were not there
    try:
        if found is not None:
            complete, unfinished = load_all(found)
            complete += [completed[t.name] for t in unfinished if t.name in completed]
            return complete, [t for t in unfinished if t.name not in completed]
    except TargetError as error:
        raise Unusable(str(error)) from None
    if completed:
        return list(completed.values()), []
    raise Unusable(
        f"{root}: no targets; name a file with --targets, or add [[tool.refactor.target]] to pyproject.toml "
        "(`refactor apply` drafts them in .refactor/targets.toml; `refactor verify -- python SCRIPT` runs a "
        "program and makes them of what it calls)"
    )


def targets_file(root: Path) -> Path | None:
    """Where the targets of a project are declared: its pyproject.toml, its targets.toml, or the drafts."""
    project = root / "pyproject.toml"
    if project.is_file() and "tool.refactor.target" in project.read_text("utf-8", "replace"):
        return project
    return next((f for f in (root / "targets.toml", root / FOLDER / "targets.toml") if f.is_file()), None)


def before_tree(given: str | None, root: Path, folder: Path) -> Path:
    """The original tree: a directory as it is; else the working tree with its differing files put back."""
    from refactor.verify.trees import overlay

    if given is not None and Path(given).is_dir():
        return Path(given)
    if given is None:
        kept = originals(root)
        if kept:
            return overlay(root, kept, folder / "before")
    return overlay(root, _from_git(given or "HEAD", root, given is None), folder / "before")


def _from_git(revision: str, root: Path, default: bool) -> dict[str, bytes | None]:
    """Python files that differ between a revision and the working tree, as they are in the revision."""
    from refactor.verify.trees import python_files

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            what = (
                "nothing to compare with: no apply on record, and "
                if default
                else f"--before {revision} is neither a directory nor a git revision: "
            )
            raise Unusable(f"{what}{reason[-1] if reason else 'git failed'}")
        return done.stdout

    try:
        git("rev-parse", "--verify", f"{revision}^{{tree}}")
    except FileNotFoundError:
        raise Unusable(f"--before {revision}: no such directory, and git is not installed") from None
    listed = git("ls-tree", "-r", "-z", "--name-only", revision).decode(errors="surrogateescape").split("\0")
    old = {name for name in listed if name.endswith(".py")}
    originals: dict[str, bytes | None] = {name: None for name in python_files(root) if name not in old}
    for name in sorted(old):
        content = git("show", f"{revision}:./{name}")
        file = root / name
        if not file.is_file() or file.read_bytes() != content:
            originals[name] = content
    return originals
