"""The pods of the pools as the API server tells of them: a list, then a watch, in a thread."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import urllib3.exceptions
from kubernetes import client, watch

from runtime.log import get_logger

_WATCH_S = 60
_QUICK_S = 5.0  # a watch that ends sooner counts as a failure
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_log = get_logger("control_plane")


@dataclass(frozen=True, slots=True)
class KubePod:
    """One pod. why: what keeps it from being ready, if known.

    changed_s: seconds since 1970 at which it became ready or ceased to be, its creation where it
    has no such condition yet.
    """

    name: str
    uid: str
    changed_s: float
    is_ready: bool = False
    is_ending: bool = False
    why: str = ""


def pod_of(pod: client.V1Pod) -> KubePod:
    conditions = {c.type: c for c in pod.status.conditions or ()}
    ready = conditions.get("Ready")
    changed = ready.last_transition_time if ready is not None else None
    return KubePod(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        changed_s=(changed or pod.metadata.creation_timestamp).timestamp(),
        is_ready=ready is not None and ready.status == "True",
        is_ending=pod.metadata.deletion_timestamp is not None,
        why=_why(pod, conditions.get("PodScheduled")),
    )


def _why(pod: client.V1Pod, scheduled: Any) -> str:
    if scheduled is not None and scheduled.status == "False":
        return str(scheduled.message or scheduled.reason or "not scheduled")
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state else None
        if waiting is not None:
            return ": ".join(text for text in (waiting.reason, waiting.message) if text)
    return ""


class PodWatch:
    """Keeps the pods of one selector. Whoever starts it stops it.

    A watch that the server ends, or whose resourceVersion is too old (410), begins with a new
    list: at once after one that lasted, else after a pause that doubles up to 10 s. While the
    server is silent the pods known last stay. now_s: a monotonic clock. jitter: gives 0 to 1, the
    part of the second half of each pause that is waited.
    """

    def __init__(
        self,
        api: client.CoreV1Api,
        namespace: str,
        selector: str,
        *,
        now_s: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._api = api
        self._now_s = now_s
        self._jitter = jitter
        self._num_quick = 0  # watches in a row that ended too soon
        self._where = {"namespace": namespace, "label_selector": selector}
        self._pods: dict[str, KubePod] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watch: watch.Watch | None = None
        self.num_lists = 0
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name=f"pods {selector}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The thread ends with its current read, which it does not wait for."""
        self._stop.set()
        if self._watch is not None:
            self._watch.stop()

    def pods(self) -> tuple[KubePod, ...]:
        with self._lock:
            return tuple(self._pods[name] for name in sorted(self._pods))

    def _run(self) -> None:
        while not self._stop.is_set():
            begun_s = self._now_s()
            try:
                self._follow(self._list())
                self.trouble = ""
            except client.ApiException as error:
                if error.status != 410:
                    self._tell(f"HTTP {error.status} {error.reason}")
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                self._tell(str(error))
            self._pause(self._now_s() - begun_s)

    def _tell(self, trouble: str) -> None:
        if not self.trouble and not self._stop.is_set():
            _log.warning("pods cannot be watched", reason=trouble, **self._where)
        self.trouble = trouble

    def _pause(self, lasted_s: float) -> None:
        if lasted_s >= _QUICK_S:
            self._num_quick = 0
            return
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._num_quick, 10))
        self._num_quick += 1
        self._stop.wait(pause_s * (1 + self._jitter()) / 2)

    def _list(self) -> str:
        found = self._api.list_namespaced_pod(**self._where, _request_timeout=(3.0, 10.0))
        self.num_lists += 1
        with self._lock:
            self._pods = {pod.metadata.name: pod_of(pod) for pod in found.items}
        self.trouble = ""
        return str(found.metadata.resource_version)

    def _follow(self, version: str) -> None:
        self._watch = watch.Watch()
        stream: Callable[..., Any] = self._watch.stream
        for event in stream(
            self._api.list_namespaced_pod,
            **self._where,
            resource_version=version,
            timeout_seconds=_WATCH_S,
            _request_timeout=(3.0, _WATCH_S + 10.0),
        ):
            if self._stop.is_set():
                return
            pod = event["object"]
            with self._lock:
                if event["type"] == "DELETED":
                    self._pods.pop(pod.metadata.name, None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    self._pods[pod.metadata.name] = pod_of(pod)
