"""What the control plane asks of the Kubernetes API is what its Role allows, and the other way."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_objects import NAMESPACE, SWITCHES, Object, named, objects, of_kind

from control_plane.config import ControlConfig
from control_plane.platform import RemoteActuator, actuator_of, leadership_of
from runtime.clock import SystemClock
from wire.messages import Role

sys.path.insert(0, str(Path(__file__).parents[1] / "control_plane"))  # for kube_server

from kube_server import KubeServer

PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<ns>[^/]+)"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/?]+))?(?:/(?P<sub>scale))?(?P<query>\?.*)?$"
)
VERBS = {"PUT": "update", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
Asked = tuple[str, str, str, str]  # group, resource, name, verb


def asked_of(method: str, path: str) -> Asked:
    """A request as RBAC sees it."""
    match = PATH.match(path)
    assert match and match["ns"] == NAMESPACE, path
    verb = VERBS.get(method, "get" if match["name"] else "list")
    if verb == "list" and "watch=" in (match["query"] or ""):
        verb = "watch"
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    name = match["name"] or "" if verb != "create" else ""
    return match["group"] or "", resource, name, verb


def grants(role: Object) -> set[Asked]:
    """Each rule's combinations; name "" is every name."""
    return {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    server = KubeServer()
    server.start()
    yield server
    server.stop()


async def ready(server: KubeServer, actuator: RemoteActuator, size: int) -> None:
    """Every pod of the pools is ready, and the actuator has seen it."""
    async with asyncio.timeout(60):
        while True:
            for name in (*server.pod_names("baton-prefill"), *server.pod_names("baton-decode")):
                server.set_ready(name, True)
            if sum(pool.running for pool in await actuator.status()) >= size:
                return
            await asyncio.sleep(0.02)


async def test_every_request_is_granted_and_every_grant_is_used(kube: KubeServer, tmp_path: Path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubeconfig_of(kube))
    kube.add_pool("baton-prefill", 2)
    kube.add_pool("baton-decode", 2, "leaderworkersets")
    config = ControlConfig(
        actuator="kubernetes",
        election="kubernetes",
        kubeconfig=str(kubeconfig),
        kube_namespace=NAMESPACE,
        kube_lease="baton-control",
        kube_prefill="deployment/baton-prefill",
        kube_decode="leaderworkerset/baton-decode",
        ready_timeout_s=0.0,
    )
    leadership = leadership_of(config, SystemClock())
    await leadership.start()
    actuator = actuator_of(config, leadership)
    assert actuator is not None
    await actuator.start()
    await ready(kube, actuator, 4)
    await actuator.add(Role.PREFILL, 1, "")
    await actuator.add(Role.DECODE, 1, "")
    await ready(kube, actuator, 6)
    await actuator.remove(kube.pod_names("baton-prefill")[0])
    kube.set_ready(kube.pod_names("baton-prefill")[-1], False)
    async with asyncio.timeout(60):
        while not await actuator.replace_unready():
            await asyncio.sleep(0.02)
    await actuator.close()
    await leadership.stop()

    role = named(objects(SWITCHES["scaled"]), "Role", "baton-control")
    granted = grants(role)
    asked = {asked_of(method, path) for method, path in kube.requests}
    refused = {a for a in asked if a not in granted and (a[0], a[1], "", a[3]) not in granted}
    assert not refused
    used = asked | {(group, resource, "", verb) for group, resource, _, verb in asked}
    unused = granted - used
    assert not unused


def kubeconfig_of(kube: KubeServer) -> str:
    return f"""apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "{kube.url}"}}}}]
users: [{{name: test, user: {{token: t}}}}]
"""


def test_no_rule_grants_everything():
    for values in SWITCHES.values():
        for role in of_kind(objects(values), "Role"):
            for rule in role["rules"]:
                assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        assert not of_kind(objects(values), "ClusterRole", "ClusterRoleBinding")


def test_a_control_plane_that_asks_nothing_of_kubernetes_has_no_role():
    assert not of_kind(objects(SWITCHES["defaults"]), "Role", "RoleBinding")
