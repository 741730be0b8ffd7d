# ruff: noqa: E501  (lines of quoted programs)
"""Whole training steps with optimizers and schedules, branches on numbers, limits of counters."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL, GRAPH, TORCH

H = TORCH + CAPTURE + ADDRESSES
GR = TORCH + GRAPH + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'
TR = 'mode = "train"\ndevice="cuda"\n'

WHOLE_STEP_STATIC_GRADS = control(
    "whole_step_static_grads",
    "training",
    "Forward, backward and SGD are one graph as in PyTorch's documentation; p.grad is the graph's memory, written anew by each replay.",
    'entry="program:Step"\ninputs={x="float32[4, 6]", y="float32[4, 1]"}\ndims={}\n' + TR,
    FUNCTIONAL
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
    @torch.enable_grad()
    def forward(self, x, y):
        self.opt.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.net(x), y)
        loss.backward()
        self.opt.step()
        return loss.detach()
""",
    FUNCTIONAL
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self._graph = None
        self._owner = None
    def _step(self):
        loss = F.mse_loss(self.net(self._x), self._y)
        loss.backward()
        self.opt.step()
        return loss.detach()
    @torch.enable_grad()
    def forward(self, x, y):
        owner = tuple(p.data_ptr() for p in self.net.parameters())
        if self._owner != owner:
            self._x, self._y = x.detach().clone(), y.detach().clone()
            saved = [p.detach().clone() for p in self.net.parameters()]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.opt.zero_grad(set_to_none=True)
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.no_grad():
                for p, s in zip(self.net.parameters(), saved):
                    p.copy_(s)
            self.opt.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self._step()
            self._grads = [p.grad for p in self.net.parameters()]
            self._owner = owner
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
        self._graph.replay()
        return self._loss.clone()
""",
)

ADAM_TENSOR_LR_SCHEDULE = control(
    "adam_tensor_lr_schedule",
    "training",
    "AdamW became capturable with its rate in a tensor; moments and counts of the warmup are cleared.",
    'entry="program:Step"\ninputs={x="float32[4, 6]", y="float32[4, 1]"}\ndims={}\n' + TR,
    FUNCTIONAL
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=0.01)
        self.steps = 0
    @torch.enable_grad()
    def forward(self, x, y):
        for group in self.opt.param_groups:
            group["lr"] = 0.01 * 0.9 ** (self.steps // 3)
        self.steps += 1
        self.opt.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.net(x), y)
        loss.backward()
        self.opt.step()
        return loss.detach()
""",
    FUNCTIONAL
    + """
class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.opt = None
        self.steps = 0
        self._graph = None
        self._owner = None
    def _step(self):
        loss = F.mse_loss(self.net(self._x), self._y)
        loss.backward()
        self.opt.step()
        return loss.detach()
    @torch.enable_grad()
    def forward(self, x, y):
        if self.opt is None:
            self._lr = torch.tensor(0.01, device=x.device)
            self.opt = torch.optim.AdamW(self.net.parameters(), lr=self._lr, capturable=True)
        owner = tuple(p.data_ptr() for p in self.net.parameters())
        if self._owner != owner:
            self._x, self._y = x.detach().clone(), y.detach().clone()
            held = list(self.net.parameters())
            for s in self.opt.state.values():
                held += [v for v in s.values() if torch.is_tensor(v)]
            saved = [p.detach().clone() for p in held]
            fresh = not self.opt.state
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.opt.zero_grad(set_to_none=True)
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.no_grad():
                for p, s in zip(held, saved):
                    p.copy_(s)
                if fresh:
                    for s in self.opt.state.values():
                        for v in s.values():
                            v.zero_()
            self.opt.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self._step()
            self._owner = owner
        with torch.no_grad():
            self._x.copy_(x)
            self._y.copy_(y)
            self._lr.fill_(0.01 * 0.9 ** (self.steps // 3))
        self.steps += 1
        self._graph.replay()
        return self._loss.clone()
""",
)

