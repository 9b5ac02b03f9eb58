"""How long a server's event loop lets a small page wait, seen from a process of its own."""

import http.client
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

_EVERY_S = 0.02


@dataclass(slots=True)
class Stalls:
    longest_ms: float = 0.0


@contextmanager
def watched_stalls(port: int) -> Iterator[Stalls]:
    """Meanwhile /livez is asked for; the longest answer is known at the end."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_ask, args=(other, port))
    process.start()
    pipe.recv()
    found = Stalls()
    try:
        yield found
    finally:
        pipe.send("stop")
        found.longest_ms = pipe.recv()
        process.join()


def _ask(pipe: Connection, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    pipe.send("ready")
    longest_s = 0.0
    while not pipe.poll(_EVERY_S):
        begun_s = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        longest_s = max(longest_s, time.perf_counter() - begun_s)
    pipe.send(1e3 * longest_s)
