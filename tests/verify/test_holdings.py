"""What callers can look at beside results: books of modules, objects, properties, public optimizers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from refactor.verify.worker import holdings, observe  # noqa: E402
from refactor.verify.worker.judge import Trace, compare  # noqa: E402
from refactor.verify.worker.trees import Subject  # noqa: E402

PROGRAM = """
import torch
from torch import nn

STATS = {"calls": 0}
MEMO = {}
_PRIVATE = [1]

class Meter:
    def __init__(self):
        self.total = 0

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.meter = Meter()
        self._secret = 0
        self.opt = torch.optim.SGD(self.lin.parameters(), lr=0.5, momentum=0.9)

    @property
    def secret(self):
        return self._secret

    @property
    def broken(self):
        raise RuntimeError

def build():
    return Net()
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Any]:
    """The module of a small program."""
    (tmp_path / "booked.py").write_text(PROGRAM)
    sys.path.insert(0, str(tmp_path))
    try:
        import booked  # type: ignore[import-not-found]

        yield booked
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("booked", None)


def observed(program: Any, net: Any) -> Trace:
    """One observation of a network."""
    recorder, root = observe.Recorder(), Path(program.__file__).parent
    subject = Subject(net, net, program)
    groups = {
        "attributes": holdings.attributes(subject, recorder, 0, root),
        "optimizers": holdings.optimizers(subject, recorder, 0),
    }
    return Trace([{"step": 0, "outside": False, "groups": groups}], recorder.tensors)


def test_a_memo_of_tensors_and_private_names_are_nobodys_business(program: Any) -> None:
    net = program.Net()
    before = observed(program, net)
    program.MEMO[3] = torch.zeros(3)
    program._PRIVATE.append(2)
    net._cache = 7
    found = compare(before, observed(program, net), False)
    assert not found.certain
    assert not found.suspects


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda p, net: p.STATS.update(calls=1), "booked.STATS['calls']"),
        (lambda p, net: setattr(net.meter, "total", 4), "self.meter.total"),
        (lambda p, net: setattr(net, "_secret", 5), "self.secret"),
    ],
    ids=["a count in a dictionary of the module", "a number in an object", "a property"],
)
def test_public_books_are_compared(program: Any, change: Any, path: str) -> None:
    net = program.Net()
    before = observed(program, net)
    change(program, net)
    assert [d.path for d in compare(before, observed(program, net), False).certain] == [path]


def test_moments_and_rates_of_a_public_optimizer_are_compared_where_both_have_them(program: Any) -> None:
    net = program.Net()
    fresh = observed(program, net)
    net.lin(torch.ones(1, 2)).sum().backward()
    net.opt.step()
    stepped = observed(program, net)
    assert not compare(stepped, fresh, False).suspects, "a rewrite may keep its moments elsewhere"
    net.opt.param_groups[0]["lr"] = 0.25
    net.opt.state[net.lin.bias]["momentum_buffer"].mul_(2)
    changed = [s.path for s in compare(stepped, observed(program, net), False).suspects]
    assert "self.opt: momentum_buffer of lin.bias" in changed
    assert "self.opt: lr of lin.weight" in changed


def test_a_harness_shows_what_is_kept_under_private_names(program: Any) -> None:
    def seen(rate: float, hooks: int) -> Trace:
        net = program.build()
        net._opt = torch.optim.SGD(net.lin.parameters(), lr=rate)
        for _ in range(hooks):
            net.lin.register_forward_hook(lambda *given: None)
        recorder = observe.Recorder()
        subject = Subject(net, net, program)
        leaves = holdings.shown(
            subject, recorder, 0, lambda n: {"opt": n._opt, "hooks": len(n.lin._forward_hooks)}
        )
        entry = {"step": 0, "outside": False, "groups": {"observed": leaves}}
        return Trace([entry], recorder.tensors)

    assert not compare(seen(0.5, 1), seen(0.5, 1), False).certain
    (other,) = compare(seen(0.5, 1), seen(0.5, 2), False).certain
    assert (other.path, other.text) == ("observed['hooks']", "1 in the original, 2 in the rewrite")
    suspects = compare(seen(0.5, 1), seen(0.25, 1), False).suspects
    assert {s.path for s in suspects} == {f"observed['opt']: lr of lin.{p}" for p in ("weight", "bias")}


def test_a_harness_that_cannot_look_at_one_side_is_a_difference(program: Any) -> None:
    subject = Subject(program.build(), None, program)
    recorder = observe.Recorder()
    assert holdings.shown(subject, recorder, 0, None) == []
    assert holdings.shown(subject, recorder, 0, lambda net: net._gone) == [
        ["observed", ["value", "raised", "AttributeError"]]
    ]


BOOKED_ON_CLASSES = """
import torch
from torch import nn

class Base(nn.Module):
    total = 0

class Net(Base):
    LIMIT = 3
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(2), persistent=False)
        self.register_buffer("_own", torch.zeros(2), persistent=False)
"""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda program, net: setattr(program.Base, "total", 1), "class Base.total"),
        (lambda program, net: net.last.add_(1), "unsaved buffer self.last"),
        (lambda program, net: net._own.add_(1), None),
        (lambda program, net: delattr(program.Net, "LIMIT"), None),
        (lambda program, net: setattr(net, "last", torch.zeros(5)), None),
    ],
    ids=[
        "a count on a base class",
        "a public buffer that is not saved",
        "a private buffer is nobody's business",
        "a constant that the rewrite's class lacks is no difference",
        "a buffer of another size is the rewrite's own",
    ],
)
def test_what_is_kept_on_classes_and_in_unsaved_buffers(tmp_path: Path, change: Any, place: Any) -> None:
    (tmp_path / "classes_booked.py").write_text(BOOKED_ON_CLASSES)
    sys.path.insert(0, str(tmp_path))
    try:
        import classes_booked as program  # type: ignore[import-not-found]

        net = program.Net()
        before = observed(program, net)
        change(program, net)
        compared = compare(before, observed(program, net), False)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("classes_booked", None)
    paths = [d.path for d in compared.certain] + [s.path for s in compared.suspects]
    assert paths == ([] if place is None else [place])
