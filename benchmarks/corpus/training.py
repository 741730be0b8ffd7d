# ruff: noqa: E501  (lines of quoted programs)
"""Training steps: gradients, optimizers, what warmup must leave untouched."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL

MICRO_TARGET = """
entry  = "program:MicroBatches"
inputs = { x = "float32[B, 8]", y = "float32[B]", last = "bool" }
dims   = { B = [1, 6] }
mode   = "train"
"""
MICRO_BEFORE = (
    FUNCTIONAL
    + '''

class MicroBatches(nn.Module):
    """Accumulates gradients; steps when the caller says it was the last micro-batch."""

    def __init__(self, dim=8, lr=0.1):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 1))
        self.lr = lr

    @torch.enable_grad()
    def forward(self, x, y, last):
        loss = F.mse_loss(self.net(x).squeeze(-1), y)
        loss.backward()
        if last:
            with torch.no_grad():
                for p in self.net.parameters():
                    p.sub_(self.lr * p.grad)
                    p.grad = None
        return loss.detach()
'''
)

GRADIENTS = control(
    "gradients_accumulated",
    "training",
    "The graph gives gradients of its own, which are added to p.grad between replays.",
    MICRO_TARGET,
    MICRO_BEFORE,
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + '''

class MicroBatches(nn.Module):
    """Accumulates gradients; steps when the caller says it was the last micro-batch."""

    def __init__(self, dim=8, lr=0.1):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 1))
        self.lr = lr
        self._graphs = {}

    def _gradients(self, x, y):
        loss = F.mse_loss(self.net(x).squeeze(-1), y)
        return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))

    @torch.enable_grad()
    def forward(self, x, y, last):
        if x.requires_grad or y.requires_grad:
            loss = F.mse_loss(self.net(x).squeeze(-1), y)
            loss.backward()
            return self._finish(loss.detach(), last)
        key = (tuple(x.shape), tuple(y.shape), addresses(self))
        if key not in self._graphs:
            sx, sy = x.clone(), y.clone()
            self._graphs[key] = (sx, sy, *capture(lambda: self._gradients(sx, sy)))
        sx, sy, graph, (loss, grads) = self._graphs[key]
        sx.copy_(x)
        sy.copy_(y)
        graph.replay()
        for p, grad in zip(self.net.parameters(), grads):
            p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)
        return self._finish(loss.clone(), last)

    @torch.no_grad()
    def _finish(self, loss, last):
        if last:
            for p in self.net.parameters():
                p.sub_(self.lr * p.grad)
                p.grad = None
        return loss
''',
)

ADAM = control(
    "whole_step_with_capturable_adam",
    "training",
    "Forward, backward and a capturable Adam step in one graph; parameters and optimizer state are put back after warmup.",
    """
entry  = "program:Trainer"
inputs = { x = "float32[4, 8]", y = "float32[4, 2]" }
dims   = {}
mode   = "train"
vary   = ["values", "arguments", "kept outputs", "mutation", "instances", "reseeding"]
""",
    FUNCTIONAL
    + '''

class Trainer(nn.Module):
    """One step of Adam in every call, with a rate that decays."""

    def __init__(self, dim=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, 2))
        self.steps = 0
        self._optimizer = None

    def optimizer(self):
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.net.parameters(), lr=torch.tensor(0.01, device="cuda"), capturable=True)
        return self._optimizer

    @torch.enable_grad()
    def forward(self, x, y):
        optimizer = self.optimizer()
        for group in optimizer.param_groups:
            group["lr"].fill_(0.01 * 0.9**self.steps)
        self.steps += 1
        optimizer.zero_grad()
        loss = F.mse_loss(self.net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()
''',
    FUNCTIONAL
    + '''

class Trainer(nn.Module):
    """One step of Adam in every call, with a rate that decays."""

    def __init__(self, dim=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, 2))
        self.steps = 0
        self._optimizer = None
        self._graph = None

    def optimizer(self):
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.net.parameters(), lr=torch.tensor(0.01, device="cuda"), capturable=True)
        return self._optimizer

    def _step(self):
        self._optimizer.zero_grad()
        loss = F.mse_loss(self.net(self._x), self._y)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _capture(self, x, y):
        self._x, self._y = x.detach().clone(), y.detach().clone()
        optimizer = self.optimizer()
        saved = [p.detach().clone() for p in self.net.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            for p, old in zip(self.net.parameters(), saved):
                p.copy_(old)
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        optimizer.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._step()
        self._grads = [p.grad for p in self.net.parameters()]

    @torch.enable_grad()
    def forward(self, x, y):
        if self._graph is None:
            self._capture(x, y)
        for group in self._optimizer.param_groups:
            group["lr"].fill_(0.01 * 0.9**self.steps)
        self.steps += 1
        self._x.copy_(x.detach())
        self._y.copy_(y.detach())
        self._graph.replay()
        for p, grad in zip(self.net.parameters(), self._grads):
            p.grad = grad.clone()  # the caller may keep or clear it
        return self._loss.clone()
''',
)

MOMENTUM = control(
    "sgd_momentum_written_by_hand",
    "training",
    "Momentum lives in buffers that the graph writes; everything that warmup touched is put back.",
    """
