"""What the emulator must know of an ATen operation, derived from its schema and tags, once per overload."""

from __future__ import annotations

from typing import Any, Literal

import torch

Sync = Literal["", "stream", "copy", "quiet"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Kernels that wait for the device: "stream" ones inside the kernel or to read a size back, "copy" ones by an
# ordinary device-to-host copy, which torch refuses during capture with another message, "quiet" ones without
# telling `set_sync_debug_mode`. Measured on an H100.
_STREAM_SYNCS = _names("""
    _local_scalar_dense item is_nonzero allclose nonzero masked_select _unique _unique2 unique_dim
    unique_consecutive unique_dim_consecutive _linalg_check_errors istft _linalg_eigh linalg_eig
    _linalg_eigvals linalg_eigvals linalg_lstsq cholesky nms _coalesce to_sparse _to_sparse
    _nested_tensor_from_mask_left_aligned
""")
_COPY_SYNCS = _names(
    "bincount _ctc_loss _use_cudnn_ctc_loss _linalg_svd linalg_pinv pinverse linalg_matrix_exp"
)
_QUIET_SYNCS = _names("equal")

# Arguments that CUDA kernels themselves want in host memory.
_HOST_ARGUMENTS = _names(
    "lengths batch_sizes input_lengths target_lengths tensor_indices_or_sections min_seqlen max_seqlen"
)

# Composites seen whole under inference mode whose parts need no watching: running them whole is only faster.
_WHOLE = _names("""
    linear matmul reshape flatten contiguous chunk softmax log_softmax layer_norm transpose t_ conv1d
    conv2d conv3d view_as expand_as unflatten dropout batch_norm group_norm instance_norm silu_
    max_pool1d max_pool2d scaled_dot_product_attention adaptive_avg_pool1d movedim moveaxis swapaxes
    swapdims square square_ float_power rms_norm mT mH numpy_T ravel relu6 selu celu type_as to
""")

# Kernels that draw random numbers without being tagged so in every version.
_RANDOM = _names("""
    lstm gru rnn_tanh rnn_relu scaled_dot_product_attention dropout dropout_ feature_dropout
    alpha_dropout feature_alpha_dropout native_dropout rrelu rrelu_ _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention_for_cpu
""")

# Statistics written although the schema does not say so.
_WRITES_STATISTICS = _names(
    "native_batch_norm batch_norm _batch_norm_impl_index cudnn_batch_norm instance_norm"
)

# Kernels that read a host operand of no dimension as a number without being tagged pointwise.
_ZERO_DIM_FRIENDLY = _names("""
    where masked_fill masked_fill_ fill fill_ index_fill index_fill_ full_like result_type can_cast
    bernoulli bernoulli_ normal rsub floor_divide floor_divide_ true_divide true_divide_ eq_ ne_ gt_ ge_
    lt_ le_ heaviside_ copysign_ mse_loss smooth_l1_loss binary_cross_entropy dist __and__ __or__
    __iand__ __ior__ arctan2 isin
""")

# Tagged pointwise, yet checked argument by argument (`native_functions.yaml`: no `device_check: NoCheck`).
_CHECKED = _names("""
    clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ gcd lcm logaddexp logaddexp2 nextafter
    nextafter_ igamma igamma_ igammac igammac_ equal gelu_backward silu_backward sigmoid_backward
    tanh_backward threshold_backward native_dropout_backward
""")

_EMPTY = _names("empty empty_like empty_strided new_empty new_empty_strided empty_permuted")


def _sync_of(name: str, tensors: list[str]) -> Sync:
    if name in _STREAM_SYNCS:
        return "stream"
    if name in _COPY_SYNCS:
        return "copy"
    if name in _QUIET_SYNCS:
        return "quiet"
    if name == "normal" and "std" in tensors:
        return "stream"  # checks that no deviation is negative
    if name in ("linspace", "logspace") and tensors:
        return "stream"
    return ""


class Op:
    """One overload: how it is named, what it writes, whether it draws, waits, or tolerates host operands."""

    __slots__ = (
        "arguments",
        "asserts",
        "composite",
        "creates",
        "draws",
        "func",
        "generator_at",
        "lenient",
        "makes_empty",
        "name",
        "sync",
        "takes_generator",
        "views",
        "whole",
        "writes",
    )

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.func = func
        self.name: str = schema.name.split("::", 1)[1]
        self.arguments: list[str] = [a.name for a in schema.arguments]
        writes = [
            i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        hidden = ("running_mean", "running_var") if self.name in _WRITES_STATISTICS else ()
        writes += [i for i, a in enumerate(schema.arguments) if a.name in hidden and i not in writes]
        self.writes: tuple[int, ...] = tuple(writes)
        tags = func.tags
        self.draws: bool = torch.Tag.nondeterministic_seeded in tags or self.name in _RANDOM
        self.generator_at: int = next(
            (i for i, a in enumerate(schema.arguments) if a.name == "generator"), -1
        )
        self.takes_generator: bool = self.generator_at >= 0
        self.sync: Sync = _sync_of(self.name, [a.name for a in schema.arguments if "Tensor" in str(a.type)])
        self.asserts: bool = not schema.returns
        self.lenient: bool = self.name not in _CHECKED and (
            torch.Tag.pointwise in tags
            or self.name in _ZERO_DIM_FRIENDLY
            or self.name.startswith("_foreach_")
        )
        self.makes_empty: bool = self.name in _EMPTY
        self.creates: bool = "device" in self.arguments and not self.name.startswith(("to", "_to_copy"))
        self.composite: bool = func.namespace == "aten" and func._can_decompose()
        self.whole: bool = self.name in _WHOLE
        aliases = [a.alias_info for a in schema.arguments if a.alias_info is not None]
        self.views: bool = bool(aliases) and not any(a.is_write for a in aliases)

    def argument(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value given for the argument at `index`, None if left out."""
        return args[index] if index < len(args) else kwargs.get(self.arguments[index])

    def drawing(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call of an operation that can draw does: not one with its dropout off."""
        if self.name not in _RANDOM:
            return True
        given = {name: self.argument(index, args, kwargs) for index, name in enumerate(self.arguments)}
        if "dropout_p" in given:
            return bool(given["dropout_p"])
        odds = given.get("p", given.get("dropout", 1.0))
        return bool(odds) and given.get("train", given.get("training", True)) is not False

    def wants_host(self, index: int) -> bool:
        """Whether the CUDA kernel itself takes this argument in host memory."""
        return index < len(self.arguments) and self.arguments[index] in _HOST_ARGUMENTS

    def reads_size(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sync:
        """How this call waits for the device, "" if it does not."""
        if self.sync:
            return self.sync
        if self.name == "repeat_interleave" and self.arguments[0] == "repeats":
            return "stream" if self.argument(1, args, kwargs) is None else ""
        if self.name == "histc":
            bounds = (self.argument(2, args, kwargs) or 0, self.argument(3, args, kwargs) or 0)
            return "copy" if bounds[0] == bounds[1] else ""
        return ""


_KNOWN: dict[Any, Op] = {}


def op_of(func: Any) -> Op:
    """The description of one overload, made at its first use."""
    op = _KNOWN.get(func)
    if op is None:
        op = _KNOWN[func] = Op(func)
    return op
