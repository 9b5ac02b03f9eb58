"""One pull: what is asked, what has arrived, how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kv_transfer.errors import FailReason
from kv_transfer.plan import Cursor, Piece, Watermark
from wire.kv import KVHandle, KVLayout


@dataclass(frozen=True, slots=True)
class PullResult:
    """How a pull ended. Where not `ok`, the destination blocks hold nothing of use.

    num_ready_tokens: tokens whose KV is in the destination blocks, the skipped ones included.
    transfer_s: from the source's consent to the last byte, waiting for prefill included.
    exposed_s: from the reader's knowing that prefill is complete to the last byte.
    transport: empty when no lane was opened. wanted_transport: what it should have been; another
    one that was used is a fallback. reason and error are empty when ok.
    """

    ticket: int
    ok: bool
    num_ready_tokens: int = 0
    output_tokens: tuple[int, ...] = ()
    num_bytes: int = 0
    transfer_s: float = 0.0
    exposed_s: float = 0.0
    transport: str = ""
    reason: FailReason | None = None
    error: str = ""
    wanted_transport: str = ""

    @property
    def fell_back(self) -> bool:
        return bool(self.transport) and self.transport != self.wanted_transport


class PullState(Enum):
    """ATTACHING -> READING -> RELEASING -> done. A failure leaves from any state."""

    ATTACHING = "attaching"
    READING = "reading"
    RELEASING = "releasing"


@dataclass(slots=True, eq=False)
class Pull:
    """The mutable state of one pull; owned by its link's thread."""

    ticket: int
    handle: KVHandle
    target_blocks: tuple[int, ...]
    num_skip_blocks: int
    layout: KVLayout
    on_done: Callable[[PullResult], None]
    state: PullState = PullState.ATTACHING
    source_blocks: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    ready_bytes: int = 0
    moved_bytes: int = 0
    deadline_s: float | None = None  # None: nothing is owed to this process
    attached_s: float = 0.0
    completed_s: float | None = None  # when this process learned of it
    last_byte_s: float = 0.0
    cursor: Cursor = field(init=False)

    def __post_init__(self) -> None:
        self.cursor = Cursor(self.piece)

    @property
    def piece(self) -> Piece:
        """All that is to be read."""
        return Piece(0, self.layout.num_layers, self.num_skip_blocks, len(self.target_blocks))

    @property
    def total_bytes(self) -> int:
        return self.piece.num_regions * self.layout.region_bytes

    @property
    def owed_bytes(self) -> int:
        """Readable at the source and not here."""
        return self.ready_bytes - self.moved_bytes

    @property
    def is_whole(self) -> bool:
        return self.completed_s is not None and self.moved_bytes == self.total_bytes

    def attach(self, num_tokens: int, source_blocks: Sequence[int], now_s: float) -> bool:
        """False when the source published something else than the handle says."""
        self.state = PullState.READING
        self.source_blocks = tuple(source_blocks)
        self.attached_s = self.last_byte_s = now_s
        self.deadline_s = None
        is_same = num_tokens == self.handle.num_tokens
        return is_same and len(source_blocks) == len(self.target_blocks)

    def ready_blocks(self, mark: Watermark) -> list[int]:
        """Per layer, blocks that the source lets be read."""
        num_tokens, size = self.handle.num_tokens, self.layout.block_size
        layers = range(self.layout.num_layers)
        return [mark.ready_blocks(layer, num_tokens, size) for layer in layers]

    def see(self, ready_blocks: Sequence[int]) -> int:
        """Takes the source's watermark over; gives the bytes that became readable."""
        skip = self.num_skip_blocks
        regions = sum(max(0, ready - skip) for ready in ready_blocks)
        new_bytes = max(0, regions * self.layout.region_bytes - self.ready_bytes)
        self.ready_bytes += new_bytes
        return new_bytes

    def arrive(self, num_bytes: int, now_s: float) -> None:
        self.moved_bytes += num_bytes
        self.last_byte_s = now_s
        if self.owed_bytes <= 0:
            self.deadline_s = None

    def success(self, transport: str) -> PullResult:
        completed_s = self.completed_s or 0.0
        return PullResult(
            ticket=self.ticket,
            ok=True,
            num_ready_tokens=self.handle.num_tokens,
            output_tokens=self.output_tokens,
            num_bytes=self.total_bytes,
            transfer_s=self.last_byte_s - self.attached_s,
            exposed_s=max(0.0, self.last_byte_s - completed_s),
            transport=transport,
        )

    def failure(self, reason: FailReason, error: str, transport: str) -> PullResult:
        return PullResult(
            ticket=self.ticket,
            ok=False,
            num_bytes=self.moved_bytes,
            transport=transport,
            reason=reason,
            error=error,
        )
