"""The network policies, evaluated as a cluster does: every flow that Baton has, and no other."""

import pytest
from chart_objects import EXAMPLES, SWITCHES, Object, containers, objects, of_kind, pod_templates

OUTSIDE: Object = {"app": "somebody"}
PROMETHEUS: Object = {"app.kubernetes.io/name": "prometheus"}
CASES = {"cpu-trial": EXAMPLES["cpu-trial"], "defaults": SWITCHES["defaults"]}
CASES |= {"rdma": EXAMPLES["rdma"], "two-gpu-kinds": EXAMPLES["two-gpu-kinds"]}
ALL_OUT = (53, 80, 443, 4317, 6379, 6443, 8265)
PORTS = (53, 6379, 8000, 8001, 8080, 8090, 8091, 9000, 9001, 9090, 9100, 12345)


def selects(selector: Object, labels: Object) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def peer_matches(peer: Object, labels: Object, is_inside: bool) -> bool:
    if "ipBlock" in peer:
        return not is_inside
    if "namespaceSelector" in peer:
        own = peer["namespaceSelector"].get("matchLabels", {})
        return not own and selects(peer.get("podSelector", {}), labels)
    return is_inside and selects(peer["podSelector"], labels)


def rule_allows(rule: Object, key: str, labels: Object, is_inside: bool, port: int) -> bool:
    ports, peers = rule.get("ports"), rule.get(key)
    has_port = ports is None or any(entry["port"] == port for entry in ports)
    return has_port and (not peers or any(peer_matches(p, labels, is_inside) for p in peers))


def allows(
    things: tuple[Object, ...], direction: str, pod: Object, other: Object, port: int
) -> bool:
    """Does the union of the pod's policies allow traffic with the other on this port?"""
    kind, key = ("Ingress", "from") if direction == "in" else ("Egress", "to")
    policies = [
        policy["spec"]
        for policy in of_kind(things, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], pod) and kind in policy["spec"]["policyTypes"]
    ]
    assert policies, "a pod without a policy"
    is_inside = "app.kubernetes.io/instance" in other
    return any(
        rule_allows(rule, key, other, is_inside, port)
        for policy in policies
        for rule in policy.get(kind.lower()) or ()
    )


def parts(things: tuple[Object, ...]) -> dict[str, Object]:
    """One pod's labels by component."""
    templates = [template["metadata"]["labels"] for _, template in pod_templates(things)]
    return {labels["app.kubernetes.io/component"]: labels for labels in templates}


def flows(things: tuple[Object, ...]) -> set[tuple[str, str, int]]:
    """Who may connect to whom inside of the release."""
    pods = parts(things)
    return {
        (source, target, port)
        for source, source_labels in pods.items()
        for target, target_labels in pods.items()
        for port in PORTS
        if port != 53
        and allows(things, "out", source_labels, target_labels, port)
        and allows(things, "in", target_labels, source_labels, port)
    }


BASE = {
    ("gateway", "control", 8090),
    ("gateway", "worker", 9000),
    ("worker", "control", 8090),
    ("worker", "worker", 9001),
    ("dashboard", "control", 8091),
    ("dashboard", "gateway", 8000),
}
TO_THE_LEADER = {("control", "control", 8091)}
SCRAPED = {("control", "gateway", 8000)}


def test_a_trial_has_the_flows_that_it_needs_and_no_other():
    assert flows(objects(CASES["cpu-trial"])) == BASE | SCRAPED | {("gateway", "redis", 6379)}


def test_with_a_prometheus_the_control_plane_does_not_scrape_gateways():
    assert flows(objects(EXAMPLES["two-gpu-kinds"])) == BASE | TO_THE_LEADER


def test_rdma_libraries_choose_ports_of_their_own_between_workers_alone():
    found = flows(objects(EXAMPLES["rdma"]))
    between = {flow for flow in found if flow[:2] == ("worker", "worker")}
    assert {port for _, _, port in between} == set(PORTS) - {53}
    assert found - between == (BASE | TO_THE_LEADER) - {("worker", "worker", 9001)}


