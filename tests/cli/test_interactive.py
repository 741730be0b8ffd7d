"""``refactor apply --interactive``: one question for each rewrite."""

from __future__ import annotations

import json

import click
import pytest

THREE = "hazard(1)\nhazard(2)\nhazard(3)\n"


def test_every_question_shows_rule_reason_note_and_the_lines_that_yes_changes(command):
    command.write("a.py", THREE)
    said = command("apply", "-i", input="n\ny\nn\n").stderr
    first = said.split("Apply this rewrite")[0].splitlines()
    assert first[0] == "a.py:1: CG101 plain-call: `hazard` is called here"
    assert first[1] == "  calls `safe` instead"
    assert "-hazard(1)" in first
    assert "+safe(1)" in first
    assert "-hazard(2)" not in first


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param("n\nn\nn\n", "hazard(1) hazard(2) hazard(3)", id="n leaves everything"),
        pytest.param("y\nn\ny\n", "safe(1) hazard(2) safe(3)", id="y and n decide one each"),
        pytest.param("n\na\n", "hazard(1) safe(2) safe(3)", id="a takes the rest of the file"),
        pytest.param("y\nd\n", "safe(1) hazard(2) hazard(3)", id="d leaves the rest of the file"),
        pytest.param("y\nq\n", "safe(1) hazard(2) hazard(3)", id="q leaves the rest"),
        pytest.param(
            "?\nx\ny\nq\n", "safe(1) hazard(2) hazard(3)", id="anything else explains and asks again"
        ),
        pytest.param("y\n", "safe(1) hazard(2) hazard(3)", id="the end of input is q"),
    ],
)
def test_answers(command, answers, expected):
    path = command.write("a.py", THREE)
    result = command("apply", "--interactive", input=answers)
    assert result.exit_code == 0
    assert path.read_text().split() == expected.split()


def test_d_goes_on_with_the_next_file_and_q_does_not(command):
    for answers, expected in (("d\ny\n", "safe(1)\n"), ("q\n", "hazard(1)\n")):
        command.write("a.py", THREE)
        second = command.write("b.py", "hazard(1)\n")
        command("apply", "-i", input=answers)
        assert second.read_text() == expected


def test_declined_rewrites_are_refused_with_that_reason(command):
    command.write("a.py", THREE)
    rows = json.loads(command("apply", "-i", "--output-format", "json", input="n\ny\nq\n").stdout)["findings"]
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("refused", "declined in the review"),
        ("applied", "calls `safe` instead"),
        ("refused", "declined in the review"),
    ]


def test_with_diff_it_prints_what_was_accepted(command):
    path = command.write("a.py", THREE)
    result = command("apply", "-i", "--diff", input="n\ny\nn\n")
    assert "+safe(2)" in result.stdout
    assert "+safe(1)" not in result.stdout
    assert path.read_text() == THREE


class TestEdit:
    def edit(self, monkeypatch, change):
        monkeypatch.setattr(click, "edit", lambda text, **kwargs: change(text))

    def test_the_lines_as_edited_are_written(self, command, monkeypatch):
        path = command.write("a.py", THREE)
        self.edit(monkeypatch, lambda text: text.replace("+safe(1)", "+mine(1)"))
        command("apply", "-i", input="e\nn\ny\n")
        assert path.read_text() == "mine(1)\nhazard(2)\nsafe(3)\n"

    def test_an_empty_answer_declines(self, command, monkeypatch):
        path = command.write("a.py", THREE)
        self.edit(monkeypatch, lambda text: "")
        command("apply", "-i", input="e\nq\n")
        assert path.read_text() == THREE

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(
                ("-hazard(1)", "-other(1)"), 'only lines that start with "+"', id="old lines stay as they are"
            ),
            pytest.param(
                ("+safe(1)", "+safe(1"), "with your edit the file cannot be parsed", id="the file must parse"
            ),
        ],
    )
    def test_what_cannot_be_used_is_asked_again(self, command, monkeypatch, change, message):
        path = command.write("a.py", THREE)
        self.edit(monkeypatch, lambda text: text.replace(*change))
        result = command("apply", "-i", input="e\nn\nq\n")
        assert message in result.stderr
        assert path.read_text() == THREE

    def test_an_editor_that_fails_is_said_and_asked_again(self, command, monkeypatch):
        path = command.write("a.py", THREE)

        def fail(text):
            raise click.ClickException("ed: Editing failed")

        self.edit(monkeypatch, fail)
        result = command("apply", "-i", input="y\ne\nn\ny\n")
        assert "ed: Editing failed" in result.stderr
        assert path.read_text() == "safe(1)\nhazard(2)\nsafe(3)\n"

    def test_an_edit_goes_where_its_lines_are_though_others_read_the_same(self, command, monkeypatch):
        same = "x = 1\n" * 8
        path = command.write("a.py", f"{same}hazard(1)\n{same}hazard(1)\n{same}")
        self.edit(monkeypatch, lambda text: text.replace("+safe(1)", "+mine(1)"))
        command("apply", "-i", input="y\ne\n")
        assert path.read_text() == f"{same}safe(1)\n{same}mine(1)\n{same}"

    def test_line_ends_and_a_missing_last_one_are_kept(self, command, monkeypatch):
        path = command.write("a.py", THREE)
        path.write_bytes(b"x = 1\r\nhazard(1)\r\nhazard(2)")
        self.edit(monkeypatch, lambda text: text.replace("+safe(", "+mine("))
        command("apply", "-i", input="e\ne\n")
        assert path.read_bytes() == b"x = 1\r\nmine(1)\r\nmine(2)"
