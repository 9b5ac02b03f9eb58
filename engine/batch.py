"""Which tokens the next step computes, and whose blocks are taken away for it."""

from bisect import insort
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from engine.block_pool import BlockPool
from engine.block_tables import BlockTables
from engine.host_tier import HostTier
from engine.options import EngineConfig
from engine.prefix import adopt_prefix, forget_blocks, match_prefix
from engine.sequence import RUNNING, SeqState, Sequence
from engine.speculation.speculator import Speculator

_ORDER = attrgetter("order")


class ScheduledChunk(NamedTuple):  # made for every token: a frozen dataclass costs four times that
    """Tokens start .. end of a sequence, computed in one step.

    is_first: the sequence's first chunk ever; tokens below `start` were in the cache, and
    block_ids are the blocks of all tokens known so far. max_drafts: guessed tokens that may be
    computed behind `end`; there is room for them.
    """

    seq_id: int
    start: int
    end: int
    is_first: bool
    is_prefill: bool
    block_ids: tuple[int, ...] = ()
    max_drafts: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: decodes, then prefill chunks in the order of their sequences.

    restore_s: what the copies take that its beginning made of blocks from the host.
    """

    chunks: tuple[ScheduledChunk, ...]
    restore_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Known tokens that the step computes; drafts come on top."""
        return sum(chunk.end - chunk.start for chunk in self.chunks)


def chunk_end(start: int, known: int, budget: int, block_size: int) -> int:
    """Where a chunk ends that begins at `start`: at a block's edge unless it reaches the end."""
    end = min(known, start + budget)
    edge = end - end % block_size
    return edge if end < known and edge > start else end


