"""Why an action is not carried out, in words for an operator and a code for programs."""

from control_plane.actuators.actuator import ActuatorConflict
from control_plane.leadership import NotLeader
from control_plane.planner.config import PlannerConfig
from control_plane.planner.types import PoolSizes
from wire.errors import BatonError
from wire.messages import Role


class Refused(Exception):
    """Nothing was changed. code: for programs. field, limit: what was wrong with the input."""

    def __init__(
        self, message: str, *, code: str = "refused", field: str = "", limit: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.limit = limit


def check_sizes(config: PlannerConfig, sizes: PoolSizes) -> None:
    """Raises Refused for pools outside of the planner's bounds."""
    for role in Role:
        lowest = config.min_prefill if role is Role.PREFILL else config.min_decode
        if sizes.of(role) < lowest:
            raise Refused(
                f"{sizes.of(role)} {role.value} workers are fewer than the planner's minimum of "
                f"{lowest}; PUT /api/v1/config changes it",
                field=role.value,
                limit=f"min_{role.value} = {lowest}",
            )
        check_highest(config, role, sizes.of(role))


def check_highest(config: PlannerConfig, role: Role, count: int) -> None:
    """Raises Refused for more workers than the planner may have."""
    highest = config.max_prefill if role is Role.PREFILL else config.max_decode
    if count > highest:
        raise Refused(
            f"{count} {role.value} workers are more than the planner's maximum of {highest}; "
            "PUT /api/v1/config changes it",
            field=role.value,
            limit=f"max_{role.value} = {highest}",
        )


def refusal_of(error: Exception) -> Refused:
    """What the parts raise, as the API answers it."""
    match error:
        case Refused():
            return error
        case NotLeader():
            return Refused(str(error), code="not_leader")
        case ActuatorConflict():
            return Refused(f"{error}; try again", code="conflict")
        case BatonError():
            return Refused(error.message, code="not_found", field=error.param or "worker_id")
        case _:
            return Refused(str(error))
