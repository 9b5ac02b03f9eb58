"""Two versions side by side: both keep both pools in ratio, by operators and by the planner."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from operator_cluster import operated
from planner_cases import seen, traffic

from control_plane.api.resize import ratio_steps, sizes_steps
from control_plane.planner.config import PlannerConfig
from control_plane.planner.groups import allot, leaving_in_ratio
from control_plane.planner.planner import Planner
from control_plane.planner.types import Flip, PoolSizes, Remove
from wire.cluster import Fingerprint, WorkerStatus
from wire.messages import Role

OLD = Fingerprint("model", "r1", "float32", 16, "L2H2B16D16:float32")
NEW = replace(OLD, revision="r2")


@given(
    sizes=st.dictionaries(st.integers(0, 5), st.integers(1, 30), min_size=1, max_size=4),
    prefill=st.integers(0, 60),
)
def test_every_group_gets_its_share_of_the_prefill_workers(sizes, prefill):
    allotted = allot(sizes, prefill)
    total = sum(sizes.values())
    prefill = min(prefill, total)
    assert sum(allotted.values()) == prefill
    several = [group for group in sizes if sizes[group] > 1]
    for group, size in sizes.items():
        assert 0 <= allotted[group] <= size
        assert abs(allotted[group] - size * prefill / total) <= len(sizes)
    if len(several) <= prefill <= total - len(several):
        assert all(0 < allotted[group] < sizes[group] for group in several)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=20))
def test_who_leaves_a_pool_keeps_both_groups_near_their_share(pool):
    sizes = {name: 2 * count for name, count in Counter(group for group, _ in pool).items()}
    ordered = leaving_in_ratio(pool, sizes, lambda one: one[0], lambda one: one[1])
    assert sorted(ordered) == sorted(pool)
    left = Counter(group for group, _ in pool)
    for group, _ in ordered:
        several = [left[name] / sizes[name] for name in left if left[name] > 1]
        assert left[group] / sizes[group] == max(several, default=left[group] / sizes[group])
        left[group] -= 1


def statuses(beat_of, old: tuple[int, int], new: tuple[int, int]) -> list[WorkerStatus]:
    """old, new: prefill and decode workers of either version."""
    found = []
    for name, fingerprint, counts in (("old", OLD, old), ("new", NEW, new)):
        for role, count in zip((Role.PREFILL, Role.DECODE), counts, strict=True):
            for number in range(count):
                beat = beat_of(f"{role.value}-{name}-{number}", role=role, fingerprint=fingerprint)
                found.append(WorkerStatus(beat.info, beat.report, 0.0))
    return found


def after(workers: list[WorkerStatus], steps) -> Counter[tuple[str, Role]]:
    roles = {worker.info.worker_id: worker.info.role for worker in workers}
    for step in steps:
        if isinstance(step, Flip):
            roles[step.worker_id] = step.to_role
        elif isinstance(step, Remove):
            del roles[step.worker_id]
    return Counter((worker_id.split("-")[1], role) for worker_id, role in roles.items())


def test_a_pin_and_a_ratio_put_both_versions_in_ratio(beat_of):
    workers = statuses(beat_of, old=(4, 0), new=(0, 4))  # as many of each role as is wanted
    for steps in (sizes_steps(workers, PoolSizes(4, 4)), ratio_steps(workers, 1, 1)):
        assert after(workers, steps) == {
            (name, role): 2 for name in ("old", "new") for role in Role
        }


def test_a_smaller_pin_takes_as_many_of_either_version(beat_of):
    workers = statuses(beat_of, old=(3, 3), new=(3, 3))
    assert after(workers, sizes_steps(workers, PoolSizes(4, 4))) == {
        (name, role): 2 for name in ("old", "new") for role in Role
    }


def test_the_planner_takes_flips_of_both_versions_in_turn():
    observation = seen(0.0, 8, 8, traffic(48, 6000, 100))
    workers = tuple(
        replace(worker, group="old" if number % 8 < 4 else "new")
        for number, worker in enumerate(observation.workers)
    )
    groups = {worker.worker_id: worker.group for worker in workers}
    planner = Planner(PlannerConfig(flips_per=4))
    flips: list[Flip] = []
    for tick in range(12):
        found = replace(observation, workers=workers, at_s=5.0 * tick, wall_s=5.0 * tick)
        flips += [a for a in planner.on_tick(found, True).actions if isinstance(a, Flip)]
        if flips:
            break
    counts = Counter(groups[flip.worker_id] for flip in flips)
    assert len(flips) >= 2 and abs(counts["old"] - counts["new"]) <= 1


async def test_the_status_says_why_workers_of_two_versions_do_not_pair(beat_of):
    beats = [
        beat_of("prefill-0", role=Role.PREFILL, fingerprint=OLD),
        beat_of("decode-0", fingerprint=NEW),
    ]
    async with operated(beats) as cluster:
        notes = " ".join((await cluster.get("status"))["notes"])  # type: ignore[arg-type]
        assert "find no decode worker that they pair with" in notes
        assert "model files: r1 there, r2 here" in notes
