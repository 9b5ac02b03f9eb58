"""Kernels that follow each other closely: one starts while the one before it still ends.

A launch and the first loads of a decode step's small kernels take about as long as their work.
With programmatic dependent launch (CUDA programming guide, section 4.5) the next kernel's programs
are in place, and their weights are loaded, when that one ends. Every program of a chained kernel
waits before it reads or writes anything that another kernel of the step touches, so each kernel
follows all before it. Nothing writes weights while a step runs: they are read before the wait.
"""

import functools
from typing import TypedDict

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


class ChainOptions(TypedDict, total=False):
    chained: bool
    launch_pdl: bool


@triton.jit
def wait_for_inputs(chained: tl.constexpr):
    """Until the kernel before has ended; then the kernel after may take its places."""
    if chained:
        gdc_wait()
        gdc_launch_dependents()


@functools.cache
def chain_options(device: torch.device) -> ChainOptions:
    """How a chained kernel is launched; GPUs before Hopper and the interpreter know no chain."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 9:
        return {"chained": False}
    return {"chained": True, "launch_pdl": True}
