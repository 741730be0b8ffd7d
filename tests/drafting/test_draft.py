"""Drafts of targets: what the code tells is filled in, the rest is a ``?``, and nothing is overwritten."""

# ruff: noqa: E501  # one case a line

from __future__ import annotations

import ast
import sys
import textwrap

import pytest

from refactor.draft import Draft, drafts, update_targets
from refactor.source import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class FakeFacts:
    """All that a draft needs of the facts of a file."""

    def __init__(self, code: str, root) -> None:
        self.tree = ast.parse(code)
        self.module = "model"
        self.root = root


def drafted(tmp_path, code: str, qualname: str = "M.forward", edited: bool = False) -> dict:
    """The target that is written for a region of ``model.py``."""
    region = f"model:{qualname}"
    (draft,) = drafts(FakeFacts(textwrap.dedent(code), tmp_path), [region], {region} if edited else ())
    update_targets(tmp_path, [draft])
    (target,) = tomllib.loads((tmp_path / ".refactor" / "targets.toml").read_text())["target"]
    return target


def module(init: str, forward: str, arguments: str = "x") -> str:
    head = f"import torch\nfrom torch import nn\nclass M(nn.Module):\n    def __init__(self{', ' if init[:1] != ':' else ''}"
    signature, _, body = init.partition(":")
    lines = [f"{head}{signature}):", "        super().__init__()"]
    lines += [f"        {line}" for line in body.split(";") if line]
    lines.append(f"    def forward(self, {arguments}):")
    lines += [f"        {line}" for line in forward.split(";")]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("code", "spec"),
    [
        pytest.param(module(":self.a = nn.Linear(8, 4)", "return self.a(x)"), "float32[B, 8]", id="Linear"),
        pytest.param(module(":self.a = nn.Conv2d(3, 8, 3)", "return self.a(x)"), "float32[B, 3, H, W]", id="Conv2d"),
        pytest.param(module(":self.a = nn.Conv1d(in_channels=3, out_channels=8, kernel_size=3)", "return self.a(x)"), "float32[B, 3, L]", id="Conv1d by keyword"),
        pytest.param(module(":self.a = nn.Embedding(50, 8)", "return self.a(x)"), "int64[B, S] in 0..49", id="Embedding"),
        pytest.param(module(":self.a = nn.LayerNorm((4, 6))", "return self.a(x)"), "float32[B, 4, 6]", id="LayerNorm of a shape"),
        pytest.param(module(":self.a = nn.GRU(6, 8, batch_first=True)", "return self.a(x)"), "float32[B, S, 6]", id="GRU, batch first"),
        pytest.param(module(":self.a = nn.LSTM(6, 8)", "return self.a(x)"), "float32[S, B, 6]", id="LSTM, steps first"),
        pytest.param(module(":self.a = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)", "return self.a(x)"), "float32[B, S, 8]", id="TransformerEncoder"),
        pytest.param(module(":self.a = nn.BatchNorm1d(5)", "return self.a(x)"), "float32[B, 5]", id="BatchNorm1d"),
        pytest.param(module("d=6, h=2:self.d = d * h;self.a = nn.Linear(self.d // 2, 4)", "return self.a(x)"), "float32[B, 6]", id="sizes computed from defaults"),
        pytest.param(module(":self.a = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.Linear(7, 4))", "return self.a(x)"), "float32[B, 7]", id="the first layer of a Sequential that asks for something"),
        pytest.param(module(":self.a = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))", "for i, a in enumerate(self.a): x = a(x);return x"), "float32[B, 8]", id="layers in a loop"),
        pytest.param(module(":self.a = nn.Linear(8, 4)", "h = torch.relu(x * 2).to(x.dtype);return self.a(h)"), "float32[B, 8]", id="through operations that keep the shape"),
        pytest.param(module(":self.a = nn.Linear(8, 4)", "B, S, D = x.shape;return self.a(x)"), "float32[B, S, 8]", id="names of an unpacked shape"),
        pytest.param(module(":self.a = nn.Linear(8, 4)", "assert x.dim() == 3;return self.a(x)"), "float32[B, S, 8]", id="a rank that is asserted"),
        pytest.param(module(":self.w = nn.Parameter(torch.randn(8, 4))", "return x @ self.w"), "float32[B, 8]", id="a product with a parameter"),
        pytest.param(module(":self.w = nn.Parameter(torch.ones(8))", "return x * self.w"), "float32[B, 8]", id="an elementwise parameter"),
        pytest.param(module(":pass", "return x.relu() + x.mean()"), "float32[B, 16]", id="any shape, where the code takes any"),
        pytest.param(module("d:self.a = nn.Linear(d, 4)", "return self.a(x)"), "float32[B, ?]", id="? for a size that is not known"),
        pytest.param(module(":self.a = unknown()", "return self.a(x)"), "?", id="? where nothing is known"),
        pytest.param(module(":pass", "return torch.cat([x, x])"), "?", id="? behind an operation that is not followed"),
        pytest.param(module(":pass", "return x", "x: int"), "int in 1..8", id="a number by its annotation"),
        pytest.param(module(":pass", "return x", "x: list[torch.Tensor]"), "?", id="? for containers"),
        pytest.param(module(":pass", "return unknown(x)", "x: torch.Tensor"), "float32[?]", id="a tensor of unknown shape by its annotation"),
    ],
)  # fmt: skip
def test_an_input_is_what_the_layers_take(tmp_path, code, spec):
    target = drafted(tmp_path, code)
    assert target["entry"] == "model:M"
    assert target["inputs"] == {"x": spec}


