"""When a wish may be acted on: evidence first, then the cool-downs of earlier actions."""

import math

from wire.messages import Role

_SOON, _LONG = 10.0, 60.0  # cool-downs of removal
_MAX_REMOVE_FACTOR = 8.0
_CLEAR_EXCESS = 0.15  # of pressure above the dead band: a tick with more of it counts for more


class Evidence:
    """Ticks in a row that wish the same, the clearer ones for more than one."""

    def __init__(self, confirm_ticks: int) -> None:
        self._confirm_ticks = confirm_ticks
        self._wish: object = None
        self._weight = 0.0

    def add(self, wish: object, excess: float) -> bool:
        """True when there is enough. wish None, or another one than before, starts again."""
        if wish != self._wish:
            self._wish, self._weight = wish, 0.0
        if wish is None:
            return False
        self._weight += min(float(self._confirm_ticks), max(1.0, excess / _CLEAR_EXCESS))
        return self._weight >= self._confirm_ticks

    def clear(self) -> None:
        self._wish, self._weight = None, 0.0


class CoolDowns:
    """When what was done last. A flip back waits longer than one that goes on. Whoever had to add
    soon after it removed waits twice as long with the next removal, up to eight times."""

    def __init__(self, flip_s: float, add_s: float, remove_s: float) -> None:
        self._flip_s, self._add_s, self._remove_s = flip_s, add_s, remove_s
        self._flipped_at_s = -math.inf
        self._flipped_to: Role | None = None
        self._added_at_s = -math.inf
        self._removed_at_s = -math.inf
        self._remove_factor = 1.0

    def flipped(self, at_s: float, to_role: Role) -> None:
        self._flipped_at_s, self._flipped_to = at_s, to_role

    def added(self, at_s: float) -> None:
        since_removal_s = at_s - self._removed_at_s
        if since_removal_s < _SOON * self._remove_s:
            self._remove_factor = min(_MAX_REMOVE_FACTOR, 2 * self._remove_factor)
        elif since_removal_s > _LONG * self._remove_s:
            self._remove_factor = 1.0
        self._added_at_s = at_s

    def removed(self, at_s: float) -> None:
        self._removed_at_s = at_s

    def until_flip_s(self, at_s: float, to_role: Role) -> float:
        """Seconds to wait, 0 when it may be done. Four times as long to flip back."""
        wait_s = self._flip_s * (4 if self._flipped_to is not to_role else 0)
        return max(0.0, self._flipped_at_s + wait_s - at_s)

    def until_add_s(self, at_s: float) -> float:
        return max(0.0, self._added_at_s + self._add_s - at_s)

    def until_remove_s(self, at_s: float) -> float:
        """Removal waits behind everything that was done: it is never urgent."""
        last_s = max(self._flipped_at_s, self._added_at_s, self._removed_at_s)
        return max(0.0, last_s + self._remove_factor * self._remove_s - at_s)

    def since_any_s(self, at_s: float) -> float:
        return at_s - max(self._flipped_at_s, self._added_at_s, self._removed_at_s)
