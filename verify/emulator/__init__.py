"""A CUDA device that is not there, for programs with CUDA graphs on a machine without a GPU.

`install()` gives the program a GPU: `device="cuda"`, streams, generators and `torch.cuda.CUDAGraph` work on
CPU tensors that carry a logical device. Capture records and runs nothing observable, replay runs the record
on the recorded memory, and what CUDA refuses is refused in CUDA's words. It needs torch and the standard
library only.

What it cannot show: races between streams, the numbers Philox draws, kernels chosen by shape, timings; work
done by extensions on raw pointers. While a dispatch mode is on, torch itself computes a few things another
way: the gradients of `prod` and `cumprod` (so their waits for the device are not seen) and `svdvals` (other
last bits).
"""

from .install import Emulator, install

__all__ = ["Emulator", "install"]
