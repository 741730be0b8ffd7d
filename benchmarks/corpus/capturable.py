# ruff: noqa: E501  (lines of quoted programs)
"""Training steps in a graph whose optimizer is capturable in the rewrite alone; a small network for images."""

from __future__ import annotations

from .pair import Pair, control
from .parts import FUNCTIONAL

_BEFORE = """
class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = {net}
        self.opt = torch.optim.{opt}(self.net.parameters(), {args})

    @torch.enable_grad()
    def forward(self, x, y):
        self.opt.zero_grad()
        loss = {loss}
        loss.backward()
        self.opt.step()
        return loss.detach()
"""
_AFTER = """
class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = {net}
        self.opt = torch.optim.{opt}(self.net.parameters(), {args}{cap})
        self._graph = None
        self._owner = None

    def _step(self):
        x, y = self._x, self._y
        self.opt.zero_grad()
        loss = {loss}
        loss.backward()
        self.opt.step()
        return loss.detach()

    def _capture(self, x, y):
        self._x, self._y = x.detach().clone(), y.detach().clone()
        fresh = not self.opt.state
        held = [*self.net.parameters(), *self.net.buffers()]
        held += [v for s in self.opt.state.values() for v in s.values() if torch.is_tensor(v)]
        saved = [t.detach().clone() for t in held]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            for t, old in zip(held, saved):
                t.copy_(old)
            if fresh:
                {reset}
        self.opt.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._step()
        self._grads = [p.grad for p in self.net.parameters()]

    @torch.enable_grad()
    def forward(self, x, y):
        owner = (self.net.training, *(t.data_ptr() for t in (*self.net.parameters(), *self.net.buffers())))
        if self._owner != owner:
            self._capture(x, y)
            self._owner = owner
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
        self._graph.replay()
        for p, grad in zip(self.net.parameters(), self._grads):
            p.grad = grad.clone()
        return self._loss.clone()
"""
_CLEARED = """for s in self.opt.state.values():
                    for v in s.values():
                        if torch.is_tensor(v):
                            v.zero_()"""
_MOMENTA_CLEARED = """for s in self.opt.state.values():
                    for k, v in s.items():
                        if torch.is_tensor(v):
                            v.fill_(1.0) if k == "mu_product" else v.zero_()"""
_IMAGES = (
    "nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), "
    "nn.Conv2d(8, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))",
    'x = "float32[8, 1, 8, 8]", y = "int64[8] in 0..9"',
    "F.cross_entropy(self.net(x), y)",
)
_ROWS = (
    "nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2))",
    'x = "float32[4, 8]", y = "float32[4, 2]"',
    "F.mse_loss(self.net(x), y)",
)


def _trainer(
    name: str, why: str, parts: tuple[str, str, str], kind: str, args: str, reset: str = _CLEARED
) -> Pair:
    net, inputs, loss = parts
    target = (
        f'entry = "program:Trainer"\ninputs = {{ {inputs} }}\ndims = {{}}\nmode = "train"\ndevice = "cuda"\n'
    )
    made = {"net": net, "opt": kind, "args": args, "loss": loss, "cap": ", capturable=True", "reset": reset}
    before, after = FUNCTIONAL + _BEFORE.format(**made), FUNCTIONAL + _AFTER.format(**made)
    return control(name, "training", why, target, before, after)


IMAGES = _trainer(
    "images_learnt_by_capturable_adam",
    "Gradients of weights before a BatchNorm are roundings, of which Adam makes whole steps: only the capturable form of the original tells what is right.",
    _IMAGES,
    "Adam",
    "lr=0.001",
)
ROWS = _trainer(
    "rows_learnt_by_capturable_nadam",
    "The product of the momentums starts at one, on the device.",
    _ROWS,
    "NAdam",
    "lr=0.002",
    _MOMENTA_CLEARED,
)
SIGNED = _trainer(
    "rows_learnt_by_capturable_radam",
    "Whether a step is rectified is decided on the device.",
    _ROWS,
    "RAdam",
    "lr=0.01",
)

PAIRS: tuple[Pair, ...] = (
    IMAGES,
    IMAGES.mutant("images_moments_of_warmup", "state", "The moments of the warmup stay.", (_CLEARED, "pass")),
    IMAGES.mutant(
        "images_statistics_of_warmup",
        "state",
        "Running statistics keep three updates of the warmup.",
        ("held = [*self.net.parameters(), *self.net.buffers()]", "held = [*self.net.parameters()]"),
    ),
    IMAGES.mutant(
        "images_with_a_greater_epsilon",
        "state|attributes",
        "Adam's epsilon is 1e-7.",
        ("lr=0.001, capturable=True", "lr=0.001, eps=1e-7, capturable=True"),
    ),
    IMAGES.mutant(
        "images_rate_a_percent_off",
        "state|attributes",
        "The rate is a percent larger.",
        ("lr=0.001, capturable=True", "lr=0.00101, capturable=True"),
    ),
    IMAGES.mutant(
        "images_largest_moments_kept",
        "state|attributes",
        "AMSGrad instead of Adam: the same for as long as moments grow.",
        ("lr=0.001, capturable=True", "lr=0.001, amsgrad=True, capturable=True"),
    ),
    IMAGES.mutant(
        "images_weights_decay",
        "state|attributes",
        "A weight decay of 1e-4.",
        ("lr=0.001, capturable=True", "lr=0.001, weight_decay=1e-4, capturable=True"),
    ),
    ROWS,
    ROWS.mutant(
        "rows_momentums_multiplied_in_warmup",
        "state|attributes",
        "The product of the momentums keeps three factors of the warmup.",
        ('v.fill_(1.0) if k == "mu_product" else v.zero_()', 'None if k == "mu_product" else v.zero_()'),
    ),
    SIGNED,
    SIGNED.mutant(
        "rows_steps_of_warmup_counted",
        "state|attributes",
        "The count of steps starts at three, so that rectifying starts early.",
        (
            "for v in s.values():\n                        if torch.is_tensor(v):",
            'for k, v in s.items():\n                        if torch.is_tensor(v) and k != "step":',
        ),
    ),
)
