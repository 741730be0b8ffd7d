"""What `verify` compares: the targets of a project, and the tree as it was before."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from refactor.cli.streams import Unusable
from refactor.journal import FOLDER, originals

if TYPE_CHECKING:
    from refactor.verify.targets import Target, Unfinished


def targets_of(root: Path, file: Path | None = None) -> tuple[list[Target], list[Unfinished]]:
    """Targets of the file named, else of pyproject.toml, else of targets.toml, else those `apply` drafted.

    Raises:
        Unusable: there are none, or the file is wrong; the message names file and line.
    """
    from refactor.verify.targets import TargetError, load_all

    try:
        if file is not None:
            return load_all(file)
        project = root / "pyproject.toml"
        if project.is_file() and "tool.refactor.target" in project.read_text("utf-8", "replace"):
            return load_all(project)
        for known in (root / "targets.toml", root / FOLDER / "targets.toml"):
            if known.is_file():
                return load_all(known)
    except TargetError as error:
        raise Unusable(str(error)) from None
    raise Unusable(
        f"{root}: no targets; name a file with --targets, or add [[tool.refactor.target]] to pyproject.toml "
        "(`refactor apply` drafts them in .refactor/targets.toml)"
    )


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
