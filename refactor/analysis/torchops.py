"""What is known of torch's functions and methods by name: results, devices, and which of them synchronise.

Sources: PyTorch's ``native_functions.yaml`` tags (``dynamic_output_shape``, ``data_dependent_output``) and
captures of each idiom on an H100 with torch 2.11.
"""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


TORCH_SCOPES = ("torch", "torch.Tensor", "torch.nn.functional", "torch.special", "torch.linalg", "torch.fft")

REDUCTIONS = names(
    """
    sum mean prod max min amax amin any all argmax argmin norm std var median nanmedian mode logsumexp
    nansum nanmean count_nonzero quantile nanquantile trace dist vector_norm matrix_norm
    """
)
"""Without ``dim`` the result has rank 0."""

PAIR_WITH_DIM = frozenset(["max", "min", "median", "nanmedian", "mode"])
"""With ``dim`` they return values and indices."""

PAIRS = frozenset(["topk", "sort", "cummax", "cummin", "kthvalue"])
"""They return values and indices."""

TUPLES = names("svd eigh qr slogdet lstsq eig aminmax frexp var_mean std_mean lu")
"""They return several tensors."""

SPLITS = names(
    """
    chunk split unbind tensor_split hsplit vsplit dsplit split_with_sizes meshgrid broadcast_tensors
    unsafe_chunk unsafe_split
    """
)

BOOL_RESULTS = names(
    """
    eq ne lt le gt ge less less_equal greater greater_equal not_equal isnan isinf isfinite isneginf
    isposinf isreal isin isclose logical_and logical_or logical_not logical_xor any all bool signbit
    """
)
INT_RESULTS = names(
    """
    argmax argmin argsort bincount nonzero searchsorted bucketize long int short multinomial
    count_nonzero argwhere randint randint_like randperm tril_indices triu_indices one_hot
    nonzero_static
    """
)
FLOAT_RESULTS = names(
    """
    float half double bfloat16 softmax log_softmax sigmoid tanh exp log sqrt rsqrt rand randn rand_like
    randn_like linspace logspace mean std var erf sin cos silu gelu softplus layer_norm hann_window
    normal cdist log1p expm1 log2 log10 reciprocal logsumexp
    """
)
KEEP_RANK = names(
    """
    abs neg exp log sqrt rsqrt sin cos tan tanh sigmoid relu gelu silu softmax log_softmax clamp clip
    clamp_min clamp_max round floor ceil float half double bfloat16 long int bool short byte contiguous
    clone detach flip roll cumsum cumprod masked_fill permute transpose dropout layer_norm normalize pow
    square logical_not isnan isinf isfinite zeros_like ones_like empty_like full_like rand_like
    randn_like type_as to cuda cpu t triu tril sign erf log1p expm1 reciprocal requires_grad_ half_
    swapaxes argsort pin_memory masked_fill_ clamp_ add_ sub_ mul_ div_ relu_ nan_to_num log2 log10
    bitwise_not sort narrow index_select index_add index_add_ scatter scatter_ scatter_add scatter_add_
    gather bernoulli fill_ zero_ copy_ type erf erfinv leaky_relu elu selu celu mish hardtanh relu6
    hardswish hardsigmoid softplus logsigmoid pad conv1d conv2d conv3d max_pool1d max_pool2d max_pool3d
    avg_pool1d avg_pool2d avg_pool3d linear interpolate adaptive_avg_pool2d adaptive_max_pool2d
    batch_norm group_norm instance_norm rms_norm T mT data real imag repeat_interleave movedim moveaxis
    isneginf isposinf logit sinh cosh atan trunc frac rad2deg deg2rad
    """
)
"""The result has the rank of the first tensor."""

