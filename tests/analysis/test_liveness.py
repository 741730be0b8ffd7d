"""Names read, written and live, against hand-worked cases and against what Python itself does."""

from __future__ import annotations

import ast
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refactor.analysis.liveness import live_after, reads, surely_writes, writes


def body(code: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(code)).body


def function(code: str) -> ast.FunctionDef:
    node = body(code)[0]
    assert isinstance(node, ast.FunctionDef)
    return node


READS = {
    "a comprehension's own names are not read from around it": ("y = [i for i in x if i > k]", ("x", "k")),
    "a lambda's parameters are its own": ("f = lambda a, b=c: a + b + d", ("c", "d")),
    "a name assigned first is not an input": ("x = 1\ny = x", ()),
    "a name assigned on one path only is an input": ("if c:\n    x = 1\ny = x", ("c", "x")),
    "a name assigned on both paths is not": ("if c:\n    x = 1\nelse:\n    x = 2\ny = x", ("c",)),
    "an augmented assignment reads its target": ("x += 1", ("x",)),
    "a stored item reads its owner": ("x[i] = v", ("v", "x", "i")),
    "a loop reads what an earlier iteration left": ("for i in xs:\n    y = acc\n    acc = i", ("xs", "acc")),
    "a walrus in a test assigns": ("if (n := f()) > 1:\n    y = n", ("f",)),
    "a walrus behind `and` may not run": ("if a and (n := f()):\n    pass\ny = n", ("a", "f", "n")),
    "a handler may see any part of the try body": (
        "try:\n    x = f()\nexcept E as e:\n    y = x",
        ("f", "E", "x"),
    ),
    "a nested function reads its free names": ("def g(a):\n    return a + z", ("z",)),
    "annotations of local names are not evaluated": ("x: T = 1", ()),
    "deleting reads": ("del x", ("x",)),
}


@pytest.mark.parametrize(("code", "expected"), READS.values(), ids=READS.keys())
def test_reads(code: str, expected: tuple[str, ...]) -> None:
    assert set(reads(body(code))) == set(expected)


def test_reads_come_in_order_of_appearance() -> None:
    assert reads(body("y = b + a\nz = c + a")) == ("b", "a", "c")


WRITES = {
    "a comprehension binds nothing": ("[i for i in x]", (), ()),
    "imports bind their first name": ("import a.b, c as d", ("a", "d"), ("a", "d")),
    "one path": ("if c:\n    x = 1", ("x",), ()),
    "a path that returns does not count": ("if c:\n    return\nelse:\n    x = 1", ("x",), ("x",)),
    "a loop may not run": ("for i in xs:\n    y = i", ("i", "y"), ()),
    "with binds surely": ("with f() as (a, b):\n    c = 1", ("a", "b", "c"), ("a", "b", "c")),
    "a handler's name is a possible write": (
        "try:\n    x = 1\nexcept E as e:\n    x = 2",
        ("e", "x"),
        ("x",),
    ),
    "match with a default": (
        "match v:\n    case [a]:\n        x = 1\n    case _:\n        x = 2",
        ("a", "x"),
        ("x",),
    ),
}


@pytest.mark.parametrize(("code", "every", "sure"), WRITES.values(), ids=WRITES.keys())
def test_writes(code: str, every: tuple[str, ...], sure: tuple[str, ...]) -> None:
    stmts = body(code)
    assert set(writes(stmts)) == set(every)
    assert surely_writes(stmts) == frozenset(sure)


LIVE = {
    "a value overwritten before it is read is dead": ("x = 1", "x = 2\n    return x", set()),
    "a value read later is live": ("x = 1", "return x", {"x"}),
    "a captured name is always live": ("x = 1", "f = lambda: x\n    x = 2\n    return f", {"x"}),
    "a global outlives the function": ("global x\n    x = 1", "return 0", {"x"}),
}


@pytest.mark.parametrize(("first", "rest", "expected"), LIVE.values(), ids=LIVE.keys())
def test_live_after(first: str, rest: str, expected: set[str]) -> None:
    node = function(f"def f(a):\n    {first}\n    {rest}\n")
    index = 1 if first.startswith("global") else 0
    assert live_after(node, node.body[index]) & {"x"} == expected


def test_the_end_of_a_loop_body_keeps_what_the_next_iteration_reads() -> None:
    node = function("def f(xs, acc):\n    for x in xs:\n        y = acc + x\n        acc = y\n    return 0\n")
    loop = node.body[0]
    assert isinstance(loop, ast.For)
    assert live_after(node, loop.body[1]) == {"xs", "acc"} - {"xs"}


def test_break_carries_what_is_read_after_the_loop() -> None:
    node = function(
        "def f(xs):\n    for x in xs:\n        y = x\n        if y:\n            break\n    return y\n"
    )
    loop = node.body[0]
    assert isinstance(loop, ast.For)
    assert "y" in live_after(node, loop.body[0])


NAMES = st.sampled_from(["a", "b", "c", "d"])
SIMPLE = st.builds(lambda t, v: f"{t} = {v} + 1", NAMES, NAMES)


def indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


BLOCKS = st.recursive(
    st.lists(SIMPLE, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.builds(lambda n, x, y: [f"if {n} > 2:", *indent(x), "else:", *indent(y)], NAMES, inner, inner),
        st.builds(lambda n, x: [f"if {n} % 2:", *indent(x)], NAMES, inner),
        st.builds(lambda n, x: [f"for {n} in range(2):", *indent(x)], NAMES, inner),
        st.builds(lambda x, y: ["try:", *indent(x), "finally:", *indent(y)], inner, inner),
        st.builds(lambda x, y: [*x, *y], inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.fixed_dictionaries(dict.fromkeys("abcd", st.integers(0, 5))))
def test_code_runs_on_its_reads_alone_and_surely_writes_are_bound(
    lines: list[str], start: dict[str, int]
) -> None:
    stmts = ast.parse("\n".join(lines)).body
    needed = set(reads(stmts))
    space: dict[str, int] = {name: value for name, value in start.items() if name in needed}
    exec(compile("\n".join(lines), "generated", "exec"), {"range": range}, space)
    assert surely_writes(stmts) <= space.keys()
    assert space.keys() <= needed | set(writes(stmts))


@settings(max_examples=150, deadline=None)
@given(BLOCKS, BLOCKS, st.fixed_dictionaries(dict.fromkeys("abcd", st.integers(0, 5))))
def test_names_that_are_not_live_can_be_forgotten(
    first: list[str], rest: list[str], start: dict[str, int]
) -> None:
    lines = ["if 1:", *indent(first), *rest, "return a, b"]
    node = function("def f(a, b, c, d):\n" + "\n".join(indent(lines)))
    live = live_after(node, node.body[0])
    forget = [f"    {name} = -1000" for name in "abcd" if name not in live]
    changed = [
        "def f(a, b, c, d):",
        *indent(lines[: len(first) + 1]),
        *forget,
        *indent(lines[len(first) + 1 :]),
    ]
    results = []
    for code in (ast.unparse(node), "\n".join(changed)):
        space: dict[str, object] = {}
        exec(compile(code, "generated", "exec"), space)
        results.append(space["f"](**start))  # type: ignore[operator]
    assert results[0] == results[1]
