"""Calls in a forward that is read with named dimensions: layers of torch, functions, methods of tensors."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from refactor.analysis.project import ClassInfo
from refactor.rewrite import axes
from refactor.rewrite.axes import NEGATIVE, Arr, Const, Mixed, Rank, Size, Weight
from refactor.rewrite.layers import Layer, Layers
from refactor.rewrite.ops import UNARY_FLOAT, UNARY_SAME, names_in, torch_function
from refactor.rewrite.symbols import Instance, Items, Method, Shape

if TYPE_CHECKING:
    from refactor.rewrite.dimensions import Body

_LAST = names_in("Linear LayerNorm RMSNorm Bilinear")
_SAME = names_in(
    """GELU ReLU ReLU6 LeakyReLU ELU SELU SiLU Mish Softplus Sigmoid Tanh Hardswish Hardsigmoid Hardtanh
    Identity LogSigmoid Softsign"""
)
_EVALUATED = names_in(
    "Dropout Dropout1d Dropout2d Dropout3d BatchNorm1d BatchNorm2d BatchNorm3d AlphaDropout DropPath"
)
_ROWS = {
    name: rank
    for rank, names in (
        (3, "Conv1d ConvTranspose1d MaxPool1d AvgPool1d AdaptiveAvgPool1d AdaptiveMaxPool1d"),
        (4, "Conv2d ConvTranspose2d MaxPool2d AvgPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d PixelShuffle"),
        (5, "Conv3d ConvTranspose3d MaxPool3d AvgPool3d AdaptiveAvgPool3d"),
        (0, "GroupNorm InstanceNorm2d"),
    )
    for name in names.split()
}  # fmt: skip
_BATCH_FIRST = names_in("MultiheadAttention TransformerEncoderLayer TransformerEncoder LSTM GRU RNN")
_FUNCTION_ROWS = {
    "conv1d": 3, "conv2d": 4, "conv3d": 5, "max_pool1d": 3, "max_pool2d": 4, "avg_pool1d": 3, "avg_pool2d": 4,
    "adaptive_avg_pool1d": 3, "adaptive_avg_pool2d": 4, "adaptive_max_pool2d": 4, "interpolate": 4,
    "pixel_shuffle": 4, "group_norm": 0,
}  # fmt: skip
_POINTWISE = (
    UNARY_FLOAT
    | UNARY_SAME
    | names_in(
        """add sub div true_divide pow maximum minimum clamp clip clamp_min clamp_max relu gelu silu elu selu
        leaky_relu softplus mish hardswish hardtanh hardsigmoid logsigmoid isnan isinf isfinite lt le gt ge
        remainder fmod atan2 lerp nan_to_num relu6 threshold sign softsign addcmul addcdiv"""
    )
)
_KEEP = names_in(
    """to float half double bfloat16 int long bool type type_as contiguous clone detach requires_grad_ cuda
    view_as expand_as"""
)
_FRESH = names_in("zeros ones full empty new_zeros new_ones new_full rand randn")
_LIKE = names_in("zeros_like ones_like full_like empty_like")
_REDUCE = names_in(
    "sum mean amax amin max min argmax argmin any all prod norm std var logsumexp count_nonzero median"
)
_VALUES = names_in("max min median")  # a tuple of values and indices where a dimension is given


class Calls:
    """The part of `Reader` that knows operations by name."""

    BUILTINS = names_in(
        "len range zip enumerate isinstance tuple list dict int float bool min max getattr super reversed"
    )

    def call(self: Any, body: Body, node: ast.Call) -> Any:
        """The value of a call."""
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise Mixed
        func = node.func
        if isinstance(func, ast.Attribute) and body._is_local(func):
            owner = body.value(func.value)
            if isinstance(owner, Arr | Weight):
                return self.method(body, node, func.attr, owner)
            if owner == Const(None):
                raise Rank  # would raise: not how the model is called
            if isinstance(owner, Const | Size):
                self.host(body, node)
                return Const()
            if isinstance(owner, Layers) and func.attr in ("parameters", "named_parameters"):
                return Const()
        target = body.attribute(func) if isinstance(func, ast.Attribute) else body.value(func)
        args = [body.value(a) for a in node.args]
        words = {k.arg: body.value(k.value) for k in node.keywords if k.arg is not None}
        if isinstance(target, Method):
            static = "staticmethod" in target.info.decorators
            first = [target.owner] if target.owner is not None and not static else []
            return self.function(target.info, [*first, *args], words)
        if isinstance(target, Instance):
            return self.instance(target, args, words)
        if isinstance(target, Layers):
            return self.layers(target, args, words)
        if isinstance(target, ClassInfo):
            if target.is_module:
                raise Mixed
            return (*args, *words.values())  # a dataclass of outputs
        if isinstance(target, str):
            return self.named(body, node, target, args, words)
        raise Mixed

    def host(self: Any, body: Body, node: ast.Call) -> None:
        """Arguments of a call between host values: none may depend on the batch."""
        for argument in (*node.args, *(k.value for k in node.keywords)):
            value = body.value(argument)
            if isinstance(value, Arr) or (isinstance(value, Size) and value.label != "_"):
                raise Mixed

    def named(
        self: Any, body: Body, node: ast.Call, name: str, args: list[Any], words: dict[str, Any]
    ) -> Any:
        """A builtin or a function of a library."""
        if name in self.BUILTINS:
            return self.builtin(name, args)
        operation = torch_function(name)
        if operation is None:
            last = name.rpartition(".")[2]
            if name.startswith(("math.", "torch.finfo", "torch.iinfo", "torch.Size", "torch.is_")):
                if any(isinstance(v, Arr) or (isinstance(v, Size) and v.label != "_") for v in args):
                    raise Mixed
                return Const()
            if last.endswith(("Output", "OutputWithPast")):
                return (*args, *words.values())
            raise Mixed
        return self.operation(operation, args, words)

    def builtin(self: Any, name: str, args: list[Any]) -> Any:
        """``len``, ``zip``, ``float("-inf")``."""
        if name == "len" and len(args) == 1:
            if isinstance(args[0], Arr):
                if not args[0].axes:
                    raise Mixed
                return Size(args[0].axes[0])
            return Const()
        if name == "float" and args and args[0] == Const("-inf"):
            return Const(NEGATIVE)
        if name == "range":
            if any(isinstance(a, Size) and a.label != "_" for a in args):
                raise Mixed
            return Items(Const())
        if name in ("zip", "reversed"):
            items = tuple(self.item(a) for a in args)
            return Items(items if name == "zip" else items[0])
        if name == "enumerate":
            return Items((Const(), self.item(args[0])))
        if name in ("tuple", "list") and args and isinstance(args[0], tuple):
            return args[0]
        if name in ("isinstance", "getattr"):
            return Const()
        if any(isinstance(a, Arr) or (isinstance(a, Size) and a.label != "_") for a in args):
            raise Mixed
        return Const()

    def item(self: Any, value: object) -> object:
        """What iterating over an argument of ``zip`` gives."""
        if isinstance(value, Items):
            return value.item
        if isinstance(value, Layers) and value.container:
            return Layers(value.layers, "Sequential")
        if isinstance(value, Const):
            return Const()
        raise Mixed

    # -- layers

    def layers(self: Any, target: Layers, args: list[Any], words: dict[str, Any]) -> Any:
        """A layer, or each of a chain in turn: all of them have to be right."""
        if target.container not in ("", "Sequential"):
            raise Mixed
        if not target.container:
            return self.layer(target.layers[0], target.path, args, words)
        kinds = {layer.kind for layer in target.layers}
        if len(kinds) == 1 and (len(args) != 1 or words):
            return self.layer(target.layers[0], "", args, words)
        if len(args) != 1 or words:
            raise Mixed
        value = args[0]
        for layer in target.layers:
            value = self.layer(layer, "", [value], {})
        return value

    def layer(self: Any, layer: Layer, path: str, args: list[Any], words: dict[str, Any]) -> Any:
        """One layer."""
        kind = layer.kind
        if isinstance(kind, ClassInfo):
            return self.instance(Instance(kind, path), args, words)
        if not args:
            raise Mixed
        x = args[0]
        if kind in _BATCH_FIRST:
            return self.batch_first(kind, layer.call, args, words)
        if len(args) > 1 or words:
            raise Mixed
        if kind in _LAST:
            return axes.last_dim(x)
        if kind in _SAME:
            return axes.pointwise((x,))
        if kind in _EVALUATED and self.evaluated:
            return axes.pointwise((x,))
        if kind in ("Embedding", "EmbeddingBag") and kind == "Embedding":
            return self.embedding(x, f"{path}.num_embeddings" if path else "")
        if kind in _ROWS:
            return axes.row_wise(x, _ROWS[kind])
        if kind in ("Softmax", "LogSoftmax"):
            given = next((k.value for k in layer.call.keywords if k.arg == "dim"), None)
            given = given or (layer.call.args[0] if layer.call.args else None)
            return axes.normalise(x, _number(given), "softmax" if kind == "Softmax" else "log_softmax")
        if kind == "Flatten" and not layer.call.args and not layer.call.keywords:
            return axes.flatten(x, 1, -1)
        raise Mixed

    def batch_first(self: Any, kind: str, call: ast.Call, args: list[Any], words: dict[str, Any]) -> Any:
        """Attention and recurrence: everything but the batch meets."""
        first = next((k.value for k in call.keywords if k.arg == "batch_first"), None)
        layer = kind == "TransformerEncoder" or (isinstance(first, ast.Constant) and first.value is True)
        inputs = [v for v in (*args, *words.values()) if isinstance(v, Arr)]
        if not layer or not self.evaluated or any(v.labels != {"B"} or v.axes[0] != "B" for v in inputs):
            raise Mixed
        out = axes.row_wise(args[0], 3)
        if kind in ("LSTM", "GRU", "RNN"):
            if len(args) > 1:
                raise Mixed
            state = Arr(("_", "B", "_"))
            return (out, (state, state) if kind == "LSTM" else state)
        return (out, Arr(("B", "_", "_"))) if kind == "MultiheadAttention" else out

    def embedding(self: Any, x: object, limit: str) -> Any:
        """A table looked up; one that is looked up by position has a longest sequence."""
        if not isinstance(x, Arr):
            return axes.pointwise((x,))
        if any(kind == "index" for _, kind in x.holds):
            self.limits.append(limit)
        if x.open:
            return Arr(x.axes, x.open.rstrip(axes.PROVEN) + "+e" + axes.PROVEN)
        return Arr((*x.axes, "_"))

    # -- operations

    def method(self: Any, body: Body, node: ast.Call, name: str, owner: Any) -> Any:
        """A method of a tensor."""
        args = [body.value(a) for a in node.args]
        words = {k.arg: body.value(k.value) for k in node.keywords if k.arg is not None}
        if name in ("size",):
            return Shape(owner).size(args[0]) if args else Shape(owner)
        if name in ("dim", "ndimension", "element_size", "is_floating_point"):
            return Const()
        if (
            name in ("view", "reshape", "expand", "permute", "repeat")
            and len(args) == 1
            and isinstance(args[0], tuple)
        ):
            args = list(args[0])
        if name in ("view", "reshape"):
            if len(args) == 1 and not isinstance(args[0], Const | Size):
                raise Mixed
            return axes.reshape(owner, args)
        if name == "expand":
            return axes.expand(owner, args)
        if name == "permute":
            return axes.permute(owner, [_plain(a) for a in args])
        if name in ("new_zeros", "new_ones", "new_full"):
            return self.fresh(args[:1] if isinstance(args[0], tuple) else args)
        return self.operation(name, [owner, *args], words)

    def operation(self: Any, name: str, args: list[Any], words: dict[str, Any]) -> Any:
        """An operation of torch, by name; the tensor comes first."""
        given = words.get("dim", words.get("axis", args[1] if len(args) > 1 else None))
        x = args[0] if args else words.get("input")
        if name in _KEEP:
            others = [v for v in args[1:] if isinstance(v, Arr)]
            if name in ("view_as", "expand_as"):
                raise Mixed
            if any(v.axes != getattr(x, "axes", None) for v in others if name != "to" and name != "type_as"):
                raise Mixed
            return axes.pointwise((x,), holds=True) if isinstance(x, Arr) else x
        if name in ("mul", "multiply", "logical_and", "bitwise_and"):
            return axes.multiply(x, args[1])
        if name in ("logical_not", "bitwise_not"):
            return axes.negate(x)
        if name in ("eq", "ne"):
            zero = isinstance(args[1], Const) and args[1].value in (0, False)
            if zero:
                return axes.negate(x) if name == "eq" else axes.pointwise((x,), holds=True)
            return axes.pointwise((x, args[1]))
        if name in _POINTWISE or name in ("logical_or", "bitwise_or"):
            return axes.pointwise([v for v in (*args, *words.values()) if v != Const(None)])
        if name == "dropout":
            training = words.get("training", args[2] if len(args) > 2 else None)
            if training != Const(False):
                raise Mixed
            return axes.pointwise((x,))
        if name in ("masked_fill", "masked_fill_"):
            if name == "masked_fill_":
                raise Mixed
            return axes.fill(x, args[1], args[2])
        if name == "where" and len(args) == 3:
            return axes.choose(*args)
        if name in ("softmax", "log_softmax"):
            result = axes.normalise(x, _plain(given), name)
            self.meets = self.meets or (isinstance(result, Arr) and bool(result.holds))
            return result
        if name in ("cumsum", "cumprod"):
            return self.scan(x, given)
        if name in _REDUCE:
            return self.reduction(name, x, given, words, args)
        if name in ("normalize", "layer_norm", "rms_norm", "linear"):
            if name == "normalize":
                return axes.normalise(
                    x, _plain(words.get("dim", args[2] if len(args) > 2 else Const(1))), name
                )
            if any(isinstance(v, Arr) for v in args[1:]):
                raise Mixed
            return axes.last_dim(x)
        if name == "embedding":
            raise Mixed
        if name in ("matmul", "bmm", "mm"):
            return axes.matmul(x, args[1])
        if name == "scaled_dot_product_attention":
            return self.attention(args, words)
        return self.shaping(name, x, args, given, words)

    def shaping(self: Any, name: str, x: Any, args: list[Any], given: Any, words: dict[str, Any]) -> Any:
        """Operations that move dimensions."""
        if name == "unsqueeze":
            return axes.unsqueeze(x, _plain(given))
        if name == "squeeze":
            return axes.squeeze(x, _plain(given))
        if name in ("transpose", "swapaxes", "swapdims"):
            return axes.transpose(x, _plain(args[1]), _plain(args[2]))
        if name == "permute" and isinstance(args[1], tuple):
            return axes.permute(x, [_plain(v) for v in args[1]])
        if name == "reshape" and isinstance(args[1], tuple):
            return axes.reshape(x, args[1])
        if name == "flatten":
            start = words.get("start_dim", args[1] if len(args) > 1 else Const(0))
            stop = words.get("end_dim", args[2] if len(args) > 2 else Const(-1))
            return axes.flatten(x, _plain(start), _plain(stop))
        if name in ("chunk", "split", "unbind", "tensor_split"):
            dim = words.get("dim", (args[1] if len(args) > 1 else Const(0)) if name == "unbind" else
                            (args[2] if len(args) > 2 else Const(0)))  # fmt: skip
            return Parts(axes.along(x, _plain(dim), name == "unbind"))
        if name in ("cat", "concat", "stack"):
            return self.join(name, x, given)
        if name == "einsum" and isinstance(x, Const) and isinstance(x.value, str):
            return axes.einsum(x.value, args[1:])
        if name == "arange":
            label = next((a.label for a in args if isinstance(a, Size) and a.label != "_"), None)
            if label is None:
                return Weight()
            if len([a for a in args if not isinstance(a, Const)]) > 1 or label not in ("B", "S"):
                raise Mixed
            return Arr((label,), "", ((-1, "index"),) if label == "S" else ())
        if name in _FRESH:
            return self.fresh(
                args[:1]
                if args and isinstance(args[0], tuple)
                else args
                if name not in ("full",)
                else args[:-1]
            )
        if name in _LIKE:
            return axes.pointwise((x,))
        if name in ("tensor", "as_tensor", "eye", "linspace", "finfo"):
            if any(isinstance(v, Arr) or (isinstance(v, Size) and v.label != "_") for v in args):
                raise Mixed
            return Weight()
        if name in ("gather", "take_along_dim"):
            return axes.gather(x, args)
        if name in _FUNCTION_ROWS:
            if any(isinstance(v, Arr) for v in args[1:]):
                raise Mixed
            return axes.row_wise(x, _FUNCTION_ROWS[name])
        raise Mixed

    def fresh(self: Any, args: list[Any]) -> Any:
        """A new tensor whose sizes may be those of the batch."""
        sizes = list(args[0]) if args and isinstance(args[0], tuple) else args
        if not all(isinstance(s, Size | Const) for s in sizes):
            raise Mixed
        labels = tuple(s.label if isinstance(s, Size) else "_" for s in sizes)
        return Arr(labels) if set(labels) - {"_"} else Weight()

    def scan(self: Any, x: Any, given: Any) -> Any:
        """A running sum: what comes before padding does not see it."""
        if not isinstance(x, Arr):
            return Weight()
        axis = axes.axis_of(x, _plain(given))
        if x.axes[axis] not in ("_", "S"):
            raise Mixed
        return Arr(x.axes)

    def reduction(self: Any, name: str, x: Any, given: Any, words: dict[str, Any], args: list[Any]) -> Any:
        """A sum, a maximum, a norm."""
        if name in ("max", "min") and isinstance(given, Arr | Weight):
            return axes.pointwise((x, given))
        if name == "norm":
            given = words.get("dim", args[2] if len(args) > 2 else None)
        dims = None
        if given is not None and given != Const(None):
            dims = [_plain(v) for v in given] if isinstance(given, tuple) else [_plain(given)]
        keep = words.get(
            "keepdim", next((a for a in args[2:] if a in (Const(True), Const(False))), Const(False))
        )
        result = axes.reduce(x, name, dims, keep == Const(True))
        if isinstance(x, Arr) and "S" in x.axes and isinstance(result, Arr) and "S" not in result.axes:
            self.meets = True
        return (result, result) if name in _VALUES else result

    def join(self: Any, name: str, parts: Any, given: Any) -> Any:
        """``cat`` and ``stack``."""
        if isinstance(parts, Parts):
            raise Mixed
        if not isinstance(parts, tuple):
            raise Mixed
        dim = _plain(given) if given is not None else 0
        if name != "stack":
            return axes.concatenate(parts, dim)
        made = [axes.unsqueeze(p, dim) if isinstance(p, Arr) else p for p in parts]
        if any(not isinstance(p, Arr) or p.axes != getattr(made[0], "axes", None) or p.open for p in made):
            raise Mixed
        return axes.pointwise((made[0],))

    def attention(self: Any, args: list[Any], words: dict[str, Any]) -> Any:
        """``scaled_dot_product_attention``; dropout only where it is off."""
        mask = words.get("attn_mask", args[3] if len(args) > 3 else None)
        drop = words.get("dropout_p", args[4] if len(args) > 4 else Const(0.0))
        causal = words.get("is_causal", args[5] if len(args) > 5 else Const(False))
        if drop not in (Const(0.0), Const(0)):
            raise Mixed
        result = axes.attention(
            args[0], args[1], args[2], None if mask == Const(None) else mask, causal == Const(True)
        )
        if isinstance(args[1], Arr) and "S" in args[1].axes:
            self.meets = True
        return result


class Parts(tuple[Any, ...]):
    """Equal parts of a tensor, as many as are asked for."""

    __slots__ = ()

    def __new__(cls, part: Any) -> Parts:
        """Parts of which each is ``part``."""
        return super().__new__(cls, (part,))


def _plain(value: object) -> object:
    """The literal of a host value."""
    if isinstance(value, Const) and value.value is not ...:
        return value.value
    raise Mixed


def _number(node: ast.expr | None) -> object:
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError):
        raise Mixed from None
