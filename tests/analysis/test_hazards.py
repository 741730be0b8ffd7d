"""What is a hazard and what only looks like one; the marked lines, and no others, are reported."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Severity
from refactor.place import place_of
from refactor.source import load

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def write(folder: Path, files: dict[str, str]) -> Project:
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return Project(folder)


def facts_of(folder: Path, project: Project, name: str, entries: tuple[str, ...] = ()) -> Facts | None:
    return analyze(load(folder / name), project, entries=entries)


def reported(facts: Facts | None) -> dict[int, str]:
    if facts is None:
        return {}
    return {
        place_of(facts.source, hit.event.node).line: rule.code
        for rule in RULES
        for hit in rule.detect(facts)
        if (hit.severity or rule.severity) is not Severity.COST
    }


def marked(code: str) -> dict[int, str]:
    return {n: line.split("# !")[1].strip() for n, line in enumerate(code.splitlines(), 1) if "# !" in line}


def forward(body: str, arguments: str = "self, x: torch.Tensor", before: str = "") -> str:
    return (
        HEAD
        + textwrap.dedent(before)
        + f"\nclass Model(nn.Module):\n    def forward({arguments}):\n"
        + textwrap.indent(textwrap.dedent(body).strip("\n"), "        ")
        + "\n"
    )


CASES = {
    "shapes, configuration and None are known on the host": forward(
        """
        b, n = x.shape
        if n > 4 and self.training and mask is None:
            return x.view(b, -1)[: n // 2]
        for i in range(x.size(0)):
            x = x + int(n) / float(b)
        return x
        """,
        "self, x: torch.Tensor, mask=None",
    ),
    "a copy to the device where it already is costs nothing": forward(
        "h = x.to(x.device)\ny = torch.zeros(4, device=x.device).to(h)\nreturn h.to(torch.float16) + y"
    ),
    "items of a dict are no item of a tensor": forward("return sum(v for k, v in {'a': x, 'b': x}.items())"),
    "a number filled in through a mask needs no count": forward("x[x > 0] = 0.0\nreturn x"),
    "integers on the device select a known number": forward(
        "return x[index]", "self, x: torch.Tensor, index: torch.LongTensor"
    ),
    "code for scripting does not run": forward("if torch.jit.is_scripting():\n    return x[x > 0]\nreturn x"),
    "code that steps aside during a capture is no hazard": forward(
        "if capturing():\n    return x\nif x.sum() > 0:\n    x = x + 1\nreturn x",
        before="""
        def capturing():
            return torch.jit.is_tracing() or torch.cuda.is_current_stream_capturing()
        """,
    ),
    "a guard in the same condition protects what follows it": forward(
        "if not capturing(x) and x.sum() > 0:\n    x = x + 1\nreturn x",
        before="def capturing(t):\n    return torch.cuda.is_current_stream_capturing()\n",
    ),
    "a tensor that stays on the CPU is read for free": forward(
        "sizes = torch.arange(4).tolist()\nreturn x.split(sizes)"
    ),
    "a cache filled at the first call is there in the second": forward(
        """
        if self.table is None:
            self.table = torch.tensor([1.0, 2.0], device=x.device)
        return x + self.table
        """
    ),
    "an empty list copies nothing": forward("return torch.cat([x, torch.tensor([], device=x.device)])"),
    "isinstance decides without looking at values": forward(
        "if isinstance(scale, float) and scale > 0.5:\n    x = x * scale\nreturn x",
        "self, x: torch.Tensor, scale: float = 1.0",
    ),
    "a tuple that grows on one path keeps its first items": forward(
        """
        out = (x, (x.shape[0], x.shape[1]))
        if self.training:
            out = (*out, x)
        size = out[1]
        return x if size[0] > 3 else -x
        """,
    ),
    "a number by annotation is one, whatever it was computed from": forward(
        "return x if wide(sizes(x)) else -x",
        before="""
        import somewhere

        def sizes(x):
            return somewhere.measure(x), 3

        def wide(size: tuple[int, int]):
            return size[0] > size[1]
        """,
    ),
    "what has a method that no tensor has is no tensor": forward(
        "if x.get_seq_length() > 0:\n    x = -x\nreturn x"
    ),
    "rows of numbers that are taken apart are no tensor": forward(
        "return attend(x, shapes)",
        "self, x: torch.Tensor, shapes=None",
        before="""
        def attend(x, shapes: torch.Tensor):
            return x.split([height * width for height, width in shapes])
        """,
    ),
    "a switch that is given a tensor by mistake is a switch": forward(
        "return scaled(x, x)",
        before="def scaled(x, double=False):\n    return x * 2 if double else x\n",
    ),
    "a number stored into a row is filled in by a kernel": forward(
        "y = torch.zeros(3, 4, device=x.device)\ny[0] = 1.0\ny[:, 2] = 3\nreturn y"
    ),
    "an augmentation of images runs on the host": HEAD
    + """
import random

class Crop(nn.Module):
    def forward(self, img):
        top = random.randint(0, 4)
        return img.crop((top, top, 8, 8))
""",
    "a random decision about a tensor": HEAD
    + """
import random

class Drop(nn.Module):
    def forward(self, x):
        if random.random() < 0.5:  # !CG602
            return x * 2
        return F.relu(x)
""",
    "a compared tensor is read by the `if`": forward("if x.mean() > 0:  # !CG301\n    x = -x\nreturn x"),
    "a readback in a condition is one finding": forward(
        "if x.max().item() > 3:  # !CG301\n    x = -x\nreturn x"
    ),
    "what waits in a condition whatever is asked is a finding of its own": forward(
        """
        if (
            x[x[:, 0] > 0].sum() > 3  # !CG203
        ):
            x = -x
        return x
        """.replace("if (", "if (  # !CG301")
    ),
    "a table kept under a key that is made at run time": HEAD
    + """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = {}
        self.onto = {}
        self.sizes = {}
        self.sizes["k"] = 4

    def forward(self, x: torch.Tensor):
        n = x.shape[0]
        if n not in self.tables:
            self.tables[n] = torch.zeros(n, 1)
            self.onto[n] = torch.zeros(n, 1, device=x.device)
        if self.sizes["k"] > 3:
            x = x + self.onto[n].to(x.device)
        return x + self.tables[n].to(x.device)  # !CG402
""",
    "a guard clause that raises is a check": forward(
        "if torch.isnan(x).any():  # !CG104\n    raise ValueError('nan')\nreturn x"
    ),
    "a count read back for a loop is one finding": forward(
        "for _ in range(int(x.sum())):  # !CG303\n    x = x + 1\nreturn x"
    ),
    "`max` of tensors compares them on the host": forward("return x / max(x.max(), 1e-6)  # !CG304"),
    "a tensor in `and` is asked for its truth": forward(
        "ok = x.any() and x.shape[0] > 1  # !CG304\nreturn x if ok else -x  # !CG301"
    ),
    "one-argument where": forward("rows = torch.where(x > 0)[0]  # !CG202\nreturn x[rows]"),
    "a list of integers as an index": forward("return x[..., [-2], :]  # !CG403"),
    "an index made on the CPU": forward(
        "i = torch.arange(x.shape[0])\nj = (i[:, None] - i[None, :]).abs()\nreturn x[j.long()]  # !CG403"
    ),
    "an index of rank 0 is read by the host": forward(
        "for row in torch.nonzero(x):  # !CG202\n    x = x + x[row[0]]  # !CG204\nreturn x"
    ),
    "a CPU tensor made by a helper": forward(
        "return x + grid(x.shape[0]).to(x.device)  # !CG402",
        before="def grid(n, device='cpu'):\n    return torch.arange(n, device=torch.device(device))\n",
    ),
    "a tensor of device values is read back": forward("return torch.tensor([x.sum(), x.max()])  # !CG101"),
    "a value read in a comprehension": forward("return [float(v) for v in x.sum(1)]  # !CG101"),
    "a lambda is followed": forward("peak = lambda t: t.max().item()  # !CG101\nreturn x / peak(x)"),
    "a conditional expression": forward("y = x if x.sum() > 0 else -x  # !CG301\nreturn y"),
    "a chained comparison asks twice": forward("inside = 0 < x.mean() < 1  # !CG304\nreturn x, inside"),
    "einops keeps the device": (
        "import einops\n" + forward("y = einops.rearrange(x, 'a b -> b a')\nreturn y.sum().item()  # !CG101")
    ),
    "a parameter is on the device": HEAD
    + """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))
        self.offset = torch.arange(3)

    def forward(self, x: torch.Tensor):
        if self.scale > 1:  # !CG301
            x = x * 2
        if self.seen > 1:  # !CG301
            x = x * 2
        return x + self.offset.to(x.device)  # !CG402
