"""One request's attempts: the next one, one beside it, and who is not asked again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from router.attempt import Attempt, Failure
from router.course import Course
from router.event_pause import pause_among
from router.move_target import find_target
from router.no_worker import NoWorker
from router.patience import ask_patiently
from router.placement import Placement
from router.policies.policy import RequestFacts
from router.relay_parts import RelayParts
from router.stitcher import Stitcher
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest

_WORKERS_FAULT = (ErrorCode.INTERNAL, ErrorCode.WORKER_LOST, ErrorCode.TRANSFER_FAILED)
_log = get_logger("router")


class AttemptSource:
    """Makes them; whoever asked starts and closes them."""

    def __init__(self, request: GenerateRequest, parts: RelayParts, course: Course) -> None:
        self.waiting = ""  # for a worker, to be told with the next delta
        self._request = request
        self._parts = parts
        self._course = course
        self._excluded: frozenset[tuple[str, int]] = frozenset()

    async def next(self, stitcher: Stitcher) -> Attempt:
        """The next attempt, as soon as a live worker takes it. Raises BatonError: refused, or
        NoWorker."""
        parts = self._parts
        begun_s = parts.clock.now()
        deadline_s = begun_s + parts.config.worker_wait_s
        while (placed := await self._ask_with_patience(stitcher.num_sent)) is None:
            left_s = deadline_s - parts.clock.now()
            self.waiting = parts.awaited(parts.clock.now() - begun_s)
            if parts.sessions.is_stopped or left_s <= 0:
                raise NoWorker(self.waiting)
            with parts.metrics.gauge("baton_requests_without_worker").track_inprogress():
                await parts.sessions.wait_for_change(left_s)
        if self.waiting:
            self.waiting = parts.awaited(parts.clock.now() - begun_s)
        attempt = self._make(*placed, stitcher)
        self._course.placed_s = attempt.placed_s
        return attempt

    def beside(self, first: Attempt) -> Attempt | None:
        """One on other workers; None where there are none, or the budget is spent."""
        hedges = self._parts.hedges
        if self._course.num_attempts >= self._parts.config.max_attempts or not hedges.begin():
            return None
        placed = self._ask_beside(first)
        if placed is None:
            hedges.end("no_worker")
            return None
        _log.info("placing beside", request_id=self._request.request_id)
        return self._make(*placed, Stitcher())

    def failed(self, failure: Failure) -> None:
        """Its worker is not asked again while there are others."""
        if failure.error.code in _WORKERS_FAULT:
            now_s = self._parts.clock.now()
            self._parts.breaker.failed(failure.worker_id, failure.epoch, now_s)
        self._excluded |= {(failure.worker_id, failure.epoch)}

    def _make(self, placement: Placement, facts: RequestFacts, stitcher: Stitcher) -> Attempt:
        parts, sessions = self._parts, self._parts.sessions
        self._course.num_attempts += 1
        parts.metrics.counter("baton_placements_total", kind=placement.kind.value).inc()
        prefill = None if placement.prefill is None else sessions.get(placement.prefill)
        attempt = Attempt(
            self._request,
            placement,
            facts,
            (prefill, sessions.get(placement.decode)),
            sessions.get(placement.pull_from) if placement.pull_from else None,
            stitcher,
            parts.next_leg_id,
            parts.metrics,
            parts.config.rescue_s,
            self._event_pause(),
            partial(find_target, sessions, parts.breaker, parts.clock, self._excluded),
            parts.clock.now() - self._course.arrived_s,
        )
        self._course.devices.append(attempt.device)
        return attempt

    def _event_pause(self) -> Callable[[], float] | None:
        """Between the pieces of a fast answer: the more answers run, the fewer pieces of each.

        Neither this nor what finds a target keeps the relay: what ends is freed by counting its
        references, and the garbage collector, which stops everything, has little to find.
        """
        coalesce_ms = self._parts.config.coalesce_ms
        if not coalesce_ms:
            return None
        return partial(pause_among, self._parts.admission, coalesce_ms / 1e3)

    async def _ask_with_patience(self, num_sent: int) -> tuple[Placement, RequestFacts] | None:
        try:
            return await ask_patiently(lambda: self._ask_placer(num_sent), self._parts.clock)
        except BatonError:
            counter = self._parts.metrics.counter
            counter("baton_admission_refused_total", reason="predicted").inc()
            raise

    def _ask_placer(self, num_sent: int) -> tuple[Placement, RequestFacts] | None:
        waited_s = 0.0 if num_sent else self._waited_s()
        return self._parts.placer.place(self._request, num_sent, self._excluded, waited_s)

    def _ask_beside(self, first: Attempt) -> tuple[Placement, RequestFacts] | None:
        """Its session stays where the first attempt is."""
        excluded = self._excluded | first.legs.workers
        view = self._parts.sessions.view()
        if all((one.worker_id, one.epoch) in excluded for one in (*view.prefill, *view.decode)):
            return None
        request = replace(self._request, terms=replace(self._request.terms, session=""))
        try:
            placed = self._parts.placer.place(request, 0, excluded, self._waited_s())
        except BatonError:  # it would be late there as well
            return None
        names = {worker_id for worker_id, _ in first.legs.workers}
        if placed is None or names & {placed[0].prefill, placed[0].decode}:
            return None
        return placed

    def _waited_s(self) -> float:
        return self._parts.clock.now() - self._course.arrived_s
