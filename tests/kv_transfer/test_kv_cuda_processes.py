"""Pools on GPUs of two processes: once with the host in the driver's part, once with a GPU."""

import signal
from collections.abc import Callable

import pytest

from baton.bench import device_path
from kv_transfer.cuda_driver import LIBRARY, CudaDriver
from kv_transfer.errors import TransferError
from wire.kv import KVLayout

NUM_BLOCKS = 256
on_gpu = pytest.mark.gpu


@pytest.fixture(params=["host", pytest.param("gpu", marks=on_gpu)])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "host":
        return request.getfixturevalue("host_cuda")()
    try:
        CudaDriver()
    except TransferError as error:
        pytest.skip(str(error))
    return LIBRARY


@pytest.fixture
def start_on(start: Callable, library: str) -> Callable:
    """Starts a source or a reader whose pool lies on that GPU."""

    def begin(gpu: int, role: str, transport: str = "cuda_ipc", **settings: object):
        cuda = {"library": library, "gpu": gpu}
        return start(role, transport=transport, device_path="direct", cuda=cuda, **settings)

    return begin


@pytest.mark.parametrize(
    ("library", "readers_gpu"),
    [("host", 1), pytest.param("gpu", 0, marks=on_gpu), pytest.param("gpu", 1, marks=on_gpu)],
    indirect=["library"],
)
def test_every_byte_crosses_and_every_block_is_compared(start_on, library, readers_gpu):
    if CudaDriver(library).num_devices() <= readers_gpu:
        pytest.skip("there is one GPU")
    source = start_on(0, "source")
    reader = start_on(readers_gpu, "reader", verify_share=1.0)
    for export_id in range(2):
        reader.tell(do="fill", byte=0)
        assert reader.hear("filled")
        reader.tell(do="pull", handle=source.publish(64, export_id))
        source.tell(do="complete", id=export_id)
        result = reader.hear("result")
        assert (result["ok"], result["error"], result["intact"]) == (True, "", True)
        assert result["transport"] == "cuda_ipc"
        assert result["num_verified"] == 4 * NUM_BLOCKS
        assert source.hear("released") == export_id


def test_a_source_killed_with_its_pool_open_harms_no_reader(start_on):
    source, reader = start_on(0, "source"), start_on(0, "reader")
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    source.signal(signal.SIGKILL)
    result = reader.hear("result")
    assert not result["ok"] and result["reason"] in {"peer_lost", "transport"}
    successor = start_on(0, "source")
    handle = successor.publish(64)
    successor.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    assert reader.hear("result")["intact"]


def test_a_reader_killed_with_the_pool_open_gives_its_blocks_back(start_on):
    source, reader = start_on(0, "source", lease_s=600.0), start_on(0, "reader")
    reader.tell(do="pull", handle=source.publish(64))
    reader.wait_for_bytes()
    reader.signal(signal.SIGKILL)
    assert source.hear("released") == 1


def test_the_bench_measures_pulls_in_both_orders(host_cuda):
    layout = KVLayout(2, 64, 2, 16, 32, "float32")
    rows = device_path.run(1e9, 1, host_cuda(), layout)
    assert [row.name for row in rows] == ["kv.cuda_ipc.contiguous", "kv.cuda_ipc.scattered"]
    assert all(row.ratio == row.value > 0 for row in rows)


@on_gpu
@pytest.mark.parametrize("library", ["gpu"], indirect=True)
def test_nixl_reads_one_gpus_pool_into_anothers(start_on):
    pytest.importorskip("nixl_cu12")
    source, reader = (start_on(0, role, "nixl", verify_share=1.0) for role in ("source", "reader"))
    handle = source.publish(64)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    result = reader.hear("result")
    assert (result["ok"], result["error"], result["intact"]) == (True, "", True)
