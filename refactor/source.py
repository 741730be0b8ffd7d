r"""A source file as bytes, text and positions: the one place where columns become byte offsets.

``ast`` counts columns in UTF-8 bytes of the decoded text, people and JSON in code points, edits in bytes of
the file as it is on disk. Lines end at ``\n``, ``\r\n`` and ``\r`` and nowhere else (not at form feeds).
"""

from __future__ import annotations

import ast
import codecs
import hashlib
import io
import operator
import re
import symtable
import tokenize
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_LINE_END = re.compile(r"(\r\n|\r|\n)")


class SourceError(Exception):
    """A file that cannot be read, decoded or parsed; ``line`` is 1 where the place is unknown."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(message)
        self.path, self.line, self.message = path, line, message


@dataclass(frozen=True)
class Source:
    """One file: its bytes, its text (byte order mark removed) and its encoding."""

    path: Path
    data: bytes
    text: str
    encoding: str
    """Codec of the bytes after the byte order mark."""
    bom: bytes

    @cached_property
    def lines(self) -> tuple[tuple[int, str], ...]:
        """``(byte offset in data, text with its line end)`` of every line, the first line first."""
        parts = _LINE_END.split(self.text)  # a line, its end, the next line, its end, …
        texts = [*map(operator.add, parts[::2], parts[1::2]), parts[-1]]
        utf8 = self.encoding == "utf-8"
        rows: list[tuple[int, str]] = []
        offset = len(self.bom)
        for text in texts:
            rows.append((offset, text))
            offset += len(text) if utf8 and text.isascii() else len(text.encode(self.encoding))
        return tuple(rows)

    @cached_property
    def digest(self) -> str:
        """`digest` of its bytes."""
        return digest(self.data)

    @cached_property
    def newline(self) -> str:
        """The line end of the first line that has one, else a line feed: what inserted lines end with."""
        match = _LINE_END.search(self.text)
        return match.group() if match else "\n"

    def column(self, line: int, utf8_column: int) -> int:
        """Code points before a UTF-8 column of a line counted from 1."""
        text = self.lines[line - 1][1]
        if text.isascii():
            return utf8_column
        return len(text.encode("utf-8")[:utf8_column].decode("utf-8", "ignore"))

    def offset(self, line: int, utf8_column: int) -> int:
        """Byte offset in ``data`` of a position as ``ast`` gives it."""
        start, text = self.lines[line - 1]
        return start + len(text[: self.column(line, utf8_column)].encode(self.encoding))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Byte range in ``data`` of a node that has a position; decorators are not part of it."""
        first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        return self.offset(first, node.col_offset), self.offset(last, node.end_col_offset)  # type: ignore[attr-defined]

    def snippet(self, node: ast.AST) -> str:
        """The source text of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode(self.encoding)


def digest(data: bytes) -> str:
    """What stands for a file's bytes in the cache."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def load(path: Path, data: bytes | None = None) -> Source:
    """Read and decode a file (or ``data`` in its name).

    Raises:
        SourceError: unreadable, or not text in the encoding it declares (PEP 263; UTF-8 by default).
    """
    try:
        raw = path.read_bytes() if data is None else data
    except OSError as error:
        raise SourceError(path, 1, f"cannot be read: {error.strerror or error}") from None
    bom = codecs.BOM_UTF8 if raw.startswith(codecs.BOM_UTF8) else b""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    except SyntaxError as error:
        hint = "declare the encoding in line 1 or 2 (PEP 263), or save the file as UTF-8"
        raise SourceError(path, 1, f"cannot be decoded: {error.msg}; {hint}") from None
    encoding = "utf-8" if encoding == "utf-8-sig" else encoding
    try:
        text = raw[len(bom) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        byte = raw[len(bom) + error.start]
        message = f"is not {encoding}: byte {byte:#04x}; declare the encoding in line 1 or 2 (PEP 263)"
        raise SourceError(path, line, message) from None
    return Source(path, raw, text, encoding, bom)


def parse(source: Source) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        SourceError: a syntax error, a null byte, or nesting deeper than the interpreter's parser takes.
    """
    try:
        return ast.parse(source.text)
    except SyntaxError as error:
        raise SourceError(source.path, error.lineno or 1, f"cannot be parsed: {error.msg}") from None
    except ValueError as error:
        raise SourceError(source.path, 1, f"cannot be parsed: {error}") from None
    except (RecursionError, MemoryError):
        raise SourceError(source.path, 1, "cannot be parsed: nested too deeply") from None


def assert_parses(source: Source) -> None:
    """See that a file parses, without a tree: its table of symbols takes less time.

    Raises:
        SourceError: as `parse`.
    """
    try:
        symtable.symtable(source.text, "", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parse(source)  # not all that has no table fails to parse
