"""What the chart starts is real: its containers' commands run here, become ready, and serve."""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from chart_objects import EXAMPLES, parsed, texts
from chart_processes import LocalPods

WORKERS = ("baton-prefill", "baton-decode")


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPods]:
    """The trial's pods, each ready by its own probes."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    things = tuple(parsed(texts(EXAMPLES["cpu-trial"])))  # with secrets that are made now
    pods = LocalPods(things, tmp_path_factory.mktemp("pods"))
    try:
        pods.start("baton-redis")
        pods.start("baton-control", *WORKERS, "baton-gateway", "baton-dashboard")
        wait_for_both_workers(pods)
        yield pods
    finally:
        pods.kill()


def wait_for_both_workers(pods: LocalPods) -> None:
    """A gateway is ready with the first worker."""
    url = f"http://127.0.0.1:{pods.port('baton-gateway', 8000)}/readyz"
    deadline = time.monotonic() + 30
    num_workers = 0
    while num_workers < len(WORKERS):
        assert time.monotonic() < deadline, pods.log("baton-gateway")
        with urllib.request.urlopen(url, timeout=10) as reply:
            num_workers = json.load(reply)["workers"]
        time.sleep(0.05)


def ask(pods: LocalPods, key: str) -> dict:
    body = {
        "model": "baton-demo",
        "messages": [{"role": "user", "content": "Please tell me, what is a KV cache good for?"}],
        "max_tokens": 24,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{pods.port('baton-gateway', 8000)}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return {**json.load(reply), "headers": dict(reply.headers)}


def test_the_trial_answers_with_the_key_that_was_made(pods: LocalPods):
    answer = ask(pods, pods.secret("baton-api-key", "api-key"))
    assert answer["choices"][0]["message"]["content"]
    assert answer["model"] == "baton-demo"
    assert answer["headers"]["x-baton-decode-worker"] in {f"{owner}-0" for owner in WORKERS}


def test_the_trial_refuses_another_key(pods: LocalPods):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(pods, "bt-of-nobody")
    caught.value.close()
    assert caught.value.code == 401


def test_the_control_plane_knows_the_workers_by_their_pods_names(pods: LocalPods):
    url = f"http://127.0.0.1:{pods.port('baton-control', 8091)}/api/v1/status"
    with urllib.request.urlopen(url, timeout=10) as reply:
        status = json.load(reply)
    assert {"baton-prefill-0", "baton-decode-0"} <= set(json.dumps(status).split('"'))


@pytest.mark.parametrize("owner", [*WORKERS, "baton-control"])
def test_metrics_stand_on_the_port_that_is_scraped(pods: LocalPods, owner: str):
    url = f"http://127.0.0.1:{pods.port(owner, 9100)}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert b"baton_" in reply.read()


def test_every_process_is_alive_and_ends_by_sigterm_in_its_time(pods: LocalPods):
    owners = ("baton-dashboard", "baton-gateway", *WORKERS, "baton-control")
    for owner in owners:
        assert pods.probe(owner, "livenessProbe"), pods.log(owner)
    for owner in owners:
        assert pods.stop(owner) == 0, pods.log(owner)
