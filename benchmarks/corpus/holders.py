# ruff: noqa: E501  (lines of quoted programs)
"""Who holds the model: plain trainers, module-level models, closures; what is handed out, told and left behind."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, CAPTURE, CAPTURE_STEP, FUNCTIONAL

TRAIN = 'mode = "train"\ndevice = "cuda"\n'
INF = 'mode = "inference"\ndevice = "cuda"\n'
EVAL = 'mode = "eval"\ndevice = "cuda"\n'
FIT = 'inputs = { x = "float32[4, 5]", y = "float32[4]" }\ndims = {}\n' + TRAIN
NET = """
def make_net():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).to("cuda")
"""
COPY = "import copy\n" + FUNCTIONAL
# What other threads do meanwhile is no part of the capture.
CAPTURE_HERE = CAPTURE.replace("def capture(", "def capture_here(").replace(
    "torch.cuda.graph(graph)", 'torch.cuda.graph(graph, capture_error_mode="thread_local")'
)

TRAINER = control(
    "trainer_is_a_plain_object",
    "training",
    "A trainer that is no module holds the model, its running average and the optimizer; all three are in one graph.",
    'entry = "program:Trainer.step"\n' + FIT,
    COPY
    + NET
    + """
class Trainer:
    def __init__(self):
        self.model = make_net()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.steps = 0
    @torch.enable_grad()
    def step(self, x, y):
        loss = F.mse_loss(self.model(x).squeeze(-1), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.model.parameters()):
                a.lerp_(p, 0.1)
        return loss.detach()
""",
    COPY
    + NET
    + CAPTURE_STEP
    + """
class Trainer:
    def __init__(self):
        self.model = make_net()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.steps = 0
        self._graph = None
    def _whole(self):
        loss = F.mse_loss(self.model(self._x).squeeze(-1), self._y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.model.parameters()):
                a.lerp_(p, 0.1)
        return loss.detach()
    @torch.enable_grad()
    def step(self, x, y):
        if self._graph is None:
            for p in self.model.parameters():
                self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
            self._x, self._y = x.detach().clone(), y.detach().clone()
            momentum = [s["momentum_buffer"] for s in self.optimizer.state.values()]
            held = [*self.model.parameters(), *self.average.parameters(), *momentum]
            self._graph, self._loss = capture_step(self._whole, held)
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        self.steps += 1
        return self._loss.clone()
""",
)

FILE_LEVEL = control(
    "model_lives_in_the_file",
    "training",
    "Model, average and optimizer are names of the file, and a plain function trains them.",
    'entry = "program:train_step"\n' + FIT,
    COPY
    + NET
    + """
torch.manual_seed(3)
model = make_net()
average = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

@torch.enable_grad()
def train_step(x, y):
    loss = F.mse_loss(model(x).squeeze(-1), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters()):
            a.mul_(0.9).add_(p, alpha=0.1)
    return loss.detach()
""",
    COPY
    + NET
    + CAPTURE_STEP
    + """
torch.manual_seed(3)
model = make_net()
average = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
_held = {}

