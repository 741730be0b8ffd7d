"""Generated methods with branches, loops and exits: rewritten, they give what they gave, replayed as well."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rewrite.compare import assert_same
from tests.rewrite.forms import HEAD, load_emulator, state_of
from tests.rewrite.whole import rewrite, run

torch = pytest.importorskip("torch")

MODULE = """\
class Stop(Exception):
    pass


def squash(t, limit):
    peak = t.abs().max()
    if peak > limit:
        return t * (limit / peak)
    return t


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), mlp()
        self.layers = nn.ModuleList([mlp() for _ in range(3)])
        self.register_buffer("seen", torch.zeros(8))
        self.calls, self.limit, self.adaptive = 0, 0.3, True

    def refine(self, t, gain=1.0):
        t = self.b(t) * gain
        if t.mean() > 0:
            return self.b(t) + t
        return t - self.b(t)

    def quiet(self, t):
        return self.b(t).abs().mean() < self.limit

    @property
    def warm(self):
        return self.seen.sum() > 1


class Model(Base):
    def forward(self, x, scale=1.5):
        h = self.b(x)
        u = x * 2
        v = self.a(x)
        n = 1
        kept = []
"""
NAMES = ("h", "u", "v")
MASKED = [  # what is selected is compared or counted: sums of floats would be rounded in another order
    "{0}[m] = {1}[m]",
    "{0}[m] = {1}[m] * 2 - 0.5",
    "{0}[m] *= 0.5",
    "{0}[m] += {1}[m]",
    "{0}[~m] -= {1}.mean()",
    "{0}[m] *= {1}.amax()",
    "{0}[m.any(-1)] = {1}[m.any(-1)]",
    "{0} = {0} + ({1}[m] > 0.2).sum() * 0.1",
    "{0} = {0} * ({1}[m] > {0}[m]).any()",
    "{0} = {0} - {1}.sign()[m].sum() / 8",
    "{0} = {0} - {1}.sign().masked_select(m).sum()",
    "{0}[torch.where(m)] = 0.25",
    "{0}[:, {1}.argmax(0)] = 0.75",
    "{0}[m] = {1}[m] / {0}[m]",
    "{0}[m.sum(-1) > 4] = {1}[0, 0]",
]
name = st.sampled_from(NAMES)
expressions = st.sampled_from(
    [
        *("self.a({0})", "self.b({0})", "self.b(self.b({0}))", "torch.tanh({0})", "{0} * {1}", "{0} + {1}"),
        *("{0} - 0.5", "{0}.relu()", "F.softmax({0}, dim=-1)", "torch.where({0} > 0, {0}, {1})", "{0} * n"),
        *("({0} * 2 if {0}.mean() > 0 else {0} - 1)", "({0} if {0}.std() > 0.3 else {0}.relu())"),
        *("{0} * scale", "{0}.clone()", "self.refine({0})", "squash({0}, 2.0)", "{0}", "{0}[:, :]"),
        *("self.b({0} if {1}.mean() > 0 else {1})", "torch.stack([l({0}) for l in self.layers]).sum(0)"),
        *("sum(l({0}) for l in self.layers)", "(lambda t: t * n)({0})", "max({0}.max(), {1}.max()) * {0}"),
        *("{0} + self.seen", "{0} / {0}.norm().clamp(min=0.1)", "torch.cat([{0}, {1}])[: x.shape[0]]"),
    ]
)
tests = st.sampled_from(
    [
        *("{0}.mean() > 0", "{0}.sum() > {1}.sum()", "{0}.abs().max() > self.limit", "({0} > 0.5).any()"),
        *("n > 1 and {0}.mean() > 0", "{0}.mean() > 0 and n > 1", "{0}.mean() > 0 or {1}.std() > 0.5"),
        *("not {0}.std() > 1", "self.a({0}).norm().item() > 1", "n % 2", "self.training", "self.quiet({0})"),
        *("-0.1 < {0}.mean() < 0.4", "(peak := {0}.abs().max()) > 0.5", "self.warm", "bool({0}.min() < -1)"),
        *("self.adaptive and not {0}.mean() > 0.1", "torch.isnan({0}).any() or {1}.max() > 1"),
        *("{0}.mean() > 0 if n > 1 else {1}.mean() > 0", "float({0}.mean()) > 0.1", "self.b({0}).sum() > 0"),
    ]
)


def _filled(draw: st.DrawFn, template: str) -> str:
    return template.format(draw(name), draw(name))


def _inside(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@st.composite
def blocks(draw: st.DrawFn, depth: int, loop: bool) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        lines += draw(statements(depth, loop))
    return lines


def _simple(draw: st.DrawFn) -> list[str]:
    """A statement without a block."""
    options = {
        "assign": f"{draw(name)} = {_filled(draw, draw(expressions))}",
        "count": "n += 1",
        "name": f"{draw(name)} = {draw(name)}",
        "augment": f"{draw(name)} {draw(st.sampled_from(['+=', '*=', '-=']))} {_filled(draw, '{0} * 0.5')}",
        "unpack": f"{draw(name)}, {draw(name)} = {_filled(draw, '{0} * 2, self.b({1})')}",
        "choose": f"{draw(name)} = {_filled(draw, 'self.b({0}) if (' + draw(tests) + ') else self.b({1})')}",
        "state": "self.calls += 1",
        "buffer": f"self.seen.mul_(0.9).add_({draw(name)}.detach().mean(0))",
        "append": f"kept.append({draw(name)})",
        "keep": f"kept.append({_filled(draw, draw(expressions))})",
        "read": f"n = n + int({draw(name)}.abs().sum() > 3)",
        "number": f"value = {draw(name)}.norm().item(); {draw(name)} = {draw(name)} + value",
        "scaled": f"top = {draw(name)}.abs().max().item() * 2; {draw(name)} = {draw(name)} * (top + 1)",
        "counted": f"count = ({draw(name)} > 0).sum().item(); {draw(name)} = {draw(name)} / (count + 1)",
        "check": f"assert {draw(name)}.abs().max() < 1e6, 'large'",
        "in place": f"{draw(name)}.mul_(0.9)",
        "store": f"{draw(name)}[:, 0] = {draw(name)}[:, 1]",
        "choice": f"{(n := draw(name))} = {n}.relu() if {n}.mean() > 0.1 else {n}",
        "comment": f"{draw(name)} = {_filled(draw, draw(expressions))}  # a remark",
    }
    weights = ["assign"] * 6 + [key for key in options if key != "assign"]
    return [options[draw(st.sampled_from(weights))]]


def _masked(draw: st.DrawFn) -> list[str]:
    """A mask, and what is done with what it selects."""
    mask = _filled(draw, draw(st.sampled_from(["{0} > 0.1", "({0} < {1}) | ({0} > 1)", "{0}.abs() < 0.5"])))
    uses = [_filled(draw, use) for use in draw(st.lists(st.sampled_from(MASKED), min_size=1, max_size=3))]
    return [f"m = {mask}", *uses]


@st.composite
def statements(draw: st.DrawFn, depth: int, loop: bool) -> list[str]:
    kinds = ["simple"] * 6 + ["masked"] * 2
    if depth:
        kinds += ["if"] * 4 + ["for", "while", "until", "layers", "layers", "leave", "leave", "with", "try"]
        kinds += ["raise", "match", "cheap", "cheap", "cheap"]
    kind = draw(st.sampled_from(kinds))
    if kind == "simple":
        return _simple(draw)
    if kind == "masked":
        return _masked(draw)
    if kind == "leave":
        word = draw(st.sampled_from(["break", "continue"] if loop else ["return"]))
        result = _filled(draw, "return self.b({0}) + {1}, n, kept")
        return [f"if {_filled(draw, draw(tests))}:", f"    {result if word == 'return' else word}"]
    if kind == "cheap":
        n = draw(name)
        side = draw(st.sampled_from(["{0} * 2", "{0}.clamp(-1, 1)", "-{0} + 0.5", "{0} - self.limit"]))
        lines = [f"if {_filled(draw, draw(tests))}:", f"    {n} = {side.format(n)}"]
        return [*lines, "else:", f"    {n} = {n} * 0.5"] if draw(st.booleans()) else lines
    if kind == "raise":
        return [f"if {draw(name)}.abs().max() > 50:", "    self.calls += 1", "    raise Stop('far')"]
    body = draw(blocks(depth - 1, loop or kind in ("for", "while", "layers", "until")))
    other = draw(st.none() | blocks(depth - 1, loop))
    if kind == "with":
        return ["with torch.no_grad():", *_inside(body)]
    if kind == "try":
        end = ["finally:", "    n += 1"] if draw(st.booleans()) else []
        return ["try:", *_inside(body), "except Stop:", *_inside(other or ["n += 2"]), *end]
    if kind == "match":
        return [
            "match n:",
            "    case 1 | 2:",
            *_inside(_inside(body)),
            "    case _:",
            *_inside(_inside(other or ["n += 1"])),
        ]
    if kind == "if":
        lines = [f"if {_filled(draw, draw(tests))}:", *_inside(body)]
        if other:
            head = "else:" if draw(st.booleans()) else f"elif {_filled(draw, draw(tests))}:"
            lines += [head, *_inside(other)]
        return lines
    if kind == "for":
        return [f"for i in range({draw(st.integers(1, 3))}):", "    n += i", *_inside(body)]
    end = ["else:", *_inside(other)] if other and draw(st.booleans()) else []
    if kind == "layers":
        head = draw(st.sampled_from(["for layer in self.layers:", "for i, layer in enumerate(self.layers):"]))
        return [head, f"    {draw(name)} = layer({draw(name)})", *_inside(body), *end]
    if kind == "until":
        first, second = draw(name), draw(st.sampled_from(["old", "u"]))
        test = f"while ({first} - {second}).norm() > 0.1:"
        step = [f"old = {first}", "turns += 1", "if turns > 3:", "    break", f"{first} = {first} * 0.5"]
        return ["turns = 0", f"old = {first} + 1", test, *_inside(step), *_inside(body), *end]
    lines = ["rounds = 0", f"while {_filled(draw, '{0}.abs().mean() > self.limit')} and rounds < 3:"]
    return [*lines, "    rounds += 1", *_inside(body), *end]


@st.composite
def modules(draw: st.DrawFn) -> str:
    body = [*draw(blocks(2, False)), *draw(statements(2, False)), *draw(blocks(1, False))]
    result = draw(
        st.sampled_from(
            [
                "h, n, kept",
                "self.b(h + u) * v, n, kept",
                "{'h': h, 'u': self.b(u)}, n, kept",
                "dict(h=self.b(h))",
            ]
        )
    )
    return HEAD + MODULE + "".join(f"        {line}\n" for line in [*body, f"return {result}"])


def _outcome(model: Any, x: Any, mode: str) -> tuple[str, Any]:
    context = torch.inference_mode() if mode == "inference" else torch.enable_grad()
    try:
        with context:
            return "returned", model(x)
    except (UnboundLocalError, NameError):
        return "unbound", None
    except Exception as error:
        return type(error).__name__, str(error)


def check(code: str, device: str, mode: str) -> None:
    """Both versions on the same inputs: results, exceptions, inputs and state."""
    with tempfile.TemporaryDirectory() as folder:
        new = rewrite(code, Path(folder))
    torch.manual_seed(0)
    before, after = (run(text)["Model"]().to(device) for text in (code, new))
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, size in ((0, 1.0), (1, 0.1), (0, 1.0), (2, 6.0), (0, 1.0)):
            seen = []
            for model in (before, after):
                torch.manual_seed(seed)
                x = (torch.randn(seed % 2 + 2, 8) * size).to(device)
                seen.append([*_outcome(model, x, mode), x, state_of(model)])
            assert_same(*seen)


SLOW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """A GPU, or the emulated one."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        yield "cuda"
        return
    emulator = load_emulator().install()  # type: ignore[attr-defined]
    yield "cuda"
    emulator.uninstall()


@SLOW
@given(modules(), st.sampled_from(["inference", "train"]))
def test_a_cut_method_gives_what_it_gave_eagerly(code: str, mode: str) -> None:
    check(code, "cpu", mode)


@SLOW
@given(modules())
def test_a_cut_method_gives_what_it_gave_when_it_is_replayed(device: str, code: str) -> None:
    check(code, device, "inference")
