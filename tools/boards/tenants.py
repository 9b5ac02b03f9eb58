"""Who uses the cluster, and for how much of it."""

from boards.panel import CLUSTER, MODEL, TENANT, Board, Panel, Query, Row
from boards.promql import served, total

_CHOSEN = 'tenant=~"$tenant"'
_TOKENS = "baton_tenant_tokens_total"
_STAGES = "baton_tenant_stage_seconds_total"
_DEVICES = "baton_tenant_device_seconds_total"
_NAME = "{{tenant}}"


def _tokens(kind: str) -> str:
    return total(served(_TOKENS, f'{_CHOSEN},kind="{kind}"'), "tenant")


def _top(expression: str) -> tuple[Query, ...]:
    return (Query(f"topk(10, {expression})", _NAME),)


_RATES = Row(
    "Rates",
    (
        Panel(
            "Requests",
            "That reached a worker or waited for one; the ten largest.",
            _top(total(served("baton_tenant_requests_total", _CHOSEN), "tenant")),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Prompt tokens",
            "The ten largest.",
            _top(_tokens("prompt")),
            unit="tps",
            stacked=True,
        ),
        Panel(
            "Output tokens",
            "The ten largest.",
            _top(_tokens("output")),
            unit="tps",
            stacked=True,
        ),
    ),
)

_COST = Row(
    "What it takes",
    (
        Panel(
            "Prompt tokens found in a cache",
            "Share of a tenant's prompt tokens. Caches are apart unless tenants share a salt.",
            (Query(f"{_tokens('cached')} / {_tokens('prompt')}", _NAME),),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Answers in prefill",
            "Seconds a second: how many of a tenant's requests are in prefill at once.",
            _top(total(served(_STAGES, f'{_CHOSEN},stage="prefill"'), "tenant")),
        ),
        Panel(
            "Answers in decode",
            "Seconds a second: how many of a tenant's answers are being written at once.",
            _top(total(served(_STAGES, f'{_CHOSEN},stage="decode"'), "tenant")),
        ),
        Panel(
            "Devices that prefill",
            "Device seconds a second: how many workers' steps a tenant's prompts take.",
            _top(total(served(_DEVICES, f'{_CHOSEN},stage="prefill"'), "tenant")),
            stacked=True,
        ),
        Panel(
            "Devices that decode",
            "Device seconds a second: how many workers' steps a tenant's answers take.",
            _top(total(served(_DEVICES, f'{_CHOSEN},stage="decode"'), "tenant")),
            stacked=True,
        ),
        Panel(
            "Tokens of the last hour",
            "By tenant and kind; cached ones are among the prompt's.",
            (
                Query(
                    "sum by (tenant, kind) (increase(baton_tenant_tokens_total"
                    '{cluster=~"$cluster",tenant=~"$tenant"}[1h]))',
                    "Tokens",
                ),
            ),
            kind="table",
            width=24,
            height=9,
        ),
    ),
)

BOARD = Board(
    "baton-tenants",
    "Baton / Tenants",
    "Requests, tokens and time by tenant.",
    (_RATES, _COST),
    (CLUSTER, MODEL, TENANT),
)
