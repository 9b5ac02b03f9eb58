"""The Ray actuator on a real Ray cluster that the tests start."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import psutil
import pytest
import pytest_asyncio
import ray
from ray.cluster_utils import Cluster

from control_plane.actuators.actuator import ActuatorRefused
from control_plane.actuators.process_spec import ProcessSpec
from control_plane.actuators.ray import RayActuator, RayNeeds
from control_plane.actuators.ray_cluster import connect, disconnect
from runtime.clock import SystemClock
from wire.cluster import ProcessStatus
from wire.messages import Role

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
WAITS = ("{python}", "-S", "-c", "import signal; print('up', flush=True); signal.pause()")
NAMESPACE = "tests"


def template(role: Role) -> Callable[[int], ProcessSpec]:
    argv = (*WAITS, "{host}", "{pid}")
    return lambda number: ProcessSpec(f"{role.value}-{number}", role.value, argv)


class Actors:
    """An actuator and who serves as far as the registry knows."""

    def __init__(self, **settings: object) -> None:
        self.serving: dict[str, Role] = {}
        self.actuator = RayActuator(
            {role: template(role) for role in Role},
            SystemClock(),
            namespace=NAMESPACE,
            needs=RayNeeds(num_cpus=1.0),
            serving=lambda: self.serving,
            **settings,  # type: ignore[arg-type]
        )

    async def until(
        self, wanted: Callable[[tuple[ProcessStatus, ...]], object], limit_s: float = 60.0
    ) -> tuple[ProcessStatus, ...]:
        async with asyncio.timeout(limit_s):
            while True:
                await self.actuator.refresh()
                if wanted(self.actuator.processes()):
                    return self.actuator.processes()
                await asyncio.sleep(0.05)

    async def until_running(self, count: int) -> dict[str, int]:
        seen = await self.until(lambda s: sum(status.pid > 0 for status in s) == count)
        return {status.name: status.pid for status in seen}


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    # Ray's processes end with the thread that started them: not with a loop's thread of one test.
    ray.init(namespace=NAMESPACE, num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest_asyncio.fixture
async def actors(one_node: None) -> AsyncIterator[Actors]:
    found = Actors(max_workers=3, ready_timeout_s=600.0)
    yield found
    await found.actuator.close()
    found.actuator.check_integrity()
    assert found.actuator.processes() == ()


@pytest.mark.slow
async def test_workers_live_in_actors_and_come_back_after_every_death(actors: Actors):
    actuator = actors.actuator
    await actuator.add(Role.DECODE, 2, "")
    first = await actors.until_running(2)
    with pytest.raises(ActuatorRefused, match="quota is 3 workers and 2 are kept"):
        await actuator.add(Role.PREFILL, 2, "")

    os.kill(first["decode-0"], signal.SIGKILL)  # the process: its actor starts it again
    second = await actors.until_running(2)
    while second["decode-0"] == first["decode-0"]:
        second = await actors.until_running(2)
    assert second["decode-1"] == first["decode-1"]

    actor_pid = psutil.Process(second["decode-1"]).ppid()
    os.kill(actor_pid, signal.SIGKILL)  # the actor: Ray starts it again
    seen = await actors.until(lambda s: s[1].pid not in (0, second["decode-1"]))
    assert seen[0].pid == second["decode-0"]

    await actuator.remove("decode-0")
    left = await actors.until(lambda s: len(s) == 1)
    assert [status.name for status in left] == ["decode-1"]
    assert not psutil.pid_exists(second["decode-0"])
    await actuator.add(Role.DECODE, 1, "")
    assert set(await actors.until_running(2)) == {"decode-0", "decode-1"}


async def test_a_worker_lives_in_an_actor_and_what_no_node_could_hold_is_refused(actors: Actors):
    await actors.actuator.add(Role.DECODE, 1, "")
    pids = await actors.until_running(1)
    assert psutil.pid_exists(pids["decode-0"])
    actuator = RayActuator(
        {role: template(role) for role in Role},
        SystemClock(),
        namespace=NAMESPACE,
        needs=RayNeeds(num_cpus=1.0, num_gpus=64.0),
    )
    with pytest.raises(ActuatorRefused, match=r"no node of the Ray cluster has .*'GPU': 64"):
        await actuator.add(Role.DECODE, 1, "")
    with pytest.raises(ActuatorRefused, match="no actor 'decode-0' is kept; there are: none"):
        await actuator.remove("decode-0")
    await actuator.close()


async def test_who_confirmed_its_term_before_a_later_leader_spoke_ends_no_worker(actors: Actors):
    terms = {"old": 1, "new": 2}
    old, new = (Actors(confirm=lambda name=name: told(terms[name])) for name in terms)
    await old.actuator.add(Role.DECODE, 1, "")
    pids = await old.until_running(1)
    await new.actuator.adopt()
    assert await new.actuator.replace_unready() == ()  # it looks, and the actor hears its term
    await old.actuator.remove("decode-0")
    await old.actuator.ended()
    assert old.actuator.processes()[0].state == "running"
    assert (await new.until_running(1)) == pids
    await new.actuator.remove("decode-0")
    await new.actuator.ended()
    await old.actuator.adopt()
    assert old.actuator.processes() == new.actuator.processes() == ()
    assert not psutil.pid_exists(pids["decode-0"])


async def told(term: int) -> int:
    return term


@pytest.mark.slow
async def test_a_worker_that_is_not_ready_in_time_is_placed_anew(one_node: None):
    actors = Actors(ready_timeout_s=0.0)
    await actors.actuator.add(Role.DECODE, 1, "")
    first = await actors.until_running(1)
    assert await actors.actuator.replace_unready() == ("decode-0",)
    seen = await actors.until(lambda s: s[0].pid not in (0, first["decode-0"]))
    assert seen[0].name == "decode-0" and not psutil.pid_exists(first["decode-0"])
    actors.serving = {"decode-0": Role.DECODE}
    assert await actors.actuator.replace_unready() == ()
    await actors.actuator.close()


async def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(ActuatorRefused, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        await connect("127.0.0.1:1", NAMESPACE)
    with pytest.raises(ActuatorRefused, match="'ray://head' is no address of a Ray cluster"):
        await connect("ray://head", NAMESPACE)


@pytest.mark.slow
async def test_the_workers_of_a_removed_node_move_to_another_one(tmp_path_factory):
    await disconnect()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)]
    cluster.wait_for_nodes()
    try:
        await connect(cluster.address, NAMESPACE)
        actors = Actors()
        await actors.actuator.add(Role.DECODE, 2, "")
        await actors.until_running(2)
        on = {name: placed.status["node"] for name, placed in actors.actuator._placed.items()}
        victim = next(node for node in nodes if node.node_id in on.values())
        moved = [name for name, node in on.items() if node == victim.node_id]
        cluster.remove_node(victim)

        def elsewhere(seen: tuple[ProcessStatus, ...]) -> bool:
            placed = actors.actuator._placed
            return all(status.pid for status in seen) and not any(
                placed[name].status["node"] == victim.node_id for name in moved
            )

        await actors.until(elsewhere, limit_s=120.0)
        await actors.actuator.close()
        assert not ray.util.list_named_actors()
    finally:
        await disconnect()
        cluster.shutdown()
