"""Methods cut around decisions: what is left alone first, then what becomes of each form."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest

from tests.rewrite.compare import assert_same
from tests.rewrite.whole import reasons, rewrite, run

torch = pytest.importorskip("torch")

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


def clip(x, limit):
    if x.abs().max() > limit:
        x = x * (limit / x.abs().max())
    return x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.b = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.register_buffer("seen", torch.zeros(4))
        self.hits = 0
        self.mode = "auto"
        self.last = None

"""


def module(body: str, signature: str = "self, x", before: str = "") -> str:
    """A module whose forward has this body."""
    forward = f"def forward({signature}):\n{indent(dedent(body).strip(), '    ')}\n"
    return HEAD + indent(dedent(before), "    ") + indent(forward, "    ")


def rewritten(code: str, folder: Path) -> str:
    """The class after the rewrite, once both versions have given the same results and state."""
    new = rewrite(code, folder)
    torch.manual_seed(0)
    models = [run(text)["Model"]() for text in (code, new)]
    models[1].load_state_dict(models[0].state_dict())
    for seed in range(6):
        results = []
        for model in models:
            torch.manual_seed(seed)
            x = torch.randn(seed % 3 + 1, 4) * (seed + 0.1) - seed / 3
            with torch.inference_mode():
                results.append((model(x), x, model.hits, dict(model.state_dict()), model.last))
        assert_same(*results)
    return new.partition("self.last = None\n")[2]


# -- what is left alone


DECIDED = "h = self.a(x)\nif h.mean() > 0:\n    h = self.b(h)\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (DECIDED + "yield h", "generator"),
        (DECIDED + "n = len(locals())\nreturn h", "`locals()`"),
        ("global G\nG = 1\n" + DECIDED + "return h", "outer variables"),
        (DECIDED + "self = None\nreturn h", "`self` is assigned"),
        ("if x.mean() > 0:\n    x = x + 1\nreturn x", "too little"),
    ],
    ids=["a generator", "locals()", "global", "self is rebound", "less work than a replay costs"],
)
def test_left_alone_with_a_reason(body: str, reason: str, tmp_path: Path) -> None:
    code = module(body)
    found = reasons(code, tmp_path, ["CG301"])
    assert rewrite(code, tmp_path, ["CG301"]) == code
    assert any(reason in text for text in found), found


def test_an_unknown_decorator_is_left_alone(tmp_path: Path) -> None:
    code = module(DECIDED + "return h").replace("    def forward", "    @traced\n    def forward")
    assert "the decorator in line" in reasons("from other import traced\n" + code, tmp_path, ["CG301"])[0]


def test_a_branch_in_a_plain_function_cuts_the_method_that_calls_it(tmp_path: Path) -> None:
    new = rewritten(module("h = self.a(x)\nh = clip(h, 1.0)\nreturn self.b(h)"), tmp_path)
    assert (
        "        h = self._forward_a(x)\n        h = clip(h, 1.0)\n        return self._forward_b(h)\n" in new
    )


def test_work_that_only_training_does_is_left_alone(tmp_path: Path) -> None:
    body = """
        h = self.a(x)
        if self.training:
            if h.mean() > 0:
                h = self.a(self.b(h))
        return self.b(h)
    """
    assert "self.a(self.b(h))\n" in rewritten(module(body), tmp_path)


# -- what becomes of each form


def test_the_docstring_stays_and_comments_go_with_their_statements(tmp_path: Path) -> None:
    body = '''
        """Doc."""
        # stem
        h = self.a(x)  # (B, 4)

        # decide
        if h.mean() > 0:  # hot
            # heavy
            return self.b(self.a(h))
        return self.b(h)  # light
    '''
    new = rewritten(module(body), tmp_path)
    assert new == indent(
        dedent('''
        @segment
        def _forward_a(self, x):
            # stem
            h = self.a(x)  # (B, 4)
            return h, h.mean() > 0

        @segment
        def _forward_b_a(self, h):
            # heavy
            return self.b(self.a(h))

        @segment
        def _forward_b(self, h):
            return self.b(h)  # light

        def forward(self, x):
            """Doc."""
            h, is_positive = self._forward_a(x)

            # decide
            if is_positive:  # hot
                return self._forward_b_a(h)
            return self._forward_b(h)
    '''),
        "    ",
    ).replace("    \n", "\n")


