"""A user's own modules named like ours break neither the tool nor the worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REFACTOR = str(Path(sys.executable).with_name("refactor"))

MODEL = """\
import torch
from torch import nn

from rules import scale  # a namespace package of the user's, beside transforms/
from transforms import shift
from verify import limit


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)

    def forward(self, x):
        weight = torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)
        return limit(shift(self.lift(x) * weight)) * scale.FACTOR
"""

TARGETS = """\
[[target]]
name = "model"
entry = "model:Model"
inputs = { x = "float32[B, 4]" }
dims = { B = [1, 4] }
mode = "inference"
device = "cuda"
"""


def make_project(root: Path, *, modules: bool) -> Path:
    """A project with transforms.py and verify.py, or with namespace folders of these names."""
    root.mkdir()
    (root / "pyproject.toml").write_text("[tool.refactor]\n")
    (root / "targets.toml").write_text(TARGETS)
    (root / "rules").mkdir()
    (root / "rules" / "scale.py").write_text("FACTOR = 0.5\n")
    if modules:
        (root / "model.py").write_text(MODEL)
        (root / "transforms.py").write_text("def shift(x):\n    return x + 1\n")
        (root / "verify.py").write_text("def limit(x):\n    return x.clamp(-9, 9)\n")
        (root / "refactor.py").write_text("raise RuntimeError('the tool is not here')\n")
    else:
        own = MODEL.replace("from transforms import", "from transforms.own import")
        (root / "model.py").write_text(own.replace("from verify import", "from verify.own import"))
        for name, code in (("transforms", "def shift(x):\n    return x + 1\n"),
                           ("verify", "def limit(x):\n    return x.clamp(-9, 9)\n")):  # fmt: skip
            (root / name).mkdir()
            (root / name / "own.py").write_text(code)
    return root


@pytest.mark.parametrize("modules", [True, False], ids=["modules", "namespace folders"])
def test_a_project_with_our_names_is_checked_rewritten_and_verified(tmp_path: Path, modules: bool) -> None:
    project = make_project(tmp_path / "user", modules=modules)
    before = tmp_path / "before"
    shutil.copytree(project, before)
    # the user's folder is where Python looks first, as under pytest or with an exported PYTHONPATH
    environment = {**os.environ, "PYTHONPATH": "" if modules else str(project)}

    def refactor(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [REFACTOR, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
        )

    checked = refactor("check", "--output-format", "json")
    assert checked.returncode == 1, checked.stderr
    assert {f["code"][:3] for f in json.loads(checked.stdout)["findings"]} == {"CG4"}
    applied = refactor("apply", ".")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert "constant(" in (project / "model.py").read_text()
    verified = refactor(
        "verify", "--before", str(before), "--after", ".", "--targets", "targets.toml",
        "--device", "emulated", "--python", sys.executable, "--examples", "5", "--json", "-",
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert [t["verdict"] for t in json.loads(verified.stdout)["targets"]] == ["pass"]


def test_the_wheel_owns_one_import_name() -> None:
    program = (
        "import importlib.metadata as m, json;"
        "owned = m.packages_distributions().items();"
        "print(json.dumps(sorted(n for n, ds in owned if 'cudagraph-refactor' in ds)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    names = [n for n in json.loads(done.stdout) if not n.startswith("__editable__")]
    assert names == ["refactor"]
