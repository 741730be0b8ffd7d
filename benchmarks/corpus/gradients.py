# ruff: noqa: E501  (lines of quoted programs)
"""Backward passes: own functions, ties and corners of derivatives, penalties, per-sample gradients, two players."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL

TRAIN = 'mode = "train"\ndevice = "cuda"\n'
X = 'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\ngrad = ["x"]\n' + TRAIN

STRAIGHT = control(
    "rounding_with_a_straight_gradient",
    "training",
    "Rounding passes gradients on, within the range alone.",
    X,
    FUNCTIONAL
    + """
class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(-1, 1).mul(4).round() / 4
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
    def forward(self, x):
        return Round.apply(x) * self.scale
""",
    FUNCTIONAL
    + """
class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward((x >= -1) & (x <= 1))
        return torch.round(torch.clamp(x, -1, 1) * 4) * 0.25
    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        return torch.mul(grad, inside)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
    def forward(self, x):
        return torch.mul(Round.apply(x), self.scale)
""",
)

GREATEST = control(
    "greatest_gets_the_gradient",
    "training",
    "Of equal values the one that max names gets the gradient.",
    X,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        return x.max(-1).values * self.scale + x.norm(dim=-1)
""",
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        top, _ = torch.max(x, dim=-1)
        return torch.addcmul(torch.linalg.vector_norm(x, dim=-1), top, self.scale)
""",
)

RECTIFIED = control(
    "rectifier_is_flat_at_zero",
    "training",
    "At zero the derivative of the rectifier is zero.",
    X,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
    def forward(self, x):
        return F.relu(x) * self.scale + x.abs()
""",
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6))
    def forward(self, x):
        return torch.relu(x).mul(self.scale).add(torch.abs(x))
""",
)

REVERSED = control(
    "gradient_turned_round",
    "training",
    "The domain head learns, and what is below it learns the opposite, by a factor that the caller gives.",
    'entry = "program:Net"\ninputs = { x = "float32[4, 5]", y = "float32[4]", strength = "float in 0.1..2.0" }\ndims = {}\n'
    + TRAIN,
    FUNCTIONAL
    + """
class Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)
    @staticmethod
    def backward(ctx, grad):
        return grad * -ctx.strength, None

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.domain = nn.Linear(4, 1)
    @torch.enable_grad()
    def forward(self, x, y, strength):
        hidden = torch.tanh(self.body(x.detach()))
        loss = F.mse_loss(self.domain(Turn.apply(hidden, strength)).squeeze(-1), y.detach())
        for p in self.parameters():
            p.grad = None
        loss.backward()
        with torch.no_grad():
            for p in self.parameters():
                p.sub_(p.grad, alpha=0.05)
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.save_for_backward(strength)
        return x.view_as(x)
    @staticmethod
    def backward(ctx, grad):
        return grad * -ctx.saved_tensors[0], None

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.domain = nn.Linear(4, 1)
        self._graph = None
    def _step(self):
        hidden = torch.tanh(self.body(self._x))
        loss = F.mse_loss(self.domain(Turn.apply(hidden, self._strength)).squeeze(-1), self._y)
        grads = torch.autograd.grad(loss, list(self.parameters()))
        with torch.no_grad():
            for p, g in zip(self.parameters(), grads):
                p.sub_(g, alpha=0.05)
        return loss.detach(), grads
    @torch.enable_grad()
    def forward(self, x, y, strength):
        if self._graph is None or self._owner != addresses(self):
            self._x, self._y = x.detach().clone(), y.detach().clone()
            self._strength = torch.full((), strength, device=x.device)
            self._graph, (self._loss, self._grads) = capture_step(self._step, list(self.parameters()))
            self._owner = addresses(self)
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
            self._strength.fill_(strength)
        self._graph.replay()
        for p, g in zip(self.parameters(), self._grads):
            p.grad = g.clone()
        return self._loss.clone()
""",
)

PENALTY = control(
    "critic_with_a_penalty_on_its_slope",
    "training",
    "The critic's loss has the slope at a point between real and made data, drawn anew in each call.",
    'entry = "program:Net"\ninputs = { real = "float32[3, 4]", made = "float32[3, 4]" }\ndims = {}\n' + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    def forward(self, real, made):
        share = torch.rand(real.shape[0], 1, device=real.device)
        between = (share * real + (1 - share) * made).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.square().sum(-1).add(1e-6).sqrt() - 1).square().mean()
        return self.critic(made).mean() - self.critic(real).mean() + 10 * penalty
""",
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    def forward(self, real, made):
        share = torch.rand(real.shape[0], 1, device=real.device)
        between = (real * share + made * (1 - share)).detach().requires_grad_()
        slope = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)[0]
        length = slope.square().sum(-1).add(1e-6).sqrt()
        penalty = (length - 1).pow(2).mean()
        return (self.critic(made) - self.critic(real)).mean() + penalty * 10
