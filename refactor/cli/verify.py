"""``refactor verify``: prove that rewritten code gives the same results, and time it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refactor.cli.streams import Unusable, emit, say
from refactor.config import load_settings
from refactor.journal import FOLDER, JournalError, mark_passed, memory, originals, write_file

if TYPE_CHECKING:
    from refactor.verify.report import Report
    from refactor.verify.targets import Target, Unfinished


FAILING = "failing.json"  # in the project's .refactor folder


@dataclass(frozen=True)
class _Request:
    """The options as given."""

    names: tuple[str, ...]
    before: str | None
    after: str | None
    targets: Path | None
    device: str
    examples: int
    seed: int
    json_file: str | None
    python: str | None
    timeout: float
    jobs: int


@click.command(short_help="Prove that rewritten code gives the same results, and time it.")
@click.argument("names", nargs=-1, metavar="[TARGETS]...")
@click.option(
    "--before", help="Original tree: a directory or a git revision. Default: what apply replaced, else HEAD."
)
@click.option("--after", help="Rewritten tree. Default: the project's working tree.")
@click.option("--targets", type=click.Path(path_type=Path), help="TOML file with [[target]] tables.")
@click.option("--device", type=click.Choice(("auto", "cuda", "emulated")), default="auto", show_default=True)
@click.option(
    "--examples", type=click.IntRange(1), default=100, show_default=True, help="Sequences per target."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the verdicts as JSON; '-': to standard output."
)
@click.option(
    "--python", metavar="EXE", help="The program's interpreter (default: the active environment's)."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="Seconds one call may take.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Targets verified at the same time; on a GPU one after the other.",
)
def verify(
    names: tuple[str, ...],
    before: str | None,
    after: str | None,
    targets: Path | None,
    device: str,
    examples: int,
    seed: int,
    json_file: str | None,
    python: str | None,
    timeout: float,
    jobs: int,
) -> None:
    """Prove that the rewritten TARGETS (default: all) behave as the original, and time them on a GPU.

    Exit codes: 0 all pass, 1 any fail, 2 error, 3 inconclusive.
    """
    request = _Request(
        names, before, after, targets, device, examples, seed, json_file, python, timeout, jobs
    )
    try:
        report = _run(request)
    except JournalError as error:
        raise Unusable(str(error)) from None
    _show(report, json_file)
    raise SystemExit(report.exit_code)


command = verify


def _run(request: _Request) -> Report:
    from refactor.verify.replay import recall, remember
    from refactor.verify.run import Options, select
    from refactor.verify.run import verify as run

    after = Path(request.after) if request.after else None
    if after is not None and not after.is_dir():
        raise Unusable(f"--after {request.after}: no such directory")
    settings = load_settings(after or Path.cwd())
    root = after.resolve() if after else settings.root
    src = settings.src if settings.root.resolve() == root.resolve() else ()
    complete, unfinished = _targets(request, root)
    chosen, unknown = select(complete, request.names)
    blank, missing = select(unfinished, request.names)
    for name in unknown:
        if name in missing:
            raise Unusable(f"no target is called {name!r}")
    if not chosen:
        raise Unusable("\n".join(t.message for t in blank))
    with tempfile.TemporaryDirectory(prefix="refactor-before-") as folder:
        before = _before(request.before, root, Path(folder))
        options = Options(
            targets=tuple(chosen),
            unfinished=tuple(blank),
            replay=recall(_kept(root), chosen) if request.after is None else {},
            jobs=request.jobs,
            before=before,
            after=root,
            device=request.device,
            examples=request.examples,
            seed=request.seed,
            python=request.python,
            timeout=request.timeout,
            src=src,
            root=settings.root,
        )
        report = run(options)
    if request.after is None:
        _keep(root, remember(_kept(root), report, chosen))
    everything = not request.names and request.before is None and request.after is None
    if everything and report.verdict == "pass" and report.device not in ("emulated", "cpu"):
        mark_passed(root)
    return report


def _kept(root: Path) -> str:
    """Failing sequences of earlier runs."""
    try:
        return (root / FOLDER / FAILING).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _keep(root: Path, text: str) -> None:
    """Keep failing sequences for the next run; a verdict does not depend on whether that succeeds."""
    if text != (_kept(root) or "{}\n"):
        with contextlib.suppress(JournalError, OSError), memory(root) as folder:
            write_file(folder / FAILING, text.encode())


def _targets(request: _Request, root: Path) -> tuple[list[Target], list[Unfinished]]:
    """Targets of the file named, else of pyproject.toml, else those `apply` drafted."""
    from refactor.verify.targets import TargetError, load_all

    try:
        if request.targets is not None:
            return load_all(request.targets)
        project = root / "pyproject.toml"
        if project.is_file() and "tool.refactor.target" in project.read_text("utf-8", "replace"):
            return load_all(project)
        for file in (root / "targets.toml", root / ".refactor" / "targets.toml"):
            if file.is_file():
                return load_all(file)
    except TargetError as error:
        raise Unusable(str(error)) from None
    raise Unusable(
        f"{root}: no targets; name a file with --targets, or add [[tool.refactor.target]] to pyproject.toml "
        "(`refactor apply` drafts them in .refactor/targets.toml)"
    )


def _before(given: str | None, root: Path, folder: Path) -> Path:
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


def _show(report: Report, json_file: str | None) -> None:
    from refactor.verify.text import lines

    if json_file is not None:
        text = json.dumps(report.json(), indent=1) + "\n"
        if json_file == "-":
            emit(text)
            return
        try:
            Path(json_file).write_text(text, "utf-8")
        except OSError as error:
            say(f"--json {json_file}: cannot be written: {error.strerror}")
            raise SystemExit(2) from None
    for line in lines(report, sys.stdout.isatty()):
        emit(line)
