"""How a run looks: a `Scene` as a picture of rich, or as a line of text. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pronk.cli.supervisor import ChildStatus
from pronk.cli.vitals import Member, Vitals
from pronk.words import duration, percent, short

_BARS = "▁▂▃▄▅▆▇█"
_ACTORS_SHOWN = 8
_COLOURS = {
    "running": "green",
    "restarting": "red",
    "stopping": "yellow",
    "stopped": "dim",
}


@dataclass(frozen=True)
class Scene:
    """Everything there is to show at one moment.

    Attributes:
        seconds: since `pronk up` was called.
        phase: what goes on, in one word or two.
        goal: return that ends the run, where there is one.
    """

    name: str
    environment: str
    run_dir: str
    seconds: float
    phase: str
    children: Sequence[ChildStatus]
    vitals: Vitals | None
    goal: float | None = None


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars, evenly picked, the newest included."""
    if len(values) < 2:
        return ""
    step = max(1.0, (len(values) - 1) / (width - 1))
    picked = [values[round(i * step)] for i in range(min(width, len(values)))]
    low, span = min(picked), max(picked) - min(picked)
    if span == 0:
        return _BARS[0] * len(picked)
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in picked)


def picture(scene: Scene, sparks: str) -> RenderableType:
    """The picture of a scene."""
    parts: list[RenderableType] = [_title(scene), _progress(scene), Text()]
    if scene.vitals is not None:
        parts += [_numbers(scene, scene.vitals, sparks), Text()]
    parts += [_children(scene), Text()]
    parts.append(Text(f"logs {scene.run_dir}/logs · Ctrl-C stops", style="dim"))
    return Padding(Group(*parts), (1, 2, 0, 2))


def line(scene: Scene) -> str:
    """A scene on one line."""
    vitals = scene.vitals
    parts = [f"{duration(scene.seconds):>7}", scene.phase]
    if vitals is not None and vitals.updates:
        if vitals.progress is not None:
            parts.append(percent(vitals.progress))
        parts.append(f"frames {short(vitals.frames)}")
        if vitals.steps_per_second is not None:
            parts.append(f"{vitals.steps_per_second:,.0f} steps/s")
        if vitals.return_mean is not None:
            goal = "" if scene.goal is None else f" (goal {scene.goal:g})"
            parts.append(f"return {vitals.return_mean:.1f}{goal}")
        if vitals.lag is not None:
            parts.append(f"lag {vitals.lag:.1f}")
        if vitals.refused:
            parts.append(f"{vitals.refused} unrolls refused")
        if waits := vitals.who_waits():
            parts.append(f"{waits} ({vitals.verdict})" if vitals.verdict else waits)
        if vitals.seconds_left is not None:
            parts.append(_left(scene, vitals.seconds_left))
    return "  ".join(parts)


def _left(scene: Scene, seconds: float) -> str:
    """Of frames and seconds only: when a return will be reached cannot be told."""
    bound = "" if scene.goal is None else "at most "
    return f"{bound}{duration(seconds)} left"


def _title(scene: Scene) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    grid.add_row(
        Text.assemble(
            (scene.name, "bold"), ("  " + scene.environment, "cyan"), ("  " + scene.phase, "dim")
        ),
        Text(duration(scene.seconds), style="dim"),
    )
    return grid


def _progress(scene: Scene) -> RenderableType:
    vitals = scene.vitals
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    share = vitals.progress if vitals is not None else None
    known = share is not None
    bar = ProgressBar(
        total=1.0, completed=share or 0.0, pulse=not known, complete_style="green", width=None
    )
    left = "" if share is None else percent(share)
    if vitals is not None and vitals.seconds_left is not None:
        left += f"  {_left(scene, vitals.seconds_left)}"
    grid.add_row(bar, Text(left))
    return grid


def _numbers(scene: Scene, vitals: Vitals, sparks: str) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim")
    grid.add_column()
    unknown = Text("–", style="dim")
    known = vitals.return_mean
    mean = unknown if known is None else Text(f"{known:.1f}", style="bold")
    goal = "" if scene.goal is None else f"  goal {scene.goal:g}"
    grid.add_row("return", Text.assemble(mean, "  ", (sparks, "green"), (goal, "dim")))
    grid.add_row("speed", _speed(vitals) or unknown)
    learned = f"{short(vitals.frames)} frames · {short(vitals.updates)} updates"
    if vitals.lag is not None:
        learned += f" · lag {vitals.lag:.1f}"
    if vitals.refused:
        learned += f" · {vitals.refused} unrolls refused"
    grid.add_row("learned", learned)
    verdict = f" → {vitals.verdict}" if vitals.verdict else ""
    grid.add_row("waiting", Text.assemble(vitals.who_waits() or unknown, (verdict, "cyan")))
    return grid


def _speed(vitals: Vitals) -> str:
    parts = []
    if vitals.steps_per_second is not None:
        parts.append(f"{vitals.steps_per_second:,.0f} steps/s")
    if vitals.frames_per_second is not None:
        parts.append(f"{vitals.frames_per_second:,.0f} frames/s")
    return " · ".join(parts)


def _children(scene: Scene) -> RenderableType:
    members = {m.pid: m for m in scene.vitals.members} if scene.vitals is not None else {}
    actors = [child for child in scene.children if child.name.startswith("actor-")]
    hidden = actors[_ACTORS_SHOWN:]
    grid = Table.grid(padding=(0, 3, 0, 0))
    for _ in range(3):
        grid.add_column()
    for child in scene.children:
        if child not in hidden:
            member = members.get(child.pid) if child.pid is not None else None
            grid.add_row(*_child(child, member))
    if hidden:
        running = sum(child.state == "running" for child in hidden)
        grid.add_row(f"{len(hidden)} more actors", f"{running} running", "")
    return grid


def _child(child: ChildStatus, member: Member | None) -> tuple[RenderableType, ...]:
    state = Text.assemble(("● ", _COLOURS[child.state]), child.state)
    if child.restarts:
        state.append(f" (restarted {child.restarts}×)", style="yellow")
    facts = [f"version {number}" for number in member.versions.values()] if member else []
    if member is not None and member.steps_per_second is not None:
        facts.append(f"{member.steps_per_second:,.0f} steps/s")
    if member is not None and member.waiting is not None:
        word = "waits" if member.kind == "learner" else "blocked"
        facts.append(f"{word} {percent(member.waiting)}")
    return Text(child.name), state, Text(" · ".join(facts), style="dim")
