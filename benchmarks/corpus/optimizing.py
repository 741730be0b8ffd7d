# ruff: noqa: E501  (lines of quoted programs)
"""Steps of optimizers: groups, scalers, accumulation, schedules, skipped steps, averages of weights."""

from __future__ import annotations

from .pair import Pair, control
from .parts import CAPTURE, CAPTURE_STEP, FUNCTIONAL

TRAIN = 'mode = "train"\ndevice="cuda"\n'

TWO_GROUPS = control(
    "two_groups_in_one_graph",
    "training",
    "Forward, backward and an AdamW step over two groups are one graph; parameters, moments and counts are put back after warmup.",
    'entry="program:Fit"\ninputs={x="float32[4, 6]", y="float32[4]"}\ndims={}\n' + TRAIN,
    FUNCTIONAL
    + """
class Fit(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 1)
        self.opt = None
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            groups = [{"params": self.body.parameters(), "lr": 0.02, "weight_decay": 0.1}, {"params": self.head.parameters(), "lr": 0.1, "weight_decay": 0.0}]
            self.opt = torch.optim.AdamW(groups, betas=(0.8, 0.9), capturable=True)
        loss = F.mse_loss(self.head(torch.tanh(self.body(x))).squeeze(-1), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + """
class Fit(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 1)
        self.opt = None
        self._graph = None
    def _step(self):
        self.opt.zero_grad()
        loss = F.mse_loss(self.head(torch.tanh(self.body(self._x))).squeeze(-1), self._y)
        loss.backward()
        self.opt.step()
        return loss.detach()
    @torch.enable_grad()
    def forward(self, x, y):
        key = tuple(p.data_ptr() for p in self.parameters())
        if self._graph is None or self._key != key:
            groups = [{"params": self.body.parameters(), "lr": 0.02, "weight_decay": 0.1}, {"params": self.head.parameters(), "lr": 0.1, "weight_decay": 0.0}]
            if self.opt is None:
                self.opt = torch.optim.AdamW(groups, betas=(0.8, 0.9), capturable=True)
                for p in self.parameters():
                    self.opt.state[p] = {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self._x, self._y = x.detach().clone(), y.detach().clone()
            held = [t for s in self.opt.state.values() for t in s.values()]
            self._graph, self._loss = capture_step(self._step, [*self.parameters(), *held])
            self._key = key
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
            self._graph.replay()
        return self._loss.clone()
""",
)

SKIPPED = control(
    "step_skipped_for_bad_gradients",
    "training",
    "A norm that is not finite skips the step; clipping and the norm are in the graph, the decision is made after it.",
    'entry="program:Safe"\ninputs={x="float32[4, 5]", y="float32[4]", scale="float in 0.5..4.0"}\ndims={}\n'
    + TRAIN,
    FUNCTIONAL
    + """
class Safe(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
        self.skipped = 0
        self.opt = None
    @torch.enable_grad()
    def forward(self, x, y, scale):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.8)
        loss = F.mse_loss(self.net(x).squeeze(-1), y) * scale
        self.opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if torch.isfinite(norm):
            self.opt.step()
        else:
            self.skipped += 1
        return loss.detach(), norm
""",
    FUNCTIONAL
    + CAPTURE
    + """
class Safe(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
        self.skipped = 0
        self.opt = None
        self._graphs = {}
    def _gradients(self, x, y, scale):
        loss = F.mse_loss(self.net(x).squeeze(-1), y) * scale
        grads = torch.autograd.grad(loss, list(self.net.parameters()))
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        factor = (1.0 / (norm + 1e-6)).clamp(max=1.0)
        return loss.detach(), norm, [g * factor for g in grads]
    @torch.enable_grad()
    def forward(self, x, y, scale):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.8)
        key = tuple(p.data_ptr() for p in self.net.parameters())
        if key not in self._graphs:
            held = [x.detach().clone(), y.detach().clone(), torch.ones((), device=x.device)]
            self._graphs[key] = (held, *capture(lambda: self._gradients(*held)))
        (sx, sy, ss), graph, (loss, norm, grads) = self._graphs[key]
        with torch.no_grad():
            sx.copy_(x)
            sy.copy_(y)
            ss.fill_(scale)
            graph.replay()
        for p, g in zip(self.net.parameters(), grads):
            p.grad = g.clone()
        if torch.isfinite(norm):
            self.opt.step()
        else:
            self.skipped += 1
        return loss.clone(), norm.clone()
""",
)

ACCUMULATED = control(
    "accumulated_with_a_schedule",
    "training",
    "Four micro-batches make a step, and a step moves the cosine schedule; gradients come from a graph.",
    'entry="program:Slow"\ninputs={x="float32[B, 5]", y="float32[B]"}\ndims={B=[2,4]}\n' + TRAIN,
    FUNCTIONAL
    + """
class Slow(nn.Module):
    EVERY = 4
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 1)
        self.micro = 0
        self.opt = self.plan = None
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
            self.plan = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=6)
        loss = F.mse_loss(self.net(x).squeeze(-1), y) / self.EVERY
        loss.backward()
        self.micro += 1
        if self.micro % self.EVERY == 0:
            self.opt.step()
            self.plan.step()
            self.opt.zero_grad()
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE
    + """
class Slow(nn.Module):
    EVERY = 4
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 1)
        self.micro = 0
        self.opt = self.plan = None
        self._graphs = {}
    def _gradients(self, x, y):
        loss = F.mse_loss(self.net(x).squeeze(-1), y) / self.EVERY
        return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
            self.plan = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=6)
        key = (x.shape, *(p.data_ptr() for p in self.net.parameters()))
        if key not in self._graphs:
            sx, sy = x.detach().clone(), y.detach().clone()
            self._graphs[key] = (sx, sy, *capture(lambda: self._gradients(sx, sy)))
        sx, sy, graph, (loss, grads) = self._graphs[key]
        with torch.no_grad():
            sx.copy_(x)
            sy.copy_(y)
            graph.replay()
            for p, g in zip(self.net.parameters(), grads):
                p.grad = g.clone() if p.grad is None else p.grad + g
        self.micro += 1
        if self.micro % self.EVERY == 0:
            self.opt.step()
            self.plan.step()
            self.opt.zero_grad()
        return loss.clone()
""",
)

