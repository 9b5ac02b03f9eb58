"""What has to hold of the rendered objects, whatever the switches: looked at as a cluster would."""

import tomllib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from chart_objects import (
    CASES,
    EXAMPLES,
    NAMESPACE,
    Object,
    containers,
    named,
    objects,
    of_kind,
    pod_templates,
)

from baton.commands.flags import SECRET_FIELDS
from baton.up_config import UpConfig
from control_plane.actuators.kubernetes import KubeTarget
from control_plane.config import ControlConfig
from control_plane.planner_settings import read_planner_config
from dashboard.config import DashboardConfig
from gateway.config import GatewayConfig
from runtime.settings import load
from worker.config import WorkerConfig

CONFIGS: dict[str, type[Any]] = {
    "gateway": GatewayConfig,
    "control": ControlConfig,
    "dashboard": DashboardConfig,
    "prefill": WorkerConfig,
    "decode": WorkerConfig,
    "up": UpConfig,
}
FOREIGN = {
    "HOME",
    "TRITON_CACHE_DIR",
    "BATON_CACHE_DIR",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
}  # read by libraries and by runtime.settings


def is_baton(container: Object) -> bool:
    return bool(container.get("args")) and container["args"][0] in CONFIGS


def config_maps(things: tuple[Object, ...]) -> dict[str, Object]:
    return {thing["metadata"]["name"]: thing["data"] for thing in of_kind(things, "ConfigMap")}


def settings_map(pod: Object) -> str:
    """The ConfigMap at /etc/baton."""
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "settings"]
    if "projected" in volume:
        return str(volume["projected"]["sources"][0]["configMap"]["name"])
    return str(volume["configMap"]["name"])


def settings(things: tuple[Object, ...], pod: Object, container: Object) -> Object:
    """The table of the settings file that the container's command reads."""
    content = tomllib.loads(config_maps(things)[settings_map(pod)]["baton.toml"])
    return content[container["args"][0]]


def batons(case: str) -> Iterator[tuple[str, Object, Object, Object]]:
    """Owner, pod, container and settings of each process of Baton."""
    things = objects(CASES[case])
    for owner, pod, container in containers(things):
        if is_baton(container):
            yield owner, pod, container, settings(things, pod, container)


@pytest.mark.parametrize("case", CASES)
def test_each_setting_and_variable_is_one_that_the_process_declares(case: str, tmp_path):
    for owner, _, container, table in batons(case):
        cls = CONFIGS[container["args"][0]]
        known = {field.name for field in fields(cls)}
        assert set(table) <= known - SECRET_FIELDS, owner
        environ = {entry["name"]: entry.get("value", "x") for entry in container["env"]}
        variables = {name for name in environ if name not in FOREIGN}
        assert variables <= {f"BATON_{name.upper()}" for name in known}, owner
        command = container["args"][0]
        load(cls, {}, file=_written(tmp_path, table, command), table=command, environ=environ)


def _written(folder, table: Object, name: str):
    path = folder / "baton.toml"
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    path.write_text("\n".join([f"[{name}]", *lines]))
    return path


