"""The published exports of a source: blocks, watermarks, leases, readers. Thread-safe."""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kv_transfer.errors import FailReason
from kv_transfer.leases import LeaseTable
from kv_transfer.plan import Watermark
from runtime.clock import Clock


class Listener(Protocol):
    """A connection that serves an export. Both methods only leave word and wake its thread."""

    def wake(self) -> None: ...

    def ended(self, handle_id: bytes, reason: FailReason, message: str) -> None: ...


@dataclass(slots=True)
class Export:
    """One request's published blocks.

    watermark and output_tokens are written by the engine's thread alone, without a lock; a reader
    that sees output_tokens before it looks at the watermark sees the whole one.
    """

    export_id: int
    handle_id: bytes
    block_ids: tuple[int, ...]
    num_tokens: int
    watermark: Watermark
    output_tokens: tuple[int, ...] | None = None
    listeners: list[Listener] = field(default_factory=list)

    def wake(self) -> None:
        for listener in list(self.listeners):
            listener.wake()


class ExportTable:
    """Every export from its publication until its blocks may be reused.

    `on_released` is called exactly once an export, outside of the lock, from any thread.
    """

    def __init__(
        self,
        num_layers: int,
        lease_s: float,
        clock: Clock,
        defer: Callable[[Callable[[], None]], None],
        on_released: Callable[[int], None],
    ) -> None:
        """defer: runs a call soon, in another thread."""
        self._num_layers = num_layers
        self._clock = clock
        self._defer = defer
        self._on_released = on_released
        self._leases = LeaseTable(lease_s)
        self._by_handle: dict[bytes, Export] = {}
        self._by_id: dict[int, Export] = {}
        self._num_probes = 0
        self._on_grant: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    @property
    def num_requests(self) -> int:
        """Exports of requests that have not ended; probes hold no request's blocks."""
        return sum(export_id >= 0 for export_id in tuple(self._by_id))

    def call_on_grant(self, on_grant: Callable[[], None]) -> None:
        """Has `on_grant` called, in the deferring thread, when there is a new lease to watch."""
        self._on_grant = on_grant

    def publish(
        self, export_id: int, block_ids: Sequence[int], num_tokens: int, num_ready_tokens: int
    ) -> bytes:
        """Gives the handle's id. An export id is used by one live export; those of requests are
        not negative."""
        handle_id = secrets.token_bytes(16)
        ready = Watermark(num_ready_tokens)
        export = Export(export_id, handle_id, tuple(block_ids), num_tokens, ready)
        with self._lock:
            assert export_id not in self._by_id, f"export {export_id} is published twice"
            self._by_handle[handle_id] = self._by_id[export_id] = export
            self._leases.grant(handle_id, self._clock.now())
        self._defer(self._on_grant)
        return handle_id

    def publish_probe(self, block_ids: Sequence[int], num_tokens: int) -> bytes:
        """An export of no request, computed already: `on_released` is not called for it."""
        with self._lock:
            self._num_probes += 1
            export_id = -self._num_probes
        handle_id = self.publish(export_id, block_ids, num_tokens, num_tokens)
        self.complete(export_id, ())
        return handle_id

    def advance(self, export_id: int, num_tokens: int, num_layers: int) -> None:
        """Does nothing for an export that has ended. Takes no lock, makes no system call."""
        export = self._by_id.get(export_id)
        if export is not None:
            mark = export.watermark
            export.watermark = mark.advanced(num_tokens, num_layers, self._num_layers)
            self._defer(export.wake)

    def complete(self, export_id: int, output_tokens: tuple[int, ...]) -> None:
        """Does nothing for an export that has ended. Takes no lock, makes no system call."""
        export = self._by_id.get(export_id)
        if export is not None:
            export.watermark = Watermark(export.num_tokens)
            export.output_tokens = output_tokens
            self._defer(export.wake)

    def attach(self, handle_id: bytes, listener: Listener) -> Export | FailReason:
        """The export, for its one reader; else why not."""
        with self._lock:
            if not self._leases.is_valid(handle_id):
                return FailReason.UNKNOWN_HANDLE
            if not self._leases.attach(handle_id, self._clock.now()):
                return FailReason.ALREADY_ATTACHED
            export = self._by_handle[handle_id]
            export.listeners.append(listener)
            return export

    def listen(self, handle_id: bytes, listener: Listener) -> Export | None:
        """The export of an attached handle, for a connection that sends its bytes."""
        with self._lock:
            if not self._leases.is_valid(handle_id) or not self._leases.is_attached(handle_id):
                return None
            export = self._by_handle[handle_id]
            if listener not in export.listeners:
                export.listeners.append(listener)
            return export

    def renew(self, handle_ids: Sequence[bytes]) -> None:
        now_s = self._clock.now()
        with self._lock:
            for handle_id in handle_ids:
                self._leases.renew(handle_id, now_s)

    def pin(self, handle_id: bytes) -> bool:
        """Keeps the blocks until `unpin`; False when the lease has ended."""
        with self._lock:
            return self._leases.pin(handle_id)

    def pin_attached(self, handle_id: bytes) -> Export | None:
        """Pins the export of an attached handle; None when there is none or its lease ended."""
        with self._lock:
            if not self._leases.is_attached(handle_id) or not self._leases.pin(handle_id):
                return None
            return self._by_handle[handle_id]

    def unpin(self, handle_id: bytes) -> None:
        with self._lock:
            if not self._leases.unpin(handle_id):
                return
            freed = self._forget(handle_id)
        self._report([freed])

    def release(self, handle_id: bytes) -> bool:
        """The reader is done; whether the lease was valid until now. Safe to repeat."""
        with self._lock:
            was_valid = self._leases.is_valid(handle_id)
            freed = [self._forget(handle_id)] if self._leases.end(handle_id) else []
        self._report(freed)
        return was_valid

    def abort(self, export_id: int, reason: FailReason, message: str) -> None:
        """Takes an export back and tells its reader. Safe to repeat."""
        with self._lock:
            export = self._by_id.get(export_id)
            if export is None or not self._leases.is_valid(export.handle_id):
                return
            ended = self._leases.end(export.handle_id)
            freed = [self._forget(export.handle_id)] if ended else []
            listeners = list(export.listeners)
        for listener in listeners:
            listener.ended(export.handle_id, reason, message)
        self._report(freed)

    def abort_all(self, reason: FailReason, message: str) -> None:
        with self._lock:
            export_ids = list(self._by_id)
        for export_id in export_ids:
            self.abort(export_id, reason, message)

    def expire(self) -> float | None:
        """Ends late leases; gives the seconds until the next one can be late, None without any."""
        now_s = self._clock.now()
        with self._lock:
            freed = [self._forget(handle_id) for handle_id in self._leases.expire(now_s)]
            deadline_s = self._leases.next_deadline_s()
        for export in freed:
            for listener in export.listeners:
                listener.ended(export.handle_id, FailReason.LEASE_EXPIRED, "the lease expired")
        self._report(freed)
        return None if deadline_s is None else max(0.0, deadline_s - now_s)

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether every request's export has ended within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.num_requests, timeout_s)

    def check_integrity(self) -> None:
        """Raises AssertionError when exports and leases do not belong together."""
        with self._lock:
            self._leases.check_integrity()
            assert len(self._leases) == len(self._by_handle) == len(self._by_id)
            for handle_id, export in self._by_handle.items():
                assert handle_id in self._leases
                assert self._by_id[export.export_id] is export

    def _forget(self, handle_id: bytes) -> Export:
        export = self._by_handle.pop(handle_id)
        del self._by_id[export.export_id]
        return export

    def _report(self, freed: Sequence[Export]) -> None:
        for export in freed:
            if export.export_id >= 0:
                self._on_released(export.export_id)
        if freed:
            with self._changed:
                self._changed.notify_all()
