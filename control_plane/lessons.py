"""What the planner has learned, where it outlives the process that learned it."""

from dataclasses import dataclass

from control_plane.planner.learned import Learned


@dataclass(slots=True)
class Lessons:
    """The one owner. The autopilot reads it before each tick and writes it after; the shared state
    tells it to the other control planes, or writes here what another one has learned."""

    held: Learned | None = None
