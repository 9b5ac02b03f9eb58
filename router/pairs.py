"""How fast KV travels from one worker to another, as its reader measured it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wire.cluster import WorkerInfo


@dataclass(frozen=True, slots=True)
class PairLink:
    """The way of KV from a source to a reader.

    latency_s: a pull of one block. bandwidth_bytes_s: of a large pull. fell_back: the transport is
    a worse one than these two workers should have.
    """

    latency_s: float
    bandwidth_bytes_s: float
    transport: str
    fell_back: bool = False

    def transfer_s(self, num_bytes: float) -> float:
        """Seconds of a pull that waits for nothing else."""
        return self.latency_s + num_bytes / self.bandwidth_bytes_s


PairLinks = Mapping[tuple[str, str], PairLink]
"""By (source, reader), both worker ids; a pair that was not measured is left out."""


def pair_links(workers: Iterable[WorkerInfo]) -> PairLinks:
    """What the workers have measured. A way from a worker that is not listed is left out."""
    listed = tuple(workers)
    ids = {info.worker_id for info in listed}
    return {
        (pair.source, info.worker_id): PairLink(
            pair.latency_s, pair.bandwidth_bytes_s, pair.transport, pair.fell_back
        )
        for info in listed
        for pair in info.pairs
        if pair.transport and pair.bandwidth_bytes_s > 0 and pair.source in ids
    }
