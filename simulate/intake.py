"""KV that a worker pulls from others: who waits for room, what is on its way, what has come."""

from collections import deque
from collections.abc import Callable
from functools import partial

from profiles.profile import Profile
from simulate.batch import Batch
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.links import SILENCE_S, Links

Post = Callable[[Callable[[Leg], None], Leg], None]


class Intake:
    """One link into the worker carries one byte at a time, in the order of the pulls.

        add --room--> pulling --done--> arrived (decodes; behind a share, computes the rest)
                      pulling --source lost, silent or cut--> failed (its prompt is computed here)

    post: hands a command to the worker's loop, which runs it between two steps.
    """

    def __init__(
        self,
        worker_id: str,
        profile: Profile,
        pull_s: float,
        batch: Batch,
        links: Links,
        loop: EventLoop,
        post: Post,
        on_end: Callable[[Leg, str], None],
    ) -> None:
        self._worker_id = worker_id
        self._profile = profile
        self._pull_s = pull_s
        self._batch = batch
        self._links = links
        self._loop = loop
        self._post = post
        self._on_end = on_end
        self._waiting: deque[Leg] = deque()
        self._pulling: dict[int, Leg] = {}
        self._free_s = 0.0  # of the link

    def __len__(self) -> int:
        return len(self._waiting) + len(self._pulling)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def pulling(self) -> list[Leg]:
        return list(self._pulling.values())

    def add(self, leg: Leg) -> None:
        self._waiting.append(leg)

    def begin(self) -> list[Leg]:
        """Starts the pulls that there is room for; gives their legs."""
        begun = []
        while self._waiting and self._batch.reserve(self._waiting[0]):
            leg = self._waiting.popleft()
            self._pulling[leg.leg_id] = leg
            self._pull(leg)
            begun.append(leg)
        return begun

    def cancel(self, leg: Leg) -> bool:
        """False: it is neither waiting nor being pulled."""
        if leg in self._waiting:
            self._waiting.remove(leg)
            return True
        return self._pulling.pop(leg.leg_id, None) is not None

    def source_froze(self, leg: Leg, seconds: float) -> None:
        """Its source sends nothing for that long."""
        if leg.leg_id not in self._pulling:
            return
        if seconds >= SILENCE_S:
            self._loop.after(SILENCE_S, self._fail, leg, "peer_hung")
        else:
            leg.pull_carried_s += seconds

    def _pull(self, leg: Leg) -> None:
        now_s, source = self._loop.now(), leg.source
        assert source is not None
        leg.pull_begun_s = now_s
        if source.is_lost or source.is_cancelled:
            self._fail(leg, "peer_lost")
            return
        num_wanted = source.num_computed if source.is_share else leg.num_known
        leg.num_pulled = max(0, num_wanted - leg.num_computed)
        carry_s = self._links.carry_s(
            source.worker_id, self._worker_id, self._profile, leg.num_pulled
        )
        source.on_lost = partial(self._fail, leg, "peer_lost")
        source.on_frozen = partial(self.source_froze, leg)
        if carry_s == float("inf"):
            self._loop.after(SILENCE_S, self._fail, leg, "peer_hung")
            return
        leg.pull_carried_s = max(now_s, self._free_s) + carry_s
        leg.pull_tail_s = carry_s / self._profile.num_layer_groups
        self._free_s = leg.pull_carried_s
        if source.is_complete:
            self._expect(leg)
        else:
            source.on_complete = partial(self._expect, leg)

    def _expect(self, leg: Leg) -> None:
        """Prefill has ended: when the pull is done is known."""
        assert leg.source is not None
        leg.prefilled_s = self._loop.now()
        done_s = max(self._loop.now() + leg.pull_tail_s, leg.pull_carried_s)
        latency_s = self._links.latency_s(leg.source.worker_id, self._worker_id, self._profile)
        self._loop.at(done_s + latency_s + self._pull_s, self._finish, leg, "")

    def _fail(self, leg: Leg, why: str) -> None:
        self._finish(leg, why)

    def _finish(self, leg: Leg, failure: str) -> None:
        if leg.leg_id in self._pulling and not leg.pull_ended:
            leg.pull_ended = True
            leg.pull_ended_s = self._loop.now()
            self._post(partial(self._end, failure), leg)

    def _end(self, failure: str, leg: Leg) -> None:
        if self._pulling.pop(leg.leg_id, None) is not None:
            assert leg.source is not None
            leg.source.forget_reader()
            self._on_end(leg, failure)