""",
)

PRIVATE = control(
    "gradients_clipped_one_by_one",
    "training",
    "Each sample's gradient is clipped, then they are added up; noise is drawn for the sum.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 5]", y = "float32[B]", noise = "float in 0.0..1.0" }\ndims = { B = [1, 5] }\n'
    + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5))
    @torch.no_grad()
    def forward(self, x, y, noise):
        total = torch.zeros_like(self.weight)
        for one, wanted in zip(x, y):
            grad = 2 * (one @ self.weight - wanted) * one
            total += grad * (1.0 / grad.norm().clamp(min=1.0))
        total += noise * torch.randn_like(total)
        self.weight.sub_(0.1 * total / x.shape[0])
        return total
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5))
        self._graphs = {}
    def _sum(self, x, y):
        grads = 2 * ((x * self.weight).sum(-1) - y)[:, None] * x
        factors = grads.norm(dim=-1, keepdim=True).clamp(min=1.0).reciprocal()
        total = (grads * factors).sum(0)
        return total
    @torch.no_grad()
    def forward(self, x, y, noise):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            held = (x.detach().clone(), y.detach().clone())
            self._graphs[key] = (held, *capture(lambda: self._sum(*held)))
        held, graph, out = self._graphs[key]
        held[0].copy_(x)
        held[1].copy_(y)
        graph.replay()
        total = out.clone()
        total = total + noise * torch.randn_like(total)
        self.weight.sub_(0.1 * total / x.shape[0])
        return total
""",
)

PLAYERS = control(
    "two_players_take_turns",
    "training",
    "The judge learns from made data cut off from the maker, then the maker learns through the judge.",
    'entry = "program:Net"\ninputs = { x = "float32[4, 3]" }\ndims = {}\n' + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.judge = nn.Linear(2, 3), nn.Linear(3, 1)
        self.making = torch.optim.SGD(self.maker.parameters(), lr=0.05)
        self.judging = torch.optim.SGD(self.judge.parameters(), lr=0.05, momentum=0.5)
    @torch.enable_grad()
    def forward(self, x):
        made = self.maker(torch.randn(x.shape[0], 2, device=x.device))
        self.judging.zero_grad()
        judged = F.softplus(-self.judge(x.detach())).mean() + F.softplus(self.judge(made.detach())).mean()
        judged.backward()
        self.judging.step()
        self.making.zero_grad()
        fooled = F.softplus(-self.judge(made)).mean()
        fooled.backward()
        self.making.step()
        return judged.detach(), fooled.detach()
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.judge = nn.Linear(2, 3), nn.Linear(3, 1)
        self.making = torch.optim.SGD(self.maker.parameters(), lr=0.05)
        self.judging = torch.optim.SGD(self.judge.parameters(), lr=0.05, momentum=0.5)
        self._graph = None
    def _judged(self):
        judged = F.softplus(self.judge(self._x).neg()).mean() + F.softplus(self.judge(self._made)).mean()
        return judged.detach(), torch.autograd.grad(judged, list(self.judge.parameters()))
    @torch.enable_grad()
    def forward(self, x):
        made = self.maker(torch.randn(x.shape[0], 2, device=x.device))
        held = made.detach()
        if self._graph is None or self._owner != addresses(self):
            self._x, self._made = x.detach().clone(), held.clone()
            self._graph, self._out = capture(self._judged)
            self._owner = addresses(self)
        with torch.no_grad():
            self._x.copy_(x)
            self._made.copy_(held)
        self._graph.replay()
        judged = self._out[0].clone()
        for p, grad in zip(self.judge.parameters(), self._out[1]):
            p.grad = grad.clone()
        self.judging.step()
        self.making.zero_grad(set_to_none=True)
        fooled = F.softplus(self.judge(made).neg()).mean()
        fooled.backward()
        self.making.step()
        return judged.detach(), fooled.detach()
""",
)

SPECTRAL = control(
    "weight_over_its_greatest_stretch",
    "training",
    "The direction of greatest stretch is improved by a step in training, and left alone in evaluation.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 5]" }\ndims = { B = [1, 4] }\n' + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.register_buffer("u", F.normalize(torch.randn(4), dim=0))
    def forward(self, x):
        with torch.no_grad():
            v = F.normalize(self.weight.t() @ self.u, dim=0, eps=1e-6)
            if self.training:
                self.u.copy_(F.normalize(self.weight @ v, dim=0, eps=1e-6))
        stretch = torch.dot(self.u.clone(), self.weight @ v)
        return x @ (self.weight / stretch).t()
""",
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.register_buffer("u", F.normalize(torch.randn(4), dim=0))
    @torch.no_grad()
    def _directions(self):
        v = F.normalize(torch.mv(self.weight.t(), self.u), dim=0, eps=1e-6)
        if self.training:
            self.u.copy_(F.normalize(torch.mv(self.weight, v), dim=0, eps=1e-6))
        return self.u.clone(), v
    def forward(self, x):
        u, v = self._directions()
        stretch = (u * torch.mv(self.weight, v)).sum()
        return F.linear(x, self.weight / stretch)
""",
)

BOUNDED = control(
    "rows_shortened_where_they_are_looked_up",
    "state",
    "Looking up rows shortens those that are too long, in the table itself.",
    'entry = "program:Net"\ninputs = { ids = "int64[B, 2] in 0..7" }\ndims = { B = [1, 3] }\n'
    + 'mode = "eval"\ndevice = "cuda"\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4, max_norm=1.0).requires_grad_(False)
        self.head = nn.Linear(4, 3).requires_grad_(False)
    def forward(self, ids):
        return self.head(self.table(ids).sum(1))
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4, max_norm=1.0).requires_grad_(False)
        self.head = nn.Linear(4, 3).requires_grad_(False)
        self._graphs = {}
    def _run(self, ids):
        return self.head(F.embedding(ids, self.table.weight).sum(1))
    def forward(self, ids):
        with torch.no_grad():
            self.table(ids)
        key = (ids.shape, addresses(self))
        if key not in self._graphs:
            static = ids.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(ids)
        graph.replay()
        return out.clone()
""",
)

