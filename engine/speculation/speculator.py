"""Decides how many tokens are guessed, has them guessed, and learns what that was worth."""

from collections import deque
from collections.abc import Sequence as Row
from statistics import median_low

from engine.block_tables import BlockTables
from engine.sequence import Sequence
from engine.speculation.allowance import worthwhile
from engine.speculation.drafter import Drafter, Span, Watcher, Wish
from engine.speculation.record import blend
from engine.speculation.step_cost import StepCost
from engine.speculation.verify import Verdict
from runtime.clock import Clock

_FIRST_ACCEPTANCE = 0.5
_WEIGHT = 0.02  # of one sequence's drafts in what new sequences begin with
_KEPT_ROUNDS = 5
_PROBE_STEPS = 32  # a sequence whose drafts do not pay tries one this often


class Speculator:
    """Owns the drafter of one engine and the measurements that switch it on and off.

    A sequence gets as many drafts as bring the most tokens a second, by its own acceptance and by
    the measured time of steps; none, while none pays.
    """

    def __init__(self, drafter: Drafter, max_drafts: int, clock: Clock) -> None:
        """max_drafts: of a sequence in one step, at least 1."""
        assert max_drafts > 0, max_drafts
        self._drafter = drafter
        self._watcher = drafter if isinstance(drafter, Watcher) else None
        self._max_drafts = max_drafts
        self._clock = clock
        self._cost = StepCost()
        self._acceptance = _FIRST_ACCEPTANCE
        self._rounds_s: deque[float] = deque(maxlen=_KEPT_ROUNDS)

    def allow(self, sequences: Row[Sequence], budget: int) -> list[int]:
        """Drafts for each sequence of the next step, which decodes these; `budget` in all."""
        num_rows = len(sequences)
        limits = [self._limit(seq) for seq in sequences]
        if not self._cost.knows(num_rows):
            return [0] * num_rows  # the step without drafts is measured first
        counts = worthwhile(
            [self._chance(seq) for seq in sequences],
            limits,
            budget,
            self._cost.estimate,
            median_low(self._rounds_s) if self._rounds_s else 0.0,
        )
        return self._with_probes(sequences, limits, counts, budget)

    def propose(self, wishes: Row[Wish], tables: BlockTables) -> list[tuple[int, ...]]:
        """The drafts themselves, at most as many as are wished for."""
        wanted = [wish for wish in wishes if wish.count > 0]
        if not wanted:
            return [()] * len(wishes)
        begun_s = self._clock.now()
        found = iter(self._drafter.propose(wanted, tables))
        drafts = [next(found) if wish.count > 0 else () for wish in wishes]
        num_rounds = max(wish.count for wish in wanted)
        self._rounds_s.append((self._clock.now() - begun_s) / num_rounds)
        return drafts

    def watch(self, spans: Row[Span], tables: BlockTables) -> None:
        """What a step computed, once its tokens are chosen."""
        if self._watcher is not None:
            self._watcher.watch(spans, tables)

    def judge(self, verdict: Verdict) -> None:
        """Learns from how a sequence's drafts fared; a step without any teaches nothing."""
        if not verdict.guess.drafts:
            return
        fared = verdict.num_accepted, verdict.was_refused
        verdict.guess.seq.drafting.judge(self._acceptance, *fared)
        self._acceptance = blend(self._acceptance, *fared, _WEIGHT)

    def learn(self, num_rows: int, seconds: float) -> None:
        """A step without prompt tokens, drafting left out, took so long for so many tokens."""
        self._cost.learn(num_rows, seconds)

    def _limit(self, seq: Sequence) -> int:
        """A draft that would be behind the answer's end is no use."""
        left = seq.request.sampling.max_tokens - seq.num_outputs
        return 0 if seq.request.prefill_only else max(0, min(self._max_drafts, left - 1))

    def _chance(self, seq: Sequence) -> float:
        known = seq.drafting.acceptance
        return self._acceptance if known is None else known

    @staticmethod
    def _with_probes(
        sequences: Row[Sequence], limits: list[int], counts: list[int], budget: int
    ) -> list[int]:
        budget -= sum(counts)
        for place, seq in enumerate(sequences):
            record = seq.drafting
            record.num_idle_steps = 0 if counts[place] else record.num_idle_steps + 1
            if record.num_idle_steps >= _PROBE_STEPS and limits[place] and budget > 0:
                counts[place], record.num_idle_steps = 1, 0
                budget -= 1
        return counts
