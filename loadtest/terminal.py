"""The run on a terminal: a view that redraws itself, plain lines elsewhere, and the final table."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.live import LiveFigures
from loadtest.result import Distribution, FaultOutcome, RunResult

_MAX_LISTED = 32
_LATENCIES = ("ttft", "tpot", "itl", "e2el", "stall")
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E", "stall": "longest stall"}


class RunView:
    """show() as often as liked; open and close with `with`. Lines come every line_every_s."""

    def __init__(self, console: Console, line_every_s: float = 5.0) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._line_every_s = line_every_s
        self._next_line_s = line_every_s

    def __enter__(self) -> "RunView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, figures: LiveFigures) -> None:
        if self._console.is_terminal:
            self._live.update(live_table(figures), refresh=True)
        elif figures.elapsed_s >= self._next_line_s:
            self._next_line_s += self._line_every_s
            self._console.print(live_line(figures), soft_wrap=True, highlight=False)


def live_line(figures: LiveFigures) -> str:
    pool = f"  pool {figures.pool}" if figures.pool else ""
    return (
        f"{figures.elapsed_s:6.0f} s  {figures.num_ended}/{figures.num_planned} ended  "
        f"{figures.rate:.1f} req/s  {figures.tokens_per_s:.0f} tok/s  "
        f"TTFT p50 {figures.ttft_ms[0]:.0f} p99 {figures.ttft_ms[1]:.0f} ms  "
        f"TPOT p50 {figures.tpot_ms[0]:.1f} p99 {figures.tpot_ms[1]:.1f} ms  "
        f"good {figures.goodput_share:.0%}  errors {figures.num_failed}{pool}"
    )


def live_table(figures: LiveFigures) -> RenderableType:
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    for _ in range(4):
        table.add_column(justify="left", no_wrap=True)
    behind = max(0, figures.num_due - figures.num_ended)
    rows = (
        ("ended", f"{figures.num_ended} of {figures.num_planned}", "under way", f"{behind}"),
        ("rate", f"{figures.rate:.1f} req/s", "output", f"{figures.tokens_per_s:.0f} tok/s"),
        ("TTFT p50 / p99", _pair(figures.ttft_ms), "TPOT p50 / p99", _pair(figures.tpot_ms)),
        ("good", f"{figures.goodput_share:.0%}", "errors", f"{figures.num_failed}"),
        ("pool", figures.pool or "-", "dispatch lag p99", f"{figures.lag_ms:.1f} ms"),
    )
    for row in rows:
        table.add_row(*row)
    bar = ProgressBar(total=max(1, figures.num_planned), completed=figures.num_ended, width=60)
    parts: list[RenderableType] = [Text(f"{figures.elapsed_s:.0f} s, last 10 s below"), bar, table]
    if figures.last_error:
        parts.append(Text(f"last error: {figures.last_error}", style="red"))
    return Group(*parts)


def print_result(console: Console, result: RunResult) -> None:
    """The figures that a person wants first; the files have the rest."""
    facts, overall = result.facts, result.overall
    start_s, end_s = facts.window_s
    console.print(f"{facts.workload} against {facts.url} ({facts.model}, {facts.style})")
    for note in facts.notes:
        console.print(f"  {note}", highlight=False)
    console.print(
        f"window {start_s:.1f} to {end_s:.1f} s: {overall.num_requests} requests, "
        f"{overall.num_ok} answered, {overall.num_requests - overall.num_ok} failed; "
        f"{overall.request_throughput:.2f} req/s, {overall.output_throughput:.1f} output tok/s, "
        f"{_share(overall.num_cached_tokens, overall.num_input_tokens)} of prompt tokens cached",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_latency_table(result))
    if facts.slo:
        console.print(
            f"goodput {overall.goodput:.2f} req/s: {overall.attainment:.1%} met {facts.slo}",
            highlight=False,
        )
    if result.by_class:
        console.print(_class_table(result))
    if result.stages.requests_by_pair:
        pairs = listed([f"{pair}: {n}" for pair, n in result.stages.requests_by_pair.items()])
        console.print(f"workers: {pairs}", highlight=False, soft_wrap=True)
    told = [(name, values) for name, values in result.stages.named if values.count]
    if told:
        stages = ", ".join(f"{name} {values.p50:.1f} / {values.p90:.1f}" for name, values in told)
        console.print(f"stages, p50 / p90 ms: {stages}", highlight=False, soft_wrap=True)
    for reason, count in overall.errors.items():
        console.print(f"[red]{count} x[/red] {reason}", highlight=False, soft_wrap=True)
    print_faults(console, result.faults)
    _print_verdict(console, result)


def listed(words: Sequence[str]) -> str:
    """The first of a long list, and how many more there are; files have them all."""
    more = f" and {len(words) - _MAX_LISTED} more" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more


def print_faults(console: Console, faults: Sequence[FaultOutcome]) -> None:
    for fault in faults:
        if fault.problem:
            console.print(f"{fault.what}: not done, {fault.problem}", highlight=False)
            continue
        recovered = "not seen" if fault.recovery_s is None else f"after {fault.recovery_s:.1f} s"
        back = "not seen" if fault.back_s is None else f"after {fault.back_s:.1f} s"
        console.print(
            f"{fault.what} ({fault.victim}): {fault.num_in_flight} requests under way, "
            f"{fault.num_failed} failed, longest stall {fault.longest_stall_ms:.0f} ms; "
            f"recovery {recovered}, worker back {back}",
            highlight=False,
            soft_wrap=True,
        )


def _print_verdict(console: Console, result: RunResult) -> None:
    lag = result.lag
    console.print(
        f"dispatch lag p50 {lag.p50:.2f}, p99 {lag.p99:.2f}, max {lag.max:.2f} ms; "
        f"generator {result.busiest_share:.0%} of a core, {result.num_connections} connections",
        highlight=False,
    )
    if result.is_partial:
        unsent = f", {result.num_unsent} requests not sent" if result.num_unsent else ""
        console.print(f"[yellow]stopped early{unsent}[/yellow]")
    for warning in result.warnings:
        console.print(f"[yellow]{warning}[/yellow]", highlight=False)
    for reason in result.invalid:
        console.print(f"[bold red]INVALID[/bold red]: {reason}", highlight=False, soft_wrap=True)


def _latency_table(result: RunResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("ms")
    for heading in ("mean", "p50", "p90", "p95", "p99", "max", "count"):
        table.add_column(heading, justify="right")
    for name in _LATENCIES:
        values: Distribution = getattr(result.overall, name)
        if values.count:
            table.add_row(_NAMES[name], *_figures(values))
    return table


def _figures(values: Distribution) -> list[str]:
    shown = (values.mean, values.p50, values.p90, values.p95, values.p99, values.max)
    return [*(f"{value:.2f}" for value in shown), str(values.count)]


def _class_table(result: RunResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("class", "requests", "failed", "TTFT p50", "p99", "TPOT p50", "p99", "good"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, group in result.by_class.items():
        latencies = (group.ttft.p50, group.ttft.p99, group.tpot.p50, group.tpot.p99)
        table.add_row(
            name,
            str(group.num_requests),
            str(group.num_requests - group.num_ok),
            *(f"{value:.1f}" for value in latencies),
            f"{group.attainment:.1%}",
        )
    return table


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f} / {values[1]:.1f} ms"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
