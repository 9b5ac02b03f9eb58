"""Placements that others carry out: they count as load from the decision until their release."""

from collections.abc import Callable
from dataclasses import dataclass

from router.placement import Placement
from router.policies.policy import Pair, RequestFacts
from router.session import WorkerSession
from router.sessions import Sessions
from wire.cluster import WorkerInfo
from wire.errors import BatonError, ErrorCode
from wire.router_messages import PairForecast, Placed, PlaceReply

MAX_OUTSIDE = 65_536


@dataclass(frozen=True, slots=True)
class _Outside:
    """Legs by worker process: (worker_id, epoch, leg_id, tokens to compute)."""

    legs: tuple[tuple[str, int, int, int], ...]
    num_tokens: int
    expires_at_s: float


class OutsidePlacements:
    """Owns the reservations that Place made, by the caller's ids; each ends after ttl_s."""

    def __init__(self, sessions: Sessions, next_leg_id: Callable[[], int], ttl_s: float) -> None:
        self._sessions = sessions
        self._next_leg_id = next_leg_id
        self._ttl_s = ttl_s
        self._by_id: dict[str, _Outside] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._by_id)

    def check_free(self, place_id: str, now_s: float) -> None:
        """Raises BatonError for an id that is empty or in use, or OVERLOADED for too many."""
        self._expire(now_s)
        if not place_id:
            raise BatonError(ErrorCode.INVALID_REQUEST, "place_id is empty", param="place_id")
        if place_id in self._by_id:
            message = f"the place_id {place_id[:80]!r} is in use: release it first"
            raise BatonError(ErrorCode.INVALID_REQUEST, message, param="place_id")
        if len(self._by_id) >= MAX_OUTSIDE:
            message = f"{MAX_OUTSIDE} placements are not released"
            raise BatonError(ErrorCode.OVERLOADED, message, retry_after_s=1.0)

    def reserve(
        self, place_id: str, placement: Placement, facts: RequestFacts, now_s: float
    ) -> PlaceReply:
        """Counts both legs as the relay does for its own, and gives the answer to the caller."""
        decode = self._sessions.get(placement.decode)
        rest = facts.uncached_tokens(placement.decode)
        compute = rest if placement.prefill is None else 0
        legs = [self._reserve(decode, compute, rest, facts.num_tokens)]
        prefill = None
        if placement.prefill is not None:
            prefill = self._sessions.get(placement.prefill)
            rest = facts.uncached_tokens(placement.prefill)
            legs.append(self._reserve(prefill, rest, rest, 0))
        self._by_id[place_id] = _Outside(tuple(legs), facts.num_tokens, now_s + self._ttl_s)
        return PlaceReply(
            None if prefill is None else _placed(prefill.info),
            _placed(decode.info),
            placement.kind.value,
            placement.explanation,
            tuple(_forecast(pair) for pair in placement.ranking),
            self._ttl_s,
        )

    def started(self, place_id: str) -> None:
        """The workers' next reports count it: from then on its reservation must not."""
        outside = self._by_id.get(place_id)
        if outside is None:
            return
        for worker_id, epoch, leg_id, compute in outside.legs:
            session = self._session(worker_id, epoch)
            if session is not None:
                cached = outside.num_tokens - compute
                session.accept_leg(leg_id, outside.num_tokens, cached)

    def release(self, place_id: str) -> None:
        outside = self._by_id.pop(place_id, None)
        if outside is None:
            return
        for worker_id, epoch, leg_id, _ in outside.legs:
            session = self._session(worker_id, epoch)
            if session is not None:
                session.cancel_leg(leg_id)

    def _expire(self, now_s: float) -> None:
        while self._by_id:
            place_id, oldest = next(iter(self._by_id.items()))
            if oldest.expires_at_s > now_s:
                return
            self.release(place_id)

    def _reserve(
        self, session: WorkerSession, compute: int, new_tokens: int, num_tokens: int
    ) -> tuple[str, int, int, int]:
        leg_id = self._next_leg_id()
        session.reserve_leg(
            leg_id, compute_tokens=compute, new_tokens=new_tokens, num_tokens=num_tokens
        )
        return session.info.worker_id, session.info.epoch, leg_id, compute

    def _session(self, worker_id: str, epoch: int) -> WorkerSession | None:
        """The process that the leg was reserved on, if it is still the one of that name."""
        for session in self._sessions.all():
            if session.info.worker_id == worker_id and session.info.epoch == epoch:
                return session
        return None


def _placed(info: WorkerInfo) -> Placed:
    return Placed(info.worker_id, info.epoch, info.address)


def _forecast(pair: Pair) -> PairForecast:
    source, found = "" if pair.prefill is None else pair.prefill.worker_id, pair.forecast
    return PairForecast(
        source,
        pair.decode.worker_id,
        ttft_s=found.ttft_s,
        tpot_s=found.tpot_s,
        queue_s=found.queue_s,
        prefill_s=found.prefill_s,
        fetch_s=found.fetch_s,
        exposed_s=found.exposed_s,
        cost=found.cost,
    )