NUMERIC_ITEM_BRANCH = control(
    "numeric_item_branch",
    "branches",
    "A number read with item() chooses among three graphs.",
    'entry="program:Gate"\ninputs={x="float32[B, 8]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 1)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
    def forward(self, x):
        s = torch.sigmoid(self.score(x)).mean().item()
        if s > 0.9:
            return self.a(x)
        elif s < 0.2:
            return self.b(x)
        return x * 2
""",
    H
    + """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 1)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self._graphs = {}
    def _s(self, x):
        return torch.sigmoid(self.score(x)).mean()
    def _twice(self, x):
        return x * 2
    def _run(self, name, x):
        fn = getattr(self, name)
        if torch.is_grad_enabled():
            return fn(x)
        key = (name, tuple(x.shape), addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: fn(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
    def forward(self, x):
        s = self._run("_s", x).item()
        if s > 0.9:
            return self._run("a", x)
        if s < 0.2:
            return self._run("b", x)
        return self._run("_twice", x)
""",
)

EARLY_EXIT_CONFIDENCE = control(
    "early_exit_confidence",
    "branches",
    "Both parts of the network are graphs; the host reads whether all rows are sure.",
    'entry="program:Exit"\ninputs={x="float32[B, 16]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Exit(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head1 = nn.Linear(16, 5)
        self.second = nn.Linear(16, 16)
        self.head2 = nn.Linear(16, 5)
    def forward(self, x):
        h = self.norm(torch.relu(self.first(x)))
        p = torch.softmax(self.head1(h), -1)
        if (p.max(-1).values > 0.4).all():
            return p
        return torch.softmax(self.head2(torch.relu(self.second(h))), -1)
""",
    GR
    + """
class Exit(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head1 = nn.Linear(16, 5)
        self.second = nn.Linear(16, 16)
        self.head2 = nn.Linear(16, 5)
        self._one, self._two = {}, {}
    def _a(self, x):
        h = self.norm(torch.relu(self.first(x)))
        p = torch.softmax(self.head1(h), -1)
        return h, p, (p.max(-1).values > 0.4).all()
    def _b(self, h):
        return torch.softmax(self.head2(torch.relu(self.second(h))), -1)
    def forward(self, x):
        if torch.is_grad_enabled():
            h, p, sure = self._a(x)
            return p if sure else self._b(h)
        key = (tuple(x.shape), addresses(self))
        if key not in self._one:
            self._one[key] = Graph(self._a, x)
            self._two[key] = Graph(self._b, self._one[key].outputs[0])
        h, p, sure = self._one[key](x)
        if sure:
            return p.clone()
        return self._two[key](h).clone()
""",
)

NOISE_DRAWN_INTO_STATIC = control(
    "noise_drawn_into_static",
    "rng",
    "Noise is drawn outside the graph, and only when it is asked for.",
    'entry="program:Noisy"\ninputs={x="float32[B, 4]", scale="float in 0.0..1.0"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
    def forward(self, x, scale):
        if scale > 0:
            x = x + scale * torch.randn_like(x)
        return self.lin(x)
""",
    H
    + """
class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, x, scale):
        if scale > 0:
            x = x + scale * torch.randn_like(x)
        if torch.is_grad_enabled():
            return self.lin(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.lin(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

DROPOUT_TRAIN_FORWARD_BACKWARD = control(
    "dropout_train_forward_backward",
    "rng",
    "Training stays eager, and only evaluation replays.",
    'entry="program:Drop"\ninputs={x="float32[B, 6]"}\ndims={B=[2,4]}\n' + TR,
    TORCH
    + """
class Drop(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2))
    def forward(self, x):
        return self.net(x)
""",
    H
    + """
class Drop(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2))
        self._graphs = {}
    def forward(self, x):
        if torch.is_grad_enabled() or self.training:
            return self.net(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self.net(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

REFRESH_EVERY_FIFTY = control(
    "refresh_every_fifty",
    "state",
    "The anchor is refreshed by every fiftieth call, outside the graph.",
    'entry="program:Refresh"\ninputs={x="float32[4]"}\ndims={}\n' + INF,
    TORCH
    + """
class Refresh(nn.Module):
    def __init__(self, period=50):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("anchor", torch.zeros(4))
        self.period = period
        self.calls = 0
    def forward(self, x):
        if self.calls % self.period == 0:
            self.anchor.copy_(x)
        self.calls += 1
        return self.lin(x - self.anchor)
""",
    H
    + """
class Refresh(nn.Module):
    def __init__(self, period=50):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("anchor", torch.zeros(4))
        self.period = period
        self.calls = 0
        self._graphs = {}
    def _run(self, x):
        return self.lin(x - self.anchor)
    def forward(self, x):
        if self.calls % self.period == 0:
            self.anchor.copy_(x)
        self.calls += 1
        if torch.is_grad_enabled():
            return self._run(x)
        key = addresses(self)
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

KV_ROOM_FORTY = control(
    "kv_room_forty",
    "state",
    "A cache grown by cat became one of forty slots with the position on the device.",
    'entry="program:Decode"\ninputs={x="float32[8]", reset="bool"}\ndims={}\n' + INF,
    TORCH
    + """
class Decode(nn.Module):
    def __init__(self, dim=8, room=40):
        super().__init__()
        self.room = room
        self.kv = nn.Linear(dim, 2 * dim)
        self._keys = None
    def forward(self, x, reset):
        k, v = self.kv(x).chunk(2, -1)
        if reset or self._keys is None or self._keys.shape[0] == self.room:
            self._keys, self._values = k[None], v[None]
        else:
            self._keys = torch.cat([self._keys, k[None]])
            self._values = torch.cat([self._values, v[None]])
        return torch.softmax(self._keys @ x, 0) @ self._values
""",
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Decode(nn.Module):
    def __init__(self, dim=8, room=40):
        super().__init__()
        self.room = room
        self.kv = nn.Linear(dim, 2 * dim)
        self._used = 0
        self._graph = None
    def _run(self):
        k, v = self.kv(self._x).chunk(2, -1)
        self._k.index_copy_(0, self._at, k[None])
        self._v.index_copy_(0, self._at, v[None])
        later = torch.arange(self.room, device=k.device) > self._at
        return torch.softmax((self._k @ self._x).masked_fill(later, float("-inf")), 0) @ self._v
    def forward(self, x, reset):
        if self._graph is None:
            self._x = x.clone()
            self._k, self._v = x.new_zeros(self.room, 8), x.new_zeros(self.room, 8)
            self._at = torch.zeros(1, dtype=torch.int64, device=x.device)
        if self._graph is None or self._owner != addresses(self):
            self._graph, self._out = capture_step(self._run, [self._k, self._v])
            self._owner = addresses(self)
        if reset or self._used == self.room:
            self._used = 0
            self._k.zero_(); self._v.zero_()
        self._x.copy_(x)
        self._at.fill_(self._used)
        self._used += 1
        self._graph.replay()
        return self._out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    WHOLE_STEP_STATIC_GRADS,
    WHOLE_STEP_STATIC_GRADS.mutant(
        "static_gradients_accumulate",
        "gradients|state",
        "Gradients were zeros instead of None at capture, so that every replay adds to them.",
        (
            "            self.opt.zero_grad(set_to_none=True)\n            self._graph = torch",
            "            self.opt.zero_grad(set_to_none=False)\n            self._graph = torch",
        ),
    ),
    WHOLE_STEP_STATIC_GRADS.mutant(
        "warmup_steps_kept",
        "state|result",
        "The steps of the warmup are not taken back.",
        ("                    p.copy_(s)\n", "                    pass\n"),
    ),
    ADAM_TENSOR_LR_SCHEDULE,
    ADAM_TENSOR_LR_SCHEDULE.mutant(
        "adam_state_of_warmup",
        "state",
        "Moments and step count are those after the warmup.",
        ("                            v.zero_()\n", "                            pass\n"),
    ),
    ADAM_TENSOR_LR_SCHEDULE.mutant(
        "adam_step_not_reset",
        "state",
        "Moments are cleared, the step count is not.",
        (
            "                        for v in s.values():\n                            v.zero_()\n",
            "                        s['exp_avg'].zero_(); s['exp_avg_sq'].zero_()\n",
        ),
    ),
    ADAM_TENSOR_LR_SCHEDULE.mutant(
        "adam_rate_frozen",
        "state|gradients|attributes",
        "The tensor with the rate is never filled again.",
        ("            self._lr.fill_(0.01 * 0.9 ** (self.steps // 3))\n", ""),
    ),
    ADAM_TENSOR_LR_SCHEDULE.mutant(
        "adam_no_decay",
        "state",
        "Adam stands for AdamW: weights no longer decay.",
        (
            "torch.optim.AdamW(self.net.parameters(), lr=self._lr, capturable=True)",
            "torch.optim.Adam(self.net.parameters(), lr=self._lr, capturable=True)",
        ),
    ),
    ADAM_TENSOR_LR_SCHEDULE.mutant(
        "adam_rate_one_late",
        "state",
        "The rate falls one step late.",
        (
            "            self._lr.fill_(0.01 * 0.9 ** (self.steps // 3))\n        self.steps += 1\n",
            "            self._lr.fill_(0.01 * 0.9 ** ((self.steps - 1) // 3))\n        self.steps += 1\n",
        ),
    ),
    NUMERIC_ITEM_BRANCH,
    NUMERIC_ITEM_BRANCH.mutant(
        "numeric_threshold_moved",
        "result",
        "The upper limit is 0.95 instead of 0.9.",
        ("if s > 0.9:", "if s > 0.95:"),
    ),
    NUMERIC_ITEM_BRANCH.mutant(
        "numeric_low_threshold_moved",
        "result",
        "The lower limit is 0.1 instead of 0.2.",
        ("if s < 0.2:", "if s < 0.1:"),
    ),
    NUMERIC_ITEM_BRANCH.mutant(
        "numeric_side_missing",
        "result",
        "Low scores take the side in the middle.",
        ('        if s < 0.2:\n            return self._run("b", x)\n', ""),
    ),
    EARLY_EXIT_CONFIDENCE,
    EARLY_EXIT_CONFIDENCE.mutant(
        "exit_any_instead_of_all",
        "result",
        "One sure row lets all rows out.",
        ("(p.max(-1).values > 0.4).all()", "(p.max(-1).values > 0.4).any()"),
    ),
    EARLY_EXIT_CONFIDENCE.mutant(
        "exit_threshold_moved",
        "result",
        "Rows must be a little surer.",
        ("(p.max(-1).values > 0.4).all()", "(p.max(-1).values > 0.45).all()"),
    ),
    NOISE_DRAWN_INTO_STATIC,
    NOISE_DRAWN_INTO_STATIC.mutant(
        "noise_drawn_even_at_zero",
        "random",
        "Noise is drawn although its scale is zero: later numbers are other ones.",
        (
            "        if scale > 0:\n            x = x + scale * torch.randn_like(x)\n        if torch",
            "        x = x + scale * torch.randn_like(x)\n        if torch",
        ),
    ),
    NOISE_DRAWN_INTO_STATIC.mutant(
        "noise_by_rand",
        "result",
        "Uniform noise of the same spread stands for normal noise.",
        ("torch.randn_like(x)", "(torch.rand_like(x) * 3.46 - 1.73)"),
    ),
    DROPOUT_TRAIN_FORWARD_BACKWARD,
    REFRESH_EVERY_FIFTY,
    REFRESH_EVERY_FIFTY.mutant(
        "refreshed_once_only",
        "state|result",
        "The anchor is set by the first call alone.",
        ("if self.calls % self.period == 0:", "if self.calls == 0:"),
    ),
    KV_ROOM_FORTY,
    KV_ROOM_FORTY.mutant(
        "room_never_ends",
        "result|exception",
        "A full cache overwrites its last slot instead of starting again.",
        ("if reset or self._used == self.room:", "if reset:"),
        ("self._at.fill_(self._used)", "self._at.fill_(min(self._used, self.room - 1))"),
    ),
    KV_ROOM_FORTY.mutant(
        "room_ends_one_early",
        "result",
        "The cache starts again one call early.",
        ("self._used == self.room:", "self._used == self.room - 1:"),
    ),
    KV_ROOM_FORTY.mutant(
        "rows_of_longer_sequence_left_kv",
        "result",
        "Slots not yet written take part with a score of zero.",
        ('masked_fill(later, float("-inf"))', "masked_fill(later, 0.0)"),
    ),
)
