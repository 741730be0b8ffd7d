"""Loops that feed a model with its own output: what is left alone, then what replays one graph a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, same_before_and_after
from tests.rewrite.whole import reasons, rewrite

LEFT = {
    "a model that may not be there, called where a number allows it": (
        """\
@torch.no_grad()
def refine(x, steps, model=None):
    for _ in range(steps):
        if steps > 3:
            x = (x + model(x)).tanh()
    return x
""",
        "`model` is called under a condition only",
    ),
    "a model that only some calls make": (
        """\
@torch.no_grad()
def refine(x, steps, guided):
    if guided:
        model = nn.Linear(4, 4)
    for _ in range(steps):
        x = (x + model(x)).tanh() if guided else x
    return x
""",
        "`model` is called under a condition only",
    ),
    "a sequence that grows": (
        """\
@torch.no_grad()
def generate(model, ids, steps):
    for _ in range(steps):
        logits = model(ids)[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids
""",
        "`ids` grows at every step",
    ),
    "a window of a sequence that grows": (
        """\
class GPT(nn.Module):
    @torch.no_grad()
    def generate(self, ids, steps, room):
        for _ in range(steps):
            recent = ids if ids.size(1) <= room else ids[:, -room:]
            logits, _ = self(recent)
            ids = torch.cat((ids, logits[:, -1:].argmax(-1)), dim=1)
        return ids
""",
        "`ids` grows at every step",
    ),
    "an output that is joined to the next input": (
        """\
@torch.no_grad()
def extend(model, frames, steps):
    for _ in range(steps):
        frames = torch.cat([frames[:, 1:], model(frames)], dim=1)
    return frames
""",
        "`frames` grows at every step",
    ),
    "a model that is told something between the steps": (
        """\
@torch.no_grad()
def sample(transformer, x, times):
    for t in times:
        with transformer.cache_context("cond"):
            x = x - transformer(x, t)
    return x
""",
        "`transformer.cache_context(...)` in line",
    ),
    "a number that is read back for every step": (
        """\
@torch.no_grad()
def sample(model, x, sigmas):
    for i in range(3):
        sigma, after = map(lambda t: t.item(), (sigmas[i], sigmas[i + 1]))
        wide = sigma + 2 * after
        x = x - model(x, wide)
    return x
""",
        "`wide` is read back as another Python number at every step",
    ),
    "a model that is spread over processes": (
        """from torch.nn.parallel import DistributedDataParallel

@torch.no_grad()
def sample(model, x):
    model = DistributedDataParallel(model)
    for i in range(3):
        x = x - model(x)
    return x
""",
        "exchange data with other processes (`DistributedDataParallel` in line",
    ),
    "a method of the class that stores something": (
        """\
class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.step = nn.Linear(4, 4), 0

    def advance(self):
        self.step = self.step + 1
        return self.step

    def forward(self, x):
        return self.lift(x)


@torch.no_grad()
def sample(model: Counted, x, times):
    for t in times:
        step = model.advance()
        x = x - model(x) * t / step
    return x
""",
        "`model.advance(...)` in line 22",
    ),
    "a cache that the model returns": (
        """\
@torch.inference_mode()
def generate(model, token, steps):
    past = None
    for _ in range(steps):
        out = model(token, past_key_values=past, use_cache=True)
        past = out.past_key_values
        token = out.logits[:, -1:].argmax(-1)
    return token
""",
        "`past` is what the model returned and may be larger at every step",
    ),
    "a position that is a Python number": (
        """\
@torch.inference_mode()
def generate(model, token, steps):
    position = 0
    for _ in range(steps):
        token = model(token, position).argmax(-1, keepdim=True)
        position += 1
    return token
""",
        "`position` is another Python number at every step",
    ),
    "the counter of the loop": (
        """\
@torch.inference_mode()
def generate(model, token, steps):
    for i in range(steps):
        token = model(token, i).argmax(-1, keepdim=True)
    return token
""",
        "`i` is another Python number at every step",
    ),
    "a slice that moves": (
        """\
@torch.inference_mode()
def generate(model, token, table, steps):
    for i in range(steps):
        token = model(token, table[:, :i + 1]).argmax(-1, keepdim=True)
    return token
""",
        "is cut at another place",
    ),
    "a model that keeps a growing cache": (
        """\
class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.cache = None

    def forward(self, x):
        k = self.lift(x)
        self.cache = k if self.cache is None else torch.cat([self.cache, k], dim=1)
        return x + self.cache.mean(1, keepdim=True)


@torch.inference_mode()
def generate(model: Cached, x, steps):
    model.eval()
    for _ in range(steps):
        x = model(x).tanh()
    return x
""",
        "`Cached` keeps a cache that grows",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, reason = LEFT[name]
    assert reason in " ".join(reasons(HEAD + code, tmp_path, ["CG206"]))
    assert rewrite(HEAD + code, tmp_path, ["CG206"]) == HEAD + code


@pytest.mark.parametrize(
    "code",
    [
        "def train(model, x, n):\n    for _ in range(n):\n        x = model(x).tanh()\n    return x\n",
        "@torch.no_grad()\ndef f(layers, x):\n    for layer in layers:\n        x = layer(x)\n    return x\n",
        "@torch.no_grad()\ndef draws(model, x, n):\n    return [model(x) for _ in range(n)]\n",
    ],
    ids=["gradients are recorded", "layers one after the other", "nothing is fed back"],
)
def test_not_reported(code: str, tmp_path: Path) -> None:
    assert reasons(HEAD + code, tmp_path, ["CG206"]) == []
    assert rewrite(HEAD + code, tmp_path, ["CG206"]) == HEAD + code


CELL = """\
class Cell(nn.Module):
    def __init__(self, dim=8, room=32):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(16, dim), nn.GRUCell(dim, dim), nn.Linear(dim, 16)
        self.places = nn.Embedding(room, dim)

    def forward(self, token, place, state):
        h = self.mix(self.embed(token) + self.places(place), state)
        state.copy_(h)
        return self.head(h)


def main(device):
    torch.manual_seed(0)
    model = Cell().to(device).eval()
    start = torch.tensor([1, 2, 3], device=device)
    return [generate(model, start, 7), generate(model, start.flip(0), 5)]


"""
STEPS = {
    "greedy": """\
@torch.inference_mode()
def generate(model, token, steps):
    state = torch.zeros(len(token), 8, device=token.device)
    place = torch.zeros(len(token), dtype=torch.long, device=token.device)
    token = model(token, place, state).argmax(-1)
    out = [token]
    for _ in range(steps - 1):
        place = place + 1
        token = model(token, place, state).argmax(-1)
        out.append(token)
    return torch.stack(out, 1)
""",
    "until a host limit, in a while loop": """\
def generate(model, token, steps):
    state = torch.zeros(len(token), 8, device=token.device)
    place = torch.zeros_like(token)
    out = []
    with torch.no_grad():
        while len(out) < steps:
            logits = model(token, place, state)
            token = logits.argmax(dim=-1)
            place = place + 1
            out.append(token)
    return torch.stack(out, 1)
""",
    "stops when every row has ended": """\
@torch.no_grad()
def generate(model, token, steps):
    state = torch.zeros(len(token), 8, device=token.device)
    place = torch.zeros_like(token)
    done = torch.zeros_like(token, dtype=torch.bool)
    out = []
    for _ in range(steps):
        chosen = model(token, place, state).topk(2).indices[:, 0]
        token = torch.where(done, token, chosen)
        done = done | (token == 16)
        place = place + 1
        out.append(token)
        if done.all():
            break
    return torch.stack(out, 1)
""",
    "a service with the model in an attribute": """\
class Service:
    def __init__(self, model):
        self.model = model

    @torch.inference_mode()
    def run(self, token, steps):
        state = torch.zeros(len(token), 8, device=token.device)
        place = torch.zeros_like(token)
        out = []
        for i in range(steps):
            place = torch.full_like(token, i)
            token = self.model(token, place, state).argmax(-1)
            out.append(token)
        return torch.stack(out, 1)


def generate(model, token, steps):
    return Service(model).run(token, steps)
""",
    "a method of the model itself": """\
class Talking(Cell):
    @torch.inference_mode()
    def run(self, token, steps):
        state = torch.zeros(len(token), 8, device=token.device)
        place = torch.zeros_like(token)
        out = []
        for i in range(steps):
            token = self(token, place, state).argmax(-1)
            place = place + 1
            out.append(token)
        return torch.stack(out, 1)


def generate(model, token, steps):
    talking = Talking().to(token.device).eval()
    talking.load_state_dict(model.state_dict())
    return talking.run(token, steps)
""",
}


GUIDED = """\
class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x, t, scale=1.0):
        return self.net(torch.cat([x, t.expand(x.shape[0])[:, None]], dim=1)) * scale


