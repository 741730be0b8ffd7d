"""Loops over batches: what is left alone, where the binding goes, and when padding is added."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewrite.whole import reasons, rewrite

HEAD = "import torch\nimport torch.nn as nn\n\n\n"
NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.{layer}(4)

    def forward(self, x):
        h = self.norm(self.fc(x))
        return {result}


"""


def _loop(body: str, head: str = "for x in loader:", before: str = "", name: str = "model") -> str:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    start = f"@torch.no_grad()\ndef predict({name}, loader, device):\n    out = []\n{before}"
    return f"{start}    {head}\n{lines}    return out\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("model = model.half()\nout.append(model(x))", "`model` changes from batch to batch"),
        ("out.append(model.generate(x))", "it is not known whether `model.generate` is a model or a method"),
    ],
    ids=["the model is bound again in the loop", "a method that may do anything on the host"],
)
def test_a_loop_is_left_alone_with_a_reason_if(body: str, reason: str, tmp_path: Path) -> None:
    code = HEAD + _loop(body)
    found = reasons(code, tmp_path, ["CG201"])
    assert rewrite(code, tmp_path, ["CG201"]) == code
    assert all(reason in text for text in found)


@pytest.mark.parametrize(
    ("head", "body", "called"),
    [
        ("for x, y in loader:", "x = x.to(device)\nout.append(model(x).argmax(1) == y)", "graphed_model(x)"),
        ("for i, x in enumerate(loader):", "out.append(model(x))", "graphed_model(x)"),
        ("for x, m in zip(loader, loader):", "out.append(model(x, mask=m))", "graphed_model(x, mask=m)"),
        ("for batch in loader:", "batch = {k: v + 1 for k, v in batch.items()}\nout.append(model(**batch))",
         "graphed_model(**batch)"),
        ("for x in loader:", "a = model(x)\nout.append(model(-x) + a)", "graphed_model(-x) + a"),
    ],
    ids=["pairs", "enumerate", "zip and a keyword", "dicts", "two calls"],
)  # fmt: skip
def test_the_model_is_bound_once_before_the_loop(head: str, body: str, called: str, tmp_path: Path) -> None:
    new = rewrite(HEAD + _loop(body, head), tmp_path, ["CG201"])
    assert new.count("graphed_model = graphed(model)\n") == 1
    assert new.index("graphed_model = graphed(model)") < new.index(head)
    assert called in new
    assert " model(" not in new.partition("def predict")[2].replace("graphed_model(", "")


def test_comments_stay_with_the_loop_and_a_taken_name_is_avoided(tmp_path: Path) -> None:
    before = "    graphed_model = None\n\n    # all batches\n"
    new = rewrite(HEAD + _loop("out.append(model(x))", before=before), tmp_path, ["CG201"])
    bound = "    graphed_model_2 = graphed(model)\n    # all batches\n    for x in loader:\n"
    assert "    graphed_model = None\n\n" + bound in new


@pytest.mark.parametrize(
    ("layer", "result", "padded"),
    [
        ("LayerNorm", "h.relu()", True),
        ("BatchNorm1d", "h.relu()", True),
        ("LayerNorm", "h.softmax(-1)", True),
        ("LayerNorm", "torch.cat([h, x], dim=1)", True),
        ("LayerNorm", "h / h.max()", False),
        ("LayerNorm", "h - h.mean(0)", False),
        ("LayerNorm", "h[:1]", False),
        ("LayerNorm", "h.flip(0)", False),
        ("LayerNorm", "torch.cat([h, x])", False),
        ("LayerNorm", "h.cumsum(0)", False),
        ("LayerNorm", "h.amax(-1)", True),
        ("LayerNorm", "unknown(h)", False),
        ("LayerNorm", "h.T @ h", False),
    ],
)
def test_padding_is_added_only_where_rows_are_independent(
    layer: str, result: str, padded: bool, tmp_path: Path
) -> None:
    loop = _loop("out.append(model(x))", before="    model.eval()\n").replace(
        "(model, loader", "(model: Net, loader"
    )
    new = rewrite(HEAD + NET.format(layer=layer, result=result) + loop, tmp_path, ["CG201"])
    assert ('graphed(model, pad="B ...")' in new) is padded
    assert "graphed(model" in new


def test_training_mode_batch_statistics_are_not_padded(tmp_path: Path) -> None:
    loop = _loop("out.append(model(x))", name="model: Net")
    new = rewrite(HEAD + NET.format(layer="BatchNorm1d", result="h") + loop, tmp_path, ["CG201"])
    assert "graphed(model)" in new
