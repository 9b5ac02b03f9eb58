"""The legs of a worker: what their sessions ask of them, what they hold, and what is told of them.

A leg's life here:

    Start --handle--> intake --arrived--> engine --finish--> LegFinished
      |                                     ^
      +--no handle--------------------------+--prefill_only--> published, HELD until released
      +--share--> what the cache holds is published, HELD until released

With `waits`, a leg stays between arrived and engine until Continue tells it the tokens so far.
A prefill-only or sharing leg is kept after its LegFinished until its export ends, so that a late
cancel still finds the export.
"""

from decode_worker.intake import Intake
from engine.batch import StepPlan
from engine.engine import Engine
from engine.results import SeqOutput, SeqTimes
from kv_transfer.pull import PullResult
from prefill_worker.publisher import Publisher
from wire.errors import BatonError, ErrorCode
from wire.messages import (
    FinishReason,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegMove,
    LegPublished,
    LegTokens,
    StartLeg,
)
from worker import commands
from worker.leg import Leg, engine_request, transferred
from worker.moves import Moves


class Legs:
    """All legs of this worker, by the sequence that the engine runs for each."""

    def __init__(self, engine: Engine, publisher: Publisher, intake: Intake, moves: Moves) -> None:
        self._engine = engine
        self._publisher = publisher
        self._intake = intake
        self._moves = moves
        self._by_seq_id: dict[int, Leg] = {}
        self._seq_ids: dict[tuple[int, int], int] = {}  # (session_id, leg_id) -> seq_id
        self._last_seq_id = 0
        self._sessions: set[int] = set()
        self._events: dict[int, list[LegEvent]] = {}  # by session

    def __len__(self) -> int:
        return len(self._by_seq_id)

    def take_events(self) -> dict[int, list[LegEvent]]:
        """What the sessions are to be told since the last call."""
        events, self._events = self._events, {}
        return events

    def running(self, is_prefill: bool) -> list[int]:
        """The sequences of the legs of one phase that have not finished."""
        return [
            seq_id
            for seq_id, leg in self._by_seq_id.items()
            if leg.start.prefill_only is is_prefill and not leg.is_finished
        ]

    # --- what sessions ask -------------------------------------------------------------------

    def join(self, session_id: int) -> None:
        """A session begins: it is told of its legs."""
        self._sessions.add(session_id)

    def leave(self, session_id: int) -> None:
        """The session ended: its legs are cancelled."""
        self._sessions.discard(session_id)
        for seq_id in [s for s, leg in self._by_seq_id.items() if leg.session_id == session_id]:
            self._by_seq_id[seq_id].is_finished = True
            self._discard(seq_id, "the gateway's session ended")

    def start(self, session_id: int, leg: StartLeg, came_s: float = 0.0) -> None:
        """came_s: when, on the engine's clock; 0: now."""
        self._last_seq_id += 1
        seq_id = self._last_seq_id
        self._by_seq_id[seq_id] = Leg(session_id, leg)
        self._seq_ids[session_id, leg.leg_id] = seq_id
        if self._moves.is_draining and not leg.share:
            self._fail(seq_id, ErrorCode.DRAINING, "the worker is draining")
            return
        try:
            if leg.share:
                self._share(seq_id, leg)
            elif leg.handle is not None:
                self._intake.add(engine_request(seq_id, leg), leg.handle, waits=leg.waits)
            else:
                self._accepted(seq_id, self._engine.add(engine_request(seq_id, leg, came_s)))
        except BatonError as error:
            self._fail(seq_id, error.code, error.message)

    def _share(self, seq_id: int, leg: StartLeg) -> None:
        """Publishes what the cache holds, of a running sequence or of none."""
        held = self._engine.hold(engine_request(seq_id, leg))
        if held is None:
            message = "the prefix cache holds no full block of these tokens"
            raise BatonError(ErrorCode.TRANSFER_FAILED, message)
        self._accepted(seq_id, held.num_cached_tokens)
        handle = self._publisher.share(seq_id, held.block_ids, held.num_cached_tokens)
        self._emit(seq_id, LegPublished(leg.leg_id, handle))
        self._by_seq_id[seq_id].is_finished = True
        self._emit(seq_id, LegFinished(leg.leg_id, FinishReason.PREFILLED, held.num_cached_tokens))

    def go_on(self, told: commands.Continue) -> None:
        """A leg that waits, or lags, goes on behind the tokens that are told."""
        seq_id = self._seq_ids.get((told.session_id, told.leg_id))
        if seq_id is None:
            return
        if not self._intake.is_waited_for(seq_id):
            self._engine.extend(seq_id, told.index, told.tokens)
            return
        start = self._by_seq_id[seq_id].start
        num_known = len(start.output_tokens)
        num_outputs = told.index + len(told.tokens)
        if not told.index <= num_known <= num_outputs < start.request.sampling.max_tokens:
            message = (
                f"tokens {told.index} to {num_outputs} do not follow the {num_known} that are known"
                f" of at most {start.request.sampling.max_tokens}"
            )
            self._fail(seq_id, ErrorCode.INVALID_REQUEST, message)
            return
        self._intake.go_on(seq_id, told.tokens[num_known - told.index :])

    def cancel(self, session_id: int, leg_id: int) -> None:
        seq_id = self._seq_ids.get((session_id, leg_id))
        if seq_id is None:
            return
        leg = self._by_seq_id[seq_id]
        if not leg.is_finished:
            leg.is_finished = True
            self._emit(seq_id, LegFinished(leg_id, FinishReason.CANCELLED))
        self._discard(seq_id, "the request was cancelled")

    # --- what the engine and the fabric do ---------------------------------------------------

    def begin_pulls(self) -> None:
        for begun in self._intake.begin_pulls():
            if begun.error is None:
                self._accepted(begun.seq_id, begun.num_cached_tokens)
            else:
                self._fail(begun.seq_id, begun.error.code, begun.error.message)

    def publish(self, plan: StepPlan) -> None:
        """The prefill-only legs that the plan begins are published before their first layer."""
        for seq_id, handle in self._publisher.begin_step(plan.chunks, self._to_publish(plan)):
            self._emit(seq_id, LegPublished(self._by_seq_id[seq_id].start.leg_id, handle))

    def pulled(self, result: PullResult) -> None:
        arrival = self._intake.pulled(result)
        if arrival is None:
            return
        leg = self._by_seq_id[arrival.seq_id].start
        self._emit(arrival.seq_id, transferred(leg.leg_id, result))
        # Where log-probabilities are wanted, the prefill leg alone has those of its token.
        has_all = leg.request.sampling.top_logprobs is None
        if result.ok and result.output_tokens and has_all:
            index = len(leg.output_tokens)
            self._emit(arrival.seq_id, LegTokens(leg.leg_id, index, result.output_tokens))

    def released(self, seq_id: int) -> None:
        """Nobody reads the published blocks any more."""
        self._publisher.forget(seq_id)
        self._engine.release(seq_id)
        leg = self._by_seq_id.get(seq_id)
        if leg is not None and leg.is_finished:
            self._forget(seq_id)

    def sampled(self, outputs: tuple[SeqOutput, ...]) -> None:
        """What a step gave one sequence: a token, and those that were guessed before it."""
        output = outputs[-1]
        leg = self._by_seq_id[output.seq_id]
        leg_id = leg.start.leg_id
        tokens = tuple(one.token for one in outputs)
        logprobs = tuple(one.logprobs for one in outputs if one.logprobs is not None)
        event = LegTokens(leg_id, outputs[0].index, tokens, logprobs, leg.device_s)
        self._emit(output.seq_id, event)
        if output.finish is None:
            self._watch_length(output.seq_id, leg.start, output.index)
            return
        leg.is_finished = True
        times = output.times or SeqTimes(0.0, 0.0)
        self._emit(
            output.seq_id,
            LegFinished(
                leg_id, output.finish, leg.num_cached_tokens, times.queue_s, times.prefill_s
            ),
        )
        if not leg.start.prefill_only:
            self._forget(output.seq_id)
        elif output.finish is FinishReason.PREFILLED:
            self._publisher.complete(output.seq_id, (output.token,))
        else:
            self._publisher.abort(output.seq_id, "the answer ended with its first token")

    def share_out(self, plan: StepPlan, step_s: float) -> None:
        """A step's time, over those that it ran for, by the tokens that it computed for each."""
        token_s = step_s / plan.num_tokens
        for chunk in plan.chunks:
            leg = self._by_seq_id.get(chunk.seq_id)
            if leg is not None:
                leg.device_s += token_s * (chunk.end - chunk.start)

    def fail_without_token(self, seq_id: int) -> None:
        """A grammar would fail on any worker, so the request is not to be tried on another."""
        if self._by_seq_id[seq_id].start.request.sampling.grammar is None:
            self._fail(seq_id, ErrorCode.INTERNAL, "the model gave no finite logits")
        else:
            message = "the grammar allows no token here, or took more work than its limit"
            self._fail(seq_id, ErrorCode.INVALID_REQUEST, message)

    def move(self, seq_id: int, reason: str, *, only_to_room: bool = False) -> None:
        """Asks the relay to have the leg go on elsewhere."""
        leg_id = self._by_seq_id[seq_id].start.leg_id
        self._emit(seq_id, LegMove(leg_id, reason, only_to_room=only_to_room))

    def fail_all(self, message: str) -> None:
        for seq_id in list(self._by_seq_id):
            self._fail(seq_id, ErrorCode.INTERNAL, message)

    # --- a leg's progress --------------------------------------------------------------------

    def _accepted(self, seq_id: int, num_cached_tokens: int) -> None:
        leg = self._by_seq_id[seq_id]
        leg.num_cached_tokens = num_cached_tokens
        self._emit(seq_id, LegAccepted(leg.start.leg_id, num_cached_tokens))

    def _watch_length(self, seq_id: int, start: StartLeg, index: int) -> None:
        num_tokens = len(start.request.prompt_tokens) + index + 1
        reason = self._moves.sampled(seq_id, num_tokens, self._engine.kv_use)
        if reason is not None:
            self.move(seq_id, reason, only_to_room=not self._moves.is_leaving)

    def _fail(self, seq_id: int, code: ErrorCode, message: str) -> None:
        leg = self._by_seq_id[seq_id]
        if not leg.is_finished:
            leg.is_finished = True
            self._emit(seq_id, LegFailed(leg.start.leg_id, code, message))
        self._discard(seq_id, message)

    def _discard(self, seq_id: int, reason: str) -> None:
        """Frees what the sequence holds; a pull frees its blocks when its link is fenced.

        Readers of a published sequence are told before its blocks can be written again, so they
        never use what they read.
        """
        self._publisher.abort(seq_id, reason)
        if not self._intake.cancel(seq_id):
            self._engine.cancel(seq_id)
        if not self._publisher.is_published(seq_id):
            self._forget(seq_id)

    def _forget(self, seq_id: int) -> None:
        self._moves.ended(seq_id)
        leg = self._by_seq_id.pop(seq_id, None)
        if leg is not None:
            self._seq_ids.pop((leg.session_id, leg.start.leg_id), None)

    def _emit(self, seq_id: int, event: LegEvent) -> None:
        session_id = self._by_seq_id[seq_id].session_id
        if session_id in self._sessions:
            self._events.setdefault(session_id, []).append(event)

    def _to_publish(self, plan: StepPlan) -> dict[int, int]:
        """The prefill-only sequences that the plan begins, and the tokens they know."""
        starts = {c.seq_id: self._by_seq_id[c.seq_id].start for c in plan.chunks if c.is_first}
        return {
            seq_id: len(start.request.prompt_tokens) + len(start.output_tokens)
            for seq_id, start in starts.items()
            if start.prefill_only
        }