@torch.no_grad()
def sample(model: Denoiser, x, mask, times, guidance):
    model.eval()
    for i, t in enumerate(times):
        double = torch.cat([x] * 2) if guidance > 1 else x
        double = torch.cat([double, mask], dim=1)
        noise = model(double, t)
        if guidance > 1:
            free, held = noise.chunk(2)
            noise = free + guidance * (held - free)
        x = x - noise * 0.1
    return x


def main(device):
    torch.manual_seed(0)
    model = Denoiser().to(device)
    mask = torch.ones(6, 2, device=device)
    times = torch.linspace(1, 0, 6, device=device)
    return [sample(model, torch.randn(3, 4, device=device), mask, times, 2.0),
            sample(model, torch.randn(6, 4, device=device), mask, times, 1.0)]
"""


def test_a_batch_doubled_for_guidance_does_not_grow(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(GUIDED, tmp_path, device, ["CG206"], least=2)
    assert "noise = graphed_model(double, t)" in after


@pytest.mark.parametrize("name", STEPS)
def test_tokens_are_those_of_the_plain_loop(name: str, tmp_path: Path, device: str) -> None:
    after = same_before_and_after(CELL + STEPS[name], tmp_path, device, ["CG206"], least=5)
    assert after.count("= graphed(") == 1


SOLVER = """\
class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None]], dim=1))


