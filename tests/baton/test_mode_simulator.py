"""The modes are simulated from what the planner saw, in a process of its own."""

from dataclasses import replace

from baton.mode_case import SimulatedModes, case_of
from baton.mode_simulator import scores_of
from control_plane.planner.types import Objectives, Observation, Traffic, WorkerFigures
from router.predictor import StepCosts
from wire.cluster import Mode
from wire.messages import Role

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
TRAFFIC = Traffic(1.0, 3000, 1.5e7, 1.5e7, 0.0, 60, 3030)
WORKERS = tuple(
    WorkerFigures(f"worker-{number}", role, COSTS, 400_000)
    for number, role in enumerate((Role.PREFILL, Role.DECODE))
)
OBJECTIVES = Objectives(2.0, 0.05)


def history(count: int) -> tuple[Observation, ...]:
    return tuple(Observation(5.0 * tick, 5.0 * tick, WORKERS, TRAFFIC) for tick in range(count))


def test_without_traffic_or_costs_there_is_no_case() -> None:
    assert case_of(history(1), OBJECTIVES) is None
    idle = tuple(replace(seen, traffic=Traffic()) for seen in history(5))
    assert case_of(idle, OBJECTIVES) is None
    blank = tuple(replace(worker, costs=None) for worker in WORKERS)
    unknown = tuple(replace(seen, workers=blank) for seen in history(5))
    assert case_of(unknown, OBJECTIVES) is None


def test_every_mode_that_the_workers_allow_has_its_share() -> None:
    case = case_of(history(6), OBJECTIVES)
    assert case is not None
    scores = dict(scores_of(case))
    assert set(scores) == set(Mode)
    assert all(0 <= score <= 1 for score in scores.values())
    alone = dict(scores_of(replace(case, num_prefill=0, num_decode=1)))
    assert set(alone) == {Mode.AGGREGATED}


def test_one_pool_is_parted_by_its_work_for_the_other_modes() -> None:
    pool = tuple(replace(WORKERS[1], worker_id=f"worker-{number}") for number in range(4))
    case = case_of(tuple(replace(seen, workers=pool) for seen in history(6)), OBJECTIVES)
    assert case is not None and min(case.num_prefill, case.num_decode) > 0
    assert case.num_prefill + case.num_decode == 4
    longer = replace(TRAFFIC, output_tokens=3000, requests_per_s=20.0)
    seen = tuple(replace(seen, workers=pool, traffic=longer) for seen in history(6))
    by_answers = case_of(seen, OBJECTIVES)
    assert by_answers is not None and by_answers.num_decode == 3


async def test_the_process_gives_the_same_scores() -> None:
    case = case_of(history(4), OBJECTIVES)
    assert case is not None
    assert await SimulatedModes().scores(history(4), OBJECTIVES) == scores_of(case)
