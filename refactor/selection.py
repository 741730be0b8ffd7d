"""Which rules are on in a run, and for which files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from pathspec import GitIgnoreSpec

from refactor.config import Settings, is_selected, match_length
from refactor.findings import Finding
from refactor.rule import Rule
from refactor.suppress import UNUSED, Suppression


class Selection:
    """The selected rules, and the questions that selectors of the configuration answer."""

    def __init__(self, settings: Settings, catalogue: Sequence[Rule]) -> None:
        self.catalogue = tuple(catalogue)
        self.rules = tuple(rule for rule in catalogue if is_selected(settings, rule.code, rule.name))
        self._no_regions = tuple(pattern[1:] for pattern in settings.regions if pattern.startswith("!"))
        self._ignores = tuple(
            (GitIgnoreSpec.from_lines([pattern]), codes) for pattern, codes in settings.per_file_ignores
        )

    def is_wanted(self, finding: Finding, relative: str) -> bool:
        """Whether neither ``per-file-ignores`` nor ``regions`` leaves a finding out.

        Args:
            finding: one of a selected rule.
            relative: the file's path from the root.
        """
        if any(fnmatchcase(finding.region, pattern) for pattern in self._no_regions):
            return False
        return not any(
            spec.match_file(relative)
            for spec, codes in self._ignores
            if any(match_length(code, finding.code, finding.name) for code in codes)
        )

    def judged(
        self, unused: Iterable[tuple[Suppression, tuple[str, ...]]]
    ) -> Iterator[tuple[Suppression, str]]:
        """Unused comments worth a report, with the message: only if all rules that they name ran."""
        if UNUSED not in self.rules:
            return
        for comment, codes in unused:
            unknown = [code for code in codes if not self._named(code, self.catalogue)]
            judged = [code for code in codes if self._all_on(code)]
            if unknown:
                yield comment, f"no rule is called {', '.join(unknown)}; `refactor rule` lists them"
            elif judged:
                rest = "" if len(judged) == len(comment.codes) else f" {', '.join(judged)} from"
                yield comment, f"nothing here is suppressed by {', '.join(judged)}: remove{rest} the comment"
            elif not comment.codes and len(self.rules) == len(self.catalogue):
                yield comment, "nothing here is suppressed: remove the comment"

    def _all_on(self, code: str) -> bool:
        named = self._named(code, self.catalogue)
        return bool(named) and all(rule in self.rules for rule in named)

    @staticmethod
    def _named(code: str, rules: Iterable[Rule]) -> list[Rule]:
        return [rule for rule in rules if match_length(code, rule.code, rule.name)]
