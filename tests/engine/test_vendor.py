"""The vendored runtime: where it goes, how it is imported, and whose copy is left alone."""

from __future__ import annotations

import builtins
import itertools
import json
import symtable

import pytest

from refactor import vendor
from refactor.parts import closed, public
from refactor.vendor import NAME, copy_in, runtime

GRAPHS = frozenset({"graphed", "segment"})
PLAIN = "hazard_runtime(1)\n"
RELATIVE = "from . import other\nhazard_runtime(1)\n"
SCRIPT = "from . import other\nhazard_runtime(1)\nif __name__ == '__main__':\n    pass\n"
KEY = '`[tool.refactor] runtime = "package.module"` in pyproject.toml'


def imports(text: str) -> list[str]:
    return [line for line in text.splitlines() if NAME in line]


@pytest.mark.parametrize(
    ("file", "packages", "code", "place", "statement"),
    [
        pytest.param(
            "a.py", [], PLAIN, "cuda_graphs.py", "from cuda_graphs import graphed",
            id="beside a script"
        ),
        pytest.param(
            "sub/a.py", [], PLAIN, "sub/cuda_graphs.py", "from cuda_graphs import graphed",
            id="beside a script in a folder"
        ),
        pytest.param(
            "pkg/a.py", ["pkg"], PLAIN, "pkg/cuda_graphs.py", "from pkg.cuda_graphs import graphed",
            id="in the package"
        ),
        pytest.param(
            "pkg/in/ner/a.py", ["pkg", "pkg/in", "pkg/in/ner"], PLAIN, "pkg/cuda_graphs.py",
            "from pkg.cuda_graphs import graphed", id="in the outermost package",
        ),
        pytest.param(
            "pkg/in/ner/a.py", ["pkg", "pkg/in", "pkg/in/ner"], RELATIVE, "pkg/cuda_graphs.py",
            "from ...cuda_graphs import graphed", id="relative if the file imports relatively",
        ),
        pytest.param(
            "pkg/__init__.py", ["pkg"], RELATIVE, "pkg/cuda_graphs.py", "from .cuda_graphs import graphed",
            id="relative in the package itself",
        ),
        pytest.param(
            "pkg/a.py", ["pkg"], SCRIPT, "pkg/cuda_graphs.py", "from pkg.cuda_graphs import graphed",
            id="absolute if the file is run as a script too",
        ),
        pytest.param(
            "space/a.py", [], RELATIVE, "space/cuda_graphs.py", "from .cuda_graphs import graphed",
            id="relative in a namespace package that imports relatively",
        ),
    ],
)  # fmt: skip
def test_place_and_import(command, file, packages, code, place, statement):
    for package in packages:
        command.write(f"{package}/__init__.py", "")
    path = command.write(file, code)
    assert command("apply").exit_code == 0
    assert imports(path.read_text()) == [statement]
    assert (command.root / place).read_bytes() == runtime(GRAPHS)


class TestTheKey:
    def test_names_the_module_and_wins_over_the_nearest_place(self, command):
        command.write("pyproject.toml", '[tool.refactor]\nruntime = "space.tools.graphs"\n')
        command.write("src/space/tools/x.py", "")
        path = command.write("src/space/deep/a.py", RELATIVE)
        command("apply")
        assert (command.root / "src/space/tools/graphs.py").read_bytes() == runtime(GRAPHS)
        assert "from space.tools.graphs import graphed" in path.read_text()

    def test_without_its_folder_nothing_that_needs_the_runtime_is_rewritten(self, command):
        command.write("pyproject.toml", '[tool.refactor]\nruntime = "nowhere.graphs"\n')
        command.write("a.py", PLAIN + "hazard(1)\n")
        rows = json.loads(command("apply", "--output-format", "json").stdout)["findings"]
        assert [row["status"] for row in rows] == ["refused", "applied"]
        assert "there is no folder nowhere in" in rows[0]["reason"]