BROADCAST = names(
    """
    add sub mul div true_divide floor_divide remainder fmod maximum minimum fmax fmin where eq ne lt le
    gt ge logical_and logical_or logical_xor atan2 lerp addcmul addcdiv bitwise_and bitwise_or
    bitwise_xor less greater less_equal greater_equal isclose hypot xlogy not_equal rsub subtract
    multiply divide logaddexp
    """
)
"""The result has the largest rank among the tensors."""

ELEMENTWISE = KEEP_RANK & names(
    """
    abs neg exp log sqrt rsqrt sin cos tan tanh sigmoid relu clamp clip clamp_min clamp_max round floor
    ceil pow square sign erf log1p expm1 reciprocal log2 log10 nan_to_num logical_not bitwise_not trunc
    frac sinh cosh atan logit
    """
) | (BROADCAST - {"where"})

FACTORIES = names(
    """
    zeros ones full empty rand randn randint arange range linspace logspace eye randperm tensor
    as_tensor scalar_tensor tril_indices triu_indices hann_window hamming_window blackman_window
    bartlett_window kaiser_window from_numpy empty_strided normal sparse_coo_tensor asarray
    frombuffer empty_permuted
    """
)
SIZED = names(
    """
    zeros ones full empty rand randn new_zeros new_ones new_full new_empty
    """
)
RANKS = {
    "arange": 1, "range": 1, "linspace": 1, "logspace": 1, "eye": 2, "randperm": 1, "scalar_tensor": 0,
    "tril_indices": 2, "triu_indices": 2, "hann_window": 1, "bincount": 1, "nonzero": 2, "argwhere": 2,
    "masked_select": 1, "nonzero_static": 2, "bmm": 3, "mm": 2, "mv": 1, "diag": None, "dot": 0, "baddbmm": 3,
    "ravel": 1, "trace": 0, "cross_entropy": 0, "mse_loss": 0, "allclose": None,
}  # fmt: skip
"""Rank of the result, whatever the arguments."""
LIKE = frozenset(
    ["zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"]
)
NEW = frozenset(["new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"])
CONSTANTS = frozenset(["tensor", "as_tensor", "asarray", "scalar_tensor", "new_tensor", "from_numpy"])
"""They copy host data."""

HOST_ATTRIBUTES = {
    "shape": "shape", "dtype": "dtype", "device": "device",
    "ndim": "int", "is_cuda": "bool", "requires_grad": "bool",
    "layout": "layout", "is_sparse": "bool", "is_leaf": "bool", "is_quantized": "bool", "is_nested": "bool",
    "grad_fn": "object", "itemsize": "int", "nbytes": "int",
    "is_cpu": "bool", "is_mps": "bool", "is_xpu": "bool",
    "is_meta": "bool", "names": "object", "retains_grad": "bool",
}  # fmt: skip
HOST_METHODS = {
    "size": "shape", "dim": "int", "ndimension": "int", "numel": "int", "nelement": "int", "stride": "shape",
    "is_floating_point": "bool", "is_contiguous": "bool", "element_size": "int", "data_ptr": "int",
    "get_device": "int", "storage_offset": "int",
    "is_complex": "bool", "is_pinned": "bool", "is_signed": "bool",
    "is_inference": "bool", "is_coalesced": "bool", "is_same_size": "bool",
    "is_shared": "bool", "has_names": "bool", "is_tensor": "bool",
    "result_type": "dtype", "is_nonzero": "bool", "is_conj": "bool", "sparse_dim": "int", "dense_dim": "int",
    "untyped_storage": "object", "storage": "object", "register_hook": "object", "backward": "none",
    "broadcast_shapes": "shape", "finfo": "object", "iinfo": "object", "is_grad_enabled": "bool",
    "get_default_dtype": "dtype", "promote_types": "dtype", "can_cast": "bool", "is_autocast_enabled": "bool",
    "is_inference_mode_enabled": "bool", "is_storage": "bool",
    "get_autocast_dtype": "dtype", "is_set_to": "bool",
    "get_autocast_gpu_dtype": "dtype", "is_distributed": "bool", "has_torch_function": "bool",
}  # fmt: skip

