"""How fast KV passes between two workers: by their zones, less where a fault slows a worker."""

from collections.abc import Iterable
from dataclasses import dataclass

from profiles.profile import Profile
from wire.cluster import PairStatus

SILENCE_S = 4.0  # FabricConfig.dead_after_s: silence after which a source counts as hung


@dataclass(frozen=True, slots=True)
class LinkClass:
    """KV from a worker of one zone into one of the other, either way round."""

    zones: tuple[str, str]
    bytes_per_s: float
    latency_s: float

    def joins(self, one: str, other: str) -> bool:
        return self.zones in ((one, other), (other, one))


class Links:
    """Where no class joins two zones, the reader's profile says how fast its link is.

    factors: what faults leave of a worker's bandwidth, 0 for a cut.
    """

    def __init__(self, classes: Iterable[LinkClass] = ()) -> None:
        self._classes = tuple(classes)
        self.zones: dict[str, str] = {}
        self.factors: dict[str, float] = {}

    def carry_s(self, source: str, reader: str, profile: Profile, num_tokens: int) -> float:
        """Seconds on the wire; infinite where it is cut."""
        found = self._class(source, reader)
        bytes_per_s = profile.link_bytes_per_s if found is None else found.bytes_per_s
        factor = min(self.factors.get(source, 1.0), self.factors.get(reader, 1.0))
        if factor <= 0:
            return float("inf")
        return num_tokens * profile.kv_bytes_per_token / (bytes_per_s * factor)

    def latency_s(self, source: str, reader: str, profile: Profile) -> float:
        found = self._class(source, reader)
        return profile.link_latency_s if found is None else found.latency_s

    def measured(self, source: str, reader: str, profile: Profile) -> PairStatus:
        """What the reader finds when it probes the way, with nothing else on it."""
        found = self._class(source, reader)
        bytes_per_s = profile.link_bytes_per_s if found is None else found.bytes_per_s
        latency_s = self.latency_s(source, reader, profile)
        return PairStatus(source, latency_s, bytes_per_s, "simulated")

    def _class(self, source: str, reader: str) -> LinkClass | None:
        if not self._classes:
            return None
        one, other = self.zones.get(source, ""), self.zones.get(reader, "")
        return next((found for found in self._classes if found.joins(one, other)), None)
