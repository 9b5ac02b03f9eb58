"""The reader's side of the fabric: what the worker that continues a request calls."""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from kv_transfer.config import TransferConfig
from kv_transfer.handshake import Identity
from kv_transfer.link import Hold, Link
from kv_transfer.memory import KVMemory, host_id
from kv_transfer.opening import Reader
from kv_transfer.pace import SETTINGS
from kv_transfer.pull import Pull, PullResult
from kv_transfer.quarantine import Quarantine
from kv_transfer.shards import ShardedPull
from kv_transfer.transports.interfaces import rdma_devices
from kv_transfer.transports.registry import TRANSPORTS, Transports, candidates
from runtime.clock import Clock
from runtime.log import get_logger
from wire.kv import FabricAddress, KVHandle, KVLayout

_Peer = tuple[FabricAddress, Identity]


class Importer:
    """Pulls published blocks into this process's pool, behind prefill's watermark.

    Thread-safe. A link to a source is opened by the first pull, shared by all and kept. The
    caller leaves the destination blocks alone from `pull` until on_done, which comes exactly once
    from the link's thread, in every case, after the last byte that may ever be written.
    """

    def __init__(
        self,
        layout: KVLayout,
        memory: KVMemory,
        clock: Clock,
        secret: bytes,
        config: TransferConfig,
        *,
        transports: Transports = TRANSPORTS,
    ) -> None:
        assert memory.num_bytes >= layout.pool_bytes
        assert config.wire_format in SETTINGS, f"no wire format {config.wire_format!r}"
        self._log = get_logger("kv_transfer")
        self._reader = Reader(
            layout,
            memory,
            clock,
            secret,
            config,
            transports,
            host_id(),
            bool(rdma_devices()),
            self._log,
            self._count_fallback,
            Quarantine(config.strikes, config.quarantine_s),
        )
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()
        self._links: dict[_Peer, Link] = {}
        self._running: dict[int, Link] = {}
        self._threads: set[Link] = set()
        self._is_closed = False
        self.num_fallbacks = 0

    @property
    def num_active(self) -> int:
        """Pulls whose on_done has not been called."""
        return len(self._running)

    def pull(
        self,
        handle: KVHandle,
        block_ids: Sequence[int],
        num_skip_blocks: int,
        on_done: Callable[[PullResult], None],
        *,
        verify_share: float | None = None,
    ) -> int:
        """Reads the prompt of `handle` into `block_ids`, one per block of the prompt, of which
        the first `num_skip_blocks` are held already and not written. Gives the ticket.

        The source may have another block size and more KV heads than this process; one that lacks
        some of its heads is refused with LAYOUT_MISMATCH.
        verify_share: of the regions, how many are compared by digest; None: as configured.
        """
        pull = self._new_pull(handle, block_ids, num_skip_blocks, on_done, verify_share)
        self._submit(pull)
        return pull.ticket

    def pull_shards(
        self,
        handles: Sequence[KVHandle],
        block_ids: Sequence[int],
        num_skip_blocks: int,
        on_done: Callable[[PullResult], None],
        *,
        verify_share: float | None = None,
    ) -> int:
        """`pull` of one prompt from several sources that each hold a share of its KV heads."""
        assert len({handle.num_tokens for handle in handles}) == 1
        heads = self._reader.layout.kv_heads
        whole = ShardedPull(heads, len(handles), self.cancel, on_done)
        pulls = [
            self._new_pull(handle, block_ids, num_skip_blocks, whole.ended, verify_share)
            for handle in handles
        ]
        for pull in pulls:
            pull.is_part = True
            self._submit(pull)
        whole.begun([pull.ticket for pull in pulls])
        return pulls[0].ticket

    def hold(self, handle: KVHandle) -> None:
        """Keeps the lease of a handle that waits for room here, until it is pulled or let go. A
        source that cannot be reached is found out by the pull."""
        self._ask(handle, lambda link: link.hold(Hold(handle.handle_id)))

    def let_go(self, handle: KVHandle) -> None:
        """Ends `hold`; the lease then ends by itself."""
        with self._lock:
            link = self._links.get(self._peer(handle))
        if link is not None:
            link.hold(Hold(handle.handle_id, is_on=False))

    def cancel(self, ticket: int) -> None:
        """Ends a pull early; on_done comes all the same. Does nothing once it has come."""
        with self._lock:
            link = self._running.get(ticket)
        if link is not None:
            link.cancel(ticket)

    def check_integrity(self) -> None:
        """Raises AssertionError when a pull is under way on a link that is gone."""
        with self._lock:
            for link in self._running.values():
                assert link in self._threads

    def close(self) -> None:
        """Fails what is under way, ends every link and thread; safe to call twice."""
        with self._lock:
            self._is_closed = True
            links = list(self._threads)
        for link in links:
            link.close()
        for link in links:
            link.join()

    def _new_pull(
        self,
        handle: KVHandle,
        block_ids: Sequence[int],
        num_skip_blocks: int,
        on_done: Callable[[PullResult], None],
        verify_share: float | None,
    ) -> Pull:
        layout = self._reader.layout
        assert len(block_ids) == -(-handle.num_tokens // layout.block_size)
        assert all(0 <= block < layout.num_blocks for block in block_ids)
        assert 0 <= num_skip_blocks <= len(block_ids)
        ticket = next(self._tickets)
        share = self._reader.config.verify_share if verify_share is None else verify_share
        return Pull(ticket, handle, tuple(block_ids), num_skip_blocks, layout, on_done, share)

    def _submit(self, pull: Pull) -> None:
        self._ask(pull.handle, lambda link: link.submit(pull), pull.ticket)

    def _ask(
        self, handle: KVHandle, ask: Callable[[Link], bool], ticket: int | None = None
    ) -> None:
        """Of the link to the handle's source, or of a new one. ask: False when the link has ended.
        ticket: of a pull that runs from here on."""
        peer = self._peer(handle)
        with self._lock:
            assert not self._is_closed, "asked after close"
            link = self._links.get(peer)
            if link is None or not ask(link):
                link = self._open(peer)
                ask(link)
                link.start()
            if ticket is not None:
                self._running[ticket] = link

    def _peer(self, handle: KVHandle) -> _Peer:
        layout = self._reader.layout
        return handle.address, Identity(handle.worker_id, handle.epoch, layout.signature)

    def _open(self, peer: _Peer) -> Link:
        """A new link; those whose threads have ended are forgotten on this occasion."""
        self._links = {other: link for other, link in self._links.items() if link.is_alive}
        self._threads = {link for link in self._threads if link.is_alive}
        link = self._links[peer] = Link(self._reader, *peer, self._finish)
        self._threads.add(link)
        return link

    def _finish(self, pull: Pull, result: PullResult) -> None:
        """Called by the link's thread; a fault of the caller's code must not end the link."""
        with self._lock:
            del self._running[pull.ticket]
        reader = self._reader
        address, here = pull.handle.address, (reader.host_id, reader.has_rdma)
        result = replace(result, wanted_transport=candidates(reader.config, address, *here)[0])
        try:
            pull.on_done(result)
        except Exception as error:  # the caller's, whose fault it is
            self._log.error("a pull's on_done failed", ticket=pull.ticket, error=repr(error))

    def _count_fallback(self) -> None:
        self.num_fallbacks += 1