def test_an_elif_chain_keeps_its_shape_and_configuration_stays_on_the_host(tmp_path: Path) -> None:
    body = """
        h = self.a(x)
        score = h.pow(2).mean()
        if self.mode == "auto" and score > 0.5:
            self.hits += 1
            out = self.a(h) * 2
        elif score > 0.1:
            out = self.b(h)
            out = F.layer_norm(out, out.shape[-1:])
        else:
            out = self.b(h) + 1
        return {"out": self.a(out), "score": score}
    """
    new = rewritten(module(body), tmp_path)
    assert '        if self.mode == "auto" and score > 0.5:\n            self.hits += 1\n' in new
    assert "        elif score > 0.1:\n            out = self._forward_" in new
    assert "        else:\n            out = self._forward_" in new
    assert '        return {"out": self.a(out), "score": score}\n' in new


def test_a_conditional_expression_becomes_a_branch_where_its_sides_are_worth_a_graph(tmp_path: Path) -> None:
    body = """
        h = self.a(x)
        # choose
        y = self.a(h) if h.mean() > 0 else self.b(h)  # either
        s = 1.0 if y.sum() > 0 else 2.0
        return y * s
    """
    new = rewritten(module(body), tmp_path)
    branch = """
        # choose
        if is_positive:  # either
            y = self._forward_a_2(h)
        else:
            y = self._forward_b(h)
        s = 1.0 if y.sum() > 0 else 2.0
"""
    assert branch in new


def test_a_loop_over_layers_gives_each_layer_to_the_segment(tmp_path: Path) -> None:
    body = """
        used = 0
        for layer in self.layers:
            x = self.b(x + torch.relu(layer(x)))
            used += 1
            if x.abs().amax(-1).min() > 0.5:
                break
        return x, used
    """
    new = rewritten(module(body), tmp_path)
    assert "def _forward_b_layer(self, x, layer):\n" in new
    assert "            x, exceeds = " in new or "x, is_above = self._forward_b_layer(x, layer)\n" in new
    assert "            used += 1\n            if is_above:\n                break\n" in new


def test_a_while_loop_replays_its_body(tmp_path: Path) -> None:
    body = """
        z = torch.zeros_like(x)
        error = torch.full((), 9.0)
        it = 0
        while error > 1e-3 and it < 7:
            new = torch.tanh(self.a(z) + x)
            error = (new - z).norm()
            z = new
            it += 1
        else:
            self.hits += 1
        return z, it
    """
    new = rewritten(module(body), tmp_path)
    loop = """
        while error > 1e-3 and it < 7:
            error, z = self._forward_a(z, x)
            it += 1
"""
    assert loop in new


def test_numbers_read_back_do_not_become_arguments(tmp_path: Path) -> None:
    body = """
        h = self.a(x)
        k = int(h.abs().max()) + 1
        for _ in range(k):
            h = self.b(h).tanh()
        scale = h.norm().item()
        y = self.a(h) / (scale + 1)
        return self.b(y)
    """
    new = rewritten(module(body), tmp_path)
    segments = new.partition("def forward")[0]
    assert "k" not in segments.replace("_", " ").split()
    assert "scale" not in segments


def test_state_and_containers_outside_stay_on_the_host(tmp_path: Path) -> None:
    body = """
        kept = []
        h = self.a(x)
        kept.append(h)
        self.last = h
        if h.mean() > 0:
            parts = []
            for layer in self.layers:
                parts.append(layer(h))
            h = torch.stack(parts).sum(0)
        self.seen.add_(h.sum(0))
        return self.b(h) + self.a(h), kept
    """
    new = rewritten(module(body), tmp_path)
    host = new.partition("def forward")[2]
    assert "        kept.append(h)\n        self.last = h\n" in host
    assert "parts" not in host


