"""Published scaling rules of other systems, as functions of the planner's observation.

They scale each pool by itself and never flip. What they leave open is a parameter, to be tuned;
their waits are parameters too, since a simulated day may be shorter than a real one.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from control_plane.planner.types import Action, Add, Decision, Hold, Observation, PoolSizes, Remove
from wire.cluster import Mode
from wire.messages import Role


@dataclass(slots=True)
class Pools:
    """Turns wanted sizes into actions within bounds."""

    max_total: int

    def decide(self, seen: Observation, wanted: dict[Role, int]) -> Decision:
        actual = {role: len(seen.of(role)) + seen.starting(role) for role in Role}
        total = sum(actual.values())
        actions: list[Action] = []
        for role in Role:
            change = max(1, wanted[role]) - actual[role]
            if change > 0:
                count = min(change, self.max_total - total)
                total += max(0, count)
                actions += [Add(role, count, "", "wanted")] if count > 0 else []
            leaving = sorted(seen.of(role), key=lambda worker: worker.num_running)
            serving = len(leaving)
            for worker in leaving[: min(max(0, -change), serving - 1)]:
                actions.append(Remove(worker.worker_id, "not wanted"))
        sizes = PoolSizes(len(seen.of(Role.PREFILL)), len(seen.of(Role.DECODE)))
        desired = PoolSizes(wanted[Role.PREFILL], wanted[Role.DECODE])
        return Decision(seen.at_s, Mode.HYBRID, sizes, desired, tuple(actions or [Hold("steady")]))


@dataclass(slots=True)
class QueueHpa:
    """Kubernetes' HPA (autoscaling/v2) on requests at a worker: desired = ceil(n * mean/target),
    tolerance 10 %, every 15 s, fewer only after the largest wish of stable_s."""

    pools: Pools
    prefill_target: float = 2.0
    decode_target: float = 64.0
    stable_s: float = 300.0
    period_s: float = 15.0
    _due_s: float = 0.0
    _wishes: deque[tuple[float, dict[Role, int]]] = field(default_factory=deque)

    def on_tick(self, seen: Observation) -> Decision:
        if seen.at_s < self._due_s:
            return self.pools.decide(seen, _as_is(seen))
        self._due_s = seen.at_s + self.period_s
        targets = {Role.PREFILL: self.prefill_target, Role.DECODE: self.decode_target}
        wish = {role: self._wish(seen, role, targets[role]) for role in Role}
        self._wishes.append((seen.at_s, wish))
        while self._wishes[0][0] < seen.at_s - self.stable_s:
            self._wishes.popleft()
        current = _as_is(seen)
        for role in Role:
            most = max(wanted[role] for _, wanted in self._wishes)
            wish[role] = max(wish[role], min(current[role], most))
        return self.pools.decide(seen, wish)

    def _wish(self, seen: Observation, role: Role, target: float) -> int:
        workers = seen.of(role)
        if not workers:
            return 1
        mean = sum(worker.num_running + worker.num_waiting for worker in workers) / len(workers)
        if abs(mean / target - 1) <= 0.1:
            return len(workers)
        return max(1, math.ceil(len(workers) * mean / target))


@dataclass(slots=True)
class DynamoLoad:
    """NVIDIA Dynamo's load-based planner (its documentation): one worker up or down an interval,
    prefill by queued requests a worker, decode by KV use; no decode removal for three intervals
    after one was added."""

    pools: Pools
    interval_s: float = 10.0
    queue_up: float = 0.5
    queue_down: float = 0.2
    kv_up: float = 0.9
    kv_down: float = 0.5
    _due_s: float = 0.0
    _grace: int = 0

    def on_tick(self, seen: Observation) -> Decision:
        wanted = _as_is(seen)
        if seen.at_s < self._due_s:
            return self.pools.decide(seen, wanted)
        self._due_s = seen.at_s + self.interval_s
        prefill, decode = seen.of(Role.PREFILL), seen.of(Role.DECODE)
        queue = sum(worker.num_waiting for worker in prefill) / max(1, len(prefill))
        kv_use = sum(worker.kv_use for worker in decode) / max(1, len(decode))
        wanted[Role.PREFILL] += (queue > self.queue_up) - (queue < self.queue_down)
        if kv_use > self.kv_up:
            wanted[Role.DECODE] += 1
            self._grace = 3
        elif kv_use < self.kv_down and not self._grace:
            wanted[Role.DECODE] -= 1
        self._grace = max(0, self._grace - 1)
        return self.pools.decide(seen, wanted)


@dataclass(slots=True)
class LlmdSlo:
    """llm-d's SLO law: s is the mean over 45 s of the worse p90 over its objective, at most 2; up
    to n*s/high within 60 s, one down in 120 s below low."""

    pools: Pools
    high: float = 0.55
    low: float = 0.40
    mean_s: float = 45.0
    up_s: float = 60.0
    down_s: float = 120.0
    _seen: deque[tuple[float, float]] = field(default_factory=deque)
    _up_s: float = 0.0
    _down_s: float = 0.0

    def on_tick(self, seen: Observation) -> Decision:
        worst = max(seen.prefill.ratio_p90 or 0.0, seen.decode.ratio_p90 or 0.0)
        self._seen.append((seen.at_s, min(2.0, worst)))
        while self._seen[0][0] < seen.at_s - self.mean_s:
            self._seen.popleft()
        mean = sum(value for _, value in self._seen) / len(self._seen)
        wanted = _as_is(seen)
        if mean > self.high and seen.at_s >= self._up_s:
            self._up_s = seen.at_s + self.up_s
            for role in Role:
                ready = len(seen.of(role)) / max(1, wanted[role])
                count = wanted[role]
                wanted[role] += max(0, math.ceil(count * (mean * ready / self.high - 1)))
        elif mean < self.low and seen.at_s >= self._down_s:
            self._down_s = seen.at_s + self.down_s
            for role in Role:
                wanted[role] -= min(1, math.floor(wanted[role] * (1 - mean / self.low)))
        return self.pools.decide(seen, wanted)


def _as_is(seen: Observation) -> dict[Role, int]:
    return {role: len(seen.of(role)) + seen.starting(role) for role in Role}
