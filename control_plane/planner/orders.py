"""What was ordered and is not yet seen to be done."""

from dataclasses import dataclass, replace

from control_plane.planner.types import Action, Flip, Observation, Remove, WorkerFigures
from wire.messages import Role

_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Order:
    at_s: float
    to_role: Role | None  # None: removal


class Orders:
    """Flips and removals in flight. A worker under an order counts as if it were done."""

    def __init__(self) -> None:
        self._orders: dict[str, _Order] = {}

    def given(self, at_s: float, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Flip():
                    self._orders[action.worker_id] = _Order(at_s, action.to_role)
                case Remove():
                    self._orders[action.worker_id] = _Order(at_s, None)

    def forget(self, worker_id: str) -> None:
        self._orders.pop(worker_id, None)

    def settle(self, seen: Observation) -> tuple[str, ...]:
        """Forgets what is done, and what was not done in time; says the latter."""
        workers = {worker.worker_id: worker for worker in seen.workers}
        late = []
        for worker_id, order in list(self._orders.items()):
            worker = workers.get(worker_id)
            if worker is None or _is_done(order, worker):
                del self._orders[worker_id]
            elif seen.at_s - order.at_s > _DEADLINE_S and not worker.flipping:
                del self._orders[worker_id]
                what = f"flip to {order.to_role}" if order.to_role else "removal"
                late.append(f"{worker_id}: its {what} was not done in {_DEADLINE_S:.0f} s")
        return tuple(late)

    def applied_to(self, seen: Observation) -> Observation:
        """The observation with every order done; a worker under one is marked as flipping."""
        if not self._orders:
            return seen
        return replace(seen, workers=tuple(self._applied(worker) for worker in seen.workers))

    def _applied(self, worker: WorkerFigures) -> WorkerFigures:
        order = self._orders.get(worker.worker_id)
        if order is None:
            return worker
        if order.to_role is None:
            return replace(worker, draining=True)
        return replace(worker, role=order.to_role, flipping=True)


def _is_done(order: _Order, worker: WorkerFigures) -> bool:
    if order.to_role is None:
        return worker.draining
    return worker.role is order.to_role and not worker.flipping
