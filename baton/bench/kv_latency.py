"""What one small read costs a lane: 4 KiB, one after the other."""

import contextlib
import time
from statistics import median

from baton.bench.core_pair import Placement, hold
from baton.bench.kv_lists import SMALL_POOL
from baton.bench.kv_round_trip import round_trip_us
from baton.bench.kv_source import EPOCH, SECRET, WORKER_ID, SourceProcess, source_process
from baton.bench.row import Row
from kv_transfer.channel import Channel, Poller
from kv_transfer.config import TransferConfig
from kv_transfer.control import Attach, Attached
from kv_transfer.handshake import Identity
from kv_transfer.mapping import Mapping
from kv_transfer.memory import KVMemory, host_id
from kv_transfer.opening import Reader, open_channel, open_lane
from kv_transfer.plan import Piece
from kv_transfer.quarantine import Quarantine
from kv_transfer.transport import Lane, ReadOp
from kv_transfer.transports.registry import TRANSPORTS
from runtime.clock import SystemClock
from runtime.log import get_logger

_TARGETS_US = {"shm": 25.0, "tcp": 60.0, "nixl": 25.0}
_READS = 400  # of one repeat
_TIMEOUT_S = 10.0


def latency_rows(transport: str, repeats: int, placement: Placement) -> list[Row]:
    """One for each transport that has a target; for tcp also what the machine's sockets take."""
    if transport not in _TARGETS_US:
        return []
    hold(placement.reader)
    with source_process(transport, placement.source) as source:
        rows = [_latency_row(transport, source, repeats)]
    if transport == "tcp":
        bare_us, value = round_trip_us(repeats * _READS, placement.source), rows[0].value
        rows.append(
            Row("kv.tcp.latency.floor", value, "us", "bare sockets", bare_us, bare_us / value)
        )
    return rows


def _latency_row(transport: str, source: SourceProcess, repeats: int) -> Row:
    """Microseconds, p50, from a lane's `post` to the bytes; a target stands as baseline."""
    layout = SMALL_POOL
    with contextlib.ExitStack() as stack:
        memory = KVMemory.allocate(layout.pool_bytes)
        stack.callback(memory.close)
        handle = source.publish(tuple(range(_READS)), True, True)
        reader = _reader(transport, memory)
        channel = open_channel(reader, handle.address)
        stack.callback(channel.close)
        identity = Identity(WORKER_ID, EPOCH, layout.signature)
        lane, theirs = open_lane(reader, handle.address, identity, channel)
        stack.callback(lane.close)
        source_blocks = _attach(channel, handle.handle_id)
        mapping = Mapping.of(theirs, layout, handle.num_tokens, 0)
        target_blocks = tuple(reversed(range(_READS)))
        poller, times = Poller(), []
        for number in range(repeats * _READS):
            at = number % _READS
            piece = Piece(0, 1, at, at + 1)
            op = ReadOp(number + 1, handle.handle_id, piece, source_blocks, target_blocks, mapping)
            times.append(_read_s(lane, op, poller))
    value, target = 1e6 * median(times), _TARGETS_US[transport]
    return Row(f"kv.{transport}.latency", value, "us", "target", target, target / value)


def _reader(transport: str, memory: KVMemory) -> Reader:
    clock, config = SystemClock(), TransferConfig(transport=transport)
    log = get_logger("bench")
    quarantine = Quarantine(config.strikes, config.quarantine_s)
    return Reader(
        SMALL_POOL, memory, clock, SECRET, config, TRANSPORTS, host_id(), False, log,
        lambda: None, quarantine,
    )  # fmt: skip


def _attach(channel: Channel, handle_id: bytes) -> tuple[int, ...]:
    channel.send(Attach(1, handle_id))
    attached = channel.receive_one(_TIMEOUT_S)
    assert isinstance(attached, Attached)
    return attached.block_ids


def _read_s(lane: Lane, op: ReadOp, poller: Poller) -> float:
    """As a link turns: post, wait, move."""
    begin_s = time.perf_counter()
    lane.post(op)
    has_arrived = False
    while not has_arrived:
        poller.wait([lane.fd] if lane.fd >= 0 else [], lane.wait_s())
        has_arrived = any(moved.ticket == op.ticket for moved in lane.progress())
    return time.perf_counter() - begin_s
