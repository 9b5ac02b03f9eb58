"""Helm itself renders, lints and packages the chart; a strict API server takes each object."""

import copy
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart_objects import (
    CASES,
    CHART,
    EXAMPLES,
    NAMESPACE,
    RELEASE,
    ROOT,
    Object,
    objects,
    of_kind,
    parsed,
    pod_templates,
    texts,
)
from helm_python import chart as helm
from helm_python.chart import Chart

SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "crds").glob("*.json"))
}
NEWEST = kubernetes_validate.latest_version()
TAG = re.compile(r"^[a-z0-9][a-z0-9./@:_-]*(:[\w.-]+|@sha256:[0-9a-f]{64})$")


def check(thing: Object, version: str) -> None:
    """Raises ValidationError for an object that a strict API server refuses."""
    _check(json.dumps(thing), version)


@functools.cache
def _check(text: str, version: str) -> None:
    thing = json.loads(text)
    if thing["kind"].lower() in SCHEMAS:
        jsonschema.validate(thing, SCHEMAS[thing["kind"].lower()])
        for _, template in pod_templates((thing,)):
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
            pod["metadata"].setdefault("name", "pod")
            kubernetes_validate.validate(pod, version, strict=True)
    else:
        kubernetes_validate.validate(thing, version, strict=True)


def has_image_volume(values: Object) -> bool:
    """Kubernetes knows them from 1.31 on."""
    return values.get("model", {}).get("source") == "image"


@pytest.mark.parametrize("case", CASES)
def test_each_object_passes_the_strict_schema_of_its_kind(case: str):
    for thing in objects(CASES[case]):
        check(thing, NEWEST)


@pytest.mark.slow
@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(30, 37)])
def test_each_object_passes_on_each_version_of_kubernetes(version: str):
    for values in CASES.values():
        if version != "1.30" or not has_image_volume(values):
            for thing in objects(values):
                check(thing, version)


@pytest.mark.parametrize("case", CASES)
def test_objects_have_unique_names_and_stand_in_the_releases_namespace(case: str):
    things = objects(CASES[case])
    keys = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
    assert len(set(keys)) == len(keys)
    for thing in things:
        assert thing["metadata"]["namespace"] == NAMESPACE
        assert len(thing["metadata"]["name"]) <= 63
        assert thing["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE


@pytest.mark.parametrize("case", EXAMPLES)
def test_helm_lints_each_example_without_a_warning(case: str):
    report = helm.lint(CHART, EXAMPLES[case], strict=True, namespace=NAMESPACE)
    assert report["total_charts_linted"] == 1
    found = [message["error"] for message in report["messages"]]
    assert found == ["icon is recommended"] and not report["errors"]


def test_the_packaged_chart_renders_as_the_folder_does(tmp_path: Path):
    values = EXAMPLES["two-gpu-kinds"]
    archive = helm.package(CHART, destination=tmp_path)
    with Chart.load(archive) as packaged:
        assert packaged.render(values, name=RELEASE, namespace=NAMESPACE) == texts(values)


@pytest.mark.parametrize("case", CASES)
def test_templates_give_the_same_bytes_each_time(case: str):
    """All but the secrets that are made once: `lookup` finds nothing without a cluster."""
    first, second = texts(CASES[case]), texts(CASES[case])
    name = "baton/templates/secrets.yaml"
    made = [_without_data(parsed({name: text[name]})) for text in (first, second)]
    assert made[0] == made[1]
    assert {k: v for k, v in first.items() if k != name} == {
        k: v for k, v in second.items() if k != name
    }


def _without_data(secrets: list[Object]) -> list[Object]:
    return [{**secret, "data": sorted(secret.get("data", ()))} for secret in secrets]


def test_with_secrets_of_your_own_every_byte_is_the_same():
    values = {"auth": {"apiKeys": "existingSecret", "existingSecret": "t", "tokensSecret": "s"}}
    assert texts(values) == texts(values)


def test_made_secrets_stay_when_the_release_goes_and_are_not_guessable():
    made = [of_kind(tuple(parsed(texts({}))), "Secret") for _ in range(2)]
    assert made[0] and len(made[0]) == len(made[1]) == 2
    for one, other in zip(*made, strict=True):
        assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        for key, value in one["data"].items():
            assert len(value) >= 40 and value != other["data"][key]


def test_the_readme_the_schema_and_the_rules_are_what_the_tool_writes():
    words = [sys.executable, "tools/helm_chart.py", "--check"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert found.returncode == 0, f"{found.stdout}{found.stderr}run python tools/helm_chart.py"


def test_the_rules_of_the_chart_are_all_those_of_the_prometheus_folder():
    things = objects({"monitoring": {"prometheusRule": {"enabled": True}}})
    [rule] = of_kind(things, "PrometheusRule")
    own = [
        group
        for name in ("recording", "alerts")
        for group in yaml.safe_load((ROOT / "deploy/prometheus" / f"{name}.yaml").read_text())[
            "groups"
        ]
    ]
    assert rule["spec"]["groups"] == own


def test_each_dashboard_becomes_a_labelled_configmap_with_the_files_bytes():
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert files
    things = objects({"monitoring": {"grafanaDashboards": {"enabled": True}}})
    found = {
        name: text
        for thing in of_kind(things, "ConfigMap")
        if thing["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in thing["data"].items()
    }
    assert found == {path.name: path.read_text() for path in files}


def test_images_have_a_tag_or_a_digest():
    for values in CASES.values():
        for _, template in pod_templates(objects(values)):
            spec = template["spec"]
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                assert TAG.match(container["image"]), container["image"]


def test_the_notes_have_a_curl_that_fits_the_keys():
    notes = texts({})["baton/templates/NOTES.txt"]
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in notes
    assert "Bearer $KEY" in notes
    assert "port-forward service/baton-dashboard 8080" in notes
    ray = texts(EXAMPLES["kuberay"])["baton/templates/NOTES.txt"]
    assert "port-forward $HEAD 8080:8082" in ray
    assert "Bearer" not in texts({"auth": {"apiKeys": "open"}})["baton/templates/NOTES.txt"]
