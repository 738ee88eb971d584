"""Draws Grafana's dashboards without Grafana: from their JSON and a Prometheus with real data.

What is drawn is what a person has to read: titles, numbers in their units, words and colours of
values, lines with their legends, on Grafana's grid.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image
from prometheus_server import ROOT, SCRAPE_SECONDS, Prometheus

DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
PICTURES = ROOT / "docs" / "images" / "dashboards"
COLUMNS = 24
COLUMN_INCHES, ROW_INCHES, DPI = 0.62, 0.37, 80
POINTS = 120
"""Samples of a line."""
TICK_SECONDS = (5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 86400)
COLOURS = {
    "green": "#3b9e4a", "yellow": "#d9a514", "orange": "#e07b1a", "red": "#d43b3b",
    "blue": "#3572b0", "text": "#888888",
}  # fmt: skip
LINES = ["#3572b0", "#e07b1a", "#3b9e4a", "#d43b3b", "#8b5fbf", "#8c6d46", "#d36ba6", "#5f6b76"]
INK, FAINT, PAPER = "#24292e", "#6a737d", "#f4f5f5"


@dataclass(frozen=True)
class Window:
    """The time that a dashboard shows, in Unix seconds."""

    start: float
    end: float

    @property
    def step(self) -> float:
        """Between two samples; never finer than Prometheus' own."""
        return max(SCRAPE_SECONDS, (self.end - self.start) / POINTS)

    def fill_in(self, expr: str) -> str:
        """The query with Grafana's variables replaced as Grafana would, all policies shown."""
        rate = max(self.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
        known = {
            "$__rate_interval": f"{math.ceil(rate)}s",
            "$__interval": f"{math.ceil(self.step)}s",
            "$policy": ".*",
        }
        for name, value in known.items():
            expr = expr.replace(name, value)
        return expr


@dataclass(frozen=True)
class Line:
    """One series of a panel: its legend, and what it was when."""

    legend: str
    times: list[float]
    values: list[float]


def dashboards() -> dict[str, dict[str, Any]]:
    """All dashboards by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def queried(dashboard: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(panel, target) of everything that a dashboard asks for."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel, target


def ask(prometheus: Prometheus, target: Mapping[str, Any], window: Window) -> list[Line]:
    """What a target's query gives; instant ones have one value."""
    expr = window.fill_in(target["expr"])
    if target["instant"]:
        found = prometheus.instant(expr, window.end)
        samples = [(one["metric"], [one["value"]]) for one in found]
    else:
        found = prometheus.range(expr, window.start, window.end, window.step)
        samples = [(one["metric"], one["values"]) for one in found]
    lines = []
    for labels, values in samples:
        kept = [(float(t), float(v)) for t, v in values if math.isfinite(float(v))]
        if kept:
            legend = _legend(target["legendFormat"], labels)
            lines.append(Line(legend, [t for t, _ in kept], [v for _, v in kept]))
    return lines


def render(
    dashboard: Mapping[str, Any], prometheus: Prometheus, window: Window, path: Path
) -> None:
    """Draw a dashboard into a PNG file."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 1.4
    size = (COLUMNS * COLUMN_INCHES, rows * ROW_INCHES)
    with mpl.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER)
        figure.text(
            0.1 / COLUMNS, 1 - 0.85 / rows, dashboard["title"], size=14, weight="bold", va="center"
        )
        for panel in panels:
            _panel(figure, panel, prometheus, window, rows)
        figure.savefig(path)
    with Image.open(path) as picture:  # a hundred colours are enough
        picture.convert("RGB").quantize(128).save(path, optimize=True)


def _panel(
    figure: Figure, panel: dict[str, Any], prometheus: Prometheus, window: Window, rows: float
) -> None:
    place = panel["gridPos"]
    top = place["y"] + 1.4
    if panel["type"] == "row":
        figure.text(0.1 / COLUMNS, 1 - (top + 0.55) / rows, f"⌄ {panel['title']}", size=11)
        return
    box = (
        (place["x"] + 0.08) / COLUMNS,
        1 - (top + place["h"] - 0.08) / rows,
        (place["w"] - 0.16) / COLUMNS,
        (place["h"] - 0.16) / rows,
    )
    lines = [line for target in panel["targets"] for line in ask(prometheus, target, window)]
    draw = {"stat": _stat, "timeseries": _timeseries, "state-timeline": _timeline}[panel["type"]]
    draw(figure, box, panel, lines, window)


def _frame(figure: Figure, box: tuple[float, ...], panel: dict[str, Any]) -> None:
    left, bottom, width, height = box
    figure.add_artist(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle="square,pad=0", fc="white", ec="#d8dadd",
            transform=figure.transFigure, zorder=-1,
        )
    )  # fmt: skip
    top = bottom + height - 0.22 / figure.get_figheight()
    figure.text(left + 0.004, top, panel["title"], size=10, weight="bold", va="center")


def _stat(
    figure: Figure, box: tuple[float, ...], panel: dict[str, Any], lines: list[Line], _: Window
) -> None:
    left, bottom, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    shown = lines or [Line("", [0.0], [math.nan])]
    named = shows_names(panel, len(shown))
    if len(shown) > 1:  # the title stands above all of them
        _frame(figure, box, panel)
        height -= 0.4 / figure.get_figheight()
    for index, line in enumerate(shown):
        text, colour = _words(defaults, line.values[-1])
        part = width / len(shown)
        figure.add_artist(
            FancyBboxPatch(
                (left + index * part, bottom), part, height, boxstyle="square,pad=0",
                fc=COLOURS[colour], ec="white", transform=figure.transFigure, zorder=-1,
            )
        )  # fmt: skip
        x, room = left + (index + 0.5) * part, part * figure.get_figwidth()
        size = min(24.0, 1.35 * 72 * room / max(4, len(text)))
        figure.text(x, bottom + height * 0.42, text, size=size, color="white", weight="bold",
                    ha="center", va="center")  # fmt: skip
        if named:
            figure.text(
                x, bottom + height * 0.12, line.legend, color="white", ha="center", va="center"
            )
    if len(shown) == 1:
        top = bottom + height - 0.22 / figure.get_figheight()
        figure.text(
            left + 0.004, top, panel["title"], size=10, weight="bold", va="center", color="white"
        )


def shows_names(panel: Mapping[str, Any], values: int) -> bool:
    """Whether Grafana writes the names of so many values beside them."""
    mode = panel["options"]["textMode"]
    return mode == "value_and_name" or (mode == "auto" and values > 1)


def _axes(figure: Figure, box: tuple[float, ...], window: Window, below: float) -> Axes:
    """Axes inside a panel: room for numbers, a title above and a legend of `below` inches."""
    left, bottom, width, height = box
    wide, high = figure.get_figwidth(), figure.get_figheight()
    axes = figure.add_axes(
        (
            left + 1.2 / wide,
            bottom + (0.34 + below) / high,
            width - 1.35 / wide,
            height - (0.76 + below) / high,
        )
    )
    axes.set_xlim(window.start, window.end)
    seconds = window.end - window.start
    between = next(each for each in TICK_SECONDS if seconds <= 8 * each)
    axes.set_xticks([window.start + tick for tick in range(0, int(seconds) + 1, between)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: _clock(t - window.start)))
    axes.tick_params(length=0, colors=FAINT, labelsize=8, pad=5)
    axes.tick_params(axis="x", pad=10)  # the lowest number stands above the first time
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _timeseries(
    figure: Figure, box: tuple[float, ...], panel: dict[str, Any], lines: list[Line], window: Window
) -> None:
    _frame(figure, box, panel)
    defaults = panel["fieldConfig"]["defaults"]
    per_row = max(1, int(box[2] * figure.get_figwidth() / 2.3))
    legend_rows = math.ceil(min(len(lines), 12) / per_row)
    axes = _axes(figure, box, window, 0.2 * legend_rows)
    axes.grid(axis="y", color="#e6e8ea", linewidth=0.8)
    for index, line in enumerate(lines):
        colour = LINES[index % len(LINES)]
        gap = 3 * window.step
        times, values = _with_gaps(line, gap)
        axes.plot(times, values, color=colour, linewidth=1.6, label=line.legend)
    low, high = axes.get_ylim()
    if all(value == lines[0].values[0] for line in lines for value in line.values):
        low, high = min(0.0, low), max(high, 1.0)
    axes.set_ylim(defaults.get("min", low), defaults.get("max", high))
    for step in defaults["thresholds"]["steps"][1:]:
        if defaults["custom"]["thresholdsStyle"]["mode"] == "dashed" and step["value"] < 3 * high:
            axes.axhline(step["value"], color=COLOURS[step["color"]], linestyle="--", linewidth=1)
    if defaults["unit"] == "bytes":
        span = axes.get_ylim()[1] - axes.get_ylim()[0]
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(span / 5))))
    else:
        whole = defaults.get("decimals") == 0
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v, defaults["unit"])))
    if lines:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(box[0], box[1]),
            ncols=per_row, frameon=False, fontsize=8, handlelength=1.2, borderaxespad=0.2,
        )  # fmt: skip
    else:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=FAINT)


def _timeline(
    figure: Figure, box: tuple[float, ...], panel: dict[str, Any], lines: list[Line], window: Window
) -> None:
    _frame(figure, box, panel)
    axes = _axes(figure, box, window, 0.25)
    axes.set_yticks(range(len(lines)), [line.legend for line in lines])
    axes.set_ylim(-0.5, max(0.5, len(lines) - 0.5))
    words: dict[str, str] = {}
    for row, line in enumerate(lines):
        for time, value in zip(line.times, line.values, strict=True):
            text, colour = _words(panel["fieldConfig"]["defaults"], value)
            words[text] = COLOURS[colour]
            axes.barh(row, window.step, left=time, height=0.8, color=COLOURS[colour], linewidth=0)
    handles = [mpl.patches.Patch(color=colour, label=text) for text, colour in words.items()]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(box[0], box[1]), ncols=4,
        frameon=False, fontsize=8, borderaxespad=0.2,
    )  # fmt: skip


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """A value in a unit of Grafana's."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{_short(100 * value, decimals)} %"
    if unit == "bytes":
        size, names = value, ["B", "KiB", "MiB", "GiB", "TiB"]
        while abs(size) >= 1024 and len(names) > 1:
            size, names = size / 1024, names[1:]
        return f"{_short(size, decimals)} {names[0]}"
    if unit == "s":
        for factor, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor or name == "µs" or value == 0:
                return f"{_short(value / factor, decimals)} {name}"
    if unit == "short" and abs(value) >= 1000:
        return f"{_short(value / 1000, decimals)} K"
    return _short(value, decimals) + unit.removeprefix("suffix:") * unit.startswith("suffix:")


def _short(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _words(defaults: Mapping[str, Any], value: float) -> tuple[str, str]:
    """A value as text, and its colour."""
    if math.isnan(value):
        return defaults["noValue"], "text"
    for mapping in defaults.get("mappings", []):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], found["color"]
    colour = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return number(value, defaults["unit"], defaults.get("decimals")), colour


def _legend(pattern: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), pattern).strip()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if seconds >= 0 else ""


def _with_gaps(line: Line, gap: float) -> tuple[list[float], list[float]]:
    """Where samples are missing, the line is."""
    times, values = line.times[:1], line.values[:1]
    for before, time, value in zip(line.times, line.times[1:], line.values[1:], strict=False):
        if time - before > gap:
            times.append(before + gap / 2)
            values.append(math.nan)
        times.append(time)
        values.append(value)
    return times, values
