"""``refactor apply``: rewrite files, or print what would be rewritten."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import click

from refactor.cli.evidence import project_standing
from refactor.cli.session import Session, baseline_of, options, run, settings_for, show
from refactor.cli.streams import Unusable, count, emit, emit_bytes, say, say_failures
from refactor.discovery import display, find_files
from refactor.engine import Result, Task
from refactor.findings import FileError, Outcome
from refactor.journal import FOLDER, JournalError, Replacement, write
from refactor.report import rendered
from refactor.report.diff import to_diff
from refactor.vendor import fresh


@click.command(short_help="Rewrite files, or print the diff.")
@options
@click.option("--diff", is_flag=True, help="Print a patch for `git apply` and write nothing.")
@click.option("--interactive", "-i", is_flag=True, help="Ask about every rewrite.")
@click.option("--safe-only", is_flag=True, help="Only rewrites that are right by construction.")
@click.pass_context
def apply(
    ctx: click.Context,
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
    diff: bool,
    interactive: bool,
    safe_only: bool,
) -> None:
    """Rewrite the files in PATHS (default: the working directory) so that their hot paths run as CUDA graphs.

    Rewrites are unverified until `refactor verify` has passed; `refactor undo` takes them back. Exit code: 0
    done, 2 usage, configuration or a file that could not be read or written (the others are); with --diff 1
    if the patch is not empty.
    """
    if diff and form != "concise":
        raise click.UsageError("--diff prints the patch alone: leave out --output-format")
    if "-" in paths:
        raise click.UsageError("apply rewrites files; `refactor check -` reads standard input")
    cwd = Path.cwd()
    settings = settings_for(cwd, select, extend_select, ignore)
    found = find_files(paths, settings, cwd)
    if show_settings:
        emit(show(settings, found, cwd))
        return
    task = Task(settings, cwd, safe_only=safe_only)
    session = run(
        task,
        found,
        baseline=baseline_of(settings, baseline, cwd),
        jobs=jobs,
        rewriting=True,
        caching=not no_cache and not diff,
    )
    if interactive:
        from refactor.cli.review import reviewed

        session = reviewed(session)
    if diff:
        code = _print_diff(session)
    else:
        session = _write(session)
        emit(rendered(session.listing(outcomes=True), form))
        code = 0
    say_failures(session.failures, debug=debug)
    _sum_up(session, written=not diff)
    if not diff:
        for line in project_standing(settings.root):
            say(line)
    raise SystemExit(2 if session.errors else code)


def edited(session: Session) -> list[Result]:
    """Results whose file changes."""
    return [r for r in session.results if r.patch and r.patch.new != r.patch.source.data]


def replacements(session: Session) -> list[Replacement]:
    """Everything that has to be written, runtimes first: no file may import one that is not there."""
    needed: dict[Path, frozenset[str]] = {}
    for result in session.results:
        path = result.copy.path if result.copy and result.copy.is_outdated else _runtime_of(result)
        if path:
            names = result.made.patch.runtime if result.made and result.made.patch else frozenset()
            needed[path] = needed.get(path, frozenset()) | names
    runtimes = {path: data for path, names in needed.items() if (data := fresh(path, names)) is not None}
    files: list[Replacement] = []
    for result in edited(session):
        assert result.patch is not None
        before, after = result.patch.source.data, result.patch.new
        files.append(Replacement(result.job.path, before, after, needs=_runtime_of(result)))
    old = {path: path.read_bytes() if path.exists() else None for path in runtimes}
    return [*(Replacement(path, old[path], runtimes[path]) for path in sorted(runtimes)), *files]


def _runtime_of(result: Result) -> Path | None:
    """Where the runtime is that the rewritten file imports."""
    made = result.made
    return made.site.path if made and made.site and made.patch and made.patch.runtime else None


def _print_diff(session: Session) -> int:
    results = {result.job.path: result for result in session.results}
    parts = []
    for item in replacements(session):
        file, result = display(item.path, session.task.cwd), results.get(item.path)
        patch = result.patch if result else None
        edits = patch.edits if patch else ()
        parts.append(to_diff(file, item.before, item.after, result.outcomes if result else (), edits))
    emit_bytes(b"".join(parts))
    return 1 if any(parts) else 0


def _write(session: Session) -> Session:
    """The session with what really happened: rewrites of files that could not be written are refused."""
    from refactor.draft import NAME as TARGETS
    from refactor.draft import update_targets

    root = session.task.settings.root
    try:
        written = write(root, replacements(session))
    except JournalError as error:
        raise Unusable(str(error)) from None
    failed = dict(written.failed)
    results = tuple(_unwritten(r, failed[r.job.path]) if r.job.path in failed else r for r in session.results)
    drafted = update_targets(root, [draft for r in results if r.made for draft in r.made.drafts])
    errors = (FileError(display(path, session.task.cwd), 1, reason) for path, reason in failed.items())
    if drafted:
        file = display(root / FOLDER / TARGETS, session.task.cwd)
        blanks = sum("?" in draft.rendered() for draft in drafted)
        rest = f"; {blanks} with blanks (?) to fill in" if blanks else ""
        say(f"drafted {count(len(drafted), 'target')} in {file}{rest}")
    return replace(session, results=results, others=(*session.others, *errors))


def _unwritten(result: Result, reason: str) -> Result:
    """The result of a file that is as it was."""
    if result.made is None or result.patch is None:
        return result
    rows = tuple(
        Outcome(row.finding, "refused", f"the file {reason}") if row.status == "applied" else row
        for row in result.patch.outcomes
    )
    patch = replace(result.patch, edits=(), new=result.patch.source.data, outcomes=rows, regions=())
    return replace(result, made=replace(result.made, patch=patch, drafts=()))


_PLANS = 12
"""Plans that are shown; the diff shows all."""


def _show_plans(session: Session) -> None:
    """What becomes of each function that is cut: which lines become graphs, and what splits them."""
    plans = [(r.job.file, plan) for r in edited(session) if r.patch for plan in r.patch.plans]
    if not plans:
        return
    graphs = sum(": graph " in step for _, plan in plans for step in plan.steps)
    say(f"plan: {count(len(plans), 'function')} cut into {count(graphs, 'segment')}")
    for file, plan in plans[:_PLANS]:
        say(f"  {file}:{plan.line}: {plan.function}")
        for step in plan.steps:
            say(f"    {step}")
    if len(plans) > _PLANS:
        say(f"  and {len(plans) - _PLANS} more: the diff shows them")


def _sum_up(session: Session, *, written: bool) -> None:
    _show_plans(session)
    outcomes = [row for result in session.results for row in result.outcomes]
    applied = [row for row in outcomes if row.status == "applied"]
    refused = [row for row in outcomes if row.status == "refused"]
    files = edited(session)
    regions = {row.finding.region for row in applied}
    done = "rewrote" if written else "would rewrite"
    if applied:
        places = f"{count(len(regions), 'region')} of {count(len(files), 'file')}"
        say(f"{done} {places}: {count(len(applied), 'finding')}")
        for (code, name), number in sorted(
            Counter((r.finding.code, r.finding.name) for r in applied).items()
        ):
            say(f"  {code} {name}: {number}")
    else:
        say(f"nothing to rewrite in {count(len(session.results), 'file')}")
    if refused:
        say(f"left alone: {count(len(refused), 'finding')}")
        by_reason: dict[str, list[str]] = {}
        for row in refused:
            place = f"{row.finding.code} {row.finding.file}:{row.finding.line}"
            by_reason.setdefault(row.reason, []).append(place)
        for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            more = ", …" if len(found) > 2 else ""
            say(f"  {len(found)} × {reason} ({', '.join(found[:2])}{more})")
    quiet = sum(row.status == "suppressed" for row in outcomes)
    if quiet:
        say(f"suppressed: {count(quiet, 'finding')}")
    if applied and written and all(region.endswith(":<module>") for region in regions):
        say(
            "next: `refactor verify` runs the script whole, again and again; in its harness in .refactor, "
            "ARGUMENTS can make a run short; `refactor undo` takes this back"
        )
    elif applied and written:
        say("next: `refactor verify` proves that the results are the same; `refactor undo` takes this back")
    elif applied:
        say("next: `refactor apply` writes this")
