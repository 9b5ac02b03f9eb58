"""The memory in which a worker's KV lies, and the path between it and the fabric."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.direct_path import DirectPath
from engine.host_mirror import HostMirror
from engine.kv_cache import allocate_kv, kv_tensor
from engine.kv_path import KVPath
from engine.memory_plan import MemoryPlan
from kv_transfer.cuda_device import CudaDevice, CudaMemory
from kv_transfer.cuda_driver import LIBRARY, CudaDriver
from kv_transfer.errors import TransferError
from kv_transfer.memory import KVMemory
from runtime.log import get_logger
from runtime.sizes import format_bytes
from wire.kv import KVLayout


@dataclass(frozen=True, slots=True)
class Pool:
    """memory: what the fabric reads and writes; kv: what the engine computes in, over the same
    bytes unless `path` copies between them. allocate: memory of the fabric's kind, for probes."""

    memory: KVMemory
    kv: Tensor
    path: KVPath | None = None
    allocate: Callable[[int], KVMemory] = KVMemory.allocate


def open_pool(
    plan: MemoryPlan,
    device: torch.device,
    device_path: str,
    stack: contextlib.ExitStack,
    *,
    library: str = LIBRARY,
) -> Pool:
    """Closes with the stack. library: the GPU driver's.

    A direct path that this host does not allow is a mirror instead, with a warning here and a
    counted fallback at every pull. Raises ValueError for a direct path without a GPU, OSError
    where host memory cannot be had or pinned.
    """
    if device_path == "direct":
        if device.type != "cuda":
            raise ValueError(f"kv_device_path direct needs a GPU; the model computes on {device}")
        try:
            memory = _device_memory(plan, device, library)
        except TransferError as error:
            mirror = format_bytes(plan.kv_bytes)
            get_logger("worker").warning(
                "kv path fell back", wanted="direct", to="host", reason=str(error), mirror=mirror
            )
        else:
            return direct_pool(memory, device_view(memory, plan.layout, device), stack)
    return _host_pool(plan, device, stack)


def direct_pool(memory: CudaMemory, kv: Tensor, stack: contextlib.ExitStack) -> Pool:
    """kv: the pool's bytes as the engine sees them."""
    stack.callback(memory.close)
    path = DirectPath(kv.device, memory.fence)
    stack.callback(path.close)
    return Pool(memory, kv, path, memory.sibling)


def device_view(memory: CudaMemory, layout: KVLayout, device: torch.device) -> Tensor:
    """A GPU's pool as a KV cache; no byte is copied."""
    return kv_tensor(torch.as_tensor(_CudaArray(memory), device=device), layout)


def _host_pool(plan: MemoryPlan, device: torch.device, stack: contextlib.ExitStack) -> Pool:
    memory = KVMemory.allocate(plan.kv_bytes)
    stack.callback(memory.close)
    host_kv = kv_tensor(memory.buffer, plan.layout)
    if device.type == "cpu":
        return Pool(memory, host_kv)
    device_kv = allocate_kv(plan.layout, device)
    mirror = HostMirror(device_kv, host_kv)
    stack.callback(mirror.close)
    return Pool(memory, device_kv, mirror)


def _device_memory(plan: MemoryPlan, device: torch.device, library: str) -> CudaMemory:
    """Raises TransferError where there is no driver, no room, or no handle for other processes."""
    torch.cuda.empty_cache()  # the driver cannot take what torch holds back
    index = torch.cuda.current_device() if device.index is None else device.index
    memory = CudaDevice(CudaDriver(library), index).allocate(plan.kv_bytes)
    try:
        memory.export()
    except TransferError:
        memory.close()
        raise
    return memory


class _CudaArray:
    """The interface by which torch views memory that is not its own."""

    def __init__(self, memory: CudaMemory) -> None:
        self.__cuda_array_interface__ = {
            "shape": (memory.num_bytes,),
            "typestr": "|u1",
            "data": (memory.address, False),
            "strides": None,
            "version": 3,
        }
