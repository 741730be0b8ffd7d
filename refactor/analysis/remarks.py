"""Comments that widen and narrow regions: ``# refactor: region`` and ``# refactor: host`` on a function.

They stand on a line of its header, or on a line of their own right above it or its decorators.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path

from refactor.source import Source

_REMARK = re.compile(r"#\s*refactor:\s*(region|host)\b", re.I)


def remarks(source: Source) -> Mapping[int, tuple[str, bool]]:
    """By line: ``"region"`` or ``"host"``, and whether the comment has the line to itself.

    None where the file has no complete tokens.
    """
    if b"refactor:" not in source.data:
        return {}
    found: dict[int, tuple[str, bool]] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text, newline="").readline):
            match = _REMARK.match(token.string) if token.type == tokenize.COMMENT else None
            if match is not None:
                found[token.start[0]] = (match[1].lower(), not token.line[: token.start[1]].strip())
    except (tokenize.TokenError, SyntaxError):
        return {}
    return found


def is_test(path: Path, node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> bool:
    """Whether a test runner runs a function, for what it shows and not for its speed."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
        return False
    if path.stem.startswith("test_") or path.stem.endswith("_test"):
        return True
    owner = parents.get(node)
    return isinstance(owner, ast.ClassDef) and any(ast.unparse(b).endswith("TestCase") for b in owner.bases)


def remark(table: Mapping[int, tuple[str, bool]], node: ast.AST) -> str | None:
    """What the comments of its file say of a function: ``"region"``, ``"host"``, or nothing."""
    if not table or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    last = max(node.lineno, node.body[0].lineno - 1)
    above = table.get(first - 1)
    if above is not None and above[1]:
        return above[0]
    return next((table[line][0] for line in range(first, last + 1) if line in table), None)
