"""Steps with several backward passes: what one graph cannot hold is left alone, the rest trains as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, same_before_and_after
from tests.rewrite.whole import reasons, rewrite

NETS = """\
class Net(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inner, 16), nn.LayerNorm(16), nn.GELU())
        self.head = nn.Linear(16, outer)

    def forward(self, x):
        return self.head(self.body(x))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.a(h), self.b(h)


def batches(device, *sizes, count=7):
    g = torch.Generator().manual_seed(3)
    for i in range(count):
        rows = 4 if i % 3 else 5
        yield [torch.randn(rows, size, generator=g).to(device) for size in sizes]


def weights(*models):
    grads = [None if p.grad is None else p.grad.clone() for m in models for p in m.parameters()]
    return [p.detach().clone() for m in models for p in m.parameters()], grads


"""
LEFT = {
    "a sample that the next pass goes back through": (
        "def train(one, two, batches, first, second):\n    for x, z in batches:\n"
        "        first.zero_grad()\n        fake = two(z)\n"
        "        loss = one(x).mean() - one(fake.detach()).mean()\n        loss.backward()\n"
        "        first.step()\n        second.zero_grad()\n        other = -one(fake).mean()\n"
        "        other.backward()\n        second.step()\n",
        ("`fake` is used with its autograd graph in line 14", "`fake` comes from line 9 with its autograd"),
    ),
    "a forward pass that a step in between has made stale": (
        "def train(model, batches, optimizer, log):\n    for x in batches:\n        y = model(x)\n"
        "        loss = y.sum()\n        loss.backward(retain_graph=True)\n        log.see(model)\n"
        "        more = y.square().sum()\n        more.backward()\n",
        ("the pass keeps its autograd graph", "what `log.see` in line 11 does on the host is not known"),
    ),
    "a closure for an optimizer that calls it several times": (
        "def train(model, x, optimizer):\n    for _ in range(9):\n        def closure():\n"
        "            optimizer.zero_grad()\n            loss = model(x).sum()\n            loss.backward()\n"
        "            return loss\n        optimizer.step(closure)\n",
        ("the optimizer calls this closure several times",),
    ),
    "a penalty computed where the graph cannot reach": (
        "def train(model, batches, optimizer, penalty):\n    for x in batches:\n        out = model(x)\n"
        "        reg = penalty(out).item() + out.norm()\n        log(x)\n"
        "        loss = model(x + 1).sum() + reg\n        loss.backward()\n",
        ("`reg` comes from line 9 with its autograd graph",),
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, wanted = LEFT[name]
    found = " ".join(reasons(HEAD + code, tmp_path, ["CG207"]))
    for reason in wanted:
        assert reason in found
    assert rewrite(HEAD + code, tmp_path, ["CG207"]) == HEAD + code


def test_an_optimizer_of_the_same_name_elsewhere_is_left_alone(tmp_path: Path) -> None:
    code = """\
def other(model, x):
    optimizer = torch.optim.Adam(model.parameters())
    print(x)
    return optimizer


def train(model, loader, optimizer):
    for x in loader:
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
"""
    after = rewrite(HEAD + code, tmp_path, ["CG207"])
    assert "capturable" not in after
    assert "@graphed" in after


PROGRAMS = {
    "an actor and a critic with a slow copy": (
        2,
        """\
def train(actor, critic, slow, data, first, second):
    found = []
    for obs, act, reward, after in data:
        with torch.no_grad():
            target = reward.squeeze(1) + 0.9 * slow(torch.cat([after, actor(after)], 1)).squeeze(1)
        q = critic(torch.cat([obs, act], 1)).squeeze(1)
        critic_loss = F.mse_loss(q, target)
        first.zero_grad()
        critic_loss.backward()
        first.step()

        actor_loss = -critic(torch.cat([obs, actor(obs)], 1)).mean()
        second.zero_grad()
        actor_loss.backward()
        second.step()

        for p, s in zip(critic.parameters(), slow.parameters()):
            s.data.mul_(0.9).add_(p.data, alpha=0.1)
        found.append((critic_loss.item(), actor_loss.item()))
    return found


def main(device):
    torch.manual_seed(0)
    actor, critic, slow = (Net(4, 2).to(device), Net(6, 1).to(device), Net(6, 1).to(device))
    first = torch.optim.Adam(critic.parameters(), lr=0.01)
    second = torch.optim.SGD(actor.parameters(), lr=0.05, momentum=0.9)
    found = train(actor, critic, slow, batches(device, 4, 2, 1, 4), first, second)
    return found, weights(actor, critic, slow)
