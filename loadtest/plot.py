"""Plots as inline SVG: lines, steps and dots over one x and one y axis, with marked moments."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from loadtest.axis import Axis, axis_for, tick_label

WIDTH, HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 30, 40
_MARK_ROWS = 3
_NUM_COLORS = 8  # classes c0 to c7 of the page's style


@dataclass(frozen=True, slots=True)
class Series:
    """points: (x, y) in the order of x; nan breaks a line. color: a place in the palette."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: Literal["line", "step", "dots"] = "line"
    color: int = 0
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at x: a fault, a change of the pools, an objective."""

    x: float
    label: str
    kind: Literal["fault", "scaling", "limit"] = "fault"


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    is_x_log: bool = False
    x_range: tuple[float, float] | None = None
    y_max: float | None = None
    width: int = WIDTH
    height: int = HEIGHT


def svg(plot: Plot) -> str:
    """An <svg> element; its colours are CSS classes of the page."""
    x_axis, y_axis = _axes(plot)
    parts = [
        f'<svg viewBox="0 0 {plot.width} {plot.height}" role="img" '
        f'aria-label="{escape(plot.title, quote=True)}">',
        f'<text class="title" x="{_LEFT}" y="16">{escape(plot.title)}</text>',
        *_grid(plot, x_axis, y_axis),
        *(_mark(mark, row % _MARK_ROWS, x_axis, plot) for row, mark in enumerate(plot.marks)),
        *(_series(one, x_axis, y_axis) for one in plot.series),
        _legend(plot),
        "</svg>",
    ]
    return "\n".join(parts)


def _axes(plot: Plot) -> tuple[Axis, Axis]:
    xs = [x for one in plot.series for x, _ in one.points]
    xs += [mark.x for mark in plot.marks if mark.kind == "limit"]
    ys = [y for one in plot.series for _, y in one.points]
    left, right = _LEFT, plot.width - _RIGHT
    x_axis = axis_for(xs, left, right, is_log=plot.is_x_log)
    if plot.x_range is not None:
        x_axis = Axis(*plot.x_range, left, right, plot.is_x_log)
    bottom, top = plot.height - _BOTTOM, _TOP
    if plot.y_max is not None:
        return x_axis, Axis(0, plot.y_max, bottom, top)
    return x_axis, axis_for(ys, bottom, top)


def _grid(plot: Plot, x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom, top, right = plot.height - _BOTTOM, _TOP, plot.width - _RIGHT
    parts = []
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = tick_label(tick)
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        label = tick_label(tick)
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 15}">{label}</text>')
    middle = (_LEFT + right) / 2
    x_text = escape(plot.x_label)
    parts.append(f'<text class="label mid" x="{middle}" y="{plot.height - 8}">{x_text}</text>')
    height = (bottom + top) / 2
    turn = f'transform="rotate(-90 13 {height})"'
    y_text = escape(plot.y_label)
    parts.append(f'<text class="label mid" x="13" y="{height}" {turn}>{y_text}</text>')
    return parts


def _series(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    color = f"c{series.color % _NUM_COLORS}"
    if series.kind == "dots":
        return "".join(
            f'<circle class="dot {color}" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="3">'
            f"<title>{escape(series.name)}: {x:.4g}, {y:.4g}</title></circle>"
            for x, y in series.points
            if math.isfinite(y)
        )
    dashed = " dashed" if series.is_dashed else ""
    path = _path(series, x_axis, y_axis)
    name = escape(series.name)
    return f'<path class="line {color}{dashed}" d="{path}"><title>{name}</title></path>'


def _path(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    parts: list[str] = []
    is_open = False
    for x, y in series.points:
        if not math.isfinite(y):
            is_open = False
            continue
        px, py = f"{x_axis.at(x):.1f}", f"{y_axis.at(y):.1f}"
        if not is_open:
            parts.append(f"M{px} {py}")
        elif series.kind == "step":
            parts.append(f"H{px}V{py}")
        else:
            parts.append(f"L{px} {py}")
        is_open = True
    return "".join(parts)


def _mark(mark: Mark, row: int, x_axis: Axis, plot: Plot) -> str:
    """Labels of neighbours stand in different rows, and left of the line near the right edge."""
    x = x_axis.at(mark.x)
    bottom = plot.height - _BOTTOM
    label = escape(mark.label)
    is_right = x > plot.width * 0.8
    text_x, side = (x - 3, " end") if is_right else (x + 3, "")
    return (
        f'<line class="mark {mark.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}">'
        f"<title>{label}</title></line>"
        f'<text class="tick {mark.kind}{side}" x="{text_x:.1f}" y="{_TOP + 9 + 12 * row}">'
        f"{label}</text>"
    )


def _legend(plot: Plot) -> str:
    """Names at the top right, only where there is more than one."""
    named = {series.name: series for series in plot.series}
    if len(named) < 2:
        return ""
    parts = []
    x = float(plot.width - _RIGHT)
    for series in reversed(named.values()):
        x -= 7 * len(series.name) + 22
        color = f"c{series.color % _NUM_COLORS}"
        dashed = " dashed" if series.is_dashed else ""
        parts.append(f'<line class="line {color}{dashed}" x1="{x}" x2="{x + 14}" y1="12" y2="12"/>')
        parts.append(f'<text class="tick" x="{x + 18}" y="16">{escape(series.name)}</text>')
    return "".join(parts)
