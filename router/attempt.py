"""One placement of one request: what each event of its legs means."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.device_time import DeviceTime
from router.leg_times import LegTimes
from router.legs import Legs
from router.mailbox import Mailbox
from router.mover import FindTarget, Mover
from router.peer_pull import PeerIsLate, PeerPull
from router.placement import Placement
from router.policies.policy import RequestFacts
from router.session import WorkerSession
from router.stitcher import Stitcher
from runtime.metrics import Metrics
from wire.errors import BatonError, ErrorCode
from wire.messages import (
    FinishReason,
    GenerateRequest,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    LegTransferred,
)

_ANSWER_ENDS = (FinishReason.STOP, FinishReason.LENGTH)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the attempt failed, and the worker process to avoid next."""

    error: BatonError
    worker_id: str
    epoch: int

    @property
    def is_final(self) -> bool:
        """It would fail elsewhere as well."""
        code = self.error.code
        return not (code.is_retryable or code is ErrorCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class RescueDue:
    """The decode worker has had its time to notice that the prefill worker is lost."""


@dataclass(frozen=True, slots=True)
class TokenDue:
    """The first token has had its time."""


Event = LegEvent | RescueDue | PeerIsLate | TokenDue


class Attempt:
    """Starts the legs of a placement and follows them until the answer ends or the attempt fails.

        with a peer to pull from: ASKING (PeerPull) --its handle, or none--> as below
        remote:  PREFILL --published--> BOTH --prefilled, or prefill lost--> DECODE --> finished
                 PREFILL, BOTH --the first token ends the answer--> finished
        whole:   DECODE --> finished
        PREFILL --prefill lost--> failed;  any --decode lost--> failed
        DECODE --moved, or decode lost while it moves (Mover)--> DECODE on another worker

    Owns its legs, a pull from a peer and moves: close() ends whatever is still open on any worker.
    Tokens go through the request's stitcher, shared by its attempts.
    """

    def __init__(
        self,
        request: GenerateRequest,
        placement: Placement,
        facts: RequestFacts,
        workers: tuple[WorkerSession | None, WorkerSession],
        peer: WorkerSession | None,
        stitcher: Stitcher,
        next_leg_id: Callable[[], int],
        metrics: Metrics,
        rescue_s: float,
        pause_s: Callable[[], float] | None,
        find_target: FindTarget,
        placed_s: float = 0.0,
    ) -> None:
        """placed_s: from the request's arrival to this placement."""
        self.placement = placement
        self.placed_s = placed_s
        self.stitcher = stitcher
        self.is_late = False  # its first token has had its time
        self.times = LegTimes()
        self.device = DeviceTime()
        self.finish: FinishReason | None = None
        self.failure: Failure | None = None
        self.mailbox: Mailbox[Event] = Mailbox(pause_s, _is_tokens)
        self.legs = Legs(request, workers, stitcher, self.mailbox.put, next_leg_id)
        self._request = request
        self._facts = facts
        self._metrics = metrics
        self._rescue_s = rescue_s
        self._rescue: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._early_end: FinishReason | None = None  # decode's, before prefill gave its token
        self._decode_spoke = False  # tokens or a transfer's outcome came from it
        self._mover = Mover(request, stitcher, next_leg_id, self.mailbox.put, find_target, metrics)
        self._pull = None if peer is None else self._pull_from(peer, next_leg_id())

    @property
    def is_over(self) -> bool:
        return self.finish is not None or self.failure is not None

    @property
    def is_decided(self) -> bool:
        """The answer has ended, or no other worker would fare better."""
        failure = self.failure
        return self.finish is not None or (failure is not None and failure.is_final)

    @property
    def num_moves(self) -> int:
        return self._mover.num_moves

    def start(self) -> None:
        self.legs.reserve(self._facts, self.placement.pull_tokens)
        if self._pull is None:
            self.legs.begin(None)
        else:
            self._pull.start(self.stitcher.sent)

    def _pull_from(self, peer: WorkerSession, leg_id: int) -> PeerPull:
        expected_s = self.placement.ranking[0].forecast.pull_s
        put, begin = self.mailbox.put, self.legs.begin
        return PeerPull(self._request, peer, leg_id, expected_s, put, begin, self._metrics)

    def expect_token(self, within_s: float) -> None:
        """is_late from then on; what has come by then is the caller's to know."""
        self.is_late = False
        self._due = asyncio.get_running_loop().call_later(within_s, self.mailbox.put, TokenDue())

    def take_in(self, events: Sequence[Event]) -> tuple[int, ...]:
        """Takes the next events; gives the tokens that are in turn for the client."""
        tokens = self.handle(events[0])
        for event in events[1:]:
            tokens += self.handle(event)
        return tokens

    def handle(self, event: Event) -> tuple[int, ...]:
        """The same for one event."""
        if self.finish is not None or self.failure is not None:
            return ()
        if isinstance(event, LegTokens):
            return self._stitch(event)
        if isinstance(event, TokenDue):
            self.is_late = True
        elif isinstance(event, RescueDue):
            if not self._decode_spoke and self.legs.prefill is not None:
                self._fail(ErrorCode.WORKER_LOST, "the prefill worker was lost", self.legs.prefill)
        elif self._pull is None or not self._pull.handle(event):
            assert not isinstance(event, PeerIsLate), "somebody pulls"
            self._handle_leg(event)
        return ()

    def _handle_leg(self, event: LegEvent) -> None:
        is_prefill = event.leg_id == self.legs.prefill_id
        if self._mover.owns(event.leg_id):
            self._mover.handle(event)
        elif not is_prefill and event.leg_id != self.legs.decode_id:
            pass  # the last words of a leg that has moved
        elif isinstance(event, LegAccepted):
            if is_prefill or self.legs.prefill is None:
                self.times.num_cached_tokens = event.num_cached_tokens
        elif is_prefill:
            self._handle_prefill(event)
        else:
            self._handle_decode(event)

    def _stitch(self, event: LegTokens) -> tuple[int, ...]:
        if event.leg_id == self.legs.decode_id:
            self._decode_spoke = True
        if event.device_s:
            self.device.note(event.leg_id, event.device_s, self.legs.computes_prompt)
        if event.logprobs:
            self.stitcher.note_logprobs(event.index, event.logprobs)
        tokens = self.stitcher.push(event.index, event.tokens)
        if event.leg_id != self.legs.decode_id:
            target = self._mover.take(event.leg_id, event.index + len(event.tokens))
            if target is not None:
                self.legs.go_on(target, event.leg_id)
        if self._early_end is not None and not self.stitcher.has_gap:
            self.finish = self._early_end
        return tokens

    def close(self) -> None:
        """Ends what is open on any worker; safe to repeat."""
        for timer in (self._rescue, self._due):
            if timer is not None:
                timer.cancel()
        self._mover.close()
        if self._pull is not None:
            self._pull.close()
        self.legs.close()

    # --- the prefill leg ----------------------------------------------------------------------

    def _handle_prefill(self, event: LegEvent) -> None:
        if isinstance(event, LegPublished):
            self.legs.start_decode(event.handle)
        elif isinstance(event, LegTransferred):
            self._end_pull(event)
        elif isinstance(event, LegFinished):
            self.times.finished(event)
            self._end_prefill(event.reason)
        elif isinstance(event, LegFailed):
            self._lose_prefill(event)

    def _end_prefill(self, reason: FinishReason) -> None:
        worker = self.legs.prefill
        assert worker is not None
        if reason in _ANSWER_ENDS:
            self.finish = reason
        elif reason is FinishReason.CANCELLED:
            self._fail(ErrorCode.DRAINING, "the prefill worker cancelled the leg", worker)
        else:
            self.legs.prefilled()
            if not self.legs.is_decode_started:
                self.legs.start_decode(None)

    def _lose_prefill(self, event: LegFailed) -> None:
        """A decode worker that has the handle recomputes by itself; it gets a while to do so."""
        assert self.legs.prefill is not None
        if not self.legs.is_decode_started or self._lacks_first_logprobs:
            self._fail(event.code, event.message, self.legs.prefill)
        elif not self._decode_spoke:
            loop = asyncio.get_running_loop()
            self._rescue = loop.call_later(self._rescue_s, self.mailbox.put, RescueDue())

    @property
    def _lacks_first_logprobs(self) -> bool:
        """The token that only the prefill worker gives with its log-probability did not come."""
        return self._request.sampling.top_logprobs is not None and not self.legs.is_prefilled

    # --- the decode leg -----------------------------------------------------------------------

    def _handle_decode(self, event: LegEvent) -> None:
        if isinstance(event, LegTransferred) and self.legs.prefill is None:
            self._end_pull(event)
        elif isinstance(event, LegTransferred):
            self._note_transfer(event)
        elif isinstance(event, LegMove):
            self._mover.ask(self.legs.decode, event)
        elif isinstance(event, LegFailed):
            self._lose_decode(event)
        elif isinstance(event, LegFinished):
            if self.legs.prefill is None:
                self.times.finished(event)
            self._end_decode(event.reason)

    def _lose_decode(self, event: LegFailed) -> None:
        taken = self._mover.take_over()
        if taken is None:
            self._fail(event.code, event.message, self.legs.decode)
        else:
            self.legs.go_on(*taken)

    def _end_decode(self, reason: FinishReason) -> None:
        if reason is FinishReason.CANCELLED:
            self._fail(ErrorCode.DRAINING, "the worker cancelled the leg", self.legs.decode)
        elif reason in _ANSWER_ENDS and self.stitcher.has_gap and self._lacks_first_logprobs:
            self._early_end = reason
        elif reason not in _ANSWER_ENDS or self.stitcher.has_gap:
            message = f"the leg ended with {reason} behind {self.stitcher.num_sent} tokens"
            self._fail(ErrorCode.INTERNAL, message, self.legs.decode)
        else:
            self.finish = reason

    def _end_pull(self, event: LegTransferred) -> None:
        if self._pull is not None:
            self._pull.ended(event)

    def _note_transfer(self, event: LegTransferred) -> None:
        self._decode_spoke = True
        self.times.transferred(event, self._metrics)
        if not event.failure:
            if self.placement.ranking:
                pair = self.placement.ranking[0]
                predicted_s = pair.forecast.exposed_s - pair.latency_s
                self.legs.decode.exposed(predicted_s, event.exposed_s)
            self.legs.pulled()

    # --- ends ---------------------------------------------------------------------------------

    def _fail(self, code: ErrorCode, message: str, worker: WorkerSession) -> None:
        info = worker.info
        self.failure = Failure(BatonError(code, message), info.worker_id, info.epoch)


def _is_tokens(event: Event) -> bool:
    return isinstance(event, LegTokens)
