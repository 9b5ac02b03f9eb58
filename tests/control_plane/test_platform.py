"""What the settings build: who acts for the cluster, and with what."""

from pathlib import Path

import pytest
from kube_server import KubeServer

from control_plane.actuators.kubernetes import KubernetesActuator
from control_plane.config import ControlConfig
from control_plane.kube_lease import KubeLeadership
from control_plane.leadership import SoleLeadership
from control_plane.platform import actuator_of, leadership_of
from control_plane.state.redis_lease import RedisLeadership
from runtime.clock import SystemClock
from runtime.settings import SettingsError


def kubeconfig(directory: Path, url: str) -> str:
    file = directory / "config"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: c, user: u}}]\n"
        f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    return str(file)


async def test_every_election_and_actuator_is_built_by_its_name(tmp_path: Path):
    file = kubeconfig(tmp_path, "http://127.0.0.1:1")
    clock = SystemClock()
    sole = leadership_of(ControlConfig(identity="a"), clock)
    assert isinstance(sole, SoleLeadership) and sole.term().holder == "a"
    assert isinstance(leadership_of(ControlConfig(election="redis"), clock), RedisLeadership)
    kube = ControlConfig(election="kubernetes", actuator="kubernetes", kubeconfig=file)
    assert isinstance(leadership_of(kube, clock), KubeLeadership)
    actuator = actuator_of(kube, sole)
    assert isinstance(actuator, KubernetesActuator)
    await actuator.close()
    assert actuator_of(ControlConfig(), sole) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"election": "coin"}, "election: 'coin' is not one of none, redis, kubernetes"),
        ({"election": "redis", "redis_url": "nowhere"}, "redis_url: "),
        ({"election": "kubernetes", "kubeconfig": "/none"}, "no Kubernetes cluster"),
        ({"actuator": "hope"}, "actuator: 'hope' is not one of advisory, kubernetes"),
        ({"actuator": "kubernetes", "kube_decode": "pod/x"}, "'pod/x' is not deployment/NAME"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, str], message: str):
    config = ControlConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=message):
        leadership = leadership_of(config, SystemClock())
        actuator_of(config, leadership)


async def test_the_kubernetes_lease_is_given_back_for_the_next_one(tmp_path: Path):
    server = KubeServer()
    server.start()
    try:
        file = kubeconfig(tmp_path, server.url)
        configs = [
            ControlConfig(election="kubernetes", kubeconfig=file, identity=name, leader_lease_s=60)
            for name in "ab"
        ]
        first, second = (leadership_of(config, SystemClock()) for config in configs)
        await first.start()
        await second.start()
        assert (first.term().is_me, second.term().holder) == (True, "a@http://127.0.0.1:8091")
        token = await first.confirm()
        await first.stop()
        assert await second.confirm() > token
        assert server.leases["baton-control-plane"]["spec"]["holderIdentity"].startswith("b@")
        await second.stop()
    finally:
        server.stop()
