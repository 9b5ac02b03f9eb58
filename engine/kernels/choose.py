"""Which kernel set a device gets."""

import logging
from collections.abc import Callable

import torch

from engine.kernels.cpu import CpuKernels
from engine.kernels.cpu_build import KernelBuildError
from engine.kernels.kernel_set import KernelSet
from engine.kernels.reference import ReferenceKernels

log = logging.getLogger(__name__)

KERNEL_SETS: dict[str, Callable[[], KernelSet]] = {
    "reference": ReferenceKernels,
    "cpu": CpuKernels,
}


def kernel_set(name: str, device: torch.device) -> KernelSet:
    """The set called `name`; `auto` takes the device's fastest one that works on this host.

    Raises KernelBuildError when a set asked for by its name cannot be built.
    """
    if name != "auto":
        return KERNEL_SETS[name]()
    if device.type != "cpu":
        return ReferenceKernels()
    try:
        return CpuKernels()
    except KernelBuildError as error:
        log.warning("serving with plain torch operators, several times slower: %s", error)
        return ReferenceKernels()
