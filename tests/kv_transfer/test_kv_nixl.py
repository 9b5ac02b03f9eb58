"""Reads that are still under way: what RDMA has and CMA, where a read ends at once, has not."""

import importlib.util
import signal
import socket
import types
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from kv_transfer.channel import Channel
from kv_transfer.config import TransferConfig
from kv_transfer.control import Offer
from kv_transfer.device_twin import TwinMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity
from kv_transfer.mapping import Mapping
from kv_transfer.memory import KVMemory
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports import nixl
from kv_transfer.transports.nixl_agent import AgentRead, NixlAgent, ReadState
from runtime.clock import VirtualClock
from wire.kv import FabricAddress, KVLayout

LAYOUT = KVLayout(2, 8, 1, 16, 8, "float32")
needs_nixl = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ("nixl_cu12", "nixl_cu13")),
    reason="none of nixl_cu12, nixl_cu13 is installed",
)


@dataclass
class SlowAgent:
    """Reads end when the test says so."""

    reads: list[AgentRead] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    is_closed: bool = False

    def meet(self, *what: object) -> None:
        pass

    def read_regions(self, mine, theirs) -> AgentRead:
        self.asked.append(list(theirs))
        self.reads.append(AgentRead(0, ReadState.MOVING))
        return self.reads[-1]

    def look(self, read: AgentRead) -> ReadState:
        assert not self.is_closed
        return read.state

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch, nothing_is_left: None):
    """With `agents`, the ones that it has made."""
    agents: list[SlowAgent] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    def make(*what: object, **how: object) -> SlowAgent:
        agents.append(SlowAgent())
        return agents[-1]

    monkeypatch.setattr(nixl, "NixlAgent", make)
    monkeypatch.setattr(nixl, "ucx_devices", lambda ip: "")
    offer = Offer(b"", 0, 1 << 20)
    monkeypatch.setattr(nixl, "ask", lambda context, purpose: (Channel(mine, 1.0), offer))
    memory = KVMemory.allocate(LAYOUT.pool_bytes)
    context = LaneContext(
        FabricAddress("127.0.0.1", 1),
        Identity("w", 1, LAYOUT.signature),
        LAYOUT,
        LAYOUT,
        memory,
        b"s",
        TransferConfig(),
        VirtualClock(),
    )
    made = nixl.NixlLane(nixl, context)
    made.agents = agents
    yield made
    made.close()
    memory.close()
    theirs.close()


def read(ticket: int, block: int) -> ReadOp:
    mapping = Mapping.of(LAYOUT, LAYOUT, 16, 0)
    return ReadOp(ticket, b"h" * 16, Piece(1, 2, 0, 1), (block,), (block,), mapping)


def test_a_read_is_told_when_it_has_ended_and_looked_after_until_then(lane):
    lane.post(read(1, 3))
    assert lane.progress() == []
    assert lane.agents[0].asked == [[LAYOUT.num_blocks + 3]]
    assert lane.wait_s() is not None
    lane.agents[0].reads[0].state = ReadState.DONE
    assert lane.progress() == [Moved(1, LAYOUT.region_bytes, (Piece(1, 2, 0, 1),))]
    assert lane.wait_s() is None


def test_neighbours_of_one_pull_that_wait_are_read_at_once_up_to_four_pieces(lane):
    region, count, blocks = LAYOUT.region_bytes, 6, tuple(range(6))
    lane._context = replace(lane._context, config=TransferConfig(piece_bytes=region))
    for index in range(count):
        piece = Piece(1, 2, index, index + 1)
        lane.post(replace(read(1, 0), piece=piece, source_blocks=blocks, target_blocks=blocks))
    lane.post(read(2, 7))
    for _ in range(3):
        lane.progress()
    base = LAYOUT.num_blocks
    parts = ((0, 1, 2, 3), (4, 5), (7,))
    assert lane.agents[0].asked == [[base + at for at in part] for part in parts]


def test_a_failed_read_breaks_the_lane(lane):
    lane.post(read(1, 3))
    lane.progress()
    lane.agents[0].reads[0].state = ReadState.FAILED
    with pytest.raises(TransferError) as caught:
        lane.progress()
    assert caught.value.reason is FailReason.TRANSPORT


def test_a_dropped_read_that_does_not_end_costs_the_agent_and_others_are_read_again(lane):
    for ticket, block in ((1, 3), (2, 4), (2, 5)):
        lane.post(read(ticket, block))
        lane.progress()
    lane.drop(1)
    first, second = lane.agents
    assert first.is_closed and not second.is_closed
    for _ in range(3):
        lane.progress()
    base = LAYOUT.num_blocks
    assert second.asked == [[base + 4], [base + 5]]


def test_a_dropped_read_that_has_ended_costs_nothing(lane):
    lane.post(read(1, 3))
    lane.progress()
    lane.agents[0].reads[0].state = ReadState.DONE
    lane.drop(1)
    assert len(lane.agents) == 1
    assert lane.progress() == []


def test_blocks_outside_of_the_sources_pool_are_refused(lane):
    for blocks in ((8,), ()):
        with pytest.raises(TransferError) as caught:
            lane.post(replace(read(1, 0), source_blocks=blocks))
        assert caught.value.reason is FailReason.MALFORMED