entry  = "program:Fit"
inputs = { x = "float32[B, 6]", rate = "float in 0.01..0.2" }
dims   = { B = [2, 4] }
mode   = "train"
vary   = ["values", "shapes", "arguments", "kept outputs", "mutation", "instances"]
""",
    FUNCTIONAL
    + '''

class Fit(nn.Module):
    """An autoencoder that trains itself on what it is shown."""

    def __init__(self, dim=6):
        super().__init__()
        self.down, self.up = nn.Linear(dim, 3), nn.Linear(3, dim)
        for i, p in enumerate(list(self.parameters())):
            self.register_buffer(f"m{i}", torch.zeros_like(p))

    @torch.enable_grad()
    def forward(self, x, rate):
        loss = F.mse_loss(self.up(torch.tanh(self.down(x))), x)
        params = list(self.parameters())
        grads = torch.autograd.grad(loss, params)
        total = torch.stack([g.norm() for g in grads]).norm()
        scale = (1.0 / (total + 1e-6)).clamp(max=1.0)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(params, grads)):
                m = getattr(self, f"m{i}")
                m.mul_(0.9).add_(g * scale)
                p.sub_(rate * m)
        return loss.detach(), total
''',
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + '''

class Fit(nn.Module):
    """An autoencoder that trains itself on what it is shown."""

    def __init__(self, dim=6):
        super().__init__()
        self.down, self.up = nn.Linear(dim, 3), nn.Linear(3, dim)
        for i, p in enumerate(list(self.parameters())):
            self.register_buffer(f"m{i}", torch.zeros_like(p))
        self._graphs = {}

    def _step(self, x, rate):
        loss = F.mse_loss(self.up(torch.tanh(self.down(x))), x)
        params = list(self.parameters())
        grads = torch.autograd.grad(loss, params)
        total = torch.stack([g.norm() for g in grads]).norm()
        scale = (1.0 / (total + 1e-6)).clamp(max=1.0)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(params, grads)):
                m = getattr(self, f"m{i}")
                m.mul_(0.9).add_(g * scale)
                p.sub_(rate * m)
        return loss.detach(), total

    @torch.enable_grad()
    def forward(self, x, rate):
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            static, speed = x.detach().clone(), torch.full((), rate, device=x.device)
            touched = [*self.parameters(), *self.buffers()]
            self._graphs[key] = (static, speed, *capture_step(lambda: self._step(static, speed), touched))
        static, speed, graph, (loss, total) = self._graphs[key]
        static.copy_(x.detach())
        speed.fill_(rate)
        graph.replay()
        return loss.clone(), total.clone()
''',
)

MIXED = control(
    "autocast_step_without_cache",
    "training",
    "The step runs under bfloat16 autocast with the cast cache off, so that every replay casts the current weights.",
    """
entry  = "program:MixedStep"
inputs = { x = "float32[B, 8]", y = "int64[B] in 0..3" }
dims   = { B = [2, 4] }
mode   = "train"
vary   = ["values", "shapes", "kept outputs", "instances"]
""",
    FUNCTIONAL
    + """

