"""What the planner sees, wants and does, and what keeps it from it."""

from boards.panel import CLUSTER, MODEL, ROLE, Board, Panel, Query, Row
from boards.promql import quantile, rate, role_gauge, series, served, total

_PRESSED = ((0.0, "green"), (1.05, "orange"), (1.2, "red"))
_OF_ROLE = 'role=~"$role"'


def _mean(sum_metric: str, count: str = "baton_answers_begun_total") -> str:
    return f"{total(served(sum_metric))} / {total(served(count))}"


def _sharp(metric: str, labels: str, window: str = "5m") -> str:
    return f"increase({series(metric, labels)}[{window}])"


_WANTED = Row(
    "What it wants",
    (
        Panel(
            "Workers: there and wanted",
            "The registry's, and those that the planner or a pin wants.",
            (
                Query(role_gauge("baton_control_workers", _OF_ROLE), "{{role}}"),
                Query(
                    role_gauge("baton_control_desired_workers", _OF_ROLE),
                    "{{role}}, wanted",
                ),
            ),
        ),
        Panel(
            "Pressure",
            "A pool's load over what it carries within its objective. It flips above 1.05.",
            (
                Query(
                    role_gauge("baton_control_pressure_ratio", _OF_ROLE),
                    "{{role}}",
                ),
            ),
            steps=_PRESSED,
        ),
        Panel(
            "Decisions",
            "By action, in five minutes. `baton decisions` has the reason of each.",
            (
                Query(
                    total(_sharp("baton_control_decisions_total", ""), "action"),
                    "{{action}}",
                ),
            ),
            stacked=True,
        ),
    ),
)

_SEEN = Row(
    "What it sees",
    (
        Panel(
            "Load",
            "Requests a second at all gateways of the chosen models.",
            (Query(total(served("baton_requests_accepted_total")), "requests"),),
            unit="reqps",
        ),
        Panel(
            "Mean lengths",
            "Prompt tokens to compute, and tokens of an answer.",
            (
                Query(_mean("baton_uncached_tokens_total"), "uncached prompt"),
                Query(_mean("baton_answer_cached_tokens_total"), "cached prompt"),
                Query(_mean("baton_answer_tokens_total", "baton_answers_total"), "answer"),
            ),
        ),
        Panel(
            "Spread of prompts",
            "Mean square of the uncached length over the square of its mean; queues grow with it.",
            (
                Query(
                    f"{_mean('baton_uncached_token_squares_total')}"
                    f" / ({_mean('baton_uncached_tokens_total')}) ^ 2",
                    "second moment",
                ),
            ),
        ),
        Panel(
            "Age of the gateways' figures",
            "Older than stale_s, the planner holds.",
            (
                Query(
                    f"max({series('baton_control_observation_age_seconds')})",
                    "age",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Heartbeats",
            "One a worker and second.",
            (Query(total(rate("baton_control_beats_total")), "beats"),),
            unit="ops",
        ),
        Panel(
            "Suspect workers",
            "Their figures contradict the gateways' and count nowhere.",
            (Query(f"max({series('baton_control_suspect_workers')})", "workers"),),
            steps=((0.0, "green"), (1.0, "red")),
        ),
    ),
)

_DONE = Row(
    "What comes of it",
    (
        Panel(
            "Orders to workers",
            "Drains, flips and moves handed out in five minutes.",
            (Query(total(_sharp("baton_control_orders_total", ""), "kind"), "{{kind}}"),),
            needs="a drain, a flip or a move",
        ),
        Panel(
            "Operator actions",
            "By name and outcome, in five minutes; `GET /api/v1/audit` says who asked.",
            (
                Query(
                    total(_sharp("baton_control_actions_total", ""), "action", "outcome"),
                    "{{action}}, {{outcome}}",
                ),
            ),
            needs="an operator's action",
        ),
        Panel(
            "Planner actions that failed",
            "Refused or failed in five minutes. `baton decisions` names the outcome.",
            (
                Query(
                    total(_sharp("baton_control_failed_actions_total", ""), "action"),
                    "{{action}}",
                ),
            ),
            needs="a failed action",
        ),
    ),
)

_HEALTH = Row(
    "Health",
    (
        Panel(
            "Control planes that may act",
            "One. With several control planes and an election, none means that its store is away.",
            (Query(total(series("baton_control_is_leader")), "leaders"),),
            steps=((0.0, "red"), (1.0, "green"), (2.0, "red")),
        ),
        Panel(
            "Planner holds",
            "1 while its data is missing or stale, or a clock jumped.",
            (Query(f"max({series('baton_control_planner_held')})", "held"),),
            steps=((0.0, "green"), (1.0, "red")),
            most=1,
        ),
        Panel(
            "Time of a tick",
            "Observation included.",
            (
                Query(quantile(0.5, rate("baton_control_tick_seconds_bucket")), "p50"),
                Query(quantile(0.9, rate("baton_control_tick_seconds_bucket")), "p90"),
            ),
            unit="s",
        ),
        Panel(
            "Workers dropped",
            "Their beats stopped, in five minutes.",
            (Query(total(_sharp("baton_control_expired_total", "")), "dropped"),),
        ),
        Panel(
            "Processes restarted",
            "By the local actuator, in five minutes.",
            (Query(total(_sharp("baton_control_restarts_total", ""), "kind"), "{{kind}}"),),
            needs="a process that ended by itself",
        ),
        Panel(
            "Workers replaced before they were ready",
            "Not registered within ready_timeout_s, in five minutes.",
            (Query(total(_sharp("baton_control_unready_total", ""), "role"), "{{role}}"),),
            needs="a worker that does not start",
        ),
    ),
)

BOARD = Board(
    "baton-planner",
    "Baton / Planner",
    "The planner's view, wishes, actions and health.",
    (_WANTED, _SEEN, _DONE, _HEALTH),
    (CLUSTER, MODEL, ROLE),
)
