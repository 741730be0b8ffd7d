"""What a file's findings are depends on the code alone: not on processes, on order, or on the files given."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from refactor.config import Settings
from refactor.discovery import display
from refactor.engine import Examined, Examiner, Job, Task
from refactor.pool import Crew

FILES = {
    "package/__init__.py": "",
    "package/wrapping.py": """\
import torch


def guarded(cls):
    inner = cls.forward

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("nan")
        return inner(self, x)

    cls.forward = forward
    return cls


def limit(x, factor):
    if x.max() > factor:
        return x / factor
    return x
""",
    "package/experts.py": """\
import torch
from torch import nn

from package.wrapping import guarded, limit
from package.state import Shared


@guarded
class Experts(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.shared = Shared(width)

    def forward(self, x):
        x = self.shared(limit(x, 3.0))
        return self.inner(x) * x.sum().item()


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.experts = Experts(width)

    def forward(self, x):
        return self.experts(x)
""",
    "package/state.py": """\
import torch
from torch import nn

from package import experts


class Shared(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = torch.tensor(2.0)
        self.other = experts.Layer(width) if width > 8 else None
        self.kept = self.other.experts.shared.scale if self.other else None

    def forward(self, x):
        self.last = x
        return x * self.scale.to(x.device)
""",
    "package/model.py": """\
import torch
from torch import nn

from package.experts import Experts, Layer
from package.wrapping import limit


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(4) for _ in range(3)])
        self.single = Experts(4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        x = limit(self.single(x), 2.0)
        if self.single.shared.last.mean() > 0:
            return limit(x, 5.0)
        return x
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, list[Job]]:
    root = tmp_path_factory.mktemp("project").resolve()
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    jobs = [Job(root / name, display(root / name, root)) for name in sorted(FILES)]
    return Task(Settings(root), root), jobs


def alone(task: Task, jobs: list[Job]) -> dict[Path, Examined]:
    return {job.path: Examiner(task).examine(job) for job in jobs}


def test_the_project_has_findings_in_other_files_and_behind_decorators(project):
    task, jobs = project
    found = alone(task, jobs)
    model = found[jobs[2].path]
    assert jobs[2].file == "package/model.py"
    chains = {raw.finding.chain for _, raws in model.foreign for raw in raws}
    assert any("guarded.forward" in chain for chain in chains)
    assert model.raws


def test_each_order_of_files_gives_each_file_the_same_findings(project):
    task, jobs = project
    expected = alone(task, jobs)
    for order in itertools.permutations(jobs):
        examiner = Examiner(task)
        assert {job.path: examiner.examine(job) for job in order} == expected


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_number_of_processes_gives_each_file_the_same_findings(project, workers):
    task, jobs = project
    expected = alone(task, jobs)
    with Crew(task, workers) as crew:
        assert crew.examine(jobs) == [expected[job.path] for job in jobs]


def test_recursion_between_modules_with_arguments_that_grow_comes_to_an_end(tmp_path):
    body = (
        "import torch\nfrom torch import nn\nimport {other}\n\n\ndef walk(x, path, flag=False):\n"
        "    for index in range(3):\n        x = {other}.walk(x, path + [index], not flag)\n"
        "        x = {other}.walk(x, [path, 'left'])\n        x = {other}.walk(x, (path, 'right'))\n"
        "    if x.sum() > 0:\n        return x\n    return walk(x, [*path, 1])\n\n\n"
        "class Model(nn.Module):\n    def forward(self, x):\n        return walk(x, [])\n"
    )
    names = ["one", "two", "three"]
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        (tmp_path / f"{name}.py").write_text(body.format(other=other))
    task = Task(Settings(tmp_path), tmp_path)
    jobs = [Job(tmp_path / f"{name}.py", f"{name}.py") for name in names]
    found = alone(task, jobs)
    assert all(row.failure is None and row.raws for row in found.values())
    for order in (jobs, jobs[::-1], [jobs[1], jobs[0], jobs[2]]):
        examiner = Examiner(task)
        assert {job.path: examiner.examine(job) for job in order} == found
