"""The Kubernetes actuator with the real client, against a server that behaves like the real one."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kube_server import KubeServer
from kubernetes import client

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused
from control_plane.actuators.kube_api import KubeError, connect
from control_plane.actuators.kube_pods import PodWatch
from control_plane.actuators.kubernetes import KubernetesActuator, KubeTarget
from control_plane.leadership import NotLeader
from wire.messages import Role

TARGETS = {
    Role.PREFILL: (KubeTarget("deployment", "baton-prefill"),),
    Role.DECODE: (KubeTarget("deployment", "baton-decode"),),
}
[DECODE] = TARGETS[Role.DECODE]


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    server = KubeServer()
    server.add_pool("baton-prefill", 1)
    server.add_pool("baton-decode", 3)
    server.start()
    yield server
    server.stop()


class Fence:
    """Confirms until somebody else leads."""

    def __init__(self) -> None:
        self.lost = False

    async def confirm(self) -> int:
        if self.lost:
            raise NotLeader("control-b")
        return 1


def api_of(kube: KubeServer) -> client.ApiClient:
    configuration = client.Configuration(host=kube.url)
    configuration.retries = False
    return client.ApiClient(configuration)


def actuator_of(kube: KubeServer, fence: Fence, **changes: object) -> KubernetesActuator:
    settings: dict[str, object] = {
        "wall_s": time.time,
        "now_s": time.monotonic,
        "jitter": lambda: 0.0,
        "confirm": fence.confirm,
        "ready_timeout_s": 600.0,
        **changes,
    }
    targets = settings.pop("targets", TARGETS)
    return KubernetesActuator(api_of(kube), "serving", targets, **settings)  # type: ignore[arg-type]


@pytest.fixture
def fence() -> Fence:
    return Fence()


@pytest_asyncio.fixture
async def actuator(kube: KubeServer, fence: Fence) -> AsyncIterator[KubernetesActuator]:
    actuator = actuator_of(kube, fence)
    await actuator.start()
    yield actuator
    await actuator.close()


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not wanted():
            await asyncio.sleep(0.01)


async def count(actuator: KubernetesActuator, role: Role) -> tuple[int, int, int, int]:
    pool = next(pool for pool in await actuator.status() if pool.role is role)
    return pool.wanted, pool.running, pool.starting, pool.failed


async def until_counted(
    actuator: KubernetesActuator, role: Role, wanted: tuple[int, int, int, int]
) -> None:
    async with asyncio.timeout(60):
        while await count(actuator, role) != wanted:
            await asyncio.sleep(0.01)


async def test_adding_scales_the_deployment_and_says_so(
    kube: KubeServer, actuator: KubernetesActuator
):
    await actuator.add(Role.DECODE, 2, "")
    assert kube.replicas("baton-decode") == 5
    assert kube.events[0]["reason"] == "BatonScaledUp"
    assert kube.events[0]["involvedObject"]["name"] == "baton-decode"
    await until_counted(actuator, Role.DECODE, (5, 0, 5, 0))
    for name in kube.pod_names("baton-decode"):
        kube.set_ready(name, True)
    await until_counted(actuator, Role.DECODE, (5, 5, 0, 0))


async def test_the_right_pod_goes_when_the_deployment_shrinks(
    kube: KubeServer, actuator: KubernetesActuator
):
    await until(lambda: actuator._watches[DECODE].pods())
    await actuator.remove("baton-decode-1")
    assert kube.pod_names("baton-decode") == ["baton-decode-0", "baton-decode-2"]
    assert kube.events[-1]["message"] == "baton-decode-1 drains: 2 are left"


async def test_a_conflict_is_read_again_and_nobodys_change_is_lost(
    kube: KubeServer, actuator: KubernetesActuator
):
    def somebody_scales() -> None:
        with kube.lock:
            body = {
                "metadata": dict(kube.scales["deployments/baton-decode"]["metadata"]),
                "spec": {"replicas": 7},
            }
        assert kube.write_scale("deployments/baton-decode", body)[0] == 200

    kube.before_write = somebody_scales
    await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 8


async def test_a_conflict_that_does_not_end_is_told_as_one(
    kube: KubeServer, actuator: KubernetesActuator
):
    kube.faults.extend([("PUT", 409, "the object has been modified")] * 5)
    with pytest.raises(ActuatorConflict, match="the object has been modified"):
        await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 3


async def test_a_forbidden_scale_up_names_the_quota_and_changes_nothing(
    kube: KubeServer, actuator: KubernetesActuator
):
    kube.faults.append(("PUT", 403, "exceeded quota: gpus, requested: 1, used: 8, limited: 8"))
    with pytest.raises(ActuatorRefused, match=r"scale deployment/baton-decode: a quota.*gpus"):
        await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 3 and not kube.events


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_server_that_fails_for_a_moment_is_asked_again(
    kube: KubeServer, actuator: KubernetesActuator, status: int
):
    kube.faults.extend([("PUT", status, "try later"), ("GET", status, "try later")])
    await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 4


async def test_an_event_that_may_not_be_written_changes_nothing_else(
    kube: KubeServer, actuator: KubernetesActuator
):
    kube.faults.append(("POST", 403, "events is forbidden"))
    await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 4


async def test_a_deployment_that_is_not_there_is_named(kube: KubeServer, fence: Fence):
    targets = {Role.DECODE: (KubeTarget("deployment", "nothing"),)}
    actuator = actuator_of(kube, fence, targets=targets)
    with pytest.raises(ActuatorRefused, match="read deployment/nothing: there is no such object"):
        await actuator.start()
    with pytest.raises(
        ActuatorRefused, match="no Deployment or LeaderWorkerSet is set for prefill"
    ):
        await actuator.add(Role.PREFILL, 1, "")
    await actuator.close()


async def test_a_pod_that_is_nobodys_is_not_removed(kube: KubeServer, actuator: KubernetesActuator):
    with pytest.raises(ActuatorRefused, match="no pod 'web-0' belongs to the pools in serving"):
        await actuator.remove("web-0")


async def test_an_expired_watch_begins_again_with_a_list(
    kube: KubeServer, actuator: KubernetesActuator
):
    watched = actuator._watches[DECODE]
    await until(lambda: len(watched.pods()) == 3 and kube.num_watches == 2)
    lists = watched.num_lists
    kube.end_watches(code=410)
    await until(lambda: watched.num_lists > lists)
    kube.set_ready("baton-decode-0", True)
    await until_counted(actuator, Role.DECODE, (3, 1, 2, 0))


async def test_while_the_server_is_silent_the_pods_known_last_stay(
    kube: KubeServer, actuator: KubernetesActuator
):
    watched = actuator._watches[DECODE]
    await until(lambda: len(watched.pods()) == 3 and kube.num_watches == 2)
    kube.faults.extend([("GET /api/v1/namespaces/serving/pods", 500, "etcd is gone")] * 4)
    kube.end_watches()
    await until(lambda: watched.trouble)
    assert len(watched.pods()) == 3
    await until(lambda: not watched.trouble)


async def test_half_of_a_scale_up_that_never_becomes_ready_is_replaced_and_reported(
    kube: KubeServer, actuator: KubernetesActuator
):
    await actuator.add(Role.DECODE, 1, "")
    for name in kube.pod_names("baton-decode")[:3]:
        kube.set_ready(name, True)
    kube.set_ready("baton-decode-3", False, "0/8 nodes are available: insufficient nvidia.com/gpu")
    kube.age("baton-decode-3", datetime.now(UTC) - timedelta(seconds=700))
    await until_counted(actuator, Role.DECODE, (4, 3, 0, 1))
    _, decode = await actuator.status()
    assert "baton-decode-3: 0/8 nodes are available" in decode.detail
    uid = kube.pods["baton-decode-3"]["metadata"]["uid"]
    assert await actuator.replace_unready() == ("baton-decode-3",)
    assert kube.pods["baton-decode-3"]["metadata"]["uid"] != uid
    assert kube.events[-1]["reason"] == "BatonReplacedUnready"
    assert kube.replicas("baton-decode") == 4


async def test_a_container_that_restarts_in_an_old_pod_keeps_its_pod(
    kube: KubeServer, actuator: KubernetesActuator
):
    now = datetime.now(UTC)
    kube.age("baton-decode-0", now - timedelta(days=2))
    kube.set_ready("baton-decode-0", True)
    await until_counted(actuator, Role.DECODE, (3, 1, 2, 0))
    become_unready(kube, "baton-decode-0", now - timedelta(seconds=20))
    await until_counted(actuator, Role.DECODE, (3, 0, 3, 0))
    assert await actuator.replace_unready() == ()
    assert "baton-decode-0" in kube.pod_names("baton-decode")

    become_unready(kube, "baton-decode-0", now - timedelta(seconds=700))
    await until_counted(actuator, Role.DECODE, (3, 0, 2, 1))
    assert await actuator.replace_unready() == ("baton-decode-0",)


def become_unready(kube: KubeServer, name: str, since: datetime) -> None:
    stamp = since.strftime("%Y-%m-%dT%H:%M:%SZ")
    with kube.lock:
        kube.set_ready(name, False)
        pod = kube.pods[name]
        pod["status"]["conditions"][0]["lastTransitionTime"] = stamp
        kube.age(name, datetime.fromisoformat(pod["metadata"]["creationTimestamp"]))


class HastyServer(KubeServer):
    """Ends every watch as soon as it begins."""

    def watch(self, since: int) -> "queue.Queue[dict[str, Any] | None]":
        watcher: queue.Queue[dict[str, Any] | None] = queue.Queue()
        watcher.put(None)
        return watcher


async def test_watches_that_end_at_once_are_begun_again_less_and_less_often():
    kube = HastyServer()
    kube.add_pool("baton-decode", 1)
    kube.start()
    drawn: list[float] = []

    def jitter() -> float:
        drawn.append(1.0)
        return 1.0

    watch = PodWatch(
        client.CoreV1Api(api_of(kube)),
        "serving",
        "app=baton-decode",
        now_s=time.monotonic,
        jitter=jitter,
    )
    begun_s = time.monotonic()
    watch.start()
    try:
        await until(lambda: watch.num_lists >= 4)
        assert time.monotonic() - begun_s >= 0.2 + 0.4 + 0.8
        assert len(drawn) == 3
        assert [pod.name for pod in watch.pods()] == ["baton-decode-0"]
    finally:
        watch.stop()
        kube.stop()


async def test_who_leads_no_longer_writes_nothing(
    kube: KubeServer, actuator: KubernetesActuator, fence: Fence
):
    await until(lambda: actuator._watches[DECODE].pods())
    fence.lost = True
    with pytest.raises(NotLeader):
        await actuator.add(Role.DECODE, 1, "")
    with pytest.raises(NotLeader):
        await actuator.remove("baton-decode-0")
    assert {method for method, _ in kube.requests} == {"GET"}


async def test_a_leader_that_is_replaced_between_read_and_write_is_refused_by_the_server(
    kube: KubeServer, actuator: KubernetesActuator, fence: Fence
):
    def the_new_leader_scales() -> None:
        fence.lost = True
        with kube.lock:
            metadata = dict(kube.scales["deployments/baton-decode"]["metadata"])
        kube.write_scale(
            "deployments/baton-decode", {"metadata": metadata, "spec": {"replicas": 2}}
        )

    kube.before_write = the_new_leader_scales
    with pytest.raises(NotLeader):
        await actuator.add(Role.DECODE, 1, "")
    assert kube.replicas("baton-decode") == 2


async def test_a_leader_worker_set_ends_its_last_group_only(kube: KubeServer, fence: Fence):
    kube.add_pool("wide", 2, plural="leaderworkersets")
    wide = KubeTarget("leaderworkerset", "wide")
    actuator = actuator_of(kube, fence, targets={Role.DECODE: (wide,)})
    await actuator.start()
    await until(lambda: len(actuator._watches[wide].pods()) == 2)
    with pytest.raises(ActuatorRefused, match="ends its last group first: wide-1, not wide-0"):
        await actuator.remove("wide-0")
    await actuator.remove("wide-1")
    assert kube.replicas("wide", "leaderworkersets") == 1
    await actuator.add(Role.DECODE, 2, "")
    assert kube.replicas("wide", "leaderworkersets") == 3
    await actuator.close()


async def test_of_several_targets_the_one_of_the_kind_is_scaled(kube: KubeServer, fence: Fence):
    names = ("h200-decode", "l40s-decode")
    for name in names:
        kube.add_pool(name, 1)
    targets = {Role.DECODE: tuple(KubeTarget("deployment", name) for name in names)}
    actuator = actuator_of(kube, fence, targets=targets)
    await actuator.start()
    await actuator.add(Role.DECODE, 2, "l40s")
    await actuator.add(Role.DECODE, 1, "")
    assert [kube.replicas(name) for name in names] == [2, 3]
    with pytest.raises(ActuatorRefused, match="no decode pool of kind 'a100' can be scaled; there"):
        await actuator.add(Role.DECODE, 1, "a100")
    await until_counted(actuator, Role.DECODE, (5, 0, 5, 0))
    await until(lambda: all(watch.pods() for watch in actuator._watches.values()))
    await actuator.remove("l40s-decode-0")
    assert [kube.replicas(name) for name in names] == [2, 2]
    await actuator.close()


@pytest.mark.parametrize("text", ["baton-decode", "pod/x", "deployment/", ""])
def test_a_target_that_cannot_be_scaled_is_refused(text: str):
    with pytest.raises(ValueError, match="is not deployment/NAME or leaderworkerset/NAME"):
        KubeTarget.parse(text)


def test_without_a_cluster_the_message_says_so(tmp_path: Path):
    with pytest.raises(KubeError, match="no Kubernetes cluster is configured"):
        connect(str(tmp_path / "none"))


def test_a_kubeconfig_file_names_the_server(tmp_path: Path):
    file = tmp_path / "config"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    api = connect(str(file))
    assert api.configuration.host == "http://127.0.0.1:1"
    api.close()
