"""How long KV transfers between each pair of workers showed, from the latest requests' traces."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from dashboard.shapes import PairExposure


class Transfer(msgspec.Struct, frozen=True):
    """What of a request's trace tells of its transfer, times in seconds."""

    id: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
    transfer_s: float = 0.0
    exposed_s: float = 0.0
    transfer_failure: str = ""
    ttft_s: float = 0.0
    total_s: float = 0.0

    @property
    def slowness_s(self) -> float:
        return self.ttft_s or self.total_s


def exposures(transfers: Iterable[Transfer]) -> list[PairExposure]:
    """One per pair that a request went through, by name."""
    by_pair: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    for transfer in transfers:
        if transfer.prefill_worker and transfer.prefill_worker != transfer.decode_worker:
            by_pair[transfer.prefill_worker, transfer.decode_worker].append(transfer)
    return [
        PairExposure(
            source=source,
            target=target,
            count=len(found),
            exposed_p50_ms=1e3 * _quantile([one.exposed_s for one in found], 0.5),
            exposed_p90_ms=1e3 * _quantile([one.exposed_s for one in found], 0.9),
            transfer_p50_ms=1e3 * _quantile([one.transfer_s for one in found], 0.5),
            failures=sum(bool(one.transfer_failure) for one in found),
        )
        for (source, target), found in sorted(by_pair.items())
    ]


def _quantile(values: Sequence[float], share: float) -> float:
    """The value at that rank; of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
