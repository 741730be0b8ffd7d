# ruff: noqa: E501  # programs as text
"""Training, module state, exceptions, printing, threads, and kinds of results."""

from __future__ import annotations

from .model import Mutant, Pair

NORM = Pair(
    "batch_norm_training",
    "training",
    """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.bn = nn.BatchNorm1d(5)
        self.momentum = 0.9

    @torch.enable_grad()
    def forward(self, x, y):
        loss = F.mse_loss(self.bn(self.a(x)), y)
        grads = torch.autograd.grad(loss, list(self.parameters()))
        with torch.no_grad():
            for p, g in zip(self.parameters(), grads):
                p.sub_(0.1 * g)
        return loss.detach()
""",
    """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.bn = nn.BatchNorm1d(5)
        self.momentum = 0.9
        self._graphs = {}

    def _step(self, x, y):
        loss = F.mse_loss(self.bn(self.a(x)), y)
        return loss.detach(), torch.autograd.grad(loss, list(self.parameters()))

    @torch.enable_grad()
    def forward(self, x, y):
        key = (x.shape, self.training, addresses(self))
        if key not in self._graphs:
            saved = {k: v.clone() for k, v in self.state_dict().items()}
            graph = Graph(self._step, x, y)
            with torch.no_grad():
                for k, v in self.state_dict().items():
                    v.copy_(saved[k])
            self._graphs[key] = graph
        loss, grads = self._graphs[key](x, y)
        with torch.no_grad():
            for p, g in zip(self.parameters(), grads):
                p.sub_(0.1 * g)
        return loss.clone()
""",
    'entry = "program:Net"\ninputs = { x = "float32[B, 5]", y = "float32[B, 5]" }\ndims = { B = [2, 6] }\nmode = "train"',
    (
        Mutant("warmup_counts", (("v.copy_(saved[k])", "pass"),), "state"),
        Mutant(
            "mode_forgotten",
            (("(x.shape, self.training, addresses(self))", "(x.shape, addresses(self))"),),
            "result",
        ),
        Mutant(
            "no_update",
            (("p.sub_(0.1 * g)\n        return loss.clone()", "pass\n        return loss.clone()"),),
            "state",
        ),
        Mutant("loss_shared", (("return loss.clone()", "return loss"),), "aliasing"),
        Mutant("targets_frozen", (("self._graphs[key](x, y)", "self._graphs[key](x)"),), "result"),
    ),
)

GRAD = Pair(
    "gradients_of_parameters",
    "training",
    """
class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
""",
    """
class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 2)

    def forward(self, x):
        h = F.linear(x, self.a.weight, self.a.bias)
        return F.linear(F.relu(h), self.b.weight, self.b.bias)
""",
    'entry = "program:Tower"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 6] }\nmode = "train"\ngrad = ["x"]',
    (
        Mutant("detached", (("F.relu(h)", "F.relu(h).detach()"),), "gradients"),
        Mutant("input_detached", (("F.linear(x, self.a", "F.linear(x.detach(), self.a"),), "input gradients"),
        Mutant("scaled_gradient", (("F.relu(h)", "F.relu(2 * h - h.detach())"),), "gradients"),
        Mutant(
            "no_grad_result",
            (("        return F.linear(h", "        with torch.no_grad():\n            return F.linear(h"),),
            "result",
        ),
    ),
)

