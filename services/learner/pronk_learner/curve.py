"""The picture of a run: return over frames, with what else one asks of a run below it."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

from pronk import files

_BLUE, _GREY, _ORANGE, _GREEN = "#1f6feb", "#8b949e", "#d9822b", "#2da44e"


def draw(rows: list[dict[str, Any]], path: Path, *, title: str, target: float | None) -> None:
    """Draw the rows of a `metrics.jsonl` into a PNG file; without a return there is no picture.

    Raises:
        OSError: the disk is full or cannot be written; the old picture is still there.
    """
    rows = [row for row in rows if row.get("return_mean") is not None]
    if rows:
        files.replace(path, _picture(rows, title, target))


def _picture(rows: list[dict[str, Any]], title: str, target: float | None) -> bytes:
    frames = [row["frames"] for row in rows]
    figure, (top, left, middle, right) = _axes()
    top.plot(frames, [row["return_mean"] for row in rows], color=_BLUE, linewidth=2.2)
    top.fill_between(
        frames,
        [row["return_low"] for row in rows],
        [row["return_high"] for row in rows],
        color=_BLUE,
        alpha=0.15,
        linewidth=0,
        label="middle 80 % of the last 100 episodes",
    )
    if target is not None:
        top.axhline(target, color=_GREEN, linestyle="--", linewidth=1.2, label=f"goal {target:g}")
    top.legend(loc="lower right", frameon=False, fontsize=9)
    top.set_ylabel("return, mean of the last 100 episodes")
    last = rows[-1]
    top.set_title(
        f"{title}: {last['return_mean']:.1f} after {last['seconds']:.0f} s "
        f"and {EngFormatter(sep=' ')(last['frames'])} frames",
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    for axes, key, label, color in (
        (left, "steps_per_second", "steps/s", _ORANGE),
        (middle, "entropy", "entropy, nats", _GREY),
        (right, "lag", "lag, versions", _GREY),
    ):
        points = [(row["frames"], row[key]) for row in rows if row.get(key) is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], color=color, linewidth=1.4)
        axes.set_title(label, loc="left", fontsize=9)
        axes.set_ylim(bottom=min([0.0, *(y for _, y in points)]))
    left.yaxis.set_major_formatter(EngFormatter(sep=""))
    picture = BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    plt.close(figure)
    return picture.getvalue()


def _axes() -> tuple[Any, tuple[Any, Any, Any, Any]]:
    figure = plt.figure(figsize=(9, 6), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(3, 1))
    top = figure.add_subplot(grid[0, :])
    below = [figure.add_subplot(grid[1, column]) for column in range(3)]
    for axes in (top, *below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.set_xlabel("environment frames learned")
    return figure, (top, below[0], below[1], below[2])
