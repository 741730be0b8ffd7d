"""From hits to bytes: what must not change first, then imports, formats and conflicts."""

from __future__ import annotations

import ast
from collections.abc import Callable

import libcst as cst
import pytest

from refactor.analysis.model import EventKind, Facts
from refactor.rewrite.constants import propose_constant
from refactor.rewrite.model import Change, Proposal, Refusal, RuntimeImport
from refactor.rewrite.patch import make_patch
from refactor.rule import Hit
from tests.rewrite.support import RUNTIME, calls, facts_of, finding_of, hit_at, patch_nodes, rule_of


def _patched(code: str | bytes, runtime: RuntimeImport = RUNTIME) -> bytes:
    facts = facts_of(code)
    patch = patch_nodes(facts, propose_constant, *calls(facts, "tensor"), runtime=runtime)
    assert [outcome.status for outcome in patch.outcomes] == ["applied"] * len(patch.outcomes)
    return patch.new


def _reasons(code: str, propose: Callable[[Facts, Hit], Proposal | Refusal] = propose_constant) -> list[str]:
    facts = facts_of(code)
    patch = patch_nodes(facts, propose, *calls(facts, "tensor"))
    assert patch.new == facts.source.data
    assert patch.edits == ()
    return [outcome.reason for outcome in patch.outcomes]


BODY = "def f(x):\n    return x + torch.tensor([1, 2], device=x.device)\n"


# -- what must not change


def test_nothing_accepted_gives_the_file_back() -> None:
    facts = facts_of("import torch\n" + BODY)
    patch = make_patch(facts, [], RUNTIME)
    assert (patch.new, patch.edits, patch.outcomes) == (facts.source.data, (), ())


def test_lines_without_an_edit_are_the_same_bytes() -> None:
    code = b"import torch   \n\n\n\nx=( 1,\n  2 )   # odd  \n" + BODY.encode() + b"\ny = 'tail'  \n\n\n# end"
    old, new = code.split(b"\n"), _patched(code).split(b"\n")
    assert [line for line in new if line in old] == [line for line in old if b"torch.tensor" not in line]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_line_ends_are_kept_and_used_for_new_lines(newline: str) -> None:
    code = ('"""Doc."""\nimport torch\n' + BODY).replace("\n", newline).encode()
    new = _patched(code)
    assert (
        new
        == (
            '"""Doc."""\nimport torch\nfrom cuda_graphs import constant\n'
            "def f(x):\n    return x + constant([1, 2], device=x.device)\n"
        )
        .replace("\n", newline)
        .encode()
    )


def test_a_byte_order_mark_an_encoding_and_wide_characters_are_kept() -> None:
    bom = b"\xef\xbb\xbf" + "import torch\ns = 'Größe 🎈'; y = 1\n".encode() + BODY.encode()
    assert _patched(bom).startswith(b"\xef\xbb\xbfimport torch\n")
    line = "    return '🎈é', x + torch.tensor([1], device=x.device)  # ü\n"
    new = _patched(f"import torch\ndef f(x):\n{line}").decode()
    assert "return '🎈é', x + constant([1], device=x.device).clone()  # ü\n" in new or "constant([1]" in new
    latin = "# -*- coding: latin-1 -*-\nimport torch\n# naïve\n" + BODY
    assert _patched(latin.encode("latin-1")).decode("latin-1").startswith("# -*- coding: latin-1 -*-\n")
    assert "naïve".encode("latin-1") in _patched(latin.encode("latin-1"))


def test_tabs_and_comments_inside_the_call_are_kept() -> None:
    code = (
        "import torch\ndef f(x):\n\tm = torch.tensor(\n\t\t[0.5],  # half\n"
        "\t\tdevice=x.device,  # here\n\t)\n\treturn x - m  # done\n"
    )
    new = _patched(code).decode()
    assert new == code.replace("torch.tensor", "constant").replace(
        "import torch\n", "import torch\nfrom cuda_graphs import constant\n"
    )


