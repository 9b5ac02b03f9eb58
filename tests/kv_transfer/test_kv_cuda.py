"""The device path by NVIDIA's driver, whose part a library compiled from its header plays here.

It computes on the host (host_cuda.c): what is tested is every call's name, signature and order.
"""

import ctypes
import importlib.util
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from structlog.testing import capture_logs

from baton.checks.check import State
from baton.checks.fabric import check_device_paths
from kv_transfer.channel import wait_readable
from kv_transfer.config import TransferConfig
from kv_transfer.cuda_device import CudaDevice, CudaMemory
from kv_transfer.cuda_driver import CudaDriver
from kv_transfer.device_twin import TwinMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.transports.interfaces import ALL_DEVICES
from kv_transfer.transports.nixl_agent import NixlAgent, load_bindings

SOURCE = [3, 4, 5, 40, 41, 9, 8, 79, 0]
TARGET = [1, 2, 3, 4, 63, 62, 20, 21, 0]
NUM_TOKENS = 16 * 9
TABLE = np.array([(0, 100, 50), (200, 0, 100), (1000, 1200, 24)], np.int64)


@pytest.fixture
def library(host_cuda: Callable[..., str]) -> ctypes.CDLL:
    """What a test asks of the host's part, beside the driver's own calls."""
    return ctypes.CDLL(host_cuda())


@pytest.fixture
def gpu(host_cuda: Callable[..., str], nothing_is_left: None) -> Iterator[CudaDevice]:
    device = CudaDevice(CudaDriver(host_cuda()), 0)
    device.bind()
    yield device


@pytest.fixture
def pool(gpu: CudaDevice) -> Iterator[CudaMemory]:
    memory = gpu.allocate(4096)
    yield memory
    memory.close()