READBACKS = frozenset({"item", "tolist", "__bool__", "__int__", "__float__", "is_nonzero"})
TO_HOST = frozenset({"cpu", "numpy", "__array__"})

DYNAMIC = {
    "nonzero": "the number of non-zero elements",
    "argwhere": "the number of non-zero elements",
    "masked_select": "the number of selected elements",
    "unique": "the number of distinct values",
    "unique_consecutive": "the number of distinct values",
    "bincount": "the largest value",
    "masked_scatter_backward": "the number of selected elements",
    "combinations": "the number of combinations",
    "to_sparse": "the number of non-zero elements",
    "to_sparse_csr": "the number of non-zero elements",
    "to_sparse_csc": "the number of non-zero elements",
    "to_sparse_bsr": "the number of non-zero elements",
    "to_sparse_bsc": "the number of non-zero elements",
}
"""Operations whose result has a shape that depends on the data, and what the host has to learn for it."""

SYNC_OPS = {
    "allclose": "the comparison's result", "equal": "the comparison's result",
    "svd": "the solver's status", "inv": "the solver's status", "inverse": "the solver's status",
    "pinverse": "the solver's status", "pinv": "the solver's status", "cholesky": "the solver's status",
    "eigh": "the solver's status", "eig": "the solver's status", "eigvals": "the solver's status",
    "eigvalsh": "the solver's status", "lstsq": "the solver's status", "solve": "the solver's status",
    "matrix_rank": "the solver's status", "svdvals": "the solver's status", "symeig": "the solver's status",
    "svd_lowrank": "the solver's status",
    "pca_lowrank": "the solver's status", "tensorinv": "the solver's status", "cond": "the solver's status",
    "matrix_exp": "the norms of the matrices",
    "lu_factor": "the solver's status", "ldl_factor": "the solver's status",
}  # fmt: skip
"""Operations that wait for the device inside, in ``torch`` and ``torch.linalg`` and as tensor methods."""
LINALG_ONLY = names(
    """
    inv eig eigvals eigvalsh cond solve lstsq pinv matrix_rank svdvals tensorinv
    """
)

EXTERNAL_SYNC = {
    "torchvision.ops.nms": "the number of boxes kept",
    "torchvision.ops.batched_nms": "the number of boxes kept",
    "torchvision.ops.boxes.nms": "the number of boxes kept",
    "torchvision.ops.boxes.batched_nms": "the number of boxes kept",
    "torch.ops.torchvision.nms": "the number of boxes kept",
    "torch.nn.functional.ctc_loss": "the lengths",
}
GROUPED = frozenset({"grouped_mm", "_grouped_mm", "_scaled_grouped_mm"})
SYNCHRONIZE = frozenset(
    [
        "torch.cuda.synchronize",
        "torch.accelerator.synchronize",
        "torch.cuda.current_stream().synchronize",
        "torch.mps.synchronize",
        "torch.xpu.synchronize",
        "torch.cuda.ipc_collect",
    ]
)
SYNC_METHODS = {
    "torch.cuda.Stream": {"synchronize"},
    "torch.cuda.Event": {"synchronize", "elapsed_time"},
    "torch.Event": {"synchronize", "elapsed_time"},
    "torch.cuda.current_stream()": {"synchronize"},
    "torch.cuda.default_stream()": {"synchronize"},
}
ALWAYS = {
    "torch.cuda.is_current_stream_capturing": True,
    "torch.cuda.graphs.is_current_stream_capturing": True,
    "torch._C._cuda_isCurrentStreamCapturing": True,
    "torch.jit.is_scripting": False,
    "torch.jit.is_tracing": False,
    "torch._C._get_tracing_state": False,
    "torch.onnx.is_in_onnx_export": False,
    "torch.compiler.is_compiling": False,
    "torch.compiler.is_dynamo_compiling": False,
    "torch.compiler.is_exporting": False,
    "torch._dynamo.is_compiling": False,
    "torch._dynamo.external_utils.is_compiling": False,
    "torch._utils.is_compiling": False,
    "torch.cuda.is_available": True,
    "torch.xpu.is_available": False,
    "torch.npu.is_available": False,
    "torch.mps.is_available": False,
    "torch.backends.mps.is_available": False,
    "torch.mlu.is_available": False,
    "torch.hpu.is_available": False,
    "torch.fx._symbolic_trace.is_fx_tracing": False,
    "torch.overrides.has_torch_function": False,
    "typing.TYPE_CHECKING": False,
}
"""What tests of the execution mode answer while a CUDA graph is captured."""

