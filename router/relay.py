"""Carries one request from placement to its one terminal event; the only place that retries."""

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from random import Random

from router.attempt import Attempt, Failure
from router.attempt_source import AttemptSource
from router.config import RouterConfig
from router.course import Course
from router.hedge_race import RaceEnd, first_to_speak
from router.lessons import first_token_came, learn_pace, was_beaten
from router.output import OutputDelta, RequestTrace
from router.relay_parts import RelayParts
from router.stitcher import Stitcher
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, GenerateRequest

_JITTER = 0.2
_RETRY_AFTER_S = 1.0
_log = get_logger("router")


class Relay:
    """One request's way over as many attempts as it takes; the client sees one stream.

    run() ends in exactly one of: a delta with a finish_reason, a BatonError, or its caller's
    aclose() or cancellation. Each way ends all legs.
    """

    def __init__(self, request: GenerateRequest, parts: RelayParts) -> None:
        self._request = request
        self._parts = parts
        self._clock = parts.clock
        self._attempt: Attempt | None = None  # the last one
        self._final: RequestTrace | None = None  # that went with the last delta
        self._stitcher = Stitcher()
        self._course = Course(parts.clock.now())
        self._attempts = AttemptSource(request, parts, self._course)

    @property
    def request(self) -> GenerateRequest:
        return self._request

    def belongs_to(self, traceparent: str) -> None:
        """The span that the legs are parts of; before run()."""
        self._request = replace(self._request, traceparent=traceparent)
        self._attempts = AttemptSource(self._request, self._parts, self._course)

    async def run(self) -> AsyncGenerator[OutputDelta, None]:
        """The answer's deltas. Raises BatonError: refused, final, or attempts ran out."""
        deltas, admission = self._answer(), self._parts.admission
        is_begun = False
        ticket = admission.ticket(self._request, self._parts.placer.ttft_slo_s(self._request))
        is_admitted = False
        try:
            await admission.enter(ticket)
            is_admitted = True
            self._course.admitted_s = self._clock.now() - self._course.arrived_s
            async for delta in deltas:
                if not is_begun and delta.tokens:
                    is_begun = True
                    self._count_prompt(delta.num_cached_tokens)
                if not self._course.first_s and delta.tokens:
                    assert self._attempt is not None, "somebody gave the token"
                    self._course.first_s = self._clock.now()
                    first_token_came(self._attempt, self._course, self._parts.hedges)
                yield delta
        except BatonError as error:
            self._course.outcome = error.code.value
            raise
        finally:
            await deltas.aclose()
            if is_admitted:
                admission.leave(ticket, self._num_computed, self._stitcher.num_sent)
            self._parts.traces.put(self._request.request_id, self._final or self.trace())

    def _count_prompt(self, num_cached: int) -> None:
        assert self._attempt is not None, "somebody gave the token"
        is_local = self._attempt.placement.spares_prefill
        self._parts.traces.began(len(self._request.prompt_tokens), num_cached, is_local)

    async def _answer(self) -> AsyncGenerator[OutputDelta, None]:
        while True:
            attempt = self._attempt = await self._attempts.next(self._stitcher)
            try:
                attempt.start()
                self._expect_token(attempt)
                while not attempt.is_over:
                    tokens = attempt.take_in(await attempt.mailbox.take())
                    if attempt.is_late and not self._stitcher.num_sent and not attempt.is_over:
                        attempt, tokens = await self._hedged(attempt)
                    self._note_cached(attempt, len(tokens))
                    if attempt.finish is not None:
                        attempt.close()
                        learn_pace(attempt, self._course, self._clock.now())
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

    # --- a second attempt beside the first ----------------------------------------------------

    def _expect_token(self, attempt: Attempt) -> None:
        if self._course.num_attempts == 1 and attempt.placement.ranking:
            within_s = self._parts.hedges.placed(attempt.placement.ranking[0].forecast)
            if within_s:
                attempt.expect_token(within_s)

    async def _hedged(self, first: Attempt) -> tuple[Attempt, tuple[int, ...]]:
        """The attempt that goes on, and its tokens: of this and another the first to have some."""
        second = self._attempts.beside(first)
        if second is None:
            first.expect_token(self._parts.hedges.retry_s)
            return first, ()
        outcome = "cancelled"
        try:
            second.start()
            end = await first_to_speak((first, second))
            outcome = _hedge_outcome(end, second)
        finally:
            self._course.hedge = outcome
            self._parts.hedges.end(outcome)
        winner = self._attempt = end.winner
        self._stitcher, self._course.placed_s = winner.stitcher, winner.placed_s
        for lost in end.failed:
            assert lost.failure is not None
            self._attempts.failed(lost.failure)
        for beaten in end.beaten:
            was_beaten(beaten, self._course, self._parts.hedges, self._clock.now())
        return winner, end.tokens

    # --- a next attempt after one that failed -------------------------------------------------

    async def _back_off(self, failure: Failure) -> None:
        """Waits before the next attempt. Raises the failure when there is none."""
        error, config = failure.error, self._parts.config
        if failure.is_final:
            raise error
        if self._course.num_attempts >= config.max_attempts or self._parts.sessions.is_stopped:
            is_overload = error.code is ErrorCode.OVERLOADED
            raise BatonError(
                error.code if is_overload else ErrorCode.UNAVAILABLE,
                f"gave up after {self._course.num_attempts} attempts; the last: {error.message}",
                retry_after_s=_RETRY_AFTER_S,
            ) from error
        self._attempts.failed(failure)
        self._stitcher.forget_early()
        self._parts.metrics.counter("baton_retries_total", reason=error.code.value).inc()
        _log.info(
            "placing again",
            request_id=self._request.request_id,
            reason=error.message,
            num_sent=self._stitcher.num_sent,
        )
        await asyncio.sleep(retry_pause_s(config, self._course.num_attempts, self._parts.rng))

    # --- what is told -------------------------------------------------------------------------

    def _note_cached(self, attempt: Attempt, num_new: int) -> None:
        """What counts for the client is what was cached before its first token."""
        if self._course.num_attempts == 1 or self._stitcher.num_sent == num_new:
            self._course.num_cached_tokens = attempt.times.num_cached_tokens

    def _note_move(self, attempt: Attempt) -> None:
        paused_s = self._course.token_came(attempt.num_moves, self._clock.now())
        if paused_s is not None:
            self._parts.metrics.histogram("baton_migration_pause_seconds").observe(paused_s)

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
        waiting, self._attempts.waiting = self._attempts.waiting, ""
        return waiting

    def trace(self) -> RequestTrace:
        """How the request has run so far."""
        return self._course.trace(
            self._request,
            self._stitcher.num_sent,
            self._parts.placer.ttft_slo_s(self._request),
            self._request.terms.tpot_slo_s or self._parts.config.tpot_slo_ms / 1e3,
            self._attempt,
            self._clock.now(),
        )


def _hedge_outcome(end: RaceEnd, second: Attempt) -> str:
    if end.winner.failure is not None:
        return "failed"
    return "won" if end.winner is second else "lost"


def retry_pause_s(config: RouterConfig, num_attempts: int, rng: Random) -> float:
    """Seconds before the next placement of a request, after as many that failed."""
    pause_s = min(math.ldexp(config.retry_min_s, num_attempts - 1), config.retry_max_s)
    return pause_s * (1 + _JITTER * (2 * rng.random() - 1))
