"""From accepted hits to a patch: proposals are collected, conflicts settled openly, libcst run once a chunk.

Every finding gets an outcome. A rewrite that turns out not to work (no matching libcst node, a build that
refuses, a result that does not parse or loses a comment) is dropped with its reason and the rest is made
without it, until what is left holds together.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from refactor.analysis.model import EventKind, Facts
from refactor.analysis.rounds import between
from refactor.findings import Finding, Outcome
from refactor.rewrite.chunk import Chunk, Positions, chunk_of, parse_chunk
from refactor.rewrite.imports import Imports, settle
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Edit, Patch, Proposal, Refusal, RuntimeImport
from refactor.rewrite.names import PLACEHOLDER
from refactor.rewrite.scripted import compiled_around
from refactor.rewrite.spread import separated
from refactor.rule import Hit, Rule
from refactor.source import Source

Accepted = tuple[Rule, Hit, Finding]
_KEPT = "nothing to do: it stays on the host, between the segments that its method is cut into"
_NO_SCRIPT = "; torch.jit.script cannot compile the result"


def make_patch(facts: Facts, accepted: Sequence[Accepted], runtime: RuntimeImport) -> Patch:
    """Rewrite what the accepted findings allow; every one of them gets an outcome, in the given order."""
    answers = _propose(facts, accepted)
    proposals = _in_order(answers, accepted)
    dropped = _conflicts(facts.source, proposals)
    while True:
        active = [p for p in proposals if p not in dropped]
        result = _attempt(facts, active, runtime)
        if isinstance(result, _Result):
            break
        dropped.update(result)
        dropped.update(_fallen_with(proposals, dropped))
    outcomes: list[Outcome] = []
    regions: dict[str, None] = {}
    cut = {change.node for p in active if p.plans for change in p.changes}
    for _, hit, finding in accepted:
        answer = answers[finding]
        if isinstance(answer, Proposal) and answer in dropped:
            answer = dropped[answer]
        if isinstance(answer, Refusal):
            kept = hit.event.kind is EventKind.HOST_STATE and hit.event.function in cut
            outcomes.append(Outcome(finding, "refused", _KEPT if kept else answer.reason))
        else:
            regions.setdefault(hit.event.region.qualname)
            script = answer.runtime and "torch.jit." in facts.source.text
            note = answer.note + (_NO_SCRIPT if script else "")
            outcomes.append(Outcome(finding, "applied", note=note, cut=bool(answer.plans)))
    needed = frozenset(name for p in active for name in p.runtime)
    plans = tuple(sorted((plan for p in active for plan in p.plans), key=lambda plan: plan.line))
    return Patch(facts.source, result.edits, result.new, tuple(outcomes), needed, tuple(regions), plans)


# -- proposals -----------------------------------------------------------------------------------------------


def _propose(facts: Facts, accepted: Sequence[Accepted]) -> dict[Finding, Proposal | Refusal]:
    answers: dict[Finding, Proposal | Refusal] = {}
    joint: dict[Any, list[tuple[Finding, Hit, Proposal]]] = {}
    for rule, hit, finding in accepted:
        if hit.event.kind is EventKind.ROUND_READ:
            answers[finding] = Refusal(
                f"when the host learns this is for you to decide: {between(hit.event)}"
            )
            continue
        if rule.propose is None:
            first = rule.instead.partition("\n")[0]
            answers[finding] = Refusal(f"{rule.code} is explained, not rewritten. Use instead: {first}")
            continue
        compiled = compiled_around(facts, hit.event.node)
        if compiled:
            answers[finding] = Refusal(
                f"`{compiled}` is compiled by torch.jit.script, which may not understand the rewritten code; "
                "take it out of that, or make the change by hand and compile it again"
            )
            continue
        answer = rule.propose(facts, hit)
        if isinstance(answer, Proposal) and answer.joint is not None:
            joint.setdefault(answer.joint.owner, []).append((finding, hit, answer))
        else:
            answers[finding] = answer
    settled = [hit.event.node for _, hit, finding in accepted if isinstance(answers.get(finding), Proposal)]
    for members in joint.values():
        answers.update(_plan_jointly(members, settled))
    return answers


def _plan_jointly(
    members: Sequence[tuple[Finding, Hit, Proposal]], settled: Collection[ast.AST]
) -> Mapping[Finding, Proposal | Refusal]:
    joint = members[0][2].joint
    assert joint is not None
    planned = joint.plan([hit for _, hit, _ in members], settled)
    answers: dict[Finding, Proposal | Refusal] = {}
    for finding, hit, proposal in members:
        refused = isinstance(planned[hit], Refusal) and proposal.otherwise is not None
        answers[finding] = proposal.otherwise if refused and proposal.otherwise else planned[hit]
    return answers


def _in_order(answers: Mapping[Finding, Proposal | Refusal], accepted: Sequence[Accepted]) -> list[Proposal]:
    found: dict[Proposal, None] = {}
    for _, _, finding in accepted:
        answer = answers[finding]
        if isinstance(answer, Proposal):
            found.setdefault(answer)
    return list(found)


def _conflicts(source: Source, proposals: Sequence[Proposal]) -> dict[Proposal, Refusal]:
    """Of two rewrites of the same node the first one stays."""
    taken: dict[tuple[ast.AST, bool], Proposal] = {}
    dropped: dict[Proposal, Refusal] = {}
    for proposal in proposals:
        places = {(change.node, change.moves) for change in proposal.changes}
        clash = next((place[0] for place in places if taken.get(place, proposal) is not proposal), None)
        if clash is not None:
            line: int = clash.lineno  # type: ignore[attr-defined]
            dropped[proposal] = Refusal(
                f"another rewrite changes the same code in line {line}; apply again after verifying that one"
            )
            continue
        taken.update(dict.fromkeys(places, proposal))
    dropped.update(_fallen_with(proposals, dropped))
    return dropped


def _fallen_with(
    proposals: Sequence[Proposal], dropped: Mapping[Proposal, Refusal]
) -> dict[Proposal, Refusal]:
    """Proposals of a group of which another one was dropped."""
    groups = {proposal.group: reason for proposal, reason in dropped.items() if proposal.group}
    return {
        proposal: Refusal(f"it belongs to a rewrite that was refused: {groups[proposal.group].reason}")
        for proposal in proposals
        if proposal.group in groups and proposal not in dropped
    }


# -- one attempt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    edits: tuple[Edit, ...]
    new: bytes


def _attempt(
    facts: Facts, active: Sequence[Proposal], runtime: RuntimeImport
) -> _Result | dict[Proposal, Refusal]:
    """All edits of the active proposals, or those that have to be dropped."""
    source = facts.source
    if not active:
        return _Result((), source.data)
    if PLACEHOLDER.search(source.text):
        reason = "the file contains names reserved for this tool; was it written by an interrupted run?"
        return dict.fromkeys(active, Refusal(reason))
    needed = {name for p in active for name in (*p.runtime, *p.imports)}
    chunks: dict[Chunk, list[tuple[Proposal, Change]]] = {}
    for proposal in active:
        for change in proposal.changes:
            chunks.setdefault(chunk_of(source, facts.tree, change.node), []).append((proposal, change))
    first = min(chunk.first_line for chunk in chunks)
    imports = settle(source, facts.tree, runtime, needed, first)
    if isinstance(imports, Refusal):
        return dict.fromkeys((p for p in active if p.runtime or p.imports), imports)
    edits = list(imports.edits)
    failed: dict[Proposal, Refusal] = {}
    for chunk, members in sorted(chunks.items(), key=_turn):
        text = _rewrite(source, chunk, members, imports)
        if isinstance(text, dict):
            failed.update(text)
        else:
            edits.append(_trimmed(source, chunk, text))
    if failed:
        return failed
    edits.sort(key=lambda edit: (edit.start, edit.end))
    new = _apply(source.data, edits)
    reason = _unsound(source, new)
    return dict.fromkeys(active, Refusal(reason)) if reason else _Result(tuple(edits), new)


def _turn(item: tuple[Chunk, Sequence[tuple[Proposal, Change]]]) -> tuple[bool, int]:
    """Chunks that need what others make come after those, which stand further down."""
    chunk, members = item
    late = any(change.late for _, change in members)
    return late, -chunk.first_line if late else 0


def _rewrite(
    source: Source, chunk: Chunk, members: Sequence[tuple[Proposal, Change]], imports: Imports
) -> str | dict[Proposal, Refusal]:
    """The new text of a chunk, or the proposals that cannot be made."""
    owner = {change: proposal for proposal, change in members}
    parsed = parse_chunk(source, chunk, list(owner))
    if isinstance(parsed, Refusal):
        return dict.fromkeys(owner.values(), parsed)
    lost = [change for change in owner if change not in parsed.nodes]
    if lost:
        reason = "the place was not found again when rewriting; put each statement on a line of its own"
        return {owner[change]: Refusal(reason) for change in lost}
    changes: dict[cst.CSTNode, list[Change]] = {}
    for change, node in sorted(parsed.nodes.items(), key=lambda pair: pair[0].moves):
        changes.setdefault(node, []).append(change)
    transformer = _Replace(changes, parsed.positions)
    module = parsed.module.visit(transformer)
    failed = {owner[change]: refusal for change, refusal in transformer.refused.items()}
    failed.update({owner[change]: _LOST for change in transformer.vanished(module, owner)})
    if failed:
        return failed
    text = separated(PLACEHOLDER.sub(lambda match: imports.names[match.group(1)], module.code))
    text = text.replace("\n", "\r") if parsed.carriage_returns else text
    # what goes elsewhere takes its comments along: then only the whole file tells whether one is lost
    leaves = any(change.late for proposal in owner.values() for change in proposal.changes)
    if not _parses(text) or (not leaves and _loses_comment(chunk.text, text)):
        reason = "the rewritten code would not parse or would lose a comment; please report this statement"
        return dict.fromkeys(owner.values(), Refusal(reason))
    return text


_LOST = Refusal("another rewrite replaces the code around it; apply again after verifying that one")


class _Replace(cst.CSTTransformer):
    """Applies each change when its original node is left, so that it sees all inner changes made."""

    def __init__(self, changes: Mapping[cst.CSTNode, Sequence[Change]], positions: Positions) -> None:
        super().__init__()
        self.changes = changes
        self.positions = positions
        self.starts = {positions[node].start.line for node in changes}
        self.refused: dict[Change, Refusal] = {}
        self.made: dict[Change, tuple[cst.CSTNode, ...]] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Whether a change may be inside: libcst makes all it visits anew, which is slow."""
        if not isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            return True
        decorators = getattr(node, "decorators", ())
        first = self.positions[decorators[0] if decorators else node].start.line
        last = self.positions[node].end.line
        return any(first <= line <= last for line in self.starts)

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        for change in self.changes.get(original_node, ()):
            result = change.build(updated_node)
            if isinstance(result, Refusal):
                self.refused[change] = result
                return updated_node
            made: list[Any] = []
            if isinstance(result, cst.CSTNode | cst.FlattenSentinel):
                made = [*result] if isinstance(result, cst.FlattenSentinel) else [result]
                lines = [node for node in made if isinstance(node, cst.SimpleStatementLine)]
                small = [node for line in lines for node in line.body]
                # a line itself may get other comments above it, an assignment become a return
                values = [node.value for node in small if isinstance(node, cst.Assign)]
                self.made[change] = (*made, *small, *values)
            updated_node = result
        return updated_node

    def vanished(self, module: cst.Module, owner: Mapping[Change, Proposal]) -> list[Change]:
        """Changes whose result an outer change of another proposal threw away."""
        if len(set(owner.values())) < 2:
            return []
        kept: set[int] = set()
        stack: list[cst.CSTNode] = [module]
        while stack:
            node = stack.pop()
            kept.add(id(node))
            stack += node.children
        lost = [c for c, nodes in self.made.items() if nodes and not any(id(node) in kept for node in nodes)]
        return [
            c
            for c in lost
            if not any(
                owner[o] is owner[c]
                and o is not c
                and o not in lost
                and any(n is c.node for n in ast.walk(o.node))
                for o in self.made
            )
        ]