SCALED = control(
    "scaler_grows_after_three",
    "training",
    "Half-precision gradients are scaled; the scaler's own growth and backoff stay outside the graph.",
    'entry="program:Half"\ninputs={x="float32[4, 6]", y="float32[4]"}\ndims={}\n' + TRAIN,
    FUNCTIONAL
    + """
class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.opt = None
        self.scaler = torch.amp.GradScaler("cuda", init_scale=256.0, growth_interval=3)
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.opt.zero_grad()
        loss = F.mse_loss(self.net(x).squeeze(-1), y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.opt)
        self.scaler.update()
        return loss.detach(), self.scaler.get_scale()
""",
    FUNCTIONAL
    + CAPTURE
    + """
class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.opt = None
        self.scaler = torch.amp.GradScaler("cuda", init_scale=256.0, growth_interval=3)
        self._graphs = {}
    def _gradients(self, x, y, scale):
        loss = F.mse_loss(self.net(x).squeeze(-1), y)
        return loss.detach(), torch.autograd.grad(loss * scale, list(self.net.parameters()))
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.opt.zero_grad()
        scale = self.scaler.scale(torch.ones((), device=x.device))
        key = tuple(p.data_ptr() for p in self.net.parameters())
        if key not in self._graphs:
            held = [x.detach().clone(), y.detach().clone(), scale.clone()]
            self._graphs[key] = (held, *capture(lambda: self._gradients(*held)))
        held, graph, (loss, grads) = self._graphs[key]
        with torch.no_grad():
            for static, t in zip(held, (x, y, scale)):
                static.copy_(t)
            graph.replay()
        for p, g in zip(self.net.parameters(), grads):
            p.grad = g.clone()
        self.scaler.step(self.opt)
        self.scaler.update()
        return loss.clone(), self.scaler.get_scale()
""",
)

