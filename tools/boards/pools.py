"""Worker by worker: who is short of what."""

from boards.panel import CLUSTER, MODEL, ROLE, WORKER, Board, Panel, Query, Row
from boards.promql import at_gateways, by_worker, of_chosen, quantile, rate, role_gauge, series

_NAME = "{{worker}}"
_FULL = ((0.0, "green"), (0.8, "orange"), (0.95, "red"))
_KV = "baton_worker_kv_blocks"
_HOST_KV = "baton_worker_host_kv_blocks"
_USED = series(_KV, 'state="used"')
_KV_USE = f"{_USED} / ignoring (state) sum without (state) ({series(_KV)})"
_OF_ROLE = 'role=~"$role"'


def _each(expression: str) -> tuple[Query, ...]:
    return (Query(by_worker(expression), _NAME),)


def _steps(q: float) -> Query:
    named = by_worker(rate("baton_worker_step_seconds_bucket"))
    return Query(quantile(q, named, "worker"), f"{_NAME} p{q * 100:.0f}")


_SIZES = Row(
    "Sizes",
    (
        Panel(
            "Workers by role",
            "Registered ones, and what the planner or an operator wants.",
            (
                Query(
                    role_gauge("baton_control_workers", _OF_ROLE),
                    "{{role}}",
                ),
                Query(
                    role_gauge("baton_control_desired_workers", _OF_ROLE),
                    "{{role}}, desired",
                ),
            ),
        ),
        Panel(
            "Workers that change their role",
            "1 while legs of the role before still run.",
            _each(series("baton_worker_flipping")),
            most=1,
        ),
        Panel(
            "Role changes",
            "Flips in the last minutes, by the new role.",
            (
                Query(
                    f"sum by (role) (increase({series('baton_worker_flips_total')}[5m]))",
                    "to {{role}}",
                ),
            ),
            needs="a flip",
        ),
    ),
)

_WORK = Row(
    "Work",
    (
        Panel(
            "Time spent in engine steps",
            "100 % is a worker without an idle moment.",
            _each(rate("baton_worker_busy_seconds_total")),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Step time",
            "p50 and p90 of an engine step. A worker above its neighbours has a slow device.",
            (_steps(0.5), _steps(0.9)),
            unit="s",
        ),
        Panel(
            "Error of predicted step times",
            "Median relative error a worker, as the router sees it. Over 30 % its placements "
            "are guesses.",
            (
                Query(
                    f"max by (worker) ({at_gateways('baton_predictor_error_ratio')})",
                    _NAME,
                ),
            ),
            unit="percentunit",
            steps=((0.0, "green"), (0.3, "orange")),
        ),
        Panel(
            "Running sequences",
            "The batch of each worker.",
            _each(series("baton_worker_running")),
        ),
        Panel(
            "Waiting sequences",
            "Those that wait for their first step.",
            _each(series("baton_worker_waiting")),
        ),
        Panel(
            "Prompt tokens that wait",
            "Uncached ones. One worker with all the queue: affinity; all of them: a small pool.",
            _each(series("baton_worker_waiting_tokens")),
        ),
        Panel(
            "Prompt tokens computed",
            "Prefill's rate of each worker.",
            _each(rate("baton_worker_prefill_tokens_total")),
            unit="tps",
        ),
        Panel(
            "Tokens generated",
            "Decode's rate of each worker.",
            _each(rate("baton_worker_decode_tokens_total")),
            unit="tps",
        ),
        Panel(
            "Guessed tokens that were right",
            "Of those computed. A worker guesses less where this is low, and not at all where "
            "guessing does not pay.",
            _each(
                f"{rate('baton_worker_accepted_draft_tokens_total')} / "
                f"{rate('baton_worker_draft_tokens_total')}"
            ),
            unit="percentunit",
            most=1,
            needs="workers with --speculate",
        ),
        Panel(
            "Prompt tokens found in the cache",
            "Prefix hits of each worker.",
            _each(rate("baton_worker_cached_tokens_total")),
            unit="tps",
            needs="prompts that share a prefix",
        ),
    ),
)

_MEMORY = Row(
    "Memory",
    (
        Panel(
            "KV blocks in use",
            "Referenced blocks over all. Cached blocks without a reference count as free.",
            _each(f"({_KV_USE})"),
            unit="percentunit",
            steps=_FULL,
            most=1,
        ),
        Panel(
            "Tokens in context",
            "Held in KV by the running sequences.",
            _each(series("baton_worker_context_tokens")),
        ),
        Panel(
            "Host tier",
            "Blocks that the KV cache had no room for, of the chosen workers, by state.",
            (Query(f"sum by (state) ({of_chosen(series(_HOST_KV))})", "{{state}}"),),
            stacked=True,
            needs="workers with --host-kv-memory",
        ),
        Panel(
            "Prompts that began in a tier",
            "Per second, of the chosen workers: on the device, on the host, or in part on both.",
            (
                Query(
                    f"sum by (tier) ({of_chosen(rate('baton_worker_prefix_hits_total'))})",
                    "{{tier}}",
                ),
            ),
            unit="reqps",
            needs="workers with --host-kv-memory",
        ),
        Panel(
            "Prompt tokens from the host tier",
            "What came back to each worker's KV cache instead of being computed.",
            _each(rate("baton_worker_restored_tokens_total")),
            unit="tps",
            needs="workers with --host-kv-memory",
        ),
        Panel(
            "KV blocks",
            "Of the chosen workers, by state.",
            (Query(f"sum by (state) ({of_chosen(series(_KV))})", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Preemptions",
            "Sequences a second that were sent back for want of blocks, and computed again.",
            _each(rate("baton_worker_preemptions_total")),
            unit="ops",
        ),
    ),
)

_TABLE = Row(
    "Workers now",
    (
        Panel(
            "Workers",
            "What each has to do, how full its KV pool is, and what it computes on.",
            (
                Query(by_worker(series("baton_worker_running")), "Running"),
                Query(by_worker(series("baton_worker_waiting")), "Waiting"),
                Query(by_worker(f"({_KV_USE})"), "KV in use", "percentunit"),
                Query(by_worker(series("baton_worker_gpus")), "GPUs"),
            ),
            kind="table",
            width=24,
            height=10,
        ),
    ),
)

BOARD = Board(
    "baton-pools",
    "Baton / Pools",
    "Size, work and memory of the workers, one by one.",
    (_SIZES, _WORK, _MEMORY, _TABLE),
    (CLUSTER, MODEL, ROLE, WORKER),
)
