"""Measures the way from a source to this host before requests depend on it."""

import queue
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from kv_transfer.config import TransferConfig
from kv_transfer.control import Probe, Probed, Refused
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity, join
from kv_transfer.importer import Importer
from kv_transfer.matrix import Measurement
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.registry import TRANSPORTS, Transports
from runtime.clock import Clock
from wire.kv import FabricAddress, KVHandle, KVLayout

_TIMEOUT_S = 60.0  # far behind every deadline of a pull


class Preflight:
    """Pulls blocks of no request into a small pool of its own, by the transport that requests get.

    `probe` blocks for some milliseconds, or until the fabric's deadlines: not for an event loop.
    """

    def __init__(
        self,
        layout: KVLayout,
        clock: Clock,
        secret: bytes,
        config: TransferConfig,
        *,
        num_small: int = 5,
        large_bytes: int = 32 << 20,
        transports: Transports = TRANSPORTS,
        allocate: Callable[[int], KVMemory] = KVMemory.allocate,
    ) -> None:
        """layout: this worker's. allocate: memory of the kind that requests are pulled into.
        num_small: pulls of one block, after one that opens the link. large_bytes: of the pull
        that measures bandwidth, at least one block.
        """
        num_blocks = max(1, large_bytes // layout.block_bytes)
        self._layout = replace(layout, num_blocks=num_blocks)
        self._clock = clock
        self._secret = secret
        self._config = replace(config, verify_share=0.0)
        self._num_small = num_small
        self._transports = transports
        self._allocate = allocate

    def probe(self, address: FabricAddress, worker_id: str, epoch: int) -> Measurement:
        """Of the source that listens at `address`; a failure is a measurement too."""
        try:
            memory = self._allocate(self._layout.pool_bytes)
        except TransferError as error:
            return Measurement(error=str(error))
        importer = Importer(
            self._layout,
            memory,
            self._clock,
            self._secret,
            self._config,
            transports=self._transports,
        )
        try:
            handles = self._handles(address, worker_id, epoch)
            return self._measure(importer, handles)
        except TransferError as error:
            return Measurement(error=str(error))
        finally:
            importer.close()
            memory.close()

    def _handles(self, address: FabricAddress, worker_id: str, epoch: int) -> list[KVHandle]:
        """One to open the link, some of one block, a large one. Raises TransferError."""
        config = self._config
        channel = dial(address, config)
        try:
            source = Identity(worker_id, epoch, self._layout.signature)
            layout = join(channel, self._secret, "control", source, config.connect_s)
            most = self._layout.num_blocks * self._layout.block_size // layout.block_size
            counts = [1] * (1 + self._num_small) + [max(1, min(most, layout.num_blocks))]
            channel.send(Probe(tuple(counts)))
            answer = channel.receive_one(config.connect_s)
        finally:
            channel.close()
        if isinstance(answer, Refused):
            raise TransferError(answer.reason, answer.message)
        if not isinstance(answer, Probed) or len(answer.handle_ids) != len(counts):
            raise TransferError(FailReason.MALFORMED, "the source did not answer the probe")
        return [
            KVHandle(name, worker_id, epoch, address, count * layout.block_size, config.lease_s)
            for name, count in zip(answer.handle_ids, counts, strict=True)
        ]

    def _measure(self, importer: Importer, handles: list[KVHandle]) -> Measurement:
        """Raises TransferError for the first pull that fails."""
        self._pull(importer, handles[0])
        latencies_s = []
        for handle in handles[1:-1]:
            begin_s = self._clock.now()
            self._pull(importer, handle)
            latencies_s.append(self._clock.now() - begin_s)
        large = self._pull(importer, handles[-1])
        bandwidth = large.num_bytes / max(large.transfer_s, 1e-9)
        return Measurement(
            median(latencies_s),
            bandwidth,
            large.transport,
            wanted_transport=large.wanted_transport,
        )

    def _pull(self, importer: Importer, handle: KVHandle) -> PullResult:
        num_blocks = -(-handle.num_tokens // self._layout.block_size)
        results: queue.Queue[PullResult] = queue.Queue()
        importer.pull(handle, range(num_blocks), 0, results.put)
        result = results.get(timeout=_TIMEOUT_S)
        if not result.ok:
            raise TransferError(result.reason or FailReason.TRANSPORT, result.error)
        return result
