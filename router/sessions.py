"""All workers of the cluster: one session each, and what placement may choose among."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from profiles.catalog import load_profile
from router.candidates import Candidate, ClusterView, WorkerState
from router.config import RouterConfig
from router.load import NO_SHARE, LoadShare
from router.pairs import PairLinks, pair_links
from router.parts import LIVE_PARTS, Parts
from router.pools import CandidatePools
from router.predictor import StepPredictor, profile_costs
from router.prefix_map import PrefixMap
from router.session import WorkerSession
from runtime.clock import Clock
from runtime.metrics import Metrics
from wire.cluster import Fingerprint, Mode, WorkerInfo, may_pair
from wire.messages import Role

_CHECKS_PER_TIMEOUT = 20
_LATE_FACTOR = 5
_PUBLISH_EVERY_S = 1.0


class Sessions:
    """Follows the registry: opens, updates and ends sessions; checks that workers are alive.

    A worker that the registry drops gets no new legs and is left when its last leg has ended; a
    new epoch of a worker replaces the old one at once.
    """

    def __init__(
        self,
        config: RouterConfig,
        clock: Clock,
        metrics: Metrics,
        prefix_map: PrefixMap,
        parts: Parts = LIVE_PARTS,
    ) -> None:
        self._config = config
        self._parts = parts
        self._clock = clock
        self._metrics = metrics
        self._prefix_map = prefix_map
        self._by_id: dict[str, WorkerSession] = {}
        self._dropped: dict[str, None] = {}  # not listed any more, but legs still run
        self._groups: dict[Fingerprint, int] = {}
        self._predictors: dict[int, StepPredictor] = {}  # by group, for what a worker never ran
        self._seed = profile_costs(load_profile(config.profile)) if config.profile else None
        self._pools = CandidatePools()
        self._changed: set[str] = set()  # workers whose candidates may be others than in the view
        self._is_resorted = False  # the order of the workers may be another
        self._links: PairLinks | None = None
        self._mode = Mode.HYBRID
        self._view: ClusterView | None = None
        self._change: asyncio.Event | None = None  # there while somebody waits for a change
        self._closing: set[asyncio.Task[None]] = set()
        self._watchdog: asyncio.Task[None] | None = None
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def start(self) -> None:
        self._watchdog = asyncio.get_running_loop().create_task(self._watch_liveness())

    async def stop(self) -> None:
        """Ends every session; open legs fail with WORKER_LOST."""
        self._is_stopped = True
        self._on_change()
        if self._watchdog is not None:
            self._watchdog.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watchdog
        for worker_id in list(self._by_id):
            self._end(worker_id)
        await asyncio.gather(*self._closing)

    def get(self, worker_id: str) -> WorkerSession:
        """The session of a worker that the current view holds."""
        return self._by_id[worker_id]

    def all(self) -> tuple[WorkerSession, ...]:
        return tuple(self._by_id.values())

    def update(self, workers: Sequence[WorkerInfo], mode: Mode = Mode.HYBRID) -> None:
        """The registry's newest list of all workers, and the mode in which they serve."""
        self._mode = mode
        listed = {info.worker_id for info in workers}
        for info in workers:
            self._dropped.pop(info.worker_id, None)
            known = self._by_id.get(info.worker_id)
            if known is not None and _is_same_process(known.info, info):
                known.update(info)
                continue
            if known is not None:
                self._end(info.worker_id)
            self._open(info)
        for worker_id, session in self._by_id.items():
            if worker_id not in listed and worker_id not in self._dropped:
                session.update(replace(session.info, draining=True))
                self._dropped[worker_id] = None
        self.end_idle_dropped()
        self._resort()

    def view(self) -> ClusterView:
        """Workers that take new legs; the same object until something changes. To look changes
        nothing that another look, or a placement, sees."""
        if self._view is None:
            self._renew_pools()
            if self._links is None:
                self._links = pair_links(session.info for session in self._by_id.values())
            self._view = self._pools.view(self._links, self._mode)
        return self._view

    def _renew_pools(self) -> None:
        """Asks those workers alone that have changed; all of them where the pools did."""
        changed, self._changed = self._changed, set()
        if self._is_resorted or not all(
            self._pools.renew(worker_id, self._candidate(worker_id)) for worker_id in changed
        ):
            self._is_resorted = False
            found = map(self._candidate, self._by_id)
            self._pools.fill(candidate for candidate in found if candidate is not None)

    def _candidate(self, worker_id: str) -> Candidate | None:
        session = self._by_id.get(worker_id)
        if session is None or worker_id in self._dropped:
            return None
        return session.candidate()

    def own_shares(self) -> dict[tuple[str, int], LoadShare]:
        """What this router's legs add to each worker's report, by (worker_id, epoch)."""
        return {
            (worker_id, session.info.epoch): session.load.own_share
            for worker_id, session in self._by_id.items()
        }

    def set_elsewhere(self, shares: Mapping[tuple[str, int], LoadShare]) -> None:
        """What all other routers' legs add, in place of what was known of them before."""
        for worker_id, session in self._by_id.items():
            session.set_elsewhere(shares.get((worker_id, session.info.epoch), NO_SHARE))

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns at the next change of any worker, or after timeout_s."""
        if self._change is None:
            self._change = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._change.wait(), timeout_s)

    def check_integrity(self) -> None:
        """Raises AssertionError when a session, its load or the prefix map is inconsistent."""
        assert self._dropped.keys() <= self._by_id.keys(), "an unknown worker counts as dropped"
        for session in self._by_id.values():
            session.load.check_integrity()
        self._prefix_map.check_integrity()

    def _open(self, info: WorkerInfo) -> None:
        group = self._group(info.fingerprint)
        self._prefix_map.add_worker(info.worker_id)
        session = self._make_session(
            info,
            group,
            self._config,
            self._clock,
            self._prefix_map,
            partial(self._on_change, info.worker_id),
            self._predictors.setdefault(group, StepPredictor(self._seed)),
            self._parts,
        )
        self._by_id[info.worker_id] = session
        session.open()

    def _make_session(self, *arguments: Any) -> WorkerSession:
        return WorkerSession(*arguments)

    def _group(self, fingerprint: Fingerprint) -> int:
        """Workers of one group take over from each other."""
        if fingerprint not in self._groups:
            known = (group for other, group in self._groups.items() if may_pair(other, fingerprint))
            self._groups[fingerprint] = next(known, len(self._groups))
        return self._groups[fingerprint]

    def _end(self, worker_id: str) -> None:
        session = self._by_id.pop(worker_id)
        self._dropped.pop(worker_id, None)
        self._prefix_map.remove_worker(worker_id)
        for name in ("baton_prefix_map_blocks", "baton_predictor_error_ratio"):
            self._metrics.gauge(name).remove(worker_id)
        session.close()
        task = asyncio.get_running_loop().create_task(session.wait_closed())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._resort()

    def _resort(self) -> None:
        self._is_resorted = True
        self._links = None
        self._on_change()

    @property
    def has_idle_dropped(self) -> bool:
        return any(self._by_id[worker_id].num_legs == 0 for worker_id in self._dropped)

    def end_idle_dropped(self) -> None:
        """Leaves the workers that the registry dropped and that have no leg left."""
        for worker_id in list(self._dropped):
            if self._by_id[worker_id].num_legs == 0:
                self._end(worker_id)

    def _on_change(self, worker_id: str = "") -> None:
        if worker_id:
            self._changed.add(worker_id)
        self._view = None
        if self._change is not None:
            self._change.set()
            self._change = None

    async def _watch_liveness(self) -> None:
        timeout_s = min(self._config.heartbeat_timeout_s, self._config.step_timeout_s)
        period_s = timeout_s / _CHECKS_PER_TIMEOUT
        last_s = published_s = self._clock.now()
        while True:
            await asyncio.sleep(period_s)
            now_s = self._clock.now()
            late_s = now_s - last_s - period_s
            last_s = now_s
            for session in list(self._by_id.values()):
                if late_s > _LATE_FACTOR * period_s:
                    session.forgive(late_s)
                session.check(now_s)
            self.end_idle_dropped()
            if now_s - published_s >= _PUBLISH_EVERY_S:
                published_s = now_s
                self._publish()

    def _publish(self) -> None:
        view = self.view()
        gauge = self._metrics.gauge
        gauge("baton_router_workers", role=Role.PREFILL.value).set(len(view.prefill))
        gauge("baton_router_workers", role=Role.DECODE.value).set(len(view.decode))
        for worker_id, session in self._by_id.items():
            if session.state is not WorkerState.LOST:
                num_blocks = self._prefix_map.num_blocks(worker_id)
                gauge("baton_prefix_map_blocks", worker=worker_id).set(num_blocks)
                gauge("baton_predictor_error_ratio", worker=worker_id).set(
                    session.forecast.steps.error
                )


def _is_same_process(known: WorkerInfo, info: WorkerInfo) -> bool:
    return known.epoch == info.epoch and known.address == info.address
