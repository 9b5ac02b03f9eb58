"""What was seen of one request. Times are seconds from the run's start."""

import msgspec
import numpy as np
import numpy.typing as npt


class StageTimes(msgspec.Struct, frozen=True):
    """How Baton served a request, from its headers or its last chunk. Seconds; None: not told."""

    kind: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
    queue_s: float | None = None
    prefill_s: float | None = None
    transfer_s: float | None = None
    exposed_s: float | None = None


class RequestRecord(msgspec.Struct, frozen=True, array_like=True):
    """One request, from its intended start to its end.

    intended_s: when the workload wanted it sent; sent_s: when it was handed to a connection.
    first_s: the first text, None without one. gaps: float32 seconds between one event with text
    and the next. error is empty for a success. Lengths are the server's where it told them.
    """

    index: int
    class_name: str
    conversation: int
    turn: int
    intended_s: float
    sent_s: float
    end_s: float
    first_s: float | None
    gaps: bytes
    num_planned_input: int
    num_planned_output: int
    num_input: int
    num_output: int
    num_cached: int
    status: int
    finish_reason: str
    error: str
    stages: StageTimes

    @property
    def is_ok(self) -> bool:
        return not self.error

    @property
    def lag_s(self) -> float:
        """How late the generator was. Nothing of it is the server's."""
        return self.sent_s - self.intended_s

    @property
    def gaps_s(self) -> npt.NDArray[np.float32]:
        """[num_events - 1]"""
        return np.frombuffer(self.gaps, dtype=np.float32)

    @property
    def ttft_s(self) -> float | None:
        """From the intended start to the first text."""
        return None if self.first_s is None else self.first_s - self.intended_s

    @property
    def e2e_s(self) -> float:
        return self.end_s - self.intended_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token after the first; None for answers of one token."""
        if self.first_s is None or self.num_output < 2:
            return None
        return float(self.gaps_s.sum(dtype=np.float64)) / (self.num_output - 1)

    @property
    def longest_stall_s(self) -> float:
        """The longest gap between events, 0 for fewer than two."""
        return float(self.gaps_s.max()) if self.gaps else 0.0
