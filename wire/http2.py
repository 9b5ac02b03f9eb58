"""HTTP/2 frames, as far as one call of a client needs them (RFC 9113, RFC 7541)."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_WINDOW = 65_535  # of a stream and of a connection, before anybody says otherwise
MAX_WINDOW = 2**31 - 1
FIRST_MAX_FRAME = 1 << 14
CANCEL = 8  # the error code
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20  # flags

_HEADER_BYTES = 9


class Kind(IntEnum):
    """Frames of any other kind are to be ignored."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class FrameError(Exception):
    """The peer's bytes are no HTTP/2."""


@dataclass(frozen=True, slots=True)
class Frame:
    """stream: 0 for the connection itself."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def content(self) -> bytes:
        """The payload of DATA or HEADERS without padding and priority. Raises FrameError."""
        start, end = 0, len(self.payload)
        if self.flags & PADDED:
            start, end = 1, end - (self.payload[0] if self.payload else 1)
        if self.flags & PRIORITY and self.kind == Kind.HEADERS:
            start += 5
        if start > end:
            raise FrameError("a frame is shorter than its padding")
        return self.payload[start:end] if start else self.payload

    def number(self) -> int:
        """The 32 bits that the payload is. Raises FrameError."""
        if len(self.payload) < 4:
            raise FrameError(f"a frame of kind {self.kind} has {len(self.payload)} bytes")
        return int.from_bytes(self.payload[:4])


def encode(kind: Kind, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def encode_number(kind: Kind, stream: int, number: int) -> bytes:
    """WINDOW_UPDATE and RST_STREAM."""
    return encode(kind, 0, stream, number.to_bytes(4))


def encode_settings(settings: Iterable[tuple[Setting, int]]) -> bytes:
    content = b"".join(struct.pack(">HI", key, value) for key, value in settings)
    return encode(Kind.SETTINGS, 0, 0, content)


def decode_settings(payload: bytes) -> list[tuple[int, int]]:
    """Raises FrameError."""
    if len(payload) % 6:
        raise FrameError(f"settings of {len(payload)} bytes")
    return list(struct.iter_unpack(">HI", payload))


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as literals that no table keeps."""
    return b"".join(
        b"\x10" + _literal(name.encode()) + _literal(value.encode()) for name, value in fields
    )


def _literal(text: bytes) -> bytes:
    size, mask = len(text), 0x7F  # without Huffman's coding
    if size < mask:
        return bytes((size,)) + text
    size, head = size - mask, bytearray((mask,))
    while size >= 0x80:
        head.append(0x80 | size & 0x7F)
        size >>= 7
    head.append(size)
    return bytes(head) + text


class FrameReader:
    """Bytes as they come in, frames out."""

    def __init__(self, max_bytes: int = FIRST_MAX_FRAME) -> None:
        """max_bytes: of a payload."""
        self._max_bytes = max_bytes
        self._rest = b""

    def push(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole. Raises FrameError for one that is too large."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= _HEADER_BYTES:
            high, low, kind, flags, stream = struct.unpack_from(">BHBBI", data, at)
            size = high << 16 | low
            if size > self._max_bytes:
                raise FrameError(f"a frame of {size} bytes, at most {self._max_bytes} go")
            start = at + _HEADER_BYTES
            if start + size > end:
                break
            at = start + size
            yield Frame(kind, flags, stream & MAX_WINDOW, data[start:at])
        self._rest = data[at:]
