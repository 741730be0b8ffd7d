"""What a hand-written capture lacks, also where its parts are spread over helpers and methods of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from refactor.analysis import Project, analyze
from refactor.analysis.model import EventKind
from refactor.source import load

WARM = """
def warm_up(step, x):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x)
    torch.cuda.current_stream().wait_stream(stream)
"""

CASES = {
    "a helper warms up what the caller captures": WARM
    + """
def capture(model, x):
    warm_up(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    return graph, y
""",
    "the caller warms up what a helper captures": """
def record(fn, x):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fn(x)
    return graph, y

def prepare(model, x):
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    return record(model, x)
""",
    "a warmup imported from elsewhere": """
from tools import warmup

def capture(model, x):
    warmup(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    return graph, y
""",
    "methods that warm up, capture and replay with a copy": """
class Runner:
    def __init__(self, model, x):
        self.model, self.x = model, x
        self._warm()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self.model(self.x)

    def _warm(self):
        with torch.cuda.stream(torch.cuda.Stream()):
            self.model(self.x)

    def __call__(self, x):
        self.x.copy_(x)
        self.graph.replay()
        return self.out.clone()
""",
    "a local result that shares its name with a captured one": WARM
    + """
def capture(model, x):
    warm_up(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    return graph, y

def run(graph, x):
    graph.replay()
    y = x + 1
    return y
""",
    "inputs that are written into, outputs that are copied, names for something else": WARM
    + """
class Served:
    def __init__(self, model, x):
        self.model, self.x = model, x.clone()
        self._record()

    def _record(self):
        warm_up(self.model, self.x)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self.model(self.x)

    def _run(self, x):
        self.x.copy_(x)
        self.graph.replay()
        return self.out

    def __call__(self, x, n):
        self.x[:n] = x
        return self._run(x).clone(), self.out.shape, self._run(x).cpu()

    def resize(self, x):
        self.x = x.clone()
        self._record()
        self.graph.replay()
        return self.out.argmax(-1)

class Other:
    def __call__(self, graph, x):
        self.x = x
        graph.replay()

def over(model, xs):
    found = []
    for x in xs:
        static = x.clone()
        warm_up(model, static)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=None):
            out = model(static)
        graph.replay()
        found.append(out.clone())
    return found
""",
    "a table of graphs with their tensors": WARM
    + """
class Table:
    def __init__(self, model):
        self.model, self.graphs, self.inputs = model, {}, {}

    def __call__(self, x):
        n = x.shape[0]
        if n not in self.graphs:
            self.inputs[n] = x.clone()
            warm_up(self.model, self.inputs[n])
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = self.model(self.inputs[n])
            self.graphs[n] = (graph, y)
        graph, y = self.graphs[n]
        self.inputs[n].copy_(x)
        graph.replay()
        return {"y": y[: n - 1]}  # !uncloned

    def stale(self, x):
        n = x.shape[0]
        self.inputs[n] = x  # !rebound
        graph, y = self.graphs[n]
        graph.replay()
        return y.cpu()
""",
    "fields of what a model returns, collected": WARM
    + """
def serve(model, batches):
    batch = {k: v.clone() for k, v in batches[0].items()}
    warm_up(model, batch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = model(**batch)
    found, last = [], {}
    for i, new in enumerate(batches):
        batch["ids"] = new["ids"]  # !rebound
        graph.replay()
        found += [out.logits]  # !uncloned
        last[i] = out["hidden"].view(-1)  # !uncloned
    return found, last
""",
    "names imported from torch.cuda, and a capture by hand": """
from torch.cuda import CUDAGraph, graph

def record(model, x):
    static = x.clone()
    with torch.cuda.stream(torch.cuda.Stream()):
        model(static)
    g, h = CUDAGraph(), CUDAGraph()
    with graph(g, pool=None):
        y = model(static)
    h.capture_begin()
    z = model(static)
    h.capture_end()

    def run(new):
        nonlocal static
        static = new  # !rebound
        g.replay()
        return y  # !uncloned

    def again(new):
        static.copy_(new)
        h.replay()
        return z.T  # !uncloned

    return run, again
""",
    "nobody warms up": """
def record(fn, x):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !warmup
        y = fn(x)
    return graph, y

def prepare(model, x):
    return record(model, x)
""",
    "the caller warms up on the default stream": """
def record(fn, x):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !side-stream
        y = fn(x)
    return graph, y

def prepare(model, x):
    model(x)
    return record(model, x)
""",
    "a graph captured in the constructor and replayed by a helper": """
class Runner:
    def __init__(self, model, x):
        self.x = x
        with torch.cuda.stream(torch.cuda.Stream()):
            model(self.x)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = model(self.x)

    def _replay(self, x):
        self.x.copy_(x)
        self.graph.replay()

    def __call__(self, x):
        self._replay(x)
        return self.out  # !uncloned
""",
    "what a helper captured and returned": WARM
    + """
def record(model, x):
    warm_up(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    return graph, y

def serve(model, x, batches):
    graph, out = record(model, x)
    results = []
    for batch in batches:
        x.copy_(batch)
        graph.replay()
        results.append(out)  # !uncloned
    return results
""",
    "a helper called for every size makes a pool each time": WARM
    + """
def record(model, x):
    warm_up(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # !pool
        model(x)
    return graph

def prepare(model, sizes):
    return_graphs = {}
    for size in sizes:
        return_graphs[size] = record(model, torch.zeros(size, device="cuda"))
    return return_graphs
""",
    "a cache that stores under another key than it looks up": WARM
    + """
class Cache:
    def __init__(self, model):
        self.model, self.graphs = model, {}

    def _record(self, x):
        warm_up(self.model, x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.model(x)
        return graph

    def __call__(self, x):
        if x.shape not in self.graphs:
            self.graphs[x.shape[0]] = self._record(x)  # !key
        self.graphs[x.shape].replay()
""",
}


@pytest.mark.parametrize("code", CASES.values(), ids=CASES.keys())
def test_points_of_a_capture_are_followed_through_helpers(code: str, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import torch\n" + code)
    facts = analyze(load(tmp_path / "m.py"), Project(tmp_path))
    assert facts is not None
    found = {
        (event.node.lineno, event.detail)  # type: ignore[attr-defined]
        for event in facts.events
        if event.kind is EventKind.CAPTURE
    }
    lines = ("import torch\n" + code).splitlines()
    wanted = {(n, line.split("# !")[1].strip()) for n, line in enumerate(lines, 1) if "# !" in line}
    assert found == wanted