STEPPED = control(
    "stepped_inside_the_backward_pass",
    "training",
    "Every parameter is stepped as soon as its gradient is there, by a hook, and the gradient is thrown away.",
    'entry = "program:Net"\ninputs = { x = "float32[4, 5]", y = "float32[4]" }\ndims = {}\nvary = ["values", "arguments", "kept outputs", "mutation", "reseeding", "instances"]\n'
    + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
        for p in self.net.parameters():
            p.register_post_accumulate_grad_hook(self.step)
    @staticmethod
    @torch.no_grad()
    def step(p):
        p.sub_(p.grad.sign(), alpha=0.01)
        p.grad = None
    @torch.enable_grad()
    def forward(self, x, y):
        loss = F.l1_loss(self.net(x.detach()).squeeze(-1), y.detach())
        loss.backward()
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
        self._graph = None
    @staticmethod
    @torch.no_grad()
    def step(p):
        p.sub_(p.grad.sign(), alpha=0.01)
        p.grad = None
    def _whole(self):
        loss = F.l1_loss(self.net(self._x).squeeze(-1), self._y)
        with torch.no_grad():
            for p, grad in zip(self.parameters(), torch.autograd.grad(loss, list(self.parameters()))):
                p.sub_(grad.sign(), alpha=0.01)
        return loss.detach()
    @torch.enable_grad()
    def forward(self, x, y):
        if self._graph is None or self._owner != addresses(self):
            self._x, self._y = x.detach().clone(), y.detach().clone()
            self._graph, self._loss = capture_step(self._whole, list(self.parameters()))
            self._owner = addresses(self)
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
        self._graph.replay()
        return self._loss.clone()
""",
)

THAWED = control(
    "base_learns_when_the_caller_says_so",
    "training",
    "A flag of the call decides whether the base learns; each has its own graph.",
    'entry = "program:Net"\ninputs = { x = "float32[4, 5]", y = "float32[4]", thawed = "bool" }\ndims = {}\n'
    + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(5, 4), nn.Linear(4, 1)
    @torch.enable_grad()
    def forward(self, x, y, thawed):
        self.base.requires_grad_(thawed)
        loss = F.mse_loss(self.head(torch.tanh(self.base(x.detach()))).squeeze(-1), y.detach())
        self.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in self.parameters():
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.1)
        return loss.detach()
""",
    FUNCTIONAL
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(5, 4), nn.Linear(4, 1)
        self._graphs = {}
    def _step(self, x, y, learning):
        loss = F.mse_loss(self.head(torch.tanh(self.base(x))).squeeze(-1), y)
        grads = torch.autograd.grad(loss, learning)
        with torch.no_grad():
            for p, g in zip(learning, grads):
                p.sub_(g, alpha=0.1)
        return loss.detach(), grads
    @torch.enable_grad()
    def forward(self, x, y, thawed):
        self.base.requires_grad_(thawed)
        learning = list(self.parameters() if thawed else self.head.parameters())
        key = (thawed, addresses(self))
        if key not in self._graphs:
            sx, sy = x.detach().clone(), y.detach().clone()
            self._graphs[key] = (sx, sy, *capture_step(lambda: self._step(sx, sy, learning), learning))
        sx, sy, graph, (loss, grads) = self._graphs[key]
        with torch.no_grad():
            sx.copy_(x)
            sy.copy_(y)
        graph.replay()
        self.zero_grad()
        for p, g in zip(learning, grads):
            p.grad = g.clone()
        return loss.clone()
""",
)

RECOMPUTED = control(
    "block_is_not_computed_twice",
    "training",
    "A block with dropout is no longer computed again in the backward pass; the mask is the same.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 4] }\n' + TRAIN,
    FUNCTIONAL
    + """
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.4), nn.Linear(8, 6))
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return self.head(x + checkpoint(self.block, x, use_reentrant=False))
""",
    FUNCTIONAL
    + """
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.4), nn.Linear(8, 6))
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        hidden = self.block(x)
        return self.head(torch.add(hidden, x))
