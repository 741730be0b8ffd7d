# ruff: noqa: E501  (lines of quoted programs)
"""Idioms of training in half precision, recurrent state, sampling, averaged teachers, spectra, all modes."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL, GRAPH, TORCH

H = TORCH + CAPTURE + ADDRESSES
HF = FUNCTIONAL + CAPTURE + ADDRESSES
GR = TORCH + GRAPH + ADDRESSES
INF = 'mode = "inference"\ndevice="cuda"\n'
TR = 'mode = "train"\ndevice="cuda"\n'

SCALED_HALF_TRAINING = control(
    "scaled_half_training",
    "training",
    "A float16 step with a gradient scaler: gradients come from the graph, the scaler works outside.",
    'entry="program:Amp"\ninputs={x="float32[4, 8]", y="float32[4, 2]"}\ndims={}\n' + TR,
    FUNCTIONAL
    + """
class Amp(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    @torch.enable_grad()
    def forward(self, x, y):
        self.opt.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.mse_loss(self.net(x).float(), y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.opt)
        self.scaler.update()
        return loss.detach()
""",
    HF
    + """
class Amp(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
        self._graphs = {}
    def _grads(self, x, y, scale):
        with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            loss = F.mse_loss(self.net(x).float(), y)
        return loss.detach(), torch.autograd.grad(loss * scale, list(self.net.parameters()))
    @torch.enable_grad()
    def forward(self, x, y):
        scale = self.scaler.scale(torch.ones((), device=x.device))
        key = addresses(self)
        if key not in self._graphs:
            s = (x.clone(), y.clone(), scale.clone())
            self._graphs[key] = (s, *capture(lambda: self._grads(*s)))
        s, g, (loss, grads) = self._graphs[key]
        with torch.no_grad():
            for a, b in zip(s, (x, y, scale)):
                a.copy_(b)
        g.replay()
        for p, d in zip(self.net.parameters(), grads):
            p.grad = d.clone()
        self.scaler.step(self.opt)
        self.scaler.update()
        return loss.clone()
""",
)

RECURRENT_STATE_IN_AND_OUT = control(
    "recurrent_state_in_and_out",
    "state",
    "The state goes in as an argument and comes out as a result.",
    'entry="program:Cell"\ninputs={x="float32[B, 4]", h="float32[B, 6]", c="float32[B, 6]"}\ndims={B=[1,4]}\n'
    + INF,
    TORCH
    + """
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
    def forward(self, x, h, c):
        h, c = self.cell(x, (h, c))
        return h, (h, c)
""",
    GR
    + """
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self._graphs = {}
    def _run(self, x, h, c):
        return self.cell(x, (h, c))
    def forward(self, x, h, c):
        if torch.is_grad_enabled():
            h, c = self._run(x, h, c)
            return h, (h, c)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x, h, c)
        h, c = (t.clone() for t in self._graphs[key](x, h, c))
        return h, (h, c)
""",
)

HISTOGRAM_WITH_DUPLICATES = control(
    "histogram_with_duplicates",
    "numerics",
    "Duplicate indices are added by index_add_ inside the graph.",
    'entry="program:Hist"\ninputs={ids="int64[N] in 0..6", w="float32[N]"}\ndims={N=[1,50]}\n' + INF,
    TORCH
    + """
class Hist(nn.Module):
    def forward(self, ids, w):
        out = torch.zeros(7, device=w.device)
        for k in range(7):
            out[k] = w[ids == k].sum()
        return out, ids.bincount(minlength=7)
""",
    GR
    + """
class Hist(nn.Module):
    def __init__(self):
        super().__init__()
        self._graphs = {}
    def _run(self, ids, w):
        out = torch.zeros(7, device=w.device).index_add_(0, ids, w)
        count = torch.zeros(7, dtype=torch.int64, device=w.device).index_add_(0, ids, torch.ones_like(ids))
        return out, count
    def forward(self, ids, w):
        if torch.is_grad_enabled():
            return self._run(ids, w)
        key = tuple(ids.shape)
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, ids, w)
        return tuple(t.clone() for t in self._graphs[key](ids, w))
""",
)

TOP_K_THEN_MULTINOMIAL = control(
    "top_k_then_multinomial",
    "rng",
    "Sampling among the best k inside the graph, from the default generator.",
    'entry="program:Sampler"\ninputs={logits="float32[B, 12]", temperature="float in 0.5..2.0"}\ndims={B=[1,4]}\n'
    + INF,
    TORCH
    + """