MEMORY = Pair(
    "public_state",
    "state",
    """
class Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.last = None
        self.history = []

    def forward(self, x):
        h = self.a(x)
        self.mean.mul_(0.5).add_(h.mean(0), alpha=0.5)
        self.last = h
        self.history.append(float(len(self.history)))
        return h - self.mean
""",
    """
class Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.last = None
        self.history = []
        self._graphs = {}

    def _run(self, x):
        h = self.a(x)
        self.mean.mul_(0.5).add_(h.mean(0), alpha=0.5)
        return h, h - self.mean

    def forward(self, x):
        if torch.is_grad_enabled():
            h, out = self._run(x)
        else:
            key = (x.shape, addresses(self))
            if key not in self._graphs:
                saved = self.mean.clone()
                graph = Graph(self._run, x)
                self.mean.copy_(saved)
                self._graphs[key] = graph
            h, out = (t.clone() for t in self._graphs[key](x))
        self.last = h
        self.history.append(float(len(self.history)))
        return out
""",
    'entry = "program:Ema"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 5] }',
    (
        Mutant("warmup_counts", (("                self.mean.copy_(saved)\n", ""),), "result"),
        Mutant(
            "history_in_region",
            (
                (
                    "        self.history.append(float(len(self.history)))\n        return out",
                    "        return out",
                ),
            ),
            "attributes",
        ),
        Mutant(
            "buffer_renamed",
            (
                (
                    'self.register_buffer("mean", torch.zeros(4))',
                    'self.register_buffer("avg", torch.zeros(4))',
                ),
                ("self.mean", "self.avg"),
            ),
            "state",
        ),
        Mutant(
            "buffer_rebound",
            (
                (
                    "self.mean.mul_(0.5).add_(h.mean(0), alpha=0.5)",
                    "self.mean = self.mean * 0.5 + h.mean(0) * 0.5",
                ),
            ),
            "result",
        ),
        Mutant(
            "last_forgotten",
            (("        self.last = h\n", "        self.last = self.last if self.last is not None else h\n"),),
            "attributes",
        ),
    ),
)

CHECKS = Pair(
    "checks_and_prints",
    "exceptions",
    """
class Safe(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, verbose):
        h = self.a(x)
        if not torch.isfinite(h).all():
            raise ValueError("not finite")
        if verbose:
            print("batch of", len(x))
        return {"h": h, "n": len(x), "kind": "plain"}
""",
    """
class Safe(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self._graphs = {}

    def _run(self, x):
        h = self.a(x)
        return h, torch.isfinite(h).all()

    def forward(self, x, verbose):
        if torch.is_grad_enabled():
            h, fine = self._run(x)
        else:
            key = (x.shape, addresses(self))
            if key not in self._graphs:
                self._graphs[key] = Graph(self._run, x)
            h, fine = self._graphs[key](x)
            h = h.clone()
        if not fine:
            raise ValueError("not finite")
        if verbose:
            print("batch of", len(x))
        return {"h": h, "n": len(x), "kind": "plain"}
""",
    'entry = "program:Safe"\ninputs = { x = "float32[B, 4]", verbose = "bool" }\ndims = { B = [1, 4] }',
    (
        Mutant(
            "check_dropped",
            (('        if not fine:\n            raise ValueError("not finite")\n', ""),),
            "exception",
        ),
        Mutant(
            "other_exception",
            (('raise ValueError("not finite")', 'raise RuntimeError("not finite")'),),
            "exception",
        ),
        Mutant("print_lost", (('            print("batch of", len(x))\n', "            pass\n"),), "printed"),
        Mutant(
            "keys_in_other_order",
            (('{"h": h, "n": len(x), "kind": "plain"}', '{"n": len(x), "h": h, "kind": "plain"}'),),
            "result",
        ),
        Mutant("number_became_tensor", (('"n": len(x)', '"n": torch.tensor(len(x))'),), "result"),
    ),
)

THREADS = Pair(
    "threads",
    "concurrency",
    """
class Serve(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 16)

    def forward(self, x):
        return torch.relu(self.a(x)) * 2
""",
    """
import threading


class Serve(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 16)
        self._graphs = {}
        self._lock = threading.Lock()

    def _run(self, x):
        return torch.relu(self.a(x)) * 2

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        with self._lock:
            key = (x.shape, addresses(self))
            if key not in self._graphs:
                self._graphs[key] = Graph(self._run, x)
            out = self._graphs[key](x).clone()
            torch.cuda.current_stream().synchronize()
            return out
""",
    'entry = "program:Serve"\ninputs = { x = "float32[B, 16]" }\ndims = { B = [1, 3] }\nvary = ["threads"]',
    (
        Mutant("no_lock", (("with self._lock:", "if True:"),), "threads"),
        Mutant(
            "copy_outside_lock",
            (
                (
                    "            out = self._graphs[key](x).clone()\n            torch.cuda.current_stream().synchronize()\n            return out",
                    "            graph = self._graphs[key]\n            for static, arg in zip(graph.inputs, [x]):\n                static.copy_(arg)\n        graph.graph.replay()\n        return graph.outputs.clone()",
                ),
            ),
            "threads",
        ),
    ),
)

PAIRS = (NORM, GRAD, MEMORY, CHECKS, THREADS)
