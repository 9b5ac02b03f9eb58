"""An HTTP server that behaves like a Kubernetes API server, as far as Baton talks to one.

Objects have resourceVersions, a write with an old one is a 409, watches stream changes and expire
with 410, a Deployment's controller makes pods and ends those of the lowest deletion cost first.
"""

import contextlib
import json
import queue
import re
import threading
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COST = "controller.kubernetes.io/pod-deletion-cost"
_NS = "/namespaces/(?P<ns>[^/]+)"
_SCALE = re.compile(
    r"/apis/(?P<group>apps|leaderworkerset\.x-k8s\.io)/v1" + _NS
    + r"/(?P<plural>deployments|leaderworkersets)/(?P<name>[^/]+)/scale"
)  # fmt: skip
_POD = re.compile(r"/api/v1" + _NS + r"/pods/(?P<name>[^/]+)")
_LEASE = re.compile(r"/apis/coordination\.k8s\.io/v1" + _NS + r"/leases(?:/(?P<name>[^/]+))?")


class KubeServer:
    """Whoever starts it stops it. All state is under one lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 100
        self.scales: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.faults: deque[tuple[str, int, str]] = deque()  # (method and path part, status, why)
        self.before_write: Any = None  # called once between a client's read and its write
        self._watchers: list[queue.Queue[dict[str, Any] | None]] = []
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"kube": self})
        )
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.end_watches()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    # --- what a test sets up and does --------------------------------------------------------

    def add_pool(self, name: str, replicas: int, plural: str = "deployments") -> None:
        with self.lock:
            self.scales[f"{plural}/{name}"] = {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": {"name": name, "namespace": "serving", "resourceVersion": self._next()},
                "spec": {"replicas": replicas},
                "status": {"replicas": replicas, "selector": f"app={name}"},
            }
            self._reconcile(plural, name)

    def pod_names(self, app: str) -> list[str]:
        with self.lock:
            return sorted(n for n, p in self.pods.items() if p["metadata"]["labels"]["app"] == app)

    def replicas(self, name: str, plural: str = "deployments") -> int:
        with self.lock:
            return int(self.scales[f"{plural}/{name}"]["spec"]["replicas"])

    def set_ready(self, name: str, is_ready: bool, why: str = "") -> None:
        with self.lock:
            pod = self.pods[name]
            pod["status"]["conditions"] = [
                {"type": "Ready", "status": "True" if is_ready else "False"}
            ]
            if why:
                condition = {"type": "PodScheduled", "status": "False", "message": why}
                pod["status"]["conditions"].append(condition)
            self._changed("MODIFIED", pod)

    def age(self, name: str, created: datetime) -> None:
        with self.lock:
            self.pods[name]["metadata"]["creationTimestamp"] = _stamp(created)
            self._changed("MODIFIED", self.pods[name])

    @property
    def num_watches(self) -> int:
        with self.lock:
            return len(self._watchers)

    def end_watches(self, code: int = 0) -> None:
        """Ends every watch; with a code, by an ERROR event of it."""
        with self.lock:
            for watcher in self._watchers:
                if code:
                    error = {"kind": "Status", "code": code, "reason": "Expired", "message": "old"}
                    watcher.put({"type": "ERROR", "object": error})
                watcher.put(None)
            self._watchers.clear()

    # --- what it does by itself --------------------------------------------------------------

    def write_scale(self, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        hook, self.before_write = self.before_write, None
        if hook is not None:
            hook()
        with self.lock:
            scale = self.scales[key]
            if body["metadata"].get("resourceVersion") != scale["metadata"]["resourceVersion"]:
                return 409, failure(
                    409, "the object has been modified; apply to the latest version"
                )
            scale["spec"]["replicas"] = body["spec"]["replicas"]
            scale["metadata"]["resourceVersion"] = self._next()
            plural, _, name = key.partition("/")
            self._reconcile(plural, name)
            return 200, scale

    def delete_pod(self, name: str) -> dict[str, Any]:
        with self.lock:
            pod = self.pods.pop(name)
            self._changed("DELETED", pod)
            self._reconcile("deployments", pod["metadata"]["labels"]["app"])
            return pod

    def patch_pod(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            pod = self.pods[name]
            pod["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
            self._changed("MODIFIED", pod)
            return pod

    def listed(self, selector: str) -> dict[str, Any]:
        app = selector.partition("=")[2]
        with self.lock:
            items = [p for p in self.pods.values() if p["metadata"]["labels"]["app"] == app]
            metadata = {"resourceVersion": str(self.version)}
            return {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}

    def watch(self, since: int) -> "queue.Queue[dict[str, Any] | None]":
        watcher: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with self.lock:
            for pod in self.pods.values():
                if int(pod["metadata"]["resourceVersion"]) > since:
                    watcher.put({"type": "ADDED", "object": json.loads(json.dumps(pod))})
            self._watchers.append(watcher)
        return watcher

    def write_lease(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            known = self.leases.get(name)
            given = body["metadata"].get("resourceVersion")
            if (known is None) is not (given is None) or (
                known is not None and known["metadata"]["resourceVersion"] != given
            ):
                return 409, failure(409, f"lease {name}: the object has been modified")
            body["metadata"]["resourceVersion"] = self._next()
            self.leases[name] = body
            return (201 if known is None else 200), body

    def _reconcile(self, plural: str, name: str) -> None:
        scale = self.scales.get(f"{plural}/{name}")
        own = self.pod_names(name)
        wanted = scale["spec"]["replicas"] if scale else 0
        for _ in range(wanted - len(own)):
            self._create_pod(name, plural)
        costs = {n: int(self.pods[n]["metadata"].get("annotations", {}).get(COST, 0)) for n in own}
        first = sorted(own, key=lambda n: (costs[n], n))
        for pod_name in first[: max(0, len(own) - wanted)]:
            self._changed("DELETED", self.pods.pop(pod_name))

    def _create_pod(self, app: str, plural: str) -> None:
        taken = {int(n.rpartition("-")[2]) for n in self.pod_names(app)}
        number = next(n for n in range(10_000) if n not in taken)
        name = f"{app}-{number}"
        self.pods[name] = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "namespace": "serving",
                "uid": f"uid-{name}-{self.version}",
                "labels": {"app": app},
                "creationTimestamp": _stamp(datetime.now(UTC)),
            },
            "status": {"phase": "Pending", "conditions": []},
        }
        self._changed("ADDED", self.pods[name])

    def _changed(self, kind: str, pod: dict[str, Any]) -> None:
        pod["metadata"]["resourceVersion"] = self._next()
        copy = json.loads(json.dumps(pod))
        for watcher in self._watchers:
            watcher.put({"type": kind, "object": copy})

    def _next(self) -> str:
        self.version += 1
        return str(self.version)


def failure(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: KubeServer

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, format: str, *args: object) -> None:
        """Not logged."""

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        path, _, query = self.path.partition("?")
        watches = "?watch=true" if "watch=true" in query.lower() else ""
        self.kube.requests.append((method, path + watches))
        for fault in tuple(self.kube.faults):
            if fault[0] in f"{method} {path}":
                self.kube.faults.remove(fault)
                return self._answer(fault[1], failure(fault[1], fault[2]))
        if watches:
            return self._stream(query)
        self._answer(*self._route(method, path, query, body))

    def _route(
        self, method: str, path: str, query: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        missing = (404, failure(404, f"{path} is not found"))
        if found := _SCALE.fullmatch(path):
            key = f"{found['plural']}/{found['name']}"
            if key not in self.kube.scales:
                return missing
            with self.kube.lock:
                copy = json.loads(json.dumps(self.kube.scales[key]))
            return (200, copy) if method == "GET" else self.kube.write_scale(key, body)
        return self._route_core(method, path, query, body) or missing

    def _route_core(
        self, method: str, path: str, query: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]] | None:
        if path.endswith("/pods"):
            selector = re.search(r"labelSelector=([^&]*)", query)
            return 200, self.kube.listed(selector[1].replace("%3D", "=") if selector else "")
        if found := _POD.fullmatch(path):
            if found["name"] not in self.kube.pods:
                return None
            if method == "DELETE":
                return 200, self.kube.delete_pod(found["name"])
            return 200, self.kube.patch_pod(found["name"], body)
        if path.endswith("/events"):
            self.kube.events.append(body)
            return 201, body
        if found := _LEASE.fullmatch(path):
            name = found["name"] or body["metadata"]["name"]
            if method == "GET":
                return (200, self.kube.leases[name]) if name in self.kube.leases else None
            return self.kube.write_lease(name, body)
        return None

    def _stream(self, query: str) -> None:
        version = re.search(r"resourceVersion=(\d+)", query)
        watcher = self.kube.watch(int(version[1]) if version else 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while (event := watcher.get()) is not None:
            self._write_chunk(json.dumps(event).encode() + b"\n")
        self._write_chunk(b"")

    def _write_chunk(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)
