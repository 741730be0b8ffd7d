"""What the tool does with one file: bytes to findings, and findings to a patch.

An `Examiner` lives in one process and keeps the project's parsed modules. What it returns is frozen and can
be sent between processes; nothing here prints or writes. Between its two steps `refactor.settle` decides
which findings count, because a hazard of one file may be found from the regions of another.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from refactor.baseline import Known
from refactor.config import Settings
from refactor.discovery import display
from refactor.findings import Applicability, FileError, Finding, Outcome
from refactor.place import place_of
from refactor.rule import Hit, Rule
from refactor.selection import Selection
from refactor.source import Source, SourceError, assert_parses, load
from refactor.stack import RECURSION, deeply, roomily
from refactor.suppress import UNUSED, Suppression, suppressions
from refactor.tracing import Trace
from refactor.vendor import NAME, Copy, Refused, Site, copy_in, site_for

if TYPE_CHECKING:
    from refactor.analysis.model import Facts
    from refactor.draft import Draft
    from refactor.rewrite.model import Patch, Proposal, Refusal

T = TypeVar("T")


def catalogue() -> tuple[Rule, ...]:
    """Every rule, ordered by code."""
    from refactor.transforms import RULES

    return tuple(sorted((UNUSED, *RULES), key=lambda rule: rule.code))


@dataclass(frozen=True)
class Task:
    """What to do with every file."""

    settings: Settings
    cwd: Path
    safe_only: bool = False
    rewriting: bool = False
    """Patches will be asked for: what is known of a file with findings is kept until then."""


@dataclass(frozen=True)
class Job:
    """One file to look at; ``data`` is set when it comes from standard input."""

    path: Path
    file: str
    data: bytes | None = None


@dataclass(frozen=True)
class Raw:
    """A finding before anything is left out, and what a baseline would remember of it."""

    finding: Finding
    known: Known


@dataclass(frozen=True)
class Failure:
    """Why a file could not be dealt with; ``crash`` is the traceback if the fault is ours."""

    error: FileError
    crash: str = ""


@dataclass(frozen=True)
class Examined:
    """What one file tells: findings of its own, and findings its regions lead to in other files."""

    job: Job
    module: str = ""
    raws: tuple[Raw, ...] = ()
    foreign: tuple[tuple[str, tuple[Raw, ...]], ...] = ()
    """``(real path, findings)`` of other files."""
    comments: tuple[Suppression, ...] = ()
    copy: Copy | None = None
    """The file is a vendored runtime: never analysed."""
    failure: Failure | None = None
    real: str = ""
    """The file's path, links followed; empty if its bytes were not read."""
    trace: Trace = field(default=Trace(), compare=False)
    """What was looked at for it for the first time in this process."""


@dataclass(frozen=True)
class Order:
    """One file to rewrite: the findings that count, and modules whose regions reach into it."""

    job: Job
    findings: tuple[Finding, ...]
    entries: tuple[str, ...] = ()
    outer: tuple[Finding, ...] = ()
    """Findings in other files that the regions here lead to and that have no rewrite of their own."""
    rewritten: tuple[Finding, ...] = ()
    """Those that have one."""


