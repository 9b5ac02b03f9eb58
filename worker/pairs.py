"""Measures the way from every worker that this one may pull from, as they join."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from kv_transfer.matrix import Entry, Measurement, PairMatrix
from kv_transfer.preflight import Preflight
from runtime.clock import Clock
from runtime.log import get_logger
from wire import rpc
from wire.channel_ring import ChannelRing
from wire.cluster import ClusterSnapshot, Fingerprint, PairStatus, WorkerInfo, pair_refusal

_RETRY_S = 1.0
log = get_logger("worker")


class PairWatch:
    """Follows the cluster and probes each new process of a worker that this one may pull from.

    `pairs` is what this worker tells of itself: a measurement of each such worker, and for others
    that serve the same model the reason why nothing is read from them. `on_change` is called when
    it has changed.
    """

    def __init__(
        self,
        worker_id: str,
        own: Fingerprint,
        preflight: Preflight,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._worker_id = worker_id
        self._own = own
        self._preflight = preflight
        self._clock = clock
        self._on_change = on_change
        self._matrix = PairMatrix()
        self._probed: dict[str, int] = {}  # worker_id -> epoch
        self._refusals: dict[str, str] = {}  # worker_id -> why it is not read from

    @property
    def pairs(self) -> tuple[PairStatus, ...]:
        refused = [
            PairStatus(source, 0.0, 0.0, "", refusal=text)
            for source, text in self._refusals.items()
        ]
        return (*map(_status, self._matrix.entries()), *refused)

    async def run(self, address: str, token: str) -> None:
        """Until cancelled; a control plane that is gone is tried again."""
        ring = ChannelRing(address)
        try:
            while True:
                try:
                    async for snapshot in rpc.watch(ring.channel, self._worker_id, token):
                        await self._probe_new(snapshot)
                except rpc.RpcError:
                    await ring.move_on()  # registration tells of it
                await asyncio.sleep(_RETRY_S)
        finally:
            await ring.close()

    async def _probe_new(self, snapshot: ClusterSnapshot) -> None:
        here = {worker.worker_id for worker in snapshot.workers}
        for gone in self._probed.keys() - here:
            del self._probed[gone]
            self._refusals.pop(gone, None)
        for worker in snapshot.workers:
            if not self._is_new(worker):
                continue
            self._probed[worker.worker_id] = worker.epoch
            if refusal := pair_refusal(worker.fingerprint, self._own):
                self._refuse(worker, refusal)
            else:
                self._refusals.pop(worker.worker_id, None)
                await self._probe(worker)

    def _is_new(self, worker: WorkerInfo) -> bool:
        is_other = worker.worker_id != self._worker_id
        return is_other and self._probed.get(worker.worker_id) != worker.epoch

    def _refuse(self, worker: WorkerInfo, refusal: str) -> None:
        """Another model's worker is no surprise; one of this model should have paired."""
        if worker.fingerprint.model != self._own.model:
            return
        log.warning("pair_refused", source=worker.worker_id, reason=refusal)
        self._matrix.forget(worker.worker_id)
        self._refusals[worker.worker_id] = refusal
        self._on_change()

    async def _probe(self, worker: WorkerInfo) -> None:
        measured = await _in_thread(
            lambda: self._preflight.probe(worker.fabric, worker.worker_id, worker.epoch)
        )
        entry = self._matrix.record(worker.worker_id, self._worker_id, measured, self._clock.now())
        for alarm in entry.alarms:
            log.warning("pair_alarm", source=alarm.source, kind=alarm.kind, message=alarm.message)
        self._on_change()


async def _in_thread(probe: Callable[[], Measurement]) -> Measurement:
    """Runs a probe on a thread that the process's end does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Measurement] = loop.create_future()

    def finish(measured: Measurement) -> None:
        if not done.done():
            done.set_result(measured)

    def work() -> None:
        measured = probe()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, measured)

    threading.Thread(target=work, name="preflight", daemon=True).start()
    return await done


def _status(entry: Entry) -> PairStatus:
    measured = entry.measured
    return PairStatus(
        entry.source,
        measured.latency_s,
        measured.bandwidth_bytes_s,
        measured.transport,
        tuple(alarm.message for alarm in entry.alarms),
        measured.wanted_transport,
    )
