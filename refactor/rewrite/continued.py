"""The libcst line that marks what one statement became in several lines; imported where libcst is in use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import libcst as cst


class Continued(cst.SimpleStatementLine):
    """A line that belongs to the line before it: together they stand where one statement stood."""


def as_one(lines: Iterable[cst.SimpleStatementLine]) -> list[cst.SimpleStatementLine]:
    """The lines that take the place of one statement, all but the first marked."""
    first, *rest = lines
    return [first, *(Continued(one.body, one.leading_lines, one.trailing_whitespace) for one in rest)]


def by_statement(lines: Iterable[Any]) -> list[list[Any]]:
    """The lines of a block, those of one statement together."""
    groups: list[list[Any]] = []
    for line in lines:
        if isinstance(line, Continued) and groups:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups
