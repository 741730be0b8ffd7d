"""What `check` and `apply` share: options, settings, files, and one examined result for each file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from refactor.baseline import load_baseline
from refactor.cache import merged, opened
from refactor.cli.streams import progress, say
from refactor.config import Settings, check_codes, load_settings, overridden
from refactor.discovery import Found, display
from refactor.engine import Examined, Failure, Job, Result, Rewritten, Task, catalogue, key_of
from refactor.findings import FileError, Finding, Outcome, Severity
from refactor.pool import Crew
from refactor.report import FORMATS, Listing
from refactor.rule import Rule
from refactor.selection import Selection
from refactor.settle import settle

Command = TypeVar("Command", bound=Callable[..., Any])


def _codes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code.strip() for given in value for code in given.split(",") if code.strip())


def _selector(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(name, metavar="CODES", multiple=True, callback=_codes, help=text)


def options(command: Command) -> Command:
    """The options `check` and `apply` have in common."""
    for option in reversed(
        (
            click.argument("paths", nargs=-1, type=click.Path()),
            _selector("--select", "Only these rules: codes, prefixes or names, with commas."),
            _selector("--extend-select", "These rules too."),
            _selector("--ignore", "Not these rules."),
            click.option(
                "--output-format", "form", type=click.Choice(FORMATS), default="concise", show_default=True
            ),
            click.option("--baseline", type=click.Path(), help="Leave out the findings this file knows."),
            click.option("--show-settings", is_flag=True, help="Print the resolved configuration and files."),
            click.option(
                "--jobs", "-j", type=click.IntRange(1), help="Worker processes (default: one per CPU)."
            ),
            click.option("--no-cache", is_flag=True, help="Examine every file anew; keep nothing."),
            click.option("--debug", is_flag=True, help="Show the traceback of an internal error."),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Session:
    """One examined set of files."""

    task: Task
    results: tuple[Result, ...]
    others: tuple[FileError, ...]
    """Errors that belong to no result, such as a path that does not exist."""
    rules: tuple[Rule, ...]

    @property
    def failures(self) -> list[Failure]:
        """What could not be dealt with, by file and line."""
        found = [*map(Failure, self.others), *(f for result in self.results for f in result.failures)]
        return sorted(dict.fromkeys(found), key=lambda failure: failure.error)

    @property
    def errors(self) -> list[FileError]:
        """The errors to report, each once."""
        return list(dict.fromkeys(failure.error for failure in self.failures))

    @property
    def findings(self) -> list[Finding]:
        """All findings, by file and place."""
        return [finding for result in self.results for finding in result.findings]

    def listing(self, *, outcomes: bool) -> Listing:
        """What there is to report."""
        rows = [row for result in self.results for row in result.outcomes] if outcomes else None
        sources = {r.job.file: r.job.data for r in self.results if r.job.data is not None}
        return Listing(self.findings, self.errors, rows, self.rules, sources)


def settings_for(cwd: Path, select: Sequence[str], extend: Sequence[str], ignore: Sequence[str]) -> Settings:
    """The configuration with the selection of the command line.

    Raises:
        ConfigError: the configuration cannot be used, or a selector names no rule.
    """
    settings = overridden(load_settings(cwd), select=select, extend_select=extend, ignore=ignore)
    check_codes(settings, [(rule.code, rule.name) for rule in catalogue()])
    return settings


def show(settings: Settings, found: Found, cwd: Path) -> str:
    """The settings and the files they lead to."""
    rows = [f"# file: {display(path, cwd)}" for path in found.files]
    return settings.shown() + "".join(f"{row}\n" for row in rows)


def baseline_of(settings: Settings, given: str | None, cwd: Path) -> Path | None:
    """Path of the baseline file, from the command line or the configuration."""
    if given:
        return cwd / given
    return settings.root / settings.baseline if settings.baseline else None


def run(
    task: Task,
    found: Found,
    *,
    baseline: Path | None,
    jobs: int | None,
    rewriting: bool = False,
    data: Mapping[Path, bytes] | None = None,
    caching: bool = True,
) -> Session:
    """Examine the files that were found, and make their patches if asked to.

    Raises:
        ConfigError: the baseline cannot be read.
    """
    known = load_baseline(baseline) if baseline else {}
    selection = Selection(task.settings, catalogue())
    work = [Job(path, display(path, task.cwd), (data or {}).get(path)) for path in found.files]
    with Crew(replace(task, rewriting=rewriting), jobs) as crew:
        results = settle(_examined(work, crew, caching), task, selection, known)
        if rewriting:
            results = _rewritten(results, crew)
    for folder in found.empty:
        say(f"warning: no Python files in {folder}")
    return Session(task, tuple(results), found.errors, selection.rules)


def _rewritten(results: Sequence[Result], crew: Crew) -> list[Result]:
    """The results with their patches.

    What breaks a capture in one file, and has no rewrite there or segments around it, may split a region of
    another: files of such regions are rewritten once more, with that known.
    """
    orders = [result.order for result in results if result.findings]
    with progress(len(orders), "rewriting") as advance:
        made = {row.order.job: row for row in crew.rewrite(orders, advance)}
    results = [_with(result, made.get(result.job)) for result in results]
    breaks = [row for r in results for row in r.outcomes if row.finding.severity is Severity.BREAKS]
    left = {row.finding for row in breaks if row.status == "refused" or row.cut}
    done = {row.finding for row in breaks if row.status == "applied" and not row.cut}
    again = [
        replace(
            result.order,
            outer=tuple(f for f in result.outer if f in left),
            rewritten=tuple(f for f in result.outer if f in done),
        )
        for result in results
        if not result.failures and (left.intersection(result.outer) or _is_cut_beside(result, done))
    ]
    with progress(len(again), "rewriting around other files") as advance:
        made = {row.order.job: row for row in crew.rewrite(again, advance) if row.failure is None}
    return _joined([replace(r, made=made[r.job]) if r.job in made else r for r in results])


def _is_cut_beside(result: Result, done: Collection[Finding]) -> bool:
    """Whether methods of a file were cut without it being known what is rewritten in others."""
    return any(f in done for f in result.outer) and result.patch is not None and bool(result.patch.plans)


def _joined(results: Sequence[Result]) -> list[Result]:
    """Findings around which a method of another file was cut are settled there."""
    around = {
        (row.finding.file, key_of(row.finding)): f"{row.note} (in {result.job.file})"
        for result in results
        for row in (result.patch.outcomes if result.patch else ())
        if row.status == "applied" and row.finding.file != result.job.file
    }
    return [_settled_elsewhere(result, around) if around else result for result in results]


def _settled_elsewhere(result: Result, around: Mapping[tuple[str, tuple[str, int, int]], str]) -> Result:
    made, patch = result.made, result.patch
    if made is None or patch is None:
        return result
    rows = tuple(
        Outcome(row.finding, "applied", note=around[key])
        if row.status == "refused" and (key := (row.finding.file, key_of(row.finding))) in around
        else row
        for row in patch.outcomes
    )
    return replace(result, made=replace(made, patch=replace(patch, outcomes=rows)))


def _examined(work: Sequence[Job], crew: Crew, caching: bool) -> list[Examined]:
    """What examining each file gives, from the cache where nothing has changed."""
    cache = opened(crew.task) if caching else None
    kept = cache.examined(work) if cache is not None else {}
    new = [job for job in work if job not in kept]
    with progress(len(new), "examining") as advance:
        fresh = crew.examine(new, advance)
    if cache is not None and new:
        cache.learn(fresh)
        if any(row.real for row in fresh):
            cache.save()
    return merged(work, kept, fresh)


def _with(result: Result, made: Rewritten | None) -> Result:
    if made is None:
        return result
    return replace(result, made=made, failures=(*result.failures, *((made.failure,) if made.failure else ())))
