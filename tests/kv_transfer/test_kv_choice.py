"""Which transport is tried first, what a source offers, and that a worse one is never silent."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kv_transfer.config import TransferConfig
from kv_transfer.device_twin import TwinMemory
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, join
from kv_transfer.memory import KVMemory
from kv_transfer.transports import services
from kv_transfer.transports.cuda_ipc import CudaIpcService
from kv_transfer.transports.interfaces import rdma_devices, ucx_devices
from kv_transfer.transports.registry import candidates
from kv_transfer.transports.services import wanted_services
from wire.kv import FabricAddress

SECRET = b"a cluster's secret"
HERE, FAR = "this host", "another host"
BLOCKS = [3, 4, 5]


def address(host_id: str, *names: str) -> FabricAddress:
    return FabricAddress("10.0.0.1", 1, host_id, "@x", names)


@pytest.mark.parametrize(
    ("where", "has_rdma", "want"),
    [
        (address(HERE, "shm", "tcp"), False, ("shm", "tcp")),
        (address(HERE, "nixl", "shm", "tcp"), True, ("shm", "tcp")),
        (address(HERE, "tcp"), False, ("shm", "tcp")),
        (address(FAR, "shm", "tcp"), False, ("tcp",)),
        (address(FAR, "nixl", "shm", "tcp"), True, ("nixl", "tcp")),
        (address(FAR, "nixl", "shm", "tcp"), False, ("nixl", "tcp")),
        (address(FAR, "shm", "tcp"), True, ("nixl", "tcp")),
    ],
)
def test_the_automatic_choice(where, has_rdma, want):
    assert candidates(TransferConfig(), where, HERE, has_rdma) == want


@pytest.mark.parametrize(
    ("where", "tls", "want"),
    [
        (address(HERE, "cuda_ipc"), None, ("cuda_ipc", "shm", "tcp")),
        (address(FAR, "cuda_ipc"), None, ("nixl", "tcp")),
        (address(FAR, "cuda_ipc"), True, ("tcp",)),
    ],
)
def test_a_direct_path_tries_the_lanes_between_devices_first(where, tls, want):
    config = TransferConfig(device_path="direct", tls=tls)
    assert candidates(config, where, HERE, False) == want


def test_a_worker_that_could_not_have_its_pool_on_its_device_counts_fallbacks(make_rig):
    rig = make_rig(transport="auto", config=TransferConfig(device_path="direct"))
    with capture_logs() as lines:
        result = rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS)
    assert (result.transport, result.wanted_transport, result.fell_back) == (
        "shm",
        "cuda_ipc",
        True,
    )
    assert rig.importer.num_fallbacks == 1
    assert any(line["event"] == "kv transport fell back" for line in lines)


def test_sockets_and_mappings_are_not_tried_for_a_pool_on_a_device(make_rig):
    rig = make_rig(
        transport="auto", config=TransferConfig(device_path="direct"), allocate=TwinMemory
    )
    assert rig.address.transports == ("memory", "cuda_ipc")
    handle = rig.publish_whole(1, BLOCKS, 48)
    named = replace(handle.address, transports=("shm", "tcp"))
    result = rig.pull(replace(handle, address=named), BLOCKS)
    assert not result.ok
    for name in ("shm", "tcp"):
        assert f"{name}: it does not reach a device's memory" in result.error
    rig.exporter.abort(1, "the test is over")


def test_a_socket_that_asks_for_bytes_of_a_device_is_closed(make_rig):
    rig = make_rig(transport="auto", allocate=TwinMemory)
    channel = dial(rig.address, rig.config)
    source = Identity("worker-1", 7, rig.source.layout.signature)
    join(channel, SECRET, "data", source, 10.0)
    with pytest.raises(TransferError) as caught:
        channel.receive_one(10.0)
    assert caught.value.reason is FailReason.PEER_LOST
    channel.close()


def test_a_lane_between_devices_says_that_this_pool_is_not_on_one(make_rig):
    rig = make_rig(transport="cuda_ipc", allocate=TwinMemory)
    handle = rig.publish_whole(1, BLOCKS, 48)
    with pytest.raises(TransferError, match="this worker's pool lies in host memory"):
        CudaIpcService(KVMemory.allocate(4096, shared=False), 1.0)
    assert rig.pull(handle, BLOCKS).ok


@pytest.mark.parametrize("name", ["shm", "tcp", "nixl", "ucx", "cuda_ipc"])
def test_a_forced_transport_has_no_second(name):
    config = TransferConfig(transport=name)
    assert candidates(config, address(HERE, "shm", "tcp"), HERE, True) == (name,)


def test_a_source_starts_what_is_forced_or_what_rdma_asks_for():
    assert wanted_services("auto", False) == ()
    assert wanted_services("auto", True) == ("nixl",)
    assert wanted_services("ucx", True) == ("ucx",)
    assert wanted_services("tcp", True) == ()
    assert wanted_services("auto", False, on_device=True) == ("cuda_ipc",)
    assert wanted_services("auto", True, on_device=True) == ("cuda_ipc", "nixl")
    assert wanted_services("nixl", False, on_device=True) == ("nixl",)


def test_a_forced_transport_that_cannot_start_is_an_error_of_the_source(make_rig, monkeypatch):
    rig = make_rig()

    def fail(context):
        raise TransferError(FailReason.TRANSPORT, "not installed")

    monkeypatch.setitem(services.SERVICES, "nixl", fail)
    rig.config = TransferConfig(transport="nixl")
    exporter = rig.new_exporter(epoch=9)
    with pytest.raises(OSError, match="nixl cannot be started: not installed"):
        exporter.start("127.0.0.1")
    exporter.close()


def test_a_source_with_rdma_that_cannot_start_nixl_goes_on_without(make_rig, monkeypatch):
    rig = make_rig()

    def fail(context):
        raise TransferError(FailReason.TRANSPORT, "not installed")

    monkeypatch.setitem(services.SERVICES, "nixl", fail)
    monkeypatch.setattr(services, "rdma_devices", lambda: ("mlx5_0:1",))
    rig.config = TransferConfig()
    exporter = rig.new_exporter(epoch=9)
    with capture_logs() as lines:
        try:
            assert "nixl" not in exporter.start("127.0.0.1").transports
        finally:
            exporter.close()
    assert "kv transport not offered" in [line["event"] for line in lines]


def test_a_pull_that_fell_back_says_from_what(make_rig):
    def broken(context):
        raise TransferError(FailReason.TRANSPORT, "no device")

    rig = make_rig(transport="auto", more_transports={"nixl": broken})
    rdma = replace(rig.address, host_id=FAR, transports=("nixl", *rig.address.transports))
    handle = replace(rig.publish_whole(1, BLOCKS, 48), address=rdma)
    result = rig.pull(handle, BLOCKS)
    assert (result.ok, result.transport, result.wanted_transport) == (True, "tcp", "nixl")
    assert result.fell_back
    assert rig.importer.num_fallbacks == 1


def test_a_pull_by_the_expected_transport_is_no_fallback(make_rig):
    rig = make_rig(transport="auto")
    result = rig.pull(rig.publish_whole(1, BLOCKS, 48), BLOCKS)
    assert (result.transport, result.wanted_transport, result.fell_back) == ("shm", "shm", False)


def test_a_forced_transport_that_the_source_does_not_offer_is_named(make_rig):
    rig = make_rig(transport="tcp")
    handle = rig.publish_whole(1, BLOCKS, 48)
    lacking = replace(handle, address=replace(handle.address, transports=("shm",)))
    result = rig.pull(lacking, BLOCKS)
    assert result.reason is FailReason.TRANSPORT
    assert "tcp: the source does not offer it" in result.error
    rig.exporter.abort(1, "the test is over")


def test_rdma_ports_are_named_as_ucx_names_them(tmp_path):
    assert rdma_devices(tmp_path / "none") == ()
    for device, port in (("mlx5_1", "1"), ("mlx5_0", "1"), ("mlx5_0", "2")):
        (tmp_path / device / "ports" / port).mkdir(parents=True)
    assert rdma_devices(tmp_path) == ("mlx5_0:1", "mlx5_0:2", "mlx5_1:1")


def test_ucx_is_bound_to_the_interface_that_the_fabric_listens_on():
    assert ucx_devices("127.0.0.1") == "lo"
    assert ucx_devices("0.0.0.0") == ""
