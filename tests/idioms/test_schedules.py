"""A rate, a decay or a penalty that changes is never frozen in a graph, whoever changes it and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import same_before_and_after
from tests.idioms.test_training_steps import NET

OPTIMIZERS = {
    "SGD with momentum": "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
    "Adam": "torch.optim.Adam(model.parameters(), lr=0.01)",
    "capturable AdamW": "torch.optim.AdamW(model.parameters(), lr=0.01, capturable=device != 'cpu')",
    "fused Adam": "torch.optim.Adam(model.parameters(), lr=0.01, fused=True)",
}
SCHEDULES = {
    "a schedule for every batch": (
        "schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=20)",
        "",
        "schedule.step()",
    ),
    "a schedule that looks at the loss": (
        "schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9.0)",
        "",
        "schedule.step(loss.item())",
    ),
    "a rate set by hand behind the step": ("", "", "optimizer.param_groups[0]['lr'] *= 0.7"),
    "a helper that sets rate and decay before the step": (
        "done = []",
        "adjust(optimizer, len(done))",
        "done.append(1)",
    ),
}
LOOP = """
def adjust(optimizer, done):
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * min(1.0, (done + 1) / 5)
        group["weight_decay"] = 0.01 * done


def train(model, loader, device):
    optimizer = OPTIMIZER
    BEGIN
    found = []
    for x, y in loader:
        BEFORE
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        AFTER
        found.append(loss.item())
    return found


def main(device):
    torch.manual_seed(0)
    model = Net().to(device)
    return train(model, list(data(device)) * 2, device), [p.detach().clone() for p in model.parameters()]
"""
TRAINER = """
class Trainer:
    def __init__(self, model, device):
        self.model = model
        self.optimizer = OPTIMIZER

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def main(device):
    torch.manual_seed(0)
    model = Net().to(device)
    trainer = Trainer(model, device)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trainer.optimizer, 9)
    found = []
    for x, y in [*data(device), *data(device)]:
        found.append(trainer.step(x.to(device), y.to(device)))
        schedule.step()
        trainer.optimizer.param_groups[0]["weight_decay"] += 0.01
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    found += [trainer.step(x.to(device), y.to(device)) for x, y in data(device)]
    return found, saved, [p.detach().clone() for p in model.parameters()]
"""


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_loop_that_changes_the_rate(
    optimizer: str, schedule: tuple[str, str, str], tmp_path: Path, device: str
) -> None:
    code = LOOP.replace("OPTIMIZER", optimizer)
    for word, text in zip(("BEGIN", "BEFORE", "AFTER"), schedule, strict=True):
        code = code.replace(word, text or "pass")
    same_before_and_after(NET + code, tmp_path, device, ["CG207"], 3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_caller_that_changes_rate_decay_and_optimizer_between_steps(
    optimizer: str, tmp_path: Path, device: str
) -> None:
    same_before_and_after(NET + TRAINER.replace("OPTIMIZER", optimizer), tmp_path, device, ["CG207"], 3)
