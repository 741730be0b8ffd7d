"""Which statements of a training step one graph can hold: forward and backward, perhaps the update as well.

A statement is taken in only if every call in it is known to be device work, or is that of a model or a loss
whose code shows nothing that waits for the device. What reads the loss back in between is moved behind.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from refactor.analysis import liveness
from refactor.analysis.model import Facts
from refactor.analysis.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from refactor.analysis.steps import backward_of
from refactor.analysis.trees import walk
from refactor.rewrite.attributes import keeps, kept, seed
from refactor.rewrite.bind import BREAKING, HAZARDS
from refactor.rewrite.ops import (
    BINARY,
    FRESH,
    METADATA,
    UNARY_FLOAT,
    UNARY_SAME,
    VIEWS,
    names_in,
    torch_function,
)
from refactor.rewrite.optimizers import Optimizer, optimizer_of
from refactor.rewrite.passes import carried
from refactor.rewrite.receiver import class_of, hazard_of, module_of
from refactor.rewrite.syntax import FunctionNode, enclosing_class, self_name

_SYNCHRONISE = names_in(
    "item tolist numpy cpu nonzero masked_select unique equal allclose bincount to cuda type cross cdist"
)
_TENSOR = (FRESH | VIEWS | METADATA | UNARY_FLOAT | UNARY_SAME | BINARY) - _SYNCHRONISE
_FUNCTIONS = _TENSOR | names_in(
    """rand_like randn_like rand randn randint zeros ones full arange huber_loss poisson_nll_loss
    triplet_margin_loss cosine_embedding_loss margin_ranking_loss hinge_embedding_loss gaussian_nll_loss
    multi_margin_loss soft_margin_loss dropout clip_grad_norm_ clip_grad_value_ autocast interpolate
    binary_cross_entropy_with_logits multilabel_soft_margin_loss"""
)
_TORCH = ("torch", "torch.nn.functional", "torch.nn.utils", "torch.amp", "torch.cuda.amp", "torch.linalg")
_BUILTINS = frozenset({"len", "isinstance", "range", "zip", "tuple", "list", "dict", "sum"})
_READERS = _TENSOR | names_in("item tolist cpu numpy append size sum float int len max min round update add")
_LOGS = names_in(
    """add_scalar add_scalars set_postfix set_postfix_str set_description set_description_str info debug
    log write log_metric log_metrics log_scalar"""
)
_CLOCKS = frozenset({"time.time", "time.perf_counter", "time.monotonic", "time.process_time"})
_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr)
_UNFIT = (
    ast.Await, ast.Yield, ast.YieldFrom, ast.Lambda, ast.NamedExpr, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp, ast.JoinedStr, ast.Starred,
)  # fmt: skip


@dataclass(eq=False)
class Window:
    """Statements of a block that become one function, and those between them that run after it."""

    start: int
    stop: int  # exclusive
    before: list[ast.stmt]  # cleared gradients, where the update stays outside
    inside: list[ast.stmt]
    after: list[ast.stmt]
    moved: list[ast.Call] = field(default_factory=list)  # `x.to(device)`: made where the function is called
    optimizers: tuple[Optimizer, ...] = ()  # those whose steps are inside


@dataclass(eq=False)
class Reader:
    """Judges the statements of one block."""

    facts: Facts
    function: FunctionNode | None
    block: Sequence[ast.stmt]
    backward: int
    reasons: dict[ast.stmt, str] = field(default_factory=dict)
    optimizers: dict[ast.Call, Optimizer] = field(default_factory=dict)  # by the call of `step`
    floor: int = 0  # the first statement that may be taken: those before it belong to an earlier pass

    def __post_init__(self) -> None:
        self.module: ModuleInfo = module_of(self.facts)
        scope: ast.AST = self.function if self.function is not None else self.facts.tree
        self.locals = frozenset(liveness.writes(getattr(scope, "body", [])))
        self.owner: str | None = None
        self.cls: ClassInfo | None = None
        if self.function is not None:
            spec = self.function.args
            every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            self.locals |= {a.arg for a in every if a is not None}
            around = enclosing_class(self.facts, self.function)
            found = self.module.lookup(around.name) if around is not None else None
            self.cls = found if isinstance(found, ClassInfo) else None
            free = any(last_name(d) == "staticmethod" for d in self.function.decorator_list)
            self.owner = self_name(self.function) if around is not None and not free else None

    # -- the window

    def window(self) -> Window | str:
        """The statements for the graph, or why there are none."""
        back = self.block[self.backward]
        if not self.takes(back):
            return self.reasons[back]
        start, stopper = self.backward, back
        for index in range(self.backward - 1, self.floor - 1, -1):
            stmt = self.block[index]
            if self.takes(stmt):
                start = index
            elif not self.may_wait(stmt):
                stopper = stmt
                break
        heads = [i for i in range(start, self.backward + 1) if self.starts(self.block[i])]
        if not heads:
            why = self.reasons.get(stopper, "")
            return why or "the model is not called in the block of `backward()`; wrap the step by hand"
        start = heads[0]
        stop = self.backward + 1
        more = any(backward_of(stmt) is not None for stmt in self.block[stop:])
        for index in range(self.backward + 1, len(self.block)):
            stmt = self.block[index]
            if more and (backward_of(stmt) is not None or self.clears_gradients(stmt)):
                break  # of the next pass
            if self.updates(stmt) and self.takes(stmt):
                stop = index + 1
            elif not self.may_wait(stmt):
                break
        found = self.between(start, stop, stopper)
        # what is looked at between the gradients and the update keeps the update outside
        return found if isinstance(found, Window) else self.between(start, self.backward + 1, stopper)

    def between(self, start: int, stop: int, stopper: ast.stmt) -> Window | str:
        """The window of these statements, or why one graph cannot hold them."""
        back = self.block[self.backward]
        inside = [s for s in self.block[start:stop] if self.takes(s)]
        after = [s for s in self.block[start:stop] if not self.takes(s)]
        steps = any(self.is_step(n) for s in inside for n in walk(s))
        # Without the update the function needs no optimizer, whose settings may change from step to step.
        before = [s for s in inside if not steps and self.clears(s)]
        inside = [s for s in inside if s not in before]
        forward = [n for s in inside if s.lineno <= back.lineno for n in walk(s) if isinstance(n, ast.Call)]
        if not any(self.is_object(c) for c in forward):
            why = self.reasons.get(stopper, "") if stopper is not back else ""
            if why:
                return (
                    f"{why}, between the forward pass and `backward()`; decide about the loss after the step"
                )
            return "the loss is computed elsewhere; a graph must hold the forward pass with its backward"
        reason = self.unsound(inside, after) or carried(self, start, inside)
        if reason:
            return reason
        own = set(liveness.writes(inside))
        moved = [
            n
            for s in inside
            for n in walk(s)
            if isinstance(n, ast.Call) and (self.is_move(n) or _is_detached(n, own))
        ]
        stepped = [self.optimizers.get(n) for s in inside for n in walk(s) if isinstance(n, ast.Call)]
        made = {optimizer.made: optimizer for optimizer in stepped if optimizer is not None}
        return Window(start, stop, before, inside, after, moved, tuple(made.values()))

    def clears_gradients(self, stmt: ast.stmt) -> bool:
        """``optimizer.zero_grad()``."""
        call = stmt.value if isinstance(stmt, ast.Expr) else None
        return isinstance(call, ast.Call) and last_name(call.func) == "zero_grad"

    def clears(self, stmt: ast.stmt) -> bool:
        """``optimizer.zero_grad()`` before the backward pass: the forward pass does not look at gradients."""
        return stmt.lineno < self.block[self.backward].lineno and self.clears_gradients(stmt)

    def unsound(self, inside: Sequence[ast.stmt], after: Sequence[ast.stmt]) -> str:
        """Why moving the statements of ``after`` behind those of ``inside`` would change something."""
        written = set(liveness.writes(list(inside)))
        loss = liveness.reads([self.block[self.backward]])
        used = {root for s in inside for n in walk(s) if isinstance(n, ast.Call) and (root := self.root(n))}
        for stmt in after:
            place = stmt.lineno
            later = [s for s in inside if s.lineno > place]
            mine = set(liveness.writes([stmt]))
            if used & set(liveness.reads([stmt])):
                return f"line {place} looks at what the step changes; move it before or behind the step"
            if mine & (written | set(liveness.reads(list(inside)))):
                why = self.reasons.get(stmt, "") if mine & set(loss) else ""
                return why or f"line {place} changes what the step uses; move it behind the step"
            if set(liveness.reads([stmt])) & set(liveness.writes(later)):
                return f"line {place} reads what the step changes later; move it behind the step"
        attribute = seed(self.owner, self.block[self.backward])
        if not set(loss) & written and attribute not in kept(self.cls, self.owner, inside):
            return "the loss is computed elsewhere; a graph must hold the forward pass with its backward"
        return ""

    def starts(self, stmt: ast.stmt) -> bool:
        """Whether a statement is part of the step: it clears gradients, or calls a model or a loss."""
        calls = [n for n in walk(stmt) if isinstance(n, ast.Call)]
        return any(last_name(c.func) == "zero_grad" or self.is_object(c) for c in calls)

    def updates(self, stmt: ast.stmt) -> bool:
        """Whether a statement after ``backward`` belongs to the step: clipping, update, cleared gradients."""
        names = {last_name(n.func) for n in walk(stmt) if isinstance(n, ast.Call)}
        return bool(names & {"step", "zero_grad", "clip_grad_norm_", "clip_grad_value_"})

    def may_wait(self, stmt: ast.stmt) -> bool:
        """Whether a statement only looks at values, so that it can run after the step."""
        if isinstance(stmt, ast.If):
            header = all(not isinstance(n, _UNFIT) and self.may_read(n) for n in walk(stmt.test))
            return header and all(self.may_wait(s) for s in (*stmt.body, *stmt.orelse))
        if isinstance(stmt, ast.With):
            return self.is_context(stmt, "no_grad") and all(self.may_wait(s) for s in stmt.body)
        if not isinstance(stmt, ast.Assign | ast.AugAssign | ast.Expr):
            return False
        if isinstance(stmt, ast.Expr) and not isinstance(stmt.value, ast.Call):
            return False
        targets = stmt.targets if isinstance(stmt, ast.Assign) else [getattr(stmt, "target", None)]
        if any(t is not None and not isinstance(t, ast.Name) for t in targets):
            return False
        for node in walk(stmt):
            if isinstance(node, _UNFIT) and not isinstance(node, ast.JoinedStr):
                return False
            shown = isinstance(stmt, ast.Expr) and (node is stmt.value and self.shows(node))
            # what is shown may name the time; one that is kept would no longer be that of this line
            timed = isinstance(stmt, ast.Expr) and isinstance(node, ast.Call)
            if timed and self.dotted(node.func) in _CLOCKS:
                continue
            if not shown and not self.may_read(node):
                return False
        return True

    def is_context(self, stmt: ast.With, *names: str) -> bool:
        """Whether a ``with`` enters nothing but these contexts of torch."""
        return all(
            isinstance(item.context_expr, ast.Call)
            and item.optional_vars is None
            and last_name(item.context_expr.func) in names
            and (self.dotted(item.context_expr.func) or "").startswith("torch.")
            for item in stmt.items
        )

    def may_read(self, node: ast.AST) -> bool:
        """Whether a node of an expression only looks at values."""
        if isinstance(node, ast.Call):
            host = last_name(node.func) in ("item", "append", "float", "int", "len", "round")
            return last_name(node.func) in _READERS and (host or not self.is_object(node))
        return not (isinstance(node, ast.Name) and node.id == self.owner)

    def shows(self, node: ast.AST) -> bool:
        """``print(…)``, ``writer.add_scalar(…)``: what is logged can be logged later."""
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Name):
            return node.func.id == "print" and "print" not in self.locals
        return (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in _LOGS
            and self.is_plain_owner(node.func)
        )

    # -- statements

    def takes(self, stmt: ast.stmt) -> bool:
        """Whether a graph can hold a statement; if not, `reasons` says why."""
        if stmt not in self.reasons:
            self.reasons[stmt] = self.judge(stmt)
        return not self.reasons[stmt]

    def judge(self, stmt: ast.stmt) -> str:
        """Why a graph cannot hold a statement; empty if it can."""
        line = stmt.lineno
        if isinstance(stmt, ast.With):
            if not self.is_context(stmt, "autocast", "no_grad"):
                return f"the context in line {line} is not known to be right in a graph"
            return next((r for s in stmt.body if (r := self.judge(s))), "")
        if isinstance(stmt, ast.If):
            fixed = all(
                isinstance(
                    n, ast.Name | ast.Attribute | ast.Constant | ast.Compare | ast.UnaryOp | ast.BoolOp
                )
                and not (isinstance(n, ast.Name) and n.id in self.changing())
                for n in walk(stmt.test)
            )
            if not fixed:
                return f"what line {line} does depends on a test of the host"
            return next((r for s in (*stmt.body, *stmt.orelse) if (r := self.judge(s))), "")
        if not isinstance(stmt, _SIMPLE):
            return f"line {line} is no plain statement"
        if isinstance(stmt, ast.AugAssign) and isinstance(stmt.target, ast.Name):
            made = [s for s in self.block if isinstance(s, ast.Assign) and s.lineno < line]
            if stmt.target.id not in liveness.writes(made):
                return f"line {line} adds up over the steps on the host"
        if isinstance(stmt, ast.Expr) and last_name(getattr(stmt.value, "func", stmt)) in _TENSOR:
            # A tensor's `log` or `add` without a use of its result would do nothing: this is another object.
            return f"line {line} is there for what it does on the host"
        targets = stmt.targets if isinstance(stmt, ast.Assign) else [getattr(stmt, "target", None)]
        if any(not self.is_variable(stmt, target) for target in targets if target is not None):
            return f"line {line} changes more than a variable, which a replay would not do"
        for node in walk(stmt):
            if isinstance(node, _UNFIT) and not isinstance(node, ast.Starred):
                return f"line {line} is more than device work"
            if isinstance(node, ast.Subscript) and _is_mask(node.slice):
                return (
                    f"`{ast.unparse(node)}` in line {line} picks rows by a mask: the host waits for their "
                    "number; index with positions made once, before the loop (`mask.nonzero().squeeze(1)`)"
                )
            if isinstance(node, ast.Call):
                reason = self.call(node)
                if reason:
                    return reason
        return ""

    def is_variable(self, stmt: ast.stmt, target: ast.expr) -> bool:
        """Whether a target is a name, or an attribute that the step can set when it is over."""
        if isinstance(target, ast.Tuple):
            return all(self.is_variable(stmt, part) for part in target.elts)
        own = isinstance(stmt, ast.Assign) and keeps(self.cls, self.owner, target)
        return own or isinstance(target, ast.Name)

    def changing(self) -> frozenset[str]:
        """Names that the block binds."""
        return frozenset(liveness.writes(list(self.block)))

    # -- calls

    def is_object(self, call: ast.Call) -> bool:
        """A call of a model, a loss or a function, not of torch or of a tensor's method."""
        func = call.func
        if isinstance(func, ast.Name):
            return func.id not in _BUILTINS and torch_function(self.dotted(func)) is None
        name = self.dotted(func)
        if name is not None and name.startswith("torch."):
            return False
        if isinstance(func, ast.Attribute) and self.is_plain_owner(func):
            return func.attr not in _TENSOR | _SYNCHRONISE | {"backward", "step", "zero_grad", "scale"}
        return False

    def root(self, call: ast.Call) -> str:
        """The name of the model, loss or optimizer that a call reaches."""
        node: ast.expr = call.func
        last = last_name(node)
        if not (self.is_object(call) or last in ("step", "zero_grad", "parameters")):
            return ""
        while isinstance(node, ast.Attribute):
            node = node.value
        return node.id if isinstance(node, ast.Name) else ""

    def is_plain_owner(self, func: ast.Attribute) -> bool:
        """``a.b.c``: nothing is computed."""
        node: ast.expr = func
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name)

    def dotted(self, func: ast.expr) -> str | None:
        """The full name of something from outside the code base."""
        root = func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or (root.id in self.locals and self.function is not None):
            return None
        found = self.module.resolve(func)
        return found if isinstance(found, str) else None

    def is_move(self, call: ast.Call) -> bool:
        """``x.to(device)``, ``batch["x"].cuda()``: a copy of an input that is made before the step."""
        func = call.func
        if not isinstance(func, ast.Attribute) or func.attr not in ("to", "cuda"):
            return False
        names = {n.id for n in walk(call) if isinstance(n, ast.Name)}
        plain = all(
            isinstance(n, ast.Name | ast.Attribute | ast.Subscript | ast.Constant | ast.keyword)
            for part in (func.value, *call.args, *call.keywords)
            for n in walk(part)
        )
        return plain and not names & set(liveness.writes(list(self.block[: self.backward + 1])))

    def is_step(self, node: ast.AST) -> bool:
        """``optimizer.step()``."""
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "step"
            and "sched" not in ast.unparse(node.func.value).lower()
        )

    def call(self, call: ast.Call) -> str:
        """Why a graph cannot hold a call; empty if it can."""
        func, line = call.func, call.lineno
        name = self.dotted(func)
        if name is not None and name.startswith("torch."):
            scope, _, last = name.rpartition(".")
            known = (scope in _TORCH and last in _FUNCTIONS) or name == "torch.autograd.grad"
            return (
                "" if known else f"`{ast.unparse(func)}` in line {line} is not known to be right in a graph"
            )
        if isinstance(func, ast.Attribute):
            if self.is_step(call):
                return self.step(call)
            if func.attr in ("backward", "zero_grad"):
                plain = all(k.arg in ("set_to_none", "retain_graph") for k in call.keywords) and not call.args
                return "" if plain else f"`{func.attr}` in line {line} takes arguments; wrap the step by hand"
            if func.attr == "scale" and "scaler" in ast.unparse(func.value).lower():
                return ""
            if func.attr == "parameters" or func.attr in _TENSOR or self.is_move(call):
                return ""
            if func.attr == "requires_grad_" and isinstance(func.value, ast.BinOp | ast.Call):
                return ""  # of a tensor made here
            if func.attr in _SYNCHRONISE:
                return f"line {line} reads a value back or moves a tensor; do that before or after the step"
        elif isinstance(func, ast.Name) and func.id in _BUILTINS:
            return ""
        return self.callee(call) if self.is_object(call) else f"line {line} calls something unknown"

    def callee(self, call: ast.Call) -> str:
        """Why a model, loss or function cannot be in a graph, as far as its code is known."""
        func, line = call.func, call.lineno
        cls = class_of(self.facts, func)
        if cls is not None:
            found = hazard_of(self.facts, cls, HAZARDS)
            if found is not None:
                where: int = found[0].node.lineno  # type: ignore[attr-defined]
                return f"`{cls.qualname}.forward` waits for the device in line {where}; repair that first"
            return ""
        target = self.target(func)
        if isinstance(target, FunctionInfo):
            return self.function_body(target, line)
        if isinstance(func, ast.Name) and func.id in self.locals and (self.function or target is None):
            return ""
        if isinstance(func, ast.Name) and isinstance(self.module.table.get(func.id), ast.Call):
            return ""  # a global model or loss
        if isinstance(func, ast.Attribute) and getattr(func.value, "id", "") == self.owner:
            return ""  # an attribute of the instance: a model or a loss
        return f"what `{ast.unparse(func)}` in line {line} does on the host is not known"

    def target(self, func: ast.expr) -> object:
        """What a name or a method of the instance is defined as."""
        own = isinstance(func, ast.Attribute) and getattr(func.value, "id", "") == self.owner
        if isinstance(func, ast.Attribute) and own and self.cls is not None:
            found = self.cls.find(func.attr)
            return found[1] if found is not None else None
        if isinstance(func, ast.Name) and func.id in self.locals and self.function is not None:
            return None
        return self.module.resolve(func)

    def function_body(self, target: FunctionInfo, line: int, seen: frozenset[ast.AST] = frozenset()) -> str:
        """Why a function of the code base, or one that it calls, cannot be in a graph."""
        name = target.qualname
        seen |= {target.node}
        if any(e.kind in BREAKING and e.function is target.node for e in self.facts.events):
            return f"`{name}`, called in line {line}, waits for the device; repair that first"
        for node in walk(target.node):
            if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
                return f"`{name}`, called in line {line}, changes state that a replay would not change"
            if isinstance(node, ast.Global | ast.Nonlocal):
                return f"`{name}`, called in line {line}, changes state that a replay would not change"
            if isinstance(node, ast.Call) and last_name(node.func) in (
                "item", "tolist", "numpy", "cpu", "print", "append", "backward", "step", "float", "int"
            ):  # fmt: skip
                return f"`{name}`, called in line {line}, does more than device work"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                inner = target.module.resolve(node.func)
                if isinstance(inner, str) and inner.partition(".")[0] in ("numpy", "random", "time"):
                    return f"`{name}`, called in line {line}, does more than device work"
                if isinstance(inner, FunctionInfo) and inner.node not in seen:
                    reason = self.function_body(inner, line, seen)
                    if reason:
                        return reason
        return ""

    def step(self, call: ast.Call) -> str:
        """Why the update stays outside: its optimizer cannot be captured, or its learning rate changes."""
        assert isinstance(call.func, ast.Attribute)
        if call.args or call.keywords:
            return f"`step` in line {call.lineno} takes arguments"
        found = optimizer_of(self.facts, self.module, call.func.value, self.function)
        if isinstance(found, str):
            return found
        self.optimizers[call] = found
        return ""


def _is_detached(call: ast.Call, own: set[str]) -> bool:
    """``fake.detach()`` of an input, which with its autograd graph would keep the step out of graphs."""
    func = call.func
    plain = isinstance(func, ast.Attribute) and func.attr == "detach" and not call.args and not call.keywords
    root = func.value if plain and isinstance(func, ast.Attribute) else None
    return isinstance(root, ast.Name) and root.id not in own


def _is_mask(index: ast.expr) -> bool:
    """``train_mask``, ``data.mask``: by their names no positions, so the size of the result is unknown."""
    named = isinstance(index, ast.Name | ast.Attribute)
    return named and "mask" in (
        last_name(index).lower().split("_")[0],
        last_name(index).lower().split("_")[-1],
    )
