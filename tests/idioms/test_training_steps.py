"""Training steps in the forms people write them: what is left alone, then what becomes one function."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, same_before_and_after
from tests.rewrite.whole import reasons, rewrite

NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


def data(device, count=6):
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(5, 4, generator=g)
        yield x.to(device), x.sum(1).abs().long() % 3


"""
MAIN = """

def main(device):
    torch.manual_seed(0)
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = train(model, data(device), optimizer, device)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return found, [p.detach().clone() for p in model.parameters()], grads
"""

LEFT = {
    "a loss computed by the caller": (
        "def train(model, losses, optimizer):\n    for loss in losses:\n        loss.backward()\n",
        "the model is not called in the block",
    ),
    "a second backward over the same graph": (
        "def train(model, batches):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        loss.backward(retain_graph=True)\n",
        "`backward` takes arguments",
    ),
    "distributed training": (
        "from torch.nn.parallel import DistributedDataParallel\n\n\ndef train(model, batches):\n"
        "    model = DistributedDataParallel(model)\n    for x in batches:\n        loss = model(x).sum()\n"
        "        loss.backward()\n",
        "exchanged inside `backward`",
    ),
    "a compiled model": (
        "def train(model, batches):\n    model = torch.compile(model)\n    for x in batches:\n"
        "        loss = model(x).sum()\n        loss.backward()\n",
        "compiled already",
    ),
    "a loss weighted by a counter": (
        "def train(model, batches):\n    for step, x in enumerate(batches):\n"
        "        loss = model(x).sum() * step\n        loss.backward()\n",
        "`step` is another Python number",
    ),
    "a loss handed out with its graph": (
        "def train(model, x):\n    loss = model(x).sum()\n    loss.backward()\n    return loss\n",
        "use `loss.detach()` there",
    ),
    "a loss printed with its graph": (
        "def train(model, batches):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        loss.backward()\n        print(loss)\n",
        "use `loss.detach()` there",
    ),
    "a loss that is looked at before the backward pass": (
        "def train(model, optimizer, batches):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        if not loss.isfinite():\n            continue\n        optimizer.zero_grad()\n"
        "        loss.backward()\n        optimizer.step()\n",
        "between the forward pass and `backward()`",
    ),
    "a coroutine": (
        "async def train(model, batches):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        loss.backward()\n",
        "other coroutines",
    ),
    "a forward that asks the host": (
        "class Net(nn.Module):\n    def forward(self, x):\n        if x.sum() > 0:\n            return x\n"
        "        return -x\n\n\ndef train(model: Net, batches):\n    for x in batches:\n"
        "        loss = model(x).sum()\n        loss.backward()\n",
        "`Net.forward` waits for the device",
    ),
    "weights looked at between loss and update": (
        "def train(model, batches, optimizer, log):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        size = model.weight.norm().item()\n        loss.backward()\n        optimizer.step()\n"
        "        log.append(size)\n",
        "line 9 looks at what the step changes",
    ),
    "rows picked by a mask": (
        "def train(model, data, optimizer):\n    for _ in range(9):\n        out = model(data.x)\n"
        "        loss = F.mse_loss(out[data.train_mask], data.y[data.train_mask])\n        loss.backward()\n",
        "picks rows by a mask",
    ),
    "a log of the weights between loss and gradients": (
        "def train(model, batches, writer):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        writer.add_scalar('norm', model.weight.norm().item())\n        loss.backward()\n",
        "line 9 looks at what the step changes",
    ),
    "a loss logged with its graph": (
        "def train(model, batches, log):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        log.log({'loss': loss})\n        loss.backward()\n",
        "use `loss.detach()` there",
    ),
    "a part of the loss that is there under a condition": (
        "def train(model, batches, args, log):\n    for x in batches:\n        loss = model(x).sum()\n"
        "        if args.extra:\n            extra = x.mean()\n            loss = loss + extra\n"
        "        loss.backward()\n        if args.extra:\n            log.add(extra)\n",
        "`extra` is bound under a condition",
    ),
    "a helper whose helper draws on the host": (
        "import random\n\n\ndef pick(x):\n    return x[random.randrange(3) :]\n\n\n"
        "def objective(model, x):\n"
        "    return model(pick(x)).sum()\n\n\ndef train(model, batches):\n    for x in batches:\n"
        "        loss = objective(model, x)\n        loss.backward()\n",
        "`pick`, called in line 19, does more than device work",
    ),
    "the time of the forward pass kept": (
        "import time\n\n\ndef train(model, batches, log):\n    for x in batches:\n"
        "        loss = model(x).sum()\n"
        "        forward = time.time()\n        loss.backward()\n        log.add(forward)\n",
        "what `time.time` in line 12 does on the host",
    ),
    "a context that is not torch's": (
        "def train(model, batches, log):\n    for x in batches:\n        with log.no_grad():\n"
        "            y = model(x)\n        loss = model(y).sum()\n        loss.backward()\n"
        "        print(y)\n",
        "",
    ),
    "a weight that is computed on the host": (
        "def train(model, batches, scores):\n    for x in batches:\n"
        "        weight = max(1 - min(scores), 0)\n"
        "        loss = model(x).sum() * weight\n        loss.backward()\n",
        "`weight` is a Python number made in line 8",
    ),
    "something between that changes the batch": (
        "def train(model, batches, log):\n    for x in batches:\n        y = model(x)\n        x = log(x)\n"
        "        loss = (y - x).sum()\n        loss.backward()\n",
        "",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, reason = LEFT[name]
    assert reason in " ".join(reasons(HEAD + code, tmp_path, ["CG207"]))
    if reason:
        assert rewrite(HEAD + code, tmp_path, ["CG207"]) == HEAD + code


@pytest.mark.parametrize(
    "code",
    [
        "def clip(model):\n    for p in model.parameters():\n        p.grad = None\n",
    ],
    ids=["no backward at all"],
)
def test_not_reported(code: str, tmp_path: Path) -> None:
    assert reasons(HEAD + code, tmp_path, ["CG207"]) == []
    assert rewrite(HEAD + code, tmp_path, ["CG207"]) == HEAD + code


STEPS = {
    "the usual order": """\
def train(model, loader, optimizer, device):
    losses = []
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
""",
    "gradients cleared at the end, the loss read before backward": """\
def train(model, loader, optimizer, device):
    total, seen = 0.0, 0
    model.train()
    for step, (x, y) in enumerate(loader):
        y = y.to(device)
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        total += loss.item() * len(x)
        seen += x.size(0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total / seen
""",
    "moved to the device inside the call": """\
def train(model, loader, optimizer, device):
    criterion = nn.CrossEntropyLoss()
    right = 0
    for x, y in loader:
        optimizer.zero_grad()
        logits = model(x.to(device))
        loss = criterion(logits, y.to(device))
        loss.backward()
        optimizer.step()
        right += (logits.argmax(1).cpu() == y).sum().item()
    return right
""",
    "dict batches": """\
def train(model, loader, optimizer, device):
    losses = []
    for x, y in loader:
        batch = {"x": x, "y": y}
        batch = {k: v.to(device) for k, v in batch.items()}
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
    return losses
""",
    "accumulation over two batches": """\
def train(model, loader, optimizer, device, every=2):
    losses = []
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        y = y.to(device)
        loss = F.cross_entropy(model(x), y) / every
        loss.backward()
        if (i + 1) % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss))
    return losses
""",
    "a configuration that does not change, and epochs": """\
def train(model, loader, optimizer, device, clip=1.0):
    batches = list(loader)
    losses = []
    for _ in range(2):
        for x, y in batches:
            y = y.to(device)
            optimizer.zero_grad(set_to_none=False)
            # forward
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if clip > 0:
                torch.nn.utils.clip_grad_value_(model.parameters(), clip)
            optimizer.step()  # update
            losses.append(loss.item())
    return losses
""",
    "a helper that computes the loss": """\
def objective(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits, y) + 0.01 * logits.square().mean()


def train(model, loader, optimizer, device):
    out = []
    for x, y in loader:
        y = y.to(device)
        loss = objective(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out.append(loss.item())
    return out
""",
    "a function for each step": """\
def one(model, optimizer, x, y):
    \"\"\"One update.\"\"\"
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(model, loader, optimizer, device):
    return [one(model, optimizer, x, y.to(device)) for x, y in loader]
""",
    "a learning rate that changes": """\
def train(model, loader, optimizer, device):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    out = []
    for x, y in loader:
        y = y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        out.append(loss.item())
    return out
""",
    "a class that counts its steps": """\
class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.loss = nn.CrossEntropyLoss()
        self.steps = 0

    def fit(self, loader, device):
        history = []
        for x, y in loader:
            y = y.to(device)
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.steps += 1
            history.append((self.steps, loss.item()))
        return history


def train(model, loader, optimizer, device):
    return Trainer(model, optimizer).fit(loader, device)
""",
}

STEPS |= {
    "objects with methods named like those of tensors": """\
class Meter:
    def __init__(self):
        self.seen = []

    def add(self, value):
        self.seen.append(value)

    def log(self, value):
        self.seen.append(float(value["loss"]))


def train(model, loader, optimizer, device):
    meter = Meter()
    for x, y in loader:
        y = y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        meter.log({"loss": loss.detach()})
        loss.backward()
        optimizer.step()
        meter.add(loss.detach())
    return meter.seen
""",
    "the loss logged before the gradients": """\
class Log(list):
    def add_scalar(self, name, value, step):
        self.append((name, value, step))


def train(model, loader, optimizer, device):
    writer, running = Log(), 0.0
    for i, (x, y) in enumerate(loader):
        y = y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        writer.add_scalar("loss", loss.item(), i)
        if i % 2 == 0:
            print(f"{i}: {loss.item():.3f}")
            running += loss.item()
        loss.backward()
        optimizer.step()
    return list(writer), running
""",
    "targets computed without gradients, a value logged now and then, with the time": """\
import copy
import time


class Log(list):
    def add_scalar(self, name, value, step):
        self.append((name, float(value), step))


def train(model, loader, optimizer, device):
    target, writer, start = copy.deepcopy(model), Log(), time.time()
    for step, (x, y) in enumerate(loader):
        y = y.to(device)
        with torch.no_grad():
            best, _ = target(x.to(device)).max(dim=1)
            goal = best + 0.9 * y
        old = model(x.to(device)).gather(1, y.unsqueeze(1)).squeeze(1)
        loss = F.mse_loss(goal, old)
        if step % 2 == 0:
            writer.add_scalar("loss", loss, step)
            writer.add_scalar("values", old.mean().item(), step)
            print("SPS:", step, int(time.time() - start) // 1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 0:
            for a, b in zip(target.parameters(), model.parameters()):
                a.data.copy_(0.5 * a.data + 0.5 * b.data)
    return list(writer)
""",
    "values kept without gradients, a setting with two sides": """\
def train(model, loader, optimizer, device, clip=True, smooth=0):
    kept = []
    for x, y in loader:
        y = y.to(device)
        logits = model(x.to(device))
        with torch.no_grad():
            entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
            kept += [entropy.mean().item()]
        if smooth:
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        elif clip:
            loss = F.cross_entropy(logits.clamp(-1, 1), y)
        else:
            loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append(entropy.max().item())
    return kept
""",
    "gradients logged before the update": """\
class Log(list):
    def add_scalar(self, name, value, step):
        self.append((name, value, step))


def train(model, loader, optimizer, device):
    writer = Log()
    for i, (x, y) in enumerate(loader):
        y = y.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        writer.add_scalar("size", model.head.weight.grad.norm().item(), i)
        optimizer.step()
        writer.add_scalar("loss", loss.item(), i)
    return list(writer)
""",
}


@pytest.mark.parametrize("name", STEPS)
def test_weights_losses_and_gradients_are_those_of_plain_steps(
    name: str, tmp_path: Path, device: str
) -> None:
    after = same_before_and_after(NET + STEPS[name] + MAIN, tmp_path, device, ["CG207"], least=3)
    assert after.count("graphed") == 2, "imported and used once"


ADAM = """\
class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)

    def step(self, x, y):
        \"\"\"The loss before the update.\"\"\"
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def main(device):
    torch.manual_seed(0)
    trainer = Trainer(Net().to(device), 0.01)
    losses = [trainer.step(x, y.to(device)) for x, y in data(device)]
    return losses, [p.detach().clone() for p in trainer.model.parameters()]
"""


def test_adam_becomes_capturable_where_its_model_is_on_the_device(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(NET + ADAM, tmp_path, device, ["CG207"], least=3)
    assert "lr=lr, capturable=next(self.model.parameters()).is_cuda)" in after
    assert (
        "return graphed(self._captured_step)(x, y)" in after or "graphed(self._captured_step)(x, y)" in after
    )


ATTRIBUTES = """\
class Config:
    clip = 1.0


class Both(Net):
    def forward(self, x, y):
        logits = super().forward(x)
        return logits, F.cross_entropy(logits, y)


class Trainer:
    def __init__(self, config, model, batches):
        self.config, self.model, self.batches = config, model, batches
        self.seen, self.optimizer = [], None

    def run(self, watch):
        model, config = self.model, self.config
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in self.batches:
            # forward the model
            logits, self.loss = model(x, y)

            model.zero_grad(set_to_none=True)
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            self.optimizer.step()
            watch(self)


def main(device):
    torch.manual_seed(0)
    model, losses = Both().to(device), []
    trainer = Trainer(Config(), model, [(x.to(device), y.to(device)) for x, y in data(device)])
    trainer.run(lambda it: losses.append(it.loss.item()))
    return losses, trainer.loss.item(), [p.detach().clone() for p in model.parameters()]
"""


def test_a_loss_kept_on_the_trainer_is_set_where_the_step_is_called(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(NET + ATTRIBUTES, tmp_path, device, ["CG207"], least=3)
    assert "self.loss = _run_step(model, x, y, config, self.optimizer)\n" in after
    assert "    logits, loss = model(x, y)\n\n    model.zero_grad(set_to_none=True)\n    loss.back" in after


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "            watch(self)",
            "            self.seen.append(self.loss)",
            "used with its autograd graph",
        ),
        ("= model(x, y)", "= model(x, y + self.loss.long())", "read in line 43 before the step sets it"),
        ("class Trainer:", "class Trainer(nn.Module):", "changes more than a variable"),
        ("    def run(", "    loss = property()\n\n    def run(", "changes more than a variable"),
        (
            "    def run(",
            "    def __setattr__(self, *a): print(a)\n\n    def run(",
            "changes more than a variable",
        ),
    ],
    ids=["kept", "read before", "a module", "a property", "a setter"],
)
def test_a_loss_on_a_trainer_that_others_need_stays(old: str, new: str, reason: str, tmp_path: Path) -> None:
    code = HEAD + (NET + ATTRIBUTES).replace(old, new)
    assert reason in " ".join(reasons(code, tmp_path, ["CG207"]))
    assert rewrite(code, tmp_path, ["CG207"]) == code


SEVERAL = {
    "methods of one name in two classes": """\
class Classify:
    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.seen = model, optimizer, 0

    def update(self, x, y):
        self.seen += 1
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Regress:
    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.seen = model, optimizer, 0

    def update(self, x, y):
        self.seen += 1
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(x)[:, 0], y.float())
        loss.backward()
        self.optimizer.step()
        return loss.item()


def train(model, loader, optimizer, device):
    both = Classify(model, optimizer), Regress(model, optimizer)
    return [trainer.update(x, y.to(device)) for x, y in loader for trainer in both]
""",
    "two loops in one function": """\
def train(model, loader, optimizer, device):
    batches, losses = [(x, y.to(device)) for x, y in loader], []
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x)[:, 0], y.float())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
""",
    "both sides of a branch": """\
def train(model, loader, optimizer, device):
    losses = []
    for i, (x, y) in enumerate(loader):
        y = y.to(device)
        optimizer.zero_grad()
        if i % 2:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.item())
        elif i > 2:
            loss = F.mse_loss(model(x)[:, 0], y.float())
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
    return losses
""",
    "static methods": """\
class Steps:
    @staticmethod
    def first(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    @classmethod
    def second(cls, model, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x)[:, 0], y.float())
        loss.backward()
        optimizer.step()
        return loss.item()


def train(model, loader, optimizer, device):
    pairs = [(x, y.to(device)) for x, y in loader]
    return [step(model, optimizer, x, y) for x, y in pairs for step in (Steps.first, Steps.second)]
""",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_steps_of_one_file_keep_apart(name: str, tmp_path: Path, device: str) -> None:
    after = same_before_and_after(NET + SEVERAL[name] + MAIN, tmp_path, device, ["CG207"], least=1)
    names = [line for line in after.splitlines() if line.startswith("def _")]
    assert len(set(names)) == len(names) == 2, names


METHODS = """\
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def one(self, x, y):
        # by class
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def two(self, x, y):
        # by value
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(x)[:, 0], y.float())
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def main(device):
    torch.manual_seed(0)
    trainer = Trainer(Net().to(device))
    losses = [step(x, y.to(device)) for x, y in data(device) for step in (trainer.one, trainer.two)]
    return losses, [p.detach().clone() for p in trainer.model.parameters()]
"""


def test_two_steps_share_an_optimizer_that_becomes_capturable_once(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(NET + METHODS, tmp_path, device, ["CG207"], least=4)
    assert after.count("capturable") == 1
    assert after.count("graphed(self._") == 2


AUTOCAST = """\
def train(model, loader, optimizer, device):
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    out = []
    for x, y in loader:
        y = y.to(device)
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        out.append(loss.item())
    return out
"""


def test_a_scaler_stays_outside_with_its_update(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(NET + AUTOCAST + MAIN, tmp_path, device, ["CG207"], least=3)
    inside = after.partition("@graphed")[2]
    assert "loss.backward(scale.expand_as(loss))" in inside
    assert "scaler" not in inside.partition("def main")[0]
