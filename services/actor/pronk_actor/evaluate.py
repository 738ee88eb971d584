"""`pronk evaluate`: play with a stored policy."""

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pronk.errors import Misconfigured

if TYPE_CHECKING:
    from pronk_actor.stored import StoredPolicy

_MAX_SLOTS = 16


def evaluate(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_DIR|POLICY",
            help="A run's folder, or a policy's; default: the newest release of PRONK_SERVER.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 20,
    gif: Annotated[Path | None, typer.Option(help="Draw one more episode into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of environments and sampling.")] = 0,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw actions instead of taking the most likely.")
    ] = False,
) -> None:
    """Play whole episodes with a stored policy and report their returns.

    Example: pronk evaluate runs/cartpole-1 --episodes 100 --gif play.gif
    """
    from pronk.policy.bundle import Bundle
    from pronk_actor.stored import StoredPolicy, fetch_newest, find

    if gif is not None and not gif.absolute().parent.is_dir():
        raise Misconfigured(f"--gif: {gif.absolute().parent} is no folder")
    stored = StoredPolicy(fetch_newest() if path is None else Bundle.load(find(path)))
    if gif is not None:  # first: what it lacks is told before anything is played
        _draw(stored, gif, seed, greedy=not sample)
    report = _play(stored, episodes, seed, greedy=not sample)
    if gif is not None:
        report["gif"] = str(gif)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report)


def _play(stored: "StoredPolicy", episodes: int, seed: int, *, greedy: bool) -> dict[str, Any]:
    import numpy as np

    from pronk import envs
    from pronk_actor.evaluation import Part, play_episodes, quota

    slots = min(episodes, _MAX_SLOTS)
    env = envs.make(stored.env, slots, seed)
    lost: list[tuple[str, int, int]] = []
    try:
        part = Part("", slice(0, slots), stored.agent(env, seed, greedy=greedy))
        ended = play_episodes(
            env,
            [part],
            quota(episodes, slots),
            threading.Event(),
            lost=lambda *episode: lost.append(episode),
        )[""]
    finally:
        env.close()
    returns = np.array([end.episode.episode_return for end in ended])
    lengths = np.array([end.episode.steps for end in ended])
    manifest = stored.bundle.manifest
    return {
        "environment": manifest.environment.environment,
        "policy": manifest.policy,
        "number": manifest.number,
        "frames": manifest.frames,
        "actions": "most likely" if greedy else "sampled",
        "seed": seed,
        "episodes": len(returns),
        "episodes_lost": len(lost),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(lengths.mean()),
    }


def _draw(stored: "StoredPolicy", gif: Path, seed: int, *, greedy: bool) -> None:
    # Nothing is shown on a screen; without this SDL complains where there is none.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    from pronk import envs
    from pronk_actor.gif import film, save

    recorder = envs.record(stored.env, seed)
    try:
        pictures = film(recorder, stored.agent(recorder, seed, greedy=greedy))
    finally:
        recorder.close()
    save(pictures, gif)


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pronk.words import printable

    rows = [
        ("policy", f"{report['policy']}, version {report['number']}"),
        ("learned", f"{report['frames']:,} frames of {report['environment']}"),
        ("played", f"{report['episodes']} episodes, {report['actions']} actions"),
    ]
    if report["episodes_lost"]:
        rows.append(("lost", f"{report['episodes_lost']} more, in which the environment failed"))
    rows += [
        ("return", f"{report['return_mean']:.2f} ± {report['return_std']:.2f}"),
        ("from … to", f"{report['return_min']:.2f} … {report['return_max']:.2f}"),
        ("length", f"{report['length_mean']:.1f} steps on average"),
    ]
    if "gif" in report:
        rows.append(("one episode", report["gif"]))
    table = Table(show_header=False, box=None)
    for name, value in rows:
        table.add_row(name, Text(printable(value), style="bold" if name == "return" else ""))
    Console().print(table)
