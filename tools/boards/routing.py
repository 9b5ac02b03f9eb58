"""Where requests go and why, and what the router refuses."""

from boards.panel import Board, Panel, Query, Row
from boards.promql import at_gateways, quantile, served, total

_HIT = served("baton_answer_cached_tokens_total")
_MISS = served("baton_uncached_tokens_total")
_RATIO = "baton_slo_ratio_bucket"
_SATURATED = ((0.0, "green"), (0.8, "orange"), (1.0, "red"))
_SHADOWS = "a policy in --shadow-policies"


def _ratio(kind: str) -> Query:
    buckets = served(_RATIO, f'kind="{kind}"')
    return Query(quantile(0.9, buckets, "objective"), f"{{{{objective}}}}, {kind}")


_PLACEMENT = Row(
    "Placement",
    (
        Panel(
            "Placements by kind",
            "remote: prefill and decode apart. local: one worker does both. degraded: a pool "
            "is empty.",
            (Query(total(served("baton_placements_total"), "kind"), "{{kind}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Prompt tokens found in a cache",
            "Share of the prompt tokens that no worker had to compute.",
            (Query(f"{total(_HIT)} / ({total(_HIT)} + {total(_MISS)})", "hit share"),),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Prompts whose beginning came from a peer",
            "Out of another worker's cache. late, refused, failed: computed instead.",
            (Query(total(served("baton_peer_pulls_total"), "outcome"), "{{outcome}}"),),
            unit="reqps",
            needs="a prefix that only another worker holds",
        ),
        Panel(
            "Blocks in the prefix map",
            "What the router knows of each worker's cache.",
            (
                Query(
                    f"max by (worker) ({at_gateways('baton_prefix_map_blocks')})",
                    "{{worker}}",
                ),
            ),
        ),
        Panel(
            "Workers to place on",
            "As the gateways see them; compare with the registry's on the pools board.",
            (Query(f"min by (role) ({at_gateways('baton_router_workers')})", "{{role}}"),),
        ),
        Panel(
            "Legs placed again, by reason",
            "A worker was lost, refused or failed; at most three times a request.",
            (Query(total(served("baton_retries_total"), "reason"), "{{reason}}"),),
            unit="ops",
            needs="a lost or refusing worker",
        ),
        Panel(
            "Late first tokens asked of others",
            "What the second placements came to, and why others were not made.",
            (
                Query(total(served("baton_hedges_total"), "outcome"), "{{outcome}}"),
                Query(total(served("baton_hedges_refused_total"), "reason"), "not: {{reason}}"),
            ),
            unit="ops",
            needs="--hedge",
        ),
        Panel(
            "Requests without a live worker",
            "After a bound they get 503.",
            (Query(total(at_gateways("baton_requests_without_worker")), "wait"),),
            steps=((0.0, "green"), (1.0, "red")),
        ),
    ),
)

_PREDICTION = Row(
    "Prediction",
    (
        Panel(
            "Error of predictions, p50 by stage",
            "Absolute, of ended requests.",
            (
                Query(
                    quantile(0.5, served("baton_prediction_error_seconds_bucket"), "stage"),
                    "{{stage}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Error of predictions, p90 by stage",
            "A stage above the others is what the profile or the load has wrong.",
            (
                Query(
                    quantile(0.9, served("baton_prediction_error_seconds_bucket"), "stage"),
                    "{{stage}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "p90 of latency over its objective",
            "Predicted at placement, and measured. Far apart: do not trust refusals.",
            (_ratio("measured"), _ratio("predicted")),
            unit="percentunit",
            steps=((0.0, "green"), (1.0, "red")),
        ),
    ),
)

_ADMISSION = Row(
    "Admission",
    (
        Panel(
            "Saturation",
            "The least loaded worker's load over what the objectives allow. Lower classes are "
            "shed from 80 % on.",
            (Query(f"max({at_gateways('baton_saturation_ratio')})", "least loaded worker"),),
            unit="percentunit",
            steps=_SATURATED,
        ),
        Panel(
            "Requests that wait for admission",
            "Ordered by class, tenant and deadline.",
            (Query(total(at_gateways("baton_admission_queued")), "wait"),),
        ),
        Panel(
            "Refused, by reason",
            "shed, predicted: too little capacity. rejected, evicted: the queue is full.",
            (Query(total(served("baton_admission_refused_total"), "reason"), "{{reason}}"),),
            unit="reqps",
            needs="overload",
        ),
    ),
)

_REPLICAS = Row(
    "Replicas and shadows",
    (
        Panel(
            "Routers that share their state",
            "Others that each router heard of in the last 2 s.",
            (Query(f"min({at_gateways('baton_shared_state_peers')})", "peers, the fewest"),),
        ),
        Panel(
            "Placements where a shadow disagrees",
            "Share of those that it was asked about.",
            (
                Query(
                    f"{total(served('baton_shadow_disagreements_total'), 'policy', 'part')}"
                    " / on (policy) group_left () "
                    + total(served("baton_shadow_placements_total"), "policy"),
                    "{{policy}}, {{part}}",
                ),
            ),
            unit="percentunit",
            needs=_SHADOWS,
        ),
        Panel(
            "Predicted seconds by which a shadow differs",
            "A second of load, by stage; sooner or later than the live policy.",
            (
                Query(
                    total(
                        served("baton_shadow_difference_seconds_total"),
                        "policy",
                        "stage",
                        "direction",
                    ),
                    "{{policy}}: {{stage}} {{direction}}",
                ),
            ),
            unit="s",
            needs=_SHADOWS,
        ),
        Panel(
            "Trace lines dropped",
            "The disk did not keep up with --trace-log.",
            (Query(total(served("baton_traces_dropped_total")), "lines"),),
            unit="ops",
        ),
        Panel(
            "Exposed time that requests saw, p90",
            "KV transfer time that prefill did not hide, as the router learns its links.",
            (Query(quantile(0.9, served("baton_transfer_exposed_seconds_bucket")), "p90"),),
            unit="s",
        ),
        Panel(
            "Shared state",
            "1 while routers share loads and placements; 0 without --router-redis, or while "
            "that Redis is away.",
            (Query(f"min({at_gateways('baton_shared_state_up')})", "shared"),),
            most=1,
        ),
    ),
)

BOARD = Board(
    "baton-router",
    "Baton / Router",
    "Placement, prediction and admission.",
    (_PLACEMENT, _PREDICTION, _ADMISSION, _REPLICAS),
)
