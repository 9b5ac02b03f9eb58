"""One worker's load: its last report, and what this router gave or took since."""

from dataclasses import dataclass

from wire.block_hash import BLOCK_SIZE
from wire.messages import WorkerReport


@dataclass(frozen=True, slots=True)
class LoadShare:
    """What one router's legs add to a worker's report, or take from it, each as WorkerLoad has it.

    used_blocks: of its free ones.
    """

    num_seqs: int = 0
    waiting_tokens: int = 0
    used_blocks: int = 0
    num_decoding: int = 0
    context_tokens: int = 0

    def __add__(self, other: "LoadShare") -> "LoadShare":
        return LoadShare(
            self.num_seqs + other.num_seqs,
            self.waiting_tokens + other.waiting_tokens,
            self.used_blocks + other.used_blocks,
            self.num_decoding + other.num_decoding,
            self.context_tokens + other.context_tokens,
        )


NO_SHARE = LoadShare()


@dataclass(slots=True)
class _LegLoad:
    compute_tokens: int  # prompt tokens that this worker has still to compute
    end_tokens: int  # where in its prompt they end, as far as is known
    room_blocks: int
    num_tokens: int = 0  # of the sequence; 0 for a leg that does not decode
    pulled_tokens: int = 0
    is_running: bool = False
    runs_reported: bool = False  # the last report counts it among the running ones
    is_accepted: bool = False
    is_reported: bool = False  # the last report counts it already