class Scheduler:
    """Holds the queues. Blocks are given for all known tokens at once, so that a prefill never
    stalls half-way; decodes grow block by block, and take blocks from later sequences. What the
    host tier holds of a prompt is copied to its blocks before the rest is computed.

    running: have a table row and blocks. ready: have blocks, wait for a row.
    waiting: have neither. Each is in the order of `Sequence.order`.
    """

    def __init__(
        self,
        pool: BlockPool,
        tables: BlockTables,
        config: EngineConfig,
        tier: HostTier,
        speculator: Speculator | None = None,
    ) -> None:
        self._speculator = speculator
        self._pool = pool
        self._tier = tier
        self._tables = tables
        self._config = config
        self.running: list[Sequence] = []
        self.ready: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0

    def use(self, config: EngineConfig) -> None:
        """Another token budget; the rest of the configuration is the same."""
        self._config = config

    def enqueue(self, seq: Sequence) -> None:
        """Queues a sequence, with its blocks if it has them."""
        seq.state = SeqState.WAITING
        insort(self.ready if seq.block_ids else self.waiting, seq, key=_ORDER)

    def reserve_blocks(self, seq: Sequence) -> bool:
        """Gives the sequence blocks for all known tokens, or says that there is no room.

        A reservation leaves the room that running sequences and the first waiting one need.
        """
        spare = self._headroom()
        if self.waiting:
            spare += self.waiting[0].num_missing_blocks
        has_room = self._claim(seq, spare)
        self._tier.restore(seq)
        self._tier.give_up(seq)
        self._tier.flush()
        return has_room

    def retire(self, seq: Sequence) -> None:
        """Takes a sequence out of the queues. It keeps its blocks."""
        if seq.state is RUNNING:
            self.running.remove(seq)
            self._close_row(seq)
        elif seq.state is SeqState.WAITING:
            (self.ready if seq.block_ids else self.waiting).remove(seq)

    def free(self, seq: Sequence) -> None:
        """Takes a sequence out of the queues and returns its blocks."""
        self.retire(seq)
        self._tier.give_up(seq)
        self._pool.release(seq.block_ids)
        forget_blocks(seq)
        seq.state = SeqState.FINISHED

    def schedule(self) -> StepPlan | None:
        """The next step, or None when no sequence can go on at this moment."""
        plan = self._next_plan()
        while plan is None and self._tier.restored_now:
            plan = self._next_plan()  # nobody runs for whom the copies would be too many
        self._tier.flush()
        return plan

    def _next_plan(self) -> StepPlan | None:
        self._tier.begin_step(self._config.max_batch_tokens)
        self._promote()
        preempted_before = self.num_preemptions
        can_run = self._grow_running()
        decodes = [seq for seq in can_run if seq.num_uncomputed == 1]
        chunks = [self._chunk(seq, seq.num_tokens) for seq in decodes]
        budget = self._config.max_batch_tokens - len(chunks)
        for seq in can_run:
            if seq.num_uncomputed > 1 and budget > 0:
                budget -= self._prefill(seq, budget, chunks)
        may_admit = self.num_preemptions == preempted_before
        while may_admit and budget > 0 and (admitted := self._admit()) is not None:
            budget -= self._prefill(admitted, budget, chunks)
        self._allow_drafts(decodes, chunks, budget)
        return StepPlan(tuple(chunks), self._tier.take_restore_s()) if chunks else None

    def _promote(self) -> None:
        """Gives free table rows to sequences that have blocks."""
        while self.ready and self._has_row:
            self._run(self.ready.pop(0))

    def _grow_running(self) -> list[Sequence]:
        """Gives every running sequence its missing blocks, earlier ones first; who can run."""
        can_run = []
        queue = self.running.copy()
        for seq in queue:
            if seq.state is not RUNNING:
                continue
            if seq.num_missing_blocks <= 0 or self._grow(seq):
                can_run.append(seq)
            elif self.ready and self.ready[0].order < seq.order:
                queue.append(self._swap_for_ready(seq))
        return [seq for seq in can_run if seq.state is RUNNING]

    def _swap_for_ready(self, seq: Sequence) -> Sequence:
        """Hands the row of a sequence that cannot grow to the first one that waits for a row.

        The two keep their blocks. Without it the first could wait for the row, and the second for
        the first one's blocks.
        """
        first = self.ready.pop(0)
        self.retire(seq)
        self.enqueue(seq)
        self._run(first)
        return first

    def _grow(self, seq: Sequence) -> bool:
        """Allocates the missing blocks, preempting later sequences; False: it has to wait."""
        while (new := self._pool.allocate(seq.num_missing_blocks)) is None:
            victim = self._latest_behind(seq)
            if victim is None:
                return False
            self._preempt(victim)
        seq.block_ids.extend(new)
        self._tables.extend(seq.row, new)
        return True

    def _latest_behind(self, seq: Sequence) -> Sequence | None:
        """The last of all sequences behind `seq` that hold blocks and can be preempted."""
        candidates = (s for s in (*self.running, *self.ready) if s.can_be_preempted)
        last = max(candidates, key=_ORDER, default=None)
        return last if last is not None and last.order > seq.order else None

    def _preempt(self, seq: Sequence) -> None:
        self.free(seq)
        self.num_preemptions += 1
        self.enqueue(seq)

    def _admit(self) -> Sequence | None:
        """Starts the first waiting sequence if there is a row and room for all of its blocks."""
        if (
            not self.waiting
            or not self._has_row
            or not self._claim(self.waiting[0], self._headroom())
        ):
            return None
        seq = self.waiting.pop(0)
        seq.prefill_end = seq.num_tokens
        self._run(seq)
        return seq

    def _claim(self, seq: Sequence, spare: int) -> bool:
        """Claims the cached prefix and the rest's blocks if `spare` blocks stay free beyond."""
        if self._pool.num_free <= spare:
            return False  # at least one block is always fresh; a full pool needs no look-up
        prefix, behind = self._tier.split(match_prefix(self._pool, seq))
        num_new = seq.num_missing_blocks - len(prefix)
        if not self._pool.can_claim(prefix, num_new + spare):
            return False
        slots = self._pool.host.pin(behind)  # before the claim evicts them
        block_ids = self._pool.claim(prefix, num_new)
        assert block_ids is not None, "the pool refuses what it promised"
        seq.block_ids = block_ids
        adopt_prefix(seq, prefix)
        self._tier.claimed(seq, slots)
        return True

    def _headroom(self) -> int:
        """A block for each running sequence that can grow, so that admission does not preempt."""
        return sum(not seq.request.prefill_only for seq in self.running)

    def _run(self, seq: Sequence) -> None:
        seq.row = self._tables.open_row(seq.block_ids)
        seq.state = RUNNING
        insort(self.running, seq, key=_ORDER)

    def _close_row(self, seq: Sequence) -> None:
        self._tables.close_row(seq.row)
        seq.row = -1

    @property
    def _has_row(self) -> bool:
        return len(self.running) < self._config.max_running

    def _prefill(self, seq: Sequence, budget: int, chunks: list[ScheduledChunk]) -> int:
        """Appends the sequence's next chunk, if its prefix is all there, and gives its size."""
        if not self._tier.restore(seq):
            return 0
        start = seq.num_computed
        end = chunk_end(start, seq.num_tokens, budget, self._config.block_size)
        chunks.append(self._chunk(seq, end))
        return end - start

    def _allow_drafts(
        self, decodes: list[Sequence], chunks: list[ScheduledChunk], budget: int
    ) -> None:
        """Lets the decodes, whose chunks come first, use what prompts leave of the budget."""
        if self._speculator is None or not decodes:
            return
        counts = self._speculator.allow(decodes, budget)
        for place, (seq, count) in enumerate(zip(decodes, counts, strict=True)):
            room = min(count, self._draft_room(seq, count)) if count else 0
            if room > 0 and not chunks[place].is_prefill:
                chunks[place] = chunks[place]._replace(max_drafts=room)

    def _draft_room(self, seq: Sequence, count: int) -> int:
        """Tokens behind the known ones that the sequence's blocks hold, after it got those that
        `count` need if they are free beyond what every running sequence may need next."""
        missing = self._config.blocks_for(seq.num_tokens + count) - len(seq.block_ids)
        if missing > 0 and self._pool.num_free >= missing + len(self.running):
            new = self._pool.allocate(missing)
            assert new is not None, "the pool refuses what it has free"
            seq.block_ids.extend(new)
            self._tables.extend(seq.row, new)
        return len(seq.block_ids) * self._config.block_size - seq.num_tokens

    def _chunk(self, seq: Sequence, end: int) -> ScheduledChunk:
        is_first, seq.was_scheduled = not seq.was_scheduled, True
        return ScheduledChunk(
            seq.seq_id,
            seq.num_computed,
            end,
            is_first,
            seq.is_prefilling,
            tuple(seq.block_ids) if is_first else (),
        )

    def check_integrity(self) -> None:
        """Each queue holds what its name says, in order. Raises AssertionError."""
        for seq in self.running:
            assert seq.state is RUNNING and seq.row >= 0, f"{seq.seq_id} is not running"
            assert self._tables.row(seq.row) == seq.block_ids, f"{seq.seq_id} has another table"
        for seq in (*self.ready, *self.waiting):
            assert seq.state is SeqState.WAITING and seq.row < 0, f"{seq.seq_id} is not waiting"
        assert all(seq.block_ids for seq in self.ready), "a ready sequence has no blocks"
        assert not any(seq.block_ids for seq in self.waiting), "a waiting sequence has blocks"
        for queue in (self.running, self.ready, self.waiting):
            assert queue == sorted(queue, key=_ORDER), "a queue is out of order"
        assert len(self.running) + self._tables.num_free_rows == self._config.max_running
        self._tables.check_integrity()
