"""Nothing stale is replayed, whatever was changed and however: each change against eager code."""

from __future__ import annotations

import array
import dataclasses
import functools
import itertools
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = [
    pytest.mark.usefixtures("device"),
    pytest.mark.filterwarnings("ignore:.*runs eagerly:RuntimeWarning"),
]


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


# ------------------------------------------------------------------------------- what the code reads


@dataclasses.dataclass
class Settings:
    gain: float = 2.0
    table: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    gain: float = 2.0
    table: Any = None


class Shift:
    amount = 1.0
    unit = "whole"

    def by(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.amount * (1 if self.unit == "whole" else 0.5)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(rnd(4, 4, seed=3))

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(x @ self.weight)


class OtherPart(Part):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(x @ self.weight) - 3


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


PARENT = Settings()
VIEWED = {"a": 1.0}
TABLE: Any = None
FACTOR = 1.0
PLAN = 1.0
SETTING: ContextVar[float] = ContextVar("SETTING", default=1.0)
LOCAL = threading.local()
helpers: Any = types.ModuleType("helpers_of_a_user")
inner: Any = types.ModuleType("helpers_of_a_user.inner")
exec("def bend(x):\n    return x * 1.5", vars(inner))
exec("def first(x):\n    return second(x)\ndef second(x):\n    return third(x)", vars(helpers))
exec("def third(x):\n    return fourth(x)\ndef fourth(x):\n    return x + LEVEL\nLEVEL = 1.0", vars(helpers))
helpers.inner = inner


def deep(x: torch.Tensor) -> torch.Tensor:
    return helpers.first(x) + FACTOR


def counted(x: torch.Tensor) -> torch.Tensor:
    return x * counted.gain  # type: ignore[attr-defined]


counted.gain = 2.0  # type: ignore[attr-defined]


def by_default(x: torch.Tensor, gain: float = 1.0, parts: Any = {"a": 1.0}) -> torch.Tensor:  # noqa: B006
    return x * gain + parts["a"]


class Model(nn.Module):
    """Reads everything that the changes below change."""

    unit = "whole"
    shift = Shift()

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.part = Part()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
        self.pool = nn.AvgPool1d(1)
        self.drop = nn.Dropout(0.0)
        self.flat = nn.Softmax(dim=-1)
        self.register_buffer("square", rnd(4, 4, seed=1))
        self.register_buffer("whole", torch.arange(16, dtype=torch.int32).reshape(4, 4).to("cuda"))
        self.settings, self.slotted = Settings(table=rnd(4, 4)), Slotted(table=rnd(4, 4, seed=6))
        self.namespace = types.SimpleNamespace(gain=1.0)
        self.array = np.ones(4)
        self.listed = [rnd(4), 1.0]
        self.pair = (rnd(4, seed=8), [1.0])
        self.bound = functools.partial(torch.add, alpha=2)
        self.partial = functools.partial(self.add, table={"t": rnd(4, seed=5)})
        self.names = {"plus"}
        self.names_of_plans = ["plan"]
        self.parent, self.bytes = weakref.ref(PARENT), bytearray(b"ab")
        self.numbers, self.view = array.array("d", [1.0]), types.MappingProxyType(VIEWED)

    @staticmethod
    def add(x: torch.Tensor, table: Any) -> torch.Tensor:
        return x + table["t"]

    @staticmethod
    def fixed(x: torch.Tensor) -> torch.Tensor:
        return x * 1.25

    @property
    def factor(self) -> float:
        return 1.0

    @functools.lru_cache  # noqa: B019
    def cached(self) -> float:
        return FACTOR

    def by_plan(self, x: torch.Tensor) -> torch.Tensor:
        return x + PLAN

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = getattr(self, "by_" + self.names_of_plans[0])(x)
        x = x + self.parent().gain + self.bytes[0] + self.numbers[0] + self.view["a"]  # type: ignore[union-attr]
        h = self.part(self.tied(self.lin(x))) * self.factor
        h = self.conv(h[:, None]).flatten(1)
        h = self.flat(self.drop(h)) * (2 if self.unit == "whole" else 3)
        h = h @ self.square + self.whole.sum(0)[: h.shape[1]].float()
        h = h * self.settings.gain + self.settings.table.sum(0) * self.slotted.gain + self.slotted.table[0]
        h = h * self.namespace.gain + float(self.array[0]) + self.listed[0] * self.listed[1]
        h = self.bound(h, self.pair[0]) * self.pair[1][0]
        h = self.partial(self.fixed(h)) + (1 if "plus" in self.names else 0)
        h = self.shift.by(counted(by_default(deep(helpers.inner.bend(h))))) * self.cached()
        return F.relu(h + TABLE.sum(0)) + SETTING.get() + getattr(LOCAL, "level", 0.0)


# ------------------------------------------------------------------------------------ what is changed


def set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    tensor.data = value


def tie(m: Any) -> None:
    m.tied.weight = m.lin.weight


def untie(m: Any) -> None:
    m.tied.weight = nn.Parameter(m.lin.weight.detach().clone() * 3)


def parametrized(m: Any) -> None:
    if parametrize.is_parametrized(m.lin):
        parametrize.remove_parametrizations(m.lin, "weight")
    else:
        parametrize.register_parametrization(m.lin, "weight", Twice())


def replaced_class(m: Any) -> None:
    m.part.__class__ = OtherPart if type(m.part) is Part else Part


class Patches:
    """Changes of classes and modules, all undone at the end."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.count = 0

    def set(self, owner: Any, name: str, value: Callable[[float], Any]) -> None:
        self.count += 1
        self.patch.setattr(owner, name, value(1.0 + self.count), raising=False)


PATCHES = Patches()


def change_to(owner: Any, name: str, value: Callable[[float], Any]) -> Callable[[Any], None]:
    return lambda m: PATCHES.set(owner, name, value)


def to_number(n: float) -> float:
    return n


def to_times(n: float) -> Any:
    return lambda self, x: x * n


def to_alone(n: float) -> Any:
    return lambda x: x * n


HANDLES: list[Any] = []


def change_hook(register: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Registers one; the next time removes it; then registers it again."""

    def change(m: Any) -> None:
        if HANDLES:
            HANDLES.pop().remove()
        else:
            HANDLES.append(register(m))

    return change


def plus_three(module: Any, args: Any, out: Any) -> Any:
    return out + 3 if isinstance(module, nn.Linear) else None


def twice_before(module: Any, args: Any) -> Any:
    return tuple(a * 2 for a in args) if isinstance(module, nn.Linear) else None


all_modules = nn.modules.module


def new_code(m: Any) -> None:
    """As autoreload in a notebook does it: the same function with other code."""
    PATCHES.set(deep, "__code__", lambda n: (lambda x: helpers.first(x) * 2 + FACTOR).__code__)
    PATCHES.set(deep, "__code__", lambda n: (lambda x: helpers.first(x) * 3 - FACTOR).__code__)


def grow_buffer(m: Any) -> None:
    m.whole.resize_(5, 4)[4:] = 7


CHANGES: dict[str, Callable[[Any], Any]] = {
    # tensors that stay where they are
    "data is transposed": lambda m: set_data(m.lin.weight, m.lin.weight.data.t()),
    "data of a buffer is transposed": lambda m: set_data(m.square, m.square.data.t()),
    "data is a part of what it was": lambda m: set_data(m.whole, m.whole.data[:3]),
    "data moves in its storage": lambda m: set_data(m.whole, m.whole.data[1:]),
    "data is read as another type": lambda m: set_data(m.whole, m.whole.data.view(torch.float32)),
    "a buffer is transposed in place": lambda m: m.square.t_(),
    "a buffer gets another shape in place": lambda m: m.whole.as_strided_((3, 4), (4, 1)),
    "a buffer shrinks in place": lambda m: m.whole.resize_(2, 4),
    "a buffer grows in place": grow_buffer,
    "a buffer is set to other memory": lambda m: m.square.set_(m.square.clone() + 1),
    "a buffer is set to its own memory otherwise": lambda m: m.square.set_(
        m.square.untyped_storage(), 0, (4, 4), m.square.stride()[::-1]
    ),
    "a buffer is replaced by a view of itself": lambda m: setattr(m, "square", m.square.t()),
    "a table in a dataclass is transposed in place": lambda m: m.settings.table.t_(),
    "a table in a slotted dataclass is transposed in place": lambda m: m.slotted.table.t_(),
    "a memory's contents are written": lambda m: m.square.mul_(2),
    # parameters
    "parameters are tied": tie,
    "parameters are untied": untie,
    "a parametrization is registered and removed": parametrized,
    "a weight norm is added": lambda m: (
        parametrizations.weight_norm(m.tied) if not parametrize.is_parametrized(m.tied) else None
    ),
    "a layer is pruned": lambda m: prune.l1_unstructured(m.lin, "weight", amount=0.5),
    "a gradient is asked for": lambda m: m.lin.weight.requires_grad_(not m.lin.weight.requires_grad),
    "a class of a submodule is replaced": replaced_class,
    # attributes
    "a stride of a library's layer": lambda m: (
        setattr(m.conv, "dilation", (3,)) or setattr(m.conv, "padding", (3,))
    ),
    "a number of a library's layer": lambda m: setattr(m.flat, "dim", 0),
    "a mode of a library's layer": lambda m: setattr(m.conv, "padding_mode", "circular"),
    "a number in a dataclass": lambda m: setattr(m.settings, "gain", m.settings.gain + 1),
    "a tensor in a dataclass": lambda m: setattr(m.settings, "table", m.settings.table + 1),
    "a number in a slotted dataclass": lambda m: setattr(m.slotted, "gain", m.slotted.gain + 1),
    "a tensor in a slotted dataclass": lambda m: setattr(m.slotted, "table", m.slotted.table + 1),
    "a dataclass is replaced": lambda m: setattr(m, "settings", Settings(7.0, m.settings.table)),
    "a number in a namespace": lambda m: setattr(m.namespace, "gain", m.namespace.gain + 1),
    "an element of an array": lambda m: m.array.__iadd__(1),
    "a byte": lambda m: m.bytes.__setitem__(0, m.bytes[0] + 1),
    "a number in an array of Python": lambda m: m.numbers.__setitem__(0, m.numbers[0] + 1),
    "an object behind a weak reference": change_to(PARENT, "gain", to_number),
    "a dict behind a view that cannot be written": lambda m: PATCHES.patch.setitem(
        VIEWED, "a", VIEWED["a"] + 1
    ),
    "an element of a list": lambda m: m.listed.__setitem__(1, m.listed[1] + 1),
    "a tensor of a list": lambda m: m.listed.__setitem__(0, m.listed[0] + 1),
    "a list in a tuple": lambda m: m.pair[1].__setitem__(0, 5.0 + m.pair[1][0]),
    "a keyword of a partial": lambda m: setattr(m, "bound", functools.partial(torch.add, alpha=5)),
    "a keyword of a partial in place": lambda m: m.bound.keywords.update(alpha=m.bound.keywords["alpha"] + 1),
    "a table in a partial's argument": lambda m: m.partial.keywords["table"].update(t=rnd(4, seed=9)),
    "a member of a set": lambda m: m.names.symmetric_difference_update({"plus"}),
    "a set of the same size": lambda m: (m.names.clear(), m.names.add("minus")),
    # code
    "a method is patched on the instance": lambda m: setattr(m.part, "scale", lambda x: x * 7),
    "a method of the model itself is patched": lambda m: setattr(m, "fixed", lambda x: x * 9),
    "an attribute hides one of the class": lambda m: setattr(m, "unit", "half"),
    "a submodule's forward is reassigned": lambda m: setattr(m.part, "forward", lambda x: x * 7),
    "a method is patched on the class": change_to(Part, "scale", to_times),
    "a forward is patched on the class": change_to(Part, "forward", to_times),
    "the model's own forward helper is patched": change_to(
        Model, "fixed", lambda n: staticmethod(to_alone(n))
    ),
    "a property is patched on the class": change_to(Model, "factor", lambda n: property(lambda self: n)),
    "a method of a helper class is patched": change_to(Shift, "by", to_times),
    "a library's forward is patched": change_to(nn.Linear, "forward", to_times),
    "a function of the library is patched": change_to(F, "relu", to_alone),
    "a helper in another module is patched": change_to(helpers, "first", to_alone),
    "a helper of a helper is patched": change_to(helpers, "second", to_alone),
    "a helper far below is patched": change_to(helpers, "fourth", to_alone),
    "a helper in a module of a module is patched": change_to(inner, "bend", to_alone),
    "a function gets other code": new_code,
    "defaults of a function": change_to(by_default, "__defaults__", lambda n: (n, {"a": 2.0})),
    "a default argument in place": lambda m: PATCHES.patch.setitem(by_default.__defaults__[1], "a", 9.0),
    "an attribute of a function": change_to(counted, "gain", to_number),
    # class and global state
    "a number of a class": change_to(Shift, "amount", to_number),
    "a string of a class": change_to(Model, "unit", lambda n: "half"),
    "an object of a class": change_to(Model.shift, "amount", to_number),
    "a global number": change_to(sys.modules[__name__], "FACTOR", to_number),
    "a global of a method whose name is put together": change_to(sys.modules[__name__], "PLAN", to_number),
    "a global tensor": change_to(sys.modules[__name__], "TABLE", lambda n: rnd(4, 4) * n),
    "a global tensor in place": lambda m: TABLE.t_(),
    "a global far below": change_to(helpers, "LEVEL", to_number),
    "a context variable": lambda m: SETTING.set(SETTING.get() + 1),
    "a thread's own number": lambda m: setattr(LOCAL, "level", getattr(LOCAL, "level", 0.0) + 1),
    # hooks
    "a hook of a submodule": change_hook(lambda m: m.lin.register_forward_hook(plus_three)),
    "a hook before a submodule": change_hook(lambda m: m.lin.register_forward_pre_hook(twice_before)),
    "a hook of the module": change_hook(lambda m: m.register_forward_hook(lambda mod, args, out: out + 3)),
    "a hook of all modules": change_hook(lambda m: all_modules.register_module_forward_hook(plus_three)),
    "a hook before all modules": change_hook(
        lambda m: all_modules.register_module_forward_pre_hook(twice_before)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.no_grad()
def test_a_replay_is_never_stale_when(change: Callable[[Any], Any]) -> None:
    PATCHES.set(sys.modules[__name__], "TABLE", lambda n: rnd(4, 4))
    module = Model().cuda().eval()
    wrapper = graphed(module)
    try:
        for i in range(2):
            for k in range(2):
                x = rnd(4, 4, seed=10 * i + k)
                same(wrapper(x), module(x))
            assert wrapper.stats()["replays"] > 0 or i, wrapper.stats()
            try:
                change(module)
                module(rnd(4, 4))
            except (RuntimeError, ValueError):
                break  # the change itself cannot be made twice
        x = rnd(4, 4, seed=99)
        same(wrapper(x), module(x))
    finally:
        PATCHES.patch.undo()
        SETTING.set(1.0)
        LOCAL.__dict__.clear()
        while HANDLES:
            HANDLES.pop().remove()


# ---------------------------------------------------------------------- what cannot be seen from outside


class Drawing(nn.Module):
    """Holds things that move on by themselves."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.random, self.array = random.Random(3), np.random.default_rng(3)
        self.old = np.random.RandomState(3)
        self.count = itertools.count()
        self.each = (float(n) for n in range(100))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(getattr(self, "by_" + self.kind)())

    def by_random(self) -> float:
        return self.random.random()

    def by_array(self) -> float:
        return self.array.random()

    def by_old(self) -> float:
        return self.old.rand()

    def by_count(self) -> float:
        return next(self.count)

    def by_each(self) -> float:
        return next(self.each)


@pytest.mark.parametrize("kind", ["random", "array", "old", "count", "each"])
@torch.no_grad()
def test_what_moves_on_with_every_call_is_moved_on_by_every_call(kind: str) -> None:
    plain, wrapper = Drawing(kind), graphed(Drawing(kind))
    for i in range(6):
        x = rnd(3, seed=i)
        same(wrapper(x), plain(x))


@torch.no_grad()
def test_a_number_in_cpu_memory_is_followed_however_it_is_written() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.tensor(2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    module = Held()
    wrapper = graphed(module)
    changes: list[Callable[[], Any]] = [
        lambda: module.scale.fill_(3.0),
        lambda: module.scale.data.fill_(4.0),
        lambda: module.scale.numpy().fill(5.0),
        lambda: setattr(module.scale, "data", torch.tensor(6.0)),
    ]
    for change in changes:
        for i in range(3):
            x = rnd(3, seed=i)
            same(wrapper(x), module(x))
        change()
    same(wrapper(rnd(3)), module(rnd(3)))
    assert wrapper.stats()["replays"] > 0


def trained(wrap: Callable[[Any], Any], change: Callable[[Any], Any]) -> list[Any]:
    """Gradients of a training step, with a change after some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).cuda()

    def step(x: torch.Tensor) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        loss = model(x).square().mean()
        loss.backward()
        return loss.detach()

    run, found = wrap(step), []
    for i in range(9):
        if i in (4, 7):
            change(model)
        found.append([run(rnd(3, 4, seed=i)), *(p.grad for p in model.parameters())])
    return found


IN_TRAINING: dict[str, Callable[[Any], Any]] = {
    "a layer is frozen and thawed": lambda m: m[0].requires_grad_(not m[0].weight.requires_grad),
    "a hook of a parameter": change_hook(lambda m: m[0].weight.register_hook(lambda g: g * 2)),
    "a hook after accumulation": change_hook(
        lambda m: m[0].weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", p.grad * 3))
    ),
    "a hook of a backward": change_hook(
        lambda m: m[0].register_full_backward_hook(lambda mod, gi, go: (gi[0],))
    ),
    "a weight is transposed": lambda m: set_data(m[0].weight, m[0].weight.data.t()),
}


@pytest.mark.parametrize("change", IN_TRAINING.values(), ids=IN_TRAINING.keys())
def test_a_training_step_is_never_stale_when(change: Callable[[Any], Any]) -> None:
    wrapped: list[Any] = []

    def wrap(step: Any) -> Any:
        wrapped.append(graphed(step))
        return wrapped[0]

    try:
        want = trained(lambda step: step, change)
        while HANDLES:
            HANDLES.pop().remove()
        got = trained(wrap, change)
    finally:
        while HANDLES:
            HANDLES.pop().remove()
    same(got, want)
    assert wrapped[0].stats()["replays"] > 0


def test_tensors_that_come_to_need_a_gradient_are_given_one() -> None:
    weight = rnd(4, 4)
    wrapper = graphed(lambda x: x @ weight)
    for i in range(3):
        assert not wrapper(rnd(2, 4, seed=i)).requires_grad
    weight.requires_grad_()
    wrapper(rnd(2, 4)).sum().backward()
    assert weight.grad is not None


@torch.no_grad()
def test_a_segment_follows_what_its_methods_name_and_keeps_its_graphs_otherwise() -> None:
    class Service(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.calls, self.gain = nn.Linear(4, 4), 0, 1.0

        def scaled(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gain

        @segment
        def run(self, x: torch.Tensor) -> torch.Tensor:
            return self.scaled(self.core(x))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.run(x)

    module = Service().cuda()
    changes: list[Callable[[], Any]] = [
        lambda: setattr(module, "gain", 3.0),
        lambda: module.core.weight.t_(),
        lambda: setattr(Service, "scaled", lambda self, x: x - self.gain),
        lambda: setattr(module, "scaled", lambda x: x + 1),
        lambda: None,
    ]
    for change in changes:
        for i in range(4):
            x = rnd(2, 4, seed=i)
            same(module(x), module.scaled(module.core(x)))
        change()
    (runner,) = vars(module)["_cuda_graphs"].made.values()
    assert runner.stats()["replays"] >= 10


@torch.no_grad()
def test_a_default_device_selects_the_graph() -> None:
    wrapper = graphed(lambda x: x + (1 if torch.zeros(1).is_cuda else 2))
    x = rnd(2)
    for _ in range(3):
        same(wrapper(x), x + 2)
        with torch.device("cuda"):
            same(wrapper(x), x + 1)
    assert wrapper.stats()["graphs"] == 2
