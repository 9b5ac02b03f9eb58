"""From needs to the next steps: flips first, then adding, then removing."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.planner.bounds import Bounds, best_kind
from control_plane.planner.config import PlannerConfig
from control_plane.planner.groups import leaving_in_ratio
from control_plane.planner.needs import Needs, PoolNeed, WorkerModels
from control_plane.planner.patience import CoolDowns, Evidence
from control_plane.planner.types import (
    Action,
    Add,
    Flip,
    Hold,
    Observation,
    PoolSizes,
    Remove,
    Traffic,
    WorkerFigures,
)
from wire.cluster import Mode
from wire.messages import Role

_DONOR_LIMIT = 0.85
_LESS_PRESSURE = 0.9  # of the hungrier pool: what a flip must bring where nothing can be added
_REMOVED_SHARE = 10  # one worker in so many may go at once
_FINITE = 100.0


@dataclass(frozen=True, slots=True)
class Targets:
    """desired: where the pools should go, with patience. enough: what the load needs at least."""

    desired: PoolSizes
    enough: PoolSizes
    mode: Mode


class Wishes:
    """The steps of one tick. Evidence and cool-downs belong to the planner."""

    def __init__(
        self,
        config: PlannerConfig,
        models: WorkerModels,
        cooldowns: CoolDowns,
        evidence: Mapping[str, Evidence],
    ) -> None:
        self._config = config
        self._models = models
        self._cooldowns = cooldowns
        self._evidence = evidence

    def actions(
        self,
        seen: Observation,
        traffic: Traffic,
        bounds: Bounds,
        near: Needs,
        targets: Targets,
    ) -> tuple[tuple[Action, ...], tuple[str, ...]]:
        """At least one action, and alarms."""
        found = self.to_floors(seen, bounds)
        if found:
            return found, ()
        flips = self._flips(seen, bounds, near, targets.mode)
        if flips:
            return flips, ()
        added, alarms = self._adds(seen, traffic, bounds, near, targets.enough)
        if added:
            return added, alarms
        removed = self._removes(seen, targets.desired)
        return removed or (Hold(self._why(near)),), alarms

    def to_floors(self, seen: Observation, bounds: Bounds) -> tuple[Action, ...]:
        """A pool below its minimum is filled at once: by the other's surplus, else by new ones."""
        actions: list[Action] = []
        for role in Role:
            here = len(seen.of(role)) + seen.starting(role)
            missing = bounds.least.of(role) - here
            if missing <= 0:
                continue
            donors = self._donors(seen, _other(role), bounds)[:missing]
            reason = f"{here} {role} workers are fewer than the minimum, {bounds.least.of(role)}"
            actions += [Flip(worker.worker_id, role, reason) for worker in donors]
            missing -= len(donors)
            kind, room = best_kind(self._config, seen, role, Traffic(), self._models)
            can_add = self._config.can_scale and not self._cooldowns.until_add_s(seen.at_s)
            if missing and kind is not None and can_add:
                actions.append(Add(role, min(missing, room), kind.name, reason))
        return tuple(actions)

    # --- flips -----------------------------------------------------------------------------------

    def _flips(
        self, seen: Observation, bounds: Bounds, near: Needs, mode: Mode
    ) -> tuple[Action, ...]:
        hungry = near.hungry
        donor = near.of(_other(hungry.role))
        if mode is Mode.AGGREGATED:
            hungry, donor = near.decode, near.prefill
        room = bounds.most.of(hungry.role) - hungry.num_workers - seen.starting(hungry.role)
        donors = self._donors(seen, donor.role, bounds)[: max(0, room)]
        count = min(len(donors), self._flip_room(seen))
        is_one_pool = mode is Mode.AGGREGATED and count > 0
        total = hungry.num_workers + donor.num_workers + sum(seen.starting(role) for role in Role)
        can_add = self._config.can_scale and total < bounds.max_total
        helps = is_one_pool or (count > 0 and self._helps(hungry, donor, can_add))
        excess = min(_FINITE, hungry.pressure()) - 1 - self._config.dead_band / 2
        wish = hungry.role if helps else None
        if not self._evidence["flip"].add(wish, excess):
            return ()
        if self._cooldowns.until_flip_s(seen.at_s, hungry.role):
            return ()
        if not is_one_pool:
            count = _largest(count, lambda number: self._helps(hungry, donor, can_add, number))
        reason = (
            f"{hungry.role} is at {hungry.pressure():.2f} of what it carries, {donor.role} stays "
            f"at {donor.pressure(-count):.2f} after giving {count}"
        )
        return tuple(Flip(worker.worker_id, hungry.role, reason) for worker in donors[:count])

    def _helps(self, hungry: PoolNeed, donor: PoolNeed, can_add: bool, count: int = 1) -> bool:
        """The flip number `count`: the pool still wants it, and the donor can do without."""
        before = hungry.pressure(count - 1)
        if before <= 1 + self._config.dead_band / 2:
            return False
        after = donor.pressure(-count)
        if after < _DONOR_LIMIT:
            return True
        if can_add and after > 1:
            return False
        return max(hungry.pressure(count), after) < _LESS_PRESSURE * before

    def _flip_room(self, seen: Observation) -> int:
        """Flips that may begin: one in flight for every eight workers, and always one."""
        if not self._config.can_flip:
            return 0
        at_once = max(1, len(seen.workers) // self._config.flips_per)
        return at_once - sum(worker.flipping for worker in seen.workers)

    def _donors(self, seen: Observation, role: Role, bounds: Bounds) -> list[WorkerFigures]:
        """Whom the pool can do without by its minimum, the least loaded first, and of several
        versions so that each keeps its ratio."""
        workers = seen.of(role)
        spare = len(workers) - bounds.least.of(role)
        if spare <= 0 or not self._config.can_flip:
            return []
        free = [worker for worker in workers if not worker.flipping]
        return _leaving(seen, free, _load)[:spare]

    # --- adding and removing ---------------------------------------------------------------------

    def _adds(
        self,
        seen: Observation,
        traffic: Traffic,
        bounds: Bounds,
        near: Needs,
        enough: PoolSizes,
    ) -> tuple[tuple[Action, ...], tuple[str, ...]]:
        here = {role: len(seen.of(role)) + seen.starting(role) for role in Role}
        missing = {role: max(0, enough.of(role) - here[role]) for role in Role}
        shortage = sum(missing.values())
        if self._config.can_flip:
            shortage = min(shortage, enough.total - sum(here.values()))
        alarms = self._at_the_limit(near, bounds, sum(here.values()))
        wish = "add" if shortage > 0 and self._config.can_scale else None
        excess = min(_FINITE, near.hungry.pressure()) - 1 - self._config.dead_band / 2
        is_sure = self._evidence["add"].add(wish, excess)
        if not is_sure or self._cooldowns.until_add_s(seen.at_s):
            return (), alarms
        role = max(Role, key=lambda role: missing[role])
        kind, room = best_kind(self._config, seen, role, traffic, self._models)
        count = min(shortage, missing[role], room)
        if kind is None or count <= 0:
            return (), (*alarms, f"{shortage} more workers are needed, the budget has none left")
        self._evidence["add"].clear()
        reason = (
            f"{enough} are needed, {here[Role.PREFILL]}P{here[Role.DECODE]}D are here or coming"
        )
        return (Add(role, count, kind.name, reason),), alarms

    def _at_the_limit(self, near: Needs, bounds: Bounds, total: int) -> tuple[str, ...]:
        wanted = near.prefill.needed() + near.decode.needed()
        if near.hungry.pressure() > 1 and wanted > bounds.max_total <= total:
            return (f"{wanted} workers are needed, the budget allows {bounds.max_total}",)
        return ()

    def _removes(self, seen: Observation, desired: PoolSizes) -> tuple[Action, ...]:
        total = len(seen.of(Role.PREFILL)) + len(seen.of(Role.DECODE))
        surplus = total - desired.total
        wish = "remove" if surplus > 0 and self._config.can_scale else None
        is_sure = self._evidence["remove"].add(wish, 0.0)
        if not is_sure or self._cooldowns.until_remove_s(seen.at_s):
            return ()
        at_once = min(surplus, max(1, total // _REMOVED_SHARE))
        leaving: list[WorkerFigures] = []
        for role in sorted(Role, key=lambda role: desired.of(role) - len(seen.of(role))):
            extra = len(seen.of(role)) - desired.of(role)
            free = [worker for worker in seen.of(role) if not worker.flipping]
            count = max(0, min(extra, at_once - len(leaving)))
            leaving += _leaving(seen, free, self._worth)[:count]
        reason = f"{desired} have been enough for {self._config.remove_cooldown_s:.0f} s"
        return tuple(Remove(worker.worker_id, reason) for worker in leaving)

    def _worth(self, worker: WorkerFigures) -> tuple[float, float]:
        """The dearest go first, among equals the least loaded."""
        kind = self._config.kind(worker.hardware)
        return -(kind.usd_per_hour or kind.num_gpus), _load(worker)

    def _why(self, near: Needs) -> str:
        band = self._config.dead_band
        hungry = near.hungry
        pressure = hungry.pressure()
        if pressure <= 1 + band / 2:
            return f"both pools carry their load, {hungry.role} at {pressure:.2f}"
        return f"{hungry.role} is at {pressure:.2f}: waits for evidence, a cool-down or room"


def _leaving(
    seen: Observation, pool: list[WorkerFigures], worth: Callable[[WorkerFigures], Any]
) -> list[WorkerFigures]:
    sizes = Counter(worker.group for role in Role for worker in seen.of(role))
    return leaving_in_ratio(pool, sizes, lambda worker: worker.group, worth)


def _other(role: Role) -> Role:
    return Role.DECODE if role is Role.PREFILL else Role.PREFILL


def _load(worker: WorkerFigures) -> float:
    return worker.num_running + worker.num_waiting + worker.waiting_tokens / 1000 + worker.kv_use


def _largest(most: int, is_right: Callable[[int], bool]) -> int:
    """The largest count up to which every one is right; at least 1."""
    count = 1
    while count < most and is_right(count + 1):
        count += 1
    return count
