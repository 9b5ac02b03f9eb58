"""The heart of a worker: commands in, engine steps, events out. One thread owns it.

A leg's life here:

    Start --handle--> intake --arrived--> engine --finish--> LegFinished
      |                                     ^
      +--no handle--------------------------+--prefill_only--> published, HELD until released
      +--share--> what the cache holds is published, HELD until released

With `waits`, a leg stays between arrived and engine until Continue tells it the tokens so far.
A prefill-only or sharing leg is kept after its LegFinished until its export ends, so that a late
cancel still finds the export.
"""

from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType

from decode_worker.intake import Intake
from engine.batch import StepPlan
from engine.engine import Engine
from engine.results import EngineLoad, SeqOutput, SeqTimes
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
    Role,
    StartLeg,
    StepTotals,
    WorkerReport,
)
from worker import commands
from worker.leg import Leg, engine_request, transferred
from worker.moves import Moves
from worker.outbox import Outbox
from worker.step_totals import add_step


class WorkerCore:
    """Runs both phases on one engine. No I/O and no threads: calls happen on the owner's thread."""

    def __init__(
        self,
        role: Role,
        engine: Engine,
        publisher: Publisher,
        intake: Intake,
        *,
        batch_tokens: Mapping[Role, int] = MappingProxyType({}),
        move_above: float = 0.0,
    ) -> None:
        """batch_tokens: the chunk budget of a role; one that is not named keeps the engine's.
        move_above: see Moves.
        """
        self._moves = Moves(role, move_above)
        self._batch_tokens = batch_tokens
        self._engine = engine
        self._publisher = publisher
        self._intake = intake
        self._legs: dict[int, Leg] = {}  # by seq_id
        self._seq_ids: dict[tuple[int, int], int] = {}  # (session_id, leg_id) -> seq_id
        self._last_seq_id = 0
        self._sessions: set[int] = set()
        self._num_steps = 0
        self._num_layers = 0
        self._last_step_s = 0.0
        self._totals = StepTotals()
        self._told = (role, False)
        self._outbox = Outbox(self.report())

    # --- what the loop calls -----------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    @property
    def progress(self) -> int:
        """Layers computed so far; other threads may look at it while a step runs."""
        return self._num_layers

    @property
    def is_quiet(self) -> bool:
        """No leg is alive and no published block is held."""
        return not self._legs and not self._intake.num_active

    def apply(self, command: commands.Command) -> None:
        match command:
            case commands.Start(session_id, leg):
                self._start(session_id, leg)
            case commands.Cancel(session_id, leg_id):
                self._cancel(session_id, leg_id)
            case commands.Join(session_id):
                self._sessions.add(session_id)
                self._send_snapshot(session_id)
            case commands.Leave(session_id):
                self._leave(session_id)
            case commands.Snapshot(session_id):
                self._send_snapshot(session_id)
            case commands.Pulled(result):
                self._pulled(result)
            case commands.Released(seq_id):
                self._released(seq_id)
            case commands.Continue():
                self._continue(command)
            case commands.Drain() | commands.Flip() | commands.Migrate():
                self._obey(command)

    def begin_step(self) -> StepPlan | None:
        """Begins pulls, decides the next step and publishes what it computes first.

        The outbox is to be delivered before `run_step`, so that readers follow the step from its
        first layer on. None: there is nothing to run.
        """
        for begun in self._intake.begin_pulls():
            if begun.error is None:
                self._accepted(begun.seq_id, begun.num_cached_tokens)
            else:
                self._fail(begun.seq_id, begun.error.code, begun.error.message)
        plan = self._engine.schedule()
        if plan is None:
            return None
        for seq_id, handle in self._publisher.begin_step(plan.chunks, self._to_publish(plan)):
            self._emit(seq_id, LegPublished(self._legs[seq_id].start.leg_id, handle))
        return plan

    def run_step(self, plan: StepPlan, before_s: float = 0.0) -> float:
        """Computes what `begin_step` has decided; gives its seconds.

        before_s: what passed since the step before, or since there was something to run; it is part
        of what a step takes, and so of the totals.
        """
        result = self._engine.execute(plan, self._on_layers)
        self._num_steps += 1
        self._last_step_s = result.step_s
        self._totals = add_step(self._totals, plan, before_s + result.step_s)
        self._share_out(plan, before_s + result.step_s)
        self._outbox.steps.append(result)
        for _, outputs in groupby(result.outputs, key=attrgetter("seq_id")):
            self._sampled(tuple(outputs))
        for seq_id in result.failed:
            self._fail_without_token(seq_id)
        return result.step_s

    def _share_out(self, plan: StepPlan, step_s: float) -> None:
        """A step's time, over those that it ran for, by the tokens that it computed for each."""
        token_s = step_s / plan.num_tokens
        for chunk in plan.chunks:
            leg = self._legs.get(chunk.seq_id)
            if leg is not None:
                leg.device_s += token_s * (chunk.end - chunk.start)

    def check_integrity(self) -> None:
        """Raises AssertionError when a pool's invariant does not hold."""
        self._engine.check_integrity()
        self._publisher.check_integrity()

    def fail_all(self, message: str) -> None:
        """After an exception in a step: every leg fails, and the engine is empty again."""
        for seq_id in list(self._legs):
            self._fail(seq_id, ErrorCode.INTERNAL, message)

    def take_outbox(self) -> Outbox:
        """What has gathered since the last call."""
        load = self._engine.load()
        outbox, self._outbox = self._outbox, Outbox(self._report(load))
        report = outbox.report = self._outbox.report
        told, self._told = self._told, (report.role, report.flipping)
        outbox.num_preemptions = load.num_preemptions
        outbox.has_news = bool(outbox.flips) or told != self._told
        outbox.block_event = self._engine.take_block_event()
        return outbox

    def report(self) -> WorkerReport:
        return self._report(self._engine.load())

    def _report(self, load: EngineLoad) -> WorkerReport:
        return WorkerReport(
            role=self._moves.role,
            num_steps=self._num_steps,
            has_work=self.has_work,
            draining=self._moves.is_draining,
            num_running=load.num_running,
            num_waiting=load.num_waiting + self._intake.num_waiting,
            waiting_tokens=load.waiting_tokens,
            num_blocks=load.num_blocks,
            num_free_blocks=load.num_free_blocks,
            context_tokens=load.context_tokens,
            num_exports=self._publisher.num_active,
            num_imports=self._intake.num_active,
            step_s=self._last_step_s,
            progress=self._num_layers,
            totals=self._totals,
            role_epoch=self._moves.role_epoch,
            flipping=self._moves.is_flipping,
        )

    # --- orders ------------------------------------------------------------------------------

    def _obey(self, order: commands.Drain | commands.Flip | commands.Migrate) -> None:
        match order:
            case commands.Drain():
                self._moves.drain()
            case commands.Flip(role):
                self._flip(role)
            case commands.Migrate(count):
                for seq_id in self._moves.longest(count):
                    leg_id = self._legs[seq_id].start.leg_id
                    self._emit(seq_id, LegMove(leg_id, "the control plane asks for it"))

    def _flip(self, role: Role) -> None:
        was_prefill = role is Role.DECODE
        legs = (
            seq_id
            for seq_id, leg in self._legs.items()
            if leg.start.prefill_only is was_prefill and not leg.is_finished
        )
        if not self._moves.flip(role, legs):
            return
        if role in self._batch_tokens:
            self._engine.set_batch_tokens(self._batch_tokens[role])
        self._outbox.flips.append(role)

    def _ask_to_move(self, seq_id: int, reason: str) -> None:
        leg_id = self._legs[seq_id].start.leg_id
        self._emit(seq_id, LegMove(leg_id, reason, only_to_room=not self._moves.is_leaving))

    # --- commands ----------------------------------------------------------------------------

    def _start(self, session_id: int, leg: StartLeg) -> None:
        self._last_seq_id += 1
        seq_id = self._last_seq_id
        self._legs[seq_id] = Leg(session_id, leg)
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
                self._accepted(seq_id, self._engine.add(engine_request(seq_id, leg)))
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
        self._legs[seq_id].is_finished = True
        self._emit(seq_id, LegFinished(leg.leg_id, FinishReason.PREFILLED, held.num_cached_tokens))

    def _continue(self, told: commands.Continue) -> None:
        seq_id = self._seq_ids.get((told.session_id, told.leg_id))
        if seq_id is None:
            return
        if not self._intake.is_waited_for(seq_id):
            self._engine.extend(seq_id, told.index, told.tokens)
            return
        start = self._legs[seq_id].start
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

    def _cancel(self, session_id: int, leg_id: int) -> None:
        seq_id = self._seq_ids.get((session_id, leg_id))
        if seq_id is None:
            return
        leg = self._legs[seq_id]
        if not leg.is_finished:
            leg.is_finished = True
            self._emit(seq_id, LegFinished(leg_id, FinishReason.CANCELLED))
        self._discard(seq_id, "the request was cancelled")

    def _leave(self, session_id: int) -> None:
        self._sessions.discard(session_id)
        for seq_id in [s for s, leg in self._legs.items() if leg.session_id == session_id]:
            self._legs[seq_id].is_finished = True
            self._discard(seq_id, "the gateway's session ended")

    def _pulled(self, result: PullResult) -> None:
        self._outbox.pulls.append(result)
        arrival = self._intake.pulled(result)
        if arrival is None:
            return
        leg = self._legs[arrival.seq_id].start
        self._emit(arrival.seq_id, transferred(leg.leg_id, result))
        # Where log-probabilities are wanted, the prefill leg alone has those of its token.
        has_all = leg.request.sampling.top_logprobs is None
        if result.ok and result.output_tokens and has_all:
            index = len(leg.output_tokens)
            self._emit(arrival.seq_id, LegTokens(leg.leg_id, index, result.output_tokens))

    def _released(self, seq_id: int) -> None:
        self._publisher.forget(seq_id)
        self._engine.release(seq_id)
        leg = self._legs.get(seq_id)
        if leg is not None and leg.is_finished:
            self._forget(seq_id)

    def _send_snapshot(self, session_id: int) -> None:
        self._outbox.snapshots[session_id] = self._engine.block_snapshot()

    def _on_layers(self, num_layers: int) -> None:
        self._num_layers += 1
        self._publisher.on_layers(num_layers)

    # --- a leg's progress --------------------------------------------------------------------

    def _accepted(self, seq_id: int, num_cached_tokens: int) -> None:
        leg = self._legs[seq_id]
        leg.num_cached_tokens = num_cached_tokens
        self._emit(seq_id, LegAccepted(leg.start.leg_id, num_cached_tokens))

    def _sampled(self, outputs: tuple[SeqOutput, ...]) -> None:
        """What a step gave one sequence: a token, and those that were guessed before it."""
        output = outputs[-1]
        leg = self._legs[output.seq_id]
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

    def _watch_length(self, seq_id: int, start: StartLeg, index: int) -> None:
        num_tokens = len(start.request.prompt_tokens) + index + 1
        reason = self._moves.sampled(seq_id, num_tokens, self._engine.kv_use)
        if reason is not None:
            self._ask_to_move(seq_id, reason)

    def _fail(self, seq_id: int, code: ErrorCode, message: str) -> None:
        leg = self._legs[seq_id]
        if not leg.is_finished:
            leg.is_finished = True
            self._emit(seq_id, LegFailed(leg.start.leg_id, code, message))
        self._discard(seq_id, message)

    def _fail_without_token(self, seq_id: int) -> None:
        """A grammar would fail on any worker, so the request is not to be tried on another."""
        if self._legs[seq_id].start.request.sampling.grammar is None:
            self._fail(seq_id, ErrorCode.INTERNAL, "the model gave no finite logits")
        else:
            message = "the grammar allows no token here, or took more work than its limit"
            self._fail(seq_id, ErrorCode.INVALID_REQUEST, message)

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
        leg = self._legs.pop(seq_id, None)
        if leg is not None:
            self._seq_ids.pop((leg.session_id, leg.start.leg_id), None)

    def _emit(self, seq_id: int, event: LegEvent) -> None:
        session_id = self._legs[seq_id].session_id
        if session_id in self._sessions:
            self._outbox.events.setdefault(session_id, []).append(event)

    def _to_publish(self, plan: StepPlan) -> dict[int, int]:
        """The prefill-only sequences that the plan begins, and the tokens they know."""
        starts = {c.seq_id: self._legs[c.seq_id].start for c in plan.chunks if c.is_first}
        return {
            seq_id: len(start.request.prompt_tokens) + len(start.output_tokens)
            for seq_id, start in starts.items()
            if start.prefill_only
        }