# -- imports


def _head(code: str, runtime: RuntimeImport = RUNTIME) -> str:
    return _patched(code + BODY, runtime).decode().partition("def f")[0]


def test_an_import_goes_behind_the_docstring_the_future_and_the_other_imports() -> None:
    head = '"""Doc."""\nfrom __future__ import annotations\n\nimport os\nimport torch  # th\n\nN = 1\n\n'
    assert _head(head) == head.replace("# th\n", "# th\nfrom cuda_graphs import constant\n")


def test_an_import_does_not_go_into_a_try_block_or_behind_definitions() -> None:
    head = "import torch\ntry:\n    import tqdm\nexcept OSError:\n    tqdm = 0\ndef g(): ...\nimport os\n"
    assert _head(head) == head.replace("import torch\n", "import torch\nfrom cuda_graphs import constant\n")


def test_an_existing_import_is_extended_and_used() -> None:
    assert "from .cuda_graphs import graphed, constant\n" in _head(
        "import torch\nfrom .cuda_graphs import graphed\n", RuntimeImport(".cuda_graphs")
    )
    kept = "import torch\nfrom cuda_graphs import constant\n"
    assert _head(kept) == kept
    renamed = "import torch\nfrom cuda_graphs import constant as c\n"
    assert "return x + c([1, 2]" in _patched(renamed + BODY).decode()
    spread = "import torch\nfrom cuda_graphs import (\n    graphed,\n    segment,\n)\n"
    assert "    segment, constant,\n)" in _head(spread)


@pytest.mark.parametrize(
    "taken",
    [
        "constant = 3\n",
        "from other import constant\n",
        "from x import *\nprint(constant)\n",
        "def constant(): ...\n",
    ],
    ids=["a variable", "another import", "perhaps a star import", "a function"],
)
def test_a_name_that_is_taken_is_not_shadowed(taken: str) -> None:
    new = _patched("import torch\n" + taken + BODY).decode()
    assert "import constant as cuda_graph_constant\n" in new
    assert "x + cuda_graph_constant([1, 2]" in new


def test_a_name_that_a_parameter_shadows_is_not_used() -> None:
    code = "import torch\ndef f(x, constant):\n    return x + torch.tensor([1, constant], device=x.device)\n"
    assert "cuda_graph_constant([1, constant]" in _patched(code).decode()


def test_a_file_that_calls_torch_something_else_keeps_doing_so() -> None:
    code = "import torch as th\ndef f(x):\n    return x + th.tensor(2.0, device=x.device)\n"
    assert _patched(code).decode() == code.replace("th.tensor(", "th.full((), ")
    bare = "from torch import tensor\ndef f(x):\n    return x + tensor(2.0, device=x.device)\n"
    assert _patched(bare).decode().startswith("from torch import tensor\nimport torch\ndef f")


# -- what is refused


def test_deep_nesting_is_refused_and_does_not_crash() -> None:
    deep = "(" * 90 + "x" + ")" * 90
    shallow = "[" * 90 + "x" + "]" * 90
    assert _reasons(f"import torch\ndef f(x):\n    return {shallow}, torch.tensor([1], device=x.device)\n")
    assert _patched(f"import torch\ndef f(x):\n    return {deep} + torch.tensor([1], device=x.device)\n")


def test_a_rule_without_a_rewrite_says_what_to_use_instead() -> None:
    facts = facts_of("import torch\n" + BODY)
    rule = rule_of(None, "CG101")
    hit = hit_at(facts, calls(facts, "tensor")[0], EventKind.READBACK)
    (outcome,) = make_patch(facts, [(rule, hit, finding_of(facts, hit, "CG101"))], RUNTIME).outcomes
    assert outcome.reason == "CG101 is explained, not rewritten. Use instead: instead"


