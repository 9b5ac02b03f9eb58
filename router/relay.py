"""Carries one request from placement to its one terminal event; the only place that retries."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from random import Random

from router.admission import Admission
from router.attempt import Attempt, Failure
from router.awaited import NoWorker
from router.breaker import CircuitBreaker
from router.config import RouterConfig
from router.course import Course
from router.output import OutputDelta, RequestTrace
from router.patience import ask_patiently
from router.placement import Placement
from router.placer import Placer
from router.policies.policy import RequestFacts
from router.sessions import Sessions
from router.stitcher import Stitcher
from router.targets import find_target
from router.traces import Traces
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.metrics import Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, GenerateRequest

_JITTER = 0.2
_EVENTS_A_SECOND, _LONGEST_PAUSE = 5_000, 4
_RETRY_AFTER_S = 1.0
_LEAST_GAPS = 16  # of an answer that tells how fast its worker is
_WORKERS_FAULT = (ErrorCode.INTERNAL, ErrorCode.WORKER_LOST, ErrorCode.TRANSFER_FAILED)
_log = get_logger("router")


class Relay:
    """One request's way over as many attempts as it takes; the client sees one stream.

    run() ends in exactly one of: a delta with a finish_reason, a BatonError, or its caller's
    aclose() or cancellation. Each way ends all legs.
    """

    def __init__(
        self,
        request: GenerateRequest,
        config: RouterConfig,
        sessions: Sessions,
        placer: Placer,
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        next_leg_id: Callable[[], int],
        admission: Admission,
        breaker: CircuitBreaker,
        traces: Traces,
        awaited: Callable[[float], str],
    ) -> None:
        self._request = request
        self._config = config
        self._sessions = sessions
        self._placer = placer
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._next_leg_id = next_leg_id
        self._admission = admission
        self._breaker = breaker
        self._traces = traces
        self._awaited = awaited
        self._waiting = ""  # for a worker, to be told with the next delta
        self._attempt: Attempt | None = None  # the last one
        self._final: RequestTrace | None = None  # that went with the last delta
        self._stitcher = Stitcher()
        self._excluded: frozenset[tuple[str, int]] = frozenset()
        self._course = Course(clock.now())

    @property
    def request(self) -> GenerateRequest:
        return self._request

    def belongs_to(self, traceparent: str) -> None:
        """The span that the legs are parts of; before run()."""
        self._request = replace(self._request, traceparent=traceparent)

    async def run(self) -> AsyncGenerator[OutputDelta, None]:
        """The answer's deltas. Raises BatonError: refused, final, or attempts ran out."""
        deltas = self._answer()
        is_begun = False
        ticket = self._admission.ticket(self._request, self._placer.ttft_slo_s(self._request))
        is_admitted = False
        try:
            await self._admission.enter(ticket)
            is_admitted = True
            self._course.admitted_s = self._clock.now() - self._course.arrived_s
            async for delta in deltas:
                if not is_begun and delta.tokens:
                    is_begun = True
                    self._count_prompt(delta.num_cached_tokens)
                if not self._course.first_s and delta.tokens:
                    self._course.first_s = self._clock.now()
                    self._learn_path()
                yield delta
        except BatonError as error:
            self._course.outcome = error.code.value
            raise
        finally:
            await deltas.aclose()
            if is_admitted:
                self._admission.leave(ticket, self._num_computed, self._stitcher.num_sent)
            self._traces.put(self._request.request_id, self._final or self.trace())

    def _count_prompt(self, num_cached: int) -> None:
        assert self._attempt is not None, "somebody gave the token"
        is_local = self._attempt.placement.spares_prefill
        self._traces.began(len(self._request.prompt_tokens), num_cached, is_local)

    def _learn_path(self) -> None:
        """What this first token took beside queue and prefill is expected of the next one."""
        assert self._attempt is not None, "somebody gave the token"
        ranking, course = self._attempt.placement.ranking, self._course
        if ranking and course.num_attempts == 1:
            engine_s = ranking[0].forecast.queue_s + ranking[0].forecast.prefill_s
            taken_s = course.first_s - course.arrived_s - course.placed_s
            self._attempt.starter.answered(engine_s, taken_s)

    def _learn_pace(self, attempt: Attempt) -> None:
        """How far this answer's tokens were from their forecast is expected of the next one's."""
        placement, num_gaps = attempt.placement, self._stitcher.num_sent - 1
        is_own = self._course.num_attempts == 1 and not attempt.num_moves
        if placement.ranking and is_own and num_gaps >= _LEAST_GAPS:
            pair, exposed_s = placement.ranking[0], attempt.times.exposed_s
            taken_s = (self._clock.now() - self._course.first_s - exposed_s) / num_gaps
            attempt.finisher.decoded(pair.forecast.tpot_s - pair.spread_s, taken_s)

    async def _answer(self) -> AsyncGenerator[OutputDelta, None]:
        while True:
            attempt = self._attempt = await self._place()
            self._course.devices.append(attempt.device)
            try:
                attempt.start()
                while not attempt.is_over:
                    events = await attempt.mailbox.take()
                    tokens = attempt.handle(events[0])
                    for event in events[1:]:
                        tokens += attempt.handle(event)
                    self._note_cached(attempt, len(tokens))
                    if attempt.finish is not None:
                        attempt.close()
                        self._learn_pace(attempt)
                        yield self._last(tokens, attempt.finish)
                        return
                    if tokens:
                        self._note_move(attempt)
                        yield OutputDelta(
                            tokens,
                            num_cached_tokens=self._course.num_cached_tokens,
                            logprobs=self._stitcher.take_logprobs(len(tokens)),
                            waiting=self._take_waiting(),
                        )
            finally:
                attempt.close()
            if self._stitcher.num_sent >= self._request.sampling.max_tokens:
                yield self._last((), FinishReason.LENGTH)
                return
            assert attempt.failure is not None
            await self._back_off(attempt.failure)

    async def _place(self) -> Attempt:
        """The next attempt, as soon as a live worker takes it."""
        begun_s = self._clock.now()
        deadline_s = begun_s + self._config.worker_wait_s
        num_sent = self._stitcher.num_sent
        while (placed := await self._ask_with_patience(num_sent)) is None:
            left_s = deadline_s - self._clock.now()
            self._waiting = self._awaited(self._clock.now() - begun_s)
            if self._sessions.is_stopped or left_s <= 0:
                raise NoWorker(self._waiting)
            with self._metrics.gauge("baton_requests_without_worker").track_inprogress():
                await self._sessions.wait_for_change(left_s)
        if self._waiting:
            self._waiting = self._awaited(self._clock.now() - begun_s)
        placement, facts = placed
        self._course.num_attempts += 1
        self._course.placed_s = self._clock.now() - self._course.arrived_s
        self._metrics.counter("baton_placements_total", kind=placement.kind.value).inc()
        prefill = None if placement.prefill is None else self._sessions.get(placement.prefill)
        return Attempt(
            self._request,
            placement,
            facts,
            (prefill, self._sessions.get(placement.decode)),
            self._sessions.get(placement.pull_from) if placement.pull_from else None,
            self._stitcher,
            self._next_leg_id,
            self._metrics,
            self._config.rescue_s,
            self._event_pause(),
            partial(find_target, self._sessions, self._breaker, self._clock, self._excluded),
        )

    def _event_pause(self) -> Callable[[], float] | None:
        """Between the pieces of a fast answer: the more answers run, the fewer pieces of each.

        Neither this nor what finds a target keeps the relay: what ends is freed by counting its
        references, and the garbage collector, which stops everything, has little to find.
        """
        if not self._config.coalesce_ms:
            return None
        return partial(_pause_among, self._admission, self._config.coalesce_ms / 1e3)

    async def _ask_with_patience(self, num_sent: int) -> tuple[Placement, RequestFacts] | None:
        try:
            return await ask_patiently(lambda: self._ask_placer(num_sent), self._clock)
        except BatonError:
            self._metrics.counter("baton_admission_refused_total", reason="predicted").inc()
            raise

    def _ask_placer(self, num_sent: int) -> tuple[Placement, RequestFacts] | None:
        waited_s = 0.0 if num_sent else self._clock.now() - self._course.arrived_s
        return self._placer.place(self._request, num_sent, self._excluded, waited_s)

    async def _back_off(self, failure: Failure) -> None:
        """Waits before the next attempt. Raises the failure when there is none."""
        error = failure.error
        if not (error.code.is_retryable or error.code is ErrorCode.CANCELLED):
            raise error
        if self._course.num_attempts >= self._config.max_attempts or self._sessions.is_stopped:
            is_overload = error.code is ErrorCode.OVERLOADED
            raise BatonError(
                error.code if is_overload else ErrorCode.UNAVAILABLE,
                f"gave up after {self._course.num_attempts} attempts; the last: {error.message}",
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        if error.code in _WORKERS_FAULT:
            self._breaker.failed(failure.worker_id, failure.epoch, self._clock.now())
        self._excluded |= {(failure.worker_id, failure.epoch)}
        self._stitcher.forget_early()
        self._metrics.counter("baton_retries_total", reason=error.code.value).inc()
        _log.info(
            "placing again",
            request_id=self._request.request_id,
            reason=error.message,
            num_sent=self._stitcher.num_sent,
        )
        await asyncio.sleep(retry_pause_s(self._config, self._course.num_attempts, self._rng))

    def _note_cached(self, attempt: Attempt, num_new: int) -> None:
        """What counts for the client is what was cached before its first token."""
        if self._course.num_attempts == 1 or self._stitcher.num_sent == num_new:
            self._course.num_cached_tokens = attempt.times.num_cached_tokens

    def _note_move(self, attempt: Attempt) -> None:
        paused_s = self._course.token_came(attempt.num_moves, self._clock.now())
        if paused_s is not None:
            self._metrics.histogram("baton_migration_pause_seconds").observe(paused_s)

    @property
    def _num_computed(self) -> int:
        """Prompt tokens that were computed for this request; 0 where it never ran."""
        is_begun = self._stitcher.num_sent > 0
        return is_begun * max(0, len(self._request.prompt_tokens) - self._course.num_cached_tokens)

    def _last(self, tokens: tuple[int, ...], reason: FinishReason) -> OutputDelta:
        self._course.outcome = reason.value
        if not self._course.first_s:
            self._course.first_s = self._clock.now()
        logprobs = self._stitcher.take_logprobs(len(tokens))
        trace = self._final = self.trace()
        waiting = self._take_waiting()
        return OutputDelta(tokens, reason, self._course.num_cached_tokens, trace, logprobs, waiting)

    def _take_waiting(self) -> str:
        waiting, self._waiting = self._waiting, ""
        return waiting

    def trace(self) -> RequestTrace:
        """How the request has run so far."""
        return self._course.trace(
            self._request,
            self._stitcher.num_sent,
            self._placer.ttft_slo_s(self._request),
            self._request.terms.tpot_slo_s or self._config.tpot_slo_ms / 1e3,
            self._attempt,
            self._clock.now(),
        )


def event_pause_s(least_s: float, num_answers: int) -> float:
    """An event costs some 40 us of a core, whatever it holds: 5,000 a second a fifth of one. Four
    times the least, 50 events a second with the default, is where it would show."""
    return max(least_s, min(num_answers / _EVENTS_A_SECOND, _LONGEST_PAUSE * least_s))


def _pause_among(admission: Admission, least_s: float) -> float:
    return event_pause_s(least_s, admission.num_under_way)


def retry_pause_s(config: RouterConfig, num_attempts: int, rng: Random) -> float:
    """Seconds before the next placement of a request, after as many that failed."""
    pause_s = min(math.ldexp(config.retry_min_s, num_attempts - 1), config.retry_max_s)
    return pause_s * (1 + _JITTER * (2 * rng.random() - 1))
