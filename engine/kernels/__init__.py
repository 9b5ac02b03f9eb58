"""The engine's operators, one set a device kind."""

from engine.kernels.batch_input import BatchInput
from engine.kernels.choose import kernel_set
from engine.kernels.kernel_set import HeadShape, KernelSet, Linear, Weight

__all__ = ["BatchInput", "HeadShape", "KernelSet", "Linear", "Weight", "kernel_set"]
