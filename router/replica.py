"""What one router tells its replicas about a placement, and what it makes of theirs. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.affinity import SessionHomes
from router.load import LoadShare
from router.peer_loads import WorkerKey
from router.placement import Placement
from router.policies.policy import RequestFacts
from router.prefix_map import PrefixMap
from wire.block_hash import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class PlacementNote:
    """What a router has just decided. workers: that will hold the hashes' blocks.

    session, home: a session's name and its worker, or empty. shares: what the placement adds to
    the workers' loads.
    """

    workers: tuple[str, ...]
    hashes: Sequence[int]
    session: str
    home: str
    shares: dict[WorkerKey, LoadShare]


@dataclass(frozen=True, slots=True)
class Replica:
    """What a router gives to its replicas, and takes from them; all on its event loop.

    take_note: gets a note and its age in seconds.
    """

    own_shares: Callable[[], Mapping[WorkerKey, LoadShare]]
    take_shares: Callable[[Mapping[WorkerKey, LoadShare]], None]
    take_note: Callable[[PlacementNote, float], None]


class SharedState(Protocol):
    """A router's link to its replicas. told() never waits, and nothing that it misses matters."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def told(self, note: PlacementNote) -> None: ...


def note_of(
    placement: Placement, facts: RequestFacts, session: str, epochs: dict[str, int]
) -> PlacementNote:
    """The note of a placement. epochs: of its workers, by id."""
    decode, prefill = placement.decode, placement.prefill
    rest = facts.uncached_tokens(decode)
    compute = 0 if prefill is not None else rest
    room = -(-rest // BLOCK_SIZE)
    shares = {(decode, epochs[decode]): LoadShare(1, compute, room, 1, facts.num_tokens)}
    if prefill is not None:
        rest = facts.uncached_tokens(prefill)
        shares[prefill, epochs[prefill]] = LoadShare(1, rest, -(-rest // BLOCK_SIZE))
    workers = (decode,) if prefill is None else (prefill, decode)
    return PlacementNote(workers, facts.block_hashes, session, decode if session else "", shares)


class ReplicaNotes:
    """Puts other routers' placements where this router's own go: guesses and homes."""

    def __init__(
        self, prefix_map: PrefixMap, homes: SessionHomes, speculative_ttl_s: float
    ) -> None:
        self._prefix_map = prefix_map
        self._homes = homes
        self._ttl_s = speculative_ttl_s

    def take(self, note: PlacementNote, age_s: float, now_s: float) -> None:
        """A guess lives as long as it would have here; a home counts from now on."""
        known = [name for name in note.workers if self._prefix_map.has_worker(name)]
        if age_s < self._ttl_s and known:
            self._prefix_map.speculate(known, note.hashes, now_s + self._ttl_s - age_s)
        if note.session:
            self._homes.ran(note.session, note.home, now_s)
