"""From trials to numbers and a table: medians, spread, the better variants, ratios."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from peers import OURS, PEERS, Peer
from trial import Trial
from workloads import WORKLOADS

GOALS = {
    "cartpole": (10.0, 0.25),
    "cartpole-sync": (None, None),
    "minatar": (5.0, 0.5),
    "pong": (3.0, None),
}
"""Ours ÷ the best peer: at least so many times its steps/s, at most this share of its seconds."""


@dataclass(frozen=True)
class Figure:
    """Repeats of one variant: median, spread, and of how many trials."""

    variant: str
    median: float
    least: float
    most: float
    trials: int
    missed: int = 0
    """Trials that did not reach the goal and count as long as the limit."""


def best_rate(trials: Iterable[Trial]) -> Figure | None:
    """The variant of most steps per second; None where none was measured."""
    return _best(trials, lambda trial: trial.rate, max)


def best_time(trials: Iterable[Trial]) -> Figure | None:
    """The variant that reached the goal soonest.

    Among those that never did, the one with the best score: it may in a longer trial.
    """
    trials = list(trials)
    timed = [trial for trial in trials if trial.to_goal is not None]
    if timed and not any(trial.reached for trial in timed):
        scores = {trial.variant: trial.best for trial in timed if trial.best is not None}
        variant = max(scores, key=lambda name: scores[name]) if scores else timed[0].variant
        timed = [trial for trial in timed if trial.variant == variant]
    return _best(timed, lambda trial: trial.to_goal, min)


def _best(
    trials: Iterable[Trial],
    value: Callable[[Trial], float | None],
    choose: Callable[..., Figure],
) -> Figure | None:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if value(trial) is not None:
            groups.setdefault(trial.variant, []).append(trial)
    figures = []
    for variant, group in groups.items():
        found = [number for trial in group if (number := value(trial)) is not None]
        missed = sum(trial.to_goal is not None and not trial.reached for trial in group)
        figures.append(Figure(variant, median(found), min(found), max(found), len(found), missed))
    return choose(figures, key=lambda figure: figure.median) if figures else None


def better(trials: Iterable[Trial]) -> list[str]:
    """The variants worth repeating: of most steps per second, and soonest at the goal."""
    trials = list(trials)
    figures = best_rate(trials), best_time(trials)
    return list(dict.fromkeys(figure.variant for figure in figures if figure is not None))


def judge(workload: str, trials: Iterable[Trial]) -> dict[str, Any]:
    """The figures of every peer on a workload, and the ratios of ours to the best peer."""
    by_peer: dict[str, list[Trial]] = {peer.folder: [] for peer in PEERS}
    for trial in trials:
        if trial.workload == workload:
            by_peer[trial.peer].append(trial)
    rates = {peer: best_rate(group) for peer, group in by_peer.items()}
    times = {peer: best_time(group) for peer, group in by_peer.items()}
    starts = {
        peer: median(found)
        for peer, group in by_peer.items()
        if (found := [trial.startup for trial in group if trial.startup is not None])
    }
    rate_goal, time_goal = GOALS[workload]
    return {
        "rates": rates,
        "times": times,
        "startup": starts,
        "rate_ratio": _ratio(rates, max),
        "rate_ratio_goal": rate_goal,
        "time_ratio": _ratio(times, min),
        "time_ratio_goal": time_goal,
    }


def _ratio(figures: Mapping[str, Figure | None], choose: Callable[..., float]) -> float | None:
    ours = figures.get(OURS)
    others = [each.median for peer, each in figures.items() if peer != OURS and each is not None]
    return ours.median / choose(others) if ours is not None and any(others) else None


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a page; `report` is what `compare.py` writes as JSON, before that."""
    hardware = report["hardware"]
    text = (
        "# Against peers\n\n"
        f"{hardware['cores']} × {hardware['processor']}, commit `{report['commit']}`; "
        f"{report['started']}. Steps per second: environment steps consumed by the learner (valid, "
        "once each, in an applied update), over "
        f"{report['rules']['window']:g} s after {report['rules']['warm_up']:g} s of learning. Time "
        "to the score: the whole program from its start, mean return of 100 episodes; † counts as "
        f"{report['rules']['limit'] / 60:g} minutes in which the score was not reached. Medians "
        "(least – most) of trials in turn, each peer in the better of its variants.\n"
    )
    if report["interrupted"]:
        text += "\n**Interrupted**: these are the trials that were over by then.\n"
    for workload, judged in report["workloads"].items():
        bare = report["bare_rates"].get(workload, {})
        text += _section(workload, judged, bare, _compared(report))
    text += "\n## Versions\n\n"
    for peer in _compared(report):
        named = report["versions"][peer.folder]
        words = ", ".join(f"{name} {number}" for name, number in named.items())
        text += f"- {peer.title}: {words}\n"
    return text


def _compared(report: Mapping[str, Any]) -> list[Peer]:
    return [peer for peer in PEERS if peer.folder in report["versions"]]


def _section(
    workload: str, judged: Mapping[str, Any], bare: Mapping[str, Any], peers: list[Peer]
) -> str:
    what = WORKLOADS[workload]
    goal = "no score" if what.goal is None else f"score {what.goal:g}"
    text = (
        f"\n## {workload}: {what.env}\n\nframe skip {what.frame_skip}, network {what.network}, "
        f"unrolls of {what.unroll}, {goal}\n\n"
        "| | steps/s | variant | seconds to the score | variant | start-up, s | "
        "environment alone, steps/s |\n|---|---|---|---|---|---|---|\n"
    )
    for peer in peers:
        rate, soon = judged["rates"].get(peer.folder), judged["times"].get(peer.folder)
        start = judged["startup"].get(peer.folder)
        alone = ", ".join(f"{kind} {n:,.0f}" for kind, n in bare.get(peer.folder, {}).items())
        text += (
            f"| {peer.title} | {_shown(rate)} | {rate.variant if rate else '–'} | {_shown(soon)} | "
            f"{soon.variant if soon else '–'} | {'–' if start is None else f'{start:.1f}'} | "
            f"{alone or '–'} |\n"
        )
    text += "\nOurs ÷ best peer: "
    text += f"steps/s {_against(judged['rate_ratio'], judged['rate_ratio_goal'], '≥')}, "
    text += f"time to the score {_against(judged['time_ratio'], judged['time_ratio_goal'], '≤')}.\n"
    text += "\nWhat differs:\n\n"
    for peer in peers:
        said = [peer.differences[key] for key in ("", workload) if key in peer.differences]
        text += f"- {peer.title}: {'; '.join(said)}\n"
    return text


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    mark = "†" if figure.missed else ""
    missed = f", {figure.missed} of {figure.trials} missed" if figure.missed else ""
    spread = f"{figure.least:,.0f} – {figure.most:,.0f}"
    return f"{figure.median:,.0f}{mark} ({spread}; {figure.trials} trials{missed})"


def _against(ratio: float | None, goal: float | None, sign: str) -> str:
    shown = "–" if ratio is None else f"**{ratio:.2f}**"
    return shown if goal is None else f"{shown} (goal {sign} {goal:g})"
