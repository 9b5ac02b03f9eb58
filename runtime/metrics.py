"""Every metric's name, kind, labels and meaning, declared once; a process registers its share."""

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

_RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric; `labels` have bounded values (roles, reasons, worker ids), never request ids."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _LATENCY_BUCKETS_S


GATEWAY_METRICS = (
    MetricSpec("baton_gateway_info", "gauge", "1, with the model that this gateway serves; empty for a router alone.", ("model",)),
    MetricSpec("baton_requests_total", "counter", "Requests by endpoint and outcome.", ("endpoint", "outcome")),
    MetricSpec("baton_requests_in_flight", "gauge", "Accepted requests without a terminal event."),
    MetricSpec("baton_ttft_seconds", "histogram", "Time from a request's arrival to its first token."),
    MetricSpec("baton_itl_seconds", "histogram", "Gaps between consecutive tokens sent to a client."),
    MetricSpec("baton_e2e_seconds", "histogram", "Time from a request's arrival to its end."),
    MetricSpec("baton_prompt_tokens_total", "counter", "Prompt tokens of accepted requests."),
    MetricSpec("baton_cached_tokens_total", "counter", "Prompt tokens found in a prefix cache."),
    MetricSpec("baton_output_tokens_total", "counter", "Tokens sent to clients."),
    MetricSpec("baton_tenant_requests_total", "counter", "Requests that reached a worker or waited for one, by tenant; the first 1,000 by name.", ("tenant",)),
    MetricSpec("baton_tenant_tokens_total", "counter", "Tokens by tenant and kind: prompt, cached (of those), output.", ("tenant", "kind")),
    MetricSpec("baton_tenant_stage_seconds_total", "counter", "Seconds that a tenant's answers were in a stage on a worker: prefill, decode.", ("tenant", "stage")),
    MetricSpec("baton_tenant_device_seconds_total", "counter", "A tenant's shares of its workers' steps, by stage: prefill, decode; all shares add up to the time that the devices worked.", ("tenant", "stage")),
    MetricSpec("baton_placements_total", "counter", "Placements by kind: remote, local, degraded.", ("kind",)),
    MetricSpec("baton_retries_total", "counter", "Legs placed again, by reason.", ("reason",)),
    MetricSpec("baton_hedges_total", "counter", "Requests placed a second time beside the first, by outcome: won, lost, failed, cancelled.", ("outcome",)),
    MetricSpec("baton_hedges_refused_total", "counter", "Late first tokens whose requests were not placed a second time, by reason: budget, saturation, no_worker.", ("reason",)),
    MetricSpec("baton_transfers_total", "counter", "KV transfers by transport and outcome.", ("transport", "outcome")),
    MetricSpec("baton_transfer_exposed_seconds", "histogram", "Transfer time that prefill did not hide."),
    MetricSpec("baton_peer_pulls_total", "counter", "Prompts whose beginning was to come from a peer's cache, by outcome: pulled, failed, refused, late; all but the first compute it.", ("outcome",)),
    MetricSpec("baton_migrations_total", "counter", "Running requests moved to another worker, by outcome: moved, taken_over, kept, no_target.", ("outcome",)),
    MetricSpec("baton_migration_pause_seconds", "histogram", "The gap in a stream that its migration made."),
    MetricSpec("baton_router_workers", "gauge", "Workers that the router can place on.", ("role",)),
    MetricSpec("baton_prefix_map_blocks", "gauge", "Blocks that the prefix map knows.", ("worker",)),
    MetricSpec("baton_admission_refused_total", "counter", "Requests refused, by reason: shed, rejected, evicted, predicted.", ("reason",)),
    MetricSpec("baton_admission_queued", "gauge", "Requests that wait for admission."),
    MetricSpec("baton_saturation_ratio", "gauge", "The least loaded worker's load over what the objectives allow; 1 is full."),
    MetricSpec("baton_predictor_error_ratio", "gauge", "Median relative error of a worker's predicted step times.", ("worker",)),
    MetricSpec("baton_prediction_error_seconds", "histogram", "Absolute error of a request's prediction, by stage: ttft, queue, prefill, exposed, tpot.", ("stage",)),
    MetricSpec("baton_requests_accepted_total", "counter", "Valid requests that came in."),
    MetricSpec("baton_requests_without_worker", "gauge", "Requests that wait for a first live worker."),
    MetricSpec("baton_answers_total", "counter", "Answers that ended with at least one token."),
    MetricSpec("baton_answer_tokens_total", "counter", "Tokens of those answers."),
    MetricSpec("baton_answers_begun_total", "counter", "Answers whose first token came; what the sums of prompt tokens below are over."),
    MetricSpec("baton_answer_cached_tokens_total", "counter", "Cached prompt tokens of those answers."),
    MetricSpec("baton_uncached_tokens_total", "counter", "Prompt tokens u of those answers that had to be computed."),
    MetricSpec("baton_local_tokens_total", "counter", "Of those, what decode workers computed by choice: no work of the prefill pool."),
    MetricSpec("baton_uncached_token_squares_total", "counter", "Sum of u^2: the second moment that queues grow with."),
    MetricSpec("baton_prefill_pairs_total", "counter", "Sum of (p + u)^2 - p^2 behind p cached tokens: what attention over them costs."),
    MetricSpec("baton_context_token_steps_total", "counter", "Tokens held in KV, summed over the decode steps of ended answers."),
    MetricSpec("baton_slo_ratio", "histogram", "Latency over its objective, by objective (ttft, tpot) and kind (measured, predicted).", ("objective", "kind"), _RATIO_BUCKETS),
    MetricSpec("baton_ttft_objective_seconds_total", "counter", "Sum of ended answers' TTFT objectives: over the answers, what the planner sizes for."),
    MetricSpec("baton_tpot_objective_seconds_total", "counter", "Sum of ended answers' TPOT objectives."),
    MetricSpec("baton_goodput_total", "counter", "Answers by the objectives they met: both, ttft, tpot, none.", ("met",)),
    MetricSpec("baton_shared_state_up", "gauge", "1 while this router shares loads and placements with its replicas."),
    MetricSpec("baton_shared_state_peers", "gauge", "Other routers that this one heard of in the last 2 s."),
    MetricSpec("baton_shadow_placements_total", "counter", "Placements that a shadow policy was asked about.", ("policy",)),
    MetricSpec("baton_shadow_disagreements_total", "counter", "Those where it chose another worker, by part: prefill, decode.", ("policy", "part")),
    MetricSpec("baton_shadow_difference_seconds_total", "counter", "Predicted seconds by which its choices are sooner or later, by stage: ttft, tpot.", ("policy", "stage", "direction")),
    MetricSpec("baton_traces_dropped_total", "counter", "Lines left out of the trace log, since the disk did not keep up."),
)  # fmt: skip

