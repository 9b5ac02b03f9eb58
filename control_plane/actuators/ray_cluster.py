"""Joining a Ray cluster, or starting one on this host, and leaving it."""

import asyncio
import functools
import signal
import threading

import ray

from control_plane.actuators.actuator import ActuatorRefused
from runtime.clock import Clock

_CONNECT_S = 5.0
_POLL_S = 0.5


async def join(address: str, namespace: str, clock: Clock, wait_s: float) -> str:
    """As `connect`, for a cluster that may still be starting: it and its first node that can hold
    a worker have wait_s to be there; without such a node after that, it is for the caller to say
    what is missing. Raises ActuatorRefused.
    """
    deadline_s = clock.now() + wait_s
    while True:
        try:
            host = await connect(address, namespace)
            break
        except ActuatorRefused:
            if clock.now() >= deadline_s:
                raise
        await asyncio.sleep(_POLL_S)
    while not await asyncio.to_thread(_can_hold_workers) and clock.now() < deadline_s:
        await asyncio.sleep(_POLL_S)
    return host


def _can_hold_workers() -> bool:
    """Whether a node has any processor to give: a head often has none."""
    offered = ray.cluster_resources()
    return bool(offered.get("CPU", 0.0) > 0.0 or offered.get("GPU", 0.0) > 0.0)


async def connect(address: str, namespace: str) -> str:
    """Joins the Ray cluster at address, or starts one on this host for an empty one; gives this
    node's address. Raises ActuatorRefused.

    A cluster with token authentication takes the token from RAY_AUTH_TOKEN or its file.
    """
    if address not in ("", "auto"):
        await _check_listens(address)
    settings: dict[str, object] = {"address": address} if address else {"include_dashboard": False}
    start = functools.partial(
        ray.init, namespace=namespace, log_to_driver=False, logging_level="ERROR", **settings
    )
    try:
        await asyncio.to_thread(start)
        _take_signals_back()
        return str(ray.util.get_node_ip_address())
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"at {address}" if address else "on this host"
        raise ActuatorRefused(f"no Ray cluster {where}: {error}") from error


async def disconnect() -> None:
    """Leaves the cluster; one that `connect` started ends."""
    await asyncio.to_thread(ray.shutdown)


def _take_signals_back() -> None:
    """Ray puts a handler of its own before ours, which aborts the process 3 s after a SIGTERM,
    in the middle of a drain."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


async def _check_listens(address: str) -> None:
    """Ray ends the whole process, after a minute, where nobody listens. Raises ActuatorRefused."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise ActuatorRefused(f"{address!r} is no address of a Ray cluster, HOST:PORT or auto")
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError, OverflowError) as error:
        raise ActuatorRefused(f"no Ray cluster at {address}: {error}") from error
    writer.close()
