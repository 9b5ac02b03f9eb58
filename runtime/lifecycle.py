"""A process's beginning and end: signals, its parent's death, free ports."""

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import uuid
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_OWN_PORTS = range(20_000, 32_000)
_RARELY = 50_000, 20, 100  # the collector's thresholds


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; called inside the running loop."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when `parent_pid` ends: nothing outlives `baton up`.

    Linux only; elsewhere the parent's own clean-up has to do. Exits at once if the parent is gone.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(f"the parent process {parent_pid} is gone")


def collect_rarely() -> None:
    """Has the garbage collector look less often, and never at what is there already: a process that
    keeps thousands of streams, tasks and records walks all of them in vain each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_RARELY)


@contextlib.contextmanager
def collecting_rarely() -> Iterator[None]:
    """The same for as long as the block lasts."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago, below those that the kernel hands to connections
    (from 32768 on), so that none of these takes it before it is listened on."""
    for port in random.SystemRandom().sample(_OWN_PORTS, len(_OWN_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise OSError(f"no port of {_OWN_PORTS.start} to {_OWN_PORTS.stop - 1} is free on {host}")


def check_port_free(host: str, port: int, what: str) -> None:
    """Raises OSError naming the port and its use when something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"the {what} port {host}:{port} is not free: {error.strerror}") from error


def new_id(prefix: str) -> str:
    """A random id such as cmpl-3f2a..., unique among all processes."""
    return f"{prefix}-{uuid.uuid4().hex}"