""",
    ),
    "two losses of one forward pass": (
        1,
        """\
def train(model, data, optimizer):
    for x, a, b in data:
        optimizer.zero_grad()
        first, second = model(x)
        one = F.mse_loss(first, a)
        two = F.mse_loss(second, b)
        one.backward(retain_graph=True)
        two.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main(device):
    torch.manual_seed(0)
    model = Two().to(device)
    train(model, batches(device, 6, 2, 3), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5))
    return weights(model)
""",
    ),
    "two passes that add to the same gradients": (
        1,
        """\
def train(model, data, optimizer):
    total = 0.0
    for x, y in data:
        optimizer.zero_grad()
        first = model(x).square().mean()
        first.backward()
        second = F.smooth_l1_loss(model(y), x[:, :2])
        second.backward()
        optimizer.step()
        total += first.item() + second.item()
    return total


def main(device):
    torch.manual_seed(0)
    model = Net(6, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return train(model, batches(device, 6, 6), optimizer), weights(model)
""",
    ),
    "a sample of which only the values are judged, by two graphs": (
        2,
        """\
def train(maker, judge, data, first, second):
    criterion = nn.BCEWithLogitsLoss()
    for pair in data:
        judge.zero_grad()
        real = pair[0]
        rows = real.size(0)
        label = torch.full((rows, 1), 1.0, device=real.device)
        error = criterion(judge(real), label)
        error.backward()
        fake = maker(torch.ones(rows, 3, device=real.device) * pair[1])
        label.fill_(0.0)
        other = criterion(judge(fake.detach()), label)
        other.backward()
        first.step()
        maker.zero_grad()
        label.fill_(1.0)
        fooled = criterion(judge(fake), label)
        fooled.backward()
        second.step()


def main(device):
    torch.manual_seed(0)
    maker, judge = Net(3, 5).to(device), Net(5, 1).to(device)
    first = torch.optim.SGD(judge.parameters(), lr=0.1, momentum=0.5)
    second = torch.optim.SGD(maker.parameters(), lr=0.1, momentum=0.5)
    train(maker, judge, batches(device, 5, 3), first, second)
    return weights(maker, judge)
""",
    ),
    "a penalty on gradients": (
        1,
        """\
def train(critic, maker, data, optimizer):
    found = []
    for real, z, mix in data:
        optimizer.zero_grad()
        fake = maker(z).detach()
        eps = mix.sigmoid()
        mid = (eps * real + (1 - eps) * fake).requires_grad_(True)
        out = critic(mid)
        slope = torch.autograd.grad(out.sum(), mid, create_graph=True)[0]
        penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def main(device):
    torch.manual_seed(0)
    critic, maker = Net(5, 1).to(device), Net(3, 5).to(device)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.05, momentum=0.9)
    return train(critic, maker, batches(device, 5, 3, 1), optimizer), weights(critic, maker)
""",
    ),
    "a game in which the sample is drawn twice": (
        2,
        """\
class Game:
    def __init__(self, maker, judge):
        self.maker, self.judge = maker, judge
        self.first = torch.optim.Adam(judge.parameters(), lr=0.01)
        self.second = torch.optim.Adam(maker.parameters(), lr=0.01)

    def play(self, data):
        scores = []
        for real, z in data:
            self.first.zero_grad(set_to_none=True)
            fake = self.maker(z).detach()
            judged = F.softplus(-self.judge(real)).mean() + F.softplus(self.judge(fake)).mean()
            judged.backward()
            self.first.step()

            self.second.zero_grad(set_to_none=True)
            fooled = F.softplus(-self.judge(self.maker(z))).mean()
            fooled.backward()
            self.second.step()
            scores.append((judged.item(), fooled.item()))
        return scores


def main(device):
    torch.manual_seed(0)
    maker, judge = Net(3, 5).to(device), Net(5, 1).to(device)
    game = Game(maker, judge)
    data = list(batches(device, 5, 3))
    return game.play(data), game.play(data[::-1]), weights(maker, judge)
""",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_several_passes_train_as_they_did(name: str, tmp_path: Path, device: str) -> None:
    graphs, code = PROGRAMS[name]
    after = same_before_and_after(NETS + code, tmp_path, device, ["CG207"], 3)
    assert after.count("@graphed") + after.count("graphed(self._") >= 1
    assert after.count("_step") >= graphs