""",
    "a submodule's method is followed with the tensor it gets": HEAD
    + """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 1)

    def forward(self, h):
        return self.proj(h).squeeze(-1)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList([Gate() for _ in range(3)])

    def forward(self, x):
        for gate in self.gates:
            if gate(x).mean() > 0:  # !CG301
                x = -x
        return x
""",
    "an inherited forward is a region with the attributes of the subclass": HEAD
    + """
class Base(nn.Module):
    def forward(self, x: torch.Tensor):
        return self.finish(x)

class Child(Base):
    def finish(self, x):
        return x[x > 0]  # !CG203
""",
    "a number stored into one element is copied there": forward(
        """
        sizes = torch.empty(2, 2, device=x.device)
        for level, scale in enumerate((1, 2)):
            sizes[level, 0] = x.shape[0] // scale  # !CG406
        return sizes
        """
    ),
    "a mask that is added to is read and written": forward(
        "x[x < 0] += 1  # !CG203\nx[mask] -= 1  # !CG203\nreturn x", "self, x: torch.Tensor, mask"
    ),
    "an object that a region makes runs its constructor": HEAD
    + """
class Index:
    def __init__(self, rows):
        self.rows = torch.as_tensor(rows)
        self.count = torch.tensor([0], device=rows.device)  # !CG401

