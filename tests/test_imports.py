"""Boundaries of DESIGN section 2: who may import whom, and what starts without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "refactor": ROOT / "refactor",
    "refactor.transforms": ROOT / "transforms",
    "refactor.verify": ROOT / "verify",
}
STANDARD = sys.stdlib_module_names | {"__future__"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


MODULES = dict(modules())


def imported(name: str, path: Path) -> set[str]:
    """Dotted names that a file imports at run time, inside functions too; not those for type checkers."""
    tree = ast.parse(path.read_text("utf-8"))
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            module = ".".join(part for part in (base, node.module) if part)
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module
                for alias in node.names
            }
    return found


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def outside(name: str, *allowed: str) -> set[str]:
    """Imports of a module other than the allowed packages and the standard library."""
    return {
        target
        for target in imported(name, MODULES[name])
        if not within(target, *allowed) and target.split(".")[0] not in STANDARD
    }


TRANSFORMS = [name for name in MODULES if within(name, "refactor.transforms")]
VERIFY = [name for name in MODULES if within(name, "refactor.verify")]
PRIVATE = "_refactor_emulator"
"""The name under which a worker loads the emulator by path."""
IN_THE_USERS_INTERPRETER = [
    name for name in VERIFY if within(name, "refactor.verify.worker", "refactor.verify.emulator")
]
FRAME = [
    name
    for name in MODULES
    if not within(
        name,
        "refactor.transforms",
        "refactor.verify",
        "refactor.cli",
        "refactor.runtime",
        "refactor.__main__",
    )
]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_rules_import_analysis_and_rewriting_helpers_alone(name):
    allowed = (
        "refactor.transforms",
        "refactor.analysis",
        "refactor.rule",
        "refactor.findings",
        "refactor.rewrite",
    )
    assert outside(name, *allowed, "refactor.source", "libcst") == set()


@pytest.mark.parametrize("name", VERIFY)
def test_the_verifier_imports_neither_rules_nor_libcst_nor_the_engine(name):
    assert outside(name, "refactor.verify", "torch", "numpy", "hypothesis", "rich", "tomli", PRIVATE) == set()


@pytest.mark.parametrize("name", IN_THE_USERS_INTERPRETER)
def test_what_runs_in_the_users_interpreter_imports_torch_and_the_standard_library_alone(name):
    # NumPy comes with the tensors a program makes of it; a worker may look for it, never need it.
    assert (
        outside(name, "refactor.verify.worker", "refactor.verify.emulator", "torch", "numpy", PRIVATE)
        == set()
    )


def test_the_runtime_imports_torch_and_the_standard_library_alone():
    assert outside("refactor.runtime.cuda_graphs", "torch") == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "refactor.runtime.cuda_graphs"])
def test_nobody_imports_the_runtime(name):
    assert not {target for target in imported(name, MODULES[name]) if within(target, "refactor.runtime")}


@pytest.mark.parametrize("name", [name for name in FRAME if not within(name, "refactor.engine")])
def test_the_engine_below_the_command_line_imports_neither_cli_nor_rules_nor_verifier(name):
    used = imported(name, MODULES[name])
    assert not {
        target
        for target in used
        if within(target, "refactor.cli", "refactor.transforms", "refactor.verify", "torch")
    }


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_loads_neither_torch_nor_anything_heavy(tmp_path):
    code = (
        "import sys, json\nfrom refactor.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(python(code, tmp_path).splitlines()[-1])
    heavy = {"torch", "libcst", "hypothesis", "rich", "pathspec", "multiprocessing", "numpy", "jinja2"}
    assert heavy.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("refactor")] == ["refactor", "refactor.cli"]


@pytest.mark.parametrize(
    "args", [["check", "."], ["apply", "."], ["apply", "--diff"], ["rule", "CG301"], ["undo"]]
)
def test_commands_that_read_and_write_source_never_load_torch(tmp_path, args):
    source = (
        "import torch\nfrom torch import nn\n\nclass M(nn.Module):\n    def forward(self, x):\n"
        "        if x.mean() > 0:\n            return torch.relu(x)\n"
        "        return x * torch.tensor(2.0, device=x.device)\n"
    )
    (tmp_path / "model.py").write_text(source)
    code = (
        "import sys\nfrom refactor.cli import main\n"
        f"try: main({args!r})\nexcept SystemExit as end: pass\n"
        "print('loaded', [n for n in ('torch', 'numpy', 'hypothesis') if n in sys.modules])"
    )
    assert python(code, tmp_path).splitlines()[-1] == "loaded []"


def test_check_never_loads_libcst(tmp_path):
    source = (
        "import torch\nfrom torch import nn\n\nclass M(nn.Module):\n    def forward(self, x):\n"
        "        a = x * 2\n        b = a + 1\n        if b.mean() > 0:\n            return b.sum().item()\n"
        "        return b.sum() * torch.tensor(2.0, device=x.device)\n"
    )
    (tmp_path / "model.py").write_text(source)
    code = (
        "import sys\nfrom refactor.cli import main\n"
        "try: main(['check', '.'])\nexcept SystemExit as end: pass\n"
        "print('loaded', [n for n in sys.modules if n.startswith('libcst.')])"
    )
    printed = python(code, tmp_path).splitlines()
    assert len(printed) > 1, "nothing was found"
    assert printed[-1] == "loaded []"


def test_short_help_of_the_lazy_commands_is_that_of_the_commands():
    import click

    from refactor.cli import COMMANDS, main

    context = click.Context(main)
    for name, text in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == text
