"""The workers as the router sees them: loads, prefixes and the view that placement takes."""

from collections.abc import Callable

from profiles.profile import Profile
from router.candidates import Candidate, ClusterView
from router.load import WorkerLoad
from router.outlook import LinkCosts, WorkerForecast
from router.predictor import StepCosts
from router.prefix_map import PrefixMap
from simulate.event_loop import EventLoop
from simulate.worker import ModelledWorker
from wire.messages import BlockEvent, BlockSnapshot, Role

_REPORT_INTERVAL_S = 0.25  # worker/service.py sends its reports as often


class SimulatedSession:
    """One worker behind its link: the router's load bookkeeping, fed with delayed messages.

    on_change is told that the candidate is no longer what it was.
    """

    def __init__(
        self,
        worker: ModelledWorker,
        forecast: WorkerForecast | None,
        on_change: Callable[["SimulatedSession"], None],
    ) -> None:
        self.worker = worker
        self.load = WorkerLoad()
        self.forecast = forecast
        self.is_draining = False
        self.is_paused = False  # while its role flips
        self.num_legs = 0  # reserved and not ended
        self._on_change = on_change
        self._candidate: Candidate | None = None

    @property
    def takes_legs(self) -> bool:
        return not (self.is_draining or self.is_paused)

    def pause(self) -> None:
        self.is_paused = True
        self.changed()

    def resume(self) -> None:
        self.is_paused = False
        self.changed()

    def drain(self) -> None:
        """No new legs, for good."""
        self.is_draining = True
        self.changed()

    def reserve(
        self, leg_id: int, *, compute_tokens: int, new_tokens: int, num_tokens: int = 0
    ) -> None:
        self.num_legs += 1
        self.load.reserve(
            leg_id, compute_tokens=compute_tokens, new_tokens=new_tokens, num_tokens=num_tokens
        )
        self.changed()

    def accepted(self, leg_id: int, num_tokens: int, num_cached_tokens: int) -> None:
        self.load.accepted(leg_id, num_tokens=num_tokens, num_cached_tokens=num_cached_tokens)
        self.changed()

    def computed(self, leg_id: int) -> None:
        self.load.computed(leg_id)
        self.changed()

    def ended(self, leg_id: int) -> None:
        self.num_legs -= 1
        self.load.ended(leg_id)
        self.changed()

    def reported(self, now_s: float) -> None:
        report = self.worker.report()
        self.load.reported(report)
        if self.forecast is not None:
            self.forecast.reported(report.totals, now_s)
        self.changed()

    def changed(self) -> None:
        self._candidate = None
        self._on_change(self)

    def candidate(self) -> Candidate:
        if self._candidate is None:
            load = self.load
            self._candidate = Candidate(
                worker_id=self.worker.worker_id,
                epoch=1,
                role=self.worker.role,
                group=0,
                num_seqs=load.num_seqs,
                waiting_tokens=load.waiting_tokens,
                num_free_blocks=load.num_free_blocks,
                num_blocks=self.worker.num_blocks,
                outlook=None if self.forecast is None else self.forecast.outlook(load),
            )
        return self._candidate


class SimulatedCluster:
    """All sessions. Has the view that `router.placer.Placer` asks for.

    has_forecasts: the policy predicts. Predictors cost more than the rest of a report.
    """

    def __init__(self, loop: EventLoop, prefix_map: PrefixMap, has_forecasts: bool) -> None:
        self._loop = loop
        self._prefix_map = prefix_map
        self._has_forecasts = has_forecasts
        self._sessions: dict[str, SimulatedSession] = {}
        self._candidates: dict[Role, dict[str, Candidate]] = {role: {} for role in Role}
        self._changed: dict[str, SimulatedSession] = {}  # since the last view
        self._view = ClusterView()
        self._on_idle: dict[str, Callable[[SimulatedSession], None]] = {}

    def join(self, worker: ModelledWorker, on_idle: Callable[[SimulatedSession], None]) -> None:
        """The worker's session begins with a snapshot and a report, as a real one does.

        on_idle: hears of each report of a worker that drains.
        """
        forecast = WorkerForecast(*_seeds(worker.profile)) if self._has_forecasts else None
        session = SimulatedSession(worker, forecast, self._note_change)
        self._sessions[worker.worker_id] = session
        self._note_change(session)
        self._prefix_map.add_worker(worker.worker_id)
        self._prefix_map.load_snapshot(worker.worker_id, BlockSnapshot(0))
        self._on_idle[worker.worker_id] = on_idle
        session.reported(self._loop.now())

    def leave(self, session: SimulatedSession) -> None:
        """The worker is gone, and with it all that is known of its cache."""
        worker_id = session.worker.worker_id
        del self._sessions[worker_id], self._on_idle[worker_id]
        self._prefix_map.remove_worker(worker_id)
        self._note_change(session)

    def find(self, worker_id: str) -> SimulatedSession | None:
        return self._sessions.get(worker_id)

    def get(self, worker_id: str) -> SimulatedSession:
        return self._sessions[worker_id]

    def all(self) -> tuple[SimulatedSession, ...]:
        return tuple(self._sessions.values())

    def view(self) -> ClusterView:
        """All workers; the same object until something changes."""
        if self._changed:
            for worker_id, session in self._changed.items():
                for role, candidates in self._candidates.items():
                    if role is not session.worker.role or not self._is_candidate(session):
                        candidates.pop(worker_id, None)
                    else:
                        candidates[worker_id] = session.candidate()
            self._changed.clear()
            self._view = ClusterView(
                tuple(self._candidates[Role.PREFILL].values()),
                tuple(self._candidates[Role.DECODE].values()),
            )
        return self._view

    def _is_candidate(self, session: SimulatedSession) -> bool:
        return session.takes_legs and session.worker.worker_id in self._sessions

    def blocks_came(self, worker_id: str, event: BlockEvent) -> None:
        if worker_id not in self._sessions:
            return
        is_in_order = self._prefix_map.apply(worker_id, event)
        assert is_in_order, f"{worker_id}: block events came out of order"

    def report_until(self, is_over: Callable[[], bool]) -> None:
        """Every session's report, now and every 250 ms."""
        for session in tuple(self._sessions.values()):
            session.reported(self._loop.now())
            if session.is_draining:
                self._on_idle[session.worker.worker_id](session)
        if not is_over():
            self._loop.after(_REPORT_INTERVAL_S, self.report_until, is_over)

    def _note_change(self, session: SimulatedSession) -> None:
        self._changed[session.worker.worker_id] = session


def _seeds(profile: Profile) -> tuple[StepCosts, None, LinkCosts]:
    """What the operator knows of the hardware: the predictors start from it."""
    costs = StepCosts(
        profile.step_s,
        profile.sequence_s,
        profile.context_token_s,
        profile.prefill_step_s,
        profile.prefill_token_s,
        profile.prefill_pair_s,
    )
    tail_share = 1 / profile.num_layer_groups
    return costs, None, LinkCosts(profile.kv_transfer_s(1), profile.link_latency_s, tail_share)
