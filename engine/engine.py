"""The engine: requests in, one step at a time, tokens out. One thread owns it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import torch

from engine.batch import Scheduler, StepPlan
from engine.block_pool import BlockPool
from engine.block_tables import BlockTables
from engine.draw import NO_TOKEN
from engine.forward import ForwardModel
from engine.grammar import OpenMatcher
from engine.host_memory import HostMemory
from engine.host_tier import HostTier
from engine.intake import check_request
from engine.integrity import check_references
from engine.load import load_of
from engine.logprobs import logprob_step, with_logprobs
from engine.options import EngineConfig
from engine.prefix import adopt_prefix, match_prefix, store_blocks
from engine.progress import finish_of, times_of
from engine.results import EngineLoad, SeqOutput, StepResult
from engine.sequence import RUNNING, EngineRequest, Reservation, SeqState, Sequence
from engine.speculation.speculator import Speculator
from engine.speculation.verify import Guess, Verdict, verify
from engine.step_input import Work, spans, step_input
from runtime.clock import Clock
from wire.errors import BatonError, ErrorCode
from wire.messages import BlockEvent, BlockSnapshot

_MAX_KEEP_S = 3600.0


class Engine:
    """Continuous batching of many requests over one model and one paged KV cache.

        while engine.has_work and (plan := engine.schedule()) is not None:
            result = engine.execute(plan)

    kv is [num_layers, num_blocks, 2, num_kv_heads, block_size, head_dim] in the model's dtype;
    its memory stays the caller's.
    """

    def __init__(
        self,
        model: ForwardModel,
        kv: torch.Tensor,
        config: EngineConfig,
        clock: Clock,
        open_matcher: OpenMatcher | None = None,
        speculator: Speculator | None = None,
        host: HostMemory | None = None,
    ) -> None:
        """open_matcher: for answers that follow a grammar; without it they are refused.
        speculator: guesses tokens; without it each step gives one token a sequence.
        host: where evicted blocks go, and come back from; without it they are forgotten.
        """
        shape = model.config.kv_shape(config.num_blocks, config.block_size)
        if tuple(kv.shape) != shape:
            raise ValueError(f"the KV cache has shape {tuple(kv.shape)}, the engine needs {shape}")
        self._model = model
        self._kv = kv
        self._config = config
        self._clock = clock
        self._open_matcher = open_matcher
        self._pool = BlockPool(config.num_blocks, 0 if host is None else host.num_slots)
        self._tier = HostTier(self._pool, host, config.block_size)
        self._tables = BlockTables(config.max_running, config.max_table_blocks, config.block_size)
        self._speculator = speculator
        self._scheduler = Scheduler(self._pool, self._tables, config, self._tier, speculator)
        self._sequences: dict[int, Sequence] = {}
        self._arrivals = count()
        self._is_stalled = False

    def add(self, request: EngineRequest) -> int:
        """Queues a request; gives how many of its tokens the prefix cache holds right now.

        Raises BatonError: INVALID_REQUEST, CONTEXT_LENGTH_EXCEEDED, or OVERLOADED for a request
        that even the empty pool could not hold.
        """
        seq = self._new_sequence(request)
        here, behind = self._tier.split(match_prefix(self._pool, seq))
        seq.cached_estimate = (len(here) + len(behind)) * self._config.block_size
        self._keep(seq)
        self._scheduler.enqueue(seq)
        self._is_stalled = False
        return seq.cached_estimate

    def reserve(self, request: EngineRequest) -> Reservation | None:
        """Takes blocks for a request whose KV arrives from elsewhere; None: no room right now.

        Raises BatonError as `add` does.
        """
        seq = self._new_sequence(request)
        if not self._scheduler.reserve_blocks(seq):
            return None
        seq.state = SeqState.RESERVED
        seq.cached_estimate = seq.num_computed
        self._keep(seq)
        return Reservation(seq.seq_id, tuple(seq.block_ids), seq.num_computed)

    def activate(
        self, seq_id: int, num_ready_tokens: int, new_output_tokens: tuple[int, ...] = ()
    ) -> None:
        """Lets a reserved sequence join: KV of its tokens below `num_ready_tokens` is valid.

        The rest is computed here; 0 stands for a transfer that failed. `new_output_tokens` became
        known since the reservation and are not emitted again.
        """
        seq = self._sequences[seq_id]
        assert seq.state is SeqState.RESERVED, f"sequence {seq_id} is {seq.state}, not reserved"
        ready = max(seq.num_computed, min(num_ready_tokens, seq.num_tokens))
        seq.tokens.extend(new_output_tokens)
        if seq.matcher is not None and new_output_tokens:
            seq.matcher.consume(new_output_tokens)
        seq.num_computed = min(ready, seq.num_tokens - 1)
        seq.prefill_end = seq.num_tokens if seq.num_uncomputed > 1 else seq.num_computed
        store_blocks(self._pool, seq)
        self._scheduler.enqueue(seq)
        self._is_stalled = False

    def extend(self, seq_id: int, num_known: int, tokens: tuple[int, ...]) -> None:
        """Output tokens from index `num_known` on, which were generated elsewhere: those that the
        sequence has not reached are computed as one chunk and never emitted.

        Nothing happens to a sequence that does not run or would be ended by them.
        """
        seq = self._sequences.get(seq_id)
        if seq is None or seq.state not in (RUNNING, SeqState.WAITING):
            return
        num_outputs = num_known + len(tokens)
        if not num_known <= seq.num_outputs < num_outputs < seq.request.sampling.max_tokens:
            return
        for token in tokens[seq.num_outputs - num_known :]:
            seq.append(token)
        seq.prefill_end = seq.num_tokens
        self._is_stalled = False

    def hold(self, request: EngineRequest) -> Reservation | None:
        """References the full blocks that the device holds of a request's tokens, until
        `release`; nothing is computed. None: there are none.

        Raises BatonError as `add` does.
        """
        seq = self._new_sequence(request)
        prefix, _ = self._tier.split(match_prefix(self._pool, seq))
        block_ids = self._pool.claim(prefix, 0)
        if not block_ids:
            return None
        seq.block_ids = block_ids
        adopt_prefix(seq, prefix)
        seq.state = SeqState.HELD
        self._sequences[seq.seq_id] = seq
        return Reservation(seq.seq_id, tuple(block_ids), seq.num_computed)

    def set_batch_tokens(self, max_batch_tokens: int) -> None:
        """The token budget of a step, from the next one on."""
        self._config = replace(self._config, max_batch_tokens=max_batch_tokens)
        self._scheduler.use(self._config)

    def cancel(self, seq_id: int) -> None:
        """Ends a sequence in any state and frees its blocks at once. Unknown ids are ignored."""
        seq = self._sequences.pop(seq_id, None)
        if seq is not None:
            if seq.request.keep_s > 0 and seq.first_token_s >= 0:
                until_s = self._clock.now() + min(_MAX_KEEP_S, seq.request.keep_s)
                self._pool.keep(seq.tip, until_s)
            self._scheduler.free(seq)
            self._is_stalled = False

    def release(self, seq_id: int) -> None:
        """Frees the blocks of a held sequence. Sequences that are not held are left alone."""
        seq = self._sequences.get(seq_id)
        if seq is not None and seq.state is SeqState.HELD:
            self.cancel(seq_id)

    def schedule(self) -> StepPlan | None:
        """Decides the next step; None when no sequence can go on until another call changes it."""
        self._pool.let_go(self._clock.now())
        plan = self._scheduler.schedule()
        self._is_stalled = plan is None
        now = self._clock.now()
        for chunk in plan.chunks if plan is not None else ():
            if chunk.is_first:
                self._sequences[chunk.seq_id].scheduled_s = now
        return plan

    def execute(self, plan: StepPlan, on_layers: Callable[[int], None] | None = None) -> StepResult:
        """Computes a plan's tokens and samples where a sequence's known tokens end.

        on_layers(n) is called when the first n layers of the step are in the cache. Chunks of
        sequences that were cancelled since `schedule` are left out.
        """
        started_s = self._clock.now()
        work = self._work(plan)
        if not work:
            return StepResult((), 0.0, 0, 0)
        drafts = self._draft(work)
        drafted_s = self._clock.now()
        batch, guesses = step_input(work, drafts, self._tables, self._model.device)
        logits = self._model.forward(batch, self._kv, on_layers)
        for item in work:
            if not item.is_sampled:
                self._advance(item.seq, item.chunk.end)
        outputs, failed, verdicts = self._choose(logits, guesses)
        if self._speculator is not None:
            self._speculator.watch(spans(work, drafts), self._tables)
        now_s = self._clock.now()
        prefills = [item.chunk for item in work if item.chunk.is_prefill]
        num_prefill_tokens = sum(chunk.end - chunk.start for chunk in prefills)
        self._learn(batch.num_tokens, num_prefill_tokens, now_s - started_s, now_s - drafted_s)
        return StepResult(
            tuple(outputs),
            now_s - started_s,
            num_prefill_tokens,
            len(work) - len(prefills),
            tuple(failed),
            sum(map(len, drafts)),
            sum(verdict.num_accepted for verdict in verdicts),
        )

    def take_block_event(self) -> BlockEvent | None:
        """What entered and left the prefix cache since the last call, or None for nothing."""
        return self._pool.take_event()

    def block_snapshot(self) -> BlockSnapshot:
        """The prefix cache as of the last event taken."""
        return self._pool.snapshot()

    @property
    def has_work(self) -> bool:
        """`schedule` could return a plan; false once it found every sequence blocked."""
        scheduler = self._scheduler
        queued = scheduler.running or scheduler.ready or scheduler.waiting
        return bool(queued) and not self._is_stalled

    @property
    def kv_use(self) -> float:
        """The share of the blocks that somebody references."""
        return 1.0 - self._pool.num_free / self._pool.num_blocks

    def load(self) -> EngineLoad:
        """The load of this moment; held and reserved sequences count in the blocks only."""
        return load_of(self._scheduler, self._pool, self._tier.load())

    def check_integrity(self) -> None:
        """Blocks, queues and tables agree with the sequences. Raises AssertionError."""
        self._pool.check_integrity()
        self._scheduler.check_integrity()
        check_references(self._pool, self._sequences.values())

    def _new_sequence(self, request: EngineRequest) -> Sequence:
        assert request.seq_id not in self._sequences, f"sequence {request.seq_id} exists already"
        check_request(request, self._config, self._model.config.vocab_size)
        if request.sampling.grammar is not None and self._open_matcher is None:
            raise BatonError(ErrorCode.INVALID_REQUEST, "this engine follows no grammars")
        came_s = request.came_s or self._clock.now()
        return Sequence(request, next(self._arrivals), self._config.block_size, came_s)

    def _keep(self, seq: Sequence) -> None:
        grammar = seq.request.sampling.grammar
        if grammar is not None and self._open_matcher is not None:
            seq.matcher = self._open_matcher(grammar, seq.request.output_tokens)
        self._sequences[seq.seq_id] = seq

    def _work(self, plan: StepPlan) -> list[Work]:
        """The plan's chunks whose sequences stand where it found them."""
        work = []
        for chunk in plan.chunks:
            seq = self._sequences.get(chunk.seq_id)
            if seq is not None and seq.state is RUNNING and seq.num_computed == chunk.start:
                work.append(Work(seq, chunk, chunk.end == len(seq.tokens)))
        return work

    def _draft(self, work: list[Work]) -> list[tuple[int, ...]]:
        if self._speculator is None:
            return [()] * len(work)
        return self._speculator.propose([item.wish for item in work], self._tables)

    def _choose(
        self, logits: torch.Tensor, guesses: list[Guess]
    ) -> tuple[list[SeqOutput], list[int], list[Verdict]]:
        """What the step emits, the sequences that failed, and how the drafts fared."""
        wanted = [g.seq.request.sampling.top_logprobs for g in guesses for _ in (0, *g.drafts)]
        likely = logprob_step(logits, wanted)
        outputs: list[SeqOutput] = []
        rows: list[int] = []
        failed: list[int] = []

        def emit(seq: Sequence, token: int, row: int) -> bool:
            if token == NO_TOKEN:
                failed.append(seq.seq_id)
                self._pool.uncache(seq.block_ids)
                self.cancel(seq.seq_id)
                return False
            output = self._emit(seq, token)
            outputs.append(output)
            rows.append(row)
            return output.finish is None

        verdicts = verify(logits, guesses, self._config, emit)
        for guess in guesses:
            if guess.seq.state is RUNNING:
                self._advance(guess.seq, guess.seq.num_tokens - 1)
        if self._speculator is not None:
            for verdict in verdicts:
                self._speculator.judge(verdict)
        if likely is not None:
            outputs = with_logprobs(outputs, rows, likely, len(wanted))
        return outputs, failed, verdicts

    def _learn(
        self, num_tokens: int, num_prefill_tokens: int, step_s: float, drafted_step_s: float
    ) -> None:
        """What a step of so many tokens took tells whether drafts pay, and whether to load KV from
        the host does. drafted_step_s: of it, what came after the drafts were made."""
        if self._speculator is not None and not num_prefill_tokens:
            self._speculator.learn(num_tokens, drafted_step_s)
        if 2 * num_prefill_tokens > num_tokens:
            self._tier.computed(num_tokens, step_s)

    def _emit(self, seq: Sequence, token: int) -> SeqOutput:
        index = seq.num_outputs
        seq.append(token)
        is_first = seq.first_token_s < 0
        if is_first:
            seq.first_token_s = self._clock.now()
        finish = finish_of(seq, token, self._config)
        if finish is not None:
            self._advance(seq, seq.num_tokens - 1)
            self._end(seq)
        times = times_of(seq) if is_first or finish is not None else None
        return SeqOutput(seq.seq_id, index, token, finish, times)

    def _advance(self, seq: Sequence, num_computed: int) -> None:
        """Tokens below num_computed are in the cache; what a refused draft left behind is not."""
        seq.num_computed = num_computed
        if seq.drafting.num_computed > num_computed:
            seq.drafting.num_computed = num_computed
        store_blocks(self._pool, seq)

    def _end(self, seq: Sequence) -> None:
        if seq.request.prefill_only:
            self._scheduler.retire(seq)
            seq.state = SeqState.HELD
        else:
            self.cancel(seq.seq_id)
