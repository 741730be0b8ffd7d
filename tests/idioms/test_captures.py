"""Code that captures by hand and does it wrong: what is left alone, then the repairs at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rewrite.whole import patch_file, reasons, rewrite, run

HEAD = "import torch\nimport torch.nn as nn\n\n\n"
SIDE = """\
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            {warm}
    torch.cuda.current_stream().wait_stream(side)
"""

LEFT = {
    "a warmup that would train": (
        "def capture(model, optimizer, x):\n    graph = torch.cuda.CUDAGraph()\n    optimizer.zero_grad()\n"
        "    with torch.cuda.graph(graph):\n        loss = model(x).sum()\n        loss.backward()\n"
        "        optimizer.step()\n    return graph\n",
        "a warmup would train",
    ),
    "a warmup that would advance a state": (
        "@torch.no_grad()\ndef capture(model, state, x):\n    graph = torch.cuda.CUDAGraph()\n"
        "    with torch.cuda.graph(graph):\n        state.add_(model(x))\n    return graph\n",
        "`add_` writes in place",
    ),
    "a model that may be in training mode": (
        "def capture(model, x):\n    graph = torch.cuda.CUDAGraph()\n    with torch.cuda.graph(graph):\n"
        "        y = model(x)\n    return graph\n",
        "may advance its statistics",
    ),
    "an output that may be anything": (
        "@torch.no_grad()\ndef capture(model, x):\n" + SIDE.format(warm="model(x)")
        + "    graph = torch.cuda.CUDAGraph()\n    with torch.cuda.graph(graph):\n        y = model(x)\n\n"
        "    def call(new):\n        x.copy_(new)\n        graph.replay()\n        return y\n\n"
        "    return call\n",
        "it is not known that `y` is one tensor",
    ),
    "gradients of nobody in particular": (
        "def capture(model, x):\n" + SIDE.format(warm="model(x).sum().backward()")
        + "    graph = torch.cuda.CUDAGraph()\n    with torch.cuda.graph(graph):\n"
        "        model(x).sum().backward()\n    return graph\n",
        "it is not known whose gradients",
    ),
    "a key that changes before it is used": (
        "@torch.no_grad()\ndef run(model, x, graphs, key):\n    if key not in graphs:\n"
        "        key = key + 1\n        graph = torch.cuda.CUDAGraph()\n        model(x)\n"
        "        with torch.cuda.graph(graph):\n            y = model(x)\n        graphs[len(x)] = graph\n",
        "`key` changes before the graph is stored",
    ),
    "graphs in several threads": (
        "import threading\n\n\n@torch.no_grad()\ndef capture(model, batches):\n    found = []\n"
        "    for x in batches:\n        model(x)\n        graph = torch.cuda.CUDAGraph()\n"
        "        with torch.cuda.graph(graph):\n            y = model(x)\n        found.append((graph, y))\n"
        "    return found\n",
        "this file has threads",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, reason = LEFT[name]
    (tmp_path / "model.py").write_text(HEAD + code, encoding="utf-8")
    outcomes = patch_file(tmp_path / "model.py").outcomes
    assert reason in " ".join(outcome.reason for outcome in outcomes)


NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).tanh()


"""
CAPTURE = """\
@torch.no_grad()
def capture(model: Net, x):
    x = x.clone()
{warm}    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)

    def call(new):
        x.copy_(new)
        graph.replay()
        return y{clone}

    return call
"""


def _model(space: dict[str, Any], device: str) -> Any:
    torch.manual_seed(0)
    return space["Net"]().to(device).eval()


def test_an_output_that_is_kept_survives_the_next_replay(tmp_path: Path, device: str) -> None:
    code = HEAD + NET + CAPTURE.format(warm=SIDE.format(warm="model(x)"), clone="")
    after = rewrite(code, tmp_path, ["CG502"])
    assert after == HEAD + NET + CAPTURE.format(warm=SIDE.format(warm="model(x)"), clone=".clone()")
    for text, survives in ((code, False), (after, True)):
        space = run(text)
        model, x = _model(space, device), torch.ones(2, 4, device=device)
        call = space["capture"](model, x)
        first = call(x)
        call(-x)
        with torch.no_grad():
            assert torch.allclose(first, model(x)) is survives


def test_a_missing_warmup_runs_on_a_side_stream(tmp_path: Path, device: str) -> None:
    code = HEAD + NET + CAPTURE.format(warm="", clone=".clone()")
    after = rewrite(code, tmp_path, ["CG501"])
    assert "with torch.cuda.stream(side):\n        for _ in range(3):\n            y = model(x)\n" in after
    space = run(after)
    model, x = _model(space, device), torch.randn(2, 4, device=device)
    with torch.no_grad():
        assert torch.allclose(space["capture"](model, x)(2 * x), model(2 * x))


