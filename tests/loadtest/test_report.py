"""The report is one file that opens, on its own, and shows what was measured."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtest.assemble import RunContext, assemble
from loadtest.axis import axis_for
from loadtest.body import BodyOptions, PromptStyle
from loadtest.compare import compare
from loadtest.errors import LoadtestError
from loadtest.faults import Fault, Injected
from loadtest.html_report import html, write_html
from loadtest.live import LiveStats
from loadtest.order import Order, plan_workload
from loadtest.plot import Mark, Plot, Series, svg
from loadtest.record import StageTimes
from loadtest.result import RunResult, ServerSample
from loadtest.result_files import flat, read_json, write_json, write_requests
from loadtest.run import Recording, RunSpec
from loadtest.slo import parse_slos
from loadtest.target import Target
from loadtest.terminal import RunView, live_line, print_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def make_result(tools: Any) -> Callable[..., RunResult]:
    """A run with everything in it: classes, errors, stages, faults, a change of the pools."""

    def make(seed: int = 1, rate: float = 10.0) -> RunResult:
        rng = np.random.default_rng(seed)
        records = []
        for n in range(300):
            stages = StageTimes(kind="remote", prefill_worker="p-0", decode_worker="d-0",
                                queue_s=0.01, transfer_s=0.002)  # fmt: skip
            changes: dict[str, Any] = {"class_name": "<b>&chat" if n % 2 else "batch"}
            if n % 50 == 7:
                changes |= {"error": "HTTP 429: <script>alert(1)</script>", "ttft_s": None}
                changes |= {"gaps_s": ()}
            else:
                changes |= {"ttft_s": float(rng.gamma(4, 0.03)), "stages": stages}
            records.append(tools.record(n, n / rate, **changes))
        order = Order(rate=str(rate), requests=300, arrivals="constant")
        body = BodyOptions(model="demo", style=PromptStyle.IDS)
        slos = parse_slos(["ttft:150 tpot:30"])
        spec = RunSpec(Target("h", 1), plan_workload(order), body, slos)
        counts = [(2, 1), (2, 1), (1, 2)]
        samples = [
            ServerSample(
                10.0 * place,
                {
                    'baton_router_workers{role="prefill"}': prefill,
                    'baton_router_workers{role="decode"}': decode,
                },
            )
            for place, (prefill, decode) in enumerate(counts)
        ]
        injected = [Injected(Fault("kill", "prefill", 12.0), 12.0, "p-0", 1.5)]
        recording = Recording(records, samples, injected, stopped_s=31.0)
        return assemble(
            spec, recording, RunContext("2026-01-01", seed, {"cpu": "x"}, "baton loadtest")
        )

    return make


class _Checker(HTMLParser):
    """Elements that close in order, and no address of anything outside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in ("meta", "line", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "circle", "path"):
            return
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_complete(make_result: Callable[..., RunResult]) -> None:
    page = html([("", make_result())])
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.tags
    assert "http:" not in page.replace("http://h:1", "")
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = [ElementTree.fromstring(drawing).get("aria-label") for drawing in drawings]
    assert titles == [
        "Time to first token", "Time per output token", "Gaps between tokens", "Whole answer",
        "SLO attainment against rate", "Requests", "Time to first token", "Time per output token",
        "Output", "Pools",
    ]  # fmt: skip
    for text in (
        "P:D 1:2",
        "kill prefill at 12 s",
        "&lt;script&gt;",
        "SLO 150 ms",
        "p-0 -&gt; d-0",
    ):
        assert text in page


def test_two_runs_are_drawn_over_each_other(make_result: Callable[..., RunResult]) -> None:
    a, b = make_result(1), make_result(2)
    page = html([("A", a), ("B", b)], compare(a, b))
    assert "95 % interval" in page
    assert "Over time: A" in page and "Over time: B" in page


def test_a_sweep_is_one_row_and_one_dot_a_run(make_result: Callable[..., RunResult]) -> None:
    runs = [(f"{rate}/s", make_result(rate, rate)) for rate in (5, 10, 20)]
    page = html(runs)
    assert page.count("Over time") == 1
    drawing = next(
        part for part in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "against rate" in part
    )
    assert drawing.count("<circle") == 3