class Sampler(nn.Module):
    def __init__(self, k=4):
        super().__init__()
        self.k = k
        self.bias = nn.Parameter(torch.linspace(-1, 1, 12))
    def forward(self, logits, temperature):
        scores, index = ((logits + self.bias).nan_to_num(0.0, 30.0, -30.0).clamp(-30, 30) / temperature).topk(self.k, -1)
        return index.gather(-1, torch.multinomial(scores.softmax(-1), 1))[:, 0]
""",
    H
    + """
class Sampler(nn.Module):
    def __init__(self, k=4):
        super().__init__()
        self.k = k
        self.bias = nn.Parameter(torch.linspace(-1, 1, 12))
        self._graphs = {}
    def _run(self, logits, t):
        scores, index = ((logits + self.bias).nan_to_num(0.0, 30.0, -30.0).clamp(-30, 30) / t).topk(self.k, -1)
        return index.gather(-1, torch.multinomial(scores.softmax(-1), 1))[:, 0]
    def forward(self, logits, temperature):
        if torch.is_grad_enabled():
            return self._run(logits, temperature)
        key = (tuple(logits.shape), self.k, addresses(self))
        if key not in self._graphs:
            state = torch.cuda.get_rng_state()
            s, t = logits.clone(), torch.full((), temperature, device=logits.device)
            self._graphs[key] = (s, t, *capture(lambda: self._run(s, t)))
            torch.cuda.set_rng_state(state)
        s, t, g, o = self._graphs[key]
        s.copy_(logits)
        t.fill_(temperature)
        g.replay()
        return o.clone()
""",
)

TEACHER_BY_RUNNING_MEAN = control(
    "teacher_by_running_mean",
    "state",
    "Student and teacher in one graph; the teacher's weights are written in place.",
    'entry="program:Ema"\ninputs={x="float32[B, 4]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = nn.Linear(4, 4)
    def forward(self, x):
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters()):
                t.mul_(0.9).add_(s, alpha=0.1)
        return self.student(x) - self.teacher(x)
""",
    TORCH
    + CAPTURE_STEP
    + ADDRESSES
    + """
class Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x):
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters()):
                t.mul_(0.9).add_(s, alpha=0.1)
        return self.student(x) - self.teacher(x)
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            s = x.clone()
            self._graphs[key] = (s, *capture_step(lambda: self._run(s), list(self.teacher.parameters())))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

WRITES_INTO_CALLERS_OUT = control(
    "writes_into_callers_out",
    "aliasing",
    "The caller names the tensor that the result is written into.",
    'entry="program:Into"\ninputs={x="float32[B, 4]", out="float32[B, 4]"}\ndims={B=[1,4]}\n' + INF,
    TORCH
    + """