class TestACopyThatIsThere:
    def refused(self, command, path):
        before = path.read_bytes()
        command.write("a.py", PLAIN + "hazard(1)\n")
        rows = json.loads(command("apply", "--output-format", "json").stdout)["findings"]
        assert [row["status"] for row in rows] == ["refused", "applied"]
        assert KEY in rows[0]["reason"]
        assert path.read_bytes() == before
        return rows[0]["reason"]

    def test_a_foreign_file_of_that_name_is_left(self, command):
        reason = self.refused(command, command.write("cuda_graphs.py", "x = 1\n"))
        assert "is not the runtime of this tool" in reason

    def test_one_the_user_edited_is_left(self, command):
        reason = self.refused(command, command.write("cuda_graphs.py", runtime() + b"x = 1\n"))
        assert "was edited" in reason

    def test_one_whose_header_was_damaged_is_left(self, command):
        self.refused(command, command.write("cuda_graphs.py", runtime().replace(b"sha256", b"sha512", 1)))

    def test_the_current_one_is_not_written_again(self, command):
        path = command.write("cuda_graphs.py", runtime())
        command.write("a.py", PLAIN)
        command("apply")
        command("undo")
        assert path.read_bytes() == runtime()

    def test_line_ends_changed_by_version_control_are_no_edit(self, command):
        data = runtime().replace(b"\n", b"\r\n")
        path = command.write("cuda_graphs.py", data)
        command.write("a.py", PLAIN)
        assert "applied" in command("apply").stdout
        assert path.read_bytes() == data

    def older(self, monkeypatch, version="0.0.9", names=None):
        with monkeypatch.context() as patch:
            patch.setattr(vendor, "__version__", version)
            return vendor.runtime.__wrapped__(names)

    def test_an_older_one_is_updated_also_if_no_file_is_rewritten(self, command, monkeypatch):
        old = self.older(monkeypatch)
        path = command.write("pkg/cuda_graphs.py", old)
        assert b"cuda_graphs.py" in command("apply", "--diff").stdout_bytes
        command("apply")
        assert path.read_bytes() == runtime()
        command("undo")
        assert path.read_bytes() == old

    def test_a_newer_one_is_left(self, command, monkeypatch):
        newer = self.older(monkeypatch, "99.0")
        path = command.write("cuda_graphs.py", newer)
        command.write("a.py", PLAIN)
        assert "applied" in command("apply").stdout
        assert path.read_bytes() == newer

    def test_a_part_gets_what_a_rewrite_needs_and_keeps_what_it_has(self, command):
        old = runtime(frozenset({"constant"}))
        path = command.write("cuda_graphs.py", old)
        command.write("a.py", PLAIN)
        assert b"+def graphed(" in command("apply", "--diff").stdout_bytes
        command("apply")
        assert path.read_bytes() == runtime(GRAPHS | {"constant"})
        command("undo")
        assert path.read_bytes() == old

    def test_a_part_that_has_it_already_is_left(self, command):
        path = command.write("cuda_graphs.py", runtime(GRAPHS | {"scratch"}))
        command.write("a.py", PLAIN)
        command("apply")
        assert path.read_bytes() == runtime(GRAPHS | {"scratch"})

    def test_an_older_part_is_updated_and_stays_that_part(self, command, monkeypatch):
        path = command.write("cuda_graphs.py", self.older(monkeypatch, names=frozenset({"scratch"})))
        command("apply")
        assert path.read_bytes() == runtime(frozenset({"scratch"}))

    def test_a_part_that_was_edited_is_left(self, command):
        part = runtime(frozenset({"constant"}))
        reason = self.refused(command, command.write("cuda_graphs.py", part + b"x = 1\n"))
        assert "was edited" in reason

    def test_a_newer_part_is_left_and_nothing_that_it_may_lack_is_imported(self, command, monkeypatch):
        newer = self.older(monkeypatch, "99.0", frozenset({"constant"}))
        reason = self.refused(command, command.write("cuda_graphs.py", newer))
        assert "update the tool" in reason

    def test_it_is_never_analysed(self, command):
        command.write("cuda_graphs.py", runtime() + b"hazard(1)\n")
        result = command("check")
        assert (result.exit_code, result.stdout) == (0, "")


def test_the_header_names_version_and_hash_and_the_rest_is_the_runtime_byte_for_byte(command):
    import hashlib

    import refactor

    header, _, body = runtime().partition(b"\n")
    assert (
        f"cudagraph-refactor {refactor.__version__} (sha256 {hashlib.sha256(body).hexdigest()})".encode()
        in header
    )
    copy = copy_in(command.root, runtime())
    assert copy is not None
    assert copy.is_current
    assert not copy.is_edited


@pytest.mark.parametrize("count", range(1, 6))
def test_every_part_is_told_by_its_header_and_offers_what_it_names(command, count):
    for names in map(closed, itertools.combinations(sorted(public()), count)):
        copy = copy_in(command.root, runtime(names))
        assert (copy.parts, copy.is_current, copy.is_edited) == (names, True, False)
        table = symtable.symtable(runtime(names).decode(), NAME, "exec")
        bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        assert names <= bound
        assert globals_of(table) - bound - {"__file__", "__name__", *dir(builtins)} == set()


def globals_of(table):
    """The names that code of a module looks up among its globals."""
    found = {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return found.union(*map(globals_of, table.get_children()))


def test_a_part_is_short_and_says_nothing_of_what_it_lacks():
    text = runtime(frozenset({"constant"})).decode()
    assert text.count("\n") < 150
    assert "``constant``" in text
    assert "``graphed" not in text
    assert '__all__ = ["constant"]' in text


def test_the_diff_creates_the_runtime_before_it_is_imported(command):
    command.write("a.py", PLAIN)
    diff = command("apply", "--diff").stdout
    assert diff.index("+++ b/cuda_graphs.py") < diff.index("+++ b/a.py")
    assert "--- /dev/null" in diff


def test_declined_rewrites_bring_no_runtime(command):
    command.write("a.py", PLAIN)
    before = command.tree()
    command("apply", "-i", input="n\n")
    assert command.tree() == before
