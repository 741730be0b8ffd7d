"""What the tool does with one file: bytes to findings, and findings to a patch.

An `Examiner` lives in one process and keeps the project's parsed modules. What it returns is frozen and can
be sent between processes; nothing here prints or writes.
"""

from __future__ import annotations

import ast
import sys
import traceback
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from refactor.baseline import Known
from refactor.config import Settings
from refactor.discovery import display
from refactor.findings import Applicability, FileError, Finding, Outcome
from refactor.place import place_of
from refactor.rule import Hit, Rule
from refactor.selection import Selection
from refactor.source import Source, SourceError, load, parse
from refactor.suppress import UNUSED, Suppression, split, suppressions
from refactor.vendor import NAME, Copy, Refused, Site, copy_in, site_for

if TYPE_CHECKING:
    from refactor.analysis.model import Facts
    from refactor.draft import Draft
    from refactor.rewrite.model import Patch, Proposal, Refusal

_HERE = Path(__file__).resolve().parent.parent
RECURSION = 5000
"""Python frames an analysis may stack up: an expression nested a thousand deep needs a few for each level."""


def catalogue() -> tuple[Rule, ...]:
    """Every rule, ordered by code."""
    from refactor.transforms import RULES

    return tuple(sorted((UNUSED, *RULES), key=lambda rule: rule.code))


@dataclass(frozen=True)
class Task:
    """What to do with every file."""

    settings: Settings
    cwd: Path
    rewrite: bool = False
    safe_only: bool = False