WORKER_METRICS = (
    MetricSpec("baton_worker_steps_total", "counter", "Engine steps."),
    MetricSpec("baton_worker_step_seconds", "histogram", "Duration of an engine step."),
    MetricSpec("baton_worker_running", "gauge", "Sequences in the running batch."),
    MetricSpec("baton_worker_waiting", "gauge", "Sequences that wait for their first step."),
    MetricSpec("baton_worker_prefill_tokens_total", "counter", "Prompt tokens computed."),
    MetricSpec("baton_worker_decode_tokens_total", "counter", "Tokens generated."),
    MetricSpec("baton_worker_draft_tokens_total", "counter", "Guessed tokens that were computed."),
    MetricSpec("baton_worker_accepted_draft_tokens_total", "counter", "Guessed tokens that became part of an answer."),
    MetricSpec("baton_worker_preemptions_total", "counter", "Sequences sent back to be recomputed."),
    MetricSpec("baton_worker_kv_blocks", "gauge", "KV blocks by state: free (unreferenced: empty or cached) and used.", ("state",)),
    MetricSpec("baton_worker_host_kv_blocks", "gauge", "Slots of the host tier of the prefix cache by state: free, used.", ("state",)),
    MetricSpec("baton_worker_restored_tokens_total", "counter", "Prompt tokens that came back from the host tier."),
    MetricSpec("baton_worker_prefix_hits_total", "counter", "Sequences whose prompt began in a tier of the prefix cache, with a host tier: device, host; those of both count twice.", ("tier",)),
    MetricSpec("baton_worker_info", "gauge", "1 for the worker's role, 0 for the other one, with its id and model.", ("worker", "role", "model")),
    MetricSpec("baton_worker_gpus", "gauge", "GPUs that the worker computes on, or that its profile stands for; 0 on a CPU."),
    MetricSpec("baton_worker_waiting_tokens", "gauge", "Prompt tokens that wait to be computed, cached ones left out."),
    MetricSpec("baton_worker_context_tokens", "gauge", "Tokens that the running sequences hold in KV."),
    MetricSpec("baton_worker_cached_tokens_total", "counter", "Prompt tokens found in this worker's prefix cache."),
    MetricSpec("baton_worker_busy_seconds_total", "counter", "Time spent in engine steps."),
    MetricSpec("baton_worker_prefill_steps_total", "counter", "Engine steps with prompt tokens in them."),
    MetricSpec("baton_worker_prefill_pairs_total", "counter", "Sum of (p + c)^2 - p^2 over prompt chunks of c tokens behind p."),
    MetricSpec("baton_worker_decode_context_tokens_total", "counter", "Tokens held in KV, summed over decode steps."),
    MetricSpec("baton_worker_exports", "gauge", "Published handles that hold blocks."),
    MetricSpec("baton_worker_imports", "gauge", "Transfers into this worker under way."),
    MetricSpec("baton_worker_transfer_bytes_total", "counter", "KV bytes pulled, by transport.", ("transport",)),
    MetricSpec("baton_worker_transfer_failures_total", "counter", "Pulls that failed, by reason.", ("reason",)),
    MetricSpec("baton_worker_transport_fallbacks_total", "counter", "Pulls that went by a worse transport than expected.", ("wanted", "used")),
    MetricSpec("baton_worker_flips_total", "counter", "Changes of the worker's role, by the new one.", ("role",)),
    MetricSpec("baton_worker_flipping", "gauge", "1 while legs of the role before are still running."),
    MetricSpec("baton_worker_exposed_seconds", "histogram", "Time a sequence waited for KV behind prefill's end."),
)  # fmt: skip

