"""What a target holds without being a module, what it hands out later, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
from refactor.verify.worker import held, holdings, leaving, observe  # noqa: E402
from refactor.verify.worker.judge import Trace, compare, read, write  # noqa: E402
from refactor.verify.worker.observe import Recorder, plain  # noqa: E402
from refactor.verify.worker.results import settled  # noqa: E402
from refactor.verify.worker.trees import Subject  # noqa: E402
from torch import nn  # noqa: E402


class Trainer:
    def __init__(self) -> None:
        self.model, self._private = nn.Linear(2, 1), nn.Linear(2, 1)

    def step(self) -> None: ...


def make_step():
    model, _own = nn.Linear(2, 1), nn.Linear(2, 1)

    def inner():
        return model, _own

    def step():
        return inner()

    return step


@pytest.fixture
def module(tmp_path: Path):
    made = ModuleType("trained")
    made.__file__ = str(tmp_path / "trained.py")
    sys.modules["trained"] = made
    yield made
    del sys.modules["trained"]


def paths(subject: Subject, root: Path) -> list[str]:
    return [path for path, _ in held.held(subject, root)]


def test_a_module_target_holds_none_beside_its_own_parts(module, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    module.part = network[0]
    assert paths(Subject(network, network, module), tmp_path) == []


def test_a_plain_object_holds_its_public_modules(module, tmp_path: Path) -> None:
    trainer = Trainer()
    assert paths(Subject(trainer.step, trainer, module), tmp_path) == ["self.model"]


def test_a_function_holds_what_is_in_its_closure_and_in_that_of_functions_in_it(
    module, tmp_path: Path
) -> None:
    assert paths(Subject(make_step(), None, module), tmp_path) == ["function step.model"]


def test_a_function_holds_the_public_modules_of_its_file(module, tmp_path: Path) -> None:
    module.model, module._model = nn.Linear(2, 1), nn.Linear(2, 1)
    assert paths(Subject(print, None, module), tmp_path) == ["trained.model"]


def test_weights_and_gradients_of_what_is_held_are_looked_at(module, tmp_path: Path) -> None:
    trainer, recorder = Trainer(), Recorder()
    found = held.held(Subject(trainer.step, trainer, module), tmp_path)
    assert [path for path, _ in held.state(found, recorder, 0)] == ["self.model: weight", "self.model: bias"]
    assert [leaf[0] for _, leaf in held.gradients(found, recorder, 0)] == ["value", "value"]
    trainer.model(torch.ones(1, 2)).sum().backward()
    assert [leaf[0] for _, leaf in held.gradients(found, recorder, 0)] == ["tensor", "tensor"]


def test_what_is_put_into_float64_comes_back(module, tmp_path: Path) -> None:
    trainer = Trainer()
    subject = Subject(trainer.step, trainer, module)
    before = held.doubled(subject, tmp_path)
    assert trainer.model.weight.dtype == torch.float64
    held.narrowed(before)
    assert trainer.model.weight.dtype == torch.float32


def trace(weight: torch.Tensor) -> Trace:
    recorder = Recorder()
    groups = {"result": [], "held state": recorder.leaves(weight, "self.model: weight")}
    entry = {"step": 0, "outside": False, "groups": groups}
    return Trace([entry], recorder.tensors)


def test_a_weight_that_both_hold_is_compared_and_one_of_another_shape_is_the_rewrites_own() -> None:
    ones = torch.ones(2)
    assert not compare(trace(ones), trace(ones.clone()), False).suspects
    assert compare(trace(ones), trace(ones * 2), False).suspects
    other = compare(trace(ones), trace(torch.ones(3)), False)
    assert not other.certain
    assert not other.suspects


def test_a_coroutine_is_awaited_and_a_future_waited_for() -> None:
    async def answer():
        await asyncio.sleep(0)
        return 3

    async def several():
        for k in range(2):
            yield k

    with ThreadPoolExecutor(1) as pool:
        assert settled(pool.submit(int, "4")) == 4
        assert settled([pool.submit(int, "5"), 6]) == [5, 6]
    assert settled(answer()) == 3
    assert settled(several()) == [0, 1]
    assert settled(iter((1, 2))) == [1, 2]
    assert settled((1, 2)) == (1, 2)


def test_what_a_future_raises_is_raised() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="invalid literal"):
        settled(pool.submit(int, "x"))


def test_a_few_hooks_may_stay_and_hooks_of_every_call_may_not() -> None:
    network, hooks = nn.Linear(2, 2), leaving.Hooks()

    def told() -> str:
        return hooks.left(0, [network])[0][1][2]

    assert told() == "are taken off again"
    for _ in range(leaving.SETTLED):
        network.register_forward_hook(lambda *_: None)
        assert told() == "are taken off again"
    network.weight.register_hook(lambda grad: grad)
    assert told() == "come with every call"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("variables of the environment", lambda: os.environ.__setitem__("A_VARIABLE_OF_MINE", "1")),
        ("hooks for saved tensors", lambda: SAVED.__enter__()),
        ("cudnn.allow_tf32", lambda: setattr(torch.backends.cudnn, "allow_tf32", False)),
    ],
)
def test_a_setting_of_the_process_is_seen(name: str, change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_VARIABLE_OF_MINE", raising=False)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    before = leaving.settings()
    change()
    try:
        after = leaving.settings()
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
        if name.startswith("hooks"):
            SAVED.__exit__(None, None, None)
        os.environ.pop("A_VARIABLE_OF_MINE", None)
    assert [k for k in before if before[k] != after[k]] == [name]


SAVED = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


def test_a_library_may_set_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leaving.settings()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/x")
    assert leaving.settings() == before


def test_eight_bit_floats_are_levels_with_one_nan_and_one_zero() -> None:
    values = torch.tensor([1.0, 0.0, -0.0, float("nan"), -float("nan")]).to(torch.float8_e4m3fn)
    held_bytes = plain(values)
    assert held_bytes.dtype == torch.uint8
    assert held_bytes[1] == held_bytes[2] == 0
    assert held_bytes[3] == held_bytes[4]
    recorder = Recorder()
    ((_, leaf),) = recorder.leaves(values, "result")
    assert leaf[3] == "torch.float8_e4m3fn"


def test_one_element_with_strides_of_a_larger_tensor_is_written_and_read(tmp_path: Path) -> None:
    recorder = Recorder()
    leaves = recorder.leaves(torch.arange(7).as_strided((1,), (6,)), "result")
    made = Trace([{"step": 0, "outside": False, "groups": {"result": leaves}}], recorder.tensors)
    write(made, str(tmp_path / "trace.pt"))
    assert read(str(tmp_path / "trace.pt")).tensors[0].tolist() == [0]


def test_a_pickled_module_is_another_with_the_same_weights() -> None:
    network = nn.Linear(2, 2)
    again = held.pickled(network)
    assert again is not network
    assert torch.equal(again.weight, network.weight)
    gc.collect()


def looked(value, tmp_path: Path) -> list:
    holder = Trainer()
    holder.draws = value
    found = holdings.optimizers(Subject(holder.step, holder, ModuleType("m")), Recorder(), 0)
    return [leaf for path, leaf in found if path.startswith("self.draws")]


@pytest.mark.parametrize("name", ["random.Random", "numpy.random.default_rng"])
def test_a_public_generator_that_has_drawn_is_seen(name: str, tmp_path: Path) -> None:
    module, _, maker = name.rpartition(".")
    generator = getattr(pytest.importorskip(module), maker)(3)
    before = looked(generator, tmp_path)
    assert before
    assert looked(generator, tmp_path) == before
    generator.random()
    assert looked(generator, tmp_path) != before


def test_optimizers_of_a_closure_are_looked_at(module, tmp_path: Path) -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.5)

    def step():
        return optimizer

    subject = Subject(step, None, module)
    found = holdings.optimizers(subject, Recorder(), 0, held.beside(subject, tmp_path))
    assert "function step.optimizer: lr of 0.0" in [path for path, _ in found]


def test_an_input_handed_back_is_told_from_a_view_of_it() -> None:
    x = torch.ones(2)
    given = [("input x", x)]
    assert observe.aliases(x, given) == [["result", ["input x itself"]]]
    assert observe.aliases(x.view_as(x), given) == [["result", ["input x"]]]
    batch = {"x": x}
    assert observe.containers({"batch": batch}, [], batch)[-1][1][2] == "batch"
    assert observe.containers({"batch": batch}, [], dict(batch))[-1][1][2] == ""


def test_state_that_is_as_it_was_at_the_start_is_written_by_its_name(tmp_path: Path) -> None:
    start, changed = torch.ones(4096), torch.ones(4096)
    starts = {"0:state_dict['w']": start, "0:state_dict['v']": start.clone()}
    recorder = Recorder(starts=starts)
    leaves = recorder.leaves({"w": torch.ones(4096), "v": changed.mul_(2)}, "state_dict", "0:")
    made = Trace([{"step": 0, "outside": False, "groups": {"state": leaves}}], recorder.tensors)
    write(made, str(tmp_path / "trace.pt"), starts)
    assert (tmp_path / "trace.pt").stat().st_size < 2 * start.nbytes
    found = read(str(tmp_path / "trace.pt"), starts)
    assert found.tensors[0] is start
    assert torch.equal(found.tensors[1], changed)
    assert not compare(made, found, False).suspects
