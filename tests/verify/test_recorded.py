"""Targets made from a run of the user's own program, which must not notice that it is watched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from refactor.verify.recorded import Ran, Watched, interpreter_of, made_from, run_program, table, toml
from refactor.verify.targets import load
from refactor.verify.trees import edited, module_of, pair, roots

MODEL = """
import enum
from dataclasses import dataclass, field
import torch
from torch import nn


class Act(enum.Enum):
    RELU = "relu"
    GELU = "gelu"


@dataclass
class Config:
    dim: int
    heads: tuple = (2, 2)
    act: Act = Act.RELU
    more: dict = field(default_factory=dict)


class Loose:
    def __init__(self, a):
        self.a = a


class Base(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name


class Net(Base):
    def __init__(self, cfg, loose=None, *, limit=0.5):
        super().__init__("net")
        self.a = nn.Linear(cfg.dim, cfg.dim)

    def forward(self, x, mask=None, scale: float = 1.0):
        return self.a(x) * scale


class Embed(nn.Module):
    def __init__(self, n, dim):
        super().__init__()
        self.e = nn.Embedding(n, dim)

    def forward(self, batch):
        return self.e(batch["ids"])


class Tools:
    def __init__(self, k):
        self.k = k

    def run(self, x, *rest, **more):
        return x * self.k


class Wired(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(x)


def score(x, kind, model):
    return model(x) if kind == "a" else x


def take(handle, x):
    return x


def never(x):
    return x
"""
TRAIN = """
import sys, threading
import torch
import refactor, transforms, verify
from model import Act, Config, Embed, Loose, Net, Tools, Wired, score, take

assert "sitecustomize" in sys.modules and sys.modules["sitecustomize"].OWN
if __name__ == "__main__":
    net, emb, tools = Net(Config(4, act=Act.GELU), Loose([1.5]), limit=0.1).eval(), Embed(9, 2), Tools(k=3)
    wired = Wired(torch.nn.ReLU())
    with torch.no_grad():
        for n in (1, 3, 5):
            x = torch.randn(n, 4)
            net(x, scale=0.5 * n)
            threading.Thread(target=emb, args=({"ids": torch.randint(2, 9, (n, 2 * n))},)).start()
            tools.run(x, 1, flag=n > 1)
            score(x, kind="ab"[n > 1], model=net)
            take(sys.stdout, x)
            wired(x)
    torch.manual_seed(0)
    print("drawn", torch.rand(1).item(), file=sys.stderr)
    sys.exit(int(sys.argv[1]))
"""
NAMES = ("Net", "Embed", "Tools.run", "score", "take", "never", "Wired")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    (folder / "sitecustomize.py").write_text("OWN = True\n")
    for name in ("refactor", "transforms", "verify"):
        (folder / f"{name}.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def ran(project: Path) -> Ran:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(project))
        watched = [Watched(n, f"model:{n}", (project / "model.py").resolve()) for n in NAMES]
        return run_program([sys.executable, "train.py", "7"], roots(project), watched, project)


def made(ran: Ran, name: str) -> Any:
    return made_from(ran.rows.get(name), f"model:{name}", name.replace(".", "_"))


def test_the_program_runs_as_ever_and_its_exit_code_is_known(ran: Ran) -> None:
    assert ran.code == 7
    assert {name: row["calls"] for name, row in ran.rows.items()} == {
        **dict.fromkeys(NAMES, 3),
        "Net": 4,  # `score` calls it once
        "never": 0,
    }


def test_sizes_that_varied_alike_share_a_name_and_defaults_are_left_out(ran: Ran) -> None:
    found = made(ran, "Net")
    assert found.problems == ["note: 1 of its calls had another form, and are not covered"]
    assert found.values["inputs"] == {"x": "float32[B, 4]", "scale": "float in 0.5..2.5"}
    assert found.values["dims"] == {"B": [1, 5]}
    assert found.values["mode"] == "inference"


def test_a_config_object_is_rebuilt_in_a_harness(ran: Ran, project: Path) -> None:
    found = made(ran, "Net")
    assert found.values["entry"] == "harness_Net:Recorded"
    assert (
        "Net(cfg=Config(dim=4, heads=(2, 2), act=Act['GELU'], more={}), loose=Loose(a=[1.5]), limit=0.1)"
        in (found.harness)
    )
    (project / "harness_Net.py").write_text(found.harness)
    text = table({"name": "net", **found.values})
    (project / "made.toml").write_text(text)
    (target,) = load(project / "made.toml")
    assert target.harness == str((project / "harness_Net.py").resolve())


def test_plain_arguments_stay_in_toml_and_nested_inputs_keep_their_form(ran: Ran) -> None:
    found = made(ran, "Embed")
    assert found.harness == ""
    assert found.values["init"] == {"n": 9, "dim": 2}
    assert found.values["dims"] == {"B": [1, 5], "S": [2, 10]}
    spec = found.values["inputs"]["batch"]["ids"]
    assert spec.startswith("int64[B, S] in ")
    low, high = map(int, spec.split(" in ")[1].split(".."))
    assert 2 <= low <= high <= 8


def test_a_method_of_a_plain_object_with_further_arguments(ran: Ran) -> None:
    found = made(ran, "Tools.run")
    assert found.values["init"] == {"k": 3}
    assert found.values["inputs"] == {"x": "float32[B, 4]", "_0": "int in 1..1", "flag": "bool"}


def test_a_model_given_to_a_function_is_built_by_the_harness(ran: Ran) -> None:
    found = made(ran, "score")
    assert found.problems == []
    assert "self.model = Net(cfg=Config(" in found.harness
    assert "score(*args, model=self.model, **kwargs)" in found.harness
    assert found.values["inputs"] == {"x": "float32[B, 4]", "kind": "str in a|b"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("never", "the program never called it"),
        ("take", "its argument 'handle' is a _io.TextIOWrapper"),
        (
            "Wired",
            "its constructor got act = a torch.nn.modules.activation.ReLU, which cannot be written down",
        ),
    ],
)
def test_what_cannot_be_said_is_named(ran: Ran, name: str, said: str) -> None:
    assert any(said in problem for problem in made(ran, name).problems)


def test_what_happened_before_a_program_dies_or_traces_itself_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(x, n=1):\n    return x\n")
    (tmp_path / "p.py").write_text(
        "import os, sys, m\nm.f(2)\nm.f(5.0)\nsys.settrace(lambda *a: None)\nm.f('after')\nos._exit(3)\n"
    )
    watched = [Watched("f", "m:f", (tmp_path / "m.py").resolve())]
    ran = run_program([sys.executable, "p.py"], roots(tmp_path), watched, tmp_path)
    assert ran.code == 3
    assert [s["arguments"]["x"]["v"] for s in ran.rows["f"]["signatures"]] == [2, 5.0]


def test_the_first_word_of_a_command_is_an_interpreter_or_not() -> None:
    assert interpreter_of([sys.executable, "x.py"]) == sys.executable
    assert interpreter_of(["torchrun", "x.py"]) is None
    assert interpreter_of([]) is None


def test_callables_that_were_edited_are_found_by_their_syntax_alone(tmp_path: Path) -> None:
    old = """
def a(): return 1
def b(): return 2
class N:
    def forward(self): return 1
    def other(self): return 1
class T:
    def run(self): return 1
    def same(self): return 1
    def __init__(self): self.x = 1
"""
    new = old.replace("a(): return 1", "a(): return  1  # a comment").replace("return 2", "return 3")
    new = new.replace("other(self): return 1", "other(self): 0").replace(
        "run(self): return 1", "run(self): 0"
    )
    for side, text in (("before", old), ("after", new + "def fresh(): pass\n")):
        (tmp_path / side / "src" / "pkg").mkdir(parents=True)
        (tmp_path / side / "src" / "pkg" / "__init__.py").write_text(text)
    trees = pair(tmp_path / "before", tmp_path / "after")
    assert edited(trees) == ["pkg:b", "pkg:N", "pkg:T.run"]
    assert module_of(tmp_path / "after" / "src" / "pkg" / "sub.py", trees.after_roots) == "pkg.sub"


def test_toml_holds_every_value_as_it_was(tmp_path: Path) -> None:
    values = {
        "name": 'a "b"',
        "entry": "m:f",
        "init": {"x y": [1, 1e-05, True, "ä\n"], "z": {}},
        "inputs": {},
    }
    assert toml(values["init"]) == '{ "x y" = [1, 1e-05, true, "ä\\n"], z = {} }'
    (tmp_path / "t.toml").write_text(table(values), "utf-8")
    (target,) = load(tmp_path / "t.toml")
    assert dict(target.init) == values["init"]
