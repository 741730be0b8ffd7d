"""``refactor verify``: prove that rewritten code gives the same results, and time it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refactor.cli.evidence import keep_evidence, settle_passed, standing_lines, surroundings
from refactor.cli.sources import before_tree, targets_of
from refactor.cli.streams import Unusable, emit, say
from refactor.config import load_settings
from refactor.journal import FOLDER, JournalError, memory, write_file

if TYPE_CHECKING:
    from refactor.verify.report import Report


PROGRAM = "refactor.program"  # where the context keeps what follows --
MOST_JOBS = 8  # each has two processes with a torch in them
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
    python: str | None
    timeout: float
    target_limit: float
    run_limit: float
    jobs: int
    is_shown: bool
    """Whether a person reads along: standard output is not JSON."""
    program: tuple[str, ...] = ()
    """A program to run first, with its arguments."""


class _Verify(click.Command):
    """What follows ``--`` is a program with arguments of its own, and none of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        ctx.meta[PROGRAM] = tuple(args[place + 1 :])
        if place < len(args) and not ctx.meta[PROGRAM]:
            raise click.UsageError("a program is to follow --, as in: refactor verify -- python script.py")
        return super().parse_args(ctx, args[:place])


@click.command(cls=_Verify, short_help="Prove that rewritten code gives the same results, and time it.")
@click.argument("names", nargs=-1, metavar="[TARGETS]... [-- PROGRAM ARGS...]")
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
@click.option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML, one test case per target.")
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
    "--target-limit",
    type=click.FloatRange(0.1),
    default=1800.0,
    show_default=True,
    help="Seconds one target may take in all.",
)
@click.option(
    "--run-limit",
    type=click.FloatRange(0.1),
    default=14400.0,
    show_default=True,
    help="Seconds all targets together may take; those that are not reached are errors.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Targets verified at the same time (default: one per CPU, at most 8); on a GPU one after the other.",
)
@click.pass_context
def verify(
    ctx: click.Context,
    names: tuple[str, ...],
    before: str | None,
    after: str | None,
    targets: Path | None,
    device: str,
    examples: int,
    seed: int,
    json_file: str | None,
    junit: str | None,
    python: str | None,
    timeout: float,
    target_limit: float,
    run_limit: float,
    jobs: int | None,
) -> None:
    """Prove that the rewritten TARGETS (default: all) behave as the original, and time them on a GPU.

    With `-- python script.py ...` that program is run first, and targets with blanks are completed from what
    it built and called; without targets, one is made of every region that was edited.

    Exit codes: 0 all pass, 1 any fail, 2 error, 3 inconclusive.
    """
    jobs = jobs or min(MOST_JOBS, len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2)
    shown = json_file != "-"
    request = _Request(
        names,
        before,
        after,
        targets,
        device,
        examples,
        seed,
        python,
        timeout,
        target_limit,
        run_limit,
        jobs,
        shown,
        ctx.meta[PROGRAM],
    )
    try:
        report = _run(request)
    except JournalError as error:
        raise Unusable(str(error)) from None
    _show(report, json_file, junit)
    raise SystemExit(report.exit_code)


command = verify


def _run(request: _Request) -> Report:
    from refactor.verify.process import interpreter
    from refactor.verify.replay import recall, remember
    from refactor.verify.run import Options, select
    from refactor.verify.run import verify as run

    after = Path(request.after) if request.after else None
    if after is not None and not after.is_dir():
        raise Unusable(f"--after {request.after}: no such directory")
    settings = load_settings(after or Path.cwd())
    root = after.resolve() if after else settings.root
    src = settings.src if settings.root.resolve() == root.resolve() else ()
    python = request.python
    if request.program:
        from refactor.cli.record import record
        from refactor.verify.recorded import interpreter_of

        python = python or interpreter_of(request.program)
        record(request.program, root, src, request.targets, request.before)
    complete, unfinished = targets_of(root, request.targets)
    chosen, unknown = select(complete, request.names)
    blank, missing = select(unfinished, request.names)
    for name in unknown:
        if name in missing:
            raise Unusable(f"no target is called {name!r}")
    if not chosen:
        raise Unusable("\n".join(t.message for t in blank))
    with tempfile.TemporaryDirectory(prefix="refactor-before-") as folder:
        before = before_tree(request.before, root, Path(folder))
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
            python=python,
            timeout=request.timeout,
            target_limit=request.target_limit,
            run_limit=request.run_limit,
            src=src,
            root=settings.root,
        )
        report = run(options)
    if request.after is None:
        _keep(root, remember(_kept(root), report, chosen))
        around = surroundings(interpreter(python, settings.root))
        keep_evidence(root, report, chosen, around, request.examples, request.seed)
        settle_passed(root, complete, unfinished, around)
        if len(complete) > len(chosen) and request.is_shown:
            for line in standing_lines(root, complete, around, besides=[t.name for t in chosen]):
                say(line)
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


def _show(report: Report, json_file: str | None, junit: str | None) -> None:
    from refactor.verify.junit import xml
    from refactor.verify.text import lines

    text = json.dumps(report.json(), indent=1) + "\n"
    if junit is not None:
        _export("--junit", junit, xml(report))
    if json_file == "-":
        emit(text)
        return
    if json_file is not None:
        _export("--json", json_file, text.encode())
    for line in lines(report, sys.stdout.isatty()):
        emit(line)


def _export(option: str, file: str, data: bytes) -> None:
    """Write a report where the user wants it; exit code 2 if that is not possible."""
    try:
        Path(file).write_bytes(data)  # as it is: FILE may be a pipe or a device
    except OSError as error:
        say(f"{option} {file}: cannot be written: {error.strerror}")
        raise SystemExit(2) from None
