"""What is known about PyTorch operations by name: fresh results, views, and what takes ``out``.

A name that is in no table is unknown, and unknown means: it may keep, return or write its arguments.
Sources: the schemas of native_functions.yaml (torch 2.5 to 2.13) and the documentation of each function.
"""

from __future__ import annotations


def names_in(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


UNARY_FLOAT = names_in(
    """sigmoid tanh exp expm1 exp2 log log1p log2 log10 sqrt rsqrt sin cos tan asin acos atan sinh cosh asinh
    acosh atanh erf erfc reciprocal"""
)
"""One tensor in, same shape and floating dtype out, ``out=`` taken; integers would be promoted."""
UNARY_SAME = names_in("neg abs square floor ceil round trunc sign")
"""The same, of any dtype."""
BINARY = names_in("add sub mul div pow maximum minimum atan2 fmod remainder")
"""Two operands that broadcast and promote, ``out=`` taken."""

FRESH = (
    UNARY_FLOAT
    | UNARY_SAME
    | BINARY
    | names_in(
        """relu gelu silu elu selu leaky_relu hardswish hardtanh softplus mish logsigmoid softmax log_softmax
        matmul mm bmm addmm baddbmm mv dot outer linear bilinear conv1d conv2d conv3d layer_norm group_norm
        normalize embedding where masked_fill clamp clip lerp addcmul addcdiv logaddexp hypot
        sum mean prod amax amin max min argmax argmin var std norm logsumexp any all cumsum cumprod
        topk sort argsort gather index_select take_along_dim scatter scatter_add index_add cat stack
        concat hstack vstack clone zeros_like ones_like full_like empty_like rand_like randn_like tril triu
        roll flip repeat repeat_interleave tile one_hot isnan isinf isfinite logical_and logical_or
        logical_not bitwise_and bitwise_or bitwise_not eq ne lt le gt ge cross cdist cosine_similarity pad
        avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d mse_loss
        l1_loss smooth_l1_loss binary_cross_entropy binary_cross_entropy_with_logits cross_entropy nll_loss
        kl_div scaled_dot_product_attention grid_sample equal allclose item tolist numel dim size
        element_size is_floating_point is_complex nelement new_zeros new_ones new_full new_empty nonzero
        bincount count_nonzero masked_select unique"""
    )
)
"""Functions and methods whose results never share memory with their arguments and that keep none of them."""

VIEWS = names_in(
    """view view_as reshape reshape_as flatten unflatten squeeze unsqueeze transpose permute movedim moveaxis
    swapaxes swapdims t expand expand_as broadcast_to narrow select chunk split unbind tensor_split diagonal
    detach contiguous to float half double bfloat16 int long bool type type_as cpu cuda as_strided
    unfold real imag ravel mT T atleast_1d atleast_2d atleast_3d broadcast_tensors einsum dropout"""
)
"""Functions and methods whose result may share memory with the first argument and that do no more with it."""

METADATA = names_in(
    """shape dtype device ndim layout is_cuda requires_grad names itemsize nbytes is_leaf is_sparse
    is_quantized"""
)
VIEW_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data", "grad"})

FRESH_MODULES = names_in(
    """Linear Bilinear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LayerNorm RMSNorm
    GroupNorm BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d Embedding GELU SiLU Sigmoid
    Tanh Softmax LogSoftmax LSTM GRU RNN MultiheadAttention"""
)
"""Modules of torch.nn whose outputs never share memory with their inputs (unlike Identity or Dropout)."""

_TORCH_SCOPES = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "torch.Tensor")


def torch_function(name: str | None) -> str | None:
    """``relu`` for the dotted name of a PyTorch function, whichever namespace it stands in."""
    scope, _, last = (name or "").rpartition(".")
    return last if scope in _TORCH_SCOPES else None
