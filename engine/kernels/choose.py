"""Which kernel set a device gets."""

from collections.abc import Callable

import torch

from engine.kernels.kernel_set import KernelSet
from engine.kernels.reference import ReferenceKernels

KERNEL_SETS: dict[str, Callable[[], KernelSet]] = {
    "reference": ReferenceKernels,
}


def kernel_set(name: str, device: torch.device) -> KernelSet:
    """The set called `name`, or the fastest one for the device when the name is `auto`."""
    return KERNEL_SETS["reference" if name == "auto" else name]()
