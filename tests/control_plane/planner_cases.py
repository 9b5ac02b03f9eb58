"""Workers, traffic and observations for the planner's tests."""

from dataclasses import replace

from control_plane.planner.planner import Planner
from control_plane.planner.types import (
    Add,
    Decision,
    Flip,
    Observation,
    PoolSizes,
    Remove,
    Traffic,
    WorkerFigures,
)
from profiles.catalog import load_profile
from router.predictor import StepCosts
from wire.messages import Role

PROFILE = load_profile("llama-3.1-8b@h200")
COSTS = StepCosts(
    PROFILE.step_s,
    PROFILE.sequence_s,
    PROFILE.context_token_s,
    PROFILE.prefill_step_s,
    PROFILE.prefill_token_s,
    PROFILE.prefill_pair_s,
)


def workers(num_prefill: int, num_decode: int) -> tuple[WorkerFigures, ...]:
    roles = [Role.PREFILL] * num_prefill + [Role.DECODE] * num_decode
    return tuple(
        WorkerFigures(f"worker-{number}", role, COSTS, PROFILE.kv_tokens)
        for number, role in enumerate(roles)
    )


def traffic(requests_per_s: float, prompt: float, output: float, cv2: float = 1.0) -> Traffic:
    squares = (1 + cv2) * prompt**2
    return Traffic(
        requests_per_s, prompt, squares, squares, 0.0, output, context_tokens=prompt + output / 2
    )


def seen(at_s: float, num_prefill: int, num_decode: int, now: Traffic | None) -> Observation:
    return Observation(at_s, at_s, workers(num_prefill, num_decode), now)


class ObedientCluster:
    """Does what the planner says at once; new workers take start_s."""

    def __init__(self, num_prefill: int, num_decode: int, start_s: float = 60.0) -> None:
        self.workers = list(workers(num_prefill, num_decode))
        self.at_s = 0.0
        self.coming: list[tuple[float, Role]] = []
        self.history: list[Decision] = []
        self._start_s = start_s
        self._names = iter(range(1000, 100_000))

    @property
    def sizes(self) -> PoolSizes:
        num_prefill = sum(worker.role is Role.PREFILL for worker in self.workers)
        return PoolSizes(num_prefill, len(self.workers) - num_prefill)

    def run(self, planner: Planner, now: Traffic, num_ticks: int, tick_s: float = 5.0) -> None:
        for _ in range(num_ticks):
            self.at_s += tick_s
            for due in [item for item in self.coming if item[0] <= self.at_s]:
                self.coming.remove(due)
                self.workers.append(
                    WorkerFigures(f"worker-{next(self._names)}", due[1], COSTS, PROFILE.kv_tokens)
                )
            starting = [role for _, role in self.coming]
            decision = planner.on_tick(
                Observation(
                    self.at_s,
                    self.at_s,
                    tuple(self.workers),
                    now,
                    starting_prefill=starting.count(Role.PREFILL),
                    starting_decode=starting.count(Role.DECODE),
                )
            )
            self.history.append(decision)
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        for action in decision.actions:
            match action:
                case Flip(worker_id, to_role):
                    self.workers = [
                        replace(worker, role=to_role) if worker.worker_id == worker_id else worker
                        for worker in self.workers
                    ]
                case Add(role, count):
                    self.coming += [(self.at_s + self._start_s, role)] * count
                case Remove(worker_id):
                    self.workers = [w for w in self.workers if w.worker_id != worker_id]
