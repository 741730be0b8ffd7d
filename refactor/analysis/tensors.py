"""Calls into torch: functions, tensor methods, factories and modules, with what they do to a capture."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from refactor.analysis import asserts, distributions, factories, hostargs, results
from refactor.analysis.arithmetic import combined_device
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
    DYNAMIC,
    EXTERNAL_SYNC,
    FACTORIES,
    GROUPED,
    HOST_METHODS,
    LIKE,
    LINALG_ONLY,
    NEW,
    POINTWISE_MODULES,
    READBACKS,
    SYNC_METHODS,
    SYNC_OPS,
    SYNCHRONIZE,
    TENSOR_CLASSES,
    TO_HOST,
    TORCH_SCOPES,
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
    if leaf == "_shape_as_tensor":
        return Tensor(Device.HOST, "int", 1)
    if leaf in GROUPED:
        it.emit(frame, EventKind.LAUNCH, args.node, args.expr(0, "input"), name)
        return Tensor(combined_device(args.every), "float")
    if scope == "torch" and leaf in TENSOR_CLASSES:
        if not args.node.args and not args.keywords:
            return Tensor(Device.HOST, TENSOR_CLASSES[leaf] or "float", 1, shape=(0,))
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
        return (
            replace(value, device=Device.DEVICE, hosted=False) if isinstance(value, Tensor) else DEVICE_TENSOR
        )
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
        return replace(owner, device=Device.UNKNOWN, hosted=False)
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
        return replace(owner, device=Device.HOST, hosted=False)
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
        if values and all(isinstance(v, Readback) for v in values[:1]):
            device = Device.HOST  # torch.div(n, 2) of a number makes a tensor on the host
        if device is Device.UNKNOWN:
            return OPAQUE
    if device is not Device.HOST:
        _hazards(it, frame, scope, name, values, args, subject)
    hostargs.host_arguments(it, frame, name, values, args, len(values) - len(args.values))
    return results.result_of(name, values, args, first, device, flat)


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
