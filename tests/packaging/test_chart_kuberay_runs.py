"""The KubeRay example is real: its `baton up` joins a head and a node of Ray, and serves.

Ray's own containers get their command from the KubeRay operator: `ray start` with rayStartParams.
"""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chart_objects import EXAMPLES, Object, of_kind, parsed, texts
from chart_processes import LocalPods

from runtime.lifecycle import free_port

# Ray's own processes take seconds to start and to end, on a busy host minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY = str(Path(sys.executable).parent / "ray")
POD = "baton head"


def example() -> Object:
    """On a CPU, with the bundled model."""
    values = copy.deepcopy(EXAMPLES["kuberay"])
    values["model"] = {"source": "bundled"}
    values["workers"] = {"flavour": "cpu", "gpu": {"count": 0}, "kvMemory": "64MiB"}
    values["kuberay"] |= {"workerCpus": 1, "decode": 1, "settings": {"threads": 1}}
    return values


class RayNodes:
    """A head and one node with four CPUs, as KubeRay starts them. Whoever makes it stops it."""

    def __init__(self, things: tuple[Object, ...], pods: LocalPods, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._pods, self._folder = pods, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        [cluster] = of_kind(things, "RayCluster")
        short = Path("/tmp") / f"ray-{port}"  # sockets have short paths
        words = ["--head", "--port", str(port), "--temp-dir", str(short)]
        words += ["--include-dashboard", "false", "--ray-client-server-port", str(free_port())]
        self._start(words, cluster["spec"]["headGroupSpec"], {"dashboard-host": "127.0.0.1"})
        self._wait_listens(port)
        words = ["--address", self.address, "--num-cpus", "4"]
        self._start(words, cluster["spec"]["workerGroupSpecs"][0], {})

    def _start(self, words: list[str], group: Object, instead: Object) -> None:
        params = group["rayStartParams"] | instead
        flags = [f"--{name}={value}" for name, value in params.items()]
        command = [RAY, "start", "--block", "--disable-usage-stats", *words, *flags]
        command += ["--object-store-memory", str(100 << 20)]
        [container] = [
            one for one in group["template"]["spec"]["containers"] if "ray-" in one["name"]
        ]
        environ = {**os.environ, "OMP_NUM_THREADS": "1", **self._pods.environ(POD, container)}
        with (self._folder / f"ray-{len(self._processes)}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environ))

    def _wait_listens(self, port: int) -> None:
        deadline_s = time.monotonic() + 240
        while not any(
            found.laddr.port == port and found.status == psutil.CONN_LISTEN
            for found in psutil.net_connections("tcp")
        ):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)

    def stop(self) -> None:
        own = [psutil.Process(process.pid) for process in self._processes]
        family = [one for process in own for one in (process, *process.children(recursive=True))]
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        psutil.wait_procs(family, timeout=10)
        for one in family:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPods]:
    things = tuple(parsed(texts(example())))  # with secrets that are made now
    folder = tmp_path_factory.mktemp("kuberay")
    pods = LocalPods(things, folder / "pods")
    nodes = RayNodes(things, pods, folder)
    # A pod finds its head by the files of /tmp/ray; here others may have a Ray of theirs.
    pods.more_environ["RAY_ADDRESS"] = nodes.address
    try:
        pods.start(POD)
        yield pods
    finally:
        pods.kill()
        nodes.stop()


def test_the_pod_beside_the_head_answers_with_the_key_that_was_made(pods: LocalPods) -> None:
    body = {"model": "baton-demo", "prompt": "What is Baton?", "max_tokens": 8, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{pods.port(POD, 8000)}/v1/completions",
        json.dumps(body).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {pods.secret('baton-api-key', 'api-key')}",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert json.load(reply)["usage"]["completion_tokens"] == 8


def test_the_workers_are_those_that_the_values_ask_for(pods: LocalPods) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{pods.port(POD, 8091)}/api/v1/status",
        headers={"Authorization": f"Bearer {pods.secret('baton-tokens', 'operator-token')}"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        found = {pool["role"]: pool["desired"] for pool in json.load(reply)["pools"]}
    assert found == {"prefill": 1, "decode": 1}


def test_it_is_alive_and_ends_by_sigterm_in_its_time(pods: LocalPods) -> None:
    assert pods.probe(POD, "livenessProbe"), pods.log(POD)
    assert pods.stop(POD) == 0, pods.log(POD)
