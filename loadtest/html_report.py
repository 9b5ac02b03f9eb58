"""One HTML file that needs nothing else: figures, plots, and what was run on what."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from loadtest.compare import Comparison
from loadtest.plot import Plot, svg
from loadtest.report_plots import Named, attainment_plot, distribution_plots, timeline_plots
from loadtest.result import Distribution, FaultOutcome, RunResult
from loadtest.scrape import change

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #66707c; --grid: #e3e7ec; --bg: #fff;
  --card: #f6f8fa; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #8f5fbf; --c4: #b58900;
  --c5: #cc79a7; --c6: #56b4e9; --c7: #7a7a7a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa6b2; --grid: #2b333c;
  --bg: #0f141a; --card: #171e26; --c0: #58a6e0; --c1: #f08a4b; --c2: #3fc79a; --c3: #b48ee0;
  --c4: #d9b13b; --c7: #a8a8a8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--bg);
  margin: 2rem auto; max-width: 1160px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, li { color: var(--dim); margin: .2rem 0; } .bad { color: var(--c1); font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .6rem .9rem; min-width: 8rem; }
.tile b { display: block; font-size: 1.3rem; font-weight: 600; }
.tile span { color: var(--dim); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; height: auto; }
.wide { display: block; margin-bottom: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 500; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .title { font-size: 13px;
  font-weight: 600; } svg .tick, svg .label { fill: var(--dim); } .mid { text-anchor: middle; }
.end { text-anchor: end; } .grid { stroke: var(--grid); } .line { fill: none; stroke-width: 1.8; }
.dashed { stroke-dasharray: 5 4; } .mark { stroke-width: 1.4; stroke-dasharray: 3 3; }
.fault { stroke: var(--c1); } .scaling { stroke: var(--c3); } .limit { stroke: var(--c7); }
text.fault { fill: var(--c1); stroke: none; } text.scaling { fill: var(--c3); stroke: none; }
text.limit { fill: var(--dim); stroke: none; }
""" + "\n".join(
    f".c{n} {{ stroke: var(--c{n}); }} .dot.c{n} {{ fill: var(--c{n}); }}" for n in range(8)
)

_NAMES = (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2el", "E2E"),
          ("stall", "longest stall"))  # fmt: skip


def write_html(path: Path, runs: Sequence[Named], comparisons: Sequence[Comparison] = ()) -> None:
    """runs: names and results; of more than two, as a sweep has, only the first in full."""
    path.write_text(html(runs, comparisons), encoding="utf-8")


def html(runs: Sequence[Named], comparisons: Sequence[Comparison] = ()) -> str:
    first = runs[0][1]
    shown = runs if len(runs) <= 2 else runs[:1]
    sections = [
        _head(first),
        *(_verdict(name if len(runs) > 1 else "", run) for name, run in runs),
        _tiles(first) if len(runs) == 1 else _runs_table(runs),
        _comparison_table(comparisons),
        _section("Latencies", _plot_grid([*distribution_plots(runs), *_attainment(runs)])),
        *(
            _section(f"Over time{_of(name, runs)}", _wide(timeline_plots(run)))
            for name, run in shown
        ),
        *(_section(f"Figures{_of(name, runs)}", _figures(run)) for name, run in shown),
        *(
            _section(f"The server's own metrics{_of(name, runs)}", _server(run))
            for name, run in shown
        ),
        _section("What was run", "".join(_facts(name, run) for name, run in shown)),
    ]
    title = escape(f"baton loadtest: {first.facts.workload}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>"
        f"{''.join(sections)}</body></html>\n"
    )


def _head(run: RunResult) -> str:
    facts = run.facts
    line = f"{facts.url}, model {facts.model}, {facts.date}"
    return f"<h1>{escape(facts.workload)}</h1><p>{escape(line)}</p>"


def _verdict(name: str, run: RunResult) -> str:
    start = f"{name}: " if name else ""
    parts = [f'<p class="bad">{escape(start)}INVALID: {escape(why)}</p>' for why in run.invalid]
    parts += [f"<p>{escape(start + why)}</p>" for why in run.warnings]
    if run.is_partial:
        parts.append(f"<p>{escape(start)}Stopped early, {run.num_unsent} requests not sent.</p>")
    return "".join(parts)