def test_arguments_with_a_default_are_left_to_it(tmp_path):
    target = drafted(
        tmp_path, module(":self.a = nn.Linear(8, 4)", "return self.a(x)", "x, mask=None, scale=1.0")
    )
    assert target["inputs"] == {"x": "float32[B, 8]"}
    assert "init" not in target


def test_the_constructor_takes_what_a_call_in_the_file_gives_it(tmp_path):
    code = (
        module("dim, name, depth=2:self.a = nn.Linear(dim, 4)", "return self.a(x)")
        + "model = M(24, name='m', depth=3)\n"
    )
    target = drafted(tmp_path, code)
    assert target["init"] == {"dim": 24, "name": "m", "depth": 3}
    assert target["inputs"] == {"x": "float32[B, 24]"}


def test_required_constructor_arguments_nobody_gives_are_blanks(tmp_path):
    assert drafted(tmp_path, module("dim, depth=2:pass", "return x"))["init"] == {"dim": "?"}


def test_submodules_of_the_file_are_followed(tmp_path):
    inner = "class Inner(nn.Module):\n    def __init__(self, d):\n        self.a = nn.Linear(d, d)\n    def forward(self, y):\n        return self.a(y)\n"
    assert drafted(tmp_path, inner + module(":self.i = Inner(12)", "return self.i(x)"))["inputs"] == {
        "x": "float32[B, 12]"
    }


def test_every_dimension_name_has_a_range(tmp_path):
    target = drafted(tmp_path, module(":self.a = nn.Conv2d(3, 8, 3)", "return self.a(x)"))
    assert target["dims"] == {"B": [1, 32], "H": 32, "W": 32}


def test_a_rewritten_region_must_stand_the_operations_our_runtime_has_to_stand(tmp_path):
    code = module(":self.a = nn.Linear(8, 4)", "return self.a(x)")
    assert "vary" not in drafted(tmp_path, code)
    (tmp_path / ".refactor" / "targets.toml").unlink()
    assert set(drafted(tmp_path, code, edited=True)["vary"]) == {
        "autocast",
        "grad",
        "strides",
        "deepcopy",
        "attributes",
        "threads",
    }


STEP = """
import torch
from torch import nn

class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 4)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
    def step(self, x, y):
        loss = nn.functional.mse_loss(self.net(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss
"""


def test_a_training_step_need_not_stand_threads_which_race_in_the_original_too(tmp_path):
    target = drafted(tmp_path, STEP, "Trainer.step", edited=True)
    assert target["mode"] == "train"
    assert "threads" not in target["vary"]
    assert "deepcopy" in target["vary"]


EVALUATE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.a = nn.Linear(6, width)

    def forward(self, x, mask=None):
        return self.a(x)

@torch.no_grad()
def evaluate(model, loader, device):
    out = []
    for i, (x, y) in enumerate(loader):
        out.append(model(x.to(device)))
    return out