def _toml(value: object) -> str:
    return {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else (
        '"' + value + '"' if isinstance(value, str) else repr(value)
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_planners_file_is_one_that_the_control_plane_takes(case: str, tmp_path):
    for name, files in config_maps(objects(CASES[case])).items():
        if "planner.toml" in files:
            path = tmp_path / f"{name}.toml"
            path.write_text(files["planner.toml"])
            read_planner_config(ControlConfig(plan="advise", planner_file=str(path)))


def test_the_planner_scales_a_pool_of_either_kind_of_hardware():
    pools = [
        {"name": f"{kind}-decode", "role": "decode", "scaling": {"by": "control"}}
        for kind in ("h200", "l40s")
    ]
    planner = {"hardware": [{"name": "h200"}, {"name": "l40s"}]}
    values = {
        "control": {"plan": "act", "planner": planner},
        "pools": [{"name": "h200-prefill", "role": "prefill"}, *pools],
    }
    content = tomllib.loads(config_maps(objects(values))["baton-control"]["baton.toml"])
    targets = KubeTarget.parse_all(content["control"]["kube_decode"])
    assert [target.is_of("baton-l40s") for target in targets] == [False, True]
    assert content["control"]["kube_prefill"] == ""


def test_a_kind_of_hardware_has_the_name_that_its_pods_names_begin_with(tmp_path):
    things = objects(EXAMPLES["two-gpu-kinds"])
    path = tmp_path / "planner.toml"
    path.write_text(config_maps(things)["baton-control"]["planner.toml"])
    config = read_planner_config(ControlConfig(plan="advise", planner_file=str(path)))
    pools = [
        owner.partition("/")[2]
        for owner, template in pod_templates(things)
        if "baton-pool" in template["metadata"]["labels"]
    ]
    kinds = {pool: config.kind_of(f"{pool}-7d9f8-x2x4z") for pool in pools}
    assert kinds == {
        "baton-h200-prefill": "baton-h200",
        "baton-h200-decode": "baton-h200",
        "baton-l40s-decode": "baton-l40s",
    }


@pytest.mark.parametrize("case", CASES)
def test_every_selector_matches_pods_of_the_release_and_of_one_part_alone(case: str):
    things = objects(CASES[case])
    labels = {owner: t["metadata"]["labels"] for owner, t in pod_templates(things)}

    def matched(selector: Object) -> set[str]:
        return {o for o, own in labels.items() if selector.items() <= own.items()}

    for thing in of_kind(things, "Deployment", "StatefulSet"):
        key = f"{thing['kind']}/{thing['metadata']['name']}"
        assert matched(thing["spec"]["selector"]["matchLabels"]) == {key}
    for thing in of_kind(things, "Service", "PodDisruptionBudget"):
        selector = thing["spec"]["selector"]
        found = matched(selector.get("matchLabels", selector))
        parts = {labels[owner]["app.kubernetes.io/component"] for owner in found}
        assert len(parts) == 1, thing["metadata"]["name"]
    for thing in of_kind(things, "ServiceMonitor"):
        wanted = thing["spec"]["selector"]["matchLabels"]
        services = [s for s in of_kind(things, "Service")
                    if wanted.items() <= s["metadata"]["labels"].items()]  # fmt: skip
        ports = {endpoint["port"] for endpoint in thing["spec"]["endpoints"]}
        assert services
        for service in services:
            assert ports <= {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("case", CASES)
def test_every_service_leads_to_a_port_that_its_pods_name(case: str):
    things = objects(CASES[case])
    for service in of_kind(things, "Service"):
        selector = service["spec"]["selector"].items()
        for _, template in pod_templates(things):
            if selector <= template["metadata"]["labels"].items():
                names = {port["name"] for container in template["spec"]["containers"]
                         for port in container.get("ports", ())}  # fmt: skip
                for port in service["spec"]["ports"]:
                    assert port["targetPort"] in names, service["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_ports_are_those_that_the_settings_say(case: str):
    names = {"http": "port", "grpc": "port", "operator": "http_port", "metrics": "metrics_port",
             "fabric": "fabric_port", "control": "control_port",
             "page": "dashboard_port"}  # fmt: skip
    for owner, _, container, table in batons(case):
        for port in container["ports"]:
            name = names[port["name"]]
            if (container["args"][0], port["name"]) == ("gateway", "grpc"):
                name = "grpc_port"
            assert table[name] == port["containerPort"], (owner, port)


@pytest.mark.parametrize("case", CASES)
def test_every_container_has_probes_on_its_own_ports(case: str):
    for owner, _, container in containers(objects(CASES[case])):
        if container["name"] in ("ray-head", "ray-node"):
            continue  # KubeRay adds Ray's own probes
        names = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            action = probe.get("httpGet") or probe.get("tcpSocket")
            assert "exec" in probe or action["port"] in names, (owner, kind)
        if is_baton(container):
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


@pytest.mark.parametrize("case", CASES)
def test_a_process_has_the_time_that_its_drain_takes(case: str):
    for owner, pod, container, table in batons(case):
        hook = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = table.get("drain_timeout_s", table.get("drain_s", 0)) + table.get("lease_s", 0)
        assert pod["terminationGracePeriodSeconds"] > hook + drain, owner


@pytest.mark.parametrize("case", CASES)
def test_weights_may_load_before_anybody_gives_a_pod_up(case: str):
    things = objects(CASES[case])
    startups = []
    for _owner, _, container, table in batons(case):
        probe = container["startupProbe"]
        if "fabric_port" in table:
            startups.append(probe["failureThreshold"] * probe["periodSeconds"])
    for name, files in config_maps(things).items():
        if name.endswith("-control"):
            table = tomllib.loads(files["baton.toml"])["control"]
            assert table["ready_timeout_s"] > max(startups)


@pytest.mark.parametrize("case", CASES)
def test_nobody_runs_as_root_or_may_more_than_needed(case: str):
    for owner, pod, container in containers(objects(CASES[case])):
        secure = pod["securityContext"]
        assert secure["runAsNonRoot"] and secure["runAsUser"] > 0
        assert secure["seccompProfile"] == {"type": "RuntimeDefault"}
        for part in (container, *pod.get("initContainers", ())):
            own = part["securityContext"]
            assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
            assert own["capabilities"]["drop"] == ["ALL"]
            has_rdma = any("rdma" in name for name in part["resources"].get("limits", {}))
            added = own["capabilities"].get("add", [])
            assert added == (["IPC_LOCK"] if has_rdma else []), owner
            assert part["resources"]["limits"]["memory"], owner


@pytest.mark.parametrize("case", CASES)
def test_only_the_control_plane_has_a_service_accounts_token_and_only_where_it_uses_one(case: str):
    things = objects(CASES[case])
    roles = {role["metadata"]["name"] for role in of_kind(things, "Role")}
    for owner, template in pod_templates(things):
        has_token = template["spec"]["automountServiceAccountToken"]
        assert has_token == (template["spec"].get("serviceAccountName") in roles), owner
    accounts = {account["metadata"]["name"] for account in of_kind(things, "ServiceAccount")}
    used = {t["spec"].get("serviceAccountName") for _, t in pod_templates(things)} - {None}
    assert used == accounts


@pytest.mark.parametrize("case", CASES)
def test_replicas_are_not_rendered_where_somebody_else_has_them(case: str):
    things = objects(CASES[case])
    owned = {s["spec"]["scaleTargetRef"]["name"]
             for s in of_kind(things, "ScaledObject", "HorizontalPodAutoscaler")}  # fmt: skip
    for files in config_maps(things).values():
        table = (
            tomllib.loads(files["baton.toml"]).get("control", {}) if "baton.toml" in files else {}
        )
        owned |= {table.get(f"kube_{role}", "").partition("/")[2] for role in ("prefill", "decode")}
    for thing in of_kind(things, "Deployment", "StatefulSet", "LeaderWorkerSet"):
        name = thing["metadata"]["name"]
        assert ("replicas" in thing["spec"]) == (name not in owned), name


@pytest.mark.parametrize("case", CASES)
def test_mounts_have_volumes_and_none_lies_inside_a_read_only_one(case: str):
    claims = {
        f"StatefulSet/{thing['metadata']['name']}": claim["metadata"]["name"]
        for thing in of_kind(objects(CASES[case]), "StatefulSet")
        for claim in thing["spec"].get("volumeClaimTemplates", ())
    }
    for owner, pod, container in containers(objects(CASES[case])):
        volumes = {volume["name"] for volume in pod.get("volumes", ())} | {claims.get(owner)}
        mounts = container["volumeMounts"]
        assert {mount["name"] for mount in mounts} <= volumes, owner
        paths = [mount["mountPath"] for mount in mounts]
        assert len(set(paths)) == len(paths)
        for outer in mounts:
            inside = [path for path in paths if path.startswith(outer["mountPath"] + "/")]
            assert not (inside and outer.get("readOnly")), (owner, inside)


@pytest.mark.parametrize("case", CASES)
def test_files_that_settings_name_are_mounted(case: str):
    keys = ("model", "tenants_file", "tls_certificate", "kv_tls_ca", "planner_file", "audit_file")
    keys += ("usage_log", "trace_log", "draft_model")
    for owner, pod, container, table in batons(case):
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for key in keys:
            path = table.get(key, "")
            is_in_image = path == "/opt/baton/demo_model"
            assert not path or is_in_image or any(path.startswith(m) for m in mounts), (owner, path)
        assert settings_map(pod)


def test_a_changed_setting_starts_the_pods_of_its_process_anew_and_no_others():
    def sums(values: Object) -> dict[str, str]:
        return {o: t["metadata"]["annotations"]["checksum/config"]
                for o, t in pod_templates(objects(values))
                if "annotations" in t["metadata"]}  # fmt: skip

    before, after = sums({}), sums({"gateway": {"settings": {"policy": "predicted"}}})
    assert {owner for owner in before if before[owner] != after[owner]} == {
        "Deployment/baton-gateway"
    }


@pytest.mark.parametrize("case", CASES)
def test_each_control_plane_tells_operators_its_own_address(case: str):
    for owner, _, container, _table in batons(case):
        if container["args"][0] != "control":
            continue
        environ = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        name = owner.partition("/")[2]
        service = named(objects(CASES[case]), "Service", f"{name}-peers")
        ports = {port["port"] for port in service["spec"]["ports"]}
        wanted = f"http://$(BATON_IDENTITY).{name}-peers.{NAMESPACE}.svc:8091"
        assert environ["BATON_ADVERTISE_URL"] == wanted and 8091 in ports
        names = list(environ)
        assert names.index("BATON_IDENTITY") < names.index("BATON_ADVERTISE_URL")  # it is filled in


def test_every_container_of_a_ray_cluster_has_its_token():
    for _, _, container in containers(objects(EXAMPLES["kuberay"])):
        variables = {entry["name"]: entry for entry in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        token = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert token == {"name": "baton-tokens", "key": "cluster-token"}


def test_secrets_come_by_reference_and_never_stand_in_a_file_or_an_argument():
    values = {"redis": {"url": "redis://:very-secret@redis.data.svc:6379/0"}}
    for thing in objects(values):
        if thing["kind"] != "Secret":
            assert "very-secret" not in str(thing)
    for _, _, container in containers(objects(values)):
        for entry in container.get("env", ()):
            if "TOKEN" in entry["name"] or "REDIS" in entry["name"]:
                assert "secretKeyRef" in entry["valueFrom"]
