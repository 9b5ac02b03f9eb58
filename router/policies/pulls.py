"""What a prompt's beginning costs where it is pulled from another worker's cache."""

from collections.abc import Sequence

from router.candidates import Candidate
from router.outlook import Outlook, warm
from router.policies.policy import RequestFacts
from wire.block_hash import BLOCK_SIZE

_NUM_PEERS = 2  # holders of a prompt's beginning that a worker may pull it from

# Who gives the prompt's beginning, and in how many seconds.
Pull = tuple[str, float]
NO_PULL: Pull = ("", 0.0)


class Pulls:
    """One request's ways to what other workers hold of its prompt; false where there are none.

    workers: all of the cluster. One that never pulled does not know what a token weighs, so that
    the heaviest that any of them knows counts.
    """

    __slots__ = ("_facts", "_peers", "_token_bytes")

    def __init__(self, facts: RequestFacts, workers: Sequence[Candidate]) -> None:
        self._facts = facts
        self._peers = _holders(facts, workers) if facts.links else ()
        if self._peers:
            self._token_bytes = max(warm(worker.outlook).link.token_bytes for worker in workers)

    def __bool__(self) -> bool:
        return bool(self._peers)

    def best(self, worker: Candidate, outlook: Outlook, own_s: float) -> tuple[float, Pull]:
        """The worker's prefill seconds, and the pull by which they are the least: it has to save
        more than it takes. Only measured ways count, since no other one is known to be there."""
        facts, pull = self._facts, NO_PULL
        own = facts.confirmed_blocks.get(worker.worker_id, 0)
        for peer in self._peers:
            pair = facts.links.get((peer.worker_id, worker.worker_id))
            num_held = facts.confirmed_blocks[peer.worker_id]
            if pair is None or num_held <= own or peer.group != worker.group:
                continue
            num_bytes = (num_held - own) * BLOCK_SIZE * self._token_bytes
            wait_s = warm(peer.outlook).tpot_s + outlook.link.latency_s
            pull_s = wait_s + pair.transfer_s(num_bytes)
            num_left = max(1, facts.num_tokens - num_held * BLOCK_SIZE)
            less_s = outlook.margin * outlook.costs.prefill_s(num_left, facts.num_tokens - num_left)
            if num_bytes > 0 and pull_s + less_s < own_s + pull[1]:
                own_s, pull = less_s, (peer.worker_id, pull_s)
        return own_s, pull


def _holders(facts: RequestFacts, workers: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those of the workers whose caches hold most of the prompt, a few of them."""
    held = facts.confirmed_blocks
    if not held:
        return ()
    holders = [worker for worker in workers if worker.worker_id in held]
    holders.sort(key=lambda worker: -held[worker.worker_id])
    return holders[:_NUM_PEERS]
