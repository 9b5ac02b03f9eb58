"""The frames of the control channel, and how they stand in the byte stream.

    reader                                   source
           <- Challenge
    Hello ->
           <- Welcome | Refused                        (membership, layout and epoch agree)
    Attach ->
           <- Attached | Refused
           <- Ready*  Digests*  Complete | Ended       (behind prefill)
    Release ->
           <- Released                                 (was the lease valid all along?)
    Ping ->
           <- Pong                                     (renews the leases of this connection)
    Renew ->                                           (of handles whose readers wait for room)
    Probe ->
           <- Probed | Refused                         (blocks of no request, for preflight)

A frame is a little-endian uint32 length and that many bytes of msgpack, validated as it is read.
"""

import struct
from typing import Annotated

import msgspec

from kv_transfer.errors import FailReason, TransferError

MAX_FRAME_BYTES = 1 << 20
MAX_HANDSHAKE_BYTES = 4096
MAX_RENEWED = 4096
PROTOCOL = 2

_LENGTH = struct.Struct("<I")

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Ticket = Annotated[int, msgspec.Meta(ge=0)]
HandleId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Digest = Annotated[int, msgspec.Meta(ge=0)]
Bounds = tuple[Count, Count, Count, Count]
Text = Annotated[str, msgspec.Meta(max_length=512)]
Metadata = Annotated[bytes, msgspec.Meta(max_length=1 << 16)]
Address = Annotated[int, msgspec.Meta(ge=0)]
Device = Annotated[int, msgspec.Meta(ge=-1, lt=2**16)]


class Challenge(msgspec.Struct, frozen=True, tag=1, array_like=True):
    nonce: Nonce
    protocol: Count = PROTOCOL


class Hello(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """purpose: "control", "data" (tcp), "memory" (shm), "nixl" or "ucx"."""

    purpose: Text
    nonce: Nonce
    proof: Nonce
    worker_id: Text
    epoch: Ticket
    signature: Text


class Welcome(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """num_blocks, signature: the source's pool."""

    proof: Nonce
    num_blocks: Count
    signature: Text


class Refused(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """ticket: the attach that is refused; 0 refuses the connection."""

    ticket: Ticket
    reason: FailReason
    message: Text


class Attach(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """window: what is read of each block where the layouts differ, see mapping.Window.
    first_index: of the first block that is read.
    digest_every, digest_phase: see digests.Sample; 0 asks for no digests.
    """

    ticket: Ticket
    handle_id: HandleId
    window: Bounds | None = None
    first_index: Count = 0
    digest_every: Count = 0
    digest_phase: Count = 0


class Attached(msgspec.Struct, frozen=True, tag=6, array_like=True):
    ticket: Ticket
    num_tokens: Count
    block_ids: tuple[Count, ...]


class Ready(msgspec.Struct, frozen=True, tag=7, array_like=True):
    """plan.Watermark on the wire."""

    ticket: Ticket
    full_tokens: Count
    partial_tokens: Count
    partial_layers: Count


class Complete(msgspec.Struct, frozen=True, tag=8, array_like=True):
    ticket: Ticket
    output_tokens: tuple[Count, ...]


class Ended(msgspec.Struct, frozen=True, tag=9, array_like=True):
    """The source took the export back: aborted or expired."""

    ticket: Ticket
    reason: FailReason
    message: Text


class Release(msgspec.Struct, frozen=True, tag=10, array_like=True):
    ticket: Ticket


class Released(msgspec.Struct, frozen=True, tag=11, array_like=True):
    ticket: Ticket
    was_valid: bool


class Ping(msgspec.Struct, frozen=True, tag=12, array_like=True):
    number: Ticket


class Pong(msgspec.Struct, frozen=True, tag=13, array_like=True):
    number: Ticket


class Renew(msgspec.Struct, frozen=True, tag=18, array_like=True):
    """The reader will attach these handles once it has room. Not answered; a handle that has ended
    is passed over."""

    handle_ids: Annotated[tuple[HandleId, ...], msgspec.Meta(max_length=MAX_RENEWED)]


class Read(msgspec.Struct, frozen=True, tag=14, array_like=True):
    """On a tcp data connection: send these regions, as they become ready. On a ucx connection:
    send these regions, which are ready."""

    ticket: Ticket
    handle_id: HandleId
    first_layer: Count
    end_layer: Count
    first_index: Count
    end_index: Count
    window: Bounds | None = None
    wire_format: Text = "as_is"


class Probe(msgspec.Struct, frozen=True, tag=16, array_like=True):
    """Publish these numbers of blocks, each for one read that measures the way here."""

    num_blocks: Annotated[tuple[Count, ...], msgspec.Meta(max_length=64)]


class Probed(msgspec.Struct, frozen=True, tag=17, array_like=True):
    handle_ids: tuple[HandleId, ...]


class Digests(msgspec.Struct, frozen=True, tag=15, array_like=True):
    """What the sampled regions that have become readable hold, by layer * blocks + index."""

    ticket: Ticket
    regions: tuple[Count, ...]
    values: tuple[Digest, ...]


class Offer(msgspec.Struct, frozen=True, tag=20, array_like=True):
    """On a nixl or cuda_ipc connection: how this pool is read. metadata: addresses and keys of the
    source's agent, or the handle of its memory. address: where the pool of `num_bytes` starts in
    the source's process. device: the number of the GPU that holds it, -1 for host memory."""

    metadata: Metadata
    address: Address
    num_bytes: Address
    device: Device = -1


class Meet(msgspec.Struct, frozen=True, tag=21, array_like=True):
    """On a ucx connection: where the reader's port receives. Each Read is then answered by one
    message whose tag is the Read's ticket."""

    address: Metadata


Frame = (
    Challenge | Hello | Welcome | Refused | Attach | Attached | Ready | Complete | Ended
    | Release | Released | Ping | Pong | Read | Digests
    | Offer | Meet | Probe | Probed | Renew
)  # fmt: skip

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    body = _ENCODER.encode(frame)
    assert len(body) <= MAX_FRAME_BYTES
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Bytes in, whole frames out. A frame longer than `max_bytes` is refused before it is read."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises TransferError (MALFORMED)."""
        rest = self._bytes
        if not rest and self._is_one_frame(data):
            return [_decode(memoryview(data)[_LENGTH.size :])]
        rest += data
        frames: list[Frame] = []
        start = 0
        while (end := self._end(start)) <= len(rest):
            frames.append(_decode(rest[start + _LENGTH.size : end]))
            start = end
        del rest[:start]
        return frames

    def _is_one_frame(self, data: bytes) -> bool:
        """Which need not be kept for what follows."""
        size = len(data) - _LENGTH.size
        return 0 <= size <= self.max_bytes and _LENGTH.unpack_from(data)[0] == size

    def _end(self, start: int) -> int:
        """Where the frame ends that begins at `start`, at least."""
        if len(self._bytes) < start + _LENGTH.size:
            return start + _LENGTH.size
        (length,) = _LENGTH.unpack_from(self._bytes, start)
        if length > self.max_bytes:
            raise TransferError(FailReason.MALFORMED, f"a frame of {length} bytes is too long")
        return start + _LENGTH.size + int(length)


def _decode(body: bytearray | memoryview) -> Frame:
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise TransferError(FailReason.MALFORMED, f"not a frame: {error}") from error
