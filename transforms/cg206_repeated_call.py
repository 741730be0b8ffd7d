"""CG206: a model called again and again on what it gave, as in decoding. One graph serves all steps."""

from __future__ import annotations

from refactor.transforms.wording import hits, quote

from refactor.analysis.model import Event, EventKind, Facts
from refactor.findings import Applicability, Severity
from refactor.rewrite.repeat import propose_repeat
from refactor.rule import Example, Rewritten, Rule


def _message(facts: Facts, event: Event) -> str:
    varies = event.extra.get("varies")
    hint = f"; one graph cannot serve it as it is: {varies}" if varies else ""
    return (
        f"{quote(facts, event.subject)} is called at every step of this loop on what it gave before; "
        f"its kernels are launched one by one each time{hint}"
    )


RULE = Rule(
    code="CG206",
    name="repeated-call",
    summary="a model called in a loop on its own output, as in decoding",
    severity=Severity.COST,
    applicability=Applicability.VERIFY,
    detect=hits(EventKind.REPEATED_CALL, message=_message),
    what=(
        "Reports a loop, under `no_grad` or `inference_mode`, that feeds a model with what it computed a "
        "step before: decoding token by token, sampling, solving by iteration."
    ),
    why=(
        "Each step is small and always the same, so most of its time goes into launching kernels. A graph "
        "replays them at once, if every step has the same shapes: a sequence or a cache that grows by "
        "concatenation gives every step a shape of its own."
    ),
    instead=(
        "`graphed(model)` bound before the loop; the first call (the prompt) stays eager. State of growing "
        "length belongs into a cache of fixed size, with the position in a tensor."
    ),
    valid=(
        Example(
            """\
import torch

@torch.no_grad()
def stack(model, x, steps):
    outputs = []
    for _ in range(steps):
        outputs.append(model.sample())
    return outputs
""",
            "nothing is fed back",
        ),
    ),
    invalid=(
        Example(
            """\
import torch

@torch.inference_mode()
def generate(model, prompt, position, cache, steps):
    token = model(prompt, position, cache).argmax(-1, keepdim=True)
    new = [token]
    for _ in range(steps - 1):
        position = position[-1:] + 1
        token = model(token, position, cache).argmax(-1, keepdim=True)  # !
        new.append(token)
    return torch.cat(new, dim=1)
"""
        ),
    ),
    rewritten=(
        Rewritten(
            before="""\
import torch


@torch.no_grad()
def predict(model, start):
    # three steps of a recurrence
    x = start[0][0]
    for _ in range(3):
        x = x + model(x).mean(-1, keepdim=True)
    return x
""",
            after="""\
import torch
from cuda_graphs import graphed


@torch.no_grad()
def predict(model, start):
    # three steps of a recurrence
    x = start[0][0]
    graphed_model = graphed(model)
    for _ in range(3):
        x = x + graphed_model(x).mean(-1, keepdim=True)
    return x
""",
        ),
    ),
    propose=propose_repeat,
)
