"""What holds for every control plane: what operators laid down, and what the planner learned."""

from dataclasses import dataclass, fields, replace

import msgspec

from control_plane.overrides import Pin
from control_plane.planner.config import PlannerConfig
from control_plane.planner.learned import Learned


@dataclass(frozen=True, slots=True)
class Standing:
    """Pause, pin and configuration of the operators; learned of the leaders.

    config None: nobody has replaced the one that each process read at its start.
    """

    paused_by: str = ""
    pin: Pin | None = None
    config: PlannerConfig | None = None
    learned: Learned | None = None


def merge(base: Standing, mine: Standing, theirs: Standing) -> Standing:
    """Both sides' changes to base; where both changed the same field, mine."""
    chosen = {
        field.name: getattr(
            theirs if getattr(mine, field.name) == getattr(base, field.name) else mine, field.name
        )
        for field in fields(Standing)
    }
    return Standing(**chosen)


def decode_standing(content: bytes) -> tuple[Standing, str]:
    """What stands there, and what of it cannot be read: that counts as nothing. What operators
    have laid down does not depend on whether what was learned can be true."""
    try:
        found = msgspec.json.decode(content or b"{}", type=dict[str, msgspec.Raw])
        learned = found.pop("learned", msgspec.Raw(b"null"))
        standing = msgspec.json.decode(msgspec.json.encode(found), type=Standing)
    except msgspec.DecodeError as error:
        return Standing(), str(error)
    try:
        return replace(standing, learned=msgspec.json.decode(learned, type=Learned | None)), ""
    except msgspec.DecodeError as error:
        return standing, f"what was learned: {error}"
