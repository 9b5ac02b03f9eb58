"""Has an answer move when its worker asks for it, and asks again while nobody takes it."""

import asyncio
from collections.abc import Callable

from router.migration import Migration, MigrationState
from router.session import LegSink, WorkerSession
from router.stitcher import Stitcher
from runtime.metrics import Metrics
from wire.messages import GenerateRequest, LegEvent, LegMove

FindTarget = Callable[[WorkerSession, int, bool], WorkerSession | None]
"""From the source, the sequence's tokens, and whether only more room counts, to a target."""

_LEAST_LEFT_TOKENS = 16  # an answer with fewer to come ends about when it would have moved
_RETRY_MIN_S = 1.0
_RETRY_MAX_S = 30.0


class Mover:
    """One attempt's migrations, one at a time.

        STAYING --its worker asks, and another takes it--> MOVING --> STAYING there
        MOVING --kept--> STAYING; asked again after 1 s, 2 s, and so on to 30 s

    `take` hands the new worker's leg over; until then `close` ends it.
    """

    def __init__(
        self,
        request: GenerateRequest,
        stitcher: Stitcher,
        next_leg_id: Callable[[], int],
        sink: LegSink,
        find_target: FindTarget,
        metrics: Metrics,
    ) -> None:
        self.num_moves = 0
        self._request = request
        self._stitcher = stitcher
        self._next_leg_id = next_leg_id
        self._sink = sink
        self._find_target = find_target
        self._metrics = metrics
        self._migration: Migration | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked: tuple[WorkerSession, LegMove] | None = None
        self._delay_s = _RETRY_MIN_S

    def ask(self, source: WorkerSession, move: LegMove) -> None:
        """The worker that decodes asks for it."""
        num_sent = self._stitcher.num_sent
        is_short = self._request.sampling.max_tokens - num_sent < _LEAST_LEFT_TOKENS
        if self._migration is not None or is_short:
            return
        self._asked = source, move
        num_tokens = len(self._request.prompt_tokens) + num_sent
        target = self._find_target(source, num_tokens, move.only_to_room)
        if target is None:
            self._count("no_target")
            self._ask_later()
            return
        self._migration = Migration(self._request, source, target, self._next_leg_id, self._sink)
        self._migration.start(self._stitcher.sent)

    def owns(self, leg_id: int) -> bool:
        """The leg is the running migration's."""
        return self._migration is not None and self._migration.owns(leg_id)

    def handle(self, event: LegEvent) -> None:
        """Takes an event of a leg that it owns, tokens excepted."""
        assert self._migration is not None
        self._migration.handle(event, self._stitcher.sent)
        if self._migration.state is MigrationState.KEPT:
            self._migration = None
            self._count("kept")
            self._ask_later()

    def take(self, leg_id: int, num_given: int) -> WorkerSession | None:
        """A leg gave tokens up to num_given; where it runs if the answer has moved to it by this,
        None if not."""
        migration = self._migration
        if migration is None or leg_id != migration.target_leg:
            return None
        if not migration.has_caught_up(num_given, self._stitcher.sent):
            return None
        migration.joined()
        return self._moved(migration, "moved")

    def take_over(self) -> tuple[WorkerSession, int] | None:
        """The worker that decodes is lost: the worker and leg that go on, where there are some."""
        migration = self._migration
        if migration is None or not migration.take_over(self._stitcher.sent):
            return None
        return self._moved(migration, "taken_over"), migration.target_leg

    def close(self) -> None:
        """Ends what has begun; safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
        if self._migration is not None:
            self._migration.close()
            self._migration = None

    def _moved(self, migration: Migration, outcome: str) -> WorkerSession:
        self._migration = None
        self._delay_s = _RETRY_MIN_S
        self.num_moves += 1
        self._count(outcome)
        return migration.target

    def _ask_later(self) -> None:
        assert self._asked is not None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._delay_s, self.ask, *self._asked)
        self._delay_s = min(2 * self._delay_s, _RETRY_MAX_S)

    def _count(self, outcome: str) -> None:
        self._metrics.counter("baton_migrations_total", outcome=outcome).inc()