def _trimmed(source: Source, chunk: Chunk, text: str) -> Edit:
    """The edit without the lines at both ends that stay as they are."""
    old, new = chunk.text.splitlines(keepends=True), text.splitlines(keepends=True)
    head = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    rest = zip(reversed(old[head:]), reversed(new[head:]), strict=False)
    tail = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
    encoding = source.encoding
    start = chunk.start + len("".join(old[:head]).encode(encoding))
    end = chunk.end - len("".join(old[len(old) - tail :]).encode(encoding))
    return Edit(start, end, "".join(new[head : len(new) - tail]).encode(encoding))


def _apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for edit in edits:
        pieces += [data[position : edit.start], edit.new]
        position = edit.end
    return b"".join([*pieces, data[position:]])


# -- checks --------------------------------------------------------------------------------------------------


def _unsound(source: Source, new: bytes) -> str:
    """Why the new file is not fit to be written; empty if it is."""
    text = new[len(source.bom) :].decode(source.encoding)
    if not _parses(text):
        return "the rewritten file would not parse; please report this file"
    if _loses_comment(source.text, text):
        return "the rewritten file would lose a comment; please report this file"
    return ""


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _loses_comment(old: str, new: str) -> bool:
    """Whether a comment of the old text is not in the new one, compared as multisets.

    Where every line with a ``#`` still ends as it did, which is quick to see, none is lost.
    """
    if not _tails(old) - _tails(new):
        return False
    return bool(_comments(old) - _comments(new))


def _tails(text: str) -> Counter[str]:
    return Counter(line[line.index("#") :].rstrip() for line in text.splitlines() if "#" in line)


def _comments(text: str) -> Counter[str]:
    reader = io.StringIO(text, newline=None).readline  # as the interpreter reads line ends
    try:
        tokens = list(tokenize.generate_tokens(reader))
    except (tokenize.TokenError, SyntaxError):
        return Counter()
    return Counter(token.string.rstrip() for token in tokens if token.type == tokenize.COMMENT)
