"""What other routers have given to the workers and no report tells yet. Pure."""

from dataclasses import dataclass, field

from router.load import LoadShare

WorkerKey = tuple[str, int]  # worker_id and epoch
_SILENT_S = 2.0


@dataclass(slots=True)
class _Peer:
    heard_s: float
    shares: dict[WorkerKey, LoadShare] = field(default_factory=dict)


class PeerLoads:
    """Shares by peer. A peer that says nothing for 2 s counts no more: it is gone, or we are."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    @property
    def num_peers(self) -> int:
        return len(self._peers)

    def told(self, peer: str, shares: dict[WorkerKey, LoadShare], now_s: float) -> None:
        """A peer's whole account, in place of all that it said before."""
        self._peers[peer] = _Peer(now_s, shares)

    def added(self, peer: str, worker: WorkerKey, share: LoadShare, now_s: float) -> None:
        """A peer has just placed something; its next account has it as well."""
        known = self._peers.setdefault(peer, _Peer(now_s))
        known.shares[worker] = known.shares.get(worker, LoadShare()) + share

    def forget_silent(self, now_s: float) -> None:
        for peer, known in list(self._peers.items()):
            if now_s - known.heard_s > _SILENT_S:
                del self._peers[peer]

    def totals(self) -> dict[WorkerKey, LoadShare]:
        """What all peers together have given to each worker."""
        totals: dict[WorkerKey, LoadShare] = {}
        for known in self._peers.values():
            for worker, share in known.shares.items():
                totals[worker] = totals.get(worker, LoadShare()) + share
        return totals