""",
)

ENSEMBLE = control(
    "members_of_an_ensemble_side_by_side",
    "capture",
    "Four members are computed in one batched product; their weights are stacked in every replay.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 5]" }\ndims = { B = [1, 4] }\nmode = "inference"\ndevice = "cuda"\n',
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(5, 3) for _ in range(4))
    def forward(self, x):
        said = torch.stack([m(x) for m in self.members])
        return said.mean(0), said.var(0)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(5, 3) for _ in range(4))
        self._graphs = {}
    def _run(self, x):
        weights = torch.stack([m.weight for m in self.members])
        said = torch.einsum("bi,moi->mbo", x, weights) + torch.stack([m.bias for m in self.members])[:, None]
        return said.mean(0), said.var(0)
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (mean, var) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return mean.clone(), var.clone()
""",
)

DROPPED = control(
    "whole_paths_dropped_row_by_row",
    "rng",
    "Of each row the branch is dropped or enlarged, in training alone.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 5] }\n' + TRAIN,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(4, 4)
        self.rate = 0.25
    def forward(self, x):
        h = torch.tanh(self.branch(x))
        if not self.training or self.rate == 0:
            return x + h
        keep = x.new_empty(x.shape[0], 1).bernoulli_(1 - self.rate)
        return x + h * keep / (1 - self.rate)
""",
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(4, 4)
        self.rate = 0.25
    def forward(self, x):
        h = torch.tanh(self.branch(x))
        if not self.training or self.rate == 0:
            return torch.add(x, h)
        keep = x.new_empty(x.shape[0], 1).bernoulli_(1 - self.rate).div_(1 - self.rate)
        return torch.addcmul(x, h, keep)
""",
)

