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

TABLE_BY_LENGTH = control(
    "table_by_length_no_graph",
    "buffers",
    "A table is kept for each length at its first call; the rewrite keeps its copy on the device.",
    'entry="program:Pos"\ninputs={x="float32[B, N, 4]"}\ndims={B=[1,3], N=[1,6]}\ndevice="cuda"\n',
    TORCH
    + """
class Pos(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.tables = {}
        self.longest = 0
    def forward(self, x):
        n = x.shape[1]
        if n not in self.tables:
            self.longest = max(self.longest, n)
            self.tables[n] = torch.arange(n, dtype=torch.float32)[:, None] / n
        y = self.lin(x) + self.tables[n].to(x.device)
        return y.sum(1)
""",
    TORCH
    + """
class Pos(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.tables, self._placed = {}, {}
        self.longest = 0
    def forward(self, x):
        n = x.shape[1]
        if n not in self.tables:
            self.longest = max(self.longest, n)
            self.tables[n] = torch.arange(n, dtype=torch.float32)[:, None] / n
            self._placed[n] = self.tables[n].to(x.device)
        y = self.lin(x) + self._placed[n]
        return y.sum(1)
""",
)

FIRST_BATCH = control(
    "initialised_by_the_first_batch_no_graph",
    "state",
    "Scales are set from the first batch; the rewrite fills a constant on the device.",
    'entry="program:Act"\ninputs={x="float32[B, 4]"}\ndims={B=[2,5]}\ndevice="cuda"\n',
    TORCH
    + """
class Act(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(4))
        self.ready = False
    def forward(self, x):
        if not self.ready:
            self.scale.copy_(x.abs().amax(0) + 1)
            self.ready = True
        return x / self.scale * torch.tensor(2.0, device=x.device)
""",
    TORCH
    + """
class Act(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(4))
        self.ready = False
    def forward(self, x):
        if not self.ready:
            self.scale.copy_(x.abs().amax(0) + 1)
            self.ready = True
        return x / self.scale * torch.full((), 2.0, device=x.device)
""",
)

PAIRS: tuple[Pair, ...] = (
    TABLE_BY_LENGTH,
    TABLE_BY_LENGTH.mutant(
        "kept_table_of_another_length",
        "result",
        "A longer table serves shorter inputs, although it was divided by its own length.",
        ("self.lin(x) + self._placed[n]", "self.lin(x) + self._placed[self.longest][:n]"),
    ),
    TABLE_BY_LENGTH.mutant(
        "kept_table_lost",
        "attributes",
        "Only the copy on the device is kept.",
        (
            "            self._placed[n] = self.tables[n].to(x.device)\n",
            "            self._placed[n] = self.tables.pop(n).to(x.device)\n",
        ),
        ("if n not in self.tables", "if n not in self._placed"),
    ),
    FIRST_BATCH,
    FIRST_BATCH.mutant(
        "initialised_by_every_batch",
        "attributes",
        "The scales are set again by every batch.",
        ("self.ready = True", "self.ready = bool(self.ready)"),
    ),
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
