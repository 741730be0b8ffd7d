"""The golden trees: what `refactor apply` makes of each example.

``python tests/examples/golden.py --write`` writes ``examples/*/after`` anew. Read the diff first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REFACTOR = Path(sys.executable).with_name("refactor")
IGNORED = shutil.ignore_patterns("__pycache__", ".refactor", "pyproject.toml")


def names() -> list[str]:
    """The examples, in order."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/targets.toml"))


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path to contents of every file of a program."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if not {"__pycache__", ".refactor"} & set(path.parts) and path.name != "pyproject.toml"
    }


def apply(name: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Copy an example's original into `project` and run `refactor apply` on it."""
    shutil.copytree(EXAMPLES / name / "before", project, ignore=IGNORED)
    (project / "pyproject.toml").write_text("[tool.refactor]\n", encoding="utf-8")
    return run_apply(project)


def run_apply(project: Path) -> subprocess.CompletedProcess[str]:
    """`refactor apply .` in a project; what it printed, and its exit code."""
    return subprocess.run(
        [str(REFACTOR), "apply", "."], cwd=project, capture_output=True, text=True, check=False
    )


def write(name: str) -> None:
    """Replace an example's golden tree by what the tool makes of it now."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / name
        done = apply(name, project)
        print(f"== {name}", done.stdout, done.stderr, sep="\n")
        if done.returncode:
            sys.exit(f"refactor apply ended with code {done.returncode}; examples/{name}/after is as it was")
        after = EXAMPLES / name / "after"
        shutil.rmtree(after, ignore_errors=True)
        if tree(project) != tree(EXAMPLES / name / "before"):
            shutil.copytree(project, after, ignore=IGNORED)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"]:
        sys.exit(__doc__)
    for chosen in sys.argv[2:] or names():
        write(chosen)
