"""The second tier of a worker's prefix cache, as its settings ask for it."""

import contextlib

from torch import Tensor

from engine.host_memory import HostMemory, PlainHostMemory, slots_in
from engine.kernels.choose import block_copies
from engine.staged_host_memory import StagedHostMemory
from profiles.catalog import load_profile, with_host_memory
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.sizes import format_bytes, parse_bytes
from worker.config import WorkerConfig


def host_bytes(config: WorkerConfig) -> int:
    """The tier's size; 0: none, or the profile's. Raises ValueError for what is no size, and
    ProfileError for one that the profile cannot have."""
    num_bytes = parse_bytes(config.host_kv_memory)
    if config.profile:
        with_host_memory(load_profile(config.profile), num_bytes)
    return num_bytes


def host_memory(
    num_bytes: int, kv: Tensor, clock: Clock, stack: contextlib.ExitStack
) -> HostMemory | None:
    """Host memory for blocks of `kv`, the whole pool; None for 0 bytes. It ends with the stack.

    Raises ValueError for a size that holds no block, OSError where memory cannot be pinned for a
    GPU.
    """
    if not num_bytes:
        return None
    num_slots = slots_in(kv, num_bytes)
    memory: HostMemory = (
        PlainHostMemory(kv, num_slots, clock)
        if kv.device.type == "cpu"
        else StagedHostMemory(kv, num_slots, block_copies(kv.device))
    )
    stack.callback(memory.close)
    get_logger("worker").info("host_tier", blocks=num_slots, memory=format_bytes(num_bytes))
    return memory