class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        return x + Index(x).count
""",
    "a module's own `__call__` is part of its region": HEAD
    + """
class Pool(nn.Module):
    def __call__(self, x: torch.Tensor, index: torch.Tensor):
        size = int(index.max()) + 1  # !CG101
        return super().__call__(x, index, size)

    def forward(self, x, index, size):
        return x.new_zeros(size).index_add(0, index, x)
""",
    "a module without `forward` is entered by its methods": HEAD
    + """
class Smooth(nn.Module):
    def smooth(self, y: torch.Tensor, mask: torch.Tensor):
        return y[mask]  # !CG203

    def report(self, text):
        print(text)
""",
    "a tensor made on the host where none was given": forward(
        """
        if mask is None:
            mask = torch.ones(x.shape[:2])
        return x * mask.to(x.device)  # !CG402
        """,
        "self, x: torch.Tensor, mask: torch.Tensor | None = None",
    ),
    "a CPU scalar as a side of `where` is copied": forward(
        "return torch.where(x > 0, x, torch.tensor(0.5))  # !CG402"
    ),
    "a comment makes a function a region": HEAD
    + """
def sample(logits: torch.Tensor):  # refactor: region
    return logits.argmax().item()  # !CG101

def shown(logits: torch.Tensor):
    return logits.argmax().item()
""",
    "a comment keeps a function out of every region": HEAD
    + """
class Model(nn.Module):
    def forward(self, x: torch.Tensor):
        self.log(x)
        return x

    # refactor: host
    def log(self, x):
        print(x.mean())

class Reader(nn.Module):
    def forward(  # refactor: host
        self, x: torch.Tensor
    ):
        return x.tolist()
""",
    "logging beside a training step is outside it": HEAD
    + """
