"""The before/after pairs that the rules carry: documentation that has to be true."""

from __future__ import annotations

from pathlib import Path

import pytest
from refactor.transforms import RULES

from tests.rewrite.compare import assert_same
from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")

PAIRS = [
    pytest.param(rule.code, pair, id=f"{rule.code} pair {index + 1}")
    for rule in RULES
    for index, pair in enumerate(rule.rewritten)
]


def test_every_rule_that_rewrites_shows_how() -> None:
    assert [rule.code for rule in RULES if rule.propose is not None and not rule.rewritten] == []


@pytest.mark.parametrize(("code", "pair"), PAIRS)
def test_apply_turns_before_into_after(code: str, pair: object, tmp_path: Path) -> None:
    assert rewrite(pair.before, tmp_path, [code]) == pair.after  # type: ignore[attr-defined]


@pytest.mark.parametrize(("code", "pair"), PAIRS)
def test_after_gives_what_before_gives(code: str, pair: object) -> None:
    before, after = run(pair.before), run(pair.after)  # type: ignore[attr-defined]
    name = next(n for n, v in before.items() if getattr(v, "__module__", "") == "model" and n[0] != "_")
    for seed in range(4):
        results = []
        for namespace in (before, after):
            torch.manual_seed(seed)
            results.append(_exercise(namespace[name]))
        assert_same(*results)


def _exercise(item: object) -> object:
    """Construct and call what an example defines, as its kind asks for."""
    x = torch.randn(4, 8 if getattr(item, "__name__", "") in ("Router", "EarlyExit") else 4)
    if isinstance(item, type) and issubclass(item, torch.nn.Module):
        model = item()
        extra = [torch.tensor([1, 3])] if item.__name__ == "Decoder" else []
        x = (
            torch.randn(2, 3, 4, 3)
            if item.__name__ == "Normalise"
            else x[:, :3]
            if item.__name__ == "Anchors"
            else x
        )
        with torch.inference_mode():
            return [model(x, *extra), model(-x, *extra)]
    model = torch.nn.Linear(4, 3)
    if isinstance(item, type):
        return list(item(model).scores([{"input": x}, {"input": x[:1]}]))
    return item(model, [(x, 0), (x[:1], 1)])  # type: ignore[operator]