@dataclass(frozen=True)
class Rewritten:
    """What a file becomes."""

    order: Order
    patch: Patch | None = None
    site: Site | None = None
    """Where the runtime goes if the patch needs it."""
    drafts: tuple[Draft, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Result:
    """Everything about one file that is reported or written."""

    job: Job
    findings: tuple[Finding, ...] = ()
    """By place, without those in ``suppressed``."""
    known: tuple[Known, ...] = ()
    """What a baseline would remember of ``findings``, in their order."""
    suppressed: tuple[tuple[Finding, str], ...] = ()
    entries: tuple[str, ...] = ()
    outer: tuple[Finding, ...] = ()
    """Findings of other files that this file's regions lead to."""
    failures: tuple[Failure, ...] = ()
    copy: Copy | None = None
    made: Rewritten | None = None

    @property
    def patch(self) -> Patch | None:
        """The patch, if one was made."""
        return self.made.patch if self.made else None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What was done about every finding, suppressed ones included, by place."""
        done = [row for row in self.patch.outcomes if row.finding.file == self.job.file] if self.patch else []
        seen = {outcome.finding for outcome in done}
        rest = tuple(Outcome(f, "refused", self._why(f)) for f in self.findings if f not in seen)
        quiet = tuple(Outcome(finding, "suppressed", reason) for finding, reason in self.suppressed)
        return tuple(sorted((*done, *rest, *quiet), key=lambda outcome: outcome.finding))

    def _why(self, finding: Finding) -> str:
        """Why a finding has no outcome in the patch."""
        if self.failures:
            return _FAILED
        return _NO_REWRITE if finding.code == UNUSED.code else _LOST

    @property
    def order(self) -> Order:
        """What to rewrite."""
        return Order(self.job, self.findings, self.entries)


_NOT_SAFE = "the rewrite has to be verified; leave out --safe-only to apply it"
_NO_REWRITE = "this rule explains, it never edits"
_FAILED = "the file could not be rewritten: see the error reported for it"
_LOST = "it depends on files that changed meanwhile, or are analysed differently from here; apply again"
_KEPT_VALUES = 2_000_000
"""Expressions whose values are kept from looking at files until their patches are made, some 200 MB."""
Accepted = tuple[Rule, Hit, Finding]


class Examiner:
    """Examines and rewrites files of one project, one after the other."""

    def __init__(self, task: Task) -> None:
        from refactor.analysis import Project

        self.task = task
        self.selection = Selection(task.settings, catalogue())
        self.project = Project(task.settings.root, task.settings.src)
        self._read: Source | None = None
        self._kept: dict[Path, tuple[tuple[str, ...], Facts]] = {}
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION))

    def examine(self, job: Job) -> Examined:
        """Findings of one file. Whatever goes wrong is a value of the result, so that the others go on."""
        done = self._guarded(job, lambda: self._examine(job))
        found = Examined(job, failure=done) if isinstance(done, Failure) else done
        return replace(found, trace=self._traced(job))

    def _traced(self, job: Job) -> Trace:
        trace = self.project.traced()
        read, self._read = self._read, None
        if read is None or job.data is not None:
            return trace
        return replace(trace, files=(*trace.files, (os.path.realpath(job.path), read.digest)))

    def rewrite(self, order: Order) -> Rewritten:
        """The patch for the findings of one file; failures are values here too."""
        done = self._guarded(order.job, lambda: self.rewritten(order, *self.candidates(order)))
        return Rewritten(order, failure=done) if isinstance(done, Failure) else done

    def _guarded(self, job: Job, work: Callable[[], T]) -> T | Failure:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SyntaxWarning about the user's file: not for our stderr
                try:
                    return roomily(work)
                except RecursionError:
                    return deeply(work)
        except SourceError as error:
            file = job.file if error.path == job.path else display(error.path, self.task.cwd)
            return Failure(FileError(file, error.line, error.message))
        except RecursionError:
            return Failure(FileError(job.file, 1, "is nested too deeply to be analysed"))
        except MemoryError:
            return Failure(FileError(job.file, 1, "needs more memory than there is"))
        except Exception as error:  # ours: reported with its place and exit code 2, and the run goes on
            return Failure(_internal(job.file, error), traceback.format_exc())

    def _examine(self, job: Job) -> Examined:
        from refactor.analysis import analyze

        source = self._read = load(job.path, job.data)
        copy = copy_in(job.path, source.data)
        if copy is not None:
            return Examined(job, copy=copy)
        comments = suppressions(source)
        facts = analyze(source, self.project, regions=self.task.settings.regions)
        if facts is None:
            if self.project.known(source) is None:  # a file that does not parse is reported all the same
                assert_parses(source)
            return Examined(job, comments=comments, real=os.path.realpath(job.path))
        foreign = [
            (
                os.path.realpath(other.source.path),
                self._raws(other, display(other.source.path, self.task.cwd)),
            )
            for other in facts.foreign
        ]
        raws = self._raws(facts, job.file)
        found = tuple(row for row in foreign if row[1])
        if raws or found:
            self._keep(job, (), facts)
        return Examined(job, facts.module, raws, found, comments, real=os.path.realpath(job.path))

    def _keep(self, job: Job, entries: tuple[str, ...], facts: Facts) -> None:
        """Keep the facts of a file for its patch; the oldest go where they would take too much memory."""
        if not self.task.rewriting:
            return
        self._kept.pop(job.path, None)
        self._kept[job.path] = entries, facts
        while len(self._kept) > 1 and sum(len(f.values) for _, f in self._kept.values()) > _KEPT_VALUES:
            del self._kept[next(iter(self._kept))]

    def _raws(self, facts: Facts, file: str) -> tuple[Raw, ...]:
        relative = display(facts.source.path, self.task.settings.root)
        return tuple(
            Raw(finding, _known(facts, relative, finding)) for finding in sorted(self._hits(facts, file))
        )

    def _hits(self, facts: Facts, file: str) -> dict[Finding, tuple[Rule, Hit]]:
        """Findings of all selected rules; of several for one rule and place the first counts."""
        found: dict[tuple[str, int, int], Finding] = {}
        hits: dict[Finding, tuple[Rule, Hit]] = {}
        for rule in self.selection.rules:
            for hit in rule.detect(facts):
                finding = _finding(facts, file, rule, hit)
                if found.setdefault(key_of(finding), finding) is finding:
                    hits[finding] = rule, hit
        return hits

    def candidates(self, order: Order) -> tuple[Facts, list[Accepted]]:
        """The facts of a file to rewrite, and the hits of the ordered findings.

        Raises:
            SourceError: the file cannot be read, decoded or parsed.
        """
        from refactor.analysis import analyze

        source = load(order.job.path, order.job.data)
        entries, facts = self._kept.get(order.job.path, ((), None))
        if facts is None or entries != order.entries or facts.source.data != source.data:
            facts = analyze(source, self.project, regions=self.task.settings.regions, entries=order.entries)
            if facts is None:
                raise SourceError(order.job.path, 1, "changed while it was being rewritten")
            self._keep(order.job, order.entries, facts)
        facts = self._without(facts, order)
        hits = {key_of(finding): hit for finding, hit in self._hits(facts, order.job.file).items()}
        own = [(*hits[key_of(f)], f) for f in order.findings if key_of(f) in hits]
        return facts, [*own, *self._around(order, facts)]

    def _without(self, facts: Facts, order: Order) -> Facts:
        """The facts without what is rewritten in other files anyway."""
        done = {(finding.file, key_of(finding)) for finding in order.rewritten}
        foreign = []
        for other in facts.foreign:
            hits = self._hits(other, display(other.source.path, self.task.cwd)) if done else {}
            gone = {h.event for f, (_, h) in hits.items() if (f.file, key_of(f)) in done}
            foreign.append(replace(other, events=tuple(e for e in other.events if e not in gone)))
        return replace(facts, foreign=tuple(foreign)) if done else facts

    def _around(self, order: Order, facts: Facts) -> Iterator[Accepted]:
        """Hits in other files around which methods of this one are cut."""
        from refactor.rewrite.branch import propose_around

        wanted = {(finding.file, key_of(finding)): finding for finding in order.outer}
        for other in facts.foreign if wanted else ():
            for finding, (rule, hit) in sorted(
                self._hits(other, display(other.source.path, self.task.cwd)).items()
            ):
                if (finding.file, key_of(finding)) in wanted:
                    yield replace(rule, propose=propose_around), hit, finding

    def rewritten(self, order: Order, facts: Facts, accepted: Sequence[Accepted]) -> Rewritten:
        """The patch for accepted hits, and drafts of the regions concerned."""
        from refactor.draft import drafts
        from refactor.rewrite.model import RuntimeImport
        from refactor.rewrite.patch import make_patch

        if not accepted:
            return Rewritten(order)
        site = site_for(order.job.path, facts.tree, self.task.settings)
        limited = [(self._limited(rule, finding, site), hit, finding) for rule, hit, finding in accepted]
        module = site.module if isinstance(site, Site) else NAME  # then no proposal that imports it is left
        patch = make_patch(facts, limited, RuntimeImport(module))
        regions = [finding.region for _, _, finding in accepted]
        done = {row.finding.region for row in patch.outcomes if row.status == "applied"}
        drafted = drafts(facts, regions, done, self.task.settings.root)
        return Rewritten(order, patch, site if isinstance(site, Site) else None, drafted)

    def _limited(self, rule: Rule, finding: Finding, site: Site | Refused) -> Rule:
        """The rule without the rewrites this run must not make."""
        propose = rule.propose
        if propose is None:
            return rule
        if self.task.safe_only and finding.applicability is not Applicability.SAFE:
            return replace(rule, propose=lambda facts, hit: _refusal(_NOT_SAFE))
        if isinstance(site, Site):
            return rule
        return replace(rule, propose=lambda facts, hit: _without_runtime(propose(facts, hit), site.reason))


def _without_runtime(answer: Proposal | Refusal, reason: str) -> Proposal | Refusal:
    """The answer of a rule, or a refusal if it needs the runtime; joint plans answer when they are made."""
    from refactor.rewrite.model import Joint, Proposal, Refusal

    if isinstance(answer, Refusal) or answer.runtime:
        return answer if isinstance(answer, Refusal) else Refusal(reason)
    joint = answer.joint
    if joint is None:
        return answer

    def plan(hits: Sequence[Hit], settled: Collection[ast.AST]) -> Mapping[Hit, Proposal | Refusal]:
        planned = joint.plan(hits, settled)
        refusal = Refusal(reason)
        return {h: refusal if isinstance(p, Proposal) and p.runtime else p for h, p in planned.items()}

    return replace(answer, joint=Joint(joint.owner, plan))


def _refusal(reason: str) -> Refusal:
    from refactor.rewrite.model import Refusal

    return Refusal(reason)


def key_of(finding: Finding) -> tuple[str, int, int]:
    """What makes two findings in one file the same, from whichever region they were found."""
    return finding.code, finding.start, finding.end


def _finding(facts: Facts, file: str, rule: Rule, hit: Hit) -> Finding:
    place = place_of(facts.source, hit.event.node)
    return Finding(
        file=file,
        line=place.line,
        column=place.column,
        end_line=place.end_line,
        end_column=place.end_column,
        code=rule.code,
        name=rule.name,
        severity=hit.severity or rule.severity,
        applicability=hit.applicability or rule.applicability,
        message=hit.message,
        region=f"{hit.event.region.module}:{hit.event.region.qualname}",
        chain=hit.event.chain,
        start=place.start,
        end=place.end,
    )


def _known(facts: Facts, relative: str, finding: Finding) -> Known:
    text = " ".join(facts.source.lines[finding.line - 1][1].split())
    return Known(relative, finding.code, finding.region, text)


def _internal(file: str, error: Exception) -> FileError:
    """An error of the tool itself, with the place where it arose."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return FileError(file, 1, f"internal error: {said} (at {where}; --debug shows more); please report it")