AVERAGED = control(
    "weights_averaged_with_warming_decay",
    "training",
    "An average of the weights whose decay rises with the number of steps; the decay is filled in before each replay.",
    'entry="program:Averaged"\ninputs={x="float32[3, 4]"}\ndims={}\nmode="inference"\ndevice="cuda"\n',
    FUNCTIONAL
    + """
class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4, 4))
        self.steps = 0
    def forward(self, x):
        self.steps += 1
        decay = min(0.9, (1 + self.steps) / (10 + self.steps))
        self.mean.mul_(decay).add_(self.net.weight.detach(), alpha=1 - decay)
        return F.linear(x, self.mean) + self.net(x)
""",
    FUNCTIONAL
    + CAPTURE
    + """
class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4, 4))
        self.steps = 0
        self._graphs = {}
    def _run(self, x, decay):
        self.mean.mul_(decay).add_(self.net.weight.detach() * (1 - decay))
        return F.linear(x, self.mean) + self.net(x)
    def forward(self, x):
        self.steps += 1
        key = tuple(t.data_ptr() for t in (*self.parameters(), *self.buffers()))
        if key not in self._graphs:
            s, d, old = x.clone(), torch.zeros((), device=x.device), self.mean.clone()
            made = capture(lambda: self._run(s, d))
            self.mean.copy_(old)
            self._graphs[key] = (s, d, *made)
        s, d, graph, out = self._graphs[key]
        s.copy_(x)
        d.fill_(min(0.9, (1 + self.steps) / (10 + self.steps)))
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    TWO_GROUPS,
    TWO_GROUPS.mutant(
        "groups_one_rate",
        "state|result",
        "Both groups get the rate of the first.",
        (
            '"lr": 0.1, "weight_decay": 0.0}]\n            if',
            '"lr": 0.02, "weight_decay": 0.0}]\n            if',
        ),
    ),
    TWO_GROUPS.mutant(
        "groups_head_decays",
        "state|result",
        "The head decays as well.",
        (
            '"lr": 0.1, "weight_decay": 0.0}]\n            if',
            '"lr": 0.1, "weight_decay": 0.1}]\n            if',
        ),
    ),
    TWO_GROUPS.mutant(
        "groups_counts_of_warmup",
        "state|attributes|result",
        "The step counts are those after the warmup.",
        ("for t in s.values()]", 'for k, t in s.items() if k != "step"]'),
    ),
    TWO_GROUPS.mutant(
        "groups_second_moment_of_warmup",
        "state|attributes|result",
        "Squares of the warmup's gradients stay.",
        ("for t in s.values()]", 'for k, t in s.items() if k != "exp_avg_sq"]'),
    ),
    TWO_GROUPS.mutant(
        "groups_bias_left_out",
        "state",
        "The bias of the head is in no group.",
        (
            '{"params": self.head.parameters(), "lr": 0.1, "weight_decay": 0.0}]\n            if',
            '{"params": [self.head.weight], "lr": 0.1, "weight_decay": 0.0}]\n            if',
        ),
    ),
    SKIPPED,
    SKIPPED.mutant(
        "bad_gradients_stepped",
        "state|attributes",
        "The step is made whatever the norm is.",
        (
            "        if torch.isfinite(norm):\n            self.opt.step()\n        else:\n            self.skipped += 1\n        return loss.clone()",
            "        self.opt.step()\n        self.skipped += not torch.isfinite(norm)\n        return loss.clone()",
        ),
    ),
    SKIPPED.mutant(
        "bad_gradients_zeroed",
        "state|attributes",
        "Bad gradients become zeros, and momentum goes on.",
        (
            "            p.grad = g.clone()\n        if torch.isfinite(norm):\n            self.opt.step()\n        else:\n            self.skipped += 1\n        return loss.clone()",
            "            p.grad = g.nan_to_num(0.0, 0.0, 0.0)\n        self.skipped += not torch.isfinite(norm)\n        self.opt.step()\n        return loss.clone()",
        ),
    ),
    SKIPPED.mutant(
        "clipped_by_greatest_norm",
        "result|state|gradients",
        "The greatest norm of a parameter stands for the norm of all.",
        (
            "norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))",
            "norm = torch.stack([torch.linalg.vector_norm(g) for g in grads]).max()",
        ),
    ),
    SKIPPED.mutant(
        "clipped_always_to_one", "state|gradients", "Small gradients are made large.", (".clamp(max=1.0)", "")
    ),
    ACCUMULATED,
    ACCUMULATED.mutant(
        "accumulated_schedule_every_micro",
        "state|attributes",
        "Every micro-batch moves the schedule.",
        (
            "            self.opt.step()\n            self.plan.step()\n            self.opt.zero_grad()\n        return loss.clone()",
            "            self.opt.step()\n            self.opt.zero_grad()\n        self.plan.step()\n        return loss.clone()",
        ),
    ),
    ACCUMULATED.mutant(
        "accumulated_not_divided",
        "result|gradients",
        "Losses are added instead of averaged.",
        ("/ self.EVERY\n        return loss.detach(), torch", "* 1\n        return loss.detach(), torch"),
    ),
    ACCUMULATED.mutant(
        "accumulated_by_three",
        "state|gradients",
        "Three micro-batches make a step.",
        (
            "        if self.micro % self.EVERY == 0:\n            self.opt.step()\n            self.plan.step()\n            self.opt.zero_grad()\n        return loss.clone()",
            "        if self.micro % 3 == 0:\n            self.opt.step()\n            self.plan.step()\n            self.opt.zero_grad()\n        return loss.clone()",
        ),
    ),
    ACCUMULATED.mutant(
        "accumulated_no_nesterov",
        "state",
        "Plain momentum stands for Nesterov's.",
        (
            "momentum=0.9, nesterov=True)\n            self.plan = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=6)\n        key",
            "momentum=0.9)\n            self.plan = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=6)\n        key",
        ),
    ),
    ACCUMULATED.mutant(
        "accumulated_period_of_schedule",
        "state|attributes",
        "The cosine has another period.",
        ("T_max=6)\n        key", "T_max=7)\n        key"),
    ),
    SCALED,
    SCALED.mutant(
        "scaler_never_updated",
        "result|attributes",
        "The scale stays what it was.",
        ("        self.scaler.update()\n        return loss.clone()", "        return loss.clone()"),
    ),
    SCALED.mutant(
        "scaler_grows_after_four",
        "result|attributes",
        "The scale grows one step late.",
        ("growth_interval=3)\n        self._graphs", "growth_interval=4)\n        self._graphs"),
    ),
    SCALED.mutant(
        "scaler_stepped_around",
        "state",
        "The step is made although gradients are not finite.",
        (
            "        self.scaler.step(self.opt)\n        self.scaler.update()\n        return loss.clone()",
            "        self.scaler.unscale_(self.opt)\n        self.opt.step()\n        self.scaler.update()\n        return loss.clone()",
        ),
    ),
    AVERAGED,
    AVERAGED.mutant(
        "averaged_decay_of_first_step",
        "result|state",
        "The decay does not rise.",
        ("        d.fill_(min(", "        if not d: d.fill_(min("),
    ),
    AVERAGED.mutant(
        "averaged_one_step_behind",
        "result|state|attributes",
        "The count is raised after the decay is taken.",
        ("        self.steps += 1\n        key", "        key"),
        ("        graph.replay()\n", "        graph.replay()\n        self.steps += 1\n"),
    ),
)
