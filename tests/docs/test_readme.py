"""What the documents promise is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_generated_parts_of_the_readme_are_current() -> None:
    script = ROOT / "tests" / "docs" / "readme.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_to_files_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        targets = re.findall(r"\]\(([^)#]+)", text)
        missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
        assert not missing, f"{name} links to {missing}"


def test_every_command_the_readme_shows_is_known() -> None:
    shown = set(re.findall(r"^\$ refactor (\w+)", README, re.MULTILINE))
    usage = subprocess.run(
        [str(Path(sys.executable).with_name("refactor")), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown
    assert shown <= set(re.findall(r"^\s+([a-z]+)", usage, re.MULTILINE))


def test_every_make_target_the_documents_name_exists() -> None:
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"make (demo|test|lint|golden|clean)\b", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
