"""A process's beginning and end: signals, its parent's death, free ports."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import uuid

_PR_SET_PDEATHSIG = 1


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


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


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
