"""What the operator holds against the planner: a pause, or sizes that are pinned."""

from dataclasses import dataclass

from control_plane.planner.types import PoolSizes


@dataclass(frozen=True, slots=True)
class Pin:
    """Pool sizes that an operator holds, by seconds since 1970; until_s 0: until unpinned."""

    sizes: PoolSizes
    who: str
    since_s: float
    until_s: float = 0.0


class Overrides:
    """The one owner of pause and pin. The operator API writes, the autopilot reads each tick.

    Paused: decide and record, do nothing. Pinned: both pools' minimum and maximum are the pin.
    """

    def __init__(self) -> None:
        self.paused_by = ""
        self._pin: Pin | None = None

    @property
    def is_paused(self) -> bool:
        return bool(self.paused_by)

    def pause(self, who: str) -> None:
        self.paused_by = who

    def resume(self) -> None:
        self.paused_by = ""

    def set_pin(self, pin: Pin | None) -> None:
        self._pin = pin

    def pin_at(self, wall_s: float) -> Pin | None:
        """The pin that holds at this time; one that has run out is dropped."""
        if self._pin is not None and 0.0 < self._pin.until_s <= wall_s:
            self._pin = None
        return self._pin
