"""Runs what the chart's containers run, as processes of this host.

Commands, arguments, environment and files are those that Helm rendered. Only what names the
cluster's machines is rewritten: host names, ports, and the folders that volumes are mounted at.
"""

import base64
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from chart_objects import NAMESPACE, ROOT, Object, named, of_kind, pod_templates

from runtime.lifecycle import free_port
from runtime.settings import user_cache_dir

READY_TIMEOUT_S = 90.0
_POLL_S = 0.05
_OWNERS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "RayCluster")
ANY_CERTIFICATE = ssl._create_unverified_context()  # the kubelet's probes check none


def _own_container(pod: Object) -> Object:
    [found] = [one for one in pod["containers"] if not one["name"].startswith("ray-")]
    return dict(found)


class LocalPods:
    """Whoever makes it stops it. Ray's own containers, which KubeRay gives a command, are not run.

    things: rendered objects of one release, and Secrets that are there before it. environ:
    variables of every process beside its own, for what stands in a pod without a variable.
    """

    def __init__(
        self, things: tuple[Object, ...], folder: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._things = things
        self._folder = folder
        self.more_environ = dict(environ or {})
        self._processes: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._ports: dict[tuple[str, int], int] = {}
        for owner, container in self._containers():
            ports = [port["containerPort"] for port in container["ports"]]
            for port in ports:
                self._ports[(owner, port)] = free_port()

    def _containers(self) -> list[tuple[str, Object]]:
        return [(owner, _own_container(pod)) for owner, pod in self._pods().items()]

    def _pods(self) -> dict[str, Object]:
        return {
            owner.partition("/")[2]: template["spec"]
            for owner, template in pod_templates(tuple(of_kind(self._things, *_OWNERS)))
            if any(not one["name"].startswith("ray-") for one in template["spec"]["containers"])
        }

    @property
    def owners(self) -> list[str]:
        return list(self._pods())

    def port(self, owner: str, port: int) -> int:
        return self._ports[(owner, port)]

    def secret(self, name: str, key: str) -> str:
        secret = named(self._things, "Secret", name)
        if key in secret.get("stringData", {}):
            return str(secret["stringData"][key])
        return base64.b64decode(secret["data"][key]).decode()

    def environ(self, owner: str, container: Object) -> dict[str, str]:
        """The variables of one of the owner's containers, with this host's folders."""
        return self._environ(owner, container, self._folder / owner)

    def start(self, *owners: str) -> None:
        """Starts the pods' containers and waits until their startup and readiness probes pass."""
        for owner in owners:
            self._launch(owner)
        for owner in owners:
            self._wait_ready(owner)

    def _launch(self, owner: str) -> None:
        pod = self._pods()[owner]
        container = _own_container(pod)
        folder = self._folder / owner
        self._mount(owner, pod, folder)
        words = container.get("command") or [sys.executable, "-m", "baton"]
        words = [*words, *container.get("args", ())]
        words = [self._local(owner, word, folder) for word in words]
        environ = {**os.environ, **self.more_environ, "OMP_NUM_THREADS": "1"}
        environ |= self._environ(owner, container, folder)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(words, env=environ, stdout=log, stderr=log, cwd=ROOT)
        self._processes[owner] = (process, pod.get("terminationGracePeriodSeconds", 30))

    def _wait_ready(self, owner: str) -> None:
        process, container = self._processes[owner][0], dict(self._containers())[owner]
        deadline = time.monotonic() + READY_TIMEOUT_S
        for kind in ("startupProbe", "readinessProbe"):
            while not self._passes(owner, container, container[kind]):
                assert process.poll() is None, f"{owner} ended: {self.log(owner)}"
                assert time.monotonic() < deadline, f"{owner}: {kind} fails: {self.log(owner)}"
                time.sleep(_POLL_S)

    def log(self, owner: str) -> str:
        return (self._folder / owner / "log").read_text()[-4000:]

    def probe(self, owner: str, kind: str) -> bool:
        container = dict(self._containers())[owner]
        return self._passes(owner, container, container[kind])

    def stop(self, owner: str) -> int:
        """SIGTERM, as the kubelet sends; the exit status. Raises when it takes too long."""
        process, grace_s = self._processes.pop(owner)
        process.send_signal(signal.SIGTERM)
        return process.wait(grace_s)

    def kill(self) -> None:
        for process, _ in self._processes.values():
            process.kill()
            process.wait()

    def _mount(self, owner: str, pod: Object, folder: Path) -> None:
        """Volumes of files become folders."""
        for volume in pod["volumes"]:
            target = folder / volume["name"]
            target.mkdir(parents=True)
            sources = volume.get("projected", {}).get("sources", [volume])
            for source in sources:
                if "configMap" in source:
                    files = named(self._things, "ConfigMap", source["configMap"]["name"])["data"]
                    for name, text in files.items():
                        (target / name).write_text(self._local(owner, text, folder))
                if "secret" in source:
                    name = source["secret"]["secretName"]
                    keys = named(self._things, "Secret", name).get("stringData", ())
                    whole = [{"key": key, "path": key} for key in keys]
                    for item in source["secret"].get("items", whole):
                        (target / item["path"]).write_text(self.secret(name, item["key"]))

    def _environ(self, owner: str, container: Object, folder: Path) -> dict[str, str]:
        fields = {"metadata.name": f"{owner}-0", "status.podIP": "127.0.0.1"}
        environ = {}
        for entry in container.get("env", ()):
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                value = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                value = self.secret(reference["name"], reference["key"])
            else:
                value = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], entry["value"])
            environ[entry["name"]] = self._local(owner, value, folder)
        return environ

    def _local(self, owner: str, text: str, folder: Path) -> str:
        """The text with this host's addresses, ports and folders."""
        for service in of_kind(self._things, "Service"):
            name = service["metadata"]["name"]
            target = name.removesuffix("-peers")
            for port in service["spec"]["ports"]:
                local = self._service_port(target, port)
                for host in (f"{target}-0.{name}.{NAMESPACE}.svc", f"{name}.{NAMESPACE}.svc"):
                    text = text.replace(f"{host}:{port['port']}", f"127.0.0.1:{local}")
        for (name, port), local in self._ports.items():
            if name == owner:
                text = text.replace(f"port = {port}", f"port = {local}")
                text = str(local) if text == str(port) else text
        folders = {
            "/etc/baton-tenants": folder / "tenants",
            "/etc/baton-tls": folder / "tls",
            "/etc/baton": folder / "settings",
            "/var/lib/baton": folder / "audit",
            "/opt/baton/demo_model": ROOT / "baton" / "demo_model",
            "/cache/baton": user_cache_dir(),
            "/cache": folder / "cache",
        }
        text = re.sub(r"/models/model[-\w/.]*", str(ROOT / "baton" / "demo_model"), text)
        for path, local_path in folders.items():
            text = text.replace(path, str(local_path))
        return str(folder / "tmp") if text == "/tmp" else text.replace("0.0.0.0", "127.0.0.1")

    def _service_port(self, owner: str, port: Object) -> int:
        for name, container in self._containers():
            if name == owner:
                numbers = {p["name"]: p["containerPort"] for p in container["ports"]}
                return self._ports[(owner, numbers[port["targetPort"]])]
        return 0  # of several pools: nobody is called by it

    def _passes(self, owner: str, container: Object, probe: Object) -> bool:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if "exec" in probe:
            words = [self._local(owner, word, self._folder) for word in probe["exec"]["command"]]
            return subprocess.run(words, capture_output=True).returncode == 0
        action = probe.get("httpGet") or probe["tcpSocket"]
        local = self._ports[(owner, ports[action["port"]])]
        try:
            if "tcpSocket" in probe:
                socket.create_connection(("127.0.0.1", local), 1).close()
                return True
            url = f"{action.get('scheme', 'HTTP').lower()}://127.0.0.1:{local}{action['path']}"
            timeout_s = probe["timeoutSeconds"]
            with urllib.request.urlopen(url, timeout=timeout_s, context=ANY_CERTIFICATE) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False
