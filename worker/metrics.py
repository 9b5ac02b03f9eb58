"""What a worker exports to Prometheus, taken from each engine turn."""

from kv_transfer.pull import PullResult
from runtime.metrics import Metrics
from wire.messages import NO_HOST, HostLoad, LegAccepted, Role, StepTotals, WorkerReport
from worker.outbox import Outbox


class WorkerMeter:
    """One worker's metrics. Sums that the reports carry become counters by their growth."""

    def __init__(self, metrics: Metrics, worker_id: str, model: str, num_gpus: int) -> None:
        self._metrics = metrics
        self._names = {"worker": worker_id, "model": model}
        metrics.gauge("baton_worker_gpus").set(num_gpus)
        self._totals, self._num_preemptions = StepTotals(), 0
        self._host = NO_HOST

    def observe(self, outbox: Outbox) -> None:
        """Counts one turn's steps and pulls and sets the load gauges."""
        histogram = self._metrics.histogram("baton_worker_step_seconds")
        for step in outbox.steps:
            histogram.observe(step.step_s)
        self._count_drafts(outbox)
        for pull in outbox.pulls:
            self._count_pull(pull)
        for events in outbox.events.values():
            for event in events:
                if isinstance(event, LegAccepted):
                    self._count("baton_worker_cached_tokens_total", event.num_cached_tokens)
        for role in outbox.flips:
            self._metrics.counter("baton_worker_flips_total", role=role.value).inc()
        self._count_steps(outbox.report.totals)
        self._count_host(outbox.report.host)
        if outbox.num_preemptions > self._num_preemptions:
            grown = outbox.num_preemptions - self._num_preemptions
            self._num_preemptions = outbox.num_preemptions
            self._count("baton_worker_preemptions_total", grown)
        self.show(outbox.report)

    def _count_drafts(self, outbox: Outbox) -> None:
        """An accepted draft is a token beyond the one that each sequence of a step gives."""
        num_drafts = sum(step.num_drafts for step in outbox.steps)
        if num_drafts:
            num_accepted = sum(step.num_accepted for step in outbox.steps)
            self._count("baton_worker_draft_tokens_total", num_drafts)
            self._count("baton_worker_accepted_draft_tokens_total", num_accepted)
            self._count("baton_worker_decode_tokens_total", num_accepted)

    def _count_pull(self, pull: PullResult) -> None:
        metrics = self._metrics
        if pull.transport:  # else no lane was opened
            moved = metrics.counter("baton_worker_transfer_bytes_total", transport=pull.transport)
            moved.inc(pull.num_bytes)
        if pull.ok:
            metrics.histogram("baton_worker_exposed_seconds").observe(pull.exposed_s)
        if pull.fell_back:
            names = {"wanted": pull.wanted_transport, "used": pull.transport}
            metrics.counter("baton_worker_transport_fallbacks_total", **names).inc()
        if pull.reason is not None:
            reason = pull.reason.value
            metrics.counter("baton_worker_transfer_failures_total", reason=reason).inc()

    def _count_steps(self, totals: StepTotals) -> None:
        seen, self._totals = self._totals, totals
        grown = {
            "baton_worker_steps_total": totals.num_steps - seen.num_steps,
            "baton_worker_busy_seconds_total": totals.step_s - seen.step_s,
            "baton_worker_prefill_steps_total": totals.num_prefill_steps - seen.num_prefill_steps,
            "baton_worker_prefill_tokens_total": totals.num_prefill_tokens
            - seen.num_prefill_tokens,
            "baton_worker_prefill_pairs_total": totals.num_prefill_pairs - seen.num_prefill_pairs,
            "baton_worker_decode_tokens_total": totals.num_decode_tokens - seen.num_decode_tokens,
            "baton_worker_decode_context_tokens_total": totals.num_context_tokens
            - seen.num_context_tokens,
        }
        for name, value in grown.items():
            if value > 0:
                self._count(name, value)

    def _count_host(self, host: HostLoad) -> None:
        seen, self._host = self._host, host
        restored = host.num_restored_tokens - seen.num_restored_tokens
        hits = {
            "device": host.num_device_hits - seen.num_device_hits,
            "host": host.num_host_hits - seen.num_host_hits,
        }
        if restored:
            self._count("baton_worker_restored_tokens_total", restored)
        for tier, count in hits.items():
            if count:
                self._metrics.counter("baton_worker_prefix_hits_total", tier=tier).inc(count)

    def show(self, report: WorkerReport) -> None:
        """Sets the gauges; before the first turn too, so that an idle worker is seen."""
        gauge = self._metrics.gauge
        for role in Role:
            shown = gauge("baton_worker_info", role=role.value, **self._names)
            shown.set(role is report.role)
        gauge("baton_worker_flipping").set(report.flipping)
        gauge("baton_worker_running").set(report.num_running)
        gauge("baton_worker_waiting").set(report.num_waiting)
        gauge("baton_worker_waiting_tokens").set(report.waiting_tokens)
        gauge("baton_worker_context_tokens").set(report.context_tokens)
        gauge("baton_worker_exports").set(report.num_exports)
        gauge("baton_worker_imports").set(report.num_imports)
        gauge("baton_worker_kv_blocks", state="free").set(report.num_free_blocks)
        used = report.num_blocks - report.num_free_blocks
        gauge("baton_worker_kv_blocks", state="used").set(used)
        if report.host.num_blocks:
            used = report.host.num_used_blocks
            gauge("baton_worker_host_kv_blocks", state="used").set(used)
            gauge("baton_worker_host_kv_blocks", state="free").set(report.host.num_blocks - used)

    def _count(self, name: str, value: float) -> None:
        self._metrics.counter(name).inc(value)
