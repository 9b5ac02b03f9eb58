"""What a worker exports to Prometheus, taken from each engine turn."""

from runtime.metrics import Metrics
from worker.outbox import Outbox


def observe(metrics: Metrics, outbox: Outbox) -> None:
    """Counts one turn's steps and pulls and sets the load gauges."""
    for step in outbox.steps:
        metrics.counter("baton_worker_steps_total").inc()
        metrics.histogram("baton_worker_step_seconds").observe(step.step_s)
        metrics.counter("baton_worker_prefill_tokens_total").inc(step.num_prefill_tokens)
        metrics.counter("baton_worker_decode_tokens_total").inc(step.num_decode_tokens)
    for pull in outbox.pulls:
        metrics.counter("baton_worker_transfer_bytes_total", transport=pull.transport).inc(
            pull.num_bytes
        )
        metrics.histogram("baton_worker_exposed_seconds").observe(pull.exposed_s)
        if pull.fell_back:
            names = {"wanted": pull.wanted_transport, "used": pull.transport}
            metrics.counter("baton_worker_transport_fallbacks_total", **names).inc()
        if pull.reason is not None:
            reason = pull.reason.value
            metrics.counter("baton_worker_transfer_failures_total", reason=reason).inc()
    for role in outbox.flips:
        metrics.counter("baton_worker_flips_total", role=role.value).inc()
    report = outbox.report
    metrics.gauge("baton_worker_flipping").set(report.flipping)
    metrics.gauge("baton_worker_running").set(report.num_running)
    metrics.gauge("baton_worker_waiting").set(report.num_waiting)
    metrics.gauge("baton_worker_exports").set(report.num_exports)
    metrics.gauge("baton_worker_imports").set(report.num_imports)
    metrics.gauge("baton_worker_kv_blocks", state="free").set(report.num_free_blocks)
    used = report.num_blocks - report.num_free_blocks
    metrics.gauge("baton_worker_kv_blocks", state="used").set(used)