class MixedStep(nn.Module):
    def __init__(self, dim=8, classes=4, lr=0.05):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, classes))
        self.lr = lr

    @torch.enable_grad()
    def forward(self, x, y):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = F.cross_entropy(self.net(x).float(), y)
        grads = torch.autograd.grad(loss, list(self.net.parameters()))
        with torch.no_grad():
            for p, g in zip(self.net.parameters(), grads):
                p.sub_(self.lr * g)
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + """

class MixedStep(nn.Module):
    def __init__(self, dim=8, classes=4, lr=0.05):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, classes))
        self.lr = lr
        self._graphs = {}

    def _step(self, x, y):
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            loss = F.cross_entropy(self.net(x).float(), y)
        grads = torch.autograd.grad(loss, list(self.net.parameters()))
        with torch.no_grad():
            for p, g in zip(self.net.parameters(), grads):
                p.sub_(self.lr * g)
        return loss.detach()

    @torch.enable_grad()
    def forward(self, x, y):
        key = (tuple(x.shape), self.lr, addresses(self))
        if key not in self._graphs:
            sx, sy = x.detach().clone(), y.clone()
            self._graphs[key] = (sx, sy, *capture_step(lambda: self._step(sx, sy), list(self.net.parameters())))
        sx, sy, graph, loss = self._graphs[key]
        sx.copy_(x.detach())
        sy.copy_(y)
        graph.replay()
        return loss.clone()
""",
)

