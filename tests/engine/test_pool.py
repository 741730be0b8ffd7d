"""Many files: the same results as one by one, in the same order, whatever happens to a worker process."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="worker processes inherit the fake rules by fork"
)


def write_many(command, count=60):
    for number in range(count):
        command.write(f"pkg{number % 7}/m{number}.py", f"hazard({number})\n" * (number % 3) + "hazard(k=1)\n")


def test_the_output_does_not_depend_on_the_number_of_processes(command):
    write_many(command)
    one, three = (command("check", "-j", jobs) for jobs in ("1", "3"))
    assert one.stdout == three.stdout
    assert one.stderr == three.stderr
    assert one.exit_code == three.exit_code == 1


def test_apply_writes_the_same_files(command):
    write_many(command)
    diff = command("apply", "--diff", "-j", "1").stdout
    assert command("apply", "--diff", "-j", "3").stdout == diff
    assert diff.count("+safe(") == 60


def test_a_worker_that_dies_is_reported_for_its_file_alone(command):
    write_many(command)
    command.write("pkg3/bad.py", "hazard(1)  # kill the process\n")
    command.write("pkg5/bad.py", "hazard(1)  # kill the process\n")
    result = command("check", "-j", "2", "--output-format", "json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [(error["file"], error["message"]) for error in document["errors"]] == [
        (
            f"pkg{number}/bad.py",
            "the process that worked on it died: out of memory, or a crash of the interpreter",
        )
        for number in (3, 5)
    ]
    assert len(document["findings"]) == 120


def test_an_error_of_the_tool_in_one_file_leaves_the_others_of_its_chunk(command):
    write_many(command)
    command.write("pkg3/bad.py", "hazard(1)  # crash the tool\n")
    document = json.loads(command("check", "-j", "2", "--output-format", "json").stdout)
    assert len(document["errors"]) == 1
    assert len(document["findings"]) == 120
