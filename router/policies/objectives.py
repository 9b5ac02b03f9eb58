"""What latencies cost in shares of their objectives: a request's own, and those of others."""

from router.outlook import Outlook

WINDOW_S = 4.0  # over which prefill beside a batch is spread, as StepPredictor.prefill_share
FULL = 0.95
_STEEP = 8.0


def phi(z: float) -> float:
    return z if z <= 1 else 1 + _STEEP * (z - 1)


def share(outlook: Outlook, more_s: float) -> float:
    """Of its time that a worker prefills when more_s of it come in."""
    found = outlook.prefill_share + (outlook.queue_s + more_s) / WINDOW_S
    return found if found < FULL else FULL


class Objectives:
    """One request's. ttft_s, tpot_s: what is aimed at. waited_s: of ttft_s that has passed.

    followers: how many will queue behind a request that takes all of ttft_s. guard: what it costs
    to break tpot_s of residents that meet it.
    """

    __slots__ = ("_followers", "_guard", "_waited_s", "tpot_s", "ttft_s")

    def __init__(
        self, ttft_s: float, tpot_s: float, waited_s: float, followers: float, guard: float
    ) -> None:
        self.ttft_s, self.tpot_s = ttft_s, tpot_s
        self._waited_s = waited_s
        self._followers, self._guard = followers, guard

    def lateness(self, ttft_s: float) -> float:
        """The request's own, and that of those who will queue behind it in that time."""
        if self._waited_s >= self.ttft_s:
            return ttft_s / self.ttft_s
        z = (self._waited_s + ttft_s) / self.ttft_s
        return (z if z <= 1 else 1 + _STEEP * (z - 1)) * (1 + self._followers * z)

    def crowding(
        self, outlook: Outlook, num_seqs: float, context: float, tpot: float, prefills: float
    ) -> float:
        """What one more sequence costs those that decode there, context tokens in their KV.

        tpot: phi with it. prefills: the share of its time in which the worker does.
        """
        before_s = outlook.costs.itl_s(num_seqs, context)
        before = phi(outlook.margin * before_s / (1 - prefills) / self.tpot_s)
        return num_seqs * (tpot - before)

    def harm(
        self, outlook: Outlook, num_seqs: float, itl_s: float, tpot: float, prefill_s: float
    ) -> float:
        """What prefill_s beside a batch costs the batch."""
        after = phi(itl_s / (1 - share(outlook, prefill_s)) / self.tpot_s)
        risen = num_seqs * (after - tpot)
        return risen + self._guard if tpot <= 1 < after else risen
