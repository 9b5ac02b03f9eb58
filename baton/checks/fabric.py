"""The transports of KV blocks, and why each is or is not usable on this host."""

import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from baton.checks.check import Check, State
from kv_transfer.cuda_device import CudaDevice, CudaMemory
from kv_transfer.cuda_driver import LIBRARY, CudaDriver
from kv_transfer.errors import TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transports.interfaces import ALL_DEVICES, rdma_devices
from kv_transfer.transports.nixl_agent import NixlAgent, load_bindings
from kv_transfer.transports.ucx_port import find_ucx

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_PROBE_BYTES = 4096
_DEVICE_PATH = "transport cuda_ipc"
_MIRRORED = "a GPU's KV travels through a mirror in host memory"


def check_fabric() -> Iterator[Check]:
    """In the order in which the automatic choice prefers them for a source on another host."""
    devices = rdma_devices()
    yield _nixl(devices)
    yield Check("transport tcp", State.OK, "built in; automatic between hosts without RDMA")
    yield _shm()
    yield _ucx()
    yield from check_device_paths()


def check_device_paths(library: str = LIBRARY) -> Iterator[Check]:
    """What --kv-device-path direct would take. library: the GPU driver's."""
    try:
        driver = CudaDriver(library)
        pools = [_probe_pool(driver, index) for index in range(driver.num_devices())]
    except TransferError as error:
        yield Check(_DEVICE_PATH, State.ABSENT, f"{error}; {_MIRRORED}")
        return
    if not pools:
        yield Check(_DEVICE_PATH, State.ABSENT, f"the driver has no GPU; {_MIRRORED}")
        return
    yield _cuda_ipc(driver, len(pools))
    yield _nixl_on_gpu(pools[0])


def _probe_pool(driver: CudaDriver, index: int) -> CudaMemory:
    """Exported, so it is given back when this process ends."""
    pool = CudaDevice(driver, index).allocate(_PROBE_BYTES)
    pool.export()
    return pool


def _cuda_ipc(driver: CudaDriver, num_gpus: int) -> Check:
    apart = [
        f"{one} and {other}"
        for one, other in combinations(range(num_gpus), 2)
        if not (driver.reaches(one, other) and driver.reaches(other, one))
    ]
    if apart:
        detail = f"these GPUs do not read each other's memory: {', '.join(apart)}; {_MIRRORED}"
        return Check(_DEVICE_PATH, State.WARNING, detail)
    return Check(_DEVICE_PATH, State.OK, "with --kv-device-path direct, on one host")


def _nixl_on_gpu(pool: CudaMemory) -> Check:
    name = "transport nixl, GPU"
    try:
        NixlAgent(load_bindings(), "doctor", pool, ALL_DEVICES, serves=False).close()
    except TransferError as error:
        return Check(name, State.ABSENT, f"{error}; {_MIRRORED}")
    return Check(name, State.OK, "with --kv-device-path direct, between hosts with RDMA")


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