def _tiles(run: RunResult) -> str:
    overall = run.overall
    failed = overall.num_requests - overall.num_ok
    tiles = [
        (f"{overall.request_throughput:.2f}", "requests/s answered"),
        (f"{overall.output_throughput:.0f}", "output tokens/s"),
        (f"{overall.ttft.p50:.0f} / {overall.ttft.p99:.0f} ms", "TTFT p50 / p99"),
        (f"{overall.tpot.p50:.1f} / {overall.tpot.p99:.1f} ms", "TPOT p50 / p99"),
        (f"{failed} of {overall.num_requests}", "failed"),
    ]
    if run.facts.slo:
        tiles.insert(0, (f"{overall.goodput:.2f}", "goodput, requests/s"))
        tiles.insert(1, (f"{overall.attainment:.1%}", f"met {run.facts.slo}"))
    boxes = (f"<div class=tile><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in tiles)
    return f'<div class="tiles">{"".join(boxes)}</div>'


def _runs_table(runs: Sequence[Named]) -> str:
    rows = [
        (
            name,
            f"{run.offered_rate:.2f}",
            f"{run.overall.goodput:.2f}",
            f"{run.overall.attainment:.1%}",
            f"{run.overall.ttft.p50:.1f}",
            f"{run.overall.ttft.p99:.1f}",
            f"{run.overall.tpot.p50:.2f}",
            f"{run.overall.tpot.p99:.2f}",
            str(run.overall.num_requests - run.overall.num_ok),
        )
        for name, run in runs
    ]
    heading = ("run", "offered/s", "goodput/s", "met SLO", "TTFT p50", "p99", "TPOT p50", "p99",
               "failed")  # fmt: skip
    return _table(heading, rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    rows = [
        (
            one.name,
            f"{one.a:.4g}",
            f"{one.b:.4g}",
            f"{one.ratio:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            one.verdict,
        )
        for one in comparisons
    ]
    heading = ("figure", "A", "B", "B / A", "95 % interval", "")
    return _section("B against A", _table(heading, rows))


def _figures(run: RunResult) -> str:
    parts = [_latency_table((name, getattr(run.overall, key)) for key, name in _NAMES)]
    for name, group in run.by_class.items():
        title = f"{name}: {group.num_requests} requests, {group.attainment:.1%} met the SLO"
        parts.append(f"<p>{escape(title)}</p>")
        parts.append(_latency_table((label, getattr(group, key)) for key, label in _NAMES))
    stages = run.stages
    if any(values.count for _, values in stages.named):
        parts += ["<p>Stages, as the server tells them</p>", _latency_table(stages.named)]
    if stages.requests_by_pair:
        pairs = [(pair, str(count)) for pair, count in stages.requests_by_pair.items()]
        parts.append(_table(("prefill -&gt; decode", "requests"), pairs))
    if run.overall.errors:
        errors = [(reason, str(count)) for reason, count in run.overall.errors.items()]
        parts.append(_table(("error", "requests"), errors))
    parts += [f"<p>{escape(_fault_line(fault))}</p>" for fault in run.faults]
    return "".join(parts)


def _server(run: RunResult) -> str:
    rows = [(series, f"{value:.6g}") for series, value in sorted(change(run.server).items())]
    if not rows:
        return ""
    table = _table(("series", "growth of counters, mean of gauges"), rows)
    return f"<details><summary>{len(rows)} series</summary>{table}</details>"


def _latency_table(named: Iterable[tuple[str, Distribution]]) -> str:
    rows = [
        (name, *(f"{v:.2f}" for v in (d.mean, d.p50, d.p90, d.p95, d.p99, d.max)), str(d.count))
        for name, d in named
        if d.count
    ]
    return _table(("ms", "mean", "p50", "p90", "p95", "p99", "max", "count"), rows)


def _fault_line(fault: FaultOutcome) -> str:
    if fault.problem:
        return f"{fault.what}: not done, {fault.problem}"
    recovery = "not seen" if fault.recovery_s is None else f"{fault.recovery_s:.1f} s"
    back = "not seen" if fault.back_s is None else f"{fault.back_s:.1f} s"
    return (
        f"{fault.what} ({fault.victim}): {fault.num_in_flight} requests under way, "
        f"{fault.num_failed} failed, longest stall {fault.longest_stall_ms:.0f} ms, "
        f"recovery {recovery}, process back {back}"
    )


def _facts(name: str, run: RunResult) -> str:
    facts = run.facts
    start_s, end_s = facts.window_s
    rows = [
        ("workload", "; ".join((facts.workload, *facts.notes))),
        ("requests", f"{run.num_sent} sent of {facts.num_planned}, as {facts.style}"),
        ("steady window", f"{start_s:.1f} s to {end_s:.1f} s of {facts.duration_s:.1f} s"),
        ("latency", "from the intended start of a request, so lateness of the generator counts"),
        ("dispatch lag", f"p50 {run.lag.p50:.2f} ms, p99 {run.lag.p99:.2f} ms"),
        (
            "generator",
            f"{facts.num_processes} processes, busiest {run.busiest_share:.0%} of a core",
        ),
        ("seed", str(facts.seed)),
        ("command", facts.command),
        *facts.host.items(),
    ]
    title = f"<p>{escape(name)}</p>" if name else ""
    cells = (f"<li>{escape(key)}: {escape(value)}</li>" for key, value in rows if value)
    return f"{title}<ul>{''.join(cells)}</ul>"


def _attainment(runs: Sequence[Named]) -> list[Plot]:
    plot = attainment_plot(runs)
    return [] if plot is None else [plot]


def _of(name: str, runs: Sequence[Named]) -> str:
    return f": {escape(name)}" if len(runs) > 1 else ""


def _plot_grid(plots: Sequence[Plot]) -> str:
    return f'<div class="plots">{"".join(f"<figure>{svg(plot)}</figure>" for plot in plots)}</div>'


def _wide(plots: Sequence[Plot]) -> str:
    return "".join(f'<div class="wide">{svg(plot)}</div>' for plot in plots)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""