class WorkerLoad:
    """Load as of now: the worker's report plus this router's legs that the report misses.

    A leg counts from its reservation (placement), so that a burst spreads before any report.
    It is part of the report from the first report after LegAccepted.
    """

    def __init__(self) -> None:
        self._report: WorkerReport | None = None
        self._legs: dict[int, _LegLoad] = {}
        self._computing: dict[int, _LegLoad] = {}  # those of them with a prompt to compute
        self._num_seqs = 0  # these three are corrections to the report
        self._waiting_tokens = 0
        self._used_blocks = 0
        self.elsewhere = NO_SHARE  # of other routers, as far as they have told

    @property
    def own_share(self) -> LoadShare:
        """What this router knows beyond the report, for other routers."""
        return LoadShare(
            self._num_seqs,
            self._waiting_tokens,
            self._used_blocks,
            self._num_seqs + self._num_decoding_apart,
            self._unreported_context,
        )

    @property
    def report(self) -> WorkerReport | None:
        return self._report

    @property
    def num_seqs(self) -> int:
        """Sequences that run or wait, legs under way to the worker included."""
        base = 0 if self._report is None else self._report.num_running + self._report.num_waiting
        return max(0, base + self._num_seqs + self.elsewhere.num_seqs)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens admitted but not computed."""
        base = 0 if self._report is None else self._report.waiting_tokens
        return max(0, base + self._waiting_tokens + self.elsewhere.waiting_tokens)

    @property
    def num_free_blocks(self) -> int:
        base = 0 if self._report is None else self._report.num_free_blocks
        return max(0, base - self._used_blocks - self.elsewhere.used_blocks)

    @property
    def num_computing(self) -> int:
        """This router's legs whose prompts are not computed yet."""
        return len(self._computing)

    @property
    def waiting_pairs(self) -> float:
        """What attention costs of waiting_tokens: the sum of end^2 - start^2 over the prompts.

        Prompts are computed in their order, so that what is done is of the first of them. Other
        routers' prompts are taken for as long as this router's.
        """
        left, pairs = self.waiting_tokens, 0.0
        mean_tokens = left / max(1, len(self._computing))
        for leg in reversed(self._computing.values()):
            num_tokens = min(left, leg.compute_tokens)
            pairs += num_tokens * (2 * leg.end_tokens - num_tokens)
            left -= num_tokens
        return pairs + left * mean_tokens

    @property
    def coming(self) -> tuple[int, int]:
        """Of num_decoding and context_tokens, what has no first token yet."""
        legs = [leg for leg in self._legs.values() if leg.num_tokens and not leg.is_running]
        share = self.elsewhere
        return (
            len(legs) + max(0, share.num_decoding),
            sum(leg.num_tokens for leg in legs) + max(0, share.context_tokens),
        )

    @property
    def num_decoding(self) -> int:
        """Sequences that decode or will; those that are pulled are in no report's count."""
        base = 0 if self._report is None else self._report.num_running + self._report.num_waiting
        own = self._num_seqs + self._num_decoding_apart
        return max(0, base + own + self.elsewhere.num_decoding)

    @property
    def context_tokens(self) -> int:
        """Tokens in the KV of sequences that decode or will."""
        base = 0 if self._report is None else self._report.context_tokens
        return max(0, base + self._unreported_context + self.elsewhere.context_tokens)

    @property
    def _num_decoding_apart(self) -> int:
        """What num_decoding has over num_seqs: pulls that no report counts, less prefills."""
        pulling = apart = 0
        for leg in self._legs.values():
            pulling += leg.pulled_tokens > 0 and leg.is_reported and not leg.runs_reported
            apart += leg.num_tokens == 0
        return pulling - apart

    @property
    def _unreported_context(self) -> int:
        return sum(leg.num_tokens for leg in self._legs.values() if not leg.runs_reported)

    @property
    def pulling_tokens(self) -> int:
        """Tokens whose KV is on its way here, those left out that wait for their prefill."""
        pulls = (leg for leg in self._legs.values() if leg.is_accepted and not leg.is_running)
        return sum(leg.pulled_tokens for leg in pulls)

    def reserve(
        self, leg_id: int, *, compute_tokens: int, new_tokens: int, num_tokens: int = 0
    ) -> None:
        """A leg was placed: tokens to compute, and tokens that need new room in the KV pool.

        num_tokens: of a leg that will decode; one that computes nothing pulls its new_tokens.
        """
        num_blocks = -(-new_tokens // BLOCK_SIZE)
        leg = _LegLoad(compute_tokens, compute_tokens, num_blocks, num_tokens)
        if compute_tokens:
            self._computing[leg_id] = leg
        else:
            leg.pulled_tokens = new_tokens
        self._legs[leg_id] = leg
        self._count(leg, 1)

    def accepted(self, leg_id: int, *, num_tokens: int, num_cached_tokens: int) -> None:
        """The worker knows how much of the leg's num_tokens its cache holds."""
        leg = self._legs.get(leg_id)
        if leg is None:
            return
        leg.is_accepted = True
        if leg.compute_tokens:
            leg.end_tokens = num_tokens
            self._set_compute(leg, max(1, num_tokens - num_cached_tokens))

    def computed(self, leg_id: int) -> None:
        """The leg's first token is here: nothing of its prompt waits."""
        leg = self._legs.get(leg_id)
        if leg is not None:
            leg.is_running = True
            self._computing.pop(leg_id, None)
            self._set_compute(leg, 0)

    def ended(self, leg_id: int) -> None:
        leg = self._legs.pop(leg_id, None)
        self._computing.pop(leg_id, None)
        if leg is not None:
            self._count(leg, -1)

    def reported(self, report: WorkerReport) -> None:
        """The worker's own account replaces this router's for every accepted leg."""
        self._report = report
        self._num_seqs = self._waiting_tokens = self._used_blocks = 0
        for leg in self._legs.values():
            leg.is_reported = leg.is_accepted
            leg.runs_reported = leg.is_running
            if not leg.is_reported:
                self._count(leg, 1)

    def forget(self) -> None:
        """The worker is lost: no leg and no report of it holds."""
        self._report = None
        self._legs.clear()
        self._computing.clear()
        self._num_seqs = self._waiting_tokens = self._used_blocks = 0

    def check_integrity(self) -> None:
        """Raises AssertionError when corrections remain though no leg is under way."""
        unreported = [leg for leg in self._legs.values() if not leg.is_reported]
        if self._report is None:
            assert self._num_seqs == len(unreported), "the corrections miss or repeat a leg"

    def _count(self, leg: _LegLoad, sign: int) -> None:
        self._num_seqs += sign
        self._waiting_tokens += sign * leg.compute_tokens
        self._used_blocks += sign * leg.room_blocks

    def _set_compute(self, leg: _LegLoad, compute_tokens: int) -> None:
        self._waiting_tokens += compute_tokens - leg.compute_tokens
        leg.compute_tokens = compute_tokens
