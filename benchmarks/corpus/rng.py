# ruff: noqa: E501  (lines of quoted programs)
"""Random numbers: drawn anew in every replay, from the generator the caller seeds, as often as before."""

from __future__ import annotations

from .pair import Pair, control
from .parts import ADDRESSES, TORCH

# Warmup draws numbers that the original never drew: the generator is put back before the capture.
CAPTURE_SEEDED = '''

def capture(fn):
    """Warm fn up on a side stream, take back the numbers that drew, then record one run."""
    state = torch.cuda.get_rng_state()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_rng_state(state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fn()
    return graph, out
'''

DROPOUT = control(
    "dropout_drawn_in_every_replay",
    "rng",
    "The default generator is advanced by each replay; what warmup drew is taken back.",
    """
entry  = "program:McDropout"
inputs = { x = "float32[B, 16]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class McDropout(nn.Module):
    """Monte-Carlo dropout: a fresh mask in every call, also in eval mode."""

    def __init__(self, dim=16, p=0.5):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 2)
        self.p = p

    def forward(self, x):
        return self.head(nn.functional.dropout(torch.relu(self.lift(x)), self.p, training=True))
''',
    TORCH
    + CAPTURE_SEEDED
    + ADDRESSES
    + '''

class McDropout(nn.Module):
    """Monte-Carlo dropout: a fresh mask in every call, also in eval mode."""

    def __init__(self, dim=16, p=0.5):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 2)
        self.p = p
        self._graphs = {}

    def _run(self, x):
        return self.head(nn.functional.dropout(torch.relu(self.lift(x)), self.p, training=True))

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, self.p, addresses(self))
        if key not in self._graphs:
            static = x.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
''',
)

OWN = control(
    "own_generator_registered",
    "rng",
    "The generator of the model is registered with the graph and its state restored after warmup.",
    """
entry  = "program:Noisy"
inputs = { x = "float32[B, 8]" }
dims   = { B = [1, 4] }
""",
    TORCH
    + '''

class Noisy(nn.Module):
    """Adds noise from a generator of its own, so that the global one is left alone."""

    def __init__(self, dim=8, seed=11):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.seed = seed
        self._generator = None

    def noise(self, x):
        if self._generator is None:
            self._generator = torch.Generator(device=x.device).manual_seed(self.seed)
        return torch.randn(x.shape, device=x.device, generator=self._generator)

    def forward(self, x):
        return self.lift(x) + 0.1 * self.noise(x)
''',
    TORCH
    + ADDRESSES
    + '''

class Noisy(nn.Module):
    """Adds noise from a generator of its own, so that the global one is left alone."""

    def __init__(self, dim=8, seed=11):
        super().__init__()
        self.lift = nn.Linear(dim, dim)
        self.seed = seed
        self._generator = None
        self._graphs = {}

    def noise(self, x):
        if self._generator is None:
            self._generator = torch.Generator(device=x.device).manual_seed(self.seed)
        return torch.randn(x.shape, device=x.device, generator=self._generator)

    def _run(self, x):
        return self.lift(x) + 0.1 * self.noise(x)

    def _capture(self, x):
        static = x.clone()
        if self._generator is None:
            self._generator = torch.Generator(device=x.device).manual_seed(self.seed)
        state = self._generator.get_state()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(static)
        torch.cuda.current_stream().wait_stream(side)
        self._generator.set_state(state)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            out = self._run(static)
        return static, graph, out

    def forward(self, x):
        if torch.is_grad_enabled():
            return self._run(x)
        key = (x.shape, addresses(self))
        if key not in self._graphs:
            self._graphs[key] = self._capture(x)
        static, graph, out = self._graphs[key]
        static.copy_(x)
        graph.replay()
        return out.clone()
''',
)

CROP = control(
    "host_randomness_outside",
    "rng",
    "Python's random decides before the replay; the offset goes to the device as a static index.",
    """
entry  = "program:Augment"
inputs = { image = "float32[3, 10]", flip = "bool" }
dims   = {}
""",
    "\nimport random\n"
    + TORCH
    + '''

class Augment(nn.Module):
    """A random window of six columns, sometimes flipped."""

    def __init__(self):
        super().__init__()
        self.tone = nn.Parameter(torch.ones(3, 1))

    def forward(self, image, flip):
        start = random.randrange(image.shape[1] - 5)
        window = image[:, start : start + 6] * self.tone
        if flip and random.random() < 0.5:
            window = window.flip(1)
        return window
''',
    "\nimport random\n"
    + TORCH
    + CAPTURE_SEEDED
    + ADDRESSES
    + '''

class Augment(nn.Module):
    """A random window of six columns, sometimes flipped."""

    def __init__(self):
        super().__init__()
        self.tone = nn.Parameter(torch.ones(3, 1))
        self._graphs = {}

    def _run(self, image, columns):
        return image.index_select(1, columns) * self.tone

    def forward(self, image, flip):
        start = random.randrange(image.shape[1] - 5)
        flipped = flip and random.random() < 0.5
        if torch.is_grad_enabled():
            window = image[:, start : start + 6] * self.tone
            return window.flip(1) if flipped else window
        key = (image.shape, addresses(self))
        if key not in self._graphs:
            static, columns = image.clone(), torch.arange(6, device=image.device)
            self._graphs[key] = (static, columns, *capture(lambda: self._run(static, columns)))
        static, columns, graph, out = self._graphs[key]
        static.copy_(image)
        torch.arange(start, start + 6, out=columns)
        if flipped:
            columns.copy_(columns.flip(0))
        graph.replay()
        return out.clone()
''',
)

SAMPLE = control(
    "sampling_from_logits",
    "rng",
    "multinomial draws inside the graph from the default generator, whose state after the call is the eager one.",
    """
entry  = "program:Sampler"
inputs = { hidden = "float32[B, 8]" }
dims   = { B = [1, 3] }
""",
    TORCH
    + """

class Sampler(nn.Module):
    def __init__(self, dim=8, vocab=12):
        super().__init__()
        self.out = nn.Linear(dim, vocab)

    def forward(self, hidden):
        probs = self.out(torch.tanh(hidden.nan_to_num(0.0))).softmax(-1)
        token = torch.multinomial(probs, 1).squeeze(-1)
        return token, probs
""",
    TORCH
    + CAPTURE_SEEDED
    + ADDRESSES
    + """

class Sampler(nn.Module):
    def __init__(self, dim=8, vocab=12):
        super().__init__()
        self.out = nn.Linear(dim, vocab)
        self._graphs = {}

    def _run(self, hidden):
        probs = self.out(torch.tanh(hidden.nan_to_num(0.0))).softmax(-1)
        token = torch.multinomial(probs, 1).squeeze(-1)
        return token, probs

    def forward(self, hidden):
        if torch.is_grad_enabled():
            return self._run(hidden)
        key = (hidden.shape, addresses(self))
        if key not in self._graphs:
            static = hidden.clone()
            self._graphs[key] = (static, *capture(lambda: self._run(static)))
        static, graph, (token, probs) = self._graphs[key]
        static.copy_(hidden)
        graph.replay()
        return token.clone(), probs.clone()
""",
)

PAIRS: tuple[Pair, ...] = (
    DROPOUT,
    DROPOUT.mutant(
        "warmup_advances_generator",
        "random|result",
        "What warmup drew is not taken back: all later numbers are other ones.",
        ("    torch.cuda.set_rng_state(state)\n", ""),
    ),
    DROPOUT.mutant(
        "dropout_mask_frozen",
        "result",
        "The mask is drawn once, before the capture.",
        (
            "    def _run(self, x):\n        return self.head(nn.functional.dropout(torch.relu(self.lift(x)), self.p, training=True))",
            "    def _run(self, x, keep=None):\n        h = torch.relu(self.lift(x))\n        keep = torch.nn.functional.dropout(torch.ones_like(h), self.p) if keep is None else keep\n        return self.head(h * keep)",
        ),
        (
            "*capture(lambda: self._run(static)))",
            "*capture(lambda keep=nn.functional.dropout(torch.ones(x.shape[0], 16, device=x.device), self.p): self._run(static, keep)))",
        ),
    ),
    DROPOUT.mutant(
        "seeded_inside_the_region",
        "random|result",
        "A seed set before every capture makes the masks repeat.",
        (
            "        key = (x.shape, self.p, addresses(self))\n        if key not in self._graphs:\n",
            "        key = (x.shape, self.p, addresses(self))\n        if key not in self._graphs:\n            torch.manual_seed(0)\n",
        ),
    ),
    DROPOUT.mutant(
        "drawn_twice_per_call",
        "random|result",
        "The call that captures returns the captured run after one more eager run.",
        (
            "        if key not in self._graphs:\n            static = x.clone()\n",
            "        if key not in self._graphs:\n            static = x.clone()\n            self._run(static)\n",
        ),
    ),
    DROPOUT.mutant(
        "dropout_off_in_eval",
        "result|random",
        "The flag follows the module's mode; the original drops in eval mode as well.",
        ("self.p, training=True))\n\n    def forward", "self.p, training=self.training))\n\n    def forward"),
    ),
    OWN,
    OWN.mutant(
        "own_generator_unregistered",
        "exception",
        "The graph does not know the generator: the capture fails.",
        ("        graph.register_generator_state(self._generator)\n", ""),
    ),
    OWN.mutant(
        "own_generator_replaced_by_default",
        "result|random",
        "Noise comes from the global generator, which the caller seeds for other purposes.",
        ("device=x.device, generator=self._generator)", "device=x.device)"),
    ),
    OWN.mutant(
        "own_generator_advanced_by_warmup",
        "result",
        "Warmup draws from the model's generator and nobody puts it back.",
        ("        self._generator.set_state(state)\n", ""),
    ),
    OWN.mutant(
        "own_generator_seeded_per_graph",
        "result",
        "Each new shape starts the stream again.",
        (
            "        state = self._generator.get_state()\n",
            "        state = self._generator.manual_seed(self.seed).get_state()\n",
        ),
    ),
    CROP,
    CROP.mutant(
        "host_random_drawn_at_capture",
        "result|random",
        "The window is chosen once.",
        ("        torch.arange(start, start + 6, out=columns)\n", ""),
        ("torch.arange(6, device=image.device)", "torch.arange(start, start + 6, device=image.device)"),
        ("columns.copy_(columns.flip(0))", "return out.flip(1)"),
    ),
    CROP.mutant(
        "host_random_drawn_always",
        "random|result",
        "The second number is drawn although the original draws it only when asked to flip.",
        ("flip and random.random() < 0.5", "random.random() < 0.5 and flip"),
    ),
    CROP.mutant(
        "window_off_by_one",
        "result|exception",
        "The window starts one column late.",
        (
            "torch.arange(start, start + 6, out=columns)",
            "torch.arange(start + 1, start + 7, out=columns).clamp_(max=9)",
        ),
    ),
    SAMPLE,
    SAMPLE.mutant(
        "sampling_became_argmax",
        "result|random",
        "The most likely token stands for a sampled one.",
        ("torch.multinomial(probs, 1).squeeze(-1)", "probs.argmax(-1)"),
    ),
    SAMPLE.mutant(
        "sampled_token_keeps_dimension",
        "result",
        "Tokens have shape (B, 1).",
        ("torch.multinomial(probs, 1).squeeze(-1)", "torch.multinomial(probs, 1)"),
    ),
    SAMPLE.mutant(
        "generator_restored_after_replay",
        "random|result",
        "Saved before and restored after every replay, the generator stands still.",
        (
            "        graph.replay()\n",
            "        state = torch.cuda.get_rng_state()\n        graph.replay()\n        torch.cuda.set_rng_state(state)\n",
        ),
    ),
)
