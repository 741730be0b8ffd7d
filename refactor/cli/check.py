"""``refactor check``: list findings."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from refactor.baseline import dump_baseline, load_baseline
from refactor.cli.session import Session, baseline_of, options, run, settings_for, show
from refactor.cli.streams import count, emit, say, say_failures
from refactor.discovery import Found, display, find_files
from refactor.engine import Task
from refactor.journal import write_file
from refactor.report import rendered
from refactor.settle import IN_BASELINE

BASELINE = "refactor-baseline.json"


@click.command(short_help="List hazards; never writes.")
@options
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even if there are findings.")
@click.option(
    "--stdin-filename", type=click.Path(), help="Name of the file read from standard input (path -)."
)
@click.option(
    "--write-baseline",
    is_flag=False,
    flag_value="",
    type=click.Path(),
    help=f"Remember all findings in this file (default: the configured one, or {BASELINE}).",
)
def check(
    paths: tuple[str, ...],
    select: tuple[str, ...],
    extend_select: tuple[str, ...],
    ignore: tuple[str, ...],
    form: str,
    baseline: str | None,
    show_settings: bool,
    jobs: int | None,
    no_cache: bool,
    debug: bool,
    exit_zero: bool,
    stdin_filename: str | None,
    write_baseline: str | None,
) -> None:
    """List hazards in PATHS (default: the working directory); never writes.

    Exit code: 0 nothing found, 1 findings, 2 usage, configuration or a file that cannot be read.
    """
    cwd = Path.cwd()
    settings = settings_for(cwd, select, extend_select, ignore)
    data = {}
    if "-" in paths:
        if len(paths) > 1:
            raise click.UsageError("- (standard input) cannot be combined with other paths")
        name = cwd / (stdin_filename or "stdin.py")
        data[name] = sys.stdin.buffer.read()
        found = Found((name,))
    else:
        found = find_files(paths, settings, cwd)
    if show_settings:
        emit(show(settings, found, cwd))
        return
    known = baseline_of(settings, baseline, cwd)
    target = known or settings.root / BASELINE
    if write_baseline:
        target = _writable(cwd / write_baseline, write_baseline)
    session = run(
        Task(settings, cwd),
        found,
        baseline=None if write_baseline is not None else known,
        jobs=jobs,
        data=data,
        caching=not no_cache and not data,
    )
    if write_baseline is not None:
        _remember(session, target)
        if target != known:
            say(f"name it as `baseline` in [tool.refactor], or give `--baseline {display(target, cwd)}`")
        say_failures(session.failures, debug=debug)
        raise SystemExit(2 if session.errors else 0)
    emit(rendered(session.listing(outcomes=False), form))
    say_failures(session.failures, debug=debug)
    _sum_up(session)
    raise SystemExit(2 if session.errors else 1 if session.findings and not exit_zero else 0)


def _writable(file: Path, given: str) -> Path:
    """The file to write the baseline to: a new one or a baseline, never a file that holds something else."""
    if file.suffix == ".py" or file.is_dir():
        raise click.UsageError(
            f"--write-baseline takes the name of a file to write, and {given!r} is a path to check: "
            f"put it before the option, or write --write-baseline={BASELINE} {given}"
        )
    if file.exists():
        load_baseline(file)
    return file


def _remember(session: Session, file: Path) -> None:
    known = [item for result in session.results for item in result.known]
    write_file(file, dump_baseline(known).encode("utf-8", "surrogateescape"))
    say(f"wrote {count(len(known), 'finding')} to {file}")


def _sum_up(session: Session) -> None:
    findings, files = session.findings, sum(not result.failures for result in session.results)
    known = sum(why == IN_BASELINE for result in session.results for _, why in result.suppressed)
    if not findings:
        others = f" besides the {known} in the baseline" if known else ""
        say(f"no hazards found in {count(files, 'file')}{others}")
        return
    rewrites = sum(finding.applicability != "manual" for finding in findings)
    where = count(len({finding.file for finding in findings}), "file")
    more = "; `refactor apply --diff` shows what can be rewritten" if rewrites else ""
    say(f"{count(len(findings), 'finding')} in {where} of {files}{more}")
