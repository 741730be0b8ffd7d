"""Apply `refactor` to whole libraries and check everything that can be checked without a GPU.

    python benchmarks/apply.py TREE... [--select CODES] [--jobs N] [--import PYTHON] [--keep FOLDER]

Each tree is copied first. For every one a line of the table says how many files, findings and rewrites there
were and how long `refactor apply` took, and then come the promises that were broken, or `kept`:

- the command ends without an error, every file parses, and no file but the rewritten ones and the runtime
  changed;
- `refactor apply --diff` of the tree before is what `git apply` makes of it;
- every comment is still there (as a multiset), and line endings, tabs and a byte order mark are as they were;
- a second run changes nothing, and `refactor undo` gives the former bytes back;
- with ``--import``, every changed module that this interpreter could import before can still be imported.

The reasons for what was left alone follow, the most frequent first.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BESIDE = Path(sys.executable).with_name("refactor")
REFACTOR = str(_BESIDE if _BESIDE.exists() else shutil.which("refactor") or _BESIDE)
RUNTIME = "cuda_graphs.py"
IMPORT = """\
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
for line in sys.stdin:
    try:
        importlib.import_module(line.strip())
    except BaseException as problem:
        print(json.dumps([line.strip(), f"{type(problem).__name__}: {problem}"[:300]]), flush=True)
"""

Bytes = dict[str, bytes]  # contents by path, relative to the copy


@dataclass
class Result:
    """What happened to one tree."""

    tree: str
    files: int
    lines: int
    seconds: float = 0.0
    changed: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def python_files(folder: Path) -> Bytes:
    """Every Python file below a folder, without what the tool keeps for itself."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.py"))
        if path.is_file() and ".refactor" not in path.relative_to(folder).parts
    }