def train(model, loader, optimizer):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        if torch.isnan(loss):  # !CG301
            continue
        loss.backward()
        optimizer.step()
        print(loss.item())
""",
    "a captured block is a region": HEAD
    + """
def capture(model, x):
    x = x.cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        model(x)
    print(x.sum().item())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
        total = y.sum().item()  # !CG101
    return graph, y.clone(), total
""",
    "metrics after the model's call are outside its region": HEAD
    + """
@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    total = 0.0
    for x, y in loader:
        out = model(x)  # !CG201
        total += (out.argmax(1) == y).sum().item()
    return total
""",
    "a loop over steps of one batch calls the model with one shape": HEAD
    + """
@torch.no_grad()
def sample(model, x, timesteps):
    model.eval()
    for t in timesteps:
        x = x - model(x, t)
    for i in range(10):
        x = x - model(x, i)
    return x
""",
    "a counter that slices batches out of the data": HEAD
    + """
@torch.inference_mode()
def predict(model, data, size=32):
    model.eval()
    outputs = []
    for i in range(0, len(data), size):
        batch = data[i : i + size]
        outputs.append(model(batch))  # !CG201
    return torch.cat(outputs)
""",
    "data sets and collation run on the host": "import torch\n"
    + """
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self, rows):
        data = torch.tensor(rows)
        self.data = data[data > 0]

    def __getitem__(self, i):
        return self.data[i].item()

def collate(batch):
    if max(len(b) for b in batch) > 3:
        return torch.tensor(batch)
    return torch.stack(batch)

def evaluate(model):
    return model.eval()
""",
}


@pytest.mark.parametrize("code", CASES.values(), ids=CASES.keys())
def test_the_marked_lines_and_no_others_are_reported(code: str, tmp_path: Path) -> None:
    project = write(tmp_path, {"program.py": code})
    assert reported(facts_of(tmp_path, project, "program.py")) == marked(code)


HELPER = (
    HEAD
    + "def fast_all(t):\n    return t.sum() == t.numel()\n\n"
    + "def peak(t):\n    return t.max().item()  # !CG101\n"
)
CALLER = HEAD + (
    "from .helpers import fast_all, peak\n\n"
    "class Model(nn.Module):\n"
    "    def forward(self, x: torch.Tensor, mask: torch.Tensor):\n"
    "        if fast_all(mask):  # !CG301\n"
    "            return x\n"
    "        return x / peak(x)\n"
)
PACKAGE = {"pkg/__init__.py": "", "pkg/helpers.py": HELPER, "pkg/model.py": CALLER}


def test_a_condition_on_a_helper_of_another_file_is_found_where_it_is_asked(tmp_path: Path) -> None:
    project = write(tmp_path, PACKAGE)
    facts = facts_of(tmp_path, project, "pkg/model.py")
    assert reported(facts) == marked(CALLER)


def test_a_hazard_in_a_helper_belongs_to_the_helpers_file(tmp_path: Path) -> None:
    project = write(tmp_path, PACKAGE)
    facts = facts_of(tmp_path, project, "pkg/model.py")
    assert facts is not None
    assert [other.module for other in facts.foreign] == ["pkg.helpers"]
    assert reported(facts.foreign[0]) == marked(HELPER)
    event = facts.foreign[0].events[0]
    assert event.chain == ("Model.forward", "peak")
    assert event.region.module == "pkg.model"


def test_entries_bring_the_same_hazard_into_the_facts_of_the_helper(tmp_path: Path) -> None:
    project = write(tmp_path, PACKAGE)
    assert facts_of(tmp_path, project, "pkg/helpers.py") is None
    assert reported(facts_of(tmp_path, project, "pkg/helpers.py", ("pkg.model",))) == marked(HELPER)


def test_facts_of_a_file_do_not_depend_on_the_files_before_it(tmp_path: Path) -> None:
    files = {**PACKAGE, "pkg/other.py": CALLER.replace("Model", "Other")}
    project = write(tmp_path, files)
    facts_of(tmp_path, project, "pkg/other.py")
    later = facts_of(tmp_path, project, "pkg/model.py")
    alone = facts_of(tmp_path, Project(tmp_path), "pkg/model.py")

    def places(facts: Facts | None) -> list[tuple[EventKind, int, tuple[str, ...]]]:
        assert facts is not None
        return [(e.kind, place_of(facts.source, e.node).line, e.chain) for e in facts.events]

    assert places(later) == places(alone)


def test_modules_that_import_each_other_end(tmp_path: Path) -> None:
    a = (
        HEAD
        + "from .b import g\n\ndef f(t):\n    return g(t)\n\n"
        + "class A(nn.Module):\n    def forward(self, x):\n        return f(x)\n"
    )
    b = HEAD + "from .a import f\n\ndef g(t):\n    return f(t) if t.sum() > 0 else t  # !CG301\n"
    project = write(tmp_path, {"p/__init__.py": "", "p/a.py": a, "p/b.py": b})
    facts = facts_of(tmp_path, project, "p/a.py")
    assert facts is not None
    assert [reported(other) for other in facts.foreign] == [marked(b)]


def test_a_temporary_that_the_next_iteration_reads_is_none(tmp_path: Path) -> None:
    code = forward("prev = x\nfor _ in range(3):\n    cur = prev * 0.5\n    prev = cur - x\nreturn prev")
    facts = facts_of(tmp_path, write(tmp_path, {"m.py": code}), "m.py")
    assert facts is not None
    names = [event.detail for event in facts.events if event.kind is EventKind.TEMPORARY]
    assert "prev" not in names


def test_a_batch_loop_says_how_the_batch_flows(tmp_path: Path) -> None:
    code = CASES["metrics after the model's call are outside its region"]
    facts = facts_of(tmp_path, write(tmp_path, {"m.py": code}), "m.py")
    assert facts is not None
    (event,) = (e for e in facts.events if e.kind is EventKind.BATCH_LOOP)
    assert isinstance(event, Event)
    assert event.detail == "model"
    assert event.extra["target"] == ("x", "y")
    assert event.extra["guard"] == "no_grad"


ROWS = (
    HEAD
    + """
