"""Positions: code points for people, bytes of the file for edits, whatever the encoding and the line ends."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refactor.source import Source, SourceError, assert_parses, load, parse


def source(data: bytes) -> Source:
    return load(Path("model.py"), data)


def calls(tree: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"x = f(1)\n", b"f(1)", id="plain ascii"),
        pytest.param("é = 'ü'; x = f('ö')\n".encode(), "f('ö')".encode(), id="utf-8 before and inside"),
        pytest.param(b"\xef\xbb\xbfx = f(1)\n", b"f(1)", id="a byte order mark is not a column"),
        pytest.param(
            b"# -*- coding: latin-1 -*-\n'\xe9'; f('\xe9')\n", b"f('\xe9')", id="latin-1 is one byte a letter"
        ),
        pytest.param(b"a = 1\r\nf(a)\r\n", b"f(a)", id="windows line ends"),
        pytest.param(b"a = 1\rf(a)\r", b"f(a)", id="old mac line ends"),
        pytest.param(b"a = 1\n\x0cf(a)\n", b"f(a)", id="a form feed ends no line"),
        pytest.param("s = '\u2028'\nf(s)\n".encode(), b"f(s)", id="a unicode line separator ends no line"),
        pytest.param(b"f(\r\n  1,\r\n)\r\n", b"f(\r\n  1,\r\n)", id="several lines"),
    ],
)
def test_a_span_is_the_bytes_of_the_node(data: bytes, expected: bytes) -> None:
    file = source(data)
    (call,) = calls(parse(file))
    start, end = file.span(call)
    assert data[start:end] == expected
    assert file.snippet(call) == expected.decode(file.encoding)


@given(st.text(alphabet="aé漢\U0001f600 ", max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_bytes_outside_a_span_are_the_file_without_it(text: str, newline: str, bom: bool) -> None:
    data = (
        b"\xef\xbb\xbf" if bom else b""
    ) + f"s = '{text}'{newline}t = '{text}', f('{text}'){newline}".encode()
    file = source(data)
    start, end = file.span(calls(parse(file))[0])
    assert data[start:end].decode() == f"f('{text}')"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(alphabet="aé \x0c\u2028", max_size=4), st.sampled_from(["\n", "\r\n", "\r"]))),
    st.text(alphabet="aé", max_size=3),
    st.sampled_from(["utf-8", "utf-16-le"]),
    st.booleans(),
)
def test_lines_are_the_file_and_say_where_they_start(
    rows: list[tuple[str, str]], last: str, encoding: str, marked: bool
) -> None:
    bom = b"\xef\xbb\xbf" if marked else b""
    text = "".join(line + end for line, end in rows) + last
    data = bom + text.encode(encoding)
    lines = Source(Path("model.py"), data, text, encoding, bom).lines
    assert "".join(line for _, line in lines) == text
    assert all(data[start:].startswith(line.encode(encoding)) for start, line in lines)
    assert all(line.endswith(("\n", "\r")) for _, line in lines[:-1])
    assert not lines[-1][1].endswith(("\n", "\r"))


def test_the_newline_of_a_file_is_that_of_its_first_line() -> None:
    assert source(b"a\r\nb\n").newline == "\r\n"
    assert source(b"").newline == "\n"


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        pytest.param(b"a = 1\nx = '\xe9'\n", 2, "is not utf-8: byte 0xe9", id="latin-1 that does not say so"),
        pytest.param(b"# coding: nonsense\n", 1, "unknown encoding", id="an encoding nobody knows"),
    ],
)
def test_text_that_cannot_be_decoded_names_the_line(data: bytes, line: int, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        source(data)
    assert caught.value.line == line
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("data", "line"),
    [
        pytest.param(b"a = 1\nif a\n", 2, id="a syntax error"),
        pytest.param(b"a = 1\x00\n", 1, id="a null byte"),
        pytest.param(b"x = " + b"(" * 5000 + b")" * 5000, 1, id="nesting deeper than the parser takes"),
    ],
)
@pytest.mark.parametrize("read", [parse, assert_parses])
def test_text_that_cannot_be_parsed_names_the_line(
    data: bytes, line: int, read: Callable[[Source], object]
) -> None:
    with pytest.raises(SourceError, match="cannot be parsed") as caught:
        read(source(data))
    assert caught.value.line == line


def test_what_parses_is_let_through_even_if_it_cannot_be_compiled() -> None:
    assert_parses(source(b"def f(a, a):\n    nonlocal b\n"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read: No such file") as caught:
        load(tmp_path / "gone.py")
    assert caught.value.path == tmp_path / "gone.py"
