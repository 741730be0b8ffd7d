"""``refactor undo``: take back the last apply."""

from __future__ import annotations

from pathlib import Path

import click

from refactor.cli.streams import Unusable, count, emit, say
from refactor.config import load_settings
from refactor.discovery import display
from refactor.journal import JournalError
from refactor.journal import undo as pop


@click.command(short_help="Take back the last apply.")
def undo() -> None:
    """Take back the last apply. Files that it did not leave as they are now are named and left (exit 1)."""
    cwd = Path.cwd()
    root = load_settings(cwd).root
    try:
        done = pop(root)
    except JournalError as error:
        raise Unusable(str(error)) from None
    if done is None:
        say("nothing to undo")
        return
    shown = {path: display(root / path, cwd) for path in (*done.restored, *done.removed, *dict(done.left))}
    for path in done.restored:
        emit(f"restored {shown[path]}\n")
    for path in done.removed:
        emit(f"removed {shown[path]}\n")
    for path, reason in done.left:
        say(f"{shown[path]}:1: {reason}, and was left as it is")
    if done.left:
        say(f"originals of {count(len(done.left), 'file')} are in {display(done.kept or root, cwd)}")
        raise SystemExit(1)
