"""The contract of a transport: a lane from one source's pool into this process's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kv_transfer.config import TransferConfig
from kv_transfer.handshake import Identity
from kv_transfer.mapping import Extent, Mapping
from kv_transfer.memory import KVMemory
from kv_transfer.pace import AS_IS
from kv_transfer.plan import CopyTable, Piece
from runtime.clock import Clock
from wire.kv import FabricAddress, KVLayout


@dataclass(frozen=True, slots=True)
class ReadOp:
    """Regions of one pull. Both block lists are the whole prompt's; the piece indexes the
    source's, and the mapping says where its bytes go."""

    ticket: int
    handle_id: bytes
    piece: Piece
    source_blocks: Sequence[int]
    target_blocks: Sequence[int]
    mapping: Mapping
    wire_format: str = AS_IS  # what a lane of sockets asks for

    @property
    def num_bytes(self) -> int:
        return self.mapping.num_bytes(self.piece)

    def joined(self, before: "ReadOp", max_bytes: int) -> "ReadOp | None":
        """This read and the one `before` it as one; None where they are not neighbours of one
        pull, or longer than that."""
        piece = before.piece.joined(self.piece)
        if piece is None or before.ticket != self.ticket:
            return None
        both = replace(self, piece=piece)
        return both if both.num_bytes <= max_bytes else None

    def copies(self) -> CopyTable:
        return self.mapping.copies(self.piece, self.source_blocks, self.target_blocks)

    def target_extents(self, piece: Piece) -> Iterator[Extent]:
        """Where the bytes of `piece` go, in the order in which the source walks them."""
        return self.mapping.target_extents(piece, self.target_blocks)


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes of one pull that lie in this process's pool since the last report.

    pieces: regions that have become whole; all pieces of a read together are the read's.
    """

    ticket: int
    num_bytes: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What a lane needs to reach one source. source_layout: its pool, with its number of blocks."""

    address: FabricAddress
    source: Identity
    source_layout: KVLayout
    layout: KVLayout
    memory: KVMemory
    secret: bytes
    config: TransferConfig
    clock: Clock


class Lane(Protocol):
    """One source's data lane. One thread uses it; it never calls back, and no call waits for more
    than a few milliseconds.

    name: what stands in results and metrics.
    reads_ahead: the source holds a read back until it is ready, so a whole pull is posted at
    once. Otherwise only pieces behind the watermark are posted.
    fd: readable when `progress` has something to do; -1 when only `wait_s` tells.
    All but `close` raise TransferError when the lane is broken: every pull on it has failed.
    """

    @property
    def name(self) -> str: ...

    @property
    def reads_ahead(self) -> bool: ...

    @property
    def fd(self) -> int: ...

    def post(self, read: ReadOp) -> None:
        """Starts a read."""

    def progress(self) -> Sequence[Moved]:
        """Moves at most a few times config.piece_bytes; gives what arrived."""

    def wait_s(self) -> float | None:
        """Seconds until `progress` is worth a call though `fd` is silent; None: it is not."""

    def drop(self, ticket: int) -> None:
        """A fence: after it no byte of this pull is written, whatever the source still sends."""

    def close(self) -> None:
        """A fence for all pulls; gives memory and sockets back."""
