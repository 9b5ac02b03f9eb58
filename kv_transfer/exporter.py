"""The source's side of the fabric: what the worker that computed the KV calls."""

import threading
from collections.abc import Callable, Sequence

from kv_transfer.config import TransferConfig
from kv_transfer.device import DeviceMemory
from kv_transfer.errors import FailReason
from kv_transfer.exports import ExportTable
from kv_transfer.handshake import Identity
from kv_transfer.memory import KVMemory, host_id
from kv_transfer.notifier import Notifier
from kv_transfer.server import Server
from kv_transfer.sessions import Source
from kv_transfer.transports.memory import MemoryHub
from kv_transfer.transports.services import Service, ServiceContext, open_services
from runtime.clock import Clock
from runtime.log import get_logger
from wire.kv import FabricAddress, KVHandle, KVLayout


class Exporter:
    """Publishes the blocks of running prefills and serves them to one reader each.

        publish -> advance* -> complete -> (reader releases) -> on_released
                \\______________ abort, lease expired, reader lost __/

    Thread-safe. The caller keeps the blocks of an export referenced from `publish` until
    `on_released(export_id)`, which comes exactly once, from any thread, perhaps before the call
    that caused it returns. advance, complete and abort of an export that has ended do nothing.
    """

    def __init__(
        self,
        layout: KVLayout,
        memory: KVMemory,
        worker_id: str,
        epoch: int,
        clock: Clock,
        secret: bytes,
        config: TransferConfig,
        *,
        on_released: Callable[[int], None],
        hub: MemoryHub | None = None,
        probe_blocks: Sequence[int] = (),
    ) -> None:
        """hub: offers the pool to importers of the same process by the transport `memory`.
        probe_blocks: of the pool, never given to a request, for readers that measure the way
        here (kv_transfer.preflight); without any, probes are refused.
        """
        assert memory.num_bytes >= layout.pool_bytes
        assert all(0 <= block < layout.num_blocks for block in probe_blocks)
        self._layout = layout
        self._memory = memory
        self._clock = clock
        self._config = config
        self._hub = hub
        self._notifier = Notifier()
        self._exports = ExportTable(
            layout.num_layers, config.lease_s, clock, self._notifier.defer, on_released
        )
        self._me = Identity(worker_id, epoch, layout.signature)
        self._log = get_logger("kv_transfer")
        self._source = Source(layout, memory, self._exports, config, tuple(probe_blocks))
        self._server = Server(self._source, self._me, secret, self._log)
        self._exports.call_on_grant(self._server.poke)
        self._services: dict[str, Service] = {}
        self._address: FabricAddress | None = None
        self._closing = threading.Lock()

    def start(self, host: str, port: int = 0, *, advertised_host: str = "") -> FabricAddress:
        """Listens on `host`; readers connect to `advertised_host`, which is `host` if empty.

        Raises OSError when the port is not free or a forced transport cannot be started.
        """
        self._services = open_services(ServiceContext(self._source, host, self._clock), self._log)
        port, shm_path = self._server.start(host, port, self._services)
        self._notifier.start()
        built_in = () if isinstance(self._memory, DeviceMemory) else ("tcp",)
        names = (*self._services, *(("shm",) if shm_path else ()), *built_in)
        if self._hub is not None:
            self._hub.offer(port, self._memory)
            names = ("memory", *names)
        self._address = FabricAddress(
            advertised_host or host,
            port,
            host_id(),
            shm_path,
            names,
            tls=self._config.tls is not None,
        )
        return self._address

    @property
    def num_active(self) -> int:
        """Exports whose blocks are still held."""
        return self._exports.num_requests

    def publish(
        self, export_id: int, block_ids: Sequence[int], num_tokens: int, num_ready_tokens: int
    ) -> KVHandle:
        """The right to read a prompt of `num_tokens`, of which the first `num_ready_tokens` are
        computed; `block_ids` are its blocks in order, the last one perhaps partial."""
        assert self._address is not None, "publish before start"
        assert len(block_ids) == -(-num_tokens // self._layout.block_size)
        assert all(0 <= block < self._layout.num_blocks for block in block_ids)
        handle_id = self._exports.publish(export_id, block_ids, num_tokens, num_ready_tokens)
        return KVHandle(
            handle_id,
            self._me.worker_id,
            self._me.epoch,
            self._address,
            num_tokens,
            self._config.lease_s,
        )

    def advance(self, export_id: int, num_tokens: int, num_layers: int) -> None:
        """Layers < num_layers hold the KV of tokens < num_tokens. Costs microseconds."""
        self._exports.advance(export_id, num_tokens, num_layers)

    def complete(self, export_id: int, output_tokens: tuple[int, ...]) -> None:
        """Every layer of every token is computed and the first output is known."""
        self._exports.complete(export_id, output_tokens)

    def abort(self, export_id: int, reason: str) -> None:
        """Takes the export back: its reader, present or future, fails with `reason`."""
        self._exports.abort(export_id, FailReason.PREFILL_ABORTED, reason)

    def drain(self, timeout_s: float) -> bool:
        """Waits for the readers; whether every export has ended."""
        return self._exports.wait_empty(timeout_s)

    def check_integrity(self) -> None:
        """Raises AssertionError when the books do not agree."""
        self._exports.check_integrity()

    def close(self) -> None:
        """Ends every export, every connection and every thread; safe to call twice."""
        with self._closing:
            self._exports.abort_all(FailReason.CLOSED, "the source is shutting down")
            if self._hub is not None and self._address is not None:
                self._hub.withdraw(self._address.port)
            self._server.close()
            for service in self._services.values():
                service.close()
            self._notifier.close()
