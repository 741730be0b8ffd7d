"""When padding is invisible: forwards that must not be padded come first, with why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewrite.whole import rewrite

HEAD = "import math\n\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
LOOP = """

@torch.inference_mode()
def predict(model: Net, loader):
    model.eval()
    out = []
    for {target} in loader:
        out.append(model({target}))
    return out
"""
LAYERS = """\
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.heads = 2
"""


def _net(body: str, layers: str = LAYERS, arguments: str = "x") -> str:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return (
        HEAD
        + "class Net(nn.Module):\n    def __init__(self, dim=8, longest=64):\n        super().__init__()\n"
        f"{layers}\n    def forward(self, {arguments}):\n{lines}" + LOOP.format(target=arguments)
    )


def _pad(code: str, folder: Path) -> str:
    """What stands behind the model in the call of ``graphed``."""
    new = rewrite(code, folder, ["CG201"])
    assert "= graphed(" in new
    text = " ".join(new.partition("= graphed(")[2].partition("for ")[0].split())
    return text.rpartition(")")[0].removeprefix("model").strip(", ")


MIXED = {
    "the mean of the batch": "h = self.fc(x)\nreturn h - h.mean(0)",
    "the mean of everything": "h = self.fc(x)\nreturn h - h.mean()",
    "the largest of the batch": "h = self.fc(x)\nreturn h / h.amax(0)",
    "softmax over the batch": "return self.fc(x).softmax(0)",
    "softmax over the batch after a transpose": "return self.fc(x).transpose(0, 1).softmax(-1)",
    "a running sum over the batch": "return self.fc(x).cumsum(0)",
    "the batch rolled": "return self.fc(x).roll(1, 0)",
    "the batch turned around": "return self.fc(x).flip(0)",
    "the batch sorted": "return self.fc(x).sort(0).values",
    "the first rows": "return self.fc(x)[:2]",
    "the last row taken from all": "h = self.fc(x)\nreturn h - h[-1]",
    "the size of the batch as a number": "return self.fc(x) * x.size(0)",
    "the size of the batch by its length": "return self.fc(x) / len(x)",
    "the size of the batch from the shape": "n, d = x.shape\nreturn self.fc(x) + n",
    "a branch on the size of the batch": "if x.shape[0] > 4:\n    return self.fc(x)\nreturn self.out(x)",
    "rows against rows": "h = self.fc(x)\nreturn (h @ h.t()) @ h",
    "similarity of all rows": "h = self.fc(x)\nreturn torch.einsum('bd,cd->b', h, h)",
    "rows joined": "h = self.fc(x)\nreturn torch.cat([h, h])",
    "rows repeated": "return self.fc(x).repeat(2, 1)",
    "rows flattened together": "return self.fc(x).view(-1)",
    "rows mixed by a view": "return self.fc(x).reshape(-1, 4).softmax(-1).reshape(-1, 8)",
    "a random row order": "return self.fc(x)[torch.randperm(x.size(0))]",
    "the norm of the batch": "return self.fc(x) / self.fc(x).norm()",
    "a loss": "return F.mse_loss(self.fc(x), x)",
    "an unknown function": "return helper(self.fc(x))",
    "a buffer written": "self.last = self.fc(x)\nreturn self.last",
    "a row written": "h = self.fc(x)\nh[0] = 0\nreturn h",
    "dropout that is on": "return F.dropout(self.fc(x), 0.5)",
    "the place in the batch as a number": "return self.fc(x) + torch.arange(x.shape[0]).sum()",
    "a normalised batch": "return F.normalize(self.fc(x), dim=0)",
    "a second output without rows": "h = self.fc(x)\nreturn h, h.sum()",
    "a loop that depends on the batch": "h = x\nfor _ in range(x.size(0)):\n    h = self.out(h)\nreturn h",
    "a permutation with the batch behind": "return self.fc(x).permute(1, 0).softmax(1)",
    "a method that mixes": "return self.fc(x) - x.max(dim=0).values",
}


@pytest.mark.parametrize("name", MIXED)
def test_not_padded_because_rows_meet(name: str, tmp_path: Path) -> None:
    assert _pad(_net(MIXED[name]), tmp_path) == ""


@pytest.mark.parametrize(
    "layers",
    [
        "        self.fc = nn.LSTM(8, 8)\n",
        "        self.fc = nn.MultiheadAttention(8, 2)\n",
        "        self.fc = nn.TransformerEncoderLayer(8, 2)\n",
        "        self.fc = make(8)\n",
        "        self.fc = dim\n",
    ],
    ids=["a recurrence over dimension 0", "attention over dimension 0", "the same in a block",
         "something a function makes", "a module that is passed in"],
)  # fmt: skip
def test_not_padded_because_of_a_layer(layers: str, tmp_path: Path) -> None:
    assert _pad(_net("return self.fc(x)", layers), tmp_path) == ""


def test_not_padded_in_training_mode(tmp_path: Path) -> None:
    code = _net("return self.fc(x)", "        self.fc = nn.BatchNorm1d(8)\n")
    assert _pad(code, tmp_path) == 'pad="B ..."'
    assert _pad(code.replace("    model.eval()\n", ""), tmp_path) == ""


ROWS = {
    "a perceptron": "return self.out(F.gelu(self.norm(self.fc(x))))",
    "a softmax over classes": "return self.fc(x).softmax(-1)",
    "the best class": "return self.fc(x).argmax(-1)",
    "a mean over features": "h = self.fc(x)\nreturn h - h.mean(-1, keepdim=True)",
    "features joined": "return torch.cat([self.fc(x), self.out(x)], dim=-1)",
    "features split": "a, b = self.fc(x).chunk(2, dim=-1)\nreturn a * torch.sigmoid(b)",
    "a dict of outputs": 'h = self.fc(x)\nreturn {"logits": h, "scores": h.softmax(-1)}',
    "a tuple of outputs": "h = self.fc(x)\nreturn h, h.amax(dim=-1)",
    "a flag that is fixed": "if self.heads > 1:\n    return self.fc(x)\nreturn self.out(x)",
    "a check that raises": "if x.dim() != 2:\n    raise ValueError('rows')\nreturn self.fc(x)",
    "a residual loop": "h = x\nfor _ in range(3):\n    h = h + self.fc(h)\nreturn h",
    "dropout that is off": "return F.dropout(self.fc(x), 0.5, self.training)",
    "heads apart and together": "n, d = x.shape\nh = self.fc(x).view(n, self.heads, d // self.heads)\n"
    "return h.softmax(-1).reshape(n, d)",
    "a choice by value": "h = self.fc(x)\nreturn torch.where(h > 0, h, torch.zeros_like(h))",
    "rows flattened alone": "return self.out(self.fc(x).flatten(1))",
    "moments of each row": "h = self.fc(x)\nh = h - h.mean(dim=1, keepdim=True)\n"
    "return h / h.std(dim=1, keepdim=True)",
}


@pytest.mark.parametrize("name", ROWS)
def test_padded_because_rows_stay_apart(name: str, tmp_path: Path) -> None:
    assert _pad(_net(ROWS[name]), tmp_path) == 'pad="B ..."'


def test_a_convolutional_net_is_padded(tmp_path: Path) -> None:
    layers = """\
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        blocks = []
        for _ in range(longest // 32):
            blocks.append(nn.Conv2d(8, 8, 3, padding=1))
        self.blocks = nn.ModuleList(blocks)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
"""
    body = (
        "h = self.stem(x)\nfor block in self.blocks:\n    h = h + F.relu(block(h))\n"
        "return self.head(self.pool(h).flatten(1))"
    )
    assert _pad(_net(body, layers), tmp_path) == 'pad="B ..."'


ATTENTION = """\
        self.tokens, self.qkv, self.out = nn.Embedding(50, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.heads = nn.LayerNorm(8), 2
"""
ATTEND = """\
h = self.tokens(ids)
n, t, d = h.shape
q, k, v = self.qkv(h).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
{attention}
h = self.norm(h + self.out(mixed.transpose(1, 2).reshape(n, t, d)))
{pooled}
"""
SCORED = "scores = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)\n"
SDPA = "mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())"
MEAN = "w = mask.unsqueeze(-1).to(h.dtype)\nreturn (h * w).sum(1) / w.sum(1).clamp(min=1)"
BOTH = 'pad={"ids": "B S", "mask": "B S"}'
SEQUENCES = {
    "masked by SDPA, a masked mean": (SDPA, MEAN, BOTH),
    "every token's output": (SDPA, "return h", BOTH),
    "the first token": (SDPA, "return h[:, 0]", BOTH),
    "scores filled with -inf": (
        SCORED + 'scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))\n'
        "mixed = scores.softmax(-1) @ v", "return h[:, 0]", BOTH,
    ),
    "scores filled by where": (
        SCORED + "keep = mask[:, None, None] != 0\nscores = torch.where(keep, scores, -math.inf)\n"
        "mixed = F.softmax(scores, dim=-1) @ v", "return h", BOTH,
    ),
    "the first token, attention without a mask": (
        "mixed = F.scaled_dot_product_attention(q, k, v)", "return h[:, 0]", 'pad="B ..."'
    ),
    "the last token": (SDPA, "return h[:, -1]", 'pad="B ..."'),
    "a mean over all tokens": (SDPA, "return h.mean(1)", 'pad="B ..."'),
    "a sum over all tokens": (SDPA, "return h.sum(1)", 'pad="B ..."'),
    "scores filled with a number": (
        SCORED + "scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)\n"
        "mixed = scores.softmax(-1) @ v", "return h", 'pad="B ..."',
    ),
    "the mask the wrong way round": (
        SCORED + 'scores = scores.masked_fill(mask[:, None, None, :].bool(), float("-inf"))\n'
        "mixed = scores.softmax(-1) @ v", "return h", 'pad="B ..."',
    ),
    "the length as a number": (SDPA, "return h * t", 'pad="B ..."'),
    "tokens turned around": (SDPA, "return h.flip(1)", ""),
    "the largest over all tokens": (SDPA, "return h.amax(1)", 'pad="B ..."'),
    "the largest over real tokens": (
        SDPA, 'return h.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)', BOTH
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_sequence_is_padded_only_where_masks_hide_it(name: str, tmp_path: Path) -> None:
    attention, pooled, wanted = SEQUENCES[name]
    body = ATTEND.format(attention=attention, pooled=pooled).rstrip()
    assert _pad(_net(body, ATTENTION, "ids, mask"), tmp_path) == wanted


def test_a_table_of_positions_bounds_the_sequence(tmp_path: Path) -> None:
    layers = ATTENTION + "        self.places = nn.Embedding(longest, 8)\n"
    body = ATTEND.format(attention=SDPA, pooled=MEAN).rstrip()
    body = body.replace(
        "h = self.tokens(ids)",
        "place = torch.arange(ids.shape[1], device=ids.device)\nh = self.tokens(ids) + self.places(place)",
    )
    new = rewrite(_net(body, layers, "ids, mask"), tmp_path, ["CG201"])
    assert BOTH in new
    assert 'buckets={"S": sorted({min(2**i, model.places.num_embeddings) for i in range(20)})}' in new


def test_causal_attention_needs_no_mask(tmp_path: Path) -> None:
    causal = "mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)"
    body = ATTEND.format(attention=causal, pooled="return h").rstrip()
    assert _pad(_net(body, ATTENTION, "ids"), tmp_path) == 'pad={"ids": "B S"}'


TABLES = {
    "a buffer made in steps": (
        "pe = torch.zeros(longest, 8)\npe[:, 0::2] = 1.0\npe = pe.unsqueeze(0)\n"
        "self.register_buffer('pe', pe)",
        "self.pe[:, :s]",
        "model.pe.shape[1]",
    ),
    "a parameter": (
        "self.pe = nn.Parameter(torch.randn(1, longest, 8) * 0.02)", "self.pe[:, :s, :]", "model.pe.shape[1]"
    ),
    "a table without a batch": (
        "self.register_buffer('pe', torch.zeros(longest, 8))", "self.pe[:s]", "model.pe.shape[0]"
    ),
    "the last places": ("self.register_buffer('pe', torch.zeros(longest, 8))", "self.pe[-s:]", ""),
    "places from an offset on": (
        "self.register_buffer('pe', torch.zeros(longest, 8))", "self.pe[2:s + 2]", ""
    ),
    "another table in another method": (
        "self.register_buffer('pe', torch.zeros(longest, 8))\nself.grow()", "self.pe[:s]", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_first_rows_of_a_table_bound_the_sequence(name: str, tmp_path: Path) -> None:
    made, rows, limit = TABLES[name]
    layers = "        self.table = nn.Embedding(100, 8)\n"
    layers += "".join(f"        {line}\n" for line in made.splitlines())
    if "grow" in made:
        layers += "\n    def grow(self):\n        self.pe = self.pe[None]\n"
    body = f"b, s = x.shape\nh = self.table(x) + {rows}\n"
    body += "return F.scaled_dot_product_attention(h, h, h, is_causal=True)"
    new = rewrite(_net(body, layers), tmp_path, ["CG201"])
    assert ('pad={"x": "B S"}' in new) == bool(limit)
    assert (f'buckets={{"S": sorted({{min(2**i, {limit}) for i in range(20)}})}}' in new) == bool(limit)