def test_a_run_without_any_answer_has_a_report(tools: Any) -> None:
    order = Order(rate="10", requests=5, arrivals="constant")
    body = BodyOptions(model="demo", style=PromptStyle.IDS)
    spec = RunSpec(Target("h", 1), plan_workload(order), body, parse_slos(["ttft:1"]))
    failed = [tools.record(0, 0.1, error="cannot connect", ttft_s=None, gaps_s=())]
    for records in ([], failed):
        result = assemble(spec, Recording(records=records), RunContext())
        checker = _Checker()
        checker.feed(html([("", result)]))
        assert checker.open == []
        print_result(Console(quiet=True), result)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_report_opens_in_a_browser(
    make_result: Callable[..., RunResult], tmp_path: Path
) -> None:
    """The browser lays it out: every drawing has a size, and nothing is wider than the page."""
    path = tmp_path / "report.html"
    write_html(path, [("", make_result())])
    probe = (
        "<script>document.title = JSON.stringify({"
        "drawn: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height"
        " > 50 && s.getBBox().width > 100).length,"
        "wide: document.documentElement.scrollWidth > innerWidth})</script></body>"
    )
    path.write_text(path.read_text().replace("</body>", probe))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", profile,
         "--window-size=1200,900", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert '<title>{"drawn":10,"wide":false}</title>' in done.stdout


def test_a_result_comes_back_from_its_file(
    make_result: Callable[..., RunResult], tmp_path: Path
) -> None:
    result = make_result()
    write_json(tmp_path / "r.json", result)
    assert read_json(tmp_path / "r.json") == result


def test_the_file_has_the_peers_keys(make_result: Callable[..., RunResult]) -> None:
    keys = flat(make_result())
    latencies = {
        f"{figure}_{name}_ms"
        for figure in ("mean", "median", "std", "p99")
        for name in ("ttft", "tpot", "itl", "e2el")
    }
    counts = {"completed", "failed", "total_input_tokens", "total_output_tokens", "num_prompts",
              "request_throughput", "request_goodput", "output_throughput",
              "total_token_throughput", "duration", "model_id", "date"}  # fmt: skip
    assert latencies | counts <= set(keys)
    assert (keys["completed"], keys["failed"]) == (294, 6)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"baton_loadtest": {"facts": 3}}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(LoadtestError, match=str(path)):
        read_json(path)


def test_requests_are_written_one_a_line(tools: Any, tmp_path: Path) -> None:
    write_requests(tmp_path / "r.jsonl", [tools.record(1, 1.0), tools.record(0, 0.0)])
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [line.startswith(f'{{"index":{n},') for n, line in enumerate(lines)] == [True, True]
    assert '"gaps_s":[0.02,0.02]' in lines[0]


def test_without_a_terminal_there_are_plain_lines(tools: Any) -> None:
    console = Console(width=200, force_terminal=False, record=True, quiet=False, file=None)
    stats = LiveStats(100, [n / 10 for n in range(100)], parse_slos([]))
    stats.add([tools.record(n, n / 10) for n in range(50)])
    with console.capture() as captured, RunView(console, line_every_s=2.0) as view:
        for tenth in range(60):
            view.show(stats.figures(tenth / 10))
    lines = captured.get().splitlines()
    assert len(lines) == 2
    assert "50/100 ended" in lines[0]
    assert "\x1b" not in captured.get()
    assert live_line(stats.figures(5.0)) in live_line(stats.figures(5.0))


def test_on_a_terminal_the_view_redraws_itself(tools: Any) -> None:
    console = Console(width=100, force_terminal=True, color_system=None, force_interactive=True)
    stats = LiveStats(100, [n / 10 for n in range(100)], parse_slos([]))
    stats.add([tools.record(n, n / 10) for n in range(50)])
    with console.capture() as captured, RunView(console) as view:
        view.show(stats.figures(5.0))
    assert "50 of 100" in captured.get()


@given(st.lists(st.floats(0, 1e7), max_size=20), st.booleans(), st.booleans())
def test_every_value_stands_inside_its_axis(values: list[float], is_log: bool, zero: bool) -> None:
    axis = axis_for(values, 10.0, 110.0, is_log=is_log, zero=zero)
    places = [axis.at(value) for value in values]
    assert all(10.0 <= place <= 110.0 for place in places)
    assert places == sorted(places) or values != sorted(values)
    assert all(10.0 <= axis.at(tick) <= 110.0 for tick in axis.ticks())
    assert len(axis.ticks()) <= 40


heights = st.one_of(st.floats(0, 1e9), st.just(float("nan")))


@given(st.lists(st.tuples(st.floats(0, 1e6), heights), max_size=10), st.text(max_size=20))
def test_any_points_and_names_make_well_formed_drawings(
    points: list[tuple[float, float]], name: str
) -> None:
    printable = "".join(c for c in name if c.isprintable())
    series = [Series(printable, points), Series("b", points, "dots"), Series("c", points, "step")]
    drawing = svg(Plot(printable, "x", "y", series, [Mark(3.0, printable)], is_x_log=True))
    assert ElementTree.fromstring(drawing).tag == "svg"
