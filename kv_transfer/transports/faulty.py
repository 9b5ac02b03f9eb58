"""A lane with faults: for tests, and to measure what a slow link exposes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kv_transfer.errors import FailReason, TransferError
from kv_transfer.transport import Lane, LaneContext, Moved, ReadOp
from kv_transfer.transports.registry import Transports
from runtime.clock import Clock

_SLACK_S = 0.005
_OpenLane = Callable[[LaneContext], Lane]


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Reads are counted from 1, per lane; 0 means never.

    fail_at: that read breaks the lane. drop_at: that read is lost, silently.
    stall_at: from that read on nothing arrives for `stall_s` seconds.
    corrupt_at: one bit of that read's first byte is flipped; with corrupts_on of later ones too.
    rate_bytes_s: the link's bandwidth, 0 for no limit.
    slowdown: each move takes this many times its time.
    """

    fail_at: int = 0
    drop_at: int = 0
    stall_at: int = 0
    stall_s: float = float("inf")
    corrupt_at: int = 0
    corrupts_on: bool = False
    rate_bytes_s: float = 0.0
    slowdown: float = 1.0


def with_faults(transports: Transports, faults: Faults, clock: Clock) -> Transports:
    """The same transports, each with the faults."""

    def decorate(open_lane: _OpenLane) -> _OpenLane:
        return lambda context: FaultyLane(open_lane(context), faults, context, clock)

    return {name: decorate(open_lane) for name, open_lane in transports.items()}


class FaultyLane:
    """Decorates any lane. While it holds the inner lane back, it hides its descriptor."""

    def __init__(self, inner: Lane, faults: Faults, context: LaneContext, clock: Clock) -> None:
        self._inner = inner
        self._faults = faults
        self._context = context
        self._clock = clock
        self._num_reads = 0
        self._free_s = 0.0  # nothing moves before
        self._to_corrupt: ReadOp | None = None
        self._untold: Sequence[Moved] = ()

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def reads_ahead(self) -> bool:
        return self._inner.reads_ahead

    @property
    def fd(self) -> int:
        return -1 if self._is_held else self._inner.fd

    def post(self, read: ReadOp) -> None:
        self._num_reads += 1
        if self._num_reads == self._faults.fail_at:
            raise TransferError(FailReason.TRANSPORT, "the faulty transport failed this read")
        if self._num_reads == self._faults.drop_at:
            return
        if self._num_reads == self._faults.stall_at:
            self._free_s = self._clock.now() + self._faults.stall_s
        if self._is_corrupt(self._num_reads):
            self._to_corrupt = read
        self._inner.post(read)

    def progress(self) -> Sequence[Moved]:
        """What moved is told once its time on the slow link is over."""
        if self._is_held:
            return ()
        told, self._untold = self._untold, ()
        start_s = self._clock.now()
        moved = self._inner.progress()
        self._corrupt(moved)
        self._pause(sum(part.num_bytes for part in moved), start_s)
        if not self._is_held:
            return (*told, *moved)
        self._untold = moved
        return told

    def wait_s(self) -> float | None:
        if not self._is_held:
            return 0.0 if self._untold else self._inner.wait_s()
        held_s = self._free_s - self._clock.now()
        return None if held_s == float("inf") else max(0.0, held_s)

    def drop(self, ticket: int) -> None:
        self._inner.drop(ticket)

    def close(self) -> None:
        self._inner.close()

    def _is_corrupt(self, number: int) -> bool:
        at = self._faults.corrupt_at
        return number == at or (self._faults.corrupts_on and number > at)

    @property
    def _is_held(self) -> bool:
        return self._clock.now() < self._free_s

    def _pause(self, num_bytes: int, start_s: float) -> None:
        """Holds the lane; what a wait overslept is given back, up to the slack."""
        if not num_bytes:
            return
        pause_s = self._faults.slowdown * (self._clock.now() - start_s)
        if self._faults.rate_bytes_s:
            pause_s = max(pause_s, num_bytes / self._faults.rate_bytes_s)
        self._free_s = max(self._free_s, start_s - _SLACK_S) + pause_s

    def _corrupt(self, moved: Sequence[Moved]) -> None:
        """A read's first region is the first to arrive, in every lane."""
        read = self._to_corrupt
        if read is None or all(part.ticket != read.ticket for part in moved):
            return
        self._to_corrupt = None
        offset, _ = next(read.target_extents(read.piece))
        self._context.memory.buffer[offset] ^= 1
