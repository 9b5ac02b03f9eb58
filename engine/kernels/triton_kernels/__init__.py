"""The operators as Triton kernels for NVIDIA GPUs; their tests run in Triton's interpreter."""

from engine.kernels.triton_kernels.kernel_set import TritonKernels

__all__ = ["TritonKernels"]
