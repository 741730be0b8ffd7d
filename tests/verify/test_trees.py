"""The two trees: what differs, and an original rebuilt beside the working tree."""

from __future__ import annotations

from pathlib import Path

from refactor.verify.trees import edited, edited_outside, overlay, pair, python_files


def project(root: Path) -> Path:
    for name, text in {
        "src/pkg/__init__.py": "",
        "src/pkg/model.py": "new = 1\n",
        "src/pkg/cuda_graphs.py": "added = 1\n",
        "data/table.csv": "1,2\n",
        "tools/run.py": "run = 1\n",
        ".venv/lib/other.py": "no = 1\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_environments_and_caches_are_no_part_of_a_tree(tmp_path: Path) -> None:
    assert ".venv/lib/other.py" not in set(python_files(project(tmp_path)))


def test_a_rebuilt_original_has_the_old_bytes_and_everything_else(tmp_path: Path) -> None:
    working = project(tmp_path / "working")
    before = overlay(
        working, {"src/pkg/model.py": b"old = 1\n", "src/pkg/cuda_graphs.py": None}, tmp_path / "before"
    )
    assert (before / "src/pkg/model.py").read_text() == "old = 1\n"
    assert not (before / "src/pkg/cuda_graphs.py").exists()
    assert (before / "data/table.csv").read_text() == "1,2\n"
    assert (working / "src/pkg/model.py").read_text() == "new = 1\n"


def test_only_replaced_files_differ_although_the_others_are_links(tmp_path: Path) -> None:
    working = project(tmp_path / "working")
    before = overlay(
        working, {"src/pkg/model.py": b"old = 1\n", "src/pkg/cuda_graphs.py": None}, tmp_path / "before"
    )
    trees = pair(before, working)
    assert trees.differing == {"src/pkg/model.py", "src/pkg/cuda_graphs.py"}
    assert trees.after_roots == (str(working / "src"), str(working))


def test_a_folder_linked_into_itself_ends(tmp_path: Path) -> None:
    working = project(tmp_path / "working")
    (working / "tools" / "loop").symlink_to(working)
    assert "tools/run.py" in set(python_files(working))


def test_top_level_code_that_differs_is_no_callable_and_is_told_by_line(tmp_path: Path) -> None:
    for side, number in ("before", 1), ("after", 2):
        (tmp_path / side).mkdir()
        text = f"import os\n\nsame = 1\n\ndef f():\n    return {number}\n\nwhile {number}:\n    break\n"
        (tmp_path / side / "m.py").write_text(text)
    trees = pair(tmp_path / "before", tmp_path / "after")
    assert edited(trees) == ["m:f"]
    assert edited_outside(trees) == ["m.py:8"]