def test_a_warmup_runs_in_the_modes_of_its_capture(tmp_path: Path, device: str) -> None:
    code = CAPTURE.removeprefix("@torch.no_grad()\n").replace("with ", "with torch.no_grad(), ")
    after = rewrite(HEAD + NET + code.format(warm="", clone=".clone()"), tmp_path, ["CG501"])
    assert "    with torch.cuda.stream(side), torch.no_grad():\n        for _ in range(3):\n" in after
    space = run(after)
    model, x = _model(space, device), torch.randn(2, 4, device=device)
    with torch.no_grad():
        assert torch.allclose(space["capture"](model, x)(2 * x), model(2 * x))


def test_a_warmup_is_not_written_where_the_capture_needs_something_of_its_own(tmp_path: Path) -> None:
    code = CAPTURE.replace("with ", "with timer.section('record'), ").format(warm="", clone=".clone()")
    assert rewrite(HEAD + NET + code, tmp_path, ["CG501"]) == HEAD + NET + code
    assert "warm up by hand under it" in reasons(HEAD + NET + code, tmp_path, ["CG501"])[0]


def test_a_warmup_on_the_default_stream_moves(tmp_path: Path, device: str) -> None:
    warm = "    # settle the libraries\n    for _ in range(3):\n        model(x)\n"
    after = rewrite(HEAD + NET + CAPTURE.format(warm=warm, clone=".clone()"), tmp_path, ["CG501"])
    assert (
        "    with torch.cuda.stream(side):\n        # settle the libraries\n        for _ in range(3):\n"
        in after
    )
    space = run(after)
    model, x = _model(space, device), torch.randn(2, 4, device=device)
    with torch.no_grad():
        assert torch.allclose(space["capture"](model, x)(2 * x), model(2 * x))


GENERATOR = """\
@torch.no_grad()
def capture(model: Net, x):
    x = x.clone()
    noise = torch.Generator(device="cuda")
    noise.manual_seed(3)
{warm}    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x) + torch.rand(3, device="cuda", generator=noise)

    def call(new):
        x.copy_(new)
        graph.replay()
        return y.clone()

    return call
"""


def test_a_registered_generator_draws_anew_at_every_replay(tmp_path: Path, device: str) -> None:
    code = HEAD + NET + GENERATOR.format(warm=SIDE.format(warm="model(x)"))
    after = rewrite(code, tmp_path, ["CG507"])
    space = run(code)
    with pytest.raises(RuntimeError, match="generator"):
        space["capture"](_model(space, device), torch.ones(2, 4, device=device))
    space = run(after)
    call = space["capture"](_model(space, device), torch.ones(2, 4, device=device))
    x = torch.ones(2, 4, device=device)
    assert not torch.equal(call(x), call(x))


STEP = """\
def train(model, optimizer, batches):
    x = batches[0].clone()
{warm}    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(x).square().sum()
        loss.backward()
    for batch in batches:
        x.copy_(batch)
        graph.replay()
        optimizer.step()
"""


def test_gradients_cleared_before_the_capture_do_not_add_up(tmp_path: Path, device: str) -> None:
    code = HEAD + NET + STEP.format(warm=SIDE.format(warm="model(x).square().sum().backward()"))
    after = rewrite(code, tmp_path, ["CG505"])
    batches = [torch.randn(2, 4, generator=torch.Generator().manual_seed(i)).to(device) for i in range(4)]
    plain = _model(run(code), device)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        plain(x).square().sum().backward()
        optimizer.step()
    for text, right in ((code, False), (after, True)):
        space = run(text)
        model = _model(space, device)
        space["train"](model, torch.optim.SGD(model.parameters(), lr=0.1), batches)
        assert torch.allclose(model.fc.weight, plain.fc.weight) is right


def test_a_cache_with_one_key_captures_each_shape_once(tmp_path: Path, device: str) -> None:
    code = """\
@torch.no_grad()
def serve(model: Net, batches):
    graphs, made, results = {}, 0, []
    for x in batches:
        key = (x.shape, x.dtype)
        if key not in graphs:
            made += 1
            static = x.clone()
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                model(static)
            pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                y = model(static)
            graphs[x.shape] = graph, static, y
        graph, static, y = graphs[x.shape]
        static.copy_(x)
        graph.replay()
        results.append(y.clone())
    return made, results
"""
    after = rewrite(HEAD + NET + code, tmp_path, ["CG508"])
    assert after.count("graphs[key]") == 2
    space = run(after)
    model = _model(space, device)
    batches = [torch.randn(n, 4, device=device) for n in (2, 3, 2, 3)]
    made, results = space["serve"](model, batches)
    assert made == 2
    with torch.no_grad():
        for x, y in zip(batches, results, strict=True):
            assert torch.allclose(model(x), y)