def test_a_variable_that_may_be_unbound_keeps_its_statements_on_the_host(tmp_path: Path) -> None:
    body = """
        h = self.a(x)
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i > 0:
                h = self.b(h) + before
            before = self.a(h)
            if h.mean() > 2:
                break
        return self.b(h)
    """
    new = rewritten(module(body), tmp_path)
    assert "self.b(h) + before" in new


def test_one_line_bodies_and_statements_on_one_line_survive(tmp_path: Path) -> None:
    body = """
        h = self.a(x); h = self.b(h)
        if h.mean() > 0: return self.a(self.a(h))
        if (h.sum() > 1): h = h + 1
        else: h = self.b(h) - 1
        return self.a(h)
    """
    new = rewritten(module(body), tmp_path)
    assert (
        "            h = self.a(x); h = self.b(h)\n" in new or "        h = self.a(x); h = self.b(h)\n" in new
    )
    assert ": return self._forward_" in new


def test_names_do_not_collide_with_those_of_bases_or_of_the_class(tmp_path: Path) -> None:
    code = module(
        "h = self.a(x)\nif h.mean() > 0:\n    h = self.b(h)\nreturn self.a(h)",
        before="def _forward_a(self):\n    pass\n\n",
    )
    new = rewritten(code, tmp_path)
    assert "def _forward_a_2(self, x):" in new
    child = """

class Child(Model):
    def forward(self, x):
        h = super().forward(x)
        if h.mean() > 0:
            h = self.b(self.a(h))
        return h
"""
    assert "def _child_forward_" in rewrite(code + child, tmp_path)


def test_tensors_in_with_blocks_keep_their_context(tmp_path: Path) -> None:
    body = """
        with torch.autocast("cpu", enabled=False):
            h = self.a(x)
            if h.mean() > 0:
                h = self.b(h) + 1
        return self.a(h)
    """
    new = rewritten(module(body), tmp_path)
    block = """
        with torch.autocast("cpu", enabled=False):
            h, is_positive = self._forward_a(x)
"""
    assert block in new


def test_a_branch_that_becomes_several_lines_stays_one_step_of_the_plan(tmp_path: Path) -> None:
    body = """
        h = self.b(self.a(x))
        if h.mean() > 0:
            return self.b(self.a(h))
        h = self.a(self.b(h))
        if h.abs().max() > 1:
            h = h / h.norm(dim=-1, keepdim=True)
        return self.a(self.b(h))
    """
    new = rewritten(module(body), tmp_path)
    assert "@segment" in new
    assert "return self.a(self.b(h))" in new
    assert new.count("torch.where") == 2
    assert new.count("if ") == 1


@pytest.mark.parametrize("test", ["h[h.sum(1).argmax()].norm() > 1", "h[h[:, 0] > 0].sum() > 0"])
def test_a_test_that_waits_in_another_way_too_is_in_no_segment(test: str, tmp_path: Path) -> None:
    body = f"""
        h = self.b(self.a(x))
        if {test}:
            h = h * 2
        return self.a(self.b(h))
    """
    new = rewritten(module(body), tmp_path)
    segments, forward = new.split("    def forward")
    assert test in forward
    assert test not in segments


BOXES = """\
import torch
from torch import nn


class Boxes:
    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def clip(self, size):
        assert torch.isfinite(self.tensor).all(), "infinite"
        h, w = size
        x1 = self.tensor[:, 0].clamp(min=0, max=w)
        y1 = self.tensor[:, 1].clamp(min=0, max=h)
        x2 = self.tensor[:, 2].clamp(min=0, max=w)
        y2 = self.tensor[:, 3].clamp(min=0, max=h)
        self.tensor = torch.stack((x1, y1, x2, y2), dim=-1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor):
        boxes = Boxes(self.net(x))
        boxes.clip((3, 4))
        return boxes.tensor
"""


def test_an_object_that_is_made_at_every_call_gets_no_segments(tmp_path: Path) -> None:
    assert rewrite(BOXES, tmp_path, ["CG104"]) == BOXES
    assert "a `Boxes` is made at every call (line 25)" in " ".join(reasons(BOXES, tmp_path, ["CG104"]))