def _whole():
    loss = F.mse_loss(model(_held["x"]).squeeze(-1), _held["y"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters()):
            a.mul_(0.9).add_(p, alpha=0.1)
    return loss.detach()

@torch.enable_grad()
def train_step(x, y):
    if not _held:
        _held.update(x=x.detach().clone(), y=y.detach().clone())
        _held["step"] = capture_step(_whole, [*model.parameters(), *average.parameters()])
    graph, loss = _held["step"]
    _held["x"].copy_(x)
    _held["y"].copy_(y)
    graph.replay()
    return loss.clone()
""",
)

CLOSURE = control(
    "step_is_a_closure",
    "training",
    "A factory gives a function that holds model, average and optimizer in its closure.",
    'entry = "program:make_step"\nfactory = true\n' + FIT,
    COPY
    + NET
    + """
def make_step():
    model = make_net()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    @torch.enable_grad()
    def step(x, y):
        loss = F.mse_loss(model(x).squeeze(-1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.25)
        return loss.detach()
    return step
""",
    COPY
    + NET
    + CAPTURE_STEP
    + """
def make_step():
    model = make_net()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held = {}
    def whole():
        loss = F.mse_loss(model(held["x"]).squeeze(-1), held["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.25)
        return loss.detach()
    @torch.enable_grad()
    def step(x, y):
        if not held:
            held.update(x=x.detach().clone(), y=y.detach().clone())
            held["step"] = capture_step(whole, [*model.parameters(), *average.parameters()])
        graph, loss = held["step"]
        held["x"].copy_(x)
        held["y"].copy_(y)
        graph.replay()
        return loss.clone()
    return step
""",
)

AGENT = control(
    "agent_follows_with_its_target",
    "training",
    "A plain agent moves its target network after every second update, outside the graph.",
    'entry = "program:Agent.learn"\ninputs = { s = "float32[3, 5]", a = "int64[3] in 0..2", r = "float32[3]" }\ndims = {}\n'
    + TRAIN,
    COPY
    + """
class Agent:
    def __init__(self):
        self.online = nn.Linear(5, 3).to("cuda")
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.online.parameters(), lr=0.02)
        self.updates = 0
    @torch.enable_grad()
    def learn(self, s, a, r):
        wanted = r + 0.9 * self.target(s).max(-1).values
        loss = F.smooth_l1_loss(self.online(s).gather(1, a[:, None])[:, 0], wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % 2 == 0:
            self.target.load_state_dict(self.online.state_dict())
""",
    COPY
    + CAPTURE_STEP
    + """
class Agent:
    def __init__(self):
        self.online = nn.Linear(5, 3).to("cuda")
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.online.parameters(), lr=0.02)
        self.updates = 0
        self._graph = None
    def _update(self):
        wanted = self._r + 0.9 * self.target(self._s).max(-1).values
        loss = F.smooth_l1_loss(self.online(self._s).gather(1, self._a[:, None])[:, 0], wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
    @torch.enable_grad()
    def learn(self, s, a, r):
        if self._graph is None:
            self._s, self._a, self._r = s.detach().clone(), a.clone(), r.detach().clone()
            self._graph, _ = capture_step(self._update, list(self.online.parameters()))
        self._s.copy_(s)
        self._a.copy_(a)
        self._r.copy_(r)
        self._graph.replay()
        self.updates += 1
        if self.updates % 2 == 0:
            self.target.load_state_dict(self.online.state_dict())
""",
)

LOGGERS = control(
    "told_to_its_own_logger",
    "state",
    "Every third call tells the mean to a logger of the service, whose level the caller sets.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n' + INF,
    "import logging\n"
    + FUNCTIONAL
    + """
log = logging.getLogger("serving.scores")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        out = self.head(x)
        if self.calls % 3 == 0:
            log.warning("mean %.3f", out.mean().item())
        return out
""",
    "import logging\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
log = logging.getLogger("serving.scores")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.calls = 0
        self._graphs = {}
    def forward(self, x):
        self.calls += 1
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self.head(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        if self.calls % 3 == 0:
            log.warning("mean %.3f", out.mean().item())
        return out.clone()
""",
)

TAPPED = control(
    "tap_removed_after_the_call",
    "capture",
    "A hook takes the hidden features out of a block and is removed again.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 6]" }\ndims = { B = [1, 5] }\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        tapped = []
        tap = self.block.register_forward_hook(lambda m, i, o: tapped.append(o))
        out = self.head(self.block(x))
        tap.remove()
        return out, tapped[0]
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
        self._graphs = {}
    def _run(self, x):
        tapped = []
        tap = self.block.register_forward_hook(lambda m, i, o: tapped.append(o))
        out = self.head(self.block(x))
        tap.remove()
        return out, tapped[0]
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (out, hidden) = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone(), hidden.clone()
""",
)

SAVED = control(
    "pickled_without_its_graphs",
    "state",
    "A copy and a pickled module have no graphs, and all the rest.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 3] }\nvary = ["shapes", "values", "rebinding", "deepcopy"]\n'
    + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.scale = 1.5
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        return self.head(x) * self.scale + self.calls
""",
    COPY
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.scale = 1.5
        self.calls = 0
        self._graphs = {}
    def __deepcopy__(self, memo):
        made = Net.__new__(Net)
        memo[id(self)] = made
        made.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__getstate__().items()})
        made.scale, made.calls = self.scale, self.calls
        return made
    def __getstate__(self):
        state = self.__dict__.copy()
        state["_graphs"] = {}
        return state
    def _run(self, x):
        return self.head(x) * self.scale
    def forward(self, x):
        self.calls += 1
        key = (x.shape, addresses(self), self.scale)
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out + self.calls
""",
)

AWAITED = control(
    "answer_is_awaited",
    "buffers",
    "The service's method is a coroutine; the graph is replayed before it gives way to others.",
    'entry = "program:Service.answer"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 3] }\n' + INF,
    "import asyncio\n"
    + FUNCTIONAL
    + """
class Service:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda")
    async def answer(self, x):
        out = torch.softmax(self.net(x), -1)
        await asyncio.sleep(0)
        return {"odds": out, "best": out.argmax(-1)}
""",
    "import asyncio\n"
    + FUNCTIONAL
    + CAPTURE
    + """
class Service:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda")
        self._graphs = {}
    def _run(self, x):
        out = torch.softmax(self.net(x), -1)
        return out, out.argmax(-1)
    async def answer(self, x):
        if x.shape not in self._graphs:
            static = x.clone()
            self._graphs[x.shape] = (static, *capture(lambda: self._run(static)))
        static, graph, (out, best) = self._graphs[x.shape]
        static.copy_(x)
        graph.replay()
        found = {"odds": out.clone(), "best": best.clone()}
        await asyncio.sleep(0)
        return found
""",
)

PROMISED = control(
    "answer_is_a_future",
    "concurrency",
    "Requests are worked off by a pool of one thread; the caller gets a future.",
    'entry = "program:Service.submit"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 3] }\n' + EVAL,
    "from concurrent.futures import ThreadPoolExecutor\n"
    + FUNCTIONAL
    + """
class Service:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda").requires_grad_(False)
        self.pool = ThreadPoolExecutor(1)
    def submit(self, x):
        return self.pool.submit(lambda: torch.tanh(self.net(x)))
""",
    "from concurrent.futures import ThreadPoolExecutor\n"
    + FUNCTIONAL
    + CAPTURE_HERE
    + """
class Service:
    def __init__(self):
        self.net = nn.Linear(4, 3).to("cuda").requires_grad_(False)
        self.pool = ThreadPoolExecutor(1)
        self._graphs = {}
    def _work(self, x):
        if x.shape not in self._graphs:
            static = x.clone()
            self._graphs[x.shape] = (static, *capture_here(lambda: torch.tanh(self.net(static))))
        static, graph, out = self._graphs[x.shape]
        static.copy_(x)
        graph.replay()
        torch.cuda.current_stream().synchronize()
        return out.clone()
    def submit(self, x):
        x = x.clone()
        torch.cuda.current_stream().synchronize()
        return self.pool.submit(self._work, x)
""",
)

SETTINGS = control(
    "settings_given_back",
    "state",
    "Convolutions run without TF32 and divisions by zero are silent, inside the call alone.",
    'entry = "program:Net"\ninputs = { x = "float32[B, 4]" }\ndims = { B = [1, 4] }\n' + EVAL,
    "import os\n"
    + FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3).requires_grad_(False)
    def forward(self, x):
        return torch.relu(self.head(x)).square()
""",
    "import os\n"
    + FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3).requires_grad_(False)
        self._graphs = {}
    def _made(self, x):
        allowed = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        static = x.clone()
        with torch.inference_mode(False), torch.no_grad():
            made = (static, *capture(lambda: torch.relu(self.head(static)).square()))
        torch.backends.cudnn.allow_tf32 = allowed
        return made
    def forward(self, x):
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = self._made(x)
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
""",
)

KEYED = control(
    "prompts_looked_up_by_content",
    "buffers",
    "What a prompt was encoded to is looked up by its tokens.",
    'entry = "program:Net"\ninputs = { ids = "int64[3] in 0..2", x = "float32[4]" }\ndims = {}\n' + INF,
    FUNCTIONAL
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.head = nn.Linear(4, 4)
    def forward(self, ids, x):
        return self.head(self.embed(ids).prod(0) + x)
""",
    FUNCTIONAL
    + CAPTURE
    + ADDRESSES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.head = nn.Linear(4, 4)
        self._graphs = {}
    def forward(self, ids, x):
        key = addresses(self)
        if key not in self._graphs:
            held = (ids.clone(), x.clone())
            self._graphs[key] = (held, *capture(lambda: self.head(self.embed(held[0]).prod(0) + held[1])))
        held, graph, out = self._graphs[key]
        held[0].copy_(ids)
        held[1].copy_(x)
        graph.replay()
        return out.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    TRAINER,
    TRAINER.mutant(
        "trainers_average_stands_still",
        "attributes|state",
        "The running average is moved while warming up only.",
        (
            "        loss.backward()\n        self.optimizer.step()\n        with torch.no_grad():",
            "        loss.backward()\n        self.optimizer.step()\n        with torch.no_grad() if not torch.cuda.is_current_stream_capturing() else torch.no_grad():\n            if torch.cuda.is_current_stream_capturing():\n                return loss.detach()",
        ),
    ),
    TRAINER.mutant(
        "trainers_average_of_warmup",
        "attributes|state",
        "The average is not put back after the warmup.",
        ("*self.average.parameters(), *momentum]", "*momentum]"),
    ),
    TRAINER.mutant(
        "trainers_last_weight_decays",
        "attributes|state",
        "The weight is shrunk once more behind the step, by a thousandth.",
        (
            "        self.steps += 1\n        return",
            "        self.steps += 1\n        self.average[2].bias.data.mul_(0.999)\n        return",
        ),
    ),
    FILE_LEVEL,
    FILE_LEVEL.mutant(
        "files_average_of_warmup",
        "attributes|state",
        "The average is not put back after the warmup.",
        ("[*model.parameters(), *average.parameters()])", "[*model.parameters()])"),
    ),
    FILE_LEVEL.mutant(
        "files_average_with_other_weights",
        "attributes|state",
        "The average takes nine tenths of what is new.",
        ("a.mul_(0.9).add_(p, alpha=0.1)", "a.mul_(0.1).add_(p, alpha=0.9)"),
    ),
    CLOSURE,
    CLOSURE.mutant(
        "closures_average_of_warmup",
        "attributes|state",
        "The average is not put back after the warmup.",
        ("[*model.parameters(), *average.parameters()])", "[*model.parameters()])"),
    ),
    CLOSURE.mutant(
        "closures_average_lags",
        "attributes|state",
        "The average takes the weights before the step.",
        (
            "        optimizer.step()\n        with torch.no_grad():\n            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.25)",
            "        with torch.no_grad():\n            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.25)\n        optimizer.step()",
        ),
    ),
    AGENT,
    AGENT.mutant(
        "agent_moves_its_target_late",
        "attributes|state",
        "The target follows after every third update.",
        ("self.updates % 2 == 0", "self.updates % 3 == 0"),
    ),
    AGENT.mutant(
        "agent_learns_with_plain_errors",
        "attributes|state",
        "The squared error stands for the smooth one.",
        ("F.smooth_l1_loss", "F.mse_loss"),
    ),
    AGENT.mutant(
        "agent_forgets_the_actions",
        "attributes|state",
        "The actions of the first batch are used for all.",
        ("        self._a.copy_(a)\n", ""),
    ),
    LOGGERS,
    LOGGERS.mutant(
        "told_to_another_logger",
        "printed",
        "The line goes to the logger of another part, which its owner has silenced or not.",
        ('getLogger("serving.scores")', 'getLogger("serving.debug")'),
    ),
    LOGGERS.mutant(
        "told_to_the_root_logger",
        "printed",
        "The line goes to the root logger.",
        ("log.warning(", "logging.warning("),
    ),
    TAPPED,
    TAPPED.mutant(
        "tap_left_on_the_block",
        "flags|attributes",
        "Hooks stay on the block, one for every capture.",
        ("        tap.remove()\n", ""),
    ),
    TAPPED.mutant(
        "tap_taken_before_the_activation",
        "result",
        "The hook sits on the linear layer.",
        ("self.block.register_forward_hook", "self.block[0].register_forward_hook"),
    ),
    SAVED,
    SAVED.mutant(
        "pickled_as_if_new",
        "deepcopy|state|attributes|result",
        "A pickled module comes back with the count at zero.",
        ('        state["_graphs"] = {}\n', '        state["_graphs"] = {}\n        state["calls"] = 0\n'),
    ),
    SAVED.mutant(
        "copied_without_its_scale",
        "deepcopy|attributes|result",
        "A copy starts with the scale of a new module and the count alone.",
        ("made.scale, made.calls = self.scale, self.calls", "made.scale = 1.0"),
    ),
    AWAITED,
    AWAITED.mutant(
        "awaited_answer_is_the_static_output",
        "kept|aliasing",
        "The odds are the graph's own memory.",
        ('"odds": out.clone()', '"odds": out'),
    ),
    AWAITED.mutant(
        "awaited_answer_of_the_least",
        "result",
        "The index is that of the least odds.",
        ("return out, out.argmax(-1)", "return out, out.argmin(-1)"),
    ),
    PROMISED,
    PROMISED.mutant(
        "promised_answer_is_the_static_output",
        "kept|aliasing",
        "The result of the future is the graph's own memory.",
        ("        return out.clone()", "        return out"),
    ),
    PROMISED.mutant(
        "promised_answer_without_activation",
        "result",
        "The graph lacks the activation.",
        ("capture_here(lambda: torch.tanh(self.net(static)))", "capture_here(lambda: self.net(static))"),
    ),
    SETTINGS,
    SETTINGS.mutant(
        "convolutions_left_without_tf32",
        "flags",
        "The setting for convolutions stays changed for the whole process.",
        ("        torch.backends.cudnn.allow_tf32 = allowed\n", ""),
        ("torch.backends.cudnn.allow_tf32 = False", "torch.backends.cudnn.allow_tf32 = not allowed"),
    ),
    SETTINGS.mutant(
        "environment_left_changed",
        "flags",
        "A variable of the process's environment is set and stays.",
        (
            "        static = x.clone()\n        with",
            '        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"\n        static = x.clone()\n        with',
        ),
    ),
    SETTINGS.mutant(
        "inference_mode_left_on",
        "flags|result",
        "The mode in which the graph is captured is entered and never left.",
        (
            "        static = x.clone()\n        with",
            "        self._mode = torch.inference_mode()\n        self._mode.__enter__()\n        static = x.clone()\n        with",
        ),
    ),
    SETTINGS.mutant(
        "saved_tensors_hooks_left_on",
        "flags",
        "Tensors saved for any later backward pass go through hooks that were never taken off.",
        (
            "        static = x.clone()\n        with",
            "        torch.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t.float()).__enter__()\n        static = x.clone()\n        with",
        ),
    ),
    KEYED,
    KEYED.mutant(
        "prompts_looked_up_by_sum",
        "result",
        "What a prompt was encoded to is looked up by the sum of its tokens.",
        (
            "        held[0].copy_(ids)\n",
            "        total = int(ids.sum())\n        known = self._graphs.setdefault((key, total), ids.clone())\n        held[0].copy_(known)\n",
        ),
    ),
    KEYED.mutant(
        "prompts_looked_up_by_object",
        "result",
        "A prompt is taken for the one before if the object has the same id.",
        (
            "        held[0].copy_(ids)\n",
            '        if self._graphs.get("last") != id(ids):\n            held[0].copy_(ids)\n            self._graphs["last"] = id(ids)\n',
        ),
    ),
    KEYED.mutant(
        "prompts_looked_up_without_order",
        "result",
        "Prompts with the same tokens in another order are one, and so are those with the same greatest two.",
        (
            "        held[0].copy_(ids)\n",
            "        name = tuple(sorted(set(ids.tolist())))\n        held[0].copy_(self._graphs.setdefault((key, name), ids.clone()))\n",
        ),
    ),
)
