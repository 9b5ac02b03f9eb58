"""What an operator may set: bounds, budget, patience, hardware kinds and schedules."""

import math
from dataclasses import dataclass, fields

from control_plane.planner.types import Objectives
from wire.cluster import Mode

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_S = 86400.0
MAX_WORKERS = 100_000


class PlannerConfigError(ValueError):
    """A setting that cannot be used: the field, what it is, and its limit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Hardware:
    """A kind of worker that can be added. profile: as `profiles` names it, for its step costs."""

    name: str
    usd_per_hour: float = 0.0
    num_gpus: int = 1
    max_workers: int = MAX_WORKERS
    start_s: float = 60.0
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Floors for the pools between two times of day (UTC hours, 22 to 6 spans midnight).

    days: of the window's start, such as "mon,tue"; empty for all.
    """

    name: str
    from_hour: float
    to_hour: float
    min_prefill: int = 0
    min_decode: int = 0
    days: str = ""

    def is_on(self, wall_s: float) -> bool:
        hour = wall_s % _DAY_S / 3600
        day = int(wall_s // _DAY_S + 3) % 7  # 1970 began on a Thursday
        if self.from_hour <= self.to_hour:
            return self.from_hour <= hour < self.to_hour and self._has(day)
        if hour >= self.from_hour:
            return self._has(day)
        return hour < self.to_hour and self._has((day - 1) % 7)

    def _has(self, day: int) -> bool:
        return not self.days or _DAYS[day] in [word.strip() for word in self.days.split(",")]


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """Raises PlannerConfigError for what cannot be.

    max_gpus, usd_per_hour: the budget; 0: none of that kind. dead_band: share of a pool's load by
    which pressure must leave 1 before anything moves. confirm_ticks: how often in a row a wish
    must be seen. idle_to_zero_s: how long without a request until both pools may go to zero, where
    the minimums allow it; 0: never. mode: auto chooses by simulating the last minutes. flips_per:
    one flip in flight for that many workers.
    """

    objectives: Objectives = Objectives()
    min_prefill: int = 1
    max_prefill: int = MAX_WORKERS
    min_decode: int = 1
    max_decode: int = MAX_WORKERS
    max_gpus: int = 0
    usd_per_hour: float = 0.0
    hardware: tuple[Hardware, ...] = (Hardware("default"),)
    schedules: tuple[Schedule, ...] = ()
    can_flip: bool = True
    can_scale: bool = True
    tick_s: float = 5.0
    stale_s: float = 15.0
    dead_band: float = 0.1
    confirm_ticks: int = 3
    flip_cooldown_s: float = 15.0
    add_cooldown_s: float = 30.0
    remove_cooldown_s: float = 120.0
    flips_per: int = 8
    flip_s: float = 2.0
    season_s: float = 0.0
    idle_to_zero_s: float = 0.0
    mode: str = "hybrid"

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_bounds(self)
        _check_lists(self)
        _check_objectives(self.objectives)
        if self.mode not in ("auto", *Mode):
            known = ", ".join(("auto", *Mode))
            raise PlannerConfigError("mode", f"{self.mode!r} is not one of {known}")

    def kind_of(self, worker_id: str, hardware: str = "") -> str:
        """The kind that the worker's hardware names, else its id's beginning, else the first.

        hardware: a kind, or a device's own name with the kind's among its words.
        """
        words = {hardware, *hardware.lower().split()}
        named = [kind.name for kind in self.hardware if kind.name in words]
        named += [kind.name for kind in self.hardware if worker_id.startswith(f"{kind.name}-")]
        return named[0] if named else self.hardware[0].name

    def kind(self, name: str) -> Hardware:
        """The kind of that name; a worker that names none is of the first."""
        return next((kind for kind in self.hardware if kind.name == name), self.hardware[0])


_AT_LEAST = {
    "tick_s": 0.1,
    "stale_s": 1.0,
    "confirm_ticks": 1,
    "flips_per": 1,
}
_AT_MOST = {"dead_band": 0.5}


def _check_numbers(config: PlannerConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        lowest = _AT_LEAST.get(field.name, 0)
        if not math.isfinite(value) or value < lowest:
            raise PlannerConfigError(field.name, f"{value} is less than {lowest}")
        highest = _AT_MOST.get(field.name, math.inf)
        if value > highest:
            raise PlannerConfigError(field.name, f"{value} is more than {highest}")


def _check_bounds(config: PlannerConfig) -> None:
    for role in ("prefill", "decode"):
        low, high = getattr(config, f"min_{role}"), getattr(config, f"max_{role}")
        if low > high:
            raise PlannerConfigError(f"min_{role}", f"{low} is more than max_{role}, {high}")
    least = config.min_prefill + config.min_decode
    if config.max_prefill + config.max_decode < 1:
        raise PlannerConfigError("max_decode", "max_prefill and max_decode allow no worker")
    smallest = min((kind.num_gpus for kind in config.hardware), default=1)
    if config.max_gpus and least * smallest > config.max_gpus:
        raise PlannerConfigError(
            "max_gpus", f"{config.max_gpus} is less than the {least * smallest} of the minimums"
        )
    cheapest = min((kind.usd_per_hour for kind in config.hardware), default=0.0)
    if config.usd_per_hour and least * cheapest > config.usd_per_hour:
        cost = least * cheapest
        raise PlannerConfigError(
            "usd_per_hour", f"{config.usd_per_hour} is less than the {cost} of the minimums"
        )


def _check_lists(config: PlannerConfig) -> None:
    names = [kind.name for kind in config.hardware]
    if not names or len(set(names)) < len(names):
        raise PlannerConfigError("hardware", f"{names}: at least one kind, each name once")
    for kind in config.hardware:
        if kind.num_gpus < 1 or kind.usd_per_hour < 0 or kind.start_s < 0 or kind.max_workers < 0:
            raise PlannerConfigError("hardware", f"{kind.name}: numbers must not be negative")
    for schedule in config.schedules:
        _check_schedule(schedule, config)


def _check_schedule(schedule: Schedule, config: PlannerConfig) -> None:
    name = f"schedules.{schedule.name}"
    for hour in (schedule.from_hour, schedule.to_hour):
        if not 0 <= hour <= 24:
            raise PlannerConfigError(name, f"hour {hour} is not within 0 .. 24")
    unknown = {word.strip() for word in schedule.days.split(",") if word} - set(_DAYS)
    if unknown:
        raise PlannerConfigError(name, f"unknown days {sorted(unknown)}; {', '.join(_DAYS)}")
    for role in ("prefill", "decode"):
        low, high = getattr(schedule, f"min_{role}"), getattr(config, f"max_{role}")
        if not 0 <= low <= high:
            raise PlannerConfigError(name, f"min_{role} {low} is not within 0 .. {high}")


def _check_objectives(objectives: Objectives) -> None:
    for name in ("ttft_s", "tpot_s"):
        value = getattr(objectives, name)
        if not math.isfinite(value) or value <= 0:
            raise PlannerConfigError(f"objectives.{name}", f"{value} is not more than 0")
    if not 0.5 <= objectives.attainment < 1:
        raise PlannerConfigError(
            "objectives.attainment", f"{objectives.attainment} is not within 0.5 .. 1"
        )
