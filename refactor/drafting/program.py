"""A harness for a script: a module whose ``forward`` runs the whole file and gives what it leaves behind."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from refactor.analysis import liveness
from refactor.analysis.globalnames import global_uses

_CLOCKS = frozenset(
    [
        "time",
        "perf_counter",
        "monotonic",
        "process_time",
        "perf_counter_ns",
        "time_ns",
        "now",
        "today",
        "uuid4",
    ]
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def left_names(text: str, tree: ast.Module) -> tuple[str, ...]:
    """Global names that a script leaves for others, in order.

    Those bound outside its loops, and those of its loops that are read behind them, but none that a clock
    gave.
    """
    later: frozenset[str] = frozenset().union(*(u.reads | u.binds for u in global_uses(text, tree)))
    live = liveness.live_out(tree, later)
    found: dict[str, None] = {}
    timed: set[str] = set()
    for stmt in _outside_loops(tree.body):
        names = liveness.writes([stmt])
        if isinstance(stmt, ast.For | ast.While):
            names = tuple(name for name in names if name in live[stmt])
        elif getattr(stmt, "body", None) is not None:
            continue  # its statements come one by one
        found.update(dict.fromkeys(names))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value:
            used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
            used |= {n.attr for n in ast.walk(node.value) if isinstance(n, ast.Attribute)}
            if used & (_CLOCKS | timed):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                timed.update(name for target in targets for name in liveness.target_names(target))
    return tuple(name for name in found if name not in timed and not name.startswith("__"))


def asks_clock(tree: ast.Module) -> bool:
    """Whether a script looks at a clock, so that what it prints may differ from run to run."""
    return any(
        (n.id if isinstance(n, ast.Name) else n.attr) in _CLOCKS
        for n in ast.walk(tree)
        if isinstance(n, ast.Name | ast.Attribute)
    )


def runs_on_import(tree: ast.Module) -> bool:
    """Whether a script loops at its top level without a guard: nothing in it can be imported alone."""
    blocks = [node for stmt in tree.body if isinstance(stmt, ast.With | ast.Try) for node in stmt.body]
    return any(isinstance(stmt, ast.For | ast.While) for stmt in (*tree.body, *blocks))


def _outside_loops(stmts: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for stmt in stmts:
        if isinstance(stmt, _DEFINITIONS):
            continue
        yield stmt
        if isinstance(stmt, ast.For | ast.While):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _outside_loops(getattr(stmt, part, ()))
        for block in (*getattr(stmt, "handlers", ()), *getattr(stmt, "cases", ())):
            yield from _outside_loops(block.body)


def program_text(file: str, names: Iterable[str], label: str, prints: bool) -> str:
    """The harness of a script.

    Args:
        file: its path, relative to its import root, with forward slashes.
        names: of the globals that are compared.
        label: name of the class to write.
        prints: whether what it prints is compared.
    """
    shown = "".join(f'    "{name}",\n' for name in names)
    return f'''"""Harness for {file}: `forward` runs it as a program and gives what it leaves behind."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import torch
from torch import nn

FILE = "{file}"
ARGUMENTS = []  # of the command line; a run should take seconds: few epochs, little data
NAMES = (
{shown})  # what is compared; leave out what depends on the clock
PRINTS = {prints}  # compare what is printed, too


def _kept(value):
    """What can be compared of a value."""
    if isinstance(value, nn.Module):
        return {{name: tensor.detach().clone() for name, tensor in value.state_dict().items()}}
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return [_kept(item) for item in value]
    if isinstance(value, dict):
        return {{str(key): _kept(item) for key, item in value.items()}}
    return value if isinstance(value, (bool, int, float, str)) else type(value).__name__


class {label}(nn.Module):
    def __init__(self):
        super().__init__()
        self._program()

    def _program(self):
        """The script as a module of the tree that comes first on the path, not run yet."""
        files = (Path(folder).resolve() / FILE for folder in sys.path)
        file = next(file for file in files if file.is_file())
        if sys.path[0] != str(file.parent):
            sys.path.insert(0, str(file.parent))
        spec = importlib.util.spec_from_file_location("{label}_script", file)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        return module

    def forward(self, seed):
        torch.manual_seed(seed)
        module = self._program()
        code = module.__spec__.loader.get_code(module.__name__)
        module.__name__ = "__main__"
        before = sys.argv, sys.modules["__main__"]
        sys.argv, sys.modules["__main__"] = [module.__file__, *ARGUMENTS], module
        shown = contextlib.nullcontext() if PRINTS else contextlib.redirect_stdout(io.StringIO())
        try:
            with shown:
                exec(code, module.__dict__)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise RuntimeError(f"the script ended with {{error.code}}") from error
        finally:
            sys.argv, sys.modules["__main__"] = before
        return {{name: _kept(module.__dict__[name]) for name in NAMES if name in module.__dict__}}
'''
