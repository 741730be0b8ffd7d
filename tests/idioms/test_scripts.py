"""Training steps at the top level of a script: what is left alone, then what becomes a function."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, same_script
from tests.idioms.test_training_steps import NET
from tests.rewrite.whole import reasons, rewrite

START = (
    NET
    + """\
device = DEVICE
torch.manual_seed(0)
model = Net().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
loader = [(x, y.to(device)) for x, y in data(device)]

"""
)

LEFT = {
    "a loss that looks a global up": (
        """\
def objective():
    return F.mse_loss(out, y)


for x, y in loader:
    out = model(x)[:, 0]
    loss = objective()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        "`objective` in line 30 uses the global `out` that the step makes",
    ),
    "a helper that looks the batch up": (
        """\
def objective(out):
    return F.cross_entropy(out, y)


for x, y in loader:
    loss = objective(model(x))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        "`objective` in line 30 reads the global `y`, which changes from step to step",
    ),
    "a lambda that looks the batch up": (
        """\
objective = lambda out: F.cross_entropy(out, y)
for x, y in loader:
    loss = objective(model(x))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        "the function in line 30 reads the global `y`",
    ),
    "a module that looks a counter up": (
        """\
class Noisy(nn.Module):
    def forward(self, out, y):
        return F.cross_entropy(out, y) * (1 + epoch)


criterion = Noisy()
for epoch in range(2):
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        "`Noisy` in line 30 reads the global `epoch`, which changes from step to step",
    ),
    "a hook that looks the batch up": (
        """\
def look(module, args, out):
    return out * x.mean()


model.register_forward_hook(look)
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        "`look` in line 30 reads the global `x`",
    ),
    "a report that looks the loss up": (
        """\
def report():
    print(loss.item())


for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    report()
""",
        "`report` in line 30 uses the global `loss`",
    ),
    "a model that counts in a global": (
        """\
calls = 0


class Counting(Net):
    def forward(self, x):
        global calls
        calls += 1
        return super().forward(x)


model = Counting().to(device)
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        "changes the global `calls`, which a replay would not do",
    ),
    "names asked for by a string": (
        """\
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(sorted(globals()))
""",
        "`globals` in line 35 can reach every global by its name",
    ),
    "a loss kept with its graph": (
        """\
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss)
""",
        "`loss` is used with its autograd graph in line 35",
    ),
    "a loss weighted by the epoch": (
        """\
for epoch in range(3):
    for x, y in loader:
        loss = criterion(model(x), y) * epoch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        "`epoch` is another Python number at every step",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, reason = LEFT[name]
    text = HEAD + START.replace("DEVICE", "'cuda'") + code
    assert reason in " ".join(reasons(text, tmp_path, ["CG207"]))
    assert rewrite(text, tmp_path, ["CG207"]) == text


SCRIPTS = {
    "the usual order, the loss printed now and then": """\
# Train the model
total = 0.0
for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        # Forward pass
        out = model(x)
        loss = criterion(out, y)

        # Backward and optimize
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if (i + 1) % 3 == 0:
            print(f"{epoch} {i}: {loss.item():.4f}")
""",
    "names read after the loop, also in a function": """\
def rate(right):
    return right / seen


right = seen = 0
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    loss = criterion(out, y)
    loss.backward()
    optimizer.step()
    right += (out.argmax(1) == y).sum().item()
    seen += len(y)
last, best = loss.item(), out.max().item()
print(rate(right))
""",
    "under a guard, behind arguments": """\
if __name__ == "__main__":
    clip = 0.5
    losses = []
    model.train()
    for epoch in range(2):
        model.train(epoch == 0)
        for x, y in loader:
            if len(losses) == 4:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss = criterion(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())
        if epoch == 5:
            break
""",
    "an optimizer and a model made anew for each fold": """\
scores = []
for fold in range(2):
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores.append(loss.item())
    del loss
""",
    "batches of two sizes, an exception caught around a step": """\
seen = 0
for x, y in loader + [(x[:2], y[:2]) for x, y in loader]:
    try:
        if seen == 3:
            raise ValueError
        seen += 1
    except ValueError:
        seen = 10
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    print(seen, round(loss.item(), 4))
""",
    "accumulation with a remainder": """\
every = 4
optimizer.zero_grad()
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y) / every
    loss.backward()
    if (i + 1) % every == 0 or i + 1 == len(loader):
        optimizer.step()
        optimizer.zero_grad()
    print(round(loss.item(), 4))
""",
    "a settings change by a called function between epochs": """\
smooth = 0.0


def soften():
    global smooth
    smooth = 0.1


for epoch in range(2):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y, label_smoothing=smooth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    soften()
    print(round(loss.item(), 4))
""",
    "two loops one behind the other": """\
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for x, y in loader:
    loss = F.mse_loss(model(x)[:, 0], y.float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(round(loss.item(), 4))
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_weights_prints_and_names_are_those_of_the_script(name: str, tmp_path: Path, device: str) -> None:
    after = same_script(START + SCRIPTS[name], tmp_path, device, ["CG207"], least=2)
    assert "@graphed\ndef _training_step(" in after
    assert "\n\n\n\n" not in after
    assert after.startswith("import torch\nimport torch.nn.functional as F\nfrom torch import nn\nfrom cuda_")


def test_an_import_behind_the_loop_does_not_take_ours_along(tmp_path: Path) -> None:
    code = "import torch\n\nmodel = torch.nn.Linear(2, 2)\noptimizer = torch.optim.SGD(model.parameters())\n"
    code += "from somewhere import loader\n\n# train\nfor x in loader:\n"
    code += (
        "    loss = model(x).sum()\n    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()\n"
    )
    after = rewrite(code + "import sys\n\nsys.exit(0)\n", tmp_path, ["CG207"])
    assert after.index("import graphed") < after.index("@graphed") < after.index("for x in loader")
    assert "import loader\nfrom cuda_graphs import graphed\n\n# train\n@graphed" in after
    assert "import sys\n\nsys.exit(0)\n" in after


LINES = """\
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters())  # a line alone
# train
for x in [1]:
\tfor y in loader:
\t\tloss = model(y).sum()  # hm
\t\toptimizer.zero_grad()
\t\tloss.backward()
\t\toptimizer.step()
"""
TYPED = """\
import torch
from cuda_graphs import graphed
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters())  # a line alone


@graphed
def _training_step(model, y, optimizer):
\tloss = model(y).sum()  # hm
\toptimizer.zero_grad()
\tloss.backward()
\toptimizer.step()


# train
for x in [1]:
\tfor y in loader:
\t\t_training_step(model, y, optimizer)
"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_line_ends_and_tabs_are_those_of_the_file(end: str, tmp_path: Path) -> None:
    assert rewrite(LINES.replace("\n", end), tmp_path, ["CG207"]) == TYPED.replace("\n", end)


def test_a_comment_of_the_block_above_stays_in_it(tmp_path: Path) -> None:
    above = "if True:\n\tlog = []\n\t# the end of it\n\n"
    after = rewrite(LINES.replace("# train\n", above), tmp_path, ["CG207"])
    assert "\n\t# the end of it\n\n\n@graphed\ndef" in after
