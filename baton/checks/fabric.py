"""The transports of KV blocks, and why each is or is not usable on this host."""

import os
from collections.abc import Iterator
from pathlib import Path

from baton.checks.check import Check, State
from kv_transfer.errors import TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transports.interfaces import ALL_DEVICES, rdma_devices
from kv_transfer.transports.nixl_agent import NixlAgent, load_bindings
from kv_transfer.transports.ucx_port import find_ucx

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_PROBE_BYTES = 4096


def check_fabric() -> Iterator[Check]:
    """In the order in which the automatic choice prefers them for a source on another host."""
    devices = rdma_devices()
    yield _nixl(devices)
    yield Check("transport tcp", State.OK, "built in; automatic between hosts without RDMA")
    yield _shm()
    yield _ucx()


def _nixl(devices: tuple[str, ...]) -> Check:
    name = "transport nixl"
    lacking = State.WARNING if devices else State.ABSENT
    try:
        bindings = load_bindings()
        memory = KVMemory.allocate(_PROBE_BYTES, shared=False)
        try:
            NixlAgent(bindings, "doctor", memory, ALL_DEVICES, serves=False).close()
        finally:
            memory.close()
    except TransferError as error:
        return Check(name, lacking, f"{error}; pip install --no-deps nixl-cu12")
    if devices:
        detail = f"automatic between hosts: RDMA ports {', '.join(devices)}"
        return Check(name, State.OK, detail)
    return Check(name, State.OK, f"only when forced, on one host: no RDMA device; {_cma()}")


def _cma() -> str:
    """Whether another process's memory can be read, which reads on one host need."""
    try:
        scope = _PTRACE_SCOPE.read_text().strip()
    except OSError:
        scope = "0"
    if scope == "0" or os.geteuid() == 0:
        return "CMA is allowed"
    return f"CMA is refused by kernel.yama.ptrace_scope={scope}"


def _shm() -> Check:
    try:
        memory = KVMemory.allocate(_PROBE_BYTES)
        os.close(memory.open_read_only())
        memory.close()
    except (OSError, AttributeError) as error:
        return Check("transport shm", State.WARNING, f"KV travels over TCP: {error}")
    return Check("transport shm", State.OK, "automatic between processes of this host")


def _ucx() -> Check:
    name = "transport ucx"
    try:
        open_port = find_ucx()
        open_port(ALL_DEVICES, b"").close()
    except TransferError as error:
        return Check(name, State.ABSENT, f"{error}; pip install ucxx-cu12")
    return Check(name, State.OK, "only when forced")