PAIRS: tuple[Pair, ...] = (
    STRAIGHT,
    STRAIGHT.mutant(
        "straight_gradient_everywhere",
        "gradients",
        "Gradients pass outside the range as well.",
        ("torch.mul(grad, inside)", "grad.clone()"),
    ),
    STRAIGHT.mutant(
        "straight_gradient_not_at_the_ends",
        "gradients",
        "The ends of the range get no gradient.",
        ("(x >= -1) & (x <= 1)", "(x > -1) & (x < 1)"),
    ),
    GREATEST,
    GREATEST.mutant(
        "greatest_share_the_gradient",
        "gradients",
        "Equal greatest values share the gradient.",
        ("top, _ = torch.max(x, dim=-1)", "top = torch.amax(x, dim=-1)"),
    ),
    GREATEST.mutant(
        "length_without_a_gradient_at_zero",
        "gradients",
        "The root of a sum of squares has no derivative at zero.",
        ("torch.linalg.vector_norm(x, dim=-1)", "x.square().sum(-1).sqrt()"),
    ),
    RECTIFIED,
    RECTIFIED.mutant(
        "rectifier_by_a_clamp",
        "gradients",
        "A clamp lets gradients through at zero.",
        ("torch.relu(x)", "x.clamp(min=0)"),
    ),
    RECTIFIED.mutant(
        "rectifier_by_a_maximum",
        "gradients",
        "At zero the maximum gives each side half.",
        ("torch.relu(x)", "torch.maximum(x, torch.zeros_like(x))"),
    ),
    RECTIFIED.mutant(
        "size_by_a_choice",
        "gradients",
        "At zero the derivative of the size is one.",
        ("torch.abs(x)", "torch.where(x >= 0, x, -x)"),
    ),
    REVERSED,
    REVERSED.mutant(
        "turned_by_the_first_strength",
        "state|result|gradients",
        "The factor of the first call is used for all.",
        ("            self._strength.fill_(strength)\n", ""),
    ),
    REVERSED.mutant(
        "turned_for_the_head_as_well",
        "state|gradients",
        "The head unlearns too.",
        ("p.sub_(g, alpha=0.05)", "p.sub_(g * (-1 if p is self.domain.bias else 1), alpha=0.05)"),
    ),
    PENALTY,
    PENALTY.mutant(
        "penalty_without_its_gradient",
        "gradients",
        "The slope is taken without a graph: the penalty teaches nothing.",
        ("create_graph=True)[0]", "retain_graph=True)[0]"),
    ),
    PENALTY.mutant(
        "penalty_with_one_share_for_all",
        "random|result",
        "One share is drawn for all rows.",
        ("torch.rand(real.shape[0], 1, device=real.device)", "torch.rand(1, 1, device=real.device)"),
    ),
    PENALTY.mutant(
        "penalty_one_sided",
        "result",
        "Slopes below one go free.",
        ("(length - 1).pow(2)", "(length - 1).clamp(min=0).pow(2)"),
    ),
    PRIVATE,
    PRIVATE.mutant(
        "gradients_clipped_together",
        "result|state",
        "The sum is clipped.",
        (
            "total = (grads * factors).sum(0)",
            "total = grads.sum(0)\n        total = total / total.norm().clamp(min=1.0)",
        ),
    ),
    PRIVATE.mutant(
        "small_gradients_enlarged",
        "result|state",
        "Small gradients are enlarged to one.",
        (".clamp(min=1.0).reciprocal()", ".clamp(min=1e-6).reciprocal()"),
    ),
    PRIVATE.mutant(
        "no_noise_where_none_is_asked",
        "random",
        "Nothing is drawn where the noise is zero.",
        (
            "total = total + noise * torch.randn_like(total)",
            "total = total + noise * torch.randn_like(total) if noise else total",
        ),
    ),
    PLAYERS,
    PLAYERS.mutant(
        "judge_learns_from_old_data",
        "state|result|gradients",
        "Made data of the first call is judged for ever.",
        ("            self._made.copy_(held)\n", ""),
    ),
    PLAYERS.mutant(
        "judge_keeps_the_makers_gradients",
        "gradients",
        "What the maker's loss leaves with the judge is cleared.",
        (
            "        self.making.step()\n        return",
            "        self.making.step()\n        self.judging.zero_grad()\n        return",
        ),
    ),
    PLAYERS.mutant(
        "maker_asks_the_old_judge",
        "result|state",
        "The maker's loss is taken before the judge's step.",
        ("        self.judging.step()\n        self.making", "        self.making"),
        (
            "        fooled.backward()\n",
            "        fooled.backward(inputs=list(self.maker.parameters()))\n        self.judging.step()\n",
        ),
    ),
    SPECTRAL,
    SPECTRAL.mutant(
        "direction_moves_in_evaluation",
        "state|result",
        "The direction is improved in evaluation as well.",
        ("        if self.training:\n            self.u.copy_", "        if True:\n            self.u.copy_"),
    ),
    SPECTRAL.mutant(
        "stretch_without_a_gradient",
        "gradients",
        "The stretch is taken for a constant.",
        ("self.weight / stretch)", "self.weight / stretch.detach())"),
    ),
    SPECTRAL.mutant(
        "direction_before_its_step",
        "result",
        "The stretch is that of the direction before its step.",
        (
            "        v = F.normalize(torch.mv",
            "        old = self.u.clone()\n        v = F.normalize(torch.mv",
        ),
        ("return self.u.clone(), v", "return old, v"),
    ),
    BOUNDED,
    BOUNDED.mutant(
        "long_rows_stay_long",
        "result|state",
        "Rows are looked up as they are.",
        ("        with torch.no_grad():\n            self.table(ids)\n", ""),
    ),
    BOUNDED.mutant(
        "long_rows_shortened_once",
        "state|result",
        "Rows are shortened where a graph is made, and not again.",
        ("        with torch.no_grad():\n            self.table(ids)\n        key", "        key"),
        (
            "            static = ids.clone()\n",
            "            static = ids.clone()\n            self.table(ids)\n",
        ),
    ),
    BOUNDED.mutant(
        "short_rows_in_a_copy",
        "state",
        "What is looked up is shortened, the table is not.",
        ("        with torch.no_grad():\n            self.table(ids)\n", ""),
        ("F.embedding(ids, self.table.weight)", "F.embedding(ids, self.table.weight.clone(), max_norm=1.0)"),
    ),
    STEPPED,
    STEPPED.mutant(
        "steps_of_the_hook_lost",
        "state",
        "Parameters wait for a hook that autograd.grad never calls.",
        ("                p.sub_(grad.sign(), alpha=0.01)", "                pass"),
    ),
    STEPPED.mutant(
        "gradients_not_thrown_away",
        "gradients",
        "Gradients stay with the parameters.",
        (
            "                p.sub_(grad.sign(), alpha=0.01)",
            "                p.sub_(grad.sign(), alpha=0.01)\n                p.grad = grad",
        ),
    ),
    THAWED,
    THAWED.mutant(
        "thawed_is_not_in_the_key",
        "state|gradients",
        "The first call's flag decides for all.",
        ("key = (thawed, addresses(self))", "key = addresses(self)"),
        (
            "        for p, g in zip(learning, grads):\n            p.grad",
            "        for p, g in zip(learning[-len(grads):], grads):\n            p.grad",
        ),
    ),
    THAWED.mutant(
        "base_stays_thawed",
        "flags",
        "Whether the base asks for gradients is not told to it.",
        ("        self.base.requires_grad_(thawed)\n        learning", "        learning"),
    ),
    RECOMPUTED,
    RECOMPUTED.mutant(
        "block_computed_twice_with_other_masks",
        "gradients",
        "The block is computed again with a mask of its own.",
        (
            "hidden = self.block(x)",
            "hidden = checkpoint(self.block, x, use_reentrant=False, preserve_rng_state=False)",
        ),
    ),
    RECOMPUTED.mutant(
        "block_cut_off",
        "gradients",
        "What goes around the block has no gradient through it.",
        (
            "hidden = self.block(x)",
            "hidden = self.block(x)\n        hidden = hidden.detach() + (hidden - hidden.detach()) * 0.5",
        ),
    ),
    ENSEMBLE,
    ENSEMBLE.mutant(
        "members_stacked_at_capture",
        "rebinding|state|result",
        "The stack of weights is made once for each graph: changes in place are lost.",
        ("        weights = torch.stack([m.weight for m in self.members])\n", ""),
        ('torch.einsum("bi,moi->mbo", x, weights)', 'torch.einsum("bi,moi->mbo", x, self._weights)'),
        (
            "            static = x.clone()\n",
            "            static = x.clone()\n            self._weights = torch.stack([m.weight for m in self.members])\n",
        ),
    ),
    ENSEMBLE.mutant(
        "spread_over_one_more",
        "result",
        "The variance is divided by the number of members.",
        ("said.var(0)", "said.var(0, unbiased=False)"),
    ),
    DROPPED,
    DROPPED.mutant(
        "whole_batch_dropped_together",
        "random|result",
        "One draw decides for all rows.",
        ("x.new_empty(x.shape[0], 1).bernoulli_", "x.new_empty(1, 1).bernoulli_"),
    ),
    DROPPED.mutant(
        "dropped_without_enlarging", "result", "What stays is not enlarged.", (".div_(1 - self.rate)", "")
    ),
    DROPPED.mutant(
        "paths_drawn_in_evaluation",
        "random",
        "A mask is drawn in evaluation as well, and not used.",
        (
            "            return torch.add(x, h)",
            "            x.new_empty(x.shape[0], 1).bernoulli_(1 - self.rate)\n            return torch.add(x, h)",
        ),
    ),
)
