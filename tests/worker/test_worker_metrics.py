"""What a worker shows Prometheus."""

from kv_transfer.errors import FailReason
from kv_transfer.pull import PullResult
from runtime.metrics import WORKER_METRICS, Metrics
from wire.messages import Role, WorkerReport
from worker.metrics import WorkerMeter
from worker.outbox import Outbox


def _lines(metrics: Metrics) -> list[str]:
    return metrics.exposition().decode().splitlines()


def test_a_worker_names_itself_its_model_and_its_role_and_counts_its_gpus() -> None:
    metrics = Metrics(WORKER_METRICS)
    WorkerMeter(metrics, "decode-0", "llama", num_gpus=2).show(WorkerReport(role=Role.DECODE))
    lines = _lines(metrics)
    assert 'baton_worker_info{model="llama",role="decode",worker="decode-0"} 1.0' in lines
    assert 'baton_worker_info{model="llama",role="prefill",worker="decode-0"} 0.0' in lines
    assert "baton_worker_gpus 2.0" in lines


def test_preemptions_are_counted_by_their_growth() -> None:
    metrics = Metrics(WORKER_METRICS)
    meter = WorkerMeter(metrics, "decode-0", "llama", num_gpus=0)
    for num_preemptions in (0, 2, 2, 3):
        meter.observe(Outbox(WorkerReport(role=Role.DECODE), num_preemptions=num_preemptions))
    assert "baton_worker_preemptions_total 3.0" in _lines(metrics)


def test_pulls_are_counted_by_transport_reason_and_fallback_and_only_whole_ones_were_exposed() -> (
    None
):
    metrics = Metrics(WORKER_METRICS)
    outbox = Outbox(WorkerReport(role=Role.DECODE))
    outbox.pulls += [
        PullResult(1, True, num_bytes=100, exposed_s=0.5, transport="tcp", wanted_transport="nixl"),
        PullResult(
            2, False, 0, (), 7, transport="shm", wanted_transport="shm", reason=FailReason.CORRUPT
        ),
        PullResult(3, False, reason=FailReason.UNREACHABLE),
    ]
    WorkerMeter(metrics, "decode-0", "llama", num_gpus=0).observe(outbox)
    lines = _lines(metrics)
    assert 'baton_worker_transfer_bytes_total{transport="tcp"} 100.0' in lines
    assert 'baton_worker_transfer_bytes_total{transport="shm"} 7.0' in lines
    assert not [line for line in lines if 'transport=""' in line]
    assert 'baton_worker_transport_fallbacks_total{used="tcp",wanted="nixl"} 1.0' in lines
    assert 'baton_worker_transfer_failures_total{reason="corrupt"} 1.0' in lines
    assert 'baton_worker_transfer_failures_total{reason="unreachable"} 1.0' in lines
    assert "baton_worker_exposed_seconds_count 1.0" in lines
    assert "baton_worker_exposed_seconds_sum 0.5" in lines
