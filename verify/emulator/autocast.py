"""CUDA autocast on a build that has only the CPU's.

While `autocast("cuda")` is on, the thread's CPU autocast is on with CUDA's dtype: it casts matrix products
and convolutions. The operations that only CUDA's lists name are registered beside them here, after
`aten/src/ATen/autocast_mode.h`, and pass everything through while the program uses CPU autocast itself.
Operations that only the CPU's list casts to float32 are registered anew, to tell the two apart.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch

from .core import Gpu
from .execute import map_tensors
from .patches import Patches


def _names(text: str) -> list[str]:
    return text.split()


_LOWER = _names("""
    lstm.input lstm.data gru.input gru.data rnn_tanh.input rnn_tanh.data rnn_relu.input rnn_relu.data
    addmv addr mv chain_matmul linalg_multi_dot lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    _thnn_fused_lstm_cell _thnn_fused_gru_cell _convolution convolution conv_transpose1d
    conv_transpose2d.input conv_transpose3d.input
""")
_FLOAT32 = _names("""
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
    pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm group_norm frobenius_norm.dim
    nuclear_norm nuclear_norm.dim cosine_similarity dist pdist renorm logsumexp upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
    upsample_bicubic2d norm.Scalar norm.ScalarOpt_dim nll_loss nll_loss2d upsample_nearest1d.vec
    upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec upsample_bilinear2d.vec
    upsample_trilinear3d.vec upsample_bicubic2d.vec
""")
_FLOAT32_UNLESS_ASKED = _names("""
    softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
    linalg_matrix_norm.str_ord sum sum.dim_IntList prod prod.dim_int
""")
_PROMOTE = _names("""
    addcdiv addcmul atan2 bilinear cross dot vdot index_put tensordot scatter_add
""")
# Cast to float32 by CPU autocast and left alone by CUDA's.
_HOST_ONLY = _names("""
    adaptive_avg_pool3d adaptive_max_pool3d avg_pool3d max_pool3d polar view_as_complex
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d replication_pad3d fft_fft
    fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn
    fft_irfftn fft_hfft fft_ihfft grid_sampler grid_sampler_2d grid_sampler_3d
""")
_HALVES = (torch.float16, torch.bfloat16)


def registered_for_autocast() -> frozenset[str]:
    """The operations that cast their operands before a dispatch mode sees them."""
    return frozenset(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"))


class CudaAutocast:
    """Couples the two autocast states of a thread, and owns the registrations."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._library: Any = None
        self._host = threading.local()  # what the program itself asked of CPU autocast
        self._keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
        self._set_enabled = torch.set_autocast_enabled
        self._set_dtype = torch.set_autocast_dtype
        self._is_enabled = torch.is_autocast_enabled
        self._get_dtype = torch.get_autocast_dtype

    def patch(self, patches: Patches) -> None:
        """Replace the functions of `torch` that the `autocast` context manager and programs use."""
        patches.set_all(
            torch,
            {
                "set_autocast_enabled": self.set_enabled,
                "set_autocast_dtype": self.set_dtype,
                "is_autocast_enabled": self.is_enabled,
                "get_autocast_dtype": self.get_dtype,
                "is_autocast_cpu_enabled": lambda: self.is_enabled("cpu"),
            },
        )

    def close(self) -> None:
        """Take the registrations back."""
        if self._library is not None:
            self._library._destroy()
            self._library = None

    def _host_state(self) -> tuple[bool, torch.dtype]:
        default = (self._is_enabled("cpu"), self._get_dtype("cpu"))
        return getattr(self._host, "state", None) or default

    def set_enabled(self, *args: Any) -> None:
        """`torch.set_autocast_enabled(device_type, enabled)`; without a device type CUDA's."""
        device, enabled = args if len(args) == 2 else ("cuda", args[0])
        if device == "cpu":
            self._host.state = (enabled, self._host_state()[1])
        else:
            if device == "cuda":
                self._host.state = self._host_state()
            self._set_enabled(device, enabled)
        self._couple()

    def set_dtype(self, device: str, dtype: torch.dtype) -> None:
        """`torch.set_autocast_dtype`."""
        if device == "cpu":
            self._host.state = (self._host_state()[0], dtype)
        else:
            if device == "cuda":
                self._host.state = self._host_state()
            self._set_dtype(device, dtype)
        self._couple()

    def is_enabled(self, device: str = "cuda") -> bool:
        """`torch.is_autocast_enabled`."""
        return self._host_state()[0] if device == "cpu" else self._is_enabled(device)

    def get_dtype(self, device: str) -> torch.dtype:
        """`torch.get_autocast_dtype`."""
        return self._host_state()[1] if device == "cpu" else self._get_dtype(device)

    def _couple(self) -> None:
        on, dtype = self._host_state()
        if self._is_enabled("cuda"):
            on, dtype = True, self._get_dtype("cuda")
            if self._library is None:
                self._register()
        self._set_dtype("cpu", dtype)
        self._set_enabled("cpu", on)
        self._gpu.watch.cuda_autocast = self._is_enabled("cuda")
        self._gpu.watch.autocasts = registered_for_autocast() if on else None

    def _register(self) -> None:
        self._library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        taken = registered_for_autocast()
        for names, make in (
            (_LOWER, self._lower),
            (_FLOAT32, self._float32),
            (_FLOAT32_UNLESS_ASKED, self._float32_unless_asked),
            (_PROMOTE, self._promote),
            (_HOST_ONLY, self._keep),
        ):
            for name in names:
                packet = getattr(torch.ops.aten, name.split(".")[0], None)
                overload = getattr(packet, name.split(".")[1] if "." in name else "default", None)
                if overload is not None and (f"aten::{name}" not in taken or names is _HOST_ONLY):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that a kernel is overridden
                        self._library.impl(name, self._kernel(overload, make), "AutocastCPU")

    def _kernel(self, op: Any, change: Callable[..., Any]) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self._keys):
                if self._gpu.watch.cuda_autocast:  # the thread's own state is hidden inside a dispatch mode
                    args, kwargs = change(op, args, kwargs)
                elif change == self._keep:
                    args, kwargs = self._float32(op, args, kwargs)
                return op(*args, **kwargs)

        return kernel

    def _keep(self, op: Any, args: Any, kwargs: Any) -> Any:
        return args, kwargs

    def _lower(self, op: Any, args: Any, kwargs: Any) -> Any:
        return _cast((args, kwargs), self._get_dtype("cuda"), (torch.float32, *_HALVES))

    def _float32(self, op: Any, args: Any, kwargs: Any) -> Any:
        return _cast((args, kwargs), torch.float32, _HALVES)

    def _float32_unless_asked(self, op: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("dtype") is None and args[0].dtype in _HALVES:
            takes = next(i for i, a in enumerate(op._schema.arguments) if a.name == "dtype")
            if takes < len(args):
                args = (*args[:takes], torch.float32, *args[takes + 1 :])
            else:
                kwargs = {**kwargs, "dtype": torch.float32}
        return args, kwargs

    def _promote(self, op: Any, args: Any, kwargs: Any) -> Any:
        seen: list[torch.dtype] = []
        map_tensors((args, kwargs), lambda t: seen.append(t.dtype))
        widest = torch.float32 if torch.float32 in seen else self._get_dtype("cuda")
        return _cast((args, kwargs), widest, (torch.float32, *_HALVES))


def _cast(value: Any, dtype: torch.dtype, eligible: tuple[torch.dtype, ...]) -> Any:
    return map_tensors(value, lambda t: t.to(dtype) if t.dtype in eligible and t.dtype is not dtype else t)