DROPNORM = control(
    "training_forward_stays_eager",
    "training",
    "Under gradients the module is what it was; only evaluation replays, and the mode decides which.",
    """
entry  = "program:Classifier"
inputs = { x = "float32[B, 6]" }
dims   = { B = [2, 4] }
grad   = ["x"]
vary   = ["values", "shapes", "train/eval", "kept outputs", "mutation", "grad", "rebinding"]
""",
    FUNCTIONAL
    + """

class Classifier(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """

class Classifier(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3))
        self._graphs = {}

    def forward(self, x):
        if self.training or torch.is_grad_enabled():
            return self.net(x)
        key = (tuple(x.shape), torch.is_inference_mode_enabled(), addresses(self))
        if key not in self._graphs:
            static = x.detach().clone()
            self._graphs[key] = (static, *capture(lambda: self.net(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    GRADIENTS,
    GRADIENTS.mutant(
        "gradients_overwritten",
        "gradients|state|result",
        "Gradients of a micro-batch replace the ones already there.",
        ("p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)", "p.grad = grad.clone()"),
    ),
    GRADIENTS.mutant(
        "gradients_doubled",
        "gradients|state|result",
        "The first micro-batch counts twice.",
        (
            "p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)",
            "p.grad = grad.clone() if p.grad is None else p.grad\n            p.grad.add_(grad)",
        ),
    ),
    GRADIENTS.mutant(
        "one_gradient_missing",
        "gradients|state|result|exception",
        "The last parameter gets none.",
        (
            "for p, grad in zip(self.net.parameters(), grads):\n            p.grad = grad.clone() if p.grad is None",
            "for p, grad in zip(self.net.parameters(), [*grads[:-1], torch.zeros_like(grads[-1])]):\n            p.grad = grad.clone() if p.grad is None",
        ),
    ),
    GRADIENTS.mutant(
        "static_gradients_exposed",
        "gradients|state|result",
        "p.grad is the graph's own memory: the next replay overwrites what was accumulated.",
        ("p.grad = grad.clone() if p.grad is None", "p.grad = grad if p.grad is None"),
    ),
    GRADIENTS.mutant(
        "zeroed_before_every_micro_batch",
        "gradients|state|result",
        "Gradients are cleared on the wrong side of the accumulation.",
        ("        graph.replay()\n", "        self.net.zero_grad()\n        graph.replay()\n"),
    ),
    GRADIENTS.mutant(
        "gradients_zeroed_instead_of_none",
        "gradients",
        "After the step gradients are zeros, not None.",
        (
            "                p.grad = None\n        return loss",
            "                p.grad.zero_()\n        return loss",
        ),
    ),
    GRADIENTS.mutant(
        "averaged_over_micro_batches",
        "gradients|state|result",
        "The accumulated gradient is halved on the way.",
        ("else p.grad.add_(grad)", "else p.grad.lerp_(grad, 0.5)"),
    ),
    GRADIENTS.mutant(
        "step_without_last",
        "state|gradients",
        "The parameters are stepped at every micro-batch.",
        (
            "        if last:\n            for p in self.net.parameters():\n                p.sub_(self.lr * p.grad)\n                p.grad = None",
            "        for p in self.net.parameters():\n            p.sub_(self.lr * p.grad)\n            if last:\n                p.grad = None",
        ),
    ),
    ADAM,
    ADAM.mutant(
        "optimizer_state_of_warmup_kept",
        "state|result",
        "Moments and step count are those after three steps of warmup.",
        (
            "            for state in optimizer.state.values():\n                for value in state.values():\n                    value.zero_()\n",
            "",
        ),
    ),
    ADAM.mutant(
        "parameters_of_warmup_kept",
        "state|result",
        "The first call has made four steps.",
        ("            for p, old in zip(self.net.parameters(), saved):\n                p.copy_(old)\n", ""),
    ),
    ADAM.mutant(
        "learning_rate_baked",
        "state|result",
        "The rate is a Python number when the step is captured: it never decays.",
        ('lr=torch.tensor(0.01, device="cuda")', "lr=0.01"),
        ('group["lr"].fill_(0.01 * 0.9**self.steps)', 'group["lr"] = 0.01 * 0.9**self.steps'),
    ),
    ADAM.mutant(
        "optimizer_not_capturable",
        "exception|state",
        "The optimizer counts its steps on the host.",
        ("capturable=True", "capturable=False"),
    ),
    ADAM.mutant(
        "zero_grad_outside_only",
        "gradients|state|result",
        "Gradients are cleared before the capture and then add up over replays.",
        ("        self._optimizer.zero_grad()\n        loss = F", "        loss = F"),
        (
            "        optimizer.zero_grad()\n        self._graph",
            "        optimizer.zero_grad(set_to_none=False)\n        self._graph",
        ),
    ),
    ADAM.mutant(
        "schedule_advanced_after_replay",
        "state|result",
        "The rate of the next step is used.",
        (
            '            group["lr"].fill_(0.01 * 0.9**self.steps)\n        self.steps += 1\n        self._x',
            '            group["lr"].fill_(0.01 * 0.9 ** (self.steps + 1))\n        self.steps += 1\n        self._x',
        ),
    ),
    MOMENTUM,
    MOMENTUM.mutant(
        "momentum_of_warmup_kept",
        "state|result",
        "Momentum buffers are not put back after warmup.",
        ("touched = [*self.parameters(), *self.buffers()]", "touched = [*self.parameters()]"),
    ),
    MOMENTUM.mutant(
        "rate_argument_baked",
        "state|result",
        "The rate of the first call is used for all.",
        ("        speed.fill_(rate)\n", ""),
    ),
    MOMENTUM.mutant(
        "clipping_dropped",
        "state|result",
        "Gradients are no longer clipped; the norm is still returned.",
        ("m.mul_(0.9).add_(g * scale)", "m.mul_(0.9).add_(g)"),
    ),
    MOMENTUM.mutant(
        "norm_of_norms_wrong",
        "result|state",
        "The norms are added instead of their squares.",
        ("torch.stack([g.norm() for g in grads]).norm()", "torch.stack([g.norm() for g in grads]).sum()"),
    ),
    MOMENTUM.mutant(
        "updates_lost_for_one_parameter",
        "state",
        "The last bias is left out of the update.",
        ("enumerate(zip(params, grads))", "enumerate(zip(params[:3], grads))"),
    ),
    MOMENTUM.mutant(
        "loss_not_cloned",
        "kept|aliasing|result",
        "The caller's list of losses holds one number many times.",
        ("return loss.clone(), total.clone()", "return loss, total.clone()"),
    ),
    MIXED,
    MIXED.mutant(
        "labels_not_copied",
        "result|state",
        "The labels of the first batch are used for all.",
        ("        sy.copy_(y)\n", ""),
    ),
    DROPNORM,
    DROPNORM.mutant(
        "replayed_result_without_gradient",
        "result|gradients",
        "Evaluation under gradients is replayed, and the result carries none.",
        ("if self.training or torch.is_grad_enabled():", "if self.training:"),
        ("return out.clone()", "return out.detach().clone()"),
        ("static.copy_(x)", "static.copy_(x.detach())"),
    ),
    DROPNORM.mutant(
        "training_replayed_as_evaluation",
        "result|state|gradients|random",
        "Without gradients the training mode replays a graph of evaluation mode.",
        ("if self.training or torch.is_grad_enabled():", "if torch.is_grad_enabled():"),
        (
            "*capture(lambda: self.net(static)))",
            "*capture(lambda: self.net.eval()(static)))\n            self.net.train(self.training)",
        ),
    ),
)
