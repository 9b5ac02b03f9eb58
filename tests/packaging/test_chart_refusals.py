"""Wrong values end with one clear message, before anything is installed."""

import json

import jsonschema
import pytest
from chart_objects import CHART, Object, texts
from helm_python.errors import HelmError

POOL: Object = {"name": "prefill", "role": "prefill"}
DECODE: Object = {"name": "decode", "role": "decode"}
PROMETHEUS = "http://prometheus.monitoring.svc:9090"
UNKNOWN_AND_WRONG: list[tuple[Object, str]] = [
    ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    ({"workers": {"flavour": "rocm"}}, "'/workers/flavour': value must be one of 'cuda', 'cpu'"),
    ({"workers": {"kvMemory": "16Gi"}}, "'/workers/kvMemory': '16Gi' does not match pattern"),
    ({"workers": {"leaseSeconds": 0}}, "'/workers/leaseSeconds': exclusiveMinimum"),
    ({"workers": {"gpu": {"count": 2}}}, "'/workers/gpu/count': maximum: got 2, want 1"),
    ({"workers": {"settings": {"role": "decode"}}}, "additional properties 'role' not allowed"),
    ({"workers": {"settings": {"threads": "one"}}}, "'/workers/settings/threads': got string"),
    ({"kuberay": {"settings": {"prefill": 2}}}, "additional properties 'prefill' not allowed"),
    (
        {"gateway": {"settings": {"tenants_redis": "redis://r"}}},
        "additional properties 'tenants_redis' not allowed",
    ),
    ({"gateway": {"settings": {"polcy": "x"}}}, "additional properties 'polcy' not allowed"),
    ({"gateway": {"service": {"port": 0}}}, "'/gateway/service/port': minimum: got 0, want 1"),
    ({"gateway": {"resources": {"limits": {"memory": "2GiB"}}}}, "'2GiB' does not match pattern"),
    ({"control": {"planner": {"max_gpu": 3}}}, "additional properties 'max_gpu' not allowed"),
    ({"control": {"replicas": 0}}, "'/control/replicas': minimum: got 0, want 1"),
    (
        {"control": {"prometheusUrl": "prometheus:9090"}},
        "does not match pattern '^(https?://.*)?$'",
    ),
    ({"pools": []}, "'/pools': minItems: got 0, want 1"),
    ({"pools": [{"name": "a"}]}, "'/pools/0': missing property 'role'"),
    ({"pools": [{"name": "A_b", "role": "decode"}]}, "'/pools/0/name': 'A_b' does not match"),
    ({"pools": [DECODE | {"replica": 2}]}, "additional properties 'replica' not allowed"),
    ({"model": {"source": "hub"}}, "'/model/source': value must be one of"),
    ({"securityContext": {"runAsUser": 0}}, "'/securityContext/runAsUser': minimum"),
]
IMPOSSIBLE: list[tuple[Object, str]] = [
    (
        {"workers": {"terminationGracePeriodSeconds": 105}},
        "pool prefill: terminationGracePeriodSeconds is 105 and must be above "
        "preStopSeconds + drainSeconds + leaseSeconds + 15 = 105",
    ),
    (
        {"workers": {"leaseSeconds": 600, "terminationGracePeriodSeconds": 300}},
        "must be above preStopSeconds + drainSeconds + leaseSeconds + 15 = 675",
    ),
    (
        {"gateway": {"terminationGracePeriodSeconds": 60}},
        "gateway: terminationGracePeriodSeconds is 60 and must be above",
    ),
    ({"gateway": {"replicas": 2}}, "control.plan needs control.prometheusUrl where there is more"),
    ({"gateway": {"tlsSecret": "t"}}, "control.plan needs control.prometheusUrl where the gate"),
    ({"pools": [POOL, POOL]}, "pools: the name prefill is there twice"),
    ({"pools": [{"name": "gateway", "role": "decode"}]}, "the name gateway belongs to another"),
    (
        {"pools": [POOL | {"scaling": {"by": "control"}}]},
        "scaling.by control needs control.plan act",
    ),
    ({"pools": [POOL | {"scaling": {"by": "keda"}}]}, "keda needs control.prometheusUrl"),
    (
        {
            "control": {"prometheusUrl": PROMETHEUS},
            "pools": [
                POOL | {"scaling": {"by": "keda"}},
                POOL | {"name": "more", "scaling": {"by": "keda"}},
            ],
        },
        "pools prefill and more: one pool of role prefill at most",
    ),
    (
        {
            "control": {"plan": "act"},
            "pools": [
                POOL | {"scaling": {"by": "control"}},
                POOL | {"name": "more", "scaling": {"by": "control"}},
            ],
        },
        "several with control where control.planner.hardware has a kind for each",
    ),
    (
        {
            "control": {"prometheusUrl": PROMETHEUS},
            "pools": [POOL | {"scaling": {"by": "keda", "min": 5, "max": 4}}],
        },
        "pool prefill: scaling.min is above scaling.max",
    ),
    (
        {"control": {"plan": "act"}, "pools": [POOL | {"nodes": 2, "scaling": {"by": "control"}}]},
        "with nodes above 1 scaling.by has to be fixed",
    ),
    ({"pools": [POOL | {"nodes": 2, "workload": "deployment"}]}, "workload deployment has nodes 1"),
    ({"control": {"plan": "act"}}, "control.plan act needs pools with scaling.by control"),
    ({"control": {"election": "redis"}}, "control.election redis needs redis.enabled, redis.url"),
    ({"redis": {"enabled": True, "url": "redis://r"}}, "redis: enabled and your own"),
    ({"auth": {"apiKeys": "existingSecret"}}, "auth.existingSecret is needed"),
    ({"auth": {"apiKeys": "redis"}}, "auth.apiKeys redis needs redis.url or redis.existingSecret"),
    ({"control": {"settings": {"state": "redis"}}}, "control.settings.state redis needs redis."),
    (
        {"mode": "kuberay", "workers": {"settings": {"transport": "tcp"}}},
        "workers.settings has no effect in mode kuberay: give kuberay.settings",
    ),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is needed"),
    ({"model": {"source": "pvc"}}, "model.pvc.claimName is needed for model.source pvc"),
    ({"model": {"source": "hostPath"}}, "model.hostPath.path is needed"),
    ({"model": {"source": "image"}}, "model.image.reference is needed"),
    ({"model": {"source": "download"}}, "model.download.baseUrl is needed"),
    (
        {"model": {"source": "download", "download": {"baseUrl": "http://m"}}},
        "model.download.files is needed",
    ),
]


def refusal(values: Object) -> str:
    with pytest.raises(HelmError) as caught:
        texts(values)
    return str(caught.value)


@pytest.mark.parametrize("values, said", UNKNOWN_AND_WRONG, ids=lambda part: str(part)[:40])
def test_the_schema_names_a_wrong_value_and_its_limit(values: Object, said: str):
    assert said in refusal(values)


@pytest.mark.parametrize("values, said", IMPOSSIBLE, ids=lambda part: str(part)[:40])
def test_what_cannot_work_together_is_refused_with_the_values_names(values: Object, said: str):
    assert said in refusal(values)


def test_a_grace_period_one_second_above_the_sum_is_taken():
    texts({"workers": {"terminationGracePeriodSeconds": 106}})


def test_the_schema_is_itself_a_schema_and_describes_every_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    open_objects = [
        path
        for path, part in _objects_of(schema, "")
        if "properties" in part and part.get("additionalProperties") is not False
    ]
    assert not open_objects


def _objects_of(part: object, path: str):
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield path, part
        for key, inner in part.items():
            yield from _objects_of(inner, f"{path}/{key}")