class GpuPool(TwinMemory):
    """Says that it lies on a GPU, which is settled when the test says so."""

    device = 3
    has_settled = False

    def is_settled(self) -> bool:
        return self.has_settled


class Bindings(types.SimpleNamespace):
    """NIXL's module as the agent calls it; it keeps what the agent named."""

    def __init__(self) -> None:
        super().__init__(DRAM_SEG="DRAM", VRAM_SEG="VRAM", NIXL_INIT_AGENT="me", NIXL_READ="read")
        self.said: list[tuple] = []
        self.nixlAgentConfig = types.SimpleNamespace
        self.nixlAgent = lambda name, config: self
        self.nixlRegDList = self.nixlXferDList = lambda segment, rows: (segment, np.array(rows))

    def __getattr__(self, name: str):
        def note(*what: object) -> object:
            self.said.append((name, *what))
            return b"peer" if name in ("loadRemoteMD", "getLocalMD") else 7

        return note

    def named(self, name: str) -> list[tuple]:
        return [tuple(what) for call, *what in self.said if call == name]


@pytest.fixture
def gpu_pool(nothing_is_left: None):
    memory = GpuPool(LAYOUT.pool_bytes)
    yield memory
    memory.close()


def test_a_gpus_pool_is_registered_offered_and_read_by_its_number(gpu_pool):
    bindings = Bindings()
    bindings.nixlRegDList = lambda segment, rows: (segment, rows)
    agent = NixlAgent(bindings, "a", gpu_pool, "", serves=False)
    ((registered, _),) = bindings.named("registerMem")
    assert registered == ("VRAM", [(gpu_pool.address, LAYOUT.pool_bytes, 3, "")])
    assert agent.offer() == Offer(b"peer", gpu_pool.address, LAYOUT.pool_bytes, 3)
    agent.meet(Offer(b"theirs", 4096, LAYOUT.pool_bytes, 5), LAYOUT, LAYOUT)
    mine, theirs = bindings.named("prepXferDlist")
    count = LAYOUT.num_layers * LAYOUT.num_blocks
    size = LAYOUT.region_bytes
    assert (mine[:2], mine[2].tolist()) == (
        ("me", "VRAM"),
        [[gpu_pool.address, size, 3, size, count]],
    )
    assert (theirs[:2], theirs[2].tolist()) == (("peer", "VRAM"), [[4096, size, 5, size, count]])
    agent.read_copies(np.array([(64, 128, 32)], np.int64))
    ((_, to, source, peer, *_),) = bindings.named("createXferReq")
    assert (to[0], to[1].tolist()) == ("VRAM", [[gpu_pool.address + 128, 32, 3]])
    assert (source[0], source[1].tolist(), peer) == ("VRAM", [[4096 + 64, 32, 5]], "peer")


def test_a_gpus_pool_reads_one_in_host_memory(gpu_pool):
    bindings = Bindings()
    agent = NixlAgent(bindings, "a", gpu_pool, "", serves=False)
    agent.meet(Offer(b"theirs", 4096, LAYOUT.pool_bytes), LAYOUT, LAYOUT)
    mine, theirs = bindings.named("prepXferDlist")
    assert (mine[1], theirs[1], theirs[2][0][2]) == ("VRAM", "DRAM", 0)


def test_reads_into_a_gpus_pool_begin_when_it_has_computed_what_came_before(lane, gpu_pool):
    lane._context = replace(lane._context, memory=gpu_pool)
    lane.post(read(1, 3))
    assert (lane.progress(), lane.agents[0].asked) == ([], [])
    assert 0 < lane.wait_s() < 0.1
    gpu_pool.has_settled = True
    assert lane.wait_s() == 0.0
    lane.progress()
    assert len(lane.agents[0].asked) == 1


@needs_nixl
def test_nixl_takes_a_devices_pool_that_is_host_memory(make_rig):
    rig = make_rig(transport="nixl", allocate=TwinMemory)
    assert rig.pull(rig.publish_whole(1, [3, 4, 9], 48), [1, 2, 5]).ok
    rig.assert_copied([3, 4, 9], [1, 2, 5])


@needs_nixl
def test_a_read_by_a_lane_that_is_not_one_sided_fails_loudly(start):
    prefix = ("env", "UCX_TLS=tcp")
    source = start("source", prefix=prefix, transport="nixl")
    reader = start("reader", prefix=prefix, transport="nixl")
    handle = source.publish(64)
    source.tell(do="complete", id=1)
    reader.tell(do="pull", handle=handle)
    result = reader.hear("result")
    assert (result["ok"], result["reason"], result["transport"]) == (False, "transport", "nixl")
    assert source.hear("released") == 1


@needs_nixl
@pytest.mark.slow
def test_what_a_frozen_source_sends_later_is_not_written(start):
    """UCX over TCP, with emulation: a read that only the source's process can carry on.

    Baton never runs NIXL so: in this mode it sometimes aborts the source (docs/fabric.md).
    """
    prefix = ("env", "UCX_TLS=tcp", "UCX_PROTO_EMULATION_ENABLE=y")
    source = start("source", prefix=prefix, transport="nixl")
    reader = start("reader", prefix=prefix, transport="nixl", rate_bytes_s=2e6, piece_bytes=1 << 16)
    reader.outlast_frozen(source)
    source.signal(signal.SIGKILL)  # with emulation it may abort, or hang, when its reader is gone
