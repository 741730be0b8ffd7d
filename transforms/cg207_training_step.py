"""CG207: a training step launched kernel by kernel. One graph holds forward, backward and update."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.step import propose_step
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    return (
        f"the training step around {quote(facts, event.node)} launches forward, backward and update "
        "kernel by kernel"
    )


RULE = Rule(
    code="CG207",
    name="training-step",
    summary="a training step launched kernel by kernel",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.TRAINING_STEP, message=_message),
    what=(
        "Reports a block that computes a loss and calls `backward` on it. Several passes of a block become "
        "one graph, or one each, where no autograd graph goes from one to the next."
    ),
    why=(
        "Forward, backward and the optimizer are hundreds of launches. A graph replays them at once, if "
        "nothing in between asks the device for a value and no Python number in it changes."
    ),
    instead=(
        "the step as a function of its own under `graphed`: gradients, optimizer state and random numbers "
        "advance as before, the loss comes back detached. Adam and its relatives need `capturable=True`, and "
        "a learning rate that changes has to be a tensor; otherwise the update stays outside the graph."
    ),
    valid=(
        Example(
            """\
import torch

def penalty(model, x):
    return torch.autograd.grad(model(x).sum(), x)
""",
            "no backward pass",
        ),
    ),
    invalid=(
        Example(
            """\
import torch
import torch.nn.functional as F

def train(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # !
        optimizer.step()
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch
import torch.nn.functional as F


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, _ in batches:
        # a small step
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), x[:, :3])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
""",
            after="""\
import torch
import torch.nn.functional as F
from cuda_graphs import graphed


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, _ in batches:
        loss = _train_step(optimizer, model, x)
        losses.append(loss.item())
    return losses


@graphed
def _train_step(optimizer, model, x):
    # a small step
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), x[:, :3])
    loss.backward()
    optimizer.step()
    return loss.detach()
""",
        ),
    ),
    propose=propose_step,
)
