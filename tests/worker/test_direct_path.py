"""Blocks that the fabric reads where the engine computes them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.direct_path import DirectPath
from kv_transfer.cuda_device import CudaDevice, CudaMemory
from kv_transfer.cuda_driver import CudaDriver
from wire.kv import KVLayout
from worker.pool import device_view

LAYOUT = KVLayout(2, 8, 1, 16, 8, "float32")
PATIENCE_S = 30.0
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
SOME_CYCLES = 200_000_000  # a tenth of a second of a GPU
EXPANDABLE = """
from kv_transfer.cuda_device import CudaDevice
from kv_transfer.cuda_driver import CudaDriver
import torch
torch.zeros(1 << 24, device="cuda")
assert len(CudaDevice(CudaDriver(), 0).allocate(1 << 21).export()) == 72
"""


@pytest.fixture
def pool() -> Iterator[CudaMemory]:
    """On a GPU."""
    torch.cuda.init()
    memory = CudaDevice(CudaDriver(), 0).allocate(LAYOUT.pool_bytes)
    yield memory
    memory.close()


def test_calls_come_in_the_order_of_the_saves_and_fences_are_for_devices_that_queue() -> None:
    fenced: list[int] = []
    path = DirectPath(torch.device("cpu"), fenced.append)
    told: list[int] = []
    for number in range(5):
        path.save((number,), 0, 2, lambda n=number: told.append(n))  # type: ignore[misc]
    done = threading.Event()
    path.after_saves(done.set)
    path.before_pull()
    path.load((1,))
    assert done.wait(PATIENCE_S)
    assert (told, fenced) == ([0, 1, 2, 3, 4], [])
    path.close()
    path.close()


@pytest.mark.gpu
@needs_gpu
def test_torch_sees_the_bytes_that_the_fabric_reads(pool: CudaMemory) -> None:
    kv = device_view(pool, LAYOUT, torch.device("cuda", 0))
    assert (kv.data_ptr(), kv.shape[:2]) == (pool.address, (2, 8))
    assert not kv.any()
    kv[1, 7] = 1.5
    torch.cuda.synchronize()
    end = pool[LAYOUT.pool_bytes - LAYOUT.region_bytes : LAYOUT.pool_bytes]
    assert (np.frombuffer(end, np.float32) == 1.5).all()


@pytest.mark.gpu
@needs_gpu
def test_blocks_are_told_when_the_device_has_computed_them(pool: CudaMemory) -> None:
    device = torch.device("cuda", 0)
    path, told = DirectPath(device, pool.fence), threading.Event()
    torch.cuda._sleep(SOME_CYCLES)  # type: ignore[no-untyped-call]
    computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
    computed.record()
    was_computed: list[bool] = []

    def tell() -> None:
        was_computed.append(computed.query())  # type: ignore[no-untyped-call]
        told.set()

    path.save((0,), 0, 2, tell)
    assert told.wait(PATIENCE_S)
    assert was_computed == [True]
    path.close()


@pytest.mark.gpu
@needs_gpu
def test_copies_into_a_pool_come_behind_what_its_engine_was_given(pool: CudaMemory) -> None:
    device = torch.device("cuda", 0)
    source = pool.sibling(LAYOUT.pool_bytes)
    device_view(source, LAYOUT, device).fill_(3.0)
    torch.cuda.synchronize()
    path, stream = DirectPath(device, pool.fence), pool.stream()
    torch.cuda._sleep(SOME_CYCLES)  # type: ignore[no-untyped-call]
    device_view(pool, LAYOUT, device).fill_(9.0)
    path.before_pull()
    assert not pool.is_settled()
    stream.wait(stream.copy(source.address, np.array([(0, 0, LAYOUT.pool_bytes)], np.int64)))
    assert (np.frombuffer(pool[0 : LAYOUT.pool_bytes], np.float32) == 3.0).all()
    stream.close()
    path.close()
    source.close()


@pytest.mark.gpu
@needs_gpu
def test_expandable_segments_of_torch_do_not_keep_a_pool_from_being_exported() -> None:
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", EXPANDABLE]
    subprocess.run(command, env=environment, cwd=root, check=True, timeout=120)