class Layer(nn.Module):
    def forward(self, x, grid: list[list[int]]):
        t, h, w = grid[0]
        return x[: t * h * w]  # ! CG204


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer()

    def forward(self, x: torch.Tensor, grid: torch.LongTensor):
        return self.layer(x, grid)
"""
)


def test_a_tensor_given_for_rows_of_numbers_stays_a_tensor(tmp_path: Path) -> None:
    found = reported(facts_of(tmp_path, write(tmp_path, {"m.py": ROWS}), "m.py"))
    assert found == marked(ROWS)


HOOKS = (
    HEAD
    + """
def saved(module, args, output):
    module.last = output.tolist()  # ! CG101


def moved(module, args):
    return args


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.seen = []
        self.linear.register_forward_hook(self._clipped)
        self.linear.register_forward_hook(saved)
        self.linear.register_forward_pre_hook(moved)
        self.linear.register_forward_hook(lambda m, i, o: self.seen.append(o.item()))  # ! CG101

        def nested(module, args, output):
            assert torch.isfinite(output).all()  # ! CG104

        self.register_forward_hook(nested)
        self.register_full_backward_hook(self._logged)

    def _clipped(self, module, args, output):
        if output.shape[0] > 3:
            return output
        if output.abs().max() > 100:  # ! CG301
            return output.clamp(-100, 100)
        return output

    def _logged(self, module, args, output):
        print(output[0].norm().item())

    def forward(self, x):
        return self.linear(x)
"""
)


def test_hooks_that_a_module_registers_run_with_its_forward(tmp_path: Path) -> None:
    project = write(tmp_path, {"m.py": HOOKS})
    found = reported(facts_of(tmp_path, project, "m.py"))
    assert {line: code for line, code in found.items() if not code.startswith("CG6")} == marked(HOOKS)
