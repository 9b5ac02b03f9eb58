"""All legs of the requests that are under way, whichever worker they are on."""

from simulate.leg import Leg
from wire.kv import FabricAddress, KVHandle

_NOWHERE = FabricAddress("", 0)


class LegBook:
    """Finds a request's legs, and the leg that a handle stands for."""

    def __init__(self) -> None:
        self._by_id: dict[int, Leg] = {}
        self._by_request: dict[str, list[Leg]] = {}
        self._keys: dict[str, tuple[int, ...]] = {}

    def expect(self, request_id: str, keys: tuple[int, ...]) -> None:
        """keys: of the whole units of the request's prompt and of the answer that it will get."""
        self._keys[request_id] = keys

    def keys(self, request_id: str) -> tuple[int, ...]:
        return self._keys[request_id]

    def add(self, leg: Leg) -> None:
        self._by_id[leg.leg_id] = leg
        self._by_request.setdefault(leg.request_id, []).append(leg)

    def source(self, handle: KVHandle | None) -> Leg | None:
        return None if handle is None else self._by_id[int.from_bytes(handle.handle_id)]

    def take(self, request_id: str) -> list[Leg]:
        """The request is over: its legs, in the order of their starts."""
        legs = self._by_request.pop(request_id, [])
        self._keys.pop(request_id, None)
        for leg in legs:
            del self._by_id[leg.leg_id]
        return legs


def handle_of(leg: Leg) -> KVHandle:
    num_tokens = leg.num_computed if leg.is_share else leg.num_known
    return KVHandle(leg.leg_id.to_bytes(16), leg.worker_id, 1, _NOWHERE, num_tokens, 30.0)