@dataclass(frozen=True)
class Job:
    """One file; ``data`` is set when it comes from standard input, ``known`` is its share of the baseline."""

    path: Path
    file: str
    data: bytes | None = None
    known: Mapping[Known, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What is known about one file after it was examined."""

    job: Job
    findings: tuple[Finding, ...] = ()
    """By place, without those in ``suppressed``."""
    known: tuple[Known, ...] = ()
    """What a baseline would remember of ``findings``, in their order."""
    suppressed: tuple[tuple[Finding, str], ...] = ()
    errors: tuple[FileError, ...] = ()
    crash: str = ""
    """Traceback of an error that is ours, not the file's."""
    copy: Copy | None = None
    """The file is a vendored runtime: never analysed."""
    patch: Patch | None = None
    site: Site | None = None
    """Where the runtime goes if the patch needs it."""
    drafts: tuple[Draft, ...] = ()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What was done about every finding, suppressed ones included, by place."""
        made = self.patch.outcomes if self.patch else ()
        seen = {outcome.finding for outcome in made}
        rest = tuple(Outcome(f, "refused", _NO_REWRITE) for f in self.findings if f not in seen)
        quiet = tuple(Outcome(finding, "suppressed", reason) for finding, reason in self.suppressed)
        return tuple(sorted((*made, *rest, *quiet), key=lambda outcome: outcome.finding))


_NOT_SAFE = "the rewrite has to be verified; leave out --safe-only to apply it"
_NO_REWRITE = "this rule explains, it never edits"
Accepted = tuple[Rule, Hit, Finding]


class Examiner:
    """Examines files of one project, one after the other."""

    def __init__(self, task: Task) -> None:
        from refactor.analysis import Project

        self.task = task
        self.selection = Selection(task.settings, catalogue())
        self.project = Project(task.settings.root, task.settings.src)
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION))

    def __call__(self, job: Job) -> Result:
        """Examine one file. Whatever goes wrong is a value of the result, so that the other files go on."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SyntaxWarning about the user's file: not for our stderr
                return self._examine(job)
        except SourceError as error:
            file = job.file if error.path == job.path else display(error.path, self.task.cwd)
            return Result(job, errors=(FileError(file, error.line, error.message),))
        except RecursionError:
            return Result(job, errors=(FileError(job.file, 1, "is nested too deeply to be analysed"),))
        except MemoryError:
            return Result(job, errors=(FileError(job.file, 1, "needs more memory than there is"),))
        except Exception as error:  # ours: reported with its place and exit code 2, and the run goes on
            return Result(job, errors=(_internal(job.file, error),), crash=traceback.format_exc())

    def _examine(self, job: Job) -> Result:
        result, facts, accepted = self.candidates(job)
        return self.rewritten(result, facts, accepted) if self.task.rewrite and facts else result

    def candidates(self, job: Job) -> tuple[Result, Facts | None, list[Accepted]]:
        """The findings of a file, with its facts and the hits a patch can be made of.

        Raises:
            SourceError: the file cannot be read, decoded or parsed.
        """
        from refactor.analysis import analyze

        source = load(job.path, job.data)
        copy = copy_in(job.path, source.data)
        if copy is not None:
            return Result(job, copy=copy), None, []
        facts = analyze(source, self.project, self.task.settings.regions)
        if facts is None:
            parse(source)  # the prefilter does not: a file that does not parse is reported all the same
        hits = self._hits(facts, job.file) if facts else {}
        relative = display(job.path, self.task.settings.root)
        kept, quiet, unused = split(sorted(hits), suppressions(source))
        kept += [_comment_finding(source, job.file, *row) for row in self.selection.judged(unused)]
        kept = sorted(finding for finding in kept if not self.selection.is_ignored(finding, relative))
        fresh, baselined = _without_known([(f, _known(source, relative, f)) for f in kept], job.known)
        result = Result(
            job,
            findings=tuple(finding for finding, _ in fresh),
            known=tuple(known for _, known in fresh),
            suppressed=tuple(sorted((*quiet, *baselined))),
        )
        return result, facts, [(*hits[finding], finding) for finding in result.findings if finding in hits]

    def _hits(self, facts: Facts, file: str) -> dict[Finding, tuple[Rule, Hit]]:
        """Findings of all selected rules; of several for one rule and place the first counts."""
        found: dict[tuple[str, int, int], Finding] = {}
        hits: dict[Finding, tuple[Rule, Hit]] = {}
        for rule in self.selection.rules:
            for hit in rule.detect(facts):
                finding = _finding(facts, file, rule, hit)
                if found.setdefault((rule.code, finding.start, finding.end), finding) is finding:
                    hits[finding] = rule, hit
        return hits

    def rewritten(self, result: Result, facts: Facts, accepted: Sequence[Accepted]) -> Result:
        """The result with the patch for the accepted hits, and drafts of the regions concerned."""
        if not accepted:
            return result
        from refactor.draft import drafts
        from refactor.rewrite.model import RuntimeImport
        from refactor.rewrite.patch import make_patch

        site = site_for(result.job.path, facts.tree, self.task.settings)
        limited = [(self._limited(rule, finding, site), hit, finding) for rule, hit, finding in accepted]
        module = site.module if isinstance(site, Site) else NAME  # then no proposal that imports it is left
        patch = make_patch(facts, limited, RuntimeImport(module))
        return replace(
            result,
            patch=patch,
            site=site if isinstance(site, Site) else None,
            drafts=drafts(facts, [finding.region for _, _, finding in accepted], patch.regions),
        )

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


def _comment_finding(source: Source, file: str, comment: Suppression, message: str) -> Finding:
    offset, text = source.lines[comment.line - 1]
    start = offset + len(text[: comment.column - 1].encode(source.encoding))
    end = start + len(comment.text.encode(source.encoding))
    return Finding(
        file=file,
        line=comment.line,
        column=comment.column,
        end_line=comment.line,
        end_column=comment.end_column,
        code=UNUSED.code,
        name=UNUSED.name,
        severity=UNUSED.severity,
        applicability=UNUSED.applicability,
        message=message,
        region=f"{source.path.stem}:<comment>",
        start=start,
        end=end,
    )


def _known(source: Source, relative: str, finding: Finding) -> Known:
    text = " ".join(source.lines[finding.line - 1][1].split())
    return Known(relative, finding.code, finding.region, text)


def _without_known(
    rows: Sequence[tuple[Finding, Known]], baseline: Mapping[Known, int]
) -> tuple[list[tuple[Finding, Known]], list[tuple[Finding, str]]]:
    """Findings the baseline does not know, and those it does, with the reason."""
    left = dict(baseline)
    fresh: list[tuple[Finding, Known]] = []
    old: list[tuple[Finding, str]] = []
    for finding, known in rows:
        if left.get(known, 0) > 0:
            left[known] -= 1
            old.append((finding, "in the baseline"))
        else:
            fresh.append((finding, known))
    return fresh, old


def _internal(file: str, error: Exception) -> FileError:
    """An error of the tool itself, with the innermost place in its own code."""
    ours = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename
    ]
    frame = (ours or traceback.extract_tb(error.__traceback__))[-1]
    where = f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}"
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return FileError(file, 1, f"internal error: {said} (at {where}; --debug shows more); please report it")
