"""Loops over batches in the forms people write them: left alone, then bound once and equal on the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idioms.programs import HEAD, same_before_and_after
from tests.rewrite.whole import reasons, rewrite

NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, x, mask=None):
        h = self.body(x)
        if mask is not None:
            h = h.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
        return {result}


def batches(device):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(n, 4, generator=g).to(device) for n in (4, 3, 4, 2, 3, 1)]


def main(device):
    torch.manual_seed(0)
    return predict(Net().to(device), batches(device), device)


"""

LEFT = {
    "a model that is a coroutine": (
        "async def predict(model, loader, device):\n    model.eval()\n    with torch.no_grad():\n"
        "        async for x in loader:\n            await model(x)\n",
        "is a coroutine",
    ),
    "another model for each batch": (
        "@torch.no_grad()\ndef predict(model, loader, device):\n    for x in loader:\n"
        "        model = model.eval()\n        model(x)\n",
        "changes from batch to batch",
    ),
    "a model that decides on the host": (
        "class Two(nn.Module):\n    def forward(self, x):\n        return x if x.sum() > 0 else -x\n\n\n"
        "@torch.no_grad()\ndef predict(model: Two, loader, device):\n    return [model(x) for x in loader]\n",
        "`Two.forward` waits for the device",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str, tmp_path: Path) -> None:
    code, reason = LEFT[name]
    assert reason in " ".join(reasons(HEAD + NET.format(result="h") + code, tmp_path, ["CG201"]))


@pytest.mark.parametrize(
    "code",
    [
        "@torch.no_grad()\ndef stack(layers, x):\n    return [layer(x) for layer in layers]\n",
        "@torch.no_grad()\ndef names(tokenizer, texts):\n    return [tokenizer(t) for t in texts]\n",
        "def fit(model, loader):\n    return [model(x) for x in loader]\n",
    ],
    ids=["another layer at each step", "a tokenizer", "gradients are recorded"],
)
def test_not_reported(code: str, tmp_path: Path) -> None:
    assert reasons(HEAD + code, tmp_path, ["CG201"]) == []
    assert rewrite(HEAD + code, tmp_path, ["CG201"]) == HEAD + code


START = "@torch.no_grad()\ndef predict(model: Net, loader, device):\n    model.eval()\n"
FORMS = {
    "a list comprehension": "    return [model(x) for x in loader]\n",
    "a generator inside a call": "    return torch.cat(list(model(x) for x in loader))\n",
    "a dict comprehension": "    return {i: model(x) for i, x in enumerate(loader)}\n",
    "tuples and enumerate": (
        "    out = []\n    for i, (x, y) in enumerate(zip(loader, loader)):\n"
        "        out.append(model(x.to(device)) * i + y.sum())\n    return out\n"
    ),
    "dict batches": (
        "    out = []\n    for x in loader:\n        batch = {'x': x, 'mask': (x > 0)[:, 0].long()}\n"
        "        batch = {k: v.to(device) for k, v in batch.items()}\n        out.append(model(**batch))\n"
        "    return out\n"
    ),
    "items of a dict": (
        "    out = []\n    for batch in [{'x': x} for x in loader]:\n        out.append(model(batch['x']))\n"
        "    return out\n"
    ),
    "a while loop over an iterator": (
        "    it, out = iter(loader), []\n    while True:\n        try:\n            x = next(it)\n"
        "        except StopIteration:\n            break\n        out.append(model(x))\n    return out\n"
    ),
    "a while loop until there is no next": (
        "    it, out = iter(loader), []\n    x = next(it)\n    while x is not None:\n"
        "        out.append(model(x))\n        x = next(it, None)\n    return out\n"
    ),
    "epochs around": (
        "    out = []\n    for epoch in range(2):\n        for x in loader:\n"
        "            out.append(model(x))\n    return out\n"
    ),
    "slices of the data": (
        "    data, out = torch.cat(loader), []\n    for i in range(0, len(data), 3):\n"
        "        out.append(model(data[i : i + 3]))\n    return torch.cat(out)\n"
    ),
    "a queue that is emptied": (
        "    from collections import deque\n    queue, out = deque(loader), []\n    while queue:\n"
        "        x = queue.popleft()\n        out.append(model(x))\n    return out\n"
    ),
    "parts of the data": "    return torch.cat([model(part) for part in torch.cat(loader).split(3)])\n",
}
RESULTS = {
    "a tensor": "h",
    "a tuple": "h, h.argmax(-1)",
    "a dict": '{"logits": h, "best": h.amax(dim=-1)}',
}


@pytest.mark.parametrize("name", FORMS)
def test_padded_results_are_those_of_plain_calls(name: str, tmp_path: Path, device: str) -> None:
    code = NET.format(result="h") + START + FORMS[name]
    after = same_before_and_after(code, tmp_path, device, ["CG201"], least=2)
    assert after.count('= graphed(model, pad="B ...")') == 1


@pytest.mark.parametrize("name", RESULTS)
def test_outputs_of_every_structure_are_cut_back(name: str, tmp_path: Path, device: str) -> None:
    code = NET.replace("{result}", RESULTS[name]) + START + FORMS["a list comprehension"]
    after = same_before_and_after(code, tmp_path, device, ["CG201"], least=2)
    assert 'pad="B ..."' in after


SEQUENCE = """\
class Encoder(nn.Module):
    def __init__(self, longest=12):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 8), nn.Embedding(longest, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, ids, mask):
        n, t = ids.shape
        h = self.tokens(ids) + self.places(torch.arange(t, device=ids.device))
        q, k, v = self.qkv(h).view(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
        h = h + self.out(mixed.transpose(1, 2).reshape(n, t, 8))
        w = mask.unsqueeze(-1).to(h.dtype)
        return h, (h * w).sum(1) / w.sum(1).clamp(min=1)


@torch.inference_mode()
def predict(model: Encoder, loader):
    model.eval()
    return [model(ids, mask) for ids, mask in loader]


def main(device):
    torch.manual_seed(0)
    found = []
    for n, t in ((3, 5), (2, 7), (3, 12), (1, 6), (4, 5), (3, 9)):
        ids = torch.randint(1, 20, (n, t))
        mask = (torch.arange(t)[None] < torch.randint(1, t + 1, (n, 1))).long()
        found.append(((ids * mask).to(device), mask.to(device)))
    return predict(Encoder().to(device), found)
"""


def test_batch_and_sequence_grow_together_and_masks_hide_it(tmp_path: Path, device: str) -> None:
    after = same_before_and_after(SEQUENCE, tmp_path, device, ["CG201"], least=2)
    assert 'pad={"ids": "B S", "mask": "B S"}' in after
    assert "model.places.num_embeddings" in after


SERVICE = """\
class Service:
    def __init__(self, model: Net):
        self.model = model.eval()

    @torch.inference_mode()
    def encode(self, x, device):
        x = x.to(device)
        return self.model(x).softmax(-1)

    def run(self, loader, device):
        return [self.encode(x, device) for x in loader]


def predict(model, loader, device):
    return Service(model).run(loader, device)
"""


def test_a_method_that_loops_call_wraps_its_model_where_it_is_called(tmp_path: Path, device: str) -> None:
    code = NET.format(result="h") + SERVICE
    after = same_before_and_after(code, tmp_path, device, ["CG201"], least=2)
    assert 'graphed(self.model, pad="B ...")(x).softmax(-1)' in after


COROUTINES = """\
import asyncio


async def arriving(loader):
    for x in loader:
        await asyncio.sleep(0)
        yield x


async def collect(model: Net, requests):
    out = []
    async for x in requests:
        with torch.no_grad():
            out.append(model(x))
    return out


class Server:
    def __init__(self, model: Net):
        self.model, self.queue = model.eval(), asyncio.Queue()

    async def answer(self, out):
        while True:
            x = await self.queue.get()
            with torch.inference_mode():
                out.append(self.model(x))
            if len(out) == 6:
                return out


async def serve(model, loader):
    server = Server(model)
    for x in loader:
        await server.queue.put(x)
    return await server.answer([]), await collect(model, arriving(loader))


def predict(model, loader, device):
    return asyncio.run(serve(model, loader))
"""


def test_between_batches_of_a_coroutine_another_model_may_be_put_there(tmp_path: Path, device: str) -> None:
    code = NET.format(result="h") + COROUTINES
    after = same_before_and_after(code, tmp_path, device, ["CG201"], least=3)
    assert 'out.append(graphed(self.model, pad="B ...")(x))' in after
    assert '    graphed_model = graphed(model, pad="B ...")\n    async for x in requests:' in after


def test_a_service_that_also_trains_its_model_is_not_padded(tmp_path: Path) -> None:
    more = "\n    def fit(self):\n        self.model.train()\n\n    def run("
    code = HEAD + NET.format(result="h") + SERVICE.replace("\n    def run(", more)
    assert "graphed(self.model)(x)" in rewrite(code.replace("LayerNorm", "BatchNorm1d"), tmp_path, ["CG201"])