class Into(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
    def forward(self, x, out):
        torch.tanh(self.lin(x), out=out)
        return out
""",
    GR
    + """
class Into(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self._graphs = {}
    def _run(self, x):
        return torch.tanh(self.lin(x))
    def forward(self, x, out):
        if torch.is_grad_enabled():
            with torch.no_grad():
                out.copy_(self._run(x))
            return out
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x)
        return out.copy_(self._graphs[key](x))
""",
)

SPECTRUM_COMPLEX = control(
    "spectrum_complex",
    "numerics",
    "Complex results of a transform are cloned out of the graph.",
    'entry="program:Spec"\ninputs={x="float32[B, 16]"}\ndims={B=[1,5]}\n' + INF,
    TORCH
    + """
class Spec(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(9))
    def forward(self, x):
        f = torch.fft.rfft(x) * self.gain
        return f, torch.fft.irfft(f, n=16)
""",
    GR
    + """
class Spec(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(9))
        self._graphs = {}
    def _run(self, x):
        f = torch.fft.rfft(x) * self.gain
        return f, torch.fft.irfft(f, n=16)
    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (tuple(x.shape), addresses(self))
        if key not in self._graphs:
            self._graphs[key] = Graph(self._run, x)
        f, y = self._graphs[key](x)
        return f.clone(), y.clone()
""",
)

GRAPHED_WITH_EVERY_MODE = control(
    "graphed_with_every_mode",
    "capture",
    "Autocast, gradients, layouts, copies and threads: what is not in the key runs eagerly or behind a lock.",
    'entry="program:Modes"\ninputs={x="float32[B, 6]"}\ndims={B=[1,4]}\nvary=["shapes","values","autocast","grad","strides","deepcopy","rebinding","train/eval"]\n'
    + INF,
    "import copy\n"
    + TORCH
    + """
class Modes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.d = nn.Dropout(0.5)
    def forward(self, x):
        return self.d(torch.tanh(self.a(x)))
""",
    "import copy\n"
    + H
    + """
class Modes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.d = nn.Dropout(0.5)
        self._graphs = {}
    def __deepcopy__(self, memo):
        graphs, self._graphs = self._graphs, {}
        try:
            made = self.__class__.__new__(self.__class__)
            memo[id(self)] = made
            made.__dict__ = copy.deepcopy(self.__dict__, memo)
            return made
        finally:
            self._graphs = graphs
    def _run(self, x):
        return self.d(torch.tanh(self.a(x)))
    def forward(self, x):
        if torch.is_grad_enabled() or self.training or torch.is_autocast_enabled("cuda"):
            return self._run(x)
        key = (tuple(x.shape), x.stride(), torch.is_inference_mode_enabled(), addresses(self))
        if key not in self._graphs:
            s = torch.empty_strided(x.shape, x.stride(), device=x.device).copy_(x) if 0 not in x.stride() else x.clone()
            self._graphs[key] = (s, *capture(lambda: self._run(s)))
        s, g, o = self._graphs[key]
        s.copy_(x)
        g.replay()
        return o.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    SCALED_HALF_TRAINING,
    SCALED_HALF_TRAINING.mutant(
        "scale_frozen_at_capture",
        "state|gradients",
        "The scale of the first call stays, whatever the scaler does after an overflow.",
        ("zip(s, (x, y, scale))", "zip(s[:2], (x, y))"),
    ),
    RECURRENT_STATE_IN_AND_OUT,
    RECURRENT_STATE_IN_AND_OUT.mutant(
        "recurrent_state_cloned_apart",
        "aliasing|kept",
        "The two places of one state are two tensors.",
        (
            "        h, c = (t.clone() for t in self._graphs[key](x, h, c))\n        return h, (h, c)",
            "        h, c = self._graphs[key](x, h, c)\n        return h.clone(), (h.clone(), c.clone())",
        ),
    ),
    HISTOGRAM_WITH_DUPLICATES,
    HISTOGRAM_WITH_DUPLICATES.mutant(
        "duplicates_counted_once",
        "result",
        "Of equal indices one is counted.",
        (".index_add_(0, ids, torch.ones_like(ids))", ".index_fill_(0, ids, 1)"),
    ),
    TOP_K_THEN_MULTINOMIAL,
    TOP_K_THEN_MULTINOMIAL.mutant(
        "sampled_after_warmup_draws",
        "result|random",
        "The generator is not put back after the warmup.",
        ("            torch.cuda.set_rng_state(state)\n", ""),
    ),
    TEACHER_BY_RUNNING_MEAN,
    TEACHER_BY_RUNNING_MEAN.mutant(
        "teacher_moved_by_warmup",
        "state|result",
        "What warmup did to the teacher stays.",
        ("list(self.teacher.parameters())", "[]"),
    ),
    WRITES_INTO_CALLERS_OUT,
    WRITES_INTO_CALLERS_OUT.mutant(
        "out_argument_not_written",
        "inputs|aliasing|result",
        "The result comes back in a tensor of its own.",
        ("        return out.copy_(self._graphs[key](x))", "        return self._graphs[key](x).clone()"),
    ),
    SPECTRUM_COMPLEX,
    SPECTRUM_COMPLEX.mutant(
        "spectrum_conjugated",
        "result",
        "The imaginary part has the other sign.",
        ("        return f.clone(), y.clone()", "        return f.conj().resolve_conj(), y.clone()"),
    ),
    GRAPHED_WITH_EVERY_MODE,
    GRAPHED_WITH_EVERY_MODE.mutant(
        "autocast_not_looked_at",
        "result",
        "Under autocast the graph of full precision is replayed.",
        (' or torch.is_autocast_enabled("cuda")', ""),
    ),
    GRAPHED_WITH_EVERY_MODE.mutant(
        "training_not_looked_at",
        "result|random",
        "In training the graph of evaluation is replayed.",
        (" or self.training", ""),
    ),
    GRAPHED_WITH_EVERY_MODE.mutant(
        "deepcopy_with_graphs",
        "exception|result",
        "The copy shares the graphs of the original.",
        (
            "            made.__dict__ = copy.deepcopy(self.__dict__, memo)\n",
            "            made.__dict__ = copy.deepcopy(self.__dict__, memo)\n            made._graphs = {(*k[:3], addresses(made)): v for k, v in graphs.items()}\n",
        ),
    ),
)
