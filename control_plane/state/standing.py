"""What operators have laid down: pause, pin and configuration, the same for every control plane."""

from dataclasses import dataclass, fields

from control_plane.overrides import Pin
from control_plane.planner.config import PlannerConfig


@dataclass(frozen=True, slots=True)
class Standing:
    """config None: nobody has replaced the one that each process read at its start."""

    paused_by: str = ""
    pin: Pin | None = None
    config: PlannerConfig | None = None


def merge(base: Standing, mine: Standing, theirs: Standing) -> Standing:
    """Both sides' changes to base; where both changed the same field, mine."""
    chosen = {
        field.name: getattr(
            theirs if getattr(mine, field.name) == getattr(base, field.name) else mine, field.name
        )
        for field in fields(Standing)
    }
    return Standing(**chosen)
