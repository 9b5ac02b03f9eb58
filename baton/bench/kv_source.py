"""The source of the fabric's bench, in a process of its own: an exporter, and bare senders."""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from baton.bench.core_pair import hold
from baton.bench.kv_bare import BareNixl, BareUcx, send_all
from baton.bench.kv_lists import LISTS, POOL, SMALL_POOL, runs
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.memory import KVMemory
from runtime.clock import SystemClock
from wire.kv import KVHandle, KVLayout

SECRET = b"bench"
WORKER_ID = "source"
EPOCH = 1


@contextlib.contextmanager
def source_process(transport: str, cores: frozenset[int]) -> Iterator["SourceProcess"]:
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, transport, cores))
    process.start()
    try:
        yield SourceProcess(mine)
    finally:
        mine.send(("end", ()))
        process.join()
        mine.close()


class SourceProcess:
    """What the reader asks of it; each call waits for the answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def publish(self, blocks: tuple[int, ...], is_small: bool, is_complete: bool) -> KVHandle:
        handle = self._ask("publish", blocks, is_small, is_complete)
        assert isinstance(handle, KVHandle)
        return handle

    def abort_all(self) -> None:
        self._ask("abort_all")

    def cpu_s(self) -> float:
        """Processor seconds of the process so far."""
        return float(self._ask("cpu_s"))

    def offer_nixl(self) -> tuple[bytes, int]:
        """Starts a bare agent; its metadata and where its pool is."""
        metadata, address = self._ask("offer_nixl")
        return metadata, address

    def start_sender(self, transport: str, shape: str, address: bytes) -> socket.socket:
        """Starts a bare sender. For each byte on this socket it sends the list of that number: by
        the same socket, or to the UCX port at `address`."""
        return socket.create_connection(self._ask("start_sender", transport, shape, address))

    def _ask(self, name: str, *arguments: object) -> Any:
        self._connection.send((name, arguments))
        return self._connection.recv()


class _Server:
    """The process's side."""

    def __init__(self, transport: str, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._transport = transport
        self._pools: dict[bool, tuple[KVMemory, Exporter]] = {}
        self._next_id = 0
        self._nixl: BareNixl | None = None

    def publish(self, blocks: tuple[int, ...], is_small: bool, is_complete: bool) -> KVHandle:
        _, exporter = self._pool(is_small)
        self._next_id += 1
        num_tokens = POOL.block_size * len(blocks)
        handle = exporter.publish(self._next_id, blocks, num_tokens, 0)
        if is_complete:
            exporter.complete(self._next_id, ())
        return handle

    def abort_all(self) -> None:
        for number in range(self._next_id + 1):
            for _, exporter in self._pools.values():
                exporter.abort(number, "the bench is over")

    def cpu_s(self) -> float:
        return time.process_time()

    def offer_nixl(self) -> tuple[bytes, int]:
        memory = self._pool(False)[0]
        self._nixl = BareNixl(memory, serves=True)
        return self._nixl.metadata, memory.address

    def start_sender(self, transport: str, shape: str, address: bytes) -> tuple[str, int]:
        lists = [runs(blocks.source) for blocks in LISTS[shape]()]
        sender = _BareSender(self._pool(False)[0], lists, transport == "ucx", address)
        self._stack.callback(sender.join)
        sender.start()
        return sender.address

    def _pool(self, is_small: bool) -> tuple[KVMemory, Exporter]:
        if is_small not in self._pools:
            self._pools[is_small] = self._new_pool(SMALL_POOL if is_small else POOL)
        return self._pools[is_small]

    def _new_pool(self, layout: KVLayout) -> tuple[KVMemory, Exporter]:
        memory = KVMemory.allocate(layout.pool_bytes)
        self._stack.callback(memory.close)
        np.frombuffer(memory.buffer, np.uint8)[:] = 1
        exporter = Exporter(
            layout,
            memory,
            WORKER_ID,
            EPOCH,
            SystemClock(),
            SECRET,
            TransferConfig(transport=self._transport),
            on_released=lambda export_id: None,
        )
        exporter.start("127.0.0.1")
        self._stack.callback(exporter.close)
        return memory, exporter


class _BareSender(threading.Thread):
    """Serves one reader, until it closes its socket."""

    def __init__(
        self, memory: KVMemory, lists: list[list[tuple[int, int]]], is_ucx: bool, peer: bytes
    ) -> None:
        super().__init__()
        self._memory = memory
        self._lists = lists
        self._is_ucx = is_ucx
        self._peer = peer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()

    def run(self) -> None:
        sock, _ = self._listener.accept()
        with self._listener, sock:
            send = self._ucx_send() if self._is_ucx else self._socket_send(sock)
            while number := sock.recv(1):
                send(number[0])

    def _ucx_send(self) -> Callable[[int], None]:
        return BareUcx(self._memory, self._lists, self._peer).send

    def _socket_send(self, sock: socket.socket) -> Callable[[int], None]:
        buffer = self._memory.buffer
        views = [[buffer[at : at + size] for at, size in extents] for extents in self._lists]
        return lambda number: send_all(sock, deque(views[number]))


def _serve(connection: Connection, transport: str, cores: frozenset[int]) -> None:
    hold(cores)
    with contextlib.ExitStack() as stack:
        server = _Server(transport, stack)
        while True:
            name, arguments = connection.recv()
            if name == "end":
                return
            connection.send(getattr(server, name)(*arguments))