def ran(command: Sequence[str], folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and wait for it."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, input=given)


def comments(data: bytes) -> Counter[str]:
    """The comments of a file, without the ones that say where a suppression is unused."""
    lines = iter(data.splitlines(keepends=True))
    return Counter(
        token.string.rstrip()
        for token in tokenize.tokenize(lambda: next(lines, b""))
        if token.type == tokenize.COMMENT
    )


def layout(data: bytes) -> tuple[bool, frozenset[bytes], bool]:
    """Byte order mark, the kinds of line endings, and whether lines are indented with tabs."""
    endings = frozenset(re.findall(rb"\r\n|\r|\n", data))
    return data.startswith(b"\xef\xbb\xbf"), endings, bool(re.search(rb"(?m)^\t", data))


def checked(before: Bytes, after: Bytes, runtime: set[str]) -> Iterator[str]:
    """What the rewrite broke in the files themselves."""
    for name in sorted(before.keys() - after.keys()):
        yield f"{name}: gone"
    for name in sorted(after.keys() - before.keys() - runtime):
        yield f"{name}: a new file that is not the runtime"
    for name, data in after.items():
        former = before.get(name)
        if former is None or former == data:
            continue
        try:
            ast.parse(data)
        except SyntaxError as problem:
            yield f"{name}:{problem.lineno}: does not parse: {problem.msg}"
            continue
        if lost := comments(former) - comments(data):
            yield f"{name}: lost comments: {dict(lost)}"
        if layout(former) != layout(data):
            yield f"{name}: line endings, tabs or byte order mark changed"


def importable(python: str, folder: Path, modules: Sequence[str]) -> dict[str, str]:
    """The modules that cannot be imported, with the reason."""
    done = ran([python, "-c", IMPORT, str(folder)], folder.parent, "\n".join(modules))
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return dict(found)


def module(name: str) -> str:
    """The dotted name of a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def taken(output: str, result: Result) -> None:
    """Count the outcomes of `apply --output-format json`."""
    for finding in json.loads(output)["findings"]:
        result.outcomes[finding["status"]] += 1
        if finding["status"] == "applied":
            result.rules[finding["code"]] += 1
        else:
            reason = re.sub(r"`[^`]*`", "`…`", finding.get("reason") or "")
            result.reasons[f"{finding['code']} {reason}"] += 1


def examined(tree: Path, folder: Path, options: argparse.Namespace) -> Result:
    """Apply to a copy of one tree in `folder`, and check everything."""
    work, patched = folder / "work", folder / "patched"
    for path in sorted(tree.rglob("*.py")):
        target = work / path.relative_to(tree.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    before = python_files(work)
    result = Result(tree.name, len(before), sum(data.count(b"\n") for data in before.values()))
    flags = ["--jobs", str(options.jobs)] + (["--select", options.select] if options.select else [])
    shutil.copytree(work, patched)
    diff = ran([REFACTOR, "apply", ".", "--diff", *flags], work)
    start = time.perf_counter()
    done = ran([REFACTOR, "apply", ".", "--output-format", "json", *flags], work)
    result.seconds = time.perf_counter() - start
    if done.returncode or "Traceback" in done.stderr:
        result.broken.append(f"apply ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return result
    taken(done.stdout, result)
    after = python_files(work)
    result.changed = sorted(name for name in before if after.get(name) != before[name])
    result.broken += checked(before, after, {name for name in after if Path(name).name == RUNTIME})
    if result.changed:
        # a repository of its own, so that no configuration of another one counts
        ran(["git", "init", "-q"], patched)
        applied = ran(["git", "apply", "--whitespace=nowarn", "-"], patched, diff.stdout)
        if applied.returncode or python_files(patched) != after:
            result.broken.append(f"git apply of --diff gives other bytes {applied.stderr.strip()[-300:]}")
    second = ran([REFACTOR, "apply", ".", "--diff", *flags], work)
    if second.stdout.strip() or second.returncode:
        result.broken.append(f"a second run changes {second.stdout.count('--- a/')} files")
    if options.python:
        names = [module(name) for name in result.changed]
        failed = importable(options.python, work, names)
        known = importable(options.python, tree.parent, sorted(failed)) if failed else {}
        result.broken += [f"{name}: {failed[name]}" for name in sorted(failed.keys() - known.keys())]
    if options.keep:
        (options.keep / f"{tree.name}.diff").write_text(diff.stdout)
        (options.keep / f"{tree.name}.json").write_text(done.stdout)
    undone = ran([REFACTOR, "undo"], work) if result.changed else None
    if undone is not None and (undone.returncode or python_files(work) != before):
        result.broken.append(f"undo does not give the former bytes back: {undone.stderr.strip()[-300:]}")
    return result


def main() -> int:
    """Print the table; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trees", nargs="+", type=Path, help="package folders")
    parser.add_argument("--select", help="only these rules")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--import", dest="python", metavar="PYTHON", help="import what was changed with it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep diffs and outcomes there")
    parser.add_argument("--reasons", type=int, default=20, help="reasons shown for each tree")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    print("| tree | files | lines | seconds | findings | rewritten | files changed | promises |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    results = []
    for tree in options.trees:
        with tempfile.TemporaryDirectory(prefix="apply-") as folder:
            r = examined(tree.resolve(), Path(folder), options)
        results.append(r)
        kept = f"{len(r.broken)} broken" if r.broken else "kept"
        total, applied = sum(r.outcomes.values()), r.outcomes["applied"]
        print(
            f"| {r.tree} | {r.files:,} | {r.lines:,} | {r.seconds:.1f} | {total} | {applied} "
            f"| {len(r.changed)} | {kept} |",
            flush=True,
        )
    for r in results:
        print(f"\n{r.tree}: rewritten {dict(r.rules.most_common())}")
        print("".join(f"  broken: {line}\n" for line in r.broken), end="")
        print("".join(f"  {n:5} {reason[:220]}\n" for reason, n in r.reasons.most_common(options.reasons)))
    return int(any(r.broken for r in results))


if __name__ == "__main__":
    sys.exit(main())
