"""What was written down, by whichever control plane: each entry once, in order of time."""

from typing import Generic, Protocol, TypeVar


class Numbered(Protocol):
    """An entry: ids grow within a process; at_s are seconds since 1970."""

    @property
    def id(self) -> int: ...

    @property
    def at_s(self) -> float: ...


T = TypeVar("T", bound=Numbered)


class Journal(Generic[T]):
    """The newest `capacity` entries of one kind; an entry that comes again is known."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[tuple[float, int], T] = {}
        self.highest_id = 0

    def add(self, entry: T) -> bool:
        """False for one that is known."""
        key = (entry.at_s, entry.id)
        if key in self._entries:
            return False
        self._entries[key] = entry
        self.highest_id = max(self.highest_id, entry.id)
        if len(self._entries) > self._capacity:
            del self._entries[min(self._entries)]
        return True

    def newest(self, limit: int) -> list[T]:
        """Newest first."""
        return [self._entries[key] for key in sorted(self._entries, reverse=True)[:limit]]
