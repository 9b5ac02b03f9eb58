"""Both pools' candidates in the order of their sessions, renewed one by one."""

from collections.abc import Iterable

from router.candidates import Candidate, ClusterView
from router.pairs import PairLinks
from wire.cluster import Mode
from wire.messages import Role


class CandidatePools:
    """A view of a thousand workers costs what has changed, and two copies of lists."""

    def __init__(self) -> None:
        self._pools: dict[Role, list[Candidate]] = {role: [] for role in Role}
        self._places: dict[str, tuple[Role, int]] = {}

    def fill(self, candidates: Iterable[Candidate]) -> None:
        """All candidates afresh."""
        self._pools = {role: [] for role in Role}
        self._places = {}
        for candidate in candidates:
            pool = self._pools[candidate.role]
            self._places[candidate.worker_id] = candidate.role, len(pool)
            pool.append(candidate)

    def renew(self, worker_id: str, candidate: Candidate | None) -> bool:
        """Puts a worker's candidate in its place. False: it comes, goes or moves; fill() is due."""
        place = self._places.get(worker_id)
        if candidate is None or place is None:
            return candidate is None and place is None
        role, index = place
        if candidate.role is not role:
            return False
        self._pools[role][index] = candidate
        return True

    def view(self, links: PairLinks, mode: Mode = Mode.HYBRID) -> ClusterView:
        pools = self._pools
        return ClusterView(tuple(pools[Role.PREFILL]), tuple(pools[Role.DECODE]), links, mode)
