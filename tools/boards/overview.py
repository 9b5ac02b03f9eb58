"""The first look: is it good enough, what does it cost, where is it short."""

from boards.panel import Board, Panel, Query, Row
from boards.promql import (
    at_gateways,
    by_role,
    of_workers,
    quantile,
    rate,
    role_gauge,
    series,
    served,
    share,
    total,
)

_GOOD = served("baton_goodput_total", 'met="both"')
_GPUS = f"sum({of_workers(series('baton_worker_gpus'))}) > 0"
_WORKERS = f"count({of_workers(series('baton_worker_running'))})"
_KV, _USED = "baton_worker_kv_blocks", 'state="used"'
_ALL_KV = f"sum without (state) ({series(_KV)})"
_ATTAINED = ((0.0, "red"), (0.9, "orange"), (0.97, "green"))
_REFUSED = ((0.0, "green"), (0.01, "orange"), (0.05, "red"))
_FULL = ((0.0, "green"), (0.8, "orange"), (0.95, "red"))


def _latency(metric: str) -> tuple[Query, ...]:
    buckets = served(f"{metric}_bucket")
    return tuple(Query(quantile(q, buckets), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99))


_NOW = Row(
    "Now",
    (
        Panel(
            "Goodput per GPU",
            "Answers a second that met both objectives, over the GPUs of all workers; over the "
            "workers where none has a GPU.",
            (Query(f"{total(_GOOD)} / ({_GPUS} or {_WORKERS})"),),
            unit="reqps",
            kind="stat",
            width=4,
            height=5,
        ),
        Panel(
            "Both objectives met",
            "Share of the answers that met their objectives of TTFT and of TPOT.",
            (Query(share(_GOOD, served("baton_goodput_total"))),),
            unit="percentunit",
            kind="stat",
            width=4,
            height=5,
            steps=_ATTAINED,
            most=1,
        ),
        Panel(
            "Requests",
            "Valid requests that came in.",
            (Query(total(served("baton_requests_accepted_total"))),),
            unit="reqps",
            kind="stat",
            width=4,
            height=5,
        ),
        Panel(
            "Tokens sent",
            "Tokens a second that clients got.",
            (Query(total(served("baton_output_tokens_total"))),),
            unit="tps",
            kind="stat",
            width=4,
            height=5,
        ),
        Panel(
            "Refused",
            "Share of the valid requests that got 429 in place of an answer.",
            (
                Query(
                    f"({total(served('baton_admission_refused_total'))} or vector(0))"
                    f" / {total(served('baton_requests_accepted_total'))}"
                ),
            ),
            unit="percentunit",
            kind="stat",
            width=4,
            height=5,
            steps=_REFUSED,
        ),
        Panel(
            "Prefill : decode",
            "Registered workers by role.",
            (Query(role_gauge("baton_control_workers"), "{{role}}"),),
            kind="stat",
            width=4,
            height=5,
        ),
    ),
)

_OBJECTIVES = Row(
    "Objectives",
    (
        Panel(
            "Time to the first token",
            "From a request's arrival to its first token.",
            _latency("baton_ttft_seconds"),
            unit="s",
        ),
        Panel(
            "Gaps between tokens",
            "Between consecutive tokens sent to a client.",
            _latency("baton_itl_seconds"),
            unit="s",
        ),
        Panel("Time to the end", "Of whole requests.", _latency("baton_e2e_seconds"), unit="s"),
        Panel(
            "Answers by the objectives they met",
            "Only TTFT met: decode is short of workers. Only TPOT met: prefill is.",
            (Query(total(served("baton_goodput_total"), "met"), "{{met}}"),),
            unit="reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "p90 of latency over its objective",
            "Over 1, more than a tenth of the answers miss it. The planner acts on these two.",
            (
                Query(
                    quantile(0.9, served("baton_slo_ratio_bucket", 'kind="measured"'), "objective"),
                    "{{objective}}",
                ),
            ),
            unit="percentunit",
            width=12,
            steps=((0.0, "green"), (1.0, "red")),
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        Panel(
            "Requests by outcome",
            "As they ended.",
            (Query(total(served("baton_requests_total"), "outcome"), "{{outcome}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Tokens",
            "What was computed, what a prefix cache saved, what was sent.",
            (
                Query(total(served("baton_uncached_tokens_total")), "prompt, computed"),
                Query(total(served("baton_answer_cached_tokens_total")), "prompt, cached"),
                Query(total(served("baton_output_tokens_total")), "output"),
            ),
            unit="tps",
        ),
        Panel(
            "Requests under way",
            "In flight at the gateways, and those of them that wait for admission.",
            (
                Query(total(at_gateways("baton_requests_in_flight")), "in flight"),
                Query(total(at_gateways("baton_admission_queued")), "wait"),
            ),
        ),
    ),
)

_POOLS = Row(
    "Pools",
    (
        Panel(
            "KV blocks in use",
            "Referenced blocks over all, by role. Over 90 % counts as pressure.",
            (
                Query(
                    f"{by_role(series(_KV, _USED))} / {by_role(_ALL_KV)}",
                    "{{role}}",
                ),
            ),
            unit="percentunit",
            steps=_FULL,
            most=1,
        ),
        Panel(
            "Time spent in engine steps",
            "A pool's mean; 100 % is a pool without an idle moment.",
            (
                Query(
                    by_role(rate("baton_worker_busy_seconds_total")).replace("sum by", "avg by", 1),
                    "{{role}}",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Prompt tokens that wait",
            "Uncached ones, queued at the workers of a role.",
            (Query(by_role(series("baton_worker_waiting_tokens")), "{{role}}"),),
        ),
        Panel(
            "Firing alerts",
            "docs/runbooks.md has an entry for each.",
            (
                Query(
                    "sum by (alertname, severity) "
                    '(ALERTS{alertname=~"Baton.+",alertstate="firing",cluster=~"$cluster"})',
                    "Series",
                ),
            ),
            kind="table",
            width=24,
            height=6,
            needs="a firing alert",
        ),
    ),
)

BOARD = Board(
    "baton-overview",
    "Baton / Overview",
    "Goodput, objectives, load and pools of a cluster.",
    (_NOW, _OBJECTIVES, _LOAD, _POOLS),
)
