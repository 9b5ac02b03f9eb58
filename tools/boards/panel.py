"""What a board is made of, and its form as Grafana's JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = 24
SCHEMA_VERSION = 39
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression; legend: with {{label}}, empty for a panel of one number.

    In a table, legend is its column's name and unit its column's unit, the panel's where empty.
    """

    expression: str
    legend: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """unit: one of Grafana's ids (s, reqps, percentunit). steps: (from, colour), the first from 0.

    needs: what has to happen or be configured for the panel to have data; empty: traffic does.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"  # or stat, table
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    most: float | None = None
    stacked: bool = False
    needs: str = ""

    @property
    def full_description(self) -> str:
        return f"{self.description} Empty without {self.needs}." if self.needs else self.description


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, laid out from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the head of a board, of a label's values; several or all may be chosen."""

    name: str
    label_of: str  # a metric, with matchers


CLUSTER = Variable("cluster", "baton_control_workers")
MODEL = Variable("model", 'baton_gateway_info{cluster=~"$cluster"}')
ROLE = Variable("role", 'baton_worker_info{cluster=~"$cluster",model=~"$model"}')
WORKER = Variable(
    "worker", 'baton_worker_info{cluster=~"$cluster",model=~"$model",role=~"$role"} == 1'
)
TENANT = Variable("tenant", 'baton_tenant_requests_total{cluster=~"$cluster"}')


@dataclass(frozen=True, slots=True)
class Board:
    """One page. uid: the end of its address in Grafana, and its file's name."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = (CLUSTER, MODEL)

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def as_json(board: Board) -> dict[str, Any]:
    """The board as Grafana imports it; equal boards give equal JSON."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["baton"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "links": [_BOARD_LINKS],
        "templating": {"list": [_DATASOURCE, *map(_variable, board.variables)]},
        "annotations": {"list": [_MOVES]},
        "panels": list(_laid_out(board.rows)),
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows of at most COLUMNS; a line of panels is as high as its highest."""
    number, y = 1, 0
    for row in rows:
        yield {**_heading(row.title), "id": number, "gridPos": _place(0, y, COLUMNS, 1)}
        number, y, x, line = number + 1, y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line = 0, y + line, 0
            place = _place(x, y, panel.width, panel.height)
            yield {**_panel(panel), "id": number, "gridPos": place}
            number, x, line = number + 1, x + panel.width, max(line, panel.height)
        y += line


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _heading(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.full_description,
        "datasource": _SOURCE,
        "targets": [_target(panel, index) for index in range(len(panel.queries))],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        **({"transformations": _columns(panel)} if panel.kind == "table" else {}),
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": query.legend},
            "properties": [{"id": "unit", "value": query.unit}],
        }
        for query in panel.queries
        if query.unit
    ]


def _columns(panel: Panel) -> list[dict[str, Any]]:
    """A row for each set of labels, a column for each query under its legend's name."""
    names = {f"Value #{chr(ord('A') + i)}": q.legend for i, q in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        names["Value"] = panel.queries[0].legend
    hidden = {"Time": True, "instance": True, "job": True}
    renamed = {"excludeByName": hidden, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": renamed}]


def _target(panel: Panel, index: int) -> dict[str, Any]:
    query, is_table = panel.queries[index], panel.kind == "table"
    return {
        "refId": chr(ord("A") + index),
        "datasource": _SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or panel.title,
        "instant": is_table,
        "range": not is_table,
        "format": "table" if is_table else "time_series",
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = panel.steps or ((0, "green"),)
    marks: list[dict[str, Any]] = [{"value": None, "color": steps[0][1]}]
    marks += [{"value": value, "color": colour} for value, colour in steps[1:]]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "noValue": "-",
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": marks},
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 25 if panel.stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
    return defaults


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.label_of}, {variable.name})"
    if variable.label_of.endswith("== 1"):  # label_values takes no expression
        query = f"query_result({variable.label_of})"
    found: dict[str, Any] = {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # also where the label does not exist
        "current": {"text": "All", "value": "$__all"},
    }
    if query.startswith("query_result"):
        found["regex"] = f'/{variable.name}="([^"]*)"/'
    return found


_DATASOURCE = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
}
_BOARD_LINKS = {
    "title": "Baton",
    "type": "dashboards",
    "tags": ["baton"],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
}
_MOVES = {
    "name": "Planner moves",
    "datasource": _SOURCE,
    "enable": True,
    "iconColor": "blue",
    "expr": "sum by (action) (increase(baton_control_decisions_total"
    '{cluster=~"$cluster",action!="hold"}[30s])) > 0',
    "titleFormat": "{{action}}",
    "step": "30s",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"]},
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True},
}
