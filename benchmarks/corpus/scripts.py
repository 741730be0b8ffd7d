"""Whole programs: one call builds a model, trains it and hands out what became of it."""

from __future__ import annotations

from .pair import Pair, control
from .parts import CAPTURE_STEP, FUNCTIONAL

TARGET = """
entry = "program:train"
inputs = { x = "float32[8, 6]", y = "float32[8, 1]" }
dims = {}
mode = "train"
device = "cuda"
"""

NET = """

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 1)
    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x)))


def build():
    torch.manual_seed(7)
    return Net().cuda()

"""

BUILT_IN_EVERY_CALL = control(
    "model_built_in_every_call",
    "capture",
    "Every call builds a model, so every call captures a step of its own; the graph ends with the call.",
    TARGET,
    FUNCTIONAL
    + NET
    + """
@torch.enable_grad()
def train(x, y):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for part, wanted in zip(x.detach().split(2), y.detach().split(2)):
        loss = F.mse_loss(model(part), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), model(x.detach()).detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + NET
    + """
class Step:
    def __init__(self, model, optimizer, part, wanted):
        self.part, self.wanted = part.clone(), wanted.clone()
        def step():
            loss = F.mse_loss(model(self.part), self.wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()
        self.graph, self.loss = capture_step(step, list(model.parameters()))
    def __call__(self, part, wanted):
        self.part.copy_(part)
        self.wanted.copy_(wanted)
        self.graph.replay()
        return self.loss.clone()


@torch.enable_grad()
def train(x, y):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step, losses = None, []
    for part, wanted in zip(x.detach().split(2), y.detach().split(2)):
        if step is None:
            step = Step(model, optimizer, part, wanted)
        losses.append(step(part, wanted))
    return torch.stack(losses), model(x.detach()).detach()
""",
)

PAIRS: tuple[Pair, ...] = (
    BUILT_IN_EVERY_CALL,
    BUILT_IN_EVERY_CALL.mutant(
        "step_of_an_earlier_model",
        "result",
        "The step is kept from one call to the next and trains the first call's model.",
        ("    step, losses = None, []\n", "    global step\n    losses = []\n"),
        ("@torch.enable_grad()", "step = None\n\n\n@torch.enable_grad()"),
    ),
)
