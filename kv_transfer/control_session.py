"""The source's side of a control channel: one thread, started by kv_transfer.server."""

from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.channel import Channel
from kv_transfer.control import (
    Attach,
    Attached,
    Complete,
    Digests,
    Ended,
    Frame,
    Ping,
    Pong,
    Probe,
    Probed,
    Ready,
    Refused,
    Release,
    Released,
    Renew,
)
from kv_transfer.digests import MAX_DIGESTS, DigestWalk, RegionHasher, Sample
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exports import Export
from kv_transfer.mapping import Extent, region_extents
from kv_transfer.plan import Piece, Watermark, ready_blocks
from kv_transfer.sessions import Session, Source, checked_window


@dataclass(slots=True)
class _Reader:
    """One attached export and what its reader has been told."""

    export: Export
    walk: DigestWalk
    told: Watermark = Watermark()
    knows_end: bool = False
    owes_digests: bool = True


class ControlSession(Session):
    """Attaches, tells the watermark, takes releases. When it ends, so do its exports."""

    def __init__(self, channel: Channel, source: Source) -> None:
        super().__init__(channel, source)
        self._readers: dict[int, _Reader] = {}
        self._to_send: list[Frame] = []  # in this turn of the loop
        regions = max(1, source.config.piece_bytes // source.layout.region_bytes)
        self._max_digests = min(regions, MAX_DIGESTS)

    def run(self) -> None:
        """Until the connection ends, which raises TransferError."""
        try:
            while True:
                is_behind = any(reader.owes_digests for reader in self._readers.values())
                for frame in self._wait(0.0 if is_behind else None):
                    self._handle(frame)
                self._tell_endings()
                for ticket, reader in self._readers.items():
                    self._tell(ticket, reader)
                self._flush()
                for ticket, reader in self._readers.items():
                    self._tell_digests(ticket, reader)
                self._flush()
        finally:
            for reader in self._readers.values():
                self._source.exports.release(reader.export.handle_id)

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Attach():
                self._attach(frame)
            case Release():
                reader = self._readers.pop(frame.ticket, None)
                exports = self._source.exports
                was_valid = reader is not None and exports.release(reader.export.handle_id)
                self._to_send.append(Released(frame.ticket, was_valid))
            case Ping():
                self._source.exports.renew([r.export.handle_id for r in self._readers.values()])
                self._to_send.append(Pong(frame.number))
            case Renew():
                self._source.exports.renew(frame.handle_ids)
            case Probe():
                self._to_send.append(self._probe(frame))
            case _:
                raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")

    def _probe(self, frame: Probe) -> Probed | Refused:
        """A few blocks stand for many: they are read again and again."""
        blocks, most = self._source.probe_blocks, self._source.layout.num_blocks
        if not blocks or any(not 0 < count <= most for count in frame.num_blocks):
            return Refused(0, FailReason.UNKNOWN_HANDLE, "this source cannot be probed so")
        size, publish = self._source.layout.block_size, self._source.exports.publish_probe
        lists = [[blocks[at % len(blocks)] for at in range(n)] for n in frame.num_blocks]
        return Probed(tuple(publish(named, len(named) * size) for named in lists))

    def _attach(self, frame: Attach) -> None:
        if frame.ticket in self._readers:
            raise TransferError(FailReason.MALFORMED, "a ticket is used twice")
        export = self._source.exports.attach(frame.handle_id, self)
        if isinstance(export, FailReason):
            text = f"the handle cannot be read: {export.value}"
            self._to_send.append(Refused(frame.ticket, export, text))
            return
        self._readers[frame.ticket] = _Reader(export, self._digest_walk(frame, export))
        self._to_send.append(Attached(frame.ticket, export.num_tokens, export.block_ids))

    def _digest_walk(self, frame: Attach, export: Export) -> DigestWalk:
        layout = self._source.layout
        window = checked_window(frame.window, layout, export.num_tokens)

        blocks, buffer = export.block_ids, self._source.memory.readable

        def mapped(layer: int, index: int) -> Sequence[Extent]:
            assert window is not None
            return region_extents(layout, layer, blocks[index], index, window)

        sample = Sample(len(blocks), frame.digest_every, frame.digest_phase)
        piece = Piece(0, layout.num_layers, min(frame.first_index, len(blocks)), len(blocks))
        extents = mapped if window is not None else None
        return DigestWalk(RegionHasher(sample, buffer, layout, blocks, extents), piece)

    def _tell(self, ticket: int, reader: _Reader) -> None:
        """The watermark where it moved, and the end of prefill once."""
        output_tokens = reader.export.output_tokens
        mark = reader.export.watermark
        if mark != reader.told:
            reader.told = mark
            reader.owes_digests = not reader.walk.is_done
            self._to_send.append(
                Ready(ticket, mark.full_tokens, mark.partial_tokens, mark.partial_layers)
            )
        if output_tokens is not None and not reader.knows_end:
            reader.knows_end = True
            self._to_send.append(Complete(ticket, output_tokens))

    def _tell_digests(self, ticket: int, reader: _Reader) -> None:
        """Those of one turn, of blocks that the lease keeps while they are read."""
        exports, handle_id = self._source.exports, reader.export.handle_id
        if not reader.owes_digests or not exports.pin(handle_id):
            return
        try:
            ready = ready_blocks(reader.told, self._source.layout, reader.export.num_tokens)
            digests = reader.walk.take(ready, self._max_digests)
        finally:
            exports.unpin(handle_id)
        reader.owes_digests = bool(digests) and not reader.walk.is_done
        if digests:
            self._to_send.append(Digests(ticket, tuple(digests), tuple(digests.values())))

    def _tell_endings(self) -> None:
        while self._endings:
            handle_id, reason, message = self._endings.popleft()
            for ticket, reader in list(self._readers.items()):
                if reader.export.handle_id == handle_id:
                    del self._readers[ticket]
                    self._to_send.append(Ended(ticket, reason, message[:512]))

    def _flush(self) -> None:
        """One system call, and one wake-up of the reader, for all that this turn has to say."""
        if self._to_send:
            self._channel.send(*self._to_send)
            self._to_send.clear()