OTHER_DEVICES = frozenset(
    {"mps", "xpu", "npu", "hpu", "xla", "mlu", "musa", "ipu", "tpu", "meta", "privateuseone"}
)
"""Device types on which no CUDA graph is captured; "cpu" is left open, for tensors that stay there."""

TENSOR_ONLY = names(
    """
    abs add all amax amin any argmax argmin argsort bmm bool chunk clamp contiguous cos cpu cuda cumsum
    detach device dim dtype exp expand expand_as flatten float gather half index_select is_cuda item log
    long masked_fill matmul max mean mean min mul ndim new_ones new_tensor new_zeros nonzero norm numel
    permute pow relu repeat requires_grad reshape round scatter shape sigmoid sin size softmax split
    sqrt squeeze std sub sum t tanh to tolist topk transpose type_as unbind unfold unsqueeze var view
    view_as square bfloat16 double unflatten norm_ mul_ add_ sub_ div_ clamp_ masked_fill_ sign argmin_
    new_full new_empty is_floating_point nelement
    """
) - {
    "split",
    "index",
    "device",
    "dtype",
    "t",
    "repeat",
    "to",
    "size",
    "pow",
    "any",
    "all",
    "max",
    "min",
    "round",
}
"""Attributes that tell a tensor from other values."""

TENSOR_METHODS = TENSOR_ONLY | {
    "to",
    "max",
    "min",
    "any",
    "all",
    "split",
    "repeat",
    "pow",
    "round",
    "t",
    "sort",
}
"""Methods that turn an unknown value computed from tensors into a tensor."""

DTYPES = {
    **dict.fromkeys(
        ["float32", "float", "float16", "half", "bfloat16", "float64", "double", "complex64", "cfloat"],
        "float",
    ),
    **dict.fromkeys(["int64", "long", "int32", "int", "int16", "short", "int8", "uint8"], "int"),
    "bool": "bool",
}
TENSOR_CLASSES = {
    "Tensor": None, "FloatTensor": "float", "LongTensor": "int", "BoolTensor": "bool", "IntTensor": "int",
    "HalfTensor": "float", "DoubleTensor": "float", "ByteTensor": "int", "BFloat16Tensor": "float",
    "FloatTensorType": "float",
}  # fmt: skip
POINTWISE_MODULES = names(
    """
    ReLU GELU SiLU Tanh Sigmoid Dropout Identity LayerNorm BatchNorm1d BatchNorm2d BatchNorm3d GroupNorm
    RMSNorm Linear Conv1d Conv2d Conv3d LeakyReLU ELU Softmax LogSoftmax Hardswish ReLU6 Mish Softplus
    Dropout1d Dropout2d InstanceNorm1d InstanceNorm2d Softsign PReLU MaxPool1d MaxPool2d AvgPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d Upsample ZeroPad2d ConvTranspose1d ConvTranspose2d Hardsigmoid
    Hardtanh CELU SELU AlphaDropout Threshold SyncBatchNorm LazyLinear LazyConv2d GLU
    """
)
"""``torch.nn`` modules that return one float tensor of the rank of their input."""
CONTAINER_MODULES = frozenset({"torch.nn.ModuleList", "torch.nn.ParameterList"})
