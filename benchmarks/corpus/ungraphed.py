"""Right rewrites in training that own no graph: the verifier captures them."""

from __future__ import annotations

from .pair import Pair, control
from .parts import TORCH

TR = 'mode = "train"\ndevice="cuda"\n'

TRAIN_WHERE_NO_GRAPH = control(
    "train_where_no_graph",
    "branches",
    "where() stands for the branch in training too; the rewrite owns no graph.",
    'entry="program:Lim"\ninputs={x="float32[B, 6]"}\ngrad=["x"]\ndims={B=[2,4]}\n' + TR,
    TORCH
    + """
class Lim(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        h = self.norm(self.mix(x))
        if x.abs().amax() > 3:
            return torch.tanh(h)
        return h
""",
    TORCH
    + """
class Lim(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        h = self.norm(self.mix(x))
        return torch.where(x.abs().amax() > 3, torch.tanh(h), h)
""",
)

TRAIN_CONSTANT_NO_GRAPH = control(
    "train_constant_no_graph",
    "buffers",
    "Weights of the loss became a buffer that is not saved; the rewrite owns no graph.",
    'entry="program:Con"\ninputs={x="float32[B, 3]", y="float32[B, 3]"}\ndims={B=[1,4]}\n' + TR,
    TORCH
    + """
class Con(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
    def forward(self, x, y):
        w = torch.tensor([0.2, 0.3, 0.5], device=x.device)
        return {"loss": ((self.lin(x) - y) ** 2 * w).mean(), "n": x.shape[0]}
""",
    TORCH
    + """
class Con(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.register_buffer("_w", torch.tensor([0.2, 0.3, 0.5]), persistent=False)
    def forward(self, x, y):
        return {"loss": ((self.lin(x) - y) ** 2 * self._w).mean(), "n": x.shape[0]}
""",
)

PAIRS: tuple[Pair, ...] = (
    TRAIN_WHERE_NO_GRAPH,
    TRAIN_WHERE_NO_GRAPH.mutant(
        "train_where_swapped",
        "result",
        "The limit is 4 instead of 3.",
        (
            "torch.where(x.abs().amax() > 3, torch.tanh(h), h)",
            "torch.where(x.abs().amax() > 4, torch.tanh(h), h)",
        ),
    ),
    TRAIN_WHERE_NO_GRAPH.mutant(
        "train_where_detached",
        "gradients",
        "One side passes no gradient.",
        ("torch.tanh(h), h)", "torch.tanh(h).detach(), h)"),
    ),
    TRAIN_CONSTANT_NO_GRAPH,
)
