"""The whole way for one file: analysis, all rules, patch; and running code with the runtime beside it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from refactor.transforms import RULES

from refactor.analysis.analyze import analyze
from refactor.analysis.project import Project
from refactor.findings import Finding
from refactor.rewrite.model import Patch, RuntimeImport
from refactor.rewrite.patch import Accepted, make_patch
from refactor.source import load

_RUNTIME = Path(__file__).parents[2] / "refactor" / "runtime" / "cuda_graphs.py"


def patch_file(path: Path, codes: Iterable[str] | None = None) -> Patch:
    """The patch that all rules (or those with the given codes) make of a file."""
    source = load(path)
    facts = analyze(source, Project(path.parent))
    if facts is None:
        return Patch(source, (), source.data, ())
    wanted = set(codes) if codes is not None else None
    accepted: list[Accepted] = []
    for rule in RULES:
        for hit in rule.detect(facts) if wanted is None or rule.code in wanted else ():
            node: Any = hit.event.node
            start, end = source.span(node)
            place = (node.lineno, node.col_offset + 1, node.end_lineno, node.end_col_offset + 1)
            finding = Finding(
                path.name, *place, rule.code, rule.name, rule.severity, rule.applicability, hit.message,
                hit.event.region.qualname, hit.event.chain, start, end,
            )  # fmt: skip
            accepted.append((rule, hit, finding))
    accepted.sort(key=lambda item: item[2])
    return make_patch(facts, accepted, RuntimeImport("cuda_graphs"))


def rewrite(code: str, folder: Path, codes: Iterable[str] | None = None) -> str:
    """What the rules make of a file with this code; a second application must change nothing."""
    path = folder / "model.py"
    path.write_text(code, encoding="utf-8", newline="")
    once = patch_file(path, codes)
    path.write_bytes(once.new)
    assert patch_file(path, codes).new == once.new, "a second application changes the file again"
    return once.new.decode()


def reasons(code: str, folder: Path, codes: Iterable[str] | None = None) -> list[str]:
    """Why findings in this code are left alone."""
    path = folder / "model.py"
    path.write_text(code, encoding="utf-8", newline="")
    return [outcome.reason for outcome in patch_file(path, codes).outcomes if outcome.status == "refused"]


@lru_cache(maxsize=1)
def _runtime() -> types.ModuleType:
    module = types.ModuleType("cuda_graphs")
    module.__file__ = str(_RUNTIME)
    sys.modules["cuda_graphs"] = module
    exec(compile(_RUNTIME.read_bytes(), str(_RUNTIME), "exec"), module.__dict__)
    return module


def run(code: str, name: str = "model") -> dict[str, Any]:
    """The namespace of a module with this code, with the runtime importable as ``cuda_graphs``."""
    _runtime()
    module = types.ModuleType("model")
    module.__name__ = name
    sys.modules["model"] = module  # dataclasses look their module up
    exec(compile(code, "model.py", "exec"), module.__dict__)
    return module.__dict__
