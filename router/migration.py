"""Moves a running request from the worker that decodes it to another, while its stream goes on."""

from collections.abc import Callable
from enum import Enum

from router.candidates import Candidate, ClusterView
from router.session import LegSink, WorkerSession
from wire.block_hash import BLOCK_SIZE
from wire.messages import (
    ContinueLeg,
    GenerateRequest,
    LegEvent,
    LegFailed,
    LegFinished,
    LegPublished,
    LegTransferred,
    StartLeg,
)

_MOST_BEHIND_TOKENS = 2
_MOST_ROUNDS = 5  # of catching up; a target that is slower than its source goes on from there


class MigrationState(Enum):
    """How far a migration is; `Migration` draws how it moves."""

    SHARING = "sharing"
    PULLING = "pulling"
    JOINING = "joining"
    MOVED = "moved"
    KEPT = "kept"


class Migration:
    """One attempt to move one leg; the source decodes on until the target has given a token.

        SHARING --the source has published its full blocks--> PULLING: the target reads them
        PULLING --all are there--> JOINING: the target knows the tokens so far, computes their tail
        JOINING --a token of its own, at most _MOST_BEHIND_TOKENS late--> MOVED: the source's leg
                  is cancelled; one that is later is told what it missed, and JOINING goes on
        SHARING, PULLING, JOINING --publishing, pulling or the target fails--> KEPT
        PULLING --the source is lost--> JOINING: the target computes what did not arrive
        JOINING --the source is lost--> MOVED

    Tokens that both give are one token, by index. Owns the legs that it starts until MOVED, when
    the target's leg is its attempt's; `close` ends them.
    """

    def __init__(
        self,
        request: GenerateRequest,
        source: WorkerSession,
        target: WorkerSession,
        next_leg_id: Callable[[], int],
        sink: LegSink,
    ) -> None:
        self.state = MigrationState.SHARING
        self.target = target
        self.target_leg = next_leg_id()
        self._request = request
        self._source = source
        self._share_leg = next_leg_id()
        self._sink = sink
        self._num_told = 0  # of the answer's tokens, to the target
        self._num_rounds = 0

    @property
    def is_over(self) -> bool:
        return self.state in (MigrationState.MOVED, MigrationState.KEPT)

    def start(self, sent: tuple[int, ...]) -> None:
        """sent: the answer's tokens so far, here as in `handle`."""
        num_tokens = len(self._request.prompt_tokens) + len(sent)
        self.target.reserve_leg(
            self.target_leg, compute_tokens=0, new_tokens=num_tokens, num_tokens=num_tokens
        )
        share = StartLeg(self._share_leg, self._request, sent, share=True)
        self._source.start_leg(share, self._sink)

    def owns(self, leg_id: int) -> bool:
        return leg_id in (self._share_leg, self.target_leg)

    def handle(self, event: LegEvent, sent: tuple[int, ...]) -> None:
        """Takes an event of one of its legs, its tokens excepted."""
        if self.is_over:
            return
        if isinstance(event, LegPublished):
            self.state = MigrationState.PULLING
            leg = StartLeg(self.target_leg, self._request, sent, handle=event.handle, waits=True)
            self.target.start_leg(leg, self._sink)
        elif isinstance(event, LegTransferred) and self.state is MigrationState.PULLING:
            self._arrived(event, sent)
        elif isinstance(event, LegFailed) or self._is_targets_end(event):
            self.close()

    def has_caught_up(self, num_given: int, sent: tuple[int, ...]) -> bool:
        """The target gave token num_given - 1. Whether the source is not needed any more; if it
        is, the target is told what the source gave meanwhile."""
        is_near = len(sent) - num_given <= _MOST_BEHIND_TOKENS
        if is_near or self._num_rounds >= _MOST_ROUNDS:
            return True
        if num_given > self._num_told:
            self._num_rounds += 1
            self._tell(sent)
        return False

    def joined(self) -> None:
        """The target's leg is the answer's from here on."""
        self.state = MigrationState.MOVED
        self._source.cancel_leg(self._share_leg)

    def take_over(self, sent: tuple[int, ...]) -> bool:
        """The source is lost. Whether the target goes on with what it holds."""
        if self.state is MigrationState.PULLING:
            self._tell(sent)
        elif self.state is not MigrationState.JOINING:
            self.close()
            return False
        self.joined()
        return True

    def close(self) -> None:
        """Ends what it has started, unless the request has moved. Safe to repeat."""
        if not self.is_over:
            self.state = MigrationState.KEPT
            self._source.cancel_leg(self._share_leg)
            self.target.cancel_leg(self.target_leg)

    def _arrived(self, event: LegTransferred, sent: tuple[int, ...]) -> None:
        if event.failure:
            self.close()
            return
        self._source.settle_leg(self._share_leg)
        self.state = MigrationState.JOINING
        self._tell(sent)

    def _tell(self, sent: tuple[int, ...]) -> None:
        self._num_told = len(sent)
        self.target.continue_leg(ContinueLeg(self.target_leg, 0, sent))

    def _is_targets_end(self, event: LegEvent) -> bool:
        return isinstance(event, LegFinished) and event.leg_id == self.target_leg


def choose_target(
    view: ClusterView,
    source_id: str,
    group: int,
    num_tokens: int,
    num_free_blocks: int,
    excluded: frozenset[tuple[str, int]],
) -> Candidate | None:
    """The least loaded decode worker of the group that has room for a sequence, if there is one.

    num_free_blocks: what it has to have left beyond the sequence. excluded: worker ids and epochs.
    """
    least = -(-num_tokens // BLOCK_SIZE) + 1 + num_free_blocks
    fitting = [
        found
        for found in view.decode
        if found.worker_id != source_id
        and found.group == group
        and found.num_free_blocks >= least
        and (found.worker_id, found.epoch) not in excluded
    ]
    return min(fitting, key=lambda c: (c.num_seqs, -c.num_free_blocks, c.worker_id), default=None)
