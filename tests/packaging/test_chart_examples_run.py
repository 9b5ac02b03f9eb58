"""What each example starts is real: a process of every container becomes ready, and they serve.

A GPU's place is taken by the CPU and the model's by the bundled one; the Kubernetes API is that of
tests/control_plane. All else is as rendered.
"""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_objects import EXAMPLES, Object, of_kind, parsed, texts
from chart_processes import ANY_CERTIFICATE, LocalPods

sys.path.insert(0, str(Path(__file__).parents[1] / "control_plane"))  # for kube_server

from kube_server import KubeServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]
KEY = "a-key-of-the-test"
KUBERNETES = [name for name, values in EXAMPLES.items() if values.get("mode") != "kuberay"]


def on_a_cpu(values: Object, redis_url: str) -> Object:
    """The example with this host's memory and Redis."""
    values = copy.deepcopy(values)
    for part in (values["workers"], *values.get("pools", ())):
        if part is values["workers"] or "kvMemory" in part:
            part["kvMemory"] = "64MiB"
    values["workers"]["settings"] = {"threads": 1, **values["workers"].get("settings", {})}
    if "url" in values.get("redis", {}):
        values["redis"] = {"url": redis_url}
    return values


def secrets_that_are_there(folder: Path, redis_url: str) -> list[Object]:
    """Those that examples name and the chart does not make."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=baton", "-keyout", "tls.key"]
    subprocess.run([*command, "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    tenants = f'[[tenants]]\nname = "acme"\nkey_sha256 = ["{digest}"]\n'
    tls = {name: (folder / name).read_text() for name in ("tls.crt", "tls.key")}
    contents = {
        "baton-tenants": {"tenants.toml": tenants},
        "baton-tokens": {"cluster-token": "c" * 40, "operator-token": "o" * 40},
        "baton-redis": {"redis-url": redis_url},
        "baton-gateway-tls": tls,
    }
    return [
        {"kind": "Secret", "metadata": {"name": name}, "stringData": data}
        for name, data in contents.items()
    ]


def kubeconfig(folder: Path, url: str) -> str:
    """A file that names the server as a cluster."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": url}}],
        "users": [{"name": "it", "user": {"token": "t"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(content))
    return str(folder / "kubeconfig")


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    server = KubeServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def open_pods(tmp_path: Path, redis_server: Any, kube: KubeServer) -> Iterator[Any]:
    """A function that makes an example's pods; they end with the test."""
    made: list[LocalPods] = []

    def open_(name: str) -> LocalPods:
        values = on_a_cpu(EXAMPLES[name], redis_server.url)
        there = secrets_that_are_there(tmp_path, redis_server.url)
        rendered = parsed(texts(values))
        made_too = {thing["metadata"]["name"] for thing in rendered if thing["kind"] == "Secret"}
        there = [secret for secret in there if secret["metadata"]["name"] not in made_too]
        for pool in of_kind(tuple(rendered), "Deployment"):
            if pool["metadata"]["labels"]["app.kubernetes.io/component"] == "worker":
                kube.add_pool(pool["metadata"]["name"], 1)
        environ = {"BATON_KUBECONFIG": kubeconfig(tmp_path, kube.url)}
        made.append(LocalPods((*rendered, *there), tmp_path / "pods", environ))
        return made[-1]

    yield open_
    for pods in made:
        pods.kill()


def ask(pods: LocalPods, name: str) -> int:
    """The tokens of an answer."""
    values = EXAMPLES[name]
    has_own_key = values.get("auth", {}).get("apiKeys") == "existingSecret"
    key = KEY if has_own_key else pods.secret("baton-api-key", "api-key")
    scheme = "https" if "tlsSecret" in values.get("gateway", {}) else "http"
    model = values.get("model", {}).get("servedName", "baton-demo")
    body: Object = {"model": model, "prompt": "What is a KV cache good for?", "max_tokens": 8}
    body["ignore_eos"] = True
    request = urllib.request.Request(
        f"{scheme}://127.0.0.1:{pods.port('baton-gateway', 8000)}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60, context=ANY_CERTIFICATE) as reply:
        return int(json.load(reply)["usage"]["completion_tokens"])


def has_election(name: str) -> bool:
    control = EXAMPLES[name].get("control", {})
    return bool(control.get("replicas", 1) > 1)


def leader(pods: LocalPods) -> str:
    """Name and address of the one that leads, by the control plane."""
    url = f"http://127.0.0.1:{pods.port('baton-control', 8091)}/api/v1/status"
    with urllib.request.urlopen(url, timeout=30) as reply:
        return str(json.load(reply)["leader"]["holder"])


@pytest.mark.parametrize("name", KUBERNETES)
def test_every_container_of_an_example_becomes_ready_answers_and_ends_by_sigterm(
    name: str, open_pods: Any
) -> None:
    pods = open_pods(name)
    owners = pods.owners
    if "baton-redis" in owners:
        owners.remove("baton-redis")
        pods.start("baton-redis")
    pods.start(*owners)
    assert ask(pods, name) == 8
    address = f"@http://127.0.0.1:{pods.port('baton-control', 8091)}"
    assert leader(pods) == "baton-control-0" + (address if has_election(name) else "")
    for owner in ["baton-dashboard", "baton-gateway", *owners]:
        if owner in owners:
            owners.remove(owner)
            assert pods.probe(owner, "livenessProbe"), pods.log(owner)
            assert pods.stop(owner) == 0, pods.log(owner)
