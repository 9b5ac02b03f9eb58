"""What each request used, for its tenant's bill: as metrics, and as a line of a log."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from router.output import RequestTrace
from runtime.clock import Clock, wall_time_s
from runtime.log import get_logger
from runtime.metrics import Metrics

MAX_TENANT_LABELS = 1000
_STAGE_SECONDS = "baton_tenant_stage_seconds_total"
_DEVICE_SECONDS = "baton_tenant_device_seconds_total"
_NOBODY, _OTHERS = "anyone", "others"
_log = get_logger("gateway")


class UsageRecord(msgspec.Struct, frozen=True):
    """One line of the log, written when the request has ended.

    time: of its end, in seconds since 1970. cached_tokens: of prompt_tokens, those that were not
    computed. prefill_s, decode_s: how long its answers were in a stage on a worker, beside others
    that ran there at the same time; attempts that were lost do not count. prefill_device_s,
    decode_device_s: its shares of the workers' steps, over all attempts: those of all requests add
    up to the time that the devices worked.
    """

    time: float
    request_id: str
    tenant: str
    endpoint: str
    model: str
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_s: float
    decode_s: float
    prefill_worker: str
    decode_worker: str
    prefill_device_s: float = 0.0
    decode_device_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Used:
    """What one request took; traces: of its answers, as far as there are any."""

    request_id: str
    model: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    traces: Sequence[RequestTrace]


class UsageLog:
    """JSON lines, appended one by one; close() ends its thread.

    A line is with the system when the answer's end is, so a killed process loses none; it is
    forced to the disk within fsync_s, so a host that loses power loses the lines since then.
    At max_bytes the file is renamed, with the time behind its name, and begun anew.
    """

    def __init__(self, path: Path, max_bytes: int, clock: Clock, fsync_s: float = 1.0) -> None:
        """Raises OSError for a file that cannot be written."""
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._fsync_s = fsync_s
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="usage")
        self._syncing: Future[None] | None = None
        self._synced_s = clock.now()
        self._is_failing = False
        self._fd = self._open()

    def write(self, record: UsageRecord) -> None:
        """A log that cannot be written is told once, and answers go on."""
        try:
            os.write(self._fd, msgspec.json.encode(record) + b"\n")
            if os.fstat(self._fd).st_size >= self._max_bytes:
                self._rotate()
        except OSError as error:
            if not self._is_failing:
                _log.error("the usage log cannot be written", reason=str(error))
            self._is_failing = True
            return
        self._is_failing = False
        self._sync_now_and_then()

    def close(self) -> None:
        self._syncer.shutdown(wait=True)
        os.fsync(self._fd)
        os.close(self._fd)

    def _sync_now_and_then(self) -> None:
        now_s = self._clock.now()
        is_running = self._syncing is not None and not self._syncing.done()
        if now_s - self._synced_s >= self._fsync_s and not is_running:
            self._synced_s = now_s
            self._syncing = self._syncer.submit(os.fsync, self._fd)

    def _rotate(self) -> None:
        if self._syncing is not None:
            self._syncing.result()  # before its file is closed
        os.fsync(self._fd)
        os.close(self._fd)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(wall_time_s()))
        number = sum(1 for _ in self._path.parent.glob(f"{self._path.name}.*"))
        self._path.rename(self._path.with_name(f"{self._path.name}.{stamp}-{number:06d}"))
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class UsageMeter:
    """Counts each request for its tenant; the labels are bounded whatever the tenants' number."""

    def __init__(self, metrics: Metrics, log: UsageLog | None) -> None:
        self._metrics = metrics
        self._log = log
        self._labels: set[str] = set()

    def take(self, tenant: str, endpoint: str, outcome: str, used: Used) -> None:
        prefill_s = sum(trace.prefill_s for trace in used.traces)
        decode_s = sum(_decode_s(trace, used) for trace in used.traces)
        prefill_device_s = sum(trace.prefill_device_s for trace in used.traces)
        decode_device_s = sum(trace.decode_device_s for trace in used.traces)
        label = self._label(tenant)
        self._count(label, used)
        self._count_seconds(_STAGE_SECONDS, label, prefill_s, decode_s)
        self._count_seconds(_DEVICE_SECONDS, label, prefill_device_s, decode_device_s)
        if self._log is None:
            return
        last = used.traces[-1] if used.traces else None
        self._log.write(
            UsageRecord(
                time=round(wall_time_s(), 3),
                request_id=used.request_id,
                tenant=tenant,
                endpoint=endpoint,
                model=used.model,
                outcome=outcome,
                prompt_tokens=used.num_prompt_tokens,
                cached_tokens=used.num_cached_tokens,
                output_tokens=used.num_output_tokens,
                prefill_s=round(prefill_s, 6),
                decode_s=round(decode_s, 6),
                prefill_worker=last.prefill_worker if last else "",
                decode_worker=last.decode_worker if last else "",
                prefill_device_s=round(prefill_device_s, 6),
                decode_device_s=round(decode_device_s, 6),
            )
        )

    def _count(self, tenant: str, used: Used) -> None:
        tokens = {
            "prompt": used.num_prompt_tokens,
            "cached": used.num_cached_tokens,
            "output": used.num_output_tokens,
        }
        self._metrics.counter("baton_tenant_requests_total", tenant=tenant).inc()
        for kind, number in tokens.items():
            self._metrics.counter("baton_tenant_tokens_total", tenant=tenant, kind=kind).inc(number)

    def _count_seconds(self, name: str, tenant: str, prefill_s: float, decode_s: float) -> None:
        for stage, seconds in (("prefill", prefill_s), ("decode", decode_s)):
            self._metrics.counter(name, tenant=tenant, stage=stage).inc(max(0.0, seconds))

    def _label(self, tenant: str) -> str:
        name = tenant or _NOBODY
        if name not in self._labels and len(self._labels) >= MAX_TENANT_LABELS:
            return _OTHERS
        self._labels.add(name)
        return name


def _decode_s(trace: RequestTrace, used: Used) -> float:
    """The mean time of a token times the tokens behind the first; several answers share evenly."""
    num_tokens = used.num_output_tokens / len(used.traces)
    return trace.tpot_s * max(0.0, num_tokens - 1)
