"""Make a virtual environment that sees the torch of the interpreter which runs this file, if it has one.

``python examples/environment.py .venv`` is the first step of ``make demo`` and ``make test``. A torch build
belongs to a machine and its driver, so one that is there is used, never replaced: its folder is appended to
the environment's path by a ``.pth`` file. Packages installed in the environment come before it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

PIN = "torch==2.13.0"
LINK = "torch-of-the-active-interpreter.pth"


def site_folders() -> list[str]:
    """Folders of this interpreter that hold installed packages."""
    return [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is where an older interpreter is told so
        print(f"{sys.executable} is older than Python 3.10: make PYTHON=/path/to/a/newer/python …")
        return 2
    folder = Path(sys.argv[1])
    print(f"Making {folder} with {sys.executable} (Python {sys.version.split()[0]})")
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{folder} could not be made: {error}. On Debian and Ubuntu: apt install python3-venv")
        return 2
    if importlib.util.find_spec("torch") is None:
        print(f"{sys.executable} has no torch: where one is needed, pip downloads {PIN} and what it needs")
        print("(a CUDA build takes several gigabytes). To use one you have: make PYTHON=/path/to/its/python")
        return 0
    version = importlib.metadata.version("torch")
    print(f"Using torch {version} of {sys.executable}; nothing of it is copied or changed")
    packages = next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
    (packages / LINK).write_text("\n".join(site_folders()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
