"""NIXL's agent as Baton uses it: one registered pool, reads of its regions, an end that fences.

The module is imported only by the factories of kv_transfer.transports.registry.
"""

import gc
import importlib
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kv_transfer.control import Offer
from kv_transfer.device import HOST, DeviceMemory, device_of
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.plan import CopyTable
from runtime.settings import set_library_defaults
from wire.kv import KVLayout

_PACKAGES = ("nixl_cu12", "nixl_cu13")
_PROGRESS_DELAY_US = 2000  # 0, the default of NIXL's own wrapper, burns a core per idle agent

# UCX reads these when a context is made. Without emulation a read over a lane that is not
# one-sided fails loudly; with it, a source can abort when its reader vanishes. Segments of 8 KiB,
# the default, cost a factor of two to five.
_UCX_DEFAULTS = {
    "UCX_PROTO_EMULATION_ENABLE": "n",
    "UCX_TCP_TX_SEG_SIZE": "512k",
    "UCX_TCP_RX_SEG_SIZE": "512k",
    "UCX_LOG_LEVEL": "fatal",
}

Indices = npt.NDArray[np.int32]


class ReadState(Enum):
    """MOVING -> DONE or FAILED."""

    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"


def load_bindings() -> ModuleType:
    """NIXL's native module. Raises TransferError (TRANSPORT) where it is not installed."""
    set_library_defaults(_UCX_DEFAULTS)
    failures = []
    for package in _PACKAGES:
        try:
            return importlib.import_module(f"{package}._bindings")
        except ImportError as error:
            failures.append(f"{package}: {error}")
    raise TransferError(FailReason.TRANSPORT, "NIXL cannot be loaded: " + "; ".join(failures))


@dataclass(frozen=True, slots=True)
class _Pool:
    """One side's pool as NIXL names it. segment: DRAM_SEG, or VRAM_SEG with the GPU's number."""

    segment: Any
    device: int
    address: int

    @classmethod
    def of(cls, bindings: ModuleType, device: int, address: int) -> "_Pool":
        if device == HOST:
            return cls(bindings.DRAM_SEG, 0, address)
        return cls(bindings.VRAM_SEG, device, address)


@dataclass(slots=True, eq=False)
class AgentRead:
    """One posted read; its agent releases it."""

    handle: int
    state: ReadState