CONTROL_METRICS = (
    MetricSpec("baton_control_workers", "gauge", "Registered workers by role.", ("role",)),
    MetricSpec("baton_control_beats_total", "counter", "Heartbeats received."),
    MetricSpec("baton_control_expired_total", "counter", "Workers dropped because their beats stopped."),
    MetricSpec("baton_control_orders_total", "counter", "Orders handed to workers, by kind: drain, flip, migrate.", ("kind",)),
    MetricSpec("baton_control_restarts_total", "counter", "Processes restarted by the local actuator.", ("kind",)),
    MetricSpec("baton_control_desired_workers", "gauge", "Workers of a role that should run: what an external autoscaler follows.", ("role",)),
    MetricSpec("baton_control_actions_total", "counter", "Operator actions by name and outcome: done, dry_run, refused.", ("action", "outcome")),
    MetricSpec("baton_control_pressure_ratio", "gauge", "A pool's load over what it carries within its objective; over 1 it needs more.", ("role",)),
    MetricSpec("baton_control_decisions_total", "counter", "Planner decisions by action: flip, add, remove, hold.", ("action",)),
    MetricSpec("baton_control_failed_actions_total", "counter", "Planner actions that were refused or failed, by action.", ("action",)),
    MetricSpec("baton_control_planner_held", "gauge", "1 while the planner holds for missing or stale data, or a clock that jumped."),
    MetricSpec("baton_control_observation_age_seconds", "gauge", "Age of the gateways' figures that the planner last saw."),
    MetricSpec("baton_control_suspect_workers", "gauge", "Workers whose figures contradict the gateways'."),
    MetricSpec("baton_control_tick_seconds", "histogram", "Time of one planner tick, observation included."),
    MetricSpec("baton_control_is_leader", "gauge", "1 where this control plane may act, else 0."),
    MetricSpec("baton_control_unready_total", "counter", "Workers that were not ready in time and were replaced.", ("role",)),
)  # fmt: skip

ALL_METRICS = GATEWAY_METRICS + WORKER_METRICS + CONTROL_METRICS


class Metrics:
    """The declared metrics of one process. Asking for an undeclared name is our bug (KeyError)."""

    def __init__(self, specs: tuple[MetricSpec, ...]) -> None:
        self._registry = CollectorRegistry()
        self._metrics = {spec.name: self._build(spec) for spec in specs}
        # By name and labels. Gauges are not among them: theirs are taken away with their workers.
        self._counters: dict[tuple[object, ...], Counter] = {}
        self._histograms: dict[tuple[object, ...], Histogram] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        key = name, *labels.items()
        found = self._counters.get(key)
        if found is None:
            metric = self._metrics[name]
            assert isinstance(metric, Counter)
            found = self._counters[key] = metric.labels(**labels) if labels else metric
        return found

    def gauge(self, name: str, **labels: str) -> Gauge:
        metric = self._metrics[name]
        assert isinstance(metric, Gauge)
        return metric.labels(**labels) if labels else metric

    def histogram(self, name: str, **labels: str) -> Histogram:
        key = name, *labels.items()
        found = self._histograms.get(key)
        if found is None:
            metric = self._metrics[name]
            assert isinstance(metric, Histogram)
            found = self._histograms[key] = metric.labels(**labels) if labels else metric
        return found

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _build(self, spec: MetricSpec) -> Counter | Gauge | Histogram:
        if spec.kind == "counter":
            return Counter(spec.name, spec.help, spec.labels, registry=self._registry)
        if spec.kind == "gauge":
            return Gauge(spec.name, spec.help, spec.labels, registry=self._registry)
        return Histogram(
            spec.name, spec.help, spec.labels, registry=self._registry, buckets=spec.buckets
        )