@torch.no_grad()
def sample(model: Field, x, steps):
    model.eval()
    for i in range(steps):
        t = torch.full((x.shape[0],), i / steps, device=x.device)
        x = x + model(x, t) / steps
    return x


def main(device):
    torch.manual_seed(0)
    return sample(Field().to(device), torch.ones(3, 4, device=device), 9)
"""


def test_an_ode_sampler_replays_its_field(tmp_path: Path, device: str) -> None:
    same_before_and_after(SOLVER, tmp_path, device, ["CG206"], least=7)


CRITIC = """\
def exists(module):
    return module is not None


class Refiner(nn.Module):
    def __init__(self, critic=None):
        super().__init__()
        self.net, self.critic = nn.Linear(4, 4), critic

    @torch.no_grad()
    def sample(self, x, steps):
        for _ in range(steps):
            x = x - self.net(x) * 0.1
            if exists(self.critic):
                x = x + self.critic(x).tanh()
        return x


def main(device):
    torch.manual_seed(0)
    x = torch.randn(3, 4, device=device)
    made = [Refiner(), Refiner(nn.Linear(4, 4))]
    return [refiner.to(device).eval().sample(x, 4) for refiner in made]
"""


def test_a_model_that_may_be_none_is_bound_only_where_it_is_there(tmp_path: Path, device: str) -> None:
    text = same_before_and_after(CRITIC, tmp_path, device, ["CG206"], least=1)
    assert "graphed_critic = graphed(self.critic) if exists(self.critic) else None" in text


WINDOW = """\
class Window(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)

    def forward(self, ids):
        return self.head(self.embed(ids).cumsum(1))


@torch.no_grad()
def generate(model, ids, steps):
    window, out = ids[:, -4:], []
    for _ in range(steps):
        token = model(window)[:, -1].argmax(-1, keepdim=True)
        window = torch.cat([window[:, 1:], token], dim=1)
        out.append(token)
    return torch.cat(out, 1)


def main(device):
    torch.manual_seed(0)
    return generate(Window().to(device).eval(), torch.arange(6, device=device)[None], 9)
"""
DENOISED = """\
class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x, t):
        return self.net(x) * t[:, None]


@torch.no_grad()
def sample(model, x, sigmas):
    for i in range(len(sigmas) - 1):
        clean = model(x, sigmas[i] * x.new_ones([x.shape[0]]))
        slope = (x - clean) / sigmas[i]
        x = x + 0.5 * slope * (sigmas[i + 1] - sigmas[i])
    return x


def main(device):
    torch.manual_seed(0)
    sigmas = torch.linspace(3, 1, 9, device=device)
    return sample(Noise().to(device).eval(), torch.ones(3, 4, device=device), sigmas)
"""


def test_a_window_that_slides_keeps_its_size(tmp_path: Path, device: str) -> None:
    assert "graphed_model(window)" in same_before_and_after(WINDOW, tmp_path, device, ["CG206"], least=5)


def test_a_sample_that_the_output_changes_is_no_number(tmp_path: Path, device: str) -> None:
    assert "graphed_model(x, " in same_before_and_after(DENOISED, tmp_path, device, ["CG206"], least=5)


CAPTIONS = """\
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(16, 8), nn.GRUCell(8, 8), nn.Linear(8, 16)

    def forward(self, token, h):
        h = self.mix(self.embed(token), h)
        return self.head(h), h


class Captioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = Cell()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8))

    @torch.no_grad()
    def forward(self, x):
        h = self.encoder(x)
        token = torch.full((x.shape[0],), 1, device=x.device)
        out = []
        for _ in range(9):
            logits, h = self.decoder(token, h)
            token = logits.argmax(-1)
            out.append(token)
            if (token == 2).all():
                break
        return torch.stack(out, 1)
"""


def test_a_branch_beside_a_graphed_loop_says_to_apply_again(tmp_path: Path) -> None:
    assert "apply again" in " ".join(reasons(HEAD + CAPTIONS, tmp_path, ["CG206", "CG301"]))
