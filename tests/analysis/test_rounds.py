"""Reads between the graphs of a loop that drives a model: what the host knows anyway is none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from refactor.transforms import RULES

from refactor.analysis import Project, analyze
from refactor.findings import Severity
from refactor.source import load

HEAD = """\
import random
import torch
from torch import nn


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(100, 8)
        self.o = nn.Linear(8, 100)

    def forward(self, ids):
        return self.o(self.e(ids))


def done(ids, eos):
    return bool((ids == eos).all())


def pick(logits):
    return torch.multinomial(logits.softmax(-1), 1)


@torch.no_grad()
def generate(model: LM, ids, eos, n, env=None, stop=None):
    before = torch.zeros(4)
    seen = []
    for step in range(n):
        logits = model(ids)
        tok = logits[:, -1].argmax(-1)
        ids = tok[:, None]
"""
QUIET = {
    "a copy on the host is asked as often as one likes": (
        "if step % 8 == 0:\n    host = tok.cpu()\n    if host.item() == eos:\n        break"
    ),
    "shapes and types are known": "if logits.shape[-1] > 3 and tok.dtype == ids.dtype:\n    pass",
    "every eighth step is what the advice says": "if step % 8 == 0 and (tok == eos).all():\n    break",
    "now and then is shown": "if step % 10 == 0:\n    print(tok.tolist())",
    "what was made on the host before stays there": "if before.max() > 3:\n    break",
    "random numbers of the host": "if random.random() < 0.5:\n    ids = ids + 1",
    "a read on the way out happens once": "if step > 5:\n    last = tok.item()\n    break",
    "what an environment gives": "obs, reward, over = env.step(step)\nif reward > 3 or over:\n    break",
    "whether there is one": "if tok is None or stop is not None:\n    break",
    "a helper that computes": "tok = pick(logits)",
    "an unknown number": "if stop > 3:\n    break",
    "a list is asked for its length": "seen.append(tok)\nif len(seen) > 4:\n    break",
}
READ = {
    "the token becomes a number": ("CG101", "value = tok.item()"),
    "by int": ("CG101", "if int(tok) in (1, 2):\n    break"),
    "streamed": ("CG101", "yield tok.item()"),
    "handed to an environment": ("CG101", "obs = env.step(tok.tolist())"),
    "copied": ("CG102", "host = tok.cpu()"),
    "all finished": ("CG301", "if stop is not None and (tok == eos).all():\n    break"),
    "none left": ("CG301", "if not (tok != eos).any():\n    break"),
    "a mask kept over the steps": (
        "CG301",
        "before = before.bool() | (tok == eos)\nif before.all():\n    break",
    ),
    "an inner loop asks": ("CG302", "while tok.sum() > 3:\n    tok = tok - 1"),
    "an assertion": ("CG104", "assert (tok < 100).all()"),
    "shown": ("CG103", 'print(f"{step}: {tok}")'),
    "in a helper": ("CG101", "if done(tok, eos):\n    break"),
    "what a helper sampled": ("CG101", "value = pick(logits).item()"),
    "out of a list": ("CG101", "seen.append(tok)\nvalue = seen[-1].item()"),
}


def reads(tmp_path: Path, body: str, head: str = HEAD) -> list[tuple[str, str, str]]:
    """Code, message and reason of each read in the loop, all of them without a rewrite and only slow."""
    path = tmp_path / "decode.py"
    path.write_text(head + "".join(f"        {line}\n" for line in body.splitlines()))
    facts = analyze(load(path), Project(tmp_path))
    assert facts is not None
    found = [(rule, hit) for rule in RULES for hit in rule.detect(facts) if rule.code != "CG206"]
    assert all(hit.severity is Severity.COST for _, hit in found)
    return [(rule.code, hit.message, hit.event.kind.value) for rule, hit in found]


@pytest.mark.parametrize("body", QUIET.values(), ids=QUIET)
def test_what_the_host_knows_is_not_a_read(tmp_path: Path, body: str) -> None:
    assert reads(tmp_path, body) == []


@pytest.mark.parametrize(("code", "body"), READ.values(), ids=READ)
def test_a_read_in_every_step_costs(tmp_path: Path, code: str, body: str) -> None:
    ((found, message, kind),) = reads(tmp_path, body)
    assert (found, kind) == (code, "round-read")
    assert "at every step of the loop that calls `model`" in message


def test_a_loop_without_a_model_is_not_looked_at(tmp_path: Path) -> None:
    head = HEAD.replace("model(ids)", "ids.float()")
    assert reads(tmp_path, "value = tok.item()", head) == []