class NixlAgent:
    """One agent with one registered pool. Used by one thread, and never across a fork.

    A read that has been posted may write until it is done or failed, or until `close` has
    returned: neither releasing it nor forgetting the peer stops it.
    """

    def __init__(
        self,
        bindings: ModuleType,
        name: str,
        memory: KVMemory,
        devices: str,
        *,
        serves: bool,
    ) -> None:
        """devices: as kv_transfer.transports.interfaces gives them. serves: peers connect to
        this agent, so a thread of its own wakes five hundred times a second for them.

        Raises TransferError (TRANSPORT).
        """
        self._bindings = bindings
        self._errors = _error_types(bindings)
        self._memory = memory
        self._mine = _Pool.of(bindings, device_of(memory), memory.address)
        self._theirs = self._mine
        self._peer = ""
        self._lists: list[int] = []
        self._tables: tuple[int, int] | None = None
        config = bindings.nixlAgentConfig()
        config.useProgThread = serves
        config.pthrDelay = _PROGRESS_DELAY_US
        config.useListenThread = False
        self._agent: Any = None
        if isinstance(memory, DeviceMemory):
            memory.bind()  # UCX looks for the device that its thread is bound to
        try:
            self._agent = bindings.nixlAgent(name, config)
            self._agent.createBackend("UCX", {"ucx_devices": devices} if devices else {})
            self._agent.registerMem(self._pool_descriptors(), [])
        except self._errors as error:
            raise self._failure(f"cannot make a NIXL agent for {_kind(memory)}", error) from error

    def offer(self) -> Offer:
        """How a peer reaches the pool, with addresses and keys. A secret of the cluster's
        members."""
        metadata = bytes(self._agent.getLocalMD())
        memory = self._memory
        return Offer(metadata, memory.address, memory.num_bytes, device_of(memory))

    def meet(self, offer: Offer, mine: KVLayout, theirs: KVLayout) -> None:
        """Prepares reads from the pool that an authenticated peer offers. Raises TransferError
        (TRANSPORT)."""
        try:
            peer = self._agent.loadRemoteMD(offer.metadata)
            self._peer = peer.decode() if isinstance(peer, bytes) else peer
            self._theirs = _Pool.of(self._bindings, offer.device, offer.address)
            local = self._table(self._bindings.NIXL_INIT_AGENT, self._mine, mine)
            remote = self._table(self._peer, self._theirs, theirs)
        except self._errors as error:
            raise self._failure("cannot reach the source's agent", error) from error
        self._tables = (local, remote)

    def read_regions(self, mine: Indices, theirs: Indices) -> AgentRead:
        """Posts a read of whole regions, numbered layer * num_blocks + block; neighbours on both
        sides are joined. Over CMA it is done on return. Raises TransferError (TRANSPORT).
        """
        assert self._tables is not None, "read before meet"
        local, remote = self._tables
        try:
            handle = self._agent.makeXferReq(
                self._bindings.NIXL_READ, local, mine, remote, theirs, "", []
            )
        except self._errors as error:
            raise self._failure("a read is refused", error) from error
        return self._post(handle)

    def read_copies(self, copies: CopyTable) -> AgentRead:
        """Posts a read of any bytes of the peer's pool."""
        table = copies.astype(np.uint64)
        try:
            handle = self._agent.createXferReq(
                self._bindings.NIXL_READ,
                self._descriptors(self._mine, table[:, 1], table[:, 2]),
                self._descriptors(self._theirs, table[:, 0], table[:, 2]),
                self._peer,
                "",
                [],
            )
        except self._errors as error:
            raise self._failure("a read is refused", error) from error
        return self._post(handle)

    def look(self, read: AgentRead) -> ReadState:
        """Progresses the agent and the read; one that has ended is released."""
        if read.state is ReadState.MOVING:
            try:
                status = self._agent.getXferStatus(read.handle)
            except self._errors:
                status = None
            self._settle(read, status)
        return read.state

    def close(self) -> None:
        """The fence: destroys the agent, so nothing is written any more. Safe to call twice.

        References are dropped in the order that the native side asks for.
        """
        agent, self._agent = self._agent, None
        if agent is None:
            return
        for handle in self._lists:
            agent.releasedDlistH(handle)
        self._lists.clear()
        self._tables = None
        del agent
        gc.collect(0)

    def _post(self, handle: int) -> AgentRead:
        read = AgentRead(handle, ReadState.MOVING)
        try:
            status = self._agent.postXferReq(handle, "")
        except self._errors:
            status = None
        self._settle(read, status)
        return read

    def _settle(self, read: AgentRead, status: object) -> None:
        if status == self._bindings.NIXL_IN_PROG:
            return
        is_done = status == self._bindings.NIXL_SUCCESS
        read.state = ReadState.DONE if is_done else ReadState.FAILED
        try:
            self._agent.releaseXferReq(read.handle)
        except self._errors:
            read.state = ReadState.FAILED

    def _table(self, owner: str, pool: _Pool, layout: KVLayout) -> int:
        """Every region of a pool, by number, as one strided row."""
        size = layout.region_bytes
        count = layout.num_layers * layout.num_blocks
        row = np.array([[pool.address, size, pool.device, size, count]], np.uint64)
        handle = int(self._agent.prepXferDlist(owner, pool.segment, row, []))
        self._lists.append(handle)
        return handle

    def _pool_descriptors(self) -> Any:
        mine = self._mine
        row = (mine.address, self._memory.num_bytes, mine.device, "")
        return self._bindings.nixlRegDList(mine.segment, [row])

    def _descriptors(
        self, pool: _Pool, offsets: npt.NDArray[np.uint64], sizes: npt.NDArray[np.uint64]
    ) -> Any:
        starts = offsets + np.uint64(pool.address)
        rows = np.stack([starts, sizes, np.full_like(starts, pool.device)], axis=1)
        return self._bindings.nixlXferDList(pool.segment, np.ascontiguousarray(rows))

    def _failure(self, what: str, error: Exception) -> TransferError:
        return TransferError(FailReason.TRANSPORT, f"{what}: {error}"[:500])


def _kind(memory: KVMemory) -> str:
    device = device_of(memory)
    return "host memory" if device == HOST else f"the memory of GPU {device} (is UCX without CUDA?)"


def _error_types(bindings: ModuleType) -> tuple[type[Exception], ...]:
    """NIXL's errors have no base of their own."""
    kinds = (kind for kind in vars(bindings).values() if isinstance(kind, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))
