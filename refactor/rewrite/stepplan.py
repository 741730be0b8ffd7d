"""What becomes of one training step: the outlined function, its arguments and results, and the changes."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refactor.analysis import liveness
from refactor.analysis.model import Facts
from refactor.analysis.project import FunctionInfo
from refactor.analysis.steps import Owner, backward_of
from refactor.analysis.trees import walk
from refactor.rewrite.attributes import kept, seed, trouble
from refactor.rewrite.changing import changing_number
from refactor.rewrite.constants import is_plain
from refactor.rewrite.layout import displayed, wrapped
from refactor.rewrite.lazily import libcst as cst
from refactor.rewrite.model import Change, Proposal, Refusal
from refactor.rewrite.names import attribute_names, bound_names, fresh, placeholder, used_names
from refactor.rewrite.passes import VALUES, with_graphs
from refactor.rewrite.plan import units_of
from refactor.rewrite.script import SIMPLE, Script
from refactor.rewrite.syntax import ancestors, appended, argument, code, expression, same_scope
from refactor.rewrite.window import Reader, Window

_SHOWS = frozenset({"print", "format", "info", "debug", "warning", "log", "write", "repr", "str"})
_UNCLEAR = Refusal("the layout of this block was not understood (two statements on one line?); reformat it")


@dataclass(eq=False)
class Plan:
    """What the outlined function takes, gives and is called."""

    facts: Facts
    function: ast.FunctionDef | None  # None: the step stands at the top level
    owner: Owner
    block: tuple[ast.stmt, ...]
    reader: Reader
    window: Window
    name: str = ""
    method: bool = False
    inputs: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)  # parameter -> argument, where they differ
    outputs: list[str] = field(default_factory=list)
    detached: list[str] = field(default_factory=list)
    swaps: dict[ast.expr, str] = field(default_factory=dict)  # expression inside -> parameter
    scaled: ast.Call | None = None  # `scaler.scale(loss)` in front of `.backward()`
    scale: str = ""  # the parameter that stands for the scale
    stored: dict[str, str] = field(default_factory=dict)  # name inside -> attribute it is kept in
    elsewhere: list[Window] = field(default_factory=list)  # of the file's other steps

    # -- planning

    def settle(self, others: Collection[str]) -> str:
        """Fill in the plan, ``others`` being names of other steps; why there is none, or empty."""
        inside = self.window.inside
        unit_lines = {id(s) for unit in units_of(self.block) if len(unit) > 1 for s in unit}
        if any(id(s) in unit_lines for s in (*self.window.before, *inside, *self.window.after)):
            return _UNCLEAR.reason
        outer = set(used_names(self.scope)) | set(bound_names(self.facts.tree)) | set(others)
        taken = {n.id for s in inside for n in walk(s) if isinstance(n, ast.Name)}
        reason = self.unscaled(taken)
        if reason:
            return reason
        away = {id(n) for n in walk(self.scaled.func)} if self.scaled else set()
        names = {n.id for s in inside for n in walk(s) if isinstance(n, ast.Name) and id(n) not in away}
        variables = self.reader.locals if self.function is not None else self.script.variables
        read = [n for n in liveness.reads(inside) if n in variables and n in names]
        self.method = self.reader.owner in read and self.keeps_to_itself()
        outer |= attribute_names(self.facts.tree) if self.method else set()
        if not self.method and self.reader.owner in read and not self.take_attributes(taken, away):
            return "the step uses the instance itself; keep its model and optimizer apart from what changes"
        base = self.function.name.strip("_") if self.function is not None else ""
        base = base or "training"
        self.name = fresh(f"_captured_{base}" if base.endswith("step") else f"_{base}_step", outer)
        self.move(taken)
        swapped = {n.id for e in self.swaps for n in walk(e) if isinstance(n, ast.Name)}
        kept = {
            n.id
            for s in inside
            for n in self.unswapped(s)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        }
        self.inputs = [n for n in read if n != self.reader.owner and (n in kept or n not in swapped)]
        swapped_in = [p for p in dict.fromkeys(self.swaps.values()) if p not in self.stored]
        self.inputs += [p for p in swapped_in if p not in self.inputs]
        self.inputs += [self.scale] if self.scale else []
        changing = changing_number(self.facts, self.scope, self.owner, inside, self.inputs)
        reason = changing or self.results()
        return reason or ("" if self.function is not None else self.script.trouble(self.owner, inside))

    @property
    def scope(self) -> ast.FunctionDef | ast.Module:
        """What holds the variables of the step."""
        return self.function if self.function is not None else self.facts.tree

    @cached_property
    def script(self) -> Script:
        """The top level of the file."""
        return Script(self.facts)

    def unscaled(self, taken: set[str]) -> str:
        """``scaler.scale(loss).backward()``: the scale becomes an argument, for the scaler itself changes."""
        back = self.reader.block[self.reader.backward]
        assert isinstance(back, ast.Expr)
        assert isinstance(back.value, ast.Call)
        assert isinstance(back.value.func, ast.Attribute)
        scaled = back.value.func.value
        if not (isinstance(scaled, ast.Call) and isinstance(scaled.func, ast.Attribute)):
            return ""
        if scaled.func.attr != "scale" or len(scaled.args) != 1 or scaled.keywords:
            return ""
        scaler = ast.unparse(scaled.func.value)
        steps = [
            node.args[0]
            for node in same_scope(self.scope)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"{scaler}.step" and node.args
        ]
        if not is_plain(scaled.args[0]):
            return "the scaled loss is computed in the call of `backward`; give it a name first"
        if not steps or not is_plain(steps[0]):
            return f"the optimizer that `{scaler}` steps is not found here; wrap the step by hand"
        self.scaled, self.scale = scaled, fresh("scale", taken)
        taken.add(self.scale)
        device = f'{ast.unparse(steps[0])}.param_groups[0]["params"][0].device'
        self.given[self.scale] = f"{scaler}.scale({placeholder('torch')}.ones((), device={device}))"
        return ""

    def backward(self, node: cst.Call) -> cst.Call:
        """``loss.backward(scale)``: the gradient of the loss is the scale."""
        func = cst.ensure_type(node.func, cst.Attribute)
        loss = cst.ensure_type(func.value, cst.Call).args[0].value
        seed = expression(f"{self.scale}.expand_as({code(loss)})")
        return node.with_changes(func=func.with_changes(value=loss), args=[argument(seed)])

    def unswapped(self, root: ast.AST) -> list[ast.AST]:
        """Nodes of a statement apart from those that become parameters."""
        found: list[ast.AST] = []
        todo = [root]
        while todo:
            node = todo.pop()
            if node not in self.swaps:
                found.append(node)
                todo += ast.iter_child_nodes(node)
        return found

    def keeps_to_itself(self) -> bool:
        """Whether the instance holds nothing but what the step uses, so that watching it costs little."""
        cls = self.reader.cls
        if cls is None or cls.is_module or any(b != cls for b in cls.mro) or "__slots__" in cls.own:
            return False
        used = {
            n.attr
            for s in self.window.inside
            for n in walk(s)
            if isinstance(n, ast.Attribute) and getattr(n.value, "id", None) == self.reader.owner
        }
        stored: dict[str, set[str]] = {}
        for item in cls.own.values():
            if isinstance(item, FunctionInfo):
                for node in walk(item.node):
                    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                        stored.setdefault(node.attr, set()).add(getattr(item.node, "name", ""))
        return all(where == {"__init__"} for where in stored.values()) and set(stored) <= used

    def take_attributes(self, taken: set[str], away: set[int]) -> bool:
        """``self.model`` becomes a parameter ``model``; False: the instance is used in another way."""
        parents = self.facts.parents
        for attribute in kept(self.reader.cls, self.reader.owner, self.window.inside):
            name = fresh(attribute.strip("_") or "value", taken)
            taken.add(name)
            self.stored[name] = attribute
        for stmt in self.window.inside:
            for node in walk(stmt):
                if not (isinstance(node, ast.Name) and node.id == self.reader.owner) or id(node) in away:
                    continue
                around = parents.get(node)
                if isinstance(around, ast.Attribute) and around.attr in self.stored.values():
                    self.swaps[around] = next(n for n, a in self.stored.items() if a == around.attr)
                    continue
                if not isinstance(around, ast.Attribute) or not isinstance(around.ctx, ast.Load):
                    return False
                cls = self.reader.cls
                if cls is None or (
                    cls.find(around.attr) is not None and isinstance(cls.find(around.attr)[1], FunctionInfo)  # type: ignore[index]
                ):
                    return False
                name = next((p for p, a in self.given.items() if a == ast.unparse(around)), "")
                if not name:
                    name = fresh(around.attr.strip("_") or "value", taken)
                    taken.add(name)
                    self.given[name] = ast.unparse(around)
                self.swaps[around] = name
        return True

    def move(self, taken: set[str]) -> None:
        """``x.to(device)`` becomes the argument for a parameter ``x``."""
        for call in self.window.moved:
            assert isinstance(call.func, ast.Attribute)
            text = ast.unparse(call)
            name = next((p for p, a in self.given.items() if a == text), "")
            root = call.func.value
            if not name and isinstance(root, ast.Name):
                others = [
                    n for s in self.window.inside for n in walk(s)
                    if isinstance(n, ast.Name) and n.id == root.id
                    and not any(n in walk(c) and ast.unparse(c) == text for c in self.window.moved)
                ]  # fmt: skip
                name = root.id if not others else ""
            if not name:
                index = getattr(getattr(root, "slice", None), "value", None)
                base = index if isinstance(index, str) and index.isidentifier() else "moved"
                name = fresh(base, taken)
            taken.add(name)
            self.given[name] = text
            self.swaps[call] = name

    def results(self) -> str:
        """What the function returns: what is read behind it. The loss leaves its graph behind."""
        inside = self.window.inside
        last = inside[-1]
        scope = self.function
        live = liveness.live_after(scope, last) if scope is not None else self.script.live_after(last)
        wanted = live | set(liveness.reads(self.window.after))
        self.outputs = [n for n in liveness.writes(inside) if n in wanted]
        unsure = [n for n in self.outputs if n not in (*self.inputs, *liveness.surely_writes(inside))]
        if unsure:
            return f"`{unsure[0]}` is bound under a condition; bind it before the step in any case"
        loss = set(liveness.reads([s for s in inside if backward_of(s) is not None]))
        ids = {id(n) for s in inside for n in walk(s)}
        for other in self.elsewhere:  # where another step computes the name anew
            taken = set(liveness.reads(other.inside))
            named = (n for s in other.inside for n in walk(s) if isinstance(n, ast.Name))
            ids |= {id(n) for n in named if n.id not in taken}
        for node in same_scope(self.scope):
            if id(node) in ids or not isinstance(node, ast.Name) or node.id not in self.outputs:
                continue
            if isinstance(node.ctx, ast.Load) and not self.is_read(node):
                name, line = node.id, node.lineno
                return f"`{name}` is used with its autograd graph in line {line}; use `{name}.detach()` there"
        self.detached = [n for n in self.outputs if n in loss]
        return self.needed() or self.attributes()

    def needed(self) -> str:
        """Why not: a later pass of the block goes back through what this one computes."""
        passes = [i for i, stmt in enumerate(self.block) if backward_of(stmt) is not None]
        given = with_graphs(self.reader, self.window.inside, set(), True).keys() & set(self.outputs)
        for stmt in self.block[self.window.stop : passes[-1] + 1]:
            for node in walk(stmt):
                named = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
                if named and node.id in given and not self.is_value(node):
                    return (
                        f"`{node.id}` is used with its autograd graph in line {node.lineno}, for another "
                        f"backward pass; write `{node.id}.detach()` there if that pass does not need it"
                    )
        return ""

    def is_value(self, node: ast.Name) -> bool:
        """``loss.item()``, ``fake.detach()``."""
        around = self.facts.parents.get(node)
        if not isinstance(around, ast.Attribute):
            return False
        plain = frozenset({"mean", "sum", "argmax", "max", "min"})  # and then read
        if around.attr in plain:
            outer = self.facts.parents.get(self.facts.parents.get(around, around))
            return isinstance(outer, ast.Attribute) and outer.attr in VALUES
        return around.attr in VALUES

    def attributes(self) -> str:
        """Attributes that the step sets are results of the function, and are set where it is called."""
        for name, attribute in self.stored.items():
            reason = trouble(self.facts.tree, attribute, self.window.inside, self.is_read)
            if reason:
                return reason
            self.outputs.append(name)
            if attribute == seed(self.reader.owner, self.block[self.reader.backward]):
                self.detached.append(name)
        return ""

    def is_read(self, node: ast.AST) -> bool:
        """Whether only the values of a result are used."""
        parents = self.facts.parents
        while True:
            around = parents.get(node)
            if isinstance(around, ast.Attribute):
                return around.attr not in ("backward", "grad_fn", "requires_grad", "retain_grad", "grad")
            if isinstance(around, ast.Call):
                last = ast.unparse(around.func).rpartition(".")[2]
                return around.func is not node and last not in _SHOWS | {"append", "extend"}
            if not isinstance(around, ast.BinOp | ast.UnaryOp | ast.Subscript | ast.Compare):
                return False
            node = around

    # -- building

    @property
    def anchor(self) -> ast.AST:
        """What the function is placed beside."""
        if self.function is None:
            return self.script.place(self.owner)[0]
        return self.function if self.method else self.top(self.function)

    def places(self) -> set[ast.AST]:
        """Nodes of which a file can have one change only: steps that share one are written together."""
        return {self.anchor, self.owner, *(one.made for one in self.window.optimizers)}

    def inner(self) -> list[Change]:
        """The changes of what moves into the function."""
        changes = [Change(node, _named(name)) for node, name in self.swaps.items()]
        if self.scaled is not None:
            changes.append(Change(self.reader.block[self.reader.backward].value, self.backward))  # type: ignore[attr-defined]
        return changes

    def top(self, node: ast.AST) -> ast.AST:
        """The top-level statement around the function."""
        for around in ancestors(self.facts, node):
            if isinstance(around, ast.Module):
                break
            node = around
        return node

    def shortened(self, lines: list[Any], made: list[cst.FunctionDef]) -> list[Any]:
        """The lines of the block with the call in place of the window; the function goes into ``made``."""
        start, stop = self.window.start, self.window.stop
        chosen = {i for i in range(start, stop) if self.block[i] in self.window.inside}
        inside = [lines[i] for i in sorted(chosen)]
        before = [lines[i] for i in range(start, stop) if self.block[i] in self.window.before]
        after = [lines[i] for i in range(start, stop) if self.block[i] in self.window.after]
        first = inside[0]
        lead = first.leading_lines
        count = next((i for i, line in enumerate(lead) if line.comment is not None), len(lead))
        inside[0] = first.with_changes(leading_lines=lead[count:])
        made[:] = [self.made(inside)]
        call = self.call_line().with_changes(leading_lines=lead[:count])
        if before and not start:  # no empty lines at the start of a block
            lead = [line for line in before[0].leading_lines if line.comment is not None]
            before[0] = before[0].with_changes(leading_lines=lead)
        return [*lines[:start], *before, call, *after, *lines[stop:]]

    def call_line(self) -> cst.SimpleStatementLine:
        """The call of the outlined function."""
        arguments = [self.given.get(name, name) for name in self.inputs]
        target = f"{placeholder('graphed')}({self.reader.owner}.{self.name})" if self.method else self.name
        targets = [f"{self.reader.owner}.{self.stored[n]}" if n in self.stored else n for n in self.outputs]
        start = f"{', '.join(targets)} = " if targets else ""
        text = wrapped(f"{start}{target}(", arguments, ")")
        return cst.ensure_type(cst.parse_statement(text), cst.SimpleStatementLine)

    def made(self, body: list[Any]) -> cst.FunctionDef:
        """The outlined function."""
        if self.outputs:
            results = [f"{n}.detach()" if n in self.detached else n for n in self.outputs]
            line = cst.ensure_type(
                cst.parse_statement(f"return {displayed(results)}"), cst.SimpleStatementLine
            )
            body.append(line)
        parameters = [*([str(self.reader.owner)] if self.method else []), *map(self.parameter, self.inputs)]
        header = wrapped(f"def {self.name}(", parameters, "):")
        start = "" if self.method else f"@{placeholder('graphed')}\n"
        made = cst.ensure_type(cst.parse_statement(f"{start}{header}\n    pass\n"), cst.FunctionDef)
        return made.with_changes(body=cst.IndentedBlock(body))

    def parameter(self, name: str) -> str:
        """A parameter, annotated as in the function around."""
        if self.function is None or name in self.given or name in liveness.writes(self.function.body):
            return name
        spec = self.function.args
        found = next(
            (a.annotation for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if a.arg == name), None
        )
        text = self.facts.source.snippet(found) if found is not None else ""
        return f"{name}: {text}" if text and not set(text) & {"\n", "\r"} else name

    def placed(self, made: Sequence[cst.FunctionDef], node: Any) -> Any:
        """The outlined method before ``node``, or the function behind it.

        Comments above a top-level statement are not libcst's to see here: what came before it would come
        between.
        """
        if isinstance(node, Refusal) or not made:
            return node if isinstance(node, Refusal) else _UNCLEAR
        gap = cst.EmptyLine(indent=False)
        if self.function is None:
            return self.script.beside(self.owner, made, node)
        if not self.method:
            return cst.FlattenSentinel([node, *(f.with_changes(leading_lines=[gap, gap]) for f in made)])
        blanks = [line for line in node.leading_lines if line.comment is None]
        head = blanks if node.leading_lines and node.leading_lines[0].comment is None else []
        rest = node.leading_lines[len(head) :]
        first = made[0].with_changes(leading_lines=head)
        others = [f.with_changes(leading_lines=[gap]) for f in made[1:]]
        return cst.FlattenSentinel([first, *others, node.with_changes(leading_lines=[gap, *rest])])


def proposal_of(plans: Sequence[Plan]) -> Proposal:
    """The changes of steps that share a place."""
    changes = [change for plan in plans for change in plan.inner()]
    made: dict[Plan, list[cst.FunctionDef]] = {plan: [] for plan in plans}
    blocks: dict[ast.AST, list[Plan]] = {}
    for plan in sorted(plans, key=lambda plan: -plan.window.start):
        blocks.setdefault(plan.owner, []).append(plan)
    anchors: dict[ast.AST, list[Plan]] = {}
    for plan in plans:
        anchors.setdefault(plan.anchor, []).append(plan)

    def build(node: ast.AST) -> Any:
        def change(new: Any) -> Any:
            if node in blocks:
                new = _shortened(new, blocks[node], made)
            for plan in reversed(anchors.get(node, [])):
                if not isinstance(new, Refusal) and not isinstance(new, cst.FlattenSentinel):
                    new = plan.placed([f for p in anchors[node] for f in made[p]], new)
            return new

        return change

    for node in dict.fromkeys([*blocks, *anchors]):
        late = any(plan.function is None for plan in anchors.get(node, ()))
        line = isinstance(node, SIMPLE)
        changes.append(Change(node, build(node), line, moves=late and node not in blocks, late=late))
    note = "the step replays one graph for each shape of batch; its loss comes back detached"
    optimizers = {one.made: one for plan in plans for one in plan.window.optimizers}
    if not all(plan.window.optimizers for plan in plans):
        note += "; the optimizer's own step stays eager"
    capturable = [o for o in optimizers.values() if o.model is not None]
    changes += [Change(o.made, _capturable(o.model)) for o in capturable if o.model is not None]
    if capturable:
        note += "; `capturable` keeps the optimizer's step count on the device"
    imports = frozenset({"torch"} if any(plan.scale for plan in plans) else ())
    return Proposal(tuple(changes), note, frozenset({"graphed"}), imports)


def _shortened(node: Any, plans: Sequence[Plan], made: Mapping[Plan, list[cst.FunctionDef]]) -> Any:
    """A block with calls in place of its windows, the last window first."""
    body = node.body
    if not isinstance(body, cst.IndentedBlock) or len(body.body) != len(units_of(plans[0].block)):
        return _UNCLEAR
    lines: list[Any] = list(body.body)
    for plan in plans:
        lines = plan.shortened(lines, made[plan])
    return node.with_changes(body=body.with_changes(body=lines))


def _named(name: str) -> Any:
    return lambda node: cst.Name(name)


def _capturable(model: ast.expr) -> Any:
    value = expression(f"next({ast.unparse(model)}.parameters()).is_cuda")
    return lambda node: node.with_changes(args=appended(node.args, argument(value, "capturable")))
