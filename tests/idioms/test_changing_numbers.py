"""Momenta, betas, decays, scales and loss weights that change reach a rewritten step, as rates do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, _Counted, close
from tests.rewrite.whole import rewrite, run

NET = """\
def make(device):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).to(device)


def data(device, count=24):
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(5, 4, generator=g)
        yield x.to(device), (x.sum(1).abs().long() % 3).to(device)


"""
STEP = """\
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
"""
LOOP = """\
def train(device):
    model = make(device)
    optimizer = {optimizer}
{setup}    for i, (x, y) in enumerate(data(device)):
{step}{each}    return [p.detach().clone() for p in model.parameters()]
"""
SGD = "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)"
CAPTURABLE = 'torch.optim.AdamW(model.parameters(), lr=0.02, capturable=device != "cpu")'


def loop(optimizer: str, each: str = "", setup: str = "", step: str = STEP) -> str:
    return LOOP.format(optimizer=optimizer, each=each, setup=setup, step=step)


SCALED = '        optimizer.param_groups[0]["lr"] *= 0.9\n'
PROGRAMS = {
    "RMSprop, a rate scaled": loop("torch.optim.RMSprop(model.parameters(), lr=0.01)", SCALED),
    "foreach SGD, a rate scaled": loop("torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)", SCALED),
    "momentum and decay by hand": loop(
        SGD,
        '        optimizer.param_groups[0]["momentum"] *= 0.95\n'
        '        optimizer.param_groups[0]["weight_decay"] = 0.01 * i\n',
    ),
    "betas by hand": loop(
        CAPTURABLE, '        optimizer.param_groups[0]["betas"] = (0.9 - 0.01 * i, 0.99)\n'
    ),
    "a rate that is a tensor": loop(
        CAPTURABLE.replace("0.02", "torch.tensor(0.02, device=device)"),
        '        optimizer.param_groups[0]["lr"].mul_(0.9)\n',
    ),
    "accumulation": loop(
        SGD,
        "        if i % 3 == 2:\n            optimizer.step()\n            optimizer.zero_grad()\n" + SCALED,
        "    optimizer.zero_grad()\n",
        "        loss = F.cross_entropy(model(x), y) / 3\n        loss.backward()\n",
    ),
    "a rate from a closure": """\
def schedule(optimizer):
    state = {"n": 0}

    def advance():
        state["n"] += 1
        optimizer.param_groups[0]["lr"] = 0.1 / state["n"]

    return advance


"""
    + loop(SGD, "        advance()\n", "    advance = schedule(optimizer)\n"),
    "stepped once an epoch": """\
def train(device):
    model = make(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        for x, y in data(device, 8):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        scheduler.step()
    return [p.detach().clone() for p in model.parameters()]
""",
    "a teacher with a decay that varies": """\
import copy


def train(device):
    model = make(device)
    teacher = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(data(device)):
        decay = min(0.99, (1 + i) / (10 + i))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(teacher.parameters(), model.parameters()):
                a.mul_(decay).add_(b, alpha=1 - decay)
    return [p.detach().clone() for p in [*model.parameters(), *teacher.parameters()]]
""",
    "a loss weight annealed on the instance": """\
class Trainer:
    def __init__(self, model):
        self.model, self.weight = model, 1.0
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y) * self.weight
        loss.backward()
        self.optimizer.step()
        self.weight *= 0.9
        return loss.item()


def train(device):
    trainer = Trainer(make(device))
    found = [trainer.step(x, y) for x, y in data(device)]
    return found, [p.detach().clone() for p in trainer.model.parameters()]
""",
    "a scale that grows": """\
def train(device):
    model = make(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=4.0, growth_interval=2, enabled=device != "cpu")
    for i, (x, y) in enumerate(data(device)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.param_groups[0]["lr"] *= 0.9
    return [p.detach().clone() for p in model.parameters()]
""",
}


EAGER = "a loss weight annealed on the instance"  # too many values for graphs, and a warning says so


@pytest.mark.filterwarnings("ignore:.*has had more than 8 values:RuntimeWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_weights_are_those_of_plain_steps(name: str, tmp_path: Path, device: str) -> None:
    code = HEAD + NET + PROGRAMS[name]
    after = rewrite(code, tmp_path, ["CG207"])
    assert after != code, "not rewritten"
    expected, counted = run(code)["train"](device), _Counted()
    with counted:
        found = run(after)["train"](device)
    close(expected, found)
    assert (counted.number == 0) if name == EAGER else (counted.number >= 20), f"{counted.number} replays"
