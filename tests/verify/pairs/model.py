"""Programs with right rewrites and wrong ones: a wrong one is the right one with a few words replaced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GRAPH = """

class Graph:
    def __init__(self, fn, *args):
        self.fn = fn
        self.inputs = [a.detach().clone() for a in args]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                fn(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = fn(*self.inputs)

    def __call__(self, *args):
        for static, arg in zip(self.inputs, args):
            static.copy_(arg)
        self.graph.replay()
        return self.outputs


def addresses(module):
    return tuple(t.data_ptr() for t in (*module.parameters(), *module.buffers()))

"""


@dataclass(frozen=True)
class Mutant:
    """A wrong rewrite: words of the right one replaced, and the group of observations that shows it."""

    name: str
    replace: tuple[tuple[str, str], ...]
    shown_by: str  # group of observations, or name of a check
    gpu_only: bool = False


@dataclass(frozen=True)
class Pair:
    """An original, its right rewrite, and wrong ones."""

    name: str
    family: str
    before: str
    after: str
    target: str
    mutants: tuple[Mutant, ...] = ()

    def write(self, folder: Path, mutant: Mutant | None = None) -> Path:
        """Write both trees and the targets below ``folder``; returns it."""
        after = self.after
        for old, new in mutant.replace if mutant else ():
            assert old in after, f"{self.name}: {old!r} is not in the rewrite"
            after = after.replace(old, new)
        for side, text in (("before", self.before), ("after", after)):
            (folder / side).mkdir(parents=True, exist_ok=True)
            head = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
            graph = GRAPH if "Graph(" in text and side == "after" else "\n\n"
            (folder / side / "program.py").write_text(head + graph + text.strip() + "\n")
        (folder / "targets.toml").write_text(f'[[target]]\nname = "{self.name}"\n{self.target.strip()}\n')
        return folder
