"""The transport over NIXL: one-sided reads by verbs, EFA or, on one host, CMA.

The reader's agent belongs to its link's thread. A posted read cannot be taken back, so a dropped
pull whose read does not end at once costs the agent: destroying it is the only fence. The other
pulls' reads are posted again with a new one, for a read may be repeated.

Over CMA a read is done when posting returns, whatever the source's process does. Reads that are
under way later, over verbs and EFA, are written from the documentation and could not be tried.
"""

import secrets
from collections import deque
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from kv_transfer.device import DeviceMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.interfaces import ucx_devices
from kv_transfer.transports.nixl_agent import AgentRead, Indices, NixlAgent, ReadState
from kv_transfer.transports.offering import ask
from wire.kv import KVLayout

_MAX_READS = 8  # posted and not done, so that a device is never idle between two looks
_JOINED_PIECES = 4  # of what waits, in one read: each read costs some 0.1 ms beside its copy
_POLL_S = 0.001
_EAGER_LOOKS = 50  # without a wait, after a post
_FENCE_LOOKS = 2000  # at a dropped read before its agent is destroyed


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """A pull's block lists, converted once for all its pieces. [num_blocks]

    num_blocks: of the source's pool, where all that it names has to lie.
    """

    op: ReadOp
    source: Indices
    target: Indices

    @classmethod
    def of(cls, op: ReadOp, num_blocks: int) -> "_Blocks":
        """Raises TransferError (MALFORMED)."""
        source = np.fromiter(op.source_blocks, np.int64)  # of the wire's counts, which are unsigned
        if op.piece.end_index > len(source) or source.max() >= num_blocks:
            raise TransferError(FailReason.MALFORMED, "the source named blocks that it lacks")
        return cls(op, source.astype(np.int32), np.fromiter(op.target_blocks, np.int32))

    def are_of(self, op: ReadOp) -> bool:
        mine = self.op
        return mine.source_blocks is op.source_blocks and mine.target_blocks is op.target_blocks


@dataclass(slots=True, eq=False)
class _Reading:
    op: ReadOp
    blocks: _Blocks
    read: AgentRead


class NixlLane:
    """The reader's side: an agent of its own, and the connection over which the source offered
    its pool, whose end tells that the source is gone."""

    name = "nixl"
    reads_ahead = False

    def __init__(self, bindings: ModuleType, context: LaneContext) -> None:
        """Raises TransferError when the source refuses or the agents do not find each other."""
        self._bindings = bindings
        self._context = context
        self._queue: deque[tuple[ReadOp, _Blocks]] = deque()
        self._readings: list[_Reading] = []
        self._num_looks = 0  # since something moved
        self._blocks: _Blocks | None = None  # of the pull that was read from last
        self._channel, self._offer = ask(context, "nixl")
        self._devices = ucx_devices(self._channel.sock.getsockname()[0])
        try:
            self._agent = self._new_agent()
        except TransferError:
            self._channel.close()
            raise

    @property
    def fd(self) -> int:
        return self._channel.fd

    def post(self, read: ReadOp) -> None:
        """Raises TransferError (MALFORMED) when the source names blocks outside of its pool."""
        if self._blocks is None or not self._blocks.are_of(read):
            self._blocks = _Blocks.of(read, self._context.source_layout.num_blocks)
        most = _JOINED_PIECES * self._context.config.piece_bytes
        joined = read.joined(self._queue[-1][0], most) if self._queue else None
        if joined is not None:
            self._queue[-1] = joined, self._blocks
        else:
            self._queue.append((read, self._blocks))

    def progress(self) -> list[Moved]:
        """One post a call: over CMA it takes as long as the copy."""
        if not self._queue and self._channel.receive():
            raise TransferError(FailReason.MALFORMED, "the source says more than its offer")
        moved = self._look()
        if self._may_start:
            moved += self._start(*self._queue.popleft())
        self._num_looks = 0 if moved else self._num_looks + 1
        return moved

    def wait_s(self) -> float | None:
        if self._may_start:
            return 0.0
        if not self._readings:
            return _POLL_S if self._queue else None
        return 0.0 if self._num_looks < _EAGER_LOOKS else _POLL_S

    def drop(self, ticket: int) -> None:
        self._queue = deque(asked for asked in self._queue if asked[0].ticket != ticket)
        for _ in range(_FENCE_LOOKS):
            if not any(self._is_moving(reading, ticket) for reading in self._readings):
                break
        else:
            self._replace_agent(ticket)
        self._readings = [r for r in self._readings if r.op.ticket != ticket]

    def close(self) -> None:
        self._queue.clear()
        self._readings.clear()
        self._agent.close()
        self._channel.close()

    @property
    def _may_start(self) -> bool:
        """A device that computes may still use the blocks of a pull that has just begun."""
        if not self._queue or len(self._readings) >= _MAX_READS:
            return False
        memory = self._context.memory
        return not isinstance(memory, DeviceMemory) or memory.is_settled()

    def _new_agent(self) -> NixlAgent:
        context = self._context
        name = f"reader-{secrets.token_hex(8)}"
        agent = NixlAgent(self._bindings, name, context.memory, self._devices, serves=False)
        try:
            agent.meet(self._offer, context.layout, context.source_layout)
        except TransferError:
            agent.close()
            raise
        return agent

    def _replace_agent(self, ticket: int) -> None:
        """Nothing that was posted is written any more; what others asked for is asked again."""
        self._agent.close()
        again = [(r.op, r.blocks) for r in self._readings if r.op.ticket != ticket]
        self._queue.extendleft(reversed(again))
        self._readings.clear()
        self._agent = self._new_agent()

    def _look(self) -> list[Moved]:
        moved = []
        for reading in list(self._readings):
            if self._agent.look(reading.read) is not ReadState.MOVING:
                self._readings.remove(reading)
                moved.append(self._ended(reading))
        return moved

    def _start(self, op: ReadOp, blocks: _Blocks) -> list[Moved]:
        reading = _Reading(op, blocks, self._read(op, blocks))
        if reading.read.state is ReadState.MOVING:
            self._readings.append(reading)
            return []
        return [self._ended(reading)]

    def _read(self, op: ReadOp, blocks: _Blocks) -> AgentRead:
        """Whole regions go by number; where the layouts differ, runs of bytes by address."""
        if op.mapping.window is not None:
            return self._agent.read_copies(op.copies())
        theirs = _region_numbers(op.piece, self._context.source_layout, blocks.source)
        mine = _region_numbers(op.piece, self._context.layout, blocks.target)
        return self._agent.read_regions(mine, theirs)

    def _ended(self, reading: _Reading) -> Moved:
        """Raises TransferError (TRANSPORT) when the read failed."""
        if reading.read.state is ReadState.FAILED:
            raise TransferError(FailReason.TRANSPORT, "a NIXL read failed")
        return Moved(reading.op.ticket, reading.op.num_bytes, (reading.op.piece,))

    def _is_moving(self, reading: _Reading, ticket: int) -> bool:
        return reading.op.ticket == ticket and self._agent.look(reading.read) is ReadState.MOVING


def _region_numbers(piece: Piece, layout: KVLayout, blocks: Indices) -> Indices:
    """layer * num_blocks + block, layer by layer. [num_regions]"""
    named = blocks[piece.first_index : piece.end_index]
    if piece.end_layer - piece.first_layer == 1:
        return named + np.int32(piece.first_layer * layout.num_blocks)
    layers = np.arange(piece.first_layer, piece.end_layer, dtype=np.int32)
    numbers: Indices = (layers[:, None] * np.int32(layout.num_blocks) + named).reshape(-1)
    return numbers
