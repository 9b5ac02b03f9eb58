"""The shipped dashboards: as the script writes them, well laid out, on declared metrics."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.metrics import ALL_METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana"
BOARDS = sorted(FOLDER.glob("*.json"))
SPECS = {spec.name: spec for spec in ALL_METRICS}
OF_SCRAPES = {"cluster", "instance", "le"}
UNITS = {"short", "s", "reqps", "tps", "ops", "percentunit", "Bps", "bytes"}
PROVIDED = {"cluster", "model", "role", "worker", "tenant"}


def load(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: dict[str, Any]) -> Iterator[str]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["expr"]


@pytest.fixture(params=BOARDS, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_the_files_are_what_the_script_writes_also_in_the_chart() -> None:
    done = subprocess.run([sys.executable, "tools/grafana.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run: python tools/grafana.py"


def test_there_is_a_board_for_each_view() -> None:
    views = ("overview", "pools", "transfers", "router", "planner", "tenants")
    assert {path.stem for path in BOARDS} == {f"baton-{view}" for view in views}
    assert [load(path)["uid"] for path in BOARDS] == [path.stem for path in BOARDS]


def test_panels_have_their_own_ids_and_places(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_say_what_they_show_in_which_unit(board: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None
        assert values[1:] == sorted(values[1:])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_everything_asks_the_chosen_source_and_every_variable_used_is_there(
    board: dict[str, Any],
) -> None:
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert "datasource" in variables
    assert variables - {"datasource"} <= PROVIDED
    asked = [*panels(board), *board["annotations"]["list"]]
    asked += [target for panel in panels(board) for target in panel["targets"]]
    asked += [v for v in board["templating"]["list"] if v["type"] == "query"]
    assert all(one["datasource"]["uid"] == "${datasource}" for one in asked)
    for expression in expressions(board):
        used = set(re.findall(r"\$([a-z]+)", expression)) - {"__rate_interval"}
        assert used <= variables, expression
        assert 'cluster=~"$cluster"' in expression


def test_the_expressions_use_declared_metrics_with_labels_that_they_have(
    board: dict[str, Any],
) -> None:
    for expression in expressions(board):
        labels = set(OF_SCRAPES)
        if "ALERTS" in expression:
            labels |= {"alertname", "alertstate", "severity"}
        for name, matchers in re.findall(r"\b(baton_\w+)(?:\{([^}]*)\})?", expression):
            spec = SPECS.get(re.sub(r"_(bucket|sum|count)$", "", name)) or SPECS[name]
            assert (spec.kind == "histogram") == (name != spec.name), name
            matched = set(re.findall(r"(\w+)\s*=", matchers))
            assert matched <= {*spec.labels, *OF_SCRAPES}, (name, matched)
            labels |= set(spec.labels)
        for named in re.findall(r"(?:by|on|without|ignoring|group_left) \(([^)]*)\)", expression):
            grouped = {label.strip() for label in named.split(",") if label.strip()}
            assert grouped <= labels, (grouped - labels, expression)


def test_counters_are_read_by_their_growth_and_gauges_by_their_value(
    board: dict[str, Any],
) -> None:
    for expression in expressions(board):
        for name, window in re.findall(r"\b(baton_\w+)\{[^}]*\}(\[)?", expression):
            grows = SPECS[name].kind == "counter" if name in SPECS else True
            assert bool(window) == grows, (name, expression)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": as_asked(expression)}
        for path in BOARDS
        for index, expression in enumerate(expressions(load(path)))
    ]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_that_is_more_than_a_plain_sum_is_on_a_board() -> None:
    """Plain sums without labels are what the planner fits; of the others each is to be seen."""
    shown = " ".join(expression for path in BOARDS for expression in expressions(load(path)))
    for spec in ALL_METRICS:
        if spec.labels or spec.kind != "counter":
            assert re.search(rf"\b{spec.name}(_bucket|_sum|\b)", shown), spec.name


def as_asked(expression: str) -> str:
    """With all of each variable chosen, as Grafana sends it."""
    expression = expression.replace("$__rate_interval", "10s")
    return re.sub(r"\$[a-z]+", ".*", expression)


def test_every_alert_leads_to_its_runbook() -> None:
    text = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    links = re.findall(r"runbook_url: (\S+)#(\S+)", text)
    assert len(links) == len(alerts)
    for alert, (page, anchor) in zip(alerts, links, strict=True):
        assert re.search(rf"^## {alert}$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor == alert.lower()


def test_the_rules_match_labels_that_their_metrics_have() -> None:
    rules = (ROOT / "deploy" / "prometheus").glob("[ra]*.yaml")
    text = "".join(path.read_text() for path in sorted(rules))
    found = re.findall(r"\b(baton_\w+)\{([^}]*)\}", text)
    assert found
    for name, matchers in found:
        spec = SPECS.get(re.sub(r"_(bucket|sum|count)$", "", name)) or SPECS[name]
        assert set(re.findall(r"(\w+)\s*=", matchers)) <= {*spec.labels, *OF_SCRAPES}, name


def test_a_table_names_its_columns() -> None:
    tables = [p for path in BOARDS for p in panels(load(path)) if p["type"] == "table"]
    assert tables
    for panel in tables:
        names = panel["transformations"][1]["options"]["renameByName"]
        assert all(names.values())
        for target in panel["targets"]:
            assert f"Value #{target['refId']}" in names
