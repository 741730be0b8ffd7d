"""What a caller of `graphed` and `segment` may rely on; on a GPU, or emulated where there is none."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import random
import threading
import types
import warnings
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from refactor.runtime import cuda_graphs
from refactor.runtime.cuda_graphs import graphed, segment

pytestmark = pytest.mark.usefixtures("device")


def rnd(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def mlp(dim: int = 8, out: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, out)).cuda().eval()


def replays(wrapper: Any) -> int:
    return int(wrapper.stats()["replays"])


def graphs(wrapper: Any) -> int:
    return int(wrapper.stats()["graphs"])


def reasons(wrapper: Any) -> str:
    return " / ".join(wrapper.stats()["eager"])


def follows(plain: Callable[..., Any], wrapper: Any, calls: list[tuple[Any, ...]]) -> None:
    """Both give the same results over a sequence of calls, also when looked at only afterwards."""
    want, got = [], []
    for args in calls:
        want.append(plain(*copy.deepcopy(args)))
        got.append(wrapper(*copy.deepcopy(args)))
    same(got, want)


# ------------------------------------------------------------------------------------------------ results


@torch.inference_mode()
def test_every_shape_gets_its_graph_and_results_survive_later_calls() -> None:
    model = mlp()
    wrapper = graphed(model)
    follows(model, wrapper, [(rnd(n, 8, seed=i),) for i, n in enumerate((3, 5, 3, 5, 5, 3))])
    assert (graphs(wrapper), replays(wrapper)) == (2, 4)


@torch.inference_mode()
def test_results_without_clone_are_the_memory_of_the_graph() -> None:
    wrapper = graphed(mlp(), clone=False)
    wrapper(rnd(2, 8))
    a, b = wrapper(rnd(2, 8, seed=1)), wrapper(rnd(2, 8, seed=2))
    assert a.data_ptr() == b.data_ptr()


Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Record:
    value: torch.Tensor
    note: str
    parts: dict[str, Any]


@torch.inference_mode()
def test_trees_of_arguments_and_results_keep_their_types() -> None:
    def fn(pair: Any, record: Any, *, extra: Any) -> Any:
        total = pair.left + pair.right + record.value + extra["a"][0]
        return Record(total, record.note, OrderedDict(z=[total * 2, None], a=(Pair(total + 1, 3),)))

    wrapper = graphed(fn)
    for i in range(3):
        args = (Pair(rnd(3, seed=i), rnd(3, seed=i + 9)), Record(rnd(3, seed=i + 5), "n", {}))
        want = fn(*args, extra={"a": [rnd(3, seed=i)]})
        got = wrapper(*args, extra={"a": [rnd(3, seed=i)]})
        assert type(got) is Record
        assert type(got.parts) is OrderedDict
        assert list(got.parts) == ["z", "a"]
        assert type(got.parts["a"][0]) is Pair
        same(
            (got.value, got.parts["z"][0], got.parts["a"][0].left),
            (want.value, want.parts["z"][0], want.value + 1),
        )
    assert replays(wrapper) == 2


@torch.inference_mode()
def test_an_unknown_object_as_result_means_plain_code() -> None:
    class Box:
        def __init__(self, value: torch.Tensor) -> None:
            self.value = value

    wrapper = graphed(lambda x: Box(x + 1))
    with pytest.warns(RuntimeWarning, match="cannot be taken apart"):
        wrapper(rnd(2))
    for i in range(2):
        same(wrapper(rnd(2, seed=i)).value, rnd(2, seed=i) + 1)
    assert graphs(wrapper) == 0


@torch.inference_mode()
def test_aliasing_of_results_and_arguments_is_that_of_the_code() -> None:
    def fn(x: torch.Tensor, y: torch.Tensor) -> Any:
        h = x * 2
        return h, h, h[:, 0], h.t(), x, y[1:], x + y

    wrapper = graphed(fn)
    for i in range(3):
        x, y = rnd(3, 4, seed=i), rnd(3, 4, seed=i + 7)
        a, b, c, d, e, f, _ = got = wrapper(x, y)
        same(got, fn(x, y))
        assert a is b
        assert e is x
        assert [t.stride() for t in got] == [t.stride() for t in fn(x, y)]
        a.zero_()
        assert not c.any()
        assert not d.any()
        f.fill_(5)
        assert (y[1:] == 5).all()
    assert replays(wrapper) == 2


@torch.inference_mode()
def test_arguments_changed_in_place_are_changed_for_the_caller() -> None:
    def fn(x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        state.mul_(0.5).add_(x)
        return torch.tanh(state)

    wrapper = graphed(fn)
    ours, theirs = rnd(3, 4), rnd(3, 4)
    for i in range(4):
        same(wrapper(rnd(3, 4, seed=i), ours), fn(rnd(3, 4, seed=i), theirs))
        same(ours, theirs)
    assert replays(wrapper) == 3
    both = rnd(3, 4)
    other = both.clone()
    same(wrapper(both, both), fn(other, other))
    same(both, other)


def cache_step(x: torch.Tensor, cache: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache.index_copy_(0, at, x)
    return cache.sum(0)


def in_place(wrapper: Any) -> list[int]:
    """Replays of each graph that uses an argument where it is, and of each that copies."""
    found = wrapper._cg_runner.graphs.values()
    return [sum(g.replays for g in found if bool(g.placed) is placed) for placed in (True, False)]


@torch.inference_mode()
def test_a_cache_passed_as_an_argument_is_used_where_it_is_and_another_one_is_copied() -> None:
    wrapper = graphed(cache_step)
    caches = [torch.zeros(8, 4, device="cuda") for _ in range(4)]
    for n, which in enumerate((0, 0, 0, 1, 1, 0, 0)):
        ours, theirs = caches[which], caches[which + 2]
        at = torch.tensor([n], device="cuda")
        same(wrapper(rnd(1, 4, seed=n), ours, at), cache_step(rnd(1, 4, seed=n), theirs, at))
        same(ours, theirs)
    assert in_place(wrapper) == [4, 1]


@torch.inference_mode()
def test_a_cache_for_each_request_soon_needs_no_new_graphs_wherever_it_lies() -> None:
    wrapper = graphed(cache_step)
    kept = []
    for n in range(200):
        if n % 10 == 0:
            kept.append((torch.zeros(8, 4, device="cuda"), torch.zeros(8, 4, device="cuda")))
        ours, theirs = kept[-1]
        at = torch.tensor([n % 8], device="cuda")
        same(wrapper(rnd(1, 4, seed=n), ours, at), cache_step(rnd(1, 4, seed=n), theirs, at))
        assert graphs(wrapper) <= 2
    for ours, theirs in kept:
        same(ours, theirs)


@torch.inference_mode()
def test_a_graph_does_not_keep_the_cache_of_a_request_so_that_the_next_one_can_be_in_its_place() -> None:
    wrapper = graphed(cache_step)
    at = torch.tensor([1], device="cuda")
    for n in range(12):
        cache = torch.zeros(8, 4, device="cuda")
        gone = weakref.ref(cache.untyped_storage())
        for i in range(3):
            want = torch.zeros(8, 4, device="cuda")
            same(wrapper(rnd(1, 4, seed=n + i), cache, at), cache_step(rnd(1, 4, seed=n + i), want, at))
        del cache
        assert gone() is None
    assert graphs(wrapper) <= 3


@torch.inference_mode()
def test_parts_of_one_cache_are_used_where_they_are_together() -> None:
    halves = torch.zeros(2, 8, 4, device="cuda")
    want = torch.zeros(2, 8, 4, device="cuda")

    def two(x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k.add_(x)
        v.add_(2 * x)
        return k + v

    wrapper = graphed(two)
    for i in range(4):
        same(wrapper(rnd(4, seed=i), halves[0], halves[1]), two(rnd(4, seed=i), want[0], want[1]))
        same(halves, want)
    assert replays(wrapper) == 3


@torch.inference_mode()
def test_an_argument_that_is_also_an_attribute_is_one_memory() -> None:
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("state", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.add_(1)
            return self.state * 2

    module, plain = Memory().cuda(), Memory().cuda()
    wrapper = graphed(module)
    for i in range(4):
        other, theirs = rnd(4, seed=i), rnd(4, seed=i)
        same(wrapper(other), plain(theirs))
        same(wrapper(module.state), plain(plain.state))
        same(module.state, plain.state)


@torch.inference_mode()
def test_an_argument_that_overlaps_one_changed_in_place_sees_the_change() -> None:
    def fn(x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        state.mul_(0.5)
        return x + 1

    wrapper = graphed(fn)
    for i in range(3):
        same(wrapper(rnd(3, 4), rnd(3, 4, seed=i)), fn(rnd(3, 4), rnd(3, 4, seed=i)))
        base, copied = rnd(4, 4, seed=i), rnd(4, 4, seed=i)
        same(wrapper(base[1:], base[:3]), fn(copied[1:], copied[:3]))
        same(base, copied)
    assert 1 <= replays(wrapper) <= 2  # whether memory that was freed is allocated again is not up to us


@torch.inference_mode()
def test_views_expanded_and_strided_arguments_are_read_right() -> None:
    wrapper = graphed(lambda x, y: (x.contiguous() + y, x.stride()))
    for i in range(3):
        base = rnd(4, 6, seed=i)
        for x, y in ((base.t(), base.t()), (base[:1].expand(3, 6), base[0]), (base[:, ::2], base[:, 1::2])):
            got, stride = wrapper(x, y)
            same(got, x + y)
            assert stride == x.stride()
    assert replays(wrapper) == 6


@torch.inference_mode()
def test_a_buffer_or_parameter_as_result_is_the_object_itself() -> None:
    model = mlp()

    def fn(x: torch.Tensor) -> Any:
        return model[0].weight, model(x)

    wrapper = graphed(fn)
    for i in range(3):
        assert wrapper(rnd(2, 8, seed=i))[0].data_ptr() == model[0].weight.data_ptr()
    assert replays(wrapper) == 2


def test_an_exception_of_the_code_is_raised_as_it_is() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            if n == 3:
                raise KeyError("three")
            return x * n

    wrapper = graphed(Picky())
    for n in (1, 2, 3, 1, 3):
        if n == 3:
            with pytest.raises(KeyError, match="three"):
                wrapper(rnd(2), n)
        else:
            same(wrapper(rnd(2), n), rnd(2) * n)


# ------------------------------------------------------------------------------------------------ keys


@torch.inference_mode()
@pytest.mark.parametrize("size", [torch.Size, range, slice], ids=["a size", "a range", "a slice"])
def test_immutable_values_made_anew_at_every_call_find_the_same_graph(size: Any) -> None:
    def fn(x: torch.Tensor, what: Any) -> torch.Tensor:
        if isinstance(what, slice):
            return x[what] * 2
        return x.view(what) * 2 if isinstance(what, torch.Size) else x[what.start :] * 2

    def made() -> Any:
        return size((3, 4)) if size is torch.Size else size(1, 2)

    wrapper = graphed(fn)
    for i in range(4):
        same(wrapper(rnd(4, 3, seed=i), made()), fn(rnd(4, 3, seed=i), made()))
    assert graphs(wrapper) == 1
    assert replays(wrapper) == 3


@torch.inference_mode()
def test_an_object_that_is_new_at_every_call_is_not_recorded_for_ever() -> None:
    class Setting:
        factor = 2.0

    def fn(x: torch.Tensor, setting: Setting) -> torch.Tensor:
        return x * setting.factor

    wrapper = graphed(fn)
    for i in range(20):
        same(wrapper(rnd(4, seed=i), Setting()), rnd(4, seed=i) * 2)
    assert wrapper.stats()["eager"]["recording"] <= 8
    assert "new object at every call" in reasons(wrapper)


@torch.inference_mode()
def test_scalars_of_equal_value_but_other_type_are_other_keys() -> None:
    def fn(x: torch.Tensor, s: Any) -> torch.Tensor:
        return x + (1 if isinstance(s, bool) else 2 if isinstance(s, int) else 3) + torch.full_like(x, s)

    wrapper = graphed(fn)
    follows(fn, wrapper, [(rnd(2), s) for s in (1, True, 1.0, 1, True, 1.0, 0.0, -0.0)])
    copysign = graphed(lambda x, s: torch.copysign(x, torch.full_like(x, s)))
    assert [copysign(torch.ones(1, device="cuda"), s).item() for s in (0.0, -0.0, 0.0, -0.0)] == [
        1,
        -1,
        1,
        -1,
    ]


@torch.inference_mode()
def test_a_scalar_that_never_settles_runs_eagerly_and_is_named() -> None:
    wrapper = graphed(lambda x, temperature: x / temperature)
    with pytest.warns(RuntimeWarning, match="temperature"):  # noqa: PT031
        for i in range(1, 30):
            same(wrapper(rnd(2), i / 3), rnd(2) / (i / 3))
    assert graphs(wrapper) == 8
    same(wrapper(rnd(2), 1 / 3), rnd(2) / (1 / 3))


@torch.inference_mode()
def test_a_module_that_branches_on_identical_arguments_sees_them_identical() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).cuda().eval()
    wrapper = graphed(attention)
    for i in range(2):
        x, y = rnd(2, 3, 8, seed=i), rnd(2, 5, 8, seed=i + 4)
        same(wrapper(x, x, x), attention(x, x, x))
        same(wrapper(x, y, y), attention(x, y, y))
    assert (graphs(wrapper), replays(wrapper)) == (2, 2)


def test_modes_select_graphs() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).cuda()
    wrapper = graphed(model)
    x = rnd(4, 8)
    assert wrapper(x).requires_grad
    for _ in range(2):
        with torch.no_grad():
            assert not wrapper.train()(x).is_inference()
            same(wrapper.eval()(x), model[0](x))
        with torch.inference_mode():
            assert wrapper(x).is_inference()
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            assert wrapper(x).dtype == torch.bfloat16
    assert wrapper(x).requires_grad
    assert graphs(wrapper) == 4
    assert replays(wrapper) == 4


@torch.inference_mode()
def test_more_shapes_than_max_graphs_are_right_in_any_order() -> None:
    model = mlp()
    wrapper = graphed(model, max_graphs=2)
    draw = random.Random(0)
    for i in range(40):
        n = draw.choice((1, 2, 3, 4))
        same(wrapper(rnd(n, 8, seed=i)), model(rnd(n, 8, seed=i)))
    assert graphs(wrapper) == 2
    assert replays(wrapper) > 5


# ------------------------------------------------------------------------------------------------ state


def counter(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    return x * min(1.0, self.calls / 10)


def appender(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.log.append(x.shape[0])
    return x + len(self.log)


def keeper(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.last = x + self.calls
    return self.last * 2


def host_random(self: Any, x: torch.Tensor) -> torch.Tensor:
    return x * random.random()


def cpu_random(self: Any, x: torch.Tensor) -> torch.Tensor:
    return x * float(torch.rand(()))


def printer(self: Any, x: torch.Tensor) -> torch.Tensor:
    print("called")
    return x + 1


def cpu_writer(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.host.add_(1)
    return x + self.host


@pytest.mark.parametrize("body", [counter, appender, keeper, host_random, cpu_random, printer, cpu_writer])
def test_host_state_that_changes_with_every_call_means_plain_code(body: Any, capsys: Any) -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.log: list[int] = []
            self.last = None
            self.host = torch.zeros(())

        forward = body

    random.seed(3)
    torch.manual_seed(3)
    plain = Stateful()
    with torch.no_grad():
        want = [plain(rnd(3, seed=i)) for i in range(5)]
    shown = capsys.readouterr().out
    random.seed(3)
    torch.manual_seed(3)
    module = Stateful()
    wrapper = graphed(module)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="runs eagerly"):
        same([wrapper(rnd(3, seed=i)) for i in range(5)], want)
    assert (module.calls, module.log, float(module.host)) == (plain.calls, plain.log, float(plain.host))
    assert replays(wrapper) == 0
    assert capsys.readouterr().out == shown


COUNT = 0


def test_counters_in_globals_closures_and_classes_count_every_call_once() -> None:
    calls = 0

    class Counted:
        total = 0

        def by_class(self, x: torch.Tensor) -> torch.Tensor:
            Counted.total += 1
            return x * Counted.total

    def by_closure(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x * calls

    def by_global(x: torch.Tensor) -> torch.Tensor:
        global COUNT
        COUNT += 1
        return x * COUNT

    for fn in (by_closure, by_global, Counted().by_class):
        wrapper = graphed(fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in range(1, 15):
                same(wrapper(rnd(2, seed=i)), rnd(2, seed=i) * i)
    assert (calls, COUNT, Counted.total) == (14, 14, 14)


def test_counters_in_other_modules_and_deep_helpers_count_every_call_once(monkeypatch: Any) -> None:
    module: Any = types.ModuleType("bookkeeping_of_a_user")
    exec("calls = 0\ndef note():\n    global calls\n    calls += 1\n    return calls", vars(module))
    monkeypatch.setitem(globals(), "bookkeeping", module)

    def attribute(x: torch.Tensor) -> torch.Tensor:
        bookkeeping.calls += 1  # noqa: F821
        return x * bookkeeping.calls  # noqa: F821

    for fn in (attribute, lambda x: x * bookkeeping.note()):  # noqa: F821
        module.calls = 0
        wrapper = graphed(fn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i in range(1, 8):
                same(wrapper(rnd(2, seed=i)), rnd(2, seed=i) * i)
        assert module.calls == 7


def test_a_cache_made_by_the_first_call_is_no_obstacle() -> None:
    class Lazy(nn.Module):
        table: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.table is None:
                self.table = torch.arange(4, device=x.device) * 0.5
            return x + self.table

    wrapper = graphed(Lazy())
    follows(Lazy(), wrapper, [(rnd(2, 4, seed=i),) for i in range(5)])
    assert replays(wrapper) == 3  # the first call sets up, the second is recorded


def test_code_that_settles_after_some_calls_gets_its_graph_then() -> None:
    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.step = min(self.step + 1, 9)
            return x * self.step

    plain, module = Ramp(), Ramp()
    wrapper = graphed(module)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="self.step changes"):  # noqa: PT031
        for i in range(40):
            same(wrapper(rnd(2, seed=i)), plain(rnd(2, seed=i)))
    assert module.step == 9
    assert replays(wrapper) > 20


def test_running_statistics_and_random_numbers_are_those_of_plain_calls() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)).cuda()
    module = copy.deepcopy(plain)
    wrapper = graphed(module)
    with torch.no_grad():
        torch.manual_seed(5)
        want = [plain(rnd(6, 8, seed=i)) for i in range(5)]
        torch.manual_seed(5)
        got = [wrapper(rnd(6, 8, seed=i)) for i in range(5)]
        drawn = torch.rand(3, device="cuda")
    same(got, want)
    same(dict(module.state_dict()), dict(plain.state_dict()))
    torch.manual_seed(5)
    with torch.no_grad():
        for i in range(5):
            plain(rnd(6, 8, seed=i))
    same(torch.rand(3, device="cuda"), drawn)
    assert replays(wrapper) == 4


def test_a_generator_of_the_users_own_advances_as_in_plain_calls() -> None:
    def make() -> Any:
        generator = torch.Generator("cuda").manual_seed(1)
        return lambda x: x + torch.rand(x.shape, device=x.device, generator=generator)

    wrapper = graphed(make())
    follows(make(), wrapper, [(rnd(3, seed=i),) for i in range(5)])
    assert replays(wrapper) == 4


SCALE = 1.0


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.0)
        self.gain = 2.0
        self.table = torch.ones(4, device="cuda")
        self.config = {"shift": 0.5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.lin(x)) * self.gain * SCALE + self.table + self.config["shift"]


def assign(m: Any) -> None:
    m.load_state_dict({k: v.clone() + 1 for k, v in m.state_dict().items()}, assign=True)


def rescale(m: Any) -> None:
    global SCALE
    SCALE += 1.0


def change_data(m: Any) -> None:
    m.lin.weight.data = m.lin.weight.data.clone() * 2


def change_in_place(m: Any) -> None:
    m.lin.weight.data.mul_(2)


def new_submodule(m: Any) -> None:
    m.lin = nn.Linear(4, 4, device="cuda")


def new_parameter(m: Any) -> None:
    m.lin.bias = nn.Parameter(torch.full((4,), 7.0, device="cuda"))


def forward_hook(m: Any) -> None:
    m.lin.register_forward_hook(lambda module, args, out: out + 3)


def patched_forward(m: Any) -> None:
    m.lin.forward = lambda x: x * 3


CHANGES = {
    "parameters are reloaded by assignment": assign,
    "a global number changes": rescale,
    "a parameter's data is replaced": change_data,
    "a parameter's data is written": change_in_place,
    "a submodule is replaced": new_submodule,
    "a parameter is replaced": new_parameter,
    "a hook is added": forward_hook,
    "a submodule's forward is patched": patched_forward,
    "a number attribute changes": lambda m: setattr(m, "gain", m.gain + 1),
    "a tensor attribute is replaced": lambda m: setattr(m, "table", m.table + 1),
    "an entry of a dict changes": lambda m: m.config.update(shift=9.0),
    "a dropout is turned up": lambda m: setattr(m.drop, "p", 1.0),
    "the module is cast": lambda m: m.double().float(),
    "training is switched on": lambda m: m.train(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@torch.no_grad()
def test_nothing_stale_is_replayed_when(change: Callable[[Any], Any]) -> None:
    module = Scaled().cuda().eval()
    wrapper = graphed(module)
    x = rnd(3, 4)
    for _ in range(3):
        for _ in range(3):
            same(wrapper(x), module(x))
        change(module)
    same(wrapper(x), module(x))
    assert replays(wrapper) > 0


@torch.no_grad()
def test_switching_between_training_and_evaluation_records_each_once() -> None:
    module = Scaled().cuda()
    wrapper = graphed(module)
    for _ in range(5):
        wrapper.train()(rnd(3, 4))
        wrapper.eval()(rnd(3, 4))
    assert (graphs(wrapper), replays(wrapper)) == (2, 8)


@torch.no_grad()
def test_a_guarded_attribute_selects_the_graph() -> None:
    class Odd:
        __slots__ = ("level",)

    class Guarded(nn.Module):
        odd = Odd()  # a class attribute with slots: out of sight

        @segment(guard="odd.level")
        def scaled(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.odd.level

    module = Guarded()
    for level in (1, 2, 1, 3, 2):
        module.odd.level = level
        same(module.scaled(rnd(2)), rnd(2) * level)


# ------------------------------------------------------------------------------------------------ failure


class Reader(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sum().item()


@torch.no_grad()
def test_code_that_reads_the_device_runs_eagerly_and_its_line_is_named() -> None:
    wrapper = graphed(Reader())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(3):
            same(wrapper(rnd(3, seed=i)), Reader()(rnd(3, seed=i)))
    ours = [w for w in caught if "runs eagerly" in str(w.message)]
    assert len(ours) == 1
    assert "x.sum().item()" in str(ours[0].message)
    assert ours[0].filename == __file__
    other = graphed(mlp())
    follows(mlp(), other, [(rnd(2, 8, seed=i),) for i in range(3)])
    assert replays(other) == 2


@torch.no_grad()
def test_cpu_tensors_and_subclasses_run_the_code_itself() -> None:
    class Sub(torch.Tensor):
        pass

    wrapper = graphed(lambda x: x + 1)
    assert wrapper(torch.zeros(2)).tolist() == [1, 1]
    assert type(wrapper(torch.zeros(2).as_subclass(Sub))) is Sub
    assert graphs(wrapper) == 0


def test_under_autograd_a_module_is_plain_code() -> None:
    model = mlp()
    wrapper = graphed(model)
    x = rnd(2, 8).requires_grad_()
    wrapper(x).sum().backward()
    assert x.grad is not None
    assert graphs(wrapper) == 0
    function = graphed(lambda x: model(x))
    function(rnd(2, 8)).sum().backward()
    assert graphs(function) == 0


# ------------------------------------------------------------------------------------------------ wrappers


@torch.no_grad()
def test_copies_and_pickles_of_a_graphed_module_work_and_share_nothing() -> None:
    model = mlp()
    keys = list(model.state_dict())
    wrapper = graphed(model)
    assert graphed(model) is wrapper
    assert graphed(model, clone=False) is not wrapper
    for i in range(2):
        wrapper(rnd(2, 8, seed=i))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
    same(graphed(twin)(rnd(2, 8)), twin(rnd(2, 8)))
    same(wrapper(rnd(2, 8)), model(rnd(2, 8)))
    assert list(model.state_dict()) == keys
    assert wrapper.state_dict().keys() == model.state_dict().keys()
    assert pickle.loads(pickle.dumps(wrapper.state_dict())).keys() == model.state_dict().keys()
    file = io.BytesIO()
    torch.save(model, file)
    assert b"cuda_graphs" not in file.getvalue().replace(b"_cuda_graphs", b"")
    assert [n for n in vars(model) if not n.startswith("_")] == ["training"]
    assert graphs(copy.deepcopy(wrapper)) == 0


@torch.no_grad()
def test_segments_belong_to_their_instance() -> None:
    class Part(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(gain))

        @segment
        def scaled(self, x: torch.Tensor) -> torch.Tensor:
            """Docs stay."""
            return x * self.gain

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scaled(x) + 1

    a, b = Part(2.0).cuda(), Part(3.0).cuda()
    for i in range(3):
        same(a(rnd(2, seed=i)), rnd(2, seed=i) * 2 + 1)
        same(b(rnd(2, seed=i)), rnd(2, seed=i) * 3 + 1)
        same(copy.deepcopy(b)(rnd(2, seed=i)), rnd(2, seed=i) * 3 + 1)
    assert Part.scaled.__doc__ == "Docs stay."
    whole = graphed(a)
    for i in range(3):
        same(whole(rnd(2, seed=i)), rnd(2, seed=i) * 2 + 1)
    assert replays(whole) == 2


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 4)

    @segment
    def _stem(self, x: torch.Tensor) -> Any:
        h = self.stem(x)
        return h, h.mean() > 0

    @segment
    def _a(self, h: torch.Tensor) -> torch.Tensor:
        return self.a(torch.relu(h)).softmax(-1)

    @segment
    def _b(self, h: torch.Tensor) -> torch.Tensor:
        return self.b(h * 2).sum(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, positive = self._stem(x)
        return self._a(h) if positive else self._b(h)


def plain_router(router: Any, x: torch.Tensor) -> torch.Tensor:
    h = router.stem(x)
    return router.a(torch.relu(h)).softmax(-1) if h.mean() > 0 else router.b(h * 2).sum(0)


@torch.inference_mode()
def test_alternating_branches_share_a_pool_and_stay_right() -> None:
    router = Router().cuda()
    kept = []
    for i in range(24):
        x = rnd(2 + i % 3, 8, seed=i) * 3
        kept.append((router(x), plain_router(router, x)))
    same([a for a, _ in kept], [b for _, b in kept])


@torch.inference_mode()
def test_concurrent_callers_get_their_own_results() -> None:
    model = mlp()
    wrapper = graphed(model, pad="B ...")
    inputs = [rnd(1 + i % 7, 8, seed=i) for i in range(40)]
    want = [model(x) for x in inputs]
    wrong: list[int] = []

    def work(part: int) -> None:
        stream = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(stream):
            got = {i: wrapper(inputs[i]) for i in range(part, 40, 4)}
            wrong.extend(i for i, t in got.items() if not torch.allclose(t, want[i], rtol=1e-4, atol=1e-5))

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert replays(wrapper) > 10


@torch.inference_mode()
def test_reset_forgets_and_stats_count() -> None:
    wrapper = graphed(mlp())
    for _ in range(3):
        wrapper(rnd(2, 8))
    assert wrapper.stats()["eager"] == {"recording": 1}
    wrapper.reset()
    assert (graphs(wrapper), replays(wrapper)) == (0, 0)
    same(wrapper(rnd(2, 8)), wrapper(rnd(2, 8)))


@pytest.mark.parametrize("pad", ["B B", "... ...", "1x", {"x": 3}])
def test_a_pad_that_cannot_be_read_is_refused_at_once(pad: Any) -> None:
    with pytest.raises(ValueError, match="pad"):
        graphed(mlp(), pad=pad)


def test_buckets_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="positive"):
        graphed(mlp(), pad="B ...", buckets=[0, 4])
    with pytest.raises(TypeError, match="module or a function"):
        graphed(3)


def test_after_a_failed_capture_graphs_still_work_elsewhere() -> None:
    assert not cuda_graphs._broken


class Counting(nn.Module):
    """Advances host state beside its segment; some of it is read in there."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(8, 8)
        self.calls, self.gain, self.hidden = 0, 1.0, 0
        self.last: Any = None

    def scale(self) -> float:
        return self.gain

    @segment
    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * self.scale()

    @segment
    def ask(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) * getattr(self, "hid" + "den")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.run(x)
        return self.last


def test_attributes_that_a_segment_does_not_name_may_change_at_every_call() -> None:
    model = Counting()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            x = rnd(2, 8, seed=seed)
            same(model(x), model.body(x))
    (runner,) = model._cuda_graphs.made.values()  # type: ignore[union-attr]
    assert replays(runner) == 19
    assert model.calls == 20


def test_an_attribute_that_a_helper_names_or_that_is_asked_for_by_string_is_seen() -> None:
    model = Counting()
    with torch.no_grad():
        for seed in range(6):
            model.gain, model.hidden = float(seed // 3), seed // 2
            x = rnd(2, 8, seed=seed)
            same(model(x), model.body(x) * model.gain)
            same(model.ask(x), model.body(x) * model.hidden)
