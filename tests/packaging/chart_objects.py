"""The chart as Helm renders it, as plain objects; its examples and a matrix of switches."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "baton"
RELEASE, NAMESPACE = "baton", "ml"
Object = dict[str, Any]
_PROMETHEUS = {"prometheusUrl": "http://prometheus.monitoring.svc:9090"}
_POOL = {"name": "prefill", "role": "prefill"}
_DECODE = {"name": "decode", "role": "decode"}


def example(name: str) -> Object:
    return yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())


EXAMPLES = {path.stem: example(path.stem) for path in sorted((CHART / "examples").glob("*.yaml"))}
SWITCHES: Mapping[str, Object] = {
    "defaults": {},
    "open": {"auth": {"apiKeys": "open"}},
    "own secrets": {
        "auth": {"apiKeys": "existingSecret", "existingSecret": "t", "tokensSecret": "s"}
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "clients": {"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    "own redis": {"redis": {"url": "redis://redis.data.svc:6380/2"}},
    "no shared loads": {"redis": {"enabled": True}, "gateway": {"shareLoads": False}},
    "https": {"gateway": {"tlsSecret": "tls"}, "control": _PROMETHEUS},
    "no grpc": {"gateway": {"grpc": False}},
    "autoscaled": {"gateway": {"autoscaling": {"enabled": True}}, "control": _PROMETHEUS},
    "no planner": {"control": {"plan": "off"}, "gateway": {"replicas": 5}},
    "from zero": {"control": {"planner": {"idle_to_zero_s": 600, "min_prefill": 0}}},
    "two leaders to be": {"control": {"replicas": 2}},
    "scaled": {
        "control": {"plan": "act", "election": "kubernetes"},
        "pools": [
            _POOL | {"scaling": {"by": "control"}},
            _DECODE | {"scaling": {"by": "control"}, "workload": "leaderworkerset"},
        ],
    },
    "kept audit": {"control": {"auditSize": "1Gi", "auditStorageClass": "fast"}},
    "no dashboard": {"dashboard": {"enabled": False}},
    "tls between workers": {"workers": {"kvTlsSecret": "kv-tls"}},
    "pvc": {"model": {"source": "pvc", "pvc": {"claimName": "models"}, "path": "qwen"}},
    "hostPath": {"model": {"source": "hostPath", "hostPath": {"path": "/srv/models"}}},
    "image": {"model": {"source": "image", "image": {"reference": "models/qwen:1"}}},
    "download": {
        "model": {
            "source": "download",
            "download": {"baseUrl": "http://models.svc:8080/qwen/", "files": ["config.json"]},
        }
    },
    "ingress": {"ingress": {"enabled": True}},
    "long name": {"fullnameOverride": "a-name-of-forty-characters-is-the-longest"[:40]},
    "labels": {"commonLabels": {"team": "inference"}},
    "schedules": {
        "control": {
            "planner": {
                "objectives": {"ttft_s": 1.0},
                "schedules": [{"name": "office", "from_hour": 7, "to_hour": 19, "min_decode": 3}],
            }
        }
    },
    "kuberay open": {
        "mode": "kuberay",
        "auth": {"apiKeys": "open"},
        "kuberay": {"settings": {"transport": "tcp", "speculate": "lookup"}},
    },
    "keys and state in redis": {
        "auth": {"apiKeys": "redis"},
        "redis": {"url": "redis://redis.data.svc:6380/2"},
        "control": {"settings": {"state": "redis"}},
    },
    "spans": {
        "gateway": {"settings": {"otlp_endpoint": "http://collector.tracing.svc:4317"}},
        "workers": {"settings": {"otlp_endpoint": "http://collector.tracing.svc:4317"}},
    },
    "more volumes": {
        "gateway": {
            "settings": {"usage_log": "/logs/usage.jsonl"},
            "extraVolumes": [{"name": "logs", "persistentVolumeClaim": {"claimName": "usage"}}],
            "extraVolumeMounts": [{"name": "logs", "mountPath": "/logs"}],
        },
        "workers": {
            "settings": {"speculate": "model", "draft_model": "/drafts/small", "max_drafts": 4},
            "extraVolumes": [{"name": "drafts", "hostPath": {"path": "/srv/drafts"}}],
            "extraVolumeMounts": [{"name": "drafts", "mountPath": "/drafts", "readOnly": True}],
        },
    },
}
CASES: Mapping[str, Object] = {**EXAMPLES, **SWITCHES}


@functools.cache
def chart() -> Chart:
    return Chart.load(CHART)


def texts(values: Object) -> dict[str, str]:
    """What each template becomes. Raises as Helm does."""
    return chart().render(values, name=RELEASE, namespace=NAMESPACE)


def parsed(rendered: Mapping[str, str]) -> list[Object]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[Object] = []
    for path, text in sorted(rendered.items()):
        if not path.endswith(".txt"):
            found += [thing for thing in yaml.load_all(text, loader) if thing]
    return found


@functools.cache
def _objects(values: str) -> tuple[Object, ...]:
    return tuple(parsed(texts(json.loads(values))))


def objects(values: Object) -> tuple[Object, ...]:
    """Rendered once for equal values; not to be changed."""
    return _objects(json.dumps(values, sort_keys=True))


def of_kind(things: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [thing for thing in things if thing["kind"] in kinds]


def named(things: tuple[Object, ...], kind: str, name: str) -> Object:
    [found] = [thing for thing in of_kind(things, kind) if thing["metadata"]["name"] == name]
    return found


def pod_templates(things: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """By kind/name of the owner, each template of pods."""
    for thing in things:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            yield f"{kind}/{name}", spec["template"]
        elif kind == "LeaderWorkerSet":
            yield f"{kind}/{name}", spec["leaderWorkerTemplate"]["workerTemplate"]
        elif kind == "RayCluster":
            yield f"{kind}/{name} head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{kind}/{name} {group['groupName']}", group["template"]


def containers(things: tuple[Object, ...]) -> Iterator[tuple[str, Object, Object]]:
    """Owner, pod and container of each container that stays."""
    for owner, template in pod_templates(things):
        for container in template["spec"]["containers"]:
            yield owner, template["spec"], container