@pytest.mark.parametrize("case", CASES)
def test_from_elsewhere_only_the_gateways_doors_are_open(case: str):
    things = objects(CASES[case])
    found = {
        (name, port)
        for name, labels in parts(things).items()
        for port in PORTS
        if allows(things, "in", labels, OUTSIDE, port)
    }
    assert found == {("gateway", 8000), ("gateway", 8001)}


@pytest.mark.parametrize("case", CASES)
def test_prometheus_reaches_every_port_with_metrics(case: str):
    things = objects(CASES[case])
    found = {
        (name, port)
        for name, labels in parts(things).items()
        for port in PORTS
        if allows(things, "in", labels, PROMETHEUS, port)
    } - {("gateway", 8001)}
    assert found == {("gateway", 8000), ("worker", 9100), ("control", 9100)}


@pytest.mark.parametrize("case", CASES)
def test_nothing_goes_out_of_workers_but_beats_kv_and_names(case: str):
    things = objects(CASES[case])
    worker = parts(things)["worker"]
    assert {port for port in PORTS if allows(things, "out", worker, OUTSIDE, port)} <= {53}


def test_the_api_server_is_reached_by_the_control_plane_where_it_scales_or_elects():
    api = {"app": "kube-apiserver"}
    scaled, alone = objects(SWITCHES["scaled"]), objects(SWITCHES["defaults"])
    assert allows(scaled, "out", parts(scaled)["control"], api, 6443)
    assert not allows(alone, "out", parts(alone)["control"], api, 6443)
    assert not allows(scaled, "out", parts(scaled)["gateway"], api, 6443)


def test_spans_go_to_the_port_of_their_collector():
    things, silent = objects(SWITCHES["spans"]), objects(SWITCHES["defaults"])
    for part in ("gateway", "worker"):
        assert allows(things, "out", parts(things)[part], OUTSIDE, 4317)
        assert not allows(silent, "out", parts(silent)[part], OUTSIDE, 4317)
    assert not allows(things, "out", parts(things)["control"], OUTSIDE, 4317)


def test_ray_clusters_talk_among_themselves_and_to_what_is_named():
    plain = objects(EXAMPLES["kuberay"] | {"model": {"source": "bundled"}})
    fetching = objects(EXAMPLES["kuberay"])
    spans = {"kuberay": {"settings": {"otlp_endpoint": "http://collector.tracing.svc:4317"}}}
    tracing = objects(EXAMPLES["kuberay"] | spans)
    head, node = parts(plain)["ray-head"], parts(plain)["ray-node"]
    for one, other in ((head, node), (node, head), (node, node)):
        for port in PORTS:
            assert allows(plain, "out", one, other, port) and allows(plain, "in", other, one, port)
    for pod in (head, node):
        assert {port for port in ALL_OUT if allows(plain, "out", pod, OUTSIDE, port)} <= {53}
        assert allows(fetching, "out", pod, OUTSIDE, 443)
        assert allows(tracing, "out", pod, OUTSIDE, 4317)
        assert {port for port in PORTS if allows(plain, "in", pod, OUTSIDE, port)} == {8000}


def test_keys_and_state_in_redis_are_reached_and_named_by_a_secret():
    things = objects(SWITCHES["keys and state in redis"])
    for part in ("gateway", "control"):
        assert allows(things, "out", parts(things)[part], OUTSIDE, 6380)
    variables = {
        entry["name"]
        for _, _, container in containers(things)
        for entry in container["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert {"BATON_TENANTS_REDIS", "BATON_REDIS_URL"} <= variables


def test_a_model_is_fetched_from_the_port_of_its_address():
    things = objects(SWITCHES["download"])
    for part in ("gateway", "worker"):
        assert allows(things, "out", parts(things)[part], OUTSIDE, 8080)
    assert not allows(things, "out", parts(things)["control"], OUTSIDE, 8080)


def test_clients_and_operators_can_be_named():
    values = {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                                "operators": [{"namespaceSelector": {}, "podSelector": {
                                    "matchLabels": {"app": "ops"}}}]}}  # fmt: skip
    things = objects(values)
    assert not allows(things, "in", parts(things)["gateway"], OUTSIDE, 8000)
    assert allows(things, "in", parts(things)["control"], {"app": "ops"}, 8091)
    assert allows(things, "in", parts(things)["dashboard"], {"app": "ops"}, 8080)
