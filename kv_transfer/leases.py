"""Who may still read which export: leases that end by themselves. Pure; time comes in."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Lease:
    deadline_s: float
    is_attached: bool = False
    num_pins: int = 0
    has_ended: bool = False


class LeaseTable:
    """The leases of one source, by handle. Each id is reported freed exactly once.

        grant -> OPEN -attach-> ATTACHED -end/expire-> (pinned: ENDING -last unpin->) freed

    A pinned lease is being read by this process's own sender: it neither expires nor is freed
    until the last pin is gone. The caller frees the blocks of an id that a method reports.
    """

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._leases: dict[bytes, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, handle_id: bytes) -> bool:
        return handle_id in self._leases

    def grant(self, handle_id: bytes, now_s: float) -> None:
        assert handle_id not in self._leases
        self._leases[handle_id] = _Lease(now_s + self._duration_s)

    def is_valid(self, handle_id: bytes) -> bool:
        lease = self._leases.get(handle_id)
        return lease is not None and not lease.has_ended

    def is_attached(self, handle_id: bytes) -> bool:
        lease = self._leases.get(handle_id)
        return lease is not None and lease.is_attached

    def attach(self, handle_id: bytes, now_s: float) -> bool:
        """Makes the caller the one reader; False when there is one or the lease has ended."""
        if not self.is_valid(handle_id) or self._leases[handle_id].is_attached:
            return False
        self._leases[handle_id].is_attached = True
        self.renew(handle_id, now_s)
        return True

    def renew(self, handle_id: bytes, now_s: float) -> None:
        """A heartbeat of the reader; nothing happens once the lease has ended."""
        if self.is_valid(handle_id):
            self._leases[handle_id].deadline_s = now_s + self._duration_s

    def pin(self, handle_id: bytes) -> bool:
        """Keeps the blocks while a read of them is served; False when the lease has ended."""
        if not self.is_valid(handle_id):
            return False
        self._leases[handle_id].num_pins += 1
        return True

    def unpin(self, handle_id: bytes) -> bool:
        """Whether the blocks are freed by this."""
        lease = self._leases[handle_id]
        assert lease.num_pins > 0
        lease.num_pins -= 1
        return self._free(handle_id)

    def end(self, handle_id: bytes) -> bool:
        """Ends the lease; whether the blocks are freed by this. Safe to repeat."""
        if handle_id not in self._leases:
            return False
        self._leases[handle_id].has_ended = True
        return self._free(handle_id)

    def expire(self, now_s: float) -> list[bytes]:
        """Ends what is past its deadline and not pinned; all of these are freed."""
        late = [
            handle_id
            for handle_id, lease in self._leases.items()
            if lease.deadline_s <= now_s and not lease.num_pins
        ]
        for handle_id in late:
            del self._leases[handle_id]
        return late

    def next_deadline_s(self) -> float | None:
        """When the next lease may expire, None without leases."""
        return min((lease.deadline_s for lease in self._leases.values()), default=None)

    def check_integrity(self) -> None:
        """Raises AssertionError when an ended lease without pins is still here."""
        for lease in self._leases.values():
            assert lease.num_pins >= 0
            assert lease.num_pins or not lease.has_ended

    def _free(self, handle_id: bytes) -> bool:
        lease = self._leases[handle_id]
        if not lease.has_ended or lease.num_pins:
            return False
        del self._leases[handle_id]
        return True
