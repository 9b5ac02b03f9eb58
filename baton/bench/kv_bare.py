"""What the fabric is measured against: the same bytes with nothing around them."""

import ctypes
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from baton.bench.kv_lists import POOL, BlockList, runs
from kv_transfer.memory import KVMemory
from kv_transfer.transports.interfaces import ALL_DEVICES
from kv_transfer.transports.nixl_agent import load_bindings
from kv_transfer.transports.staging import Staging
from kv_transfer.transports.ucx_port import UcxPort, UcxRequest, find_ucx

_MAX_VIEWS = 256
_TAG = 1

Read = Callable[[int], None]
"""Moves list `number`; returns when its bytes are there."""


def memcpy(source: KVMemory, target: KVMemory, lists: list[BlockList]) -> Read:
    """memmove in one process, neighbours joined beforehand."""
    copies = [_joined(blocks, source.address, target.address) for blocks in lists]

    def read(number: int) -> None:
        for to, start, size in copies[number]:
            ctypes.memmove(to, start, size)

    return read


def _joined(blocks: BlockList, source: int, target: int) -> list[tuple[int, int, int]]:
    size = POOL.region_bytes
    if len(runs(blocks.source)) == 1:
        return [(target, source, blocks.num_bytes)]
    pairs = zip(blocks.source, blocks.target, strict=True)
    return [(target + there * size, source + here * size, size) for here, there in pairs]


def send_all(sock: socket.socket, views: deque[memoryview]) -> None:
    """Blocking; many views a call."""
    _move(views, lambda head: sock.sendmsg(head))


def receive_all(sock: socket.socket, views: deque[memoryview]) -> None:
    """Blocking; many views a call."""
    _move(views, lambda head: sock.recvmsg_into(head)[0])


def _move(views: deque[memoryview], call: Callable[[list[memoryview]], int]) -> None:
    while views:
        num_bytes = call([views[at] for at in range(min(len(views), _MAX_VIEWS))])
        while num_bytes:
            first = views.popleft()
            if first.nbytes > num_bytes:
                views.appendleft(first[num_bytes:])
                break
            num_bytes -= first.nbytes


class BareNixl:
    """An agent and a registered pool, with prepared descriptors of every block."""

    def __init__(self, memory: KVMemory, *, serves: bool) -> None:
        self._bindings: Any = load_bindings()
        self._memory = memory
        config = self._bindings.nixlAgentConfig()
        config.useProgThread = serves
        config.pthrDelay = 1000
        self._agent = self._bindings.nixlAgent(f"bare-{time.monotonic_ns()}", config)
        self._agent.createBackend("UCX", {})
        row = (memory.address, memory.num_bytes, 0, "")
        pool = self._bindings.nixlRegDList(self._bindings.DRAM_SEG, [row])
        self._agent.registerMem(pool, [])
        self.metadata = bytes(self._agent.getLocalMD())

    def reader(self, metadata: bytes, address: int, lists: list[BlockList]) -> Read:
        """Reads from the agent of this metadata, with indices prepared beforehand."""
        agent, bindings = self._agent, self._bindings
        peer = agent.loadRemoteMD(metadata).decode()
        local = self._table(bindings.NIXL_INIT_AGENT, self._memory.address)
        remote = self._table(peer, address)
        indices = [
            (np.array(blocks.target, np.int32), np.array(blocks.source, np.int32))
            for blocks in lists
        ]

        def read(number: int) -> None:
            mine, theirs = indices[number]
            handle = agent.makeXferReq(bindings.NIXL_READ, local, mine, remote, theirs, "", [])
            status = agent.postXferReq(handle, "")
            while status == bindings.NIXL_IN_PROG:
                status = agent.getXferStatus(handle)
            agent.releaseXferReq(handle)

        return read

    def _table(self, owner: str, address: int) -> int:
        size = POOL.region_bytes
        row = np.array([[address, size, 0, size, POOL.num_blocks]], np.uint64)
        return int(self._agent.prepXferDlist(owner, self._bindings.DRAM_SEG, row, []))


class BareUcx:
    """A port that sends or receives one packed message at a time, and polls until it is done."""

    def __init__(
        self, memory: KVMemory, lists: list[list[tuple[int, int]]], peer: bytes = b""
    ) -> None:
        """lists: (offset, bytes) of each run of each list, in this process's pool."""
        self._memory = memory
        self._lists = lists
        self._port: UcxPort = find_ucx()(ALL_DEVICES, peer)
        self.address = self._port.address
        self._sizes = [sum(size for _, size in extents) for extents in lists]
        self._staging = Staging(max(self._sizes))

    def send(self, number: int) -> None:
        extents, num_bytes = self._lists[number], self._sizes[number]
        view = self._whole(number)
        if view is None:
            self._staging.pack(self._memory.address, extents)
            view = self._staging.view(num_bytes)
        self._wait(self._port.send(view, _TAG))

    def receive(self, number: int) -> None:
        extents, num_bytes = self._lists[number], self._sizes[number]
        view = self._whole(number)
        if view is not None:
            self._wait(self._port.receive(view, _TAG))
            return
        self._wait(self._port.receive(self._staging.view(num_bytes), _TAG))
        self._staging.unpack(self._memory.address, extents)

    def _whole(self, number: int) -> memoryview | None:
        """The pool's own memory, where the list is one run: nothing has to be packed."""
        if len(self._lists[number]) > 1:
            return None
        offset, size = self._lists[number][0]
        return self._memory.buffer[offset : offset + size]

    def _wait(self, request: UcxRequest) -> None:
        while not request.is_done():
            self._port.progress()
