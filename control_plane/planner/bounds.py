"""What the configuration allows at a moment: floors, ceilings and what the budget still buys."""

from dataclasses import dataclass

from control_plane.planner.config import Hardware, PlannerConfig
from control_plane.planner.demand import WorkerModel
from control_plane.planner.needs import Needs, WorkerModels
from control_plane.planner.types import Observation, PoolSizes, Traffic
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the pools at one moment. max_total: what the budget buys of the cheapest kind."""

    least: PoolSizes
    most: PoolSizes
    max_total: int

    def clamp(self, wanted: PoolSizes, needs: Needs) -> PoolSizes:
        """Within both pools' limits; what the budget forbids is taken where it presses least."""
        prefill = _within(self.least.prefill, wanted.prefill, self.most.prefill)
        decode = _within(self.least.decode, wanted.decode, self.most.decode)
        if prefill + decode <= self.max_total:
            return PoolSizes(prefill, decode)
        return self.best_split(self.max_total, needs)

    def best_split(self, total: int, needs: Needs) -> PoolSizes:
        """The split of so many workers whose larger pressure is the least.

        One pool's pressure falls and the other's rises with each worker moved, so the best split
        stands beside their crossing.
        """
        low = max(self.least.prefill, total - self.most.decode, 0)
        high = max(low, min(self.most.prefill, total - self.least.decode, total))
        while low < high:
            middle = (low + high) // 2
            if _pressure(needs, Role.PREFILL, middle) <= _pressure(
                needs, Role.DECODE, total - middle
            ):
                high = middle
            else:
                low = middle + 1
        around = [p for p in (low - 1, low) if self._allows(PoolSizes(p, total - p))] or [low]
        best = min(around, key=lambda prefill: _worst(needs, prefill, total - prefill))
        return PoolSizes(best, max(0, total - best))

    def _allows(self, sizes: PoolSizes) -> bool:
        return all(self.least.of(r) <= sizes.of(r) <= self.most.of(r) for r in Role)


def bounds_at(config: PlannerConfig, wall_s: float, may_be_empty: bool) -> Bounds:
    """may_be_empty: no request has come for so long that schedules alone set the floors."""
    on = [schedule for schedule in config.schedules if schedule.is_on(wall_s)]
    prefill = max([config.min_prefill, *(schedule.min_prefill for schedule in on)])
    decode = max([config.min_decode, *(schedule.min_decode for schedule in on)])
    if not may_be_empty:
        decode = max(decode, min(1, config.max_decode))
    most = PoolSizes(config.max_prefill, config.max_decode)
    return Bounds(PoolSizes(prefill, decode), most, _affordable(config))


def held_back(
    config: PlannerConfig, bounds: Bounds, enough: PoolSizes, got: PoolSizes, pinned_by: str
) -> str:
    """Which limits make `got` of the sizes that are enough, and what those are; else empty."""
    if enough == got:
        return ""
    limits = [f"a pin by {pinned_by}"] if pinned_by else []
    for role in Role if not pinned_by else ():
        if enough.of(role) < bounds.least.of(role):
            limits.append(f"the minimum of {bounds.least.of(role)} {role.value} workers")
        if enough.of(role) > bounds.most.of(role):
            limits.append(f"the maximum of {bounds.most.of(role)} {role.value} workers")
    if not pinned_by and sum(_within_limits(bounds, enough)) > bounds.max_total:
        budget = [f"max_gpus = {config.max_gpus}"] if config.max_gpus else []
        budget += [f"usd_per_hour = {config.usd_per_hour:g}"] if config.usd_per_hour else []
        limits.append(f"the budget ({', '.join(budget)})")
    return f"held at {got} by {' and '.join(limits)}; without that: {enough}"


def _within_limits(bounds: Bounds, sizes: PoolSizes) -> list[int]:
    return [_within(bounds.least.of(r), sizes.of(r), bounds.most.of(r)) for r in Role]


def spent(config: PlannerConfig, seen: Observation) -> tuple[int, float]:
    """GPUs, and dollars an hour, of the workers that are here or coming.

    Coming ones count as the dearest kind: the budget holds whatever they turn out to be.
    """
    kinds = [config.kind(worker.hardware) for worker in seen.workers]
    coming = seen.starting_prefill + seen.starting_decode
    gpus = sum(kind.num_gpus for kind in kinds)
    usd = sum(kind.usd_per_hour for kind in kinds)
    gpus += coming * max(kind.num_gpus for kind in config.hardware)
    usd += coming * max(kind.usd_per_hour for kind in config.hardware)
    return gpus, usd


def best_kind(
    config: PlannerConfig,
    seen: Observation,
    role: Role,
    traffic: Traffic,
    models: WorkerModels,
) -> tuple[Hardware | None, int]:
    """The kind that does the role's work at the least cost, and how many the budget allows."""
    gpus, usd = spent(config, seen)
    best: tuple[Hardware | None, int] = (None, 0)
    best_cost = float("inf")
    for kind in config.hardware:
        room = kind.max_workers - sum(config.kind(w.hardware) is kind for w in seen.workers)
        if config.max_gpus:
            room = min(room, (config.max_gpus - gpus) // kind.num_gpus)
        if config.usd_per_hour and kind.usd_per_hour:
            room = min(room, int((config.usd_per_hour - usd) / kind.usd_per_hour + 1e-9))
        cost = _cost_of_work(kind, role, traffic, models.of_kind(kind.name), config)
        if room > 0 and cost < best_cost:
            best, best_cost = (kind, room), cost
    return best


def _cost_of_work(
    kind: Hardware, role: Role, traffic: Traffic, model: WorkerModel | None, config: PlannerConfig
) -> float:
    """Of one unit of the role's work; kinds without prices compare by GPUs."""
    price = kind.usd_per_hour or float(kind.num_gpus)
    if model is None:
        return price
    if role is Role.PREFILL:
        return price * model.service_s(traffic)
    return price / model.decode_rate(traffic.context_tokens, config.objectives.tpot_s)


def _affordable(config: PlannerConfig) -> int:
    total = config.max_prefill + config.max_decode
    if config.max_gpus:
        total = min(total, config.max_gpus // min(kind.num_gpus for kind in config.hardware))
    cheapest = min(kind.usd_per_hour for kind in config.hardware)
    if config.usd_per_hour and cheapest:
        total = min(total, int(config.usd_per_hour / cheapest + 1e-9))
    return total


def _pressure(needs: Needs, role: Role, count: int) -> float:
    pool = needs.of(role)
    return pool.pressure(count - pool.num_workers)


def _worst(needs: Needs, prefill: int, decode: int) -> float:
    return max(_pressure(needs, Role.PREFILL, prefill), _pressure(needs, Role.DECODE, decode))


def _within(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
