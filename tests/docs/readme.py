"""The generated parts of README.md: the findings and the diff of an example, and the table of rules.

``python tests/docs/readme.py --write`` writes them anew; without ``--write`` it says if they are current.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

from refactor.transforms import RULES

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def diff_of_router() -> str:
    """A unified diff of examples/router, as `refactor apply --diff` shows it."""
    file = "router.py"
    before, after = (
        (ROOT / "examples" / "router" / side / file).read_text(encoding="utf-8").splitlines(keepends=True)
        for side in ("before", "after")
    )
    lines = difflib.unified_diff(before, after, f"a/{file}", f"b/{file}")
    return "```diff\n" + "".join(lines) + "```"


def findings_of_router() -> str:
    """What `refactor check` prints for examples/router."""
    refactor = Path(sys.executable).with_name("refactor")
    folder = ROOT / "examples" / "router" / "before"
    done = subprocess.run(
        [str(refactor), "check", "."], cwd=folder, capture_output=True, text=True, check=False
    )
    return f"```text\n{done.stdout}```"


def rule_table() -> str:
    """One line a rule, in the order of their codes."""
    head = "| code | name | severity | rewrite | what it finds |\n|---|---|---|---|---|\n"
    rows = []
    for rule in RULES:
        rewrite = "" if rule.propose is None else rule.applicability.value
        cells = (rule.code, rule.name, rule.severity.value, rewrite, rule.summary)
        rows.append("| " + " | ".join(cell.replace("|", "&#124;") for cell in cells) + " |")
    return head + "\n".join(rows)


def generated(text: str) -> str:
    """`text` with everything between the marks of a generated part replaced by what it should be."""
    parts = {"diff": diff_of_router(), "findings": findings_of_router(), "rules": rule_table()}
    for mark, part in parts.items():
        pattern = re.compile(rf"(<!-- {mark}:begin[^\n]*-->\n).*?(<!-- {mark}:end -->)", re.DOTALL)
        text, found = pattern.subn(lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text)  # type: ignore[misc]
        if found != 1:
            raise SystemExit(f"README.md: {found} parts between {mark}:begin and {mark}:end, not one")
    return text


def main() -> int:
    current = README.read_text(encoding="utf-8")
    wanted = generated(current)
    if "--write" in sys.argv[1:]:
        README.write_text(wanted, encoding="utf-8")
        return 0
    if wanted != current:
        print("README.md is not current: make golden")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
