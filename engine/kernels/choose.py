"""Which kernel set a device gets."""

import logging
from collections.abc import Callable

import torch

from engine.kernels.block_copies import PLAIN_COPIES, BlockCopies
from engine.kernels.cpu import CpuKernels
from engine.kernels.cpu_build import KernelBuildError
from engine.kernels.kernel_set import KernelSet
from engine.kernels.reference import ReferenceKernels

log = logging.getLogger(__name__)


def _triton() -> KernelSet:
    from engine.kernels.triton_kernels import TritonKernels

    return TritonKernels()


KERNEL_SETS: dict[str, Callable[[], KernelSet]] = {
    "reference": ReferenceKernels,
    "cpu": CpuKernels,
    "triton": _triton,
}
FASTEST = {"cpu": "cpu", "cuda": "triton"}  # by the device's type


def kernel_set(name: str, device: torch.device) -> KernelSet:
    """The set called `name`; `auto` takes the device's fastest one that works on this host.

    Raises KernelBuildError when a set asked for by its name cannot be built.
    """
    if name != "auto":
        return KERNEL_SETS[name]()
    try:
        return KERNEL_SETS[FASTEST.get(device.type, "reference")]()
    except (KernelBuildError, ImportError) as error:
        log.warning("serving with plain torch operators, several times slower: %s", error)
        return ReferenceKernels()


def block_copies(device: torch.device) -> BlockCopies:
    """How whole blocks are packed and unpacked on a device: by the fastest way that it has."""
    if device.type == "cuda":
        from engine.kernels.triton_kernels.gather import gather_blocks, scatter_blocks

        return BlockCopies(gather_blocks, scatter_blocks)
    return PLAIN_COPIES
