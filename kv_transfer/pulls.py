"""The pulls of one link: what frames and bytes do to them."""

from collections.abc import Callable

from kv_transfer.channel import Channel
from kv_transfer.control import (
    Attached,
    Complete,
    Digests,
    Ended,
    Frame,
    Pong,
    Ready,
    Refused,
    Release,
    Released,
)
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity
from kv_transfer.hashing import HashThread
from kv_transfer.opening import Reader
from kv_transfer.pace import AS_IS, Pace, candidates
from kv_transfer.plan import Piece, Watermark
from kv_transfer.pull import Pull, PullResult, PullState
from kv_transfer.transport import Lane
from wire.kv import KVLayout

_ASIDE_BYTES = 4 << 20  # hashed in 0.4 ms, of which waking another thread for them takes 0.1 ms
_OF_A_PULL = Attached | Ready | Digests | Complete | Ended | Refused | Released


class Pulls:
    """Owns what is under way over one channel and one lane; used by the link's thread alone.

    `on_end` is called once a pull, when no byte of it is written any more.
    """

    def __init__(
        self,
        reader: Reader,
        source: Identity,
        source_layout: KVLayout,
        channel: Channel,
        lane: Lane,
        hashing: HashThread,
        on_end: Callable[[Pull, PullResult], None],
    ) -> None:
        self._reader = reader
        self._source = source
        self._source_layout = source_layout
        self._channel = channel
        self._lane = lane
        self._hashing = hashing
        self._on_end = on_end
        self._pulls: dict[int, Pull] = {}
        self._pace = Pace()

    def __len__(self) -> int:
        return len(self._pulls)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until one of them has something to do by itself, None without a limit."""
        limits = [p.deadline_s - now_s for p in self._pulls.values() if p.deadline_s is not None]
        return max(0.0, min(limits)) if limits else None

    def cancel(self, ticket: int) -> None:
        """Does nothing for a pull that is not here."""
        if ticket in self._pulls:
            self._give_up(self._pulls[ticket], FailReason.CANCELLED, "cancelled")

    def begin(self, pull: Pull) -> None:
        """Asks the source for it. What ends it from here on reports its end."""
        now_s = self._reader.clock.now()
        self._pulls[pull.ticket] = pull
        pull.wire_format = self._wire_format(pull)
        pull.bind(self._source_layout, self._reader.memory.readable)
        pull.deadline_s = now_s + self._reader.config.slack_s
        self._channel.send(pull.attach_frame())
        left_s = self._reader.quarantine.left_s(self._source, now_s)
        if left_s > 0.0:
            text = f"{self._source.worker_id}'s blocks were corrupt; not read for {left_s:.0f} s"
            self._give_up(pull, FailReason.QUARANTINED, text)
        elif pull.lacks_heads:
            text = f"{self._source.worker_id} lacks KV heads: {self._source_layout.signature}"
            self._give_up(pull, FailReason.LAYOUT_MISMATCH, text)

    def handle(self, frame: Frame) -> None:
        """Raises TransferError (MALFORMED) for a frame that says nothing of a pull."""
        if isinstance(frame, Pong):
            return
        if not isinstance(frame, _OF_A_PULL):
            raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")
        pull = self._pulls.get(frame.ticket)
        if pull is None:
            return  # cancelled or given up while this was under way
        match frame:
            case Attached():
                self._attached(pull, frame)
            case Ready():
                mark = Watermark(frame.full_tokens, frame.partial_tokens, frame.partial_layers)
                self._ready(pull, mark)
            case Digests():
                self._told(pull, frame)
            case Complete():
                pull.output_tokens = frame.output_tokens
                pull.completed_s = self._reader.clock.now()
                pull.completed_bytes = pull.moved_bytes
            case Ended() | Refused():
                self._give_up(pull, frame.reason, frame.message)
            case Released():
                self._released(pull, frame.was_valid)

    def _attached(self, pull: Pull, frame: Attached) -> None:
        if not pull.attach(frame.num_tokens, frame.block_ids, self._reader.clock.now()):
            text = "the source published another prompt under this handle"
            self._give_up(pull, FailReason.MALFORMED, text)
        elif self._lane.reads_ahead and pull.total_bytes:
            self._lane.post(pull.read(pull.piece))

    def _ready(self, pull: Pull, mark: Watermark) -> None:
        config, now_s = self._reader.config, self._reader.clock.now()
        new_bytes = pull.see(mark)
        for other in self._pulls.values():
            if other is not pull and other.owed_bytes and other.deadline_s is not None:
                other.deadline_s += config.deadline_s(new_bytes) - config.slack_s
        if pull.owed_bytes:
            if pull.owed_since_s is None:
                pull.owed_since_s = now_s
            pull.deadline_s = now_s + config.deadline_s(self._owed_bytes)
        if self._lane.reads_ahead:
            return
        while pull.total_bytes and (piece := self._next_piece(pull)) is not None:
            self._lane.post(pull.read(piece))

    def _told(self, pull: Pull, frame: Digests) -> None:
        """Of a pull whose bytes are here, the next digests may take as long again."""
        pull.verification.told(frame.regions, frame.values)
        if pull.is_whole and pull.state is PullState.READING:
            pull.deadline_s = None

    def _next_piece(self, pull: Pull) -> Piece | None:
        most = max(1, self._reader.config.piece_bytes // pull.mapping.source.region_bytes)
        return pull.cursor.take(pull.ready, most)

    def move(self) -> None:
        """Lets bytes arrive and ends what is whole."""
        for moved in self._lane.progress():
            pull = self._pulls.get(moved.ticket)
            if pull is not None:
                pull.arrive(moved)
                self._prolong(pull)
        self.settle()

    @property
    def _owed_bytes(self) -> int:
        """Of all pulls: they share the link."""
        return sum(pull.owed_bytes for pull in self._pulls.values())

    def _prolong(self, pull: Pull) -> None:
        """A pull that progresses is not late: its deadline counts from the last byte."""
        if pull.owed_since_s is None or pull.deadline_s is None:
            return
        config = self._reader.config
        limit_s = config.limit_s(sum(other.total_bytes for other in self._pulls.values()))
        next_s = self._reader.clock.now() + config.deadline_s(self._owed_bytes)
        pull.deadline_s = max(pull.deadline_s, min(next_s, pull.owed_since_s + limit_s))

    def settle(self) -> None:
        """Ends what is whole, also by what the source said meanwhile."""
        for pull in list(self._pulls.values()):
            self._settle(pull)

    def _settle(self, pull: Pull) -> None:
        """Has what arrived hashed; releases what is whole when both sides have all digests."""
        if num_bytes := pull.bytes_to_hash:
            self._hash(pull, num_bytes)
        if pull.state is not PullState.READING or not pull.is_whole:
            return
        now_s = self._reader.clock.now()
        if pull.verification.is_done:
            pull.state, pull.settled_s = PullState.RELEASING, now_s
            pull.deadline_s = now_s + self._reader.config.slack_s
            self._channel.send(Release(pull.ticket))
        elif pull.deadline_s is None:
            pull.deadline_s = now_s + self._reader.config.slack_s  # for the source's digests

    def _hash(self, pull: Pull, num_bytes: int) -> None:
        """Much at a time, beside the next copies; what is left when nothing is to come, at once."""
        verification = pull.verification
        if num_bytes >= _ASIDE_BYTES:
            pieces = verification.take()
            self._hashing.submit(lambda: verification.hash(pieces))
        elif pull.owed_bytes <= 0:
            verification.hash(verification.take())

    def _released(self, pull: Pull, was_valid: bool) -> None:
        name = self._lane.name
        if pull.state is not PullState.RELEASING or not was_valid:
            text = "the lease ended while the blocks were read"
            self._finish(pull, pull.failure(FailReason.LEASE_EXPIRED, text, name))
        elif (region := pull.verification.bad_region()) is not None:
            self._finish(pull, self._corrupt(pull, region, name))
        else:
            exposed_bytes = pull.total_bytes - pull.completed_bytes
            self._pace.record(pull.wire_format, pull.total_bytes, exposed_bytes, pull.exposed_s)
            self._finish(pull, pull.success(name))

    def _wire_format(self, pull: Pull) -> str:
        """Only sockets carry anything else than the pool's own bytes."""
        setting, layout = self._reader.config.wire_format, self._reader.layout
        names = candidates(setting, layout.dtype)
        if self._lane.name != "tcp" or not names:
            return AS_IS
        num_bytes = (len(pull.target_blocks) - pull.num_skip_blocks) * layout.block_bytes
        return setting if setting in names else self._pace.choose(num_bytes, names)

    def _corrupt(self, pull: Pull, region: int, name: str) -> PullResult:
        """The lease held, so the source's blocks are what it hashed, and what came is not."""
        source = self._source
        layer, index = divmod(region, max(1, len(pull.source_blocks)))
        text = f"block {index} of layer {layer} is not what {source.worker_id} holds"
        self._reader.log.error("kv corrupt", transport=name, source=source.worker_id, message=text)
        if self._reader.quarantine.strike(source, self._reader.clock.now()):
            self._reader.log.error("kv source quarantined", source=source.worker_id)
        return pull.failure(FailReason.CORRUPT, text, name)

    def check_deadlines(self) -> None:
        """Gives up what is owed for too long."""
        now_s = self._reader.clock.now()
        for pull in list(self._pulls.values()):
            if pull.deadline_s is not None and now_s > pull.deadline_s:
                text = f"{pull.owed_bytes} bytes did not come in time ({pull.state.value})"
                self._give_up(pull, FailReason.TIMEOUT, text)

    def _give_up(self, pull: Pull, reason: FailReason, error: str) -> None:
        """Fences the pull, lets the source have its blocks back, and ends it."""
        self._lane.drop(pull.ticket)
        self._finish(pull, pull.failure(reason, error, self._lane.name))
        self._channel.send(Release(pull.ticket))

    def _finish(self, pull: Pull, result: PullResult) -> None:
        del self._pulls[pull.ticket]
        self._on_end(pull, result)

    def fail_all(self, error: TransferError) -> None:
        """The link has ended and its lane is closed."""
        for pull in list(self._pulls.values()):
            self._finish(pull, pull.failure(error.reason, str(error), self._lane.name))
