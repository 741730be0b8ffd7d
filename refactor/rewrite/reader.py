"""One reading of a model with named dimensions: its modules and functions, called with tensors."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from refactor.analysis.project import ClassInfo, FunctionInfo
from refactor.rewrite.axes import Arr, Const, Mixed, Rank
from refactor.rewrite.calls import Calls
from refactor.rewrite.dimensions import Body
from refactor.rewrite.symbols import Instance

_LIMIT = 40


class Reader(Calls):
    """One reading of a model: which inputs it has, and what it needs to be right."""

    def __init__(self, evaluated: bool) -> None:
        self.evaluated = evaluated
        self.limits: list[str] = []  # sizes of position tables; an empty one: it cannot be named
        self.meets = False  # places of the sequence meet (attention, pooling): padding it is worth it
        self.depth = 0

    def keeps(self, cls: ClassInfo, arguments: Mapping[str, object], path: str) -> bool | None:
        """Whether every output follows the padded dimensions and padded places stay out of real ones.

        None: the inputs have other numbers of dimensions than this.
        """
        try:
            return self.is_cut(self.instance(Instance(cls, path), [], dict(arguments)))
        except Rank:
            return None
        except (Mixed, RecursionError):
            return False

    def is_cut(self, value: object) -> bool:
        """Whether the runtime can cut an output back."""
        if isinstance(value, Arr):
            return "BS" not in value.axes and ("B" in value.axes)
        if isinstance(value, tuple | list):
            return all(self.is_cut(v) or isinstance(v, Const) for v in value)
        if isinstance(value, dict):
            return all(self.is_cut(v) or isinstance(v, Const) for v in value.values())
        return False

    def instance(self, owner: Instance, args: Sequence[object], words: Mapping[str, object]) -> object:
        """The result of calling a module of the code base."""
        bases = [base for base in owner.cls.mro if isinstance(base, str)]
        found = owner.cls.find("forward")
        if any(base != "torch.nn.Module" for base in bases) or found is None:
            raise Mixed
        if "__call__" in owner.cls.own or not isinstance(found[1], FunctionInfo):
            raise Mixed
        return self.function(found[1], [owner, *args], words)

    def function(self, info: FunctionInfo, args: Sequence[object], words: Mapping[str, object]) -> object:
        """The result of a function or method of the code base."""
        node = info.node
        if not isinstance(node, ast.FunctionDef) or self.depth > _LIMIT:
            raise Mixed
        if info.decorators - {"staticmethod", "no_grad", "inference_mode", "torch_no_grad"}:
            raise Mixed
        spec = node.args
        if spec.vararg or spec.kwarg:
            raise Mixed
        env: dict[str, object] = {}
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        defaults = dict(zip(names[len(names) - len(spec.defaults) :], spec.defaults, strict=True))
        defaults |= {
            a.arg: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None
        }
        if len(args) > len(names):
            raise Mixed
        env.update(zip(names, args, strict=False))
        for name, value in words.items():
            if name in env or name not in (*names, *(a.arg for a in spec.kwonlyargs)):
                raise Mixed
            env[name] = value
        body = Body(self, info, env)
        for name in (*names, *(a.arg for a in spec.kwonlyargs)):
            if name not in env:
                if name not in defaults:
                    raise Mixed
                env[name] = body.value(defaults[name])
        self.depth += 1
        try:
            return body.run(node.body)
        finally:
            self.depth -= 1
