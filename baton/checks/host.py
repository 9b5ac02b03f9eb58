"""The machine: interpreter, processor, memory, shared memory."""

import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from baton.checks.check import Check, State
from runtime.sizes import format_bytes

_MIN_PYTHON = (3, 11)
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # x86 flags that operators make use of
_MIN_SHM_BYTES = 1 << 30


def check_host() -> Iterator[Check]:
    yield _python()
    yield _processor()
    yield _memory()
    yield _shared_memory()
    yield _memfd()
    yield _loopback()


def processor_name() -> str:
    """The processor's model name as the kernel tells it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_features() -> tuple[str, ...]:
    """The vector extensions that the operators can use."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            have = set(line.partition(":")[2].split())
            return tuple(feature for feature in _FEATURES if feature in have)
    return ()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _python() -> Check:
    state = State.OK if sys.version_info >= _MIN_PYTHON else State.FAILED
    return Check("python", state, f"{platform.python_version()} at {sys.executable}")


def _processor() -> Check:
    features = processor_features()
    fast = "avx512_bf16" in features or platform.machine() != "x86_64"
    detail = f"{processor_name()}, {os.cpu_count()} cores; {', '.join(features) or 'no AVX'}"
    return Check("processor", State.OK if fast else State.WARNING, detail)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.available)} available of {format_bytes(memory.total)}"
    return Check("memory", State.OK, detail)


def _shared_memory() -> Check:
    try:
        usage = psutil.disk_usage("/dev/shm")
    except OSError:
        return Check("/dev/shm", State.ABSENT, "not mounted; KV memory uses memfd and needs it not")
    state = State.OK if usage.free >= _MIN_SHM_BYTES else State.WARNING
    return Check("/dev/shm", state, f"{format_bytes(usage.free)} free")


def _memfd() -> Check:
    """KV pools live in memfd memory, which a worker on the same host maps."""
    if not hasattr(os, "memfd_create"):
        return Check("memfd", State.WARNING, "not on this system: KV travels over TCP")
    try:
        descriptor = os.memfd_create("baton-doctor")
        os.close(descriptor)
    except OSError as error:
        return Check("memfd", State.WARNING, f"{error.strerror}: KV travels over TCP")
    return Check("memfd", State.OK, "processes of this host can share KV memory (transport shm)")


def _loopback() -> Check:
    """A byte through a TCP connection of this host, which every process of a cluster needs."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), 2.0) as client,
        ):
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x")
                accepted.recv(1)
    except OSError as error:
        return Check("loopback", State.FAILED, f"no TCP connection on 127.0.0.1: {error.strerror}")
    return Check("loopback", State.OK, "TCP on 127.0.0.1")
