"""The floor of a small read over tcp: two processes pass bytes, a blocking socket each."""

import socket
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

from baton.bench.core_pair import hold

_ASK_BYTES = 64
_ANSWER_BYTES = 4096


def round_trip_us(count: int, cores: frozenset[int]) -> float:
    """p50 of `count` requests of 64 bytes that are each answered with 4 KiB, on `cores`."""
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, cores))
    process.start()
    try:
        with socket.create_connection(("127.0.0.1", mine.recv())) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return 1e6 * median(_ask_s(sock) for _ in range(count))
    finally:
        process.join()


def _ask_s(sock: socket.socket) -> float:
    begin_s = time.perf_counter()
    sock.sendall(bytes(_ASK_BYTES))
    left = _ANSWER_BYTES
    while left:
        left -= len(sock.recv(left))
    return time.perf_counter() - begin_s


def _answer(connection: Connection, cores: frozenset[int]) -> None:
    """Until the asking side closes its socket."""
    hold(cores)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection.send(listener.getsockname()[1])
        sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = bytes(_ANSWER_BYTES)
        while sock.recv(_ASK_BYTES):
            sock.sendall(answer)
