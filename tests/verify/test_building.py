"""Large models built again: the same bits, and the generator where it would be."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from refactor.verify.worker import building  # noqa: E402
from refactor.verify.worker.building import Draws  # noqa: E402
from torch import nn  # noqa: E402


def built(seed: int, draws: Draws | None = None) -> tuple[list, list]:
    """Tensors of a model that draws in several ways, and what is drawn next."""
    torch.manual_seed(seed)
    made = []
    if draws is None:
        made.append(nn.Sequential(nn.Linear(200, 300), nn.Embedding(100, 200), nn.Conv2d(32, 64, 3)))
        table = torch.empty(300, 70).normal_(1.0, 0.5)
    else:
        with draws:
            made.append(nn.Sequential(nn.Linear(200, 300), nn.Embedding(100, 200), nn.Conv2d(32, 64, 3)))
            table = torch.empty(300, 70).normal_(1.0, 0.5)
    nn.init.trunc_normal_(made[0][0].weight)
    return [*made[0].state_dict().values(), table], torch.rand(3).tolist()


def same(a: tuple[list, list], b: tuple[list, list]) -> bool:
    return a[1] == b[1] and all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))


def test_the_third_build_is_the_first_and_draws_go_on_as_after_it() -> None:
    draws = Draws()
    plain = built(3)
    assert same(built(3, draws), plain)
    filled = len(draws.kept)
    assert filled >= 3
    assert same(built(3, draws), plain)
    assert len(draws.kept) == filled


def test_another_seed_is_another_model() -> None:
    draws = Draws()
    built(3, draws)
    assert same(built(4, draws), built(4))


def test_a_generator_of_the_program_is_left_alone() -> None:
    draws = Draws()
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        with draws:
            first = torch.empty(200, 200).normal_(generator=generator)
            second = torch.empty(200, 200).normal_(generator=generator)
        assert not torch.equal(first, second)
    assert not draws.kept


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MOST", 1)
    draws = Draws()
    assert same(built(3, draws), built(3))
    assert not draws.kept


def test_what_is_kept_is_not_what_was_handed_out() -> None:
    draws = Draws()
    for _ in range(2):
        torch.manual_seed(1)
        with draws:
            first = torch.empty(200, 200).uniform_()
        assert first.max() <= 1
        first.fill_(9)
