"""One pull: what is asked, what has arrived, how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kv_transfer.control import Attach
from kv_transfer.digests import RegionHasher, Sample, Verification
from kv_transfer.errors import FailReason
from kv_transfer.formats import FORMATS
from kv_transfer.mapping import Extent, Mapping
from kv_transfer.memory import Readable
from kv_transfer.pace import AS_IS
from kv_transfer.plan import Cursor, Piece, Watermark, ready_blocks
from kv_transfer.transport import Moved, ReadOp
from wire.kv import KVHandle, KVLayout


@dataclass(frozen=True, slots=True)
class PullResult:
    """How a pull ended. Where not `ok`, the destination blocks hold nothing of use.

    num_ready_tokens: tokens whose KV is in the destination blocks, the skipped ones included.
    transfer_s: from the source's consent to the last byte verified, waiting for prefill included.
    exposed_s: from the reader's knowing that prefill is complete to the last byte verified.
    num_verified: regions whose digests were compared.
    wire_format: what they were asked for in; a lane that shares memory moves them as they are.
    kv_heads: the model's KV heads that came; all of this process's unless the source is a share.
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
    num_verified: int = 0
    kv_heads: range = range(0)
    wire_format: str = AS_IS
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
    """The mutable state of one pull; owned by its link's thread once that has called `bind`."""

    ticket: int
    handle: KVHandle
    target_blocks: tuple[int, ...]
    num_skip_blocks: int
    layout: KVLayout
    on_done: Callable[[PullResult], None]
    verify_share: float = 0.0
    wire_format: str = AS_IS
    is_part: bool = False  # of a prompt that several sources hold together
    state: PullState = PullState.ATTACHING
    source_blocks: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    ready_bytes: int = 0
    moved_bytes: int = 0
    deadline_s: float | None = None  # None: nothing is owed to this process
    owed_since_s: float | None = None  # without a break; None: nothing is
    attached_s: float = 0.0
    completed_s: float | None = None  # when this process learned of it
    completed_bytes: int = 0  # of it, what was here by then
    settled_s: float = 0.0  # whole, and verified
    ready: list[int] = field(init=False)  # per layer, blocks that the source lets be read
    mapping: Mapping = field(init=False)
    piece: Piece = field(init=False)  # all that is to be read
    cursor: Cursor = field(init=False)
    total_bytes: int = field(init=False)
    sample: Sample = field(init=False)
    verification: Verification = field(init=False)

    def bind(self, source: KVLayout, buffer: Readable) -> None:
        """The source's layout is known; `buffer` is this process's pool."""
        num_tokens, num_skip = self.handle.num_tokens, self.num_skip_blocks * self.layout.block_size
        self.mapping = Mapping.of(source, self.layout, num_tokens, num_skip)
        self.piece = self.mapping.piece(num_tokens, num_skip)
        self.total_bytes = self.mapping.num_bytes(self.piece)
        self.cursor = Cursor(self.piece)
        self.ready = [0] * source.num_layers
        if self.mapping.window is not None:
            self.wire_format = AS_IS
        is_kept = self.wire_format == AS_IS or FORMATS[self.wire_format].is_lossless
        share = self.verify_share if self.total_bytes and is_kept else 0.0
        self.sample = Sample.share(self.piece.end_index, share, self.ticket)
        extents = None if self.mapping.window is None else self._mapped_extents
        hasher = RegionHasher(self.sample, buffer, self.layout, self.target_blocks, extents)
        self.verification = Verification(hasher, self.piece)

    @property
    def exposed_s(self) -> float:
        """Of a settled pull: how long it took behind prefill's end."""
        return max(0.0, self.settled_s - (self.completed_s or 0.0))

    @property
    def lacks_heads(self) -> bool:
        """The source does not hold all that has to come from it."""
        return not self.is_part and self.mapping.heads != self.layout.kv_heads

    @property
    def owed_bytes(self) -> int:
        """Readable at the source and not here."""
        return self.ready_bytes - self.moved_bytes

    @property
    def is_whole(self) -> bool:
        return self.completed_s is not None and self.moved_bytes == self.total_bytes

    @property
    def bytes_to_hash(self) -> int:
        """Of the sample, here and given to nobody to hash."""
        if self.state is not PullState.READING:
            return 0
        return self.verification.num_waiting * self.mapping.source.region_bytes

    def attach_frame(self) -> Attach:
        return Attach(
            self.ticket,
            self.handle.handle_id,
            self.mapping.window_on_wire,
            self.piece.first_index,
            self.sample.every,
            self.sample.phase,
        )

    def read(self, piece: Piece) -> ReadOp:
        return ReadOp(
            self.ticket,
            self.handle.handle_id,
            piece,
            self.source_blocks,
            self.target_blocks,
            self.mapping,
            self.wire_format,
        )

    def attach(self, num_tokens: int, source_blocks: Sequence[int], now_s: float) -> bool:
        """False when the source published something else than the handle says."""
        self.state = PullState.READING
        self.source_blocks = tuple(source_blocks)
        self.attached_s = now_s
        self.deadline_s = None
        is_same = num_tokens == self.handle.num_tokens
        return is_same and len(source_blocks) == self.piece.end_index

    def see(self, mark: Watermark) -> int:
        """Takes the source's watermark over; gives the bytes that became readable."""
        self.ready = ready_blocks(mark, self.mapping.source, self.handle.num_tokens)
        first, num_bytes = self.piece.first_index, 0
        for layer, end in enumerate(self.ready):
            if end > first:
                num_bytes += self.mapping.num_bytes(Piece(layer, layer + 1, first, end))
        new_bytes = max(0, num_bytes - self.ready_bytes)
        self.ready_bytes += new_bytes
        return new_bytes

    def arrive(self, moved: Moved) -> None:
        self.moved_bytes += moved.num_bytes
        for piece in moved.pieces:
            self.verification.arrived(piece)
        if self.owed_bytes <= 0:
            self.deadline_s, self.owed_since_s = None, None

    def success(self, transport: str) -> PullResult:
        return PullResult(
            ticket=self.ticket,
            ok=True,
            num_ready_tokens=self.handle.num_tokens,
            output_tokens=self.output_tokens,
            num_bytes=self.total_bytes,
            transfer_s=self.settled_s - self.attached_s,
            exposed_s=self.exposed_s,
            num_verified=self.verification.num_compared,
            kv_heads=self.mapping.heads,
            wire_format=self.wire_format,
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

    def _mapped_extents(self, layer: int, index: int) -> Sequence[Extent]:
        piece = Piece(layer, layer + 1, index, index + 1)
        return tuple(self.mapping.target_extents(piece, self.target_blocks))