def bytes_of(memory: CudaMemory) -> np.ndarray:
    """The host's view of what is a device's memory to everybody else."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * memory.num_bytes).from_address(memory.address))


def test_a_pool_is_zeroed_and_its_slices_are_read_by_copying(pool):
    assert pool[0:4096] == bytes(4096)
    bytes_of(pool)[10:13] = (1, 2, 3)
    assert pool.readable[9:14] == bytes((0, 1, 2, 3, 0))
    assert pool[5:5] == b""
    assert (len(pool.buffer), pool.is_shared, pool.device) == (0, False, 0)


def test_an_exported_pool_is_opened_copied_from_and_closed(gpu, pool):
    source = gpu.allocate(4096)
    bytes_of(source)[:] = np.arange(4096) % 251
    opened = pool.open_peer(source.export(), 4096)
    assert opened.address != source.address
    stream = pool.stream()
    numbers = [stream.copy(opened.address, TABLE), stream.copy(opened.address, TABLE + (1, 1, 0))]
    assert numbers == [1, 2]
    stream.wait(2)
    assert stream.num_done() == 2
    want = np.zeros(4096, np.uint8)
    for shift in (0, 1):
        for start, to, size in TABLE:
            want[to + shift : to + shift + size] = bytes_of(source)[start + shift :][:size]
    assert np.array_equal(bytes_of(pool), want)
    stream.close()
    opened.close()
    source.close()
    gpu.driver.call("cuMemFree_v2", source.address)  # as the end of the process would


@pytest.mark.parametrize("macros", [(), ("WITHOUT_BATCHES",)])
def test_a_table_is_one_call_where_the_driver_has_it_and_several_where_not(host_cuda, macros):
    path = host_cuda(*macros)
    device = CudaDevice(CudaDriver(path), 0)
    memory = device.allocate(4096)
    before = ctypes.CDLL(path).host_cuda_batches()
    stream = memory.stream()
    stream.wait(stream.copy(memory.address, TABLE))
    stream.close()
    memory.close()
    assert device.driver.copies_batches is not bool(macros)
    assert ctypes.CDLL(path).host_cuda_batches() - before == (0 if macros else 1)


def test_a_driver_that_refuses_batches_copies_one_by_one_and_says_so(host_cuda):
    device = CudaDevice(CudaDriver(host_cuda("REFUSES_BATCHES")), 0)
    memory = device.allocate(4096)
    bytes_of(memory)[200:300] = 7
    stream = memory.stream()
    with capture_logs() as lines:
        stream.wait(stream.copy(memory.address, TABLE))
        stream.wait(stream.copy(memory.address, TABLE))
    stream.close()
    assert memory[0:100] == bytes([7] * 100)
    assert [line["event"] for line in lines] == ["kv copies go one by one"]
    memory.close()


def test_copies_wait_for_what_the_device_was_given_before_the_fence(gpu, pool, library):
    compute = gpu.driver.new_stream()
    library.host_cuda_hold(ctypes.c_void_p(compute))
    gpu.driver.call("cuMemsetD8Async", pool.address, 9, 4096, compute)
    pool.fence(compute)
    assert not pool.is_settled()
    stream = pool.stream()
    bytes_of(pool)[200:300] = 5
    number = stream.copy(pool.address, TABLE)
    assert stream.num_done() == 0
    library.host_cuda_go_on()
    stream.wait(number)
    assert pool.is_settled()
    assert pool[0:4096] == bytes([9] * 4096)  # the 5s were overwritten before they were copied
    stream.close()
    gpu.driver.call("cuStreamDestroy_v2", compute)


def test_the_end_of_a_copy_wakes_who_waits_on_the_descriptor(gpu, pool, library, until):
    compute = gpu.driver.new_stream()
    library.host_cuda_hold(ctypes.c_void_p(compute))
    pool.fence(compute)
    stream = pool.stream()
    stream.copy(pool.address, TABLE)
    told = threading.Event()

    def wait() -> None:
        wait_readable([stream.fd], 30.0)
        told.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not told.is_set()
    library.host_cuda_go_on()
    waiter.join(30.0)
    assert told.is_set()
    assert stream.num_done() == 1
    stream.close()
    gpu.driver.call("cuStreamDestroy_v2", compute)


def test_a_device_that_fails_under_way_is_told_and_takes_nothing_back(gpu, library):
    pool = gpu.allocate(4096)
    opened = pool.open_peer(pool.export(), 4096)
    stream, compute = pool.stream(), gpu.driver.new_stream()
    library.host_cuda_hold(ctypes.c_void_p(compute))
    pool.fence(compute)
    number = stream.copy(opened.address, TABLE)
    library.host_cuda_fail(1)
    calls = (
        lambda: stream.wait(number),
        stream.num_done,
        lambda: stream.copy(opened.address, TABLE),
        pool.is_settled,
        lambda: pool[0:1],
    )
    for call in calls:
        with pytest.raises(TransferError, match="CUDA_ERROR"):
            call()
    stream.close()
    opened.close()
    pool.close()
    library.host_cuda_fail(0)
    library.host_cuda_go_on()


@pytest.mark.parametrize("handle", [b"", b"x" * 72, b"1:2:3"])
def test_a_handle_of_something_else_is_refused(pool, handle):
    with pytest.raises(TransferError) as caught:
        pool.open_peer(handle, 4096)
    assert caught.value.reason is FailReason.TRANSPORT


def test_a_pool_smaller_than_said_is_refused(gpu, pool):
    with pytest.raises(TransferError, match="has 4096 bytes, 4097 expected"):
        pool.open_peer(pool.export(), 4097)
    gpu.driver.call("cuMemFree_v2", pool.address)


def test_a_twins_handle_of_another_file_is_refused():
    twin = TwinMemory(4096)
    pid, descriptor, inode = twin.export().split(b":")
    for handle in (b"", b"a:b:c", b":".join((pid, descriptor, b"1")), b"0:0:0"):
        with pytest.raises(TransferError, match="cannot open the source's pool"):
            twin.open_peer(handle, 4096)
    with pytest.raises(TransferError, match="4097 expected"):
        twin.open_peer(b":".join((pid, descriptor, inode)), 4097)
    twin.close()


def test_a_host_without_the_driver_says_so():
    with pytest.raises(TransferError, match="no CUDA driver: "):
        CudaDriver("libno-such-driver.so.1")


def test_a_gpu_that_is_not_there_is_named_by_the_drivers_error(host_cuda):
    with pytest.raises(TransferError, match="cuDeviceGet: CUDA_ERROR_OTHER"):
        CudaDevice(CudaDriver(host_cuda()), 7)


@pytest.mark.skipif(importlib.util.find_spec("nixl_cu12") is None, reason="nixl is not installed")
def test_nixl_refuses_gpu_memory_by_name_where_its_ucx_has_no_cuda(pool):
    with pytest.raises(TransferError, match="for the memory of GPU 0 .is UCX without CUDA"):
        NixlAgent(load_bindings(), "a", pool, ALL_DEVICES, serves=False)


def test_the_doctor_says_what_a_direct_path_would_take(host_cuda, monkeypatch):
    ipc, nixl = check_device_paths(host_cuda())
    assert (ipc.name, ipc.state, nixl.name) == (
        "transport cuda_ipc",
        State.OK,
        "transport nixl, GPU",
    )
    monkeypatch.setattr(CudaDriver, "reaches", lambda driver, one, other: one == other)
    ipc, _ = check_device_paths(host_cuda())
    assert (ipc.state, "0 and 1" in ipc.detail) == (State.WARNING, True)
    (missing,) = check_device_paths("libno-such-driver.so.1")
    assert (missing.state, "no CUDA driver" in missing.detail) == (State.ABSENT, True)


def test_prompts_cross_between_two_gpus_pools_and_every_block_is_compared(
    host_cuda, make_rig, until
):
    devices = iter([CudaDevice(CudaDriver(host_cuda()), index) for index in (0, 1)])
    made: list[CudaMemory] = []

    def allocate(num_bytes: int) -> CudaMemory:
        made.append(next(devices).allocate(num_bytes))
        made[-1].buffer = memoryview(bytes_of(made[-1]))  # for the test's own eyes
        return made[-1]

    config = TransferConfig(piece_bytes=20_000, verify_share=1.0)
    rig = make_rig(transport="cuda_ipc", config=config, allocate=allocate)
    result = rig.pull(rig.publish_whole(1, SOURCE, NUM_TOKENS), TARGET)
    assert (result.ok, result.error, result.transport) == (True, "", "cuda_ipc")
    assert result.num_verified == 9 * rig.source.layout.num_layers
    rig.assert_copied(SOURCE, TARGET)
    until(lambda: rig.released == [1])
