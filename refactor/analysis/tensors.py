"""Calls into torch: functions, tensor methods, factories and modules, with what they do to a capture."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis import asserts, distributions, factories, hostargs
from refactor.analysis.arithmetic import combined_device, tensor_binary
from refactor.analysis.domain import (
    BOOL,
    DEVICE_TENSOR,
    HOST,
    INT,
    NONE,
    OPAQUE,
    TAINTED,
    Dict,
    ExtObj,
    Fn,
    Host,
    Opaque,
    Readback,
    Seq,
    Tensor,
    Val,
    element,
    is_tainted,
    on_device,
    replace,
    truth,
)
from refactor.analysis.model import Device, EventKind
from refactor.analysis.tensornames import TENSOR_NAMES
from refactor.analysis.torchops import (
    BOOL_RESULTS,
    BROADCAST,
    DYNAMIC,
    EXTERNAL_SYNC,
    FACTORIES,
    FLOAT_RESULTS,
    GROUPED,
    HOST_METHODS,
    INT_RESULTS,
    KEEP_RANK,
    LIKE,
    LINALG_ONLY,
    NEW,
    PAIR_WITH_DIM,
    PAIRS,
    POINTWISE_MODULES,
    RANKS,
    READBACKS,
    REDUCTIONS,
    SPLITS,
    SYNC_METHODS,
    SYNC_OPS,
    SYNCHRONIZE,
    TENSOR_CLASSES,
    TO_HOST,
    TORCH_SCOPES,
    TUPLES,
)

if TYPE_CHECKING:
    from refactor.analysis.calls import Arguments
    from refactor.analysis.interpreter import Frame, Interpreter


def torch_function(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    """The value of calling something of torch or torchvision by its dotted name."""
    scope, _, leaf = name.rpartition(".")
    if name in SYNCHRONIZE:
        it.emit(frame, EventKind.SYNCHRONIZE, args.node, None, name)
        return NONE
    if name == "torch.device":
        return factories.as_device(args.get(0, "type"))
    if name in EXTERNAL_SYNC:
        return _external_sync(it, frame, name, args)
    if leaf in GROUPED:
        it.emit(frame, EventKind.LAUNCH, args.node, args.expr(0, "input"), name)
        return Tensor(combined_device(args.every), "float")
    if scope == "torch" and leaf in TENSOR_CLASSES:
        return Tensor(Device.HOST, TENSOR_CLASSES[leaf] or "float", factories.rank_of(args.get(0, "data")))
    if scope == "torch.cuda" and leaf in TENSOR_CLASSES:
        if isinstance(args.get(0, "data"), Seq):
            it.emit(frame, EventKind.HOST_CONSTANT, args.node, args.expr(0, "data"), name, device=None)
        return Tensor(Device.DEVICE, TENSOR_CLASSES[leaf] or "float", factories.rank_of(args.get(0, "data")))
    if scope == "torch" and leaf in FACTORIES:
        return factories.factory(it, frame, leaf, args)
    if scope == "torch.Tensor" and args.node.args and isinstance(args.values[0], Tensor):
        from refactor.analysis.calls import Arguments as NewArguments

        rest = NewArguments(args.node, args.values[1:], args.keywords, args.open, args.nodes)
        return method(it, frame, args.values[0], leaf, rest, args.node.args[0])
    if scope == "torch" and leaf in ("is_tensor",):
        return BOOL
    if scope in TORCH_SCOPES or scope.startswith("torch.ops"):
        return _operation(it, frame, scope, leaf, args)
    return _torch_other(it, frame, name, scope, leaf, args)


def _external_sync(it: Interpreter, frame: Frame, name: str, args: Arguments) -> Val:
    operands = args.every
    lengths = [v for v in operands[2:] if isinstance(v, Seq) or (isinstance(v, Tensor) and not on_device(v))]
    if any(map(on_device, operands)) and (lengths or not name.endswith("ctc_loss")):
        it.emit(frame, EventKind.SYNC_OP, args.node, args.expr(0, "boxes"), name)
    return Tensor(combined_device(operands), "int" if "nms" in name else "float", 1 if "nms" in name else 0)


def _torch_other(it: Interpreter, frame: Frame, name: str, scope: str, leaf: str, args: Arguments) -> Val:
    if leaf in ("checkpoint", "checkpoint_sequential") and args.values:
        from refactor.analysis.calls import Arguments as NewArguments
        from refactor.analysis.calls import apply

        kept = {k: v for k, v in args.keywords.items() if k not in ("use_reentrant", "preserve_rng_state")}
        return apply(it, frame, args.values[0], NewArguments(args.node, args.values[1:], kept, args.open))
    if (
        name in ("torch.jit.script", "torch.compile", "torch.jit.trace", "torch.compiler.disable")
        and args.values
    ):
        return args.values[0]
    if name in ("torch.nn.Parameter", "torch.nn.parameter.Parameter", "torch.nn.Buffer"):
        value = args.get(0, "data")
        return replace(value, device=Device.DEVICE) if isinstance(value, Tensor) else DEVICE_TENSOR
    if scope == "torch.nn" or scope.startswith("torch.nn.modules"):
        return make_module(leaf, args)
    if leaf in ("pad_sequence", "pack_sequence", "parameters_to_vector", "stack_batch"):
        return DEVICE_TENSOR if any(map(is_tainted, args.every)) else OPAQUE
    if name.startswith("torch.jit.annotate") and len(args.values) > 1:
        return args.values[1]
    if leaf == "clip_grad_norm_" and truth(args.keywords.get("error_if_nonfinite", NONE)):
        it.emit(frame, EventKind.SYNC_OP, args.node, None, "clip_grad_norm_ with error_if_nonfinite")
    if leaf[:1].isupper():
        checks = name.startswith(distributions.SCOPE)
        return distributions.construct(it, frame, name, args) if checks else ExtObj(name)
    return args.unknown


def make_module(leaf: str, args: Arguments) -> Val:
    """An instance of a class of ``torch.nn``."""
    name = f"torch.nn.{leaf}"
    if leaf in ("ModuleList", "ParameterList"):
        value = args.get(0, "modules")
        if isinstance(value, Seq):
            return replace(value, type="modules")
        return Seq("modules", () if value is None else None)
    if leaf == "ModuleDict":
        value = args.get(0, "modules")
        return value if isinstance(value, Dict) else Dict((), None, True)
    if leaf == "Sequential":
        values = [v.element or OPAQUE if isinstance(v, Seq) and v.type == "*" else v for v in args.values]
        if len(values) == 1 and isinstance(values[0], Dict):
            values = [v for _, v in values[0].entries]
        return ExtObj(name, tuple(values))
    return ExtObj(name)


def sequential(it: Interpreter, frame: Frame, items: Val, args: Arguments) -> Val:
    """Modules called one after the other."""
    from refactor.analysis.calls import Arguments as NewArguments
    from refactor.analysis.calls import apply

    value = args.get(0, "input") or OPAQUE
    listed = items.items if isinstance(items, Seq | ExtObj) else None
    if not listed:
        return TAINTED if is_tainted(value) else OPAQUE
    for module in listed[:24]:
        value = apply(it, frame, module, NewArguments(args.node, [value], {}))
    return value


def call_module(it: Interpreter, frame: Frame, func: ExtObj, args: Arguments) -> Val:
    """Call an instance of a class from outside the code base."""
    scope, _, leaf = func.name.rpartition(".")
    if not scope.startswith("torch.nn"):
        return args.unknown
    first = args.get(0, "input")
    if leaf == "Sequential":
        return sequential(it, frame, func, args)
    rank = first.rank if isinstance(first, Tensor) else None
    device = Device.DEVICE if is_tainted(first) or first is None else combined_device(args.every)
    if leaf in POINTWISE_MODULES:
        return Tensor(device, "float", rank)
    if leaf == "Embedding":
        return Tensor(Device.DEVICE, "float", rank + 1 if rank is not None else None)
    if leaf in ("LSTM", "LSTMCell"):
        state = Tensor(device, "float")
        return Seq("tuple", (state, Seq("tuple", (state, state))))
    if leaf in ("GRU", "RNN", "MultiheadAttention"):
        return Seq("tuple", (Tensor(device, "float"), Tensor(device, "float")))
    if leaf.endswith("Loss"):
        return Tensor(device, "float", 0)
    if leaf[:1].isupper():
        # Of "a module" nothing says that it returns one tensor.
        return Tensor(device, "float", maybe=leaf == "Module")
    return args.unknown


def external_method(it: Interpreter, frame: Frame, owner: ExtObj, name: str, args: Arguments) -> Val:
    """A method of an instance of a class from outside the code base."""
    if name in SYNC_METHODS.get(owner.name, ()) or (
        name == "synchronize" and owner.name.startswith(("torch.cuda", "torch.Event", "torch.Stream"))
    ):
        it.emit(frame, EventKind.SYNCHRONIZE, args.node, None, f"{owner.name}.{name}")
        return NONE
    if owner.name.startswith(distributions.SCOPE):
        return distributions.method(it, frame, owner, name, args)
    if owner.name.startswith("torch.nn."):
        if name in ("parameters", "buffers"):
            return Seq("generator", None, DEVICE_TENSOR)
        if name in ("eval", "train", "to", "cuda", "half", "requires_grad_"):
            return owner
    return args.unknown


# -- operations ----------------------------------------------------------------------------------------------


def method(
    it: Interpreter,
    frame: Frame,
    owner: Tensor,
    name: str,
    args: Arguments,
    subject: ast.expr | None = None,
) -> Val:
    """The value of ``tensor.name(...)``; ``subject`` is the tensor's expression, if not the owner's."""
    func = args.node.func
    subject = subject or (func.value if isinstance(func, ast.Attribute) else args.node)
    if name not in TENSOR_NAMES and not name.startswith("_"):
        return OPAQUE  # no tensor after all
    if name in READBACKS:
        if owner.device is Device.HOST:
            return HOST if name != "tolist" else Seq("list", None, HOST)
        it.readback(frame, EventKind.READBACK, args.node, subject, name)
        kind = {"float": "float", "int": "int", "bool": "bool"}.get(owner.dtype or "")
        return Seq("list", None, Readback(kind)) if name == "tolist" else Readback(kind)
    if name in TO_HOST:
        return _to_host(it, frame, owner, name, args, subject)
    if name in ("to", "type_as", "cuda", "type"):
        return factories.convert(it, frame, owner, name, args, subject)
    if name in NEW or name == "new":
        return factories.new(it, frame, owner, name, args)
    if name == "pin_memory":
        return replace(owner, device=Device.UNKNOWN)
    if name == "size" and not args.values and not args.keywords:
        return Host("shape", device=owner.device)
    if name in HOST_METHODS:
        return INT if name in ("size", "stride") and args.every else Host(HOST_METHODS[name])
    if name == "apply_" or name == "map_":
        return owner
    return _operate(it, frame, "torch.Tensor", name, [owner, *args.values], args, subject)


def _to_host(
    it: Interpreter, frame: Frame, owner: Tensor, name: str, args: Arguments, subject: ast.expr
) -> Val:
    if owner.device is not Device.HOST:
        it.readback(frame, EventKind.TO_HOST, args.node, subject, name)
    if name == "cpu":
        return replace(owner, device=Device.HOST)
    return Readback("array") if owner.device is not Device.HOST else Host("array")


def _operation(it: Interpreter, frame: Frame, scope: str, leaf: str, args: Arguments) -> Val:
    if leaf in HOST_METHODS and leaf not in ("stride", "is_nonzero"):
        return INT if leaf in ("numel",) else Host(HOST_METHODS[leaf])
    if leaf in LIKE:
        return factories.like(it, frame, leaf, args)
    if scope == "torch" and leaf in (
        "get_rng_state",
        "initial_seed",
        "Generator",
        "Size",
        "finfo",
        "no_grad",
    ):
        return ExtObj(f"{scope}.{leaf}")
    if leaf[:1].isupper() or leaf in ("enable_grad", "set_grad_enabled", "inference_mode", "autocast"):
        return ExtObj(f"{scope}.{leaf}")
    subject = args.expr(0, "input") or args.node
    values = list(args.values)
    if not values and "input" in args.keywords:
        values = [args.keywords["input"]]
    return _operate(it, frame, scope, leaf, values, args, subject)


def _operate(
    it: Interpreter,
    frame: Frame,
    scope: str,
    name: str,
    values: list[Val],
    args: Arguments,
    subject: ast.expr,
) -> Val:
    """One operation on tensors; ``values`` starts with the tensor that a method is called on."""
    operands = [*values, *args.keywords.values()]
    flat = [e for v in operands for e in ([element(v)] if isinstance(v, Seq) else [v]) if e is not None]
    if name == "vmap" or (values and isinstance(values[0], Fn) and not any(map(is_tainted, flat))):
        return values[0] if values else OPAQUE
    first = next((v for v in values if isinstance(v, Tensor)), None)
    device = combined_device([v for v in flat if isinstance(v, Tensor | Opaque)])
    if not any(isinstance(v, Tensor) for v in flat):
        device = Device.DEVICE if any(map(is_tainted, flat)) else Device.UNKNOWN
        if device is Device.UNKNOWN:
            return OPAQUE
    if device is not Device.HOST:
        _hazards(it, frame, scope, name, values, args, subject)
    hostargs.host_arguments(it, frame, name, values, args, len(values) - len(args.values))
    return _result(name, values, args, first, device, flat)


def _given(args: Arguments, values: list[Val], index: int, name: str) -> Val | None:
    """An argument by its position after the tensor, or by name."""
    if name in args.keywords:
        return args.keywords[name]
    return values[index + 1] if index + 1 < len(values) else None


def _hazards(
    it: Interpreter,
    frame: Frame,
    scope: str,
    name: str,
    values: list[Val],
    args: Arguments,
    subject: ast.expr,
) -> None:
    node = args.node
    if name in DYNAMIC and scope in ("torch", "torch.Tensor"):
        it.readback(frame, EventKind.DYNAMIC_OP, node, subject, name)
    elif name == "where" and len(values) + len(args.keywords) == 1:
        it.readback(frame, EventKind.DYNAMIC_OP, node, subject, "where")
    elif name == "repeat_interleave":
        repeats = _given(args, values, 0, "repeats")
        if len(values) == 1 and "repeats" not in args.keywords:
            repeats = values[0]  # torch.repeat_interleave(repeats)
        if on_device(repeats) and args.keywords.get("output_size", NONE) == NONE:
            it.readback(frame, EventKind.DYNAMIC_OP, node, subject, name)
    elif name == "one_hot":
        classes = _given(args, values, 0, "num_classes")
        if classes is None or (isinstance(classes, Host) and classes.value == -1):
            it.readback(frame, EventKind.DYNAMIC_OP, node, subject, name)
    elif name in SYNC_OPS and scope in ("torch", "torch.Tensor", "torch.linalg"):
        if name not in LINALG_ONLY or scope == "torch.linalg":
            it.readback(frame, EventKind.SYNC_OP, node, subject, name)
    elif name == "histc" and _given(args, values, 1, "min") is None:
        it.readback(frame, EventKind.SYNC_OP, node, subject, name)
    elif scope == "torch":
        asserts.checked(it, frame, name, values, node)
    hostargs.copied_sides(it, frame, name, values, args)


def _result(
    name: str,
    values: list[Val],
    args: Arguments,
    first: Tensor | None,
    device: Device,
    flat: list[Val],
) -> Val:
    """The value an operation gives."""
    dtype = _dtype(name, args, first, flat)
    base = Tensor(device, dtype)
    if name in ("equal", "allclose"):
        return BOOL if device is Device.HOST else Readback("bool")
    if name in REDUCTIONS:
        return _reduced(name, values, args, first, base)
    if name in PAIRS:
        rank = first.rank if first is not None else None
        return Seq(
            "tuple", (Tensor(device, first.dtype if first else None, rank), Tensor(device, "int", rank))
        )
    if name in SPLITS:
        rank = first.rank if first is not None else None
        return Seq(
            "tuple", None, Tensor(device, first.dtype if first else None, None if name == "unbind" else rank)
        )
    if name in ("where", "nonzero") and (len(flat) == 1 or "as_tuple" in args.keywords):
        separate = args.keywords.get("as_tuple")
        if name == "nonzero" and (
            separate is None or (isinstance(separate, Host) and separate.value is False)
        ):
            return Tensor(device, "int", 2)
        return Seq("tuple", None, Tensor(device, "int", 1))
    if name in ("unique", "unique_consecutive"):
        result = Tensor(device, first.dtype if first else None, None if "dim" in args.keywords else 1)
        several = any(key.startswith("return_") for key in args.keywords)
        return Seq("tuple", None, replace(result, dtype=None)) if several else result
    if name in TUPLES:
        return Seq("tuple", None, base)
    return replace(base, rank=_rank(name, values, args, first, flat))


def _reduced(name: str, values: list[Val], args: Arguments, first: Tensor | None, base: Tensor) -> Val:
    dim = args.keywords.get("dim", args.keywords.get("axis"))
    if dim is None and len(values) > 1 and name not in ("norm", "quantile", "dist"):
        dim = values[1]
    if name in ("norm", "quantile", "nanquantile", "vector_norm") and dim is None and len(values) > 2:
        dim = values[2]
    if isinstance(dim, Tensor) and name in ("max", "min"):
        return tensor_binary(values[0], dim, None)  # max(a, b) of torch is elementwise
    if dim is None or dim == NONE:
        return replace(base, rank=0)
    keep = args.keywords.get("keepdim", values[2] if len(values) > 2 else None)
    kept = isinstance(keep, Host) and keep.value is True
    rank = first.rank if first is not None else None
    if rank is not None and not kept:
        removed = len(dim.items) if isinstance(dim, Seq) and dim.items is not None else 1
        rank = (
            rank - removed if rank >= removed and not (isinstance(dim, Seq) and dim.items is None) else None
        )
    result = replace(base, rank=rank)
    if name in PAIR_WITH_DIM:
        return Seq("tuple", (result, Tensor(base.device, "int", rank)))
    return result


def _dtype(name: str, args: Arguments, first: Tensor | None, flat: list[Val]) -> str | None:
    given = args.keywords.get("dtype")
    if isinstance(given, Host) and given.type == "dtype":
        return given.owner
    if name in BOOL_RESULTS:
        return "bool"
    if name in INT_RESULTS:
        return "int"
    if name in FLOAT_RESULTS:
        return "float"
    bare = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    if first is None:
        return None
    if bare in ("sum", "cumsum", "prod", "cumprod"):
        return "int" if first.dtype in ("int", "bool") else first.dtype
    if bare in BROADCAST or bare == "where":
        families = {v.dtype for v in flat if isinstance(v, Tensor)}
        if bare == "where":
            families = {v.dtype for v in flat[1:] if isinstance(v, Tensor)}
        if bare in ("div", "true_divide"):
            return "float"
        if "float" in families:
            return "float"
        if len(families) == 1 and all(isinstance(v, Tensor) for v in flat):
            return families.pop()
        exact = all(not isinstance(v, Host) or v.type in ("int", "bool") for v in flat)
        if families == {"int"} and exact:
            return "int"
        return "number" if families and families <= {"int", "number"} else None
    if bare in ("cat", "stack", "concat", "einsum", "matmul", "bmm"):
        return first.dtype or ("float" if bare in ("einsum",) else None)
    return first.dtype


def _rank(name: str, values: list[Val], args: Arguments, first: Tensor | None, flat: list[Val]) -> int | None:
    bare = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    how = args.keywords.get("reduction")
    if bare in RANKS and not (isinstance(how, Host) and how.value == "none"):
        return RANKS[bare]
    rank = first.rank if first is not None else None
    if bare in ("view", "reshape", "expand", "repeat", "tile", "permute", "broadcast_to"):
        return _shaped_rank(values[1:], args)
    if bare in KEEP_RANK:
        return rank
    if bare in ("unsqueeze", "diag_embed", "unfold"):
        return rank + 1 if rank is not None else None
    if bare == "squeeze" and len(values) > 1 and rank is not None:
        return rank - 1 if isinstance(values[1], Host) else None
    if bare in BROADCAST or bare == "where":
        tensors = [v for v in flat if isinstance(v, Tensor)]
        ranks = [t.rank for t in tensors if t.rank is not None]
        return (
            max(ranks)
            if ranks and len(ranks) == len(tensors) and not any(isinstance(v, Opaque) for v in flat)
            else None
        )
    if bare in ("cat", "concat", "stack", "hstack", "vstack"):
        inner = next((v.rank for v in flat if isinstance(v, Tensor) and v.rank is not None), None)
        return inner + 1 if bare == "stack" and inner is not None else inner
    if bare in ("expand_as", "view_as", "reshape_as") and len(values) > 1 and isinstance(values[1], Tensor):
        return values[1].rank
    if bare == "flatten" and len(values) == 1 and not args.keywords:
        return 1
    if bare == "select":
        return rank - 1 if rank else None
    if bare == "embedding" and first is not None:
        return rank + 1 if rank is not None else None
    if bare in ("matmul", "mm") and len(flat) > 1:
        ranks = [v.rank for v in flat if isinstance(v, Tensor) and v.rank is not None]
        return max(ranks) if len(ranks) == 2 and min(ranks) >= 2 else None
    return None


def _shaped_rank(sizes: list[Val], args: Arguments) -> int | None:
    if len(sizes) == 1 and isinstance(sizes[0], Seq) and sizes[0].type != "*":
        return len(sizes[0].items) if sizes[0].items is not None else None
    if any(isinstance(size, Seq) for size in sizes):
        return None
    if len(sizes) == 1 and not (isinstance(sizes[0], Host) and sizes[0].type == "int"):
        return None
    return len(sizes) or None
