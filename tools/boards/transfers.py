"""KV on its way: how much, by what, how much of it a client waits for."""

from boards.panel import CLUSTER, MODEL, ROLE, WORKER, Board, Panel, Query, Row
from boards.promql import by_worker, of_chosen, quantile, rate, series, served, share, total

_EXPOSED = of_chosen(rate("baton_worker_exposed_seconds_bucket"))
_MOVE = "a flip, a drain or `baton migrate` under load"
_LATE = ((0.0, "green"), (0.25, "red"))


_FLOW = Row(
    "Flow",
    (
        Panel(
            "KV pulled, by transport",
            "Bytes a second into the chosen workers.",
            (
                Query(
                    total(of_chosen(rate("baton_worker_transfer_bytes_total")), "transport"),
                    "{{transport}}",
                ),
            ),
            unit="Bps",
            stacked=True,
        ),
        Panel(
            "KV pulled, by worker",
            "A reader far above the others draws all the long prompts.",
            (
                Query(
                    total(by_worker(rate("baton_worker_transfer_bytes_total")), "worker"),
                    "{{worker}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            "Pulls, by transport and outcome",
            "As the gateways hear of them.",
            (
                Query(
                    total(served("baton_transfers_total"), "transport", "outcome"),
                    "{{transport}}, {{outcome}}",
                ),
            ),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Bytes a pull",
            "Mean size of what one pull moved.",
            (
                Query(
                    share(
                        of_chosen(rate("baton_worker_transfer_bytes_total")),
                        of_chosen(rate("baton_worker_exposed_seconds_count")),
                    ),
                    "mean",
                ),
            ),
            unit="bytes",
        ),
        Panel(
            "Published handles",
            "Blocks that a worker keeps until they are pulled or their lease ends.",
            (Query(by_worker(series("baton_worker_exports")), "{{worker}}"),),
        ),
        Panel(
            "Transfers under way",
            "Into each worker.",
            (Query(by_worker(series("baton_worker_imports")), "{{worker}}"),),
        ),
    ),
)

_WAITING = Row(
    "What clients wait for",
    (
        Panel(
            "Exposed transfer time",
            "Time that a sequence waited for KV behind prefill's end. Hidden time is not in it.",
            tuple(Query(quantile(q, _EXPOSED), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)),
            unit="s",
            steps=_LATE,
        ),
        Panel(
            "Exposed transfer time, p90 by worker",
            "One worker above the others: its link.",
            (
                Query(
                    quantile(0.9, by_worker(rate("baton_worker_exposed_seconds_bucket")), "worker"),
                    "{{worker}}",
                ),
            ),
            unit="s",
            steps=_LATE,
        ),
        Panel(
            "Exposed share of the first token's time",
            "Sum of exposed time over the sum of TTFT.",
            (
                Query(
                    share(
                        served("baton_transfer_exposed_seconds_sum"),
                        served("baton_ttft_seconds_sum"),
                    ),
                    "share",
                ),
            ),
            unit="percentunit",
            steps=((0.0, "green"), (0.1, "orange"), (0.3, "red")),
        ),
    ),
)

_FAULTS = Row(
    "Faults and moves",
    (
        Panel(
            "Failed pulls, by reason",
            "Decode computes those prompts again. docs/fabric.md explains each reason.",
            (
                Query(
                    total(of_chosen(rate("baton_worker_transfer_failures_total")), "reason"),
                    "{{reason}}",
                ),
            ),
            unit="ops",
            needs="a failed pull",
        ),
        Panel(
            "Pulls by a worse transport than expected",
            "`baton doctor` on both hosts tells which library or device is missing.",
            (
                Query(
                    total(
                        of_chosen(rate("baton_worker_transport_fallbacks_total")), "wanted", "used"
                    ),
                    "{{wanted}} expected, {{used}} used",
                ),
            ),
            unit="ops",
            needs="a transport that fell back",
        ),
        Panel(
            "Answers that moved, by outcome",
            "From workers that drain or flip, and by `baton migrate`.",
            (Query(total(served("baton_migrations_total"), "outcome"), "{{outcome}}"),),
            unit="ops",
            needs=_MOVE,
        ),
        Panel(
            "Pause of an answer that moved",
            "The gap that clients see in the stream.",
            (
                Query(quantile(0.5, served("baton_migration_pause_seconds_bucket")), "p50"),
                Query(quantile(0.9, served("baton_migration_pause_seconds_bucket")), "p90"),
            ),
            unit="s",
            needs=_MOVE,
        ),
    ),
)

BOARD = Board(
    "baton-transfers",
    "Baton / Transfers",
    "KV transfers between the pools.",
    (_FLOW, _WAITING, _FAULTS),
    (CLUSTER, MODEL, ROLE, WORKER),
)