"""


class TestHarness:
    """A function that takes a model and batches gets a file that makes them of tensors."""

    def run(self, tmp_path, code, qualname="evaluate"):
        (tmp_path / "model.py").write_text(textwrap.dedent(code))
        target = drafted(tmp_path, code, qualname)
        return target, (tmp_path / ".refactor" / target["harness"]).read_text()

    def test_it_builds_the_model_of_the_file_and_slices_the_tensors(self, tmp_path):
        target, text = self.run(tmp_path, EVALUATE)
        assert target["entry"] == "harness_model_evaluate:Evaluate"
        assert target["inputs"] == {"x": "float32[B, 6]", "y": "?"}
        assert "self.model = Net()" in text
        assert "batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]" in text
        assert "return evaluate(model=self.model, loader=batches, device=x.device)" in text
        assert "_blank" not in text

    def test_it_runs(self, tmp_path, monkeypatch):
        torch = pytest.importorskip("torch")
        _, text = self.run(tmp_path, EVALUATE)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "model", raising=False)
        names: dict = {"__file__": "harness.py"}
        exec(compile(text, "harness.py", "exec"), names)
        out = names["Evaluate"]()(torch.randn(19, 6), torch.zeros(19))
        assert [tuple(part.shape) for part in out] == [(8, 8), (8, 8), (3, 8)]

    def test_batches_that_are_dicts_have_the_keys_the_model_needs(self, tmp_path):
        code = EVALUATE.replace("i, (x, y) in enumerate(loader)", "batch in loader").replace(
            "x.to(device)", "**batch"
        )
        target, text = self.run(tmp_path, code)
        assert target["inputs"] == {"x": "float32[B, 6]"}
        assert 'batches = [{"x": x[i : i + BATCH]} for i' in text

    def test_a_model_that_cannot_be_told_is_a_blank_that_raises_and_leaves_the_entry_open(self, tmp_path):
        target, text = self.run(tmp_path, EVALUATE.replace("width=8", "width"))
        assert target["entry"] == "?"
        assert 'self.model = _blank("build the model that evaluate takes")' in text
        compile(text, "harness.py", "exec")

    def test_a_harness_that_is_there_is_not_overwritten(self, tmp_path):
        self.run(tmp_path, EVALUATE)
        file = tmp_path / ".refactor" / "harness_model_evaluate.py"
        file.write_text("mine\n")
        (tmp_path / ".refactor" / "targets.toml").unlink()
        _, text = self.run(tmp_path, EVALUATE)
        assert text == "mine\n"


class TestTheFile:
    def written(self, root, *drafts):
        update_targets(root, drafts)
        return root / ".refactor" / "targets.toml"

    def draft(self, name):
        return Draft(name, "about", '"a:b"', inputs=(("x", "?"),))

    def test_nothing_is_written_without_drafts(self, tmp_path):
        assert update_targets(tmp_path, []) == ()
        assert list(tmp_path.iterdir()) == []

    def test_what_the_user_completed_is_kept_to_the_byte(self, tmp_path):
        file = self.written(tmp_path, self.draft("one"))
        mine = file.read_bytes().replace(b'"?"', b'"float32[4]"') + b"# mine\n"
        file.write_bytes(mine)
        assert update_targets(tmp_path, [self.draft("one")]) == ()
        assert file.read_bytes() == mine
        update_targets(tmp_path, [self.draft("one"), self.draft("two")])
        assert file.read_bytes().startswith(mine)
        assert [target["name"] for target in tomllib.loads(file.read_text())["target"]] == ["one", "two"]

    def test_a_file_that_does_not_parse_is_left(self, tmp_path):
        file = self.written(tmp_path, self.draft("one"))
        file.write_text("[[target]\n")
        assert update_targets(tmp_path, [self.draft("two")]) == ()
        assert file.read_text() == "[[target]\n"


def test_regions_of_other_modules_are_read_from_their_files(tmp_path):
    (tmp_path / "other.py").write_text(module(":self.a = nn.Linear(9, 4)", "return self.a(x)"))
    (draft,) = drafts(
        FakeFacts("x = 1", tmp_path), ["other:M.forward", "gone:M.forward", "other:M.forward"], ()
    )
    assert dict(draft.inputs) == {"x": "float32[B, 9]"}


SCRIPT = """\
import argparse
import torch


def helper(x: torch.Tensor):
    return x


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
args = parser.parse_args()
model = torch.nn.Linear(3, 1)
losses = []
for epoch in range(args.epochs):
    for x in torch.randn(2, 4, 3):
        out = model(x)
        loss = out.square().mean()
        loss.backward()
        losses.append(loss.item())
if __name__ == "__main__":
    last = loss.item()
    raise SystemExit(0)
"""


def test_a_script_is_run_whole_and_shows_what_it_leaves(tmp_path, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a" / "01-train.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    facts = FakeFacts(SCRIPT, path.parent)
    facts.source = load(path)
    region = "model:<module>"
    assert drafts(facts, [region], (), tmp_path) == (), "not rewritten: nothing to compare"
    (draft,) = drafts(facts, [region, "model:helper"], {region}, tmp_path)
    update_targets(tmp_path, [draft])
    (target,) = tomllib.loads((tmp_path / ".refactor" / "targets.toml").read_text())["target"]
    assert target["vary"] == ["runs"]
    assert target["inputs"] == {"seed": "int in 0..9"}
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    space: dict = {"__name__": "harness"}
    exec((tmp_path / ".refactor" / target["harness"]).read_text(), space)
    run = space[target["entry"].partition(":")[2]]()
    one, same, other = run(seed=1), run(seed=1), run(seed=2)
    assert list(one) == ["parser", "args", "model", "losses", "loss", "last"], "not `out`, which nobody reads"
    assert len(one["losses"]) == 4
    assert one["losses"] == same["losses"] != other["losses"]
    assert torch.equal(one["model"]["weight"], same["model"]["weight"])
    assert one["last"] == one["losses"][-1]


@pytest.mark.parametrize(("line", "prints"), [("start = time.time()", False), ("start = 0", True)])
def test_prints_of_a_script_that_looks_at_a_clock_are_not_compared(tmp_path, line: str, prints: bool) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"import time\n{line}\nloss = 1.0\nprint(start)\n")
    facts = FakeFacts(path.read_text(), tmp_path)
    facts.source = load(path)
    (draft,) = drafts(facts, ["model:<module>"], {"model:<module>"}, tmp_path)
    assert f"PRINTS = {prints}" in draft.harness[1]
    assert ('"start"' in draft.harness[1]) is prints