def test_a_second_rewrite_of_the_same_node_is_refused_openly() -> None:
    facts = facts_of("import torch\n" + BODY)
    node = calls(facts, "tensor")[0]
    accepted = []
    for code in ("CG401", "CG402"):
        hit = hit_at(facts, node, EventKind.HOST_CONSTANT)
        accepted.append((rule_of(propose_constant, code), hit, finding_of(facts, hit, code)))
    first, second = make_patch(facts, accepted, RUNTIME).outcomes
    assert first.status == "applied"
    assert second.status == "refused"
    assert "another rewrite changes the same code in line 3" in second.reason


def test_a_change_inside_code_that_is_thrown_away_is_refused() -> None:
    facts = facts_of("import torch\ndef f(x):\n    return g(torch.tensor([1], device=x.device))\n")

    def drop(facts: Facts, hit: Hit) -> Proposal:
        return Proposal((Change(hit.event.node, lambda node: cst.Name("gone")),), "dropped")

    inner, outer = calls(facts, "tensor")[0], calls(facts, "g")[0]
    accepted = []
    for code, propose, node in (("CG401", propose_constant, inner), ("CG402", drop, outer)):
        hit = hit_at(facts, node, EventKind.HOST_CONSTANT)
        accepted.append((rule_of(propose, code), hit, finding_of(facts, hit, code)))
    patch = make_patch(facts, accepted, RUNTIME)
    assert [outcome.status for outcome in patch.outcomes] == ["refused", "applied"]
    assert b"return gone\n" in patch.new
    assert b"cuda_graphs" not in patch.new


def test_a_rewrite_that_does_not_parse_or_loses_a_comment_is_not_written() -> None:
    def broken(facts: Facts, hit: Hit) -> Proposal:
        return Proposal((Change(hit.event.node, lambda node: cst.Name("no", lpar=[cst.LeftParen()])),), "x")

    def silent(facts: Facts, hit: Hit) -> Proposal:
        return Proposal((Change(hit.event.node, lambda node: cst.Name("quiet")),), "x")

    code = "import torch\ndef f(x):\n    return torch.tensor(  # why\n        [1], device=x.device)\n"
    assert "lose a comment" in _reasons(code, silent)[0]
    with pytest.raises(cst.CSTValidationError):
        _reasons(code, broken)


def test_rewrites_of_a_group_stand_or_fall_together() -> None:
    def grouped(facts: Facts, hit: Hit) -> Proposal:
        refused = hit.event.node.lineno == 4  # type: ignore[attr-defined]
        build = (lambda node: Refusal("not this one")) if refused else (lambda node: cst.Name("y"))
        return Proposal((Change(hit.event.node, build),), "x", group="together")

    code = "import torch\ndef f(x):\n    a = torch.tensor([1])\n    b = torch.tensor([2])\n    return a, b\n"
    assert _reasons(code, grouped) == [
        "it belongs to a rewrite that was refused: not this one",
        "not this one",
    ]


def test_every_ast_node_that_rewrites_use_is_found_by_its_span() -> None:
    code = (
        "import torch\n@dec\ndef f(x, *a, **k):\n    if x[0]:\n        y = -x  # é\n    elif not x.any():\n"
        "        return ((x + 1), x.y)\n    with a, k as z: pass\n    for i in range(3): y += x\n"
        "    while x and i: assert x\n    s = 'a' 'b'; t: int = 3\n    del s\n    raise x if y else z\n"
    )
    facts = facts_of(code)
    kinds = (ast.expr, ast.stmt)
    skipped = (ast.Pass, ast.Import, ast.arguments, ast.Starred, ast.Slice)
    for node in ast.walk(facts.tree):
        if isinstance(node, kinds) and not isinstance(node, skipped):
            hits = Proposal((Change(node, lambda found: found),), "x")
            patch = patch_nodes(facts, lambda facts, hit, p=hits: p, node)
            assert patch.outcomes[0].status == "applied", ast.dump(node)
