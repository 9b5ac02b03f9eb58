"""The records of a run as arrays, one entry a request, in the order of their intended start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.record import RequestRecord
from loadtest.slo import SloSet

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """Times in seconds; nan where a request has no such time. All arrays are [num_requests]."""

    records: tuple[RequestRecord, ...]
    intended_s: Floats
    lag_s: Floats
    end_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    stall_s: Floats
    num_input: Floats
    num_output: Floats
    num_cached: Floats
    is_ok: Bools
    is_good: Bools

    def __len__(self) -> int:
        return len(self.records)

    def where(self, mask: Bools) -> "Columns":
        chosen = tuple(record for record, take in zip(self.records, mask, strict=True) if take)
        arrays = {name: getattr(self, name)[mask] for name in _ARRAYS}
        return Columns(chosen, **arrays)

    def intended_within(self, start_s: float, end_s: float) -> "Columns":
        first, last = np.searchsorted(self.intended_s, (start_s, end_s)).tolist()
        arrays = {name: getattr(self, name)[first:last] for name in _ARRAYS}
        return Columns(self.records[first:last], **arrays)

    def gaps_s(self) -> npt.NDArray[np.float32]:
        """Every gap of every success.  # [num_gaps]"""
        parts = [record.gaps_s for record in self.records if record.is_ok and record.gaps]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def token_times(self) -> Iterator[tuple[Floats, Floats]]:
        """When text came, and how many tokens with it (the mean of its request).  # [num_events]

        In parts of a thousand requests: a large run has more events than memory is for.
        """
        answered = [record for record in self.records if record.first_s is not None]
        for start in range(0, len(answered), _PART):
            pairs = [_token_times(record) for record in answered[start : start + _PART]]
            yield (
                np.concatenate([pair[0] for pair in pairs]),
                np.concatenate([pair[1] for pair in pairs]),
            )


_PART = 1000
_ARRAYS = (
    "intended_s", "lag_s", "end_s", "ttft_s", "tpot_s", "e2e_s", "stall_s",
    "num_input", "num_output", "num_cached", "is_ok", "is_good",
)  # fmt: skip


def _token_times(record: RequestRecord) -> tuple[Floats, Floats]:
    offsets = np.cumsum(record.gaps_s, dtype=np.float64)
    count = offsets.size + 1
    times = (record.first_s or 0.0) + np.concatenate((np.zeros(1), offsets))
    return times, np.full(count, record.num_output / count)


def columns_of(records: Sequence[RequestRecord], slos: SloSet) -> Columns:
    ordered = tuple(sorted(records, key=lambda record: (record.intended_s, record.index)))

    def floats(values: Sequence[float | None]) -> Floats:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    is_ok = np.array([record.is_ok for record in ordered], dtype=np.bool_)
    return Columns(
        records=ordered,
        intended_s=floats([record.intended_s for record in ordered]),
        lag_s=floats([record.lag_s for record in ordered]),
        end_s=floats([record.end_s for record in ordered]),
        ttft_s=floats([record.ttft_s for record in ordered]),
        tpot_s=floats([record.tpot_s for record in ordered]),
        e2e_s=floats([record.e2e_s for record in ordered]),
        stall_s=floats([record.longest_stall_s for record in ordered]),
        num_input=floats([record.num_input for record in ordered]),
        num_output=floats([record.num_output for record in ordered]),
        num_cached=floats([record.num_cached for record in ordered]),
        is_ok=is_ok,
        is_good=np.array([slos.is_met(record) for record in ordered], dtype=np.bool_),
    )
