"""Train an experiment from several seeds; write what came of it to `docs/learning/NAME.{md,png}`.

Status 0: every seed reached the goal. 1: one did not. 2: a run could not be made.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from check_summary import faults
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

from pronk.config import Experiment, load

PAGES = Path(__file__).resolve().parent.parent / "docs" / "learning"
Rows = list[dict[str, Any]]


def train(config: Path, seed: int, overrides: list[str], folder: Path) -> Path:
    """Run a whole cluster to its end; return the run directory."""
    run = folder / f"seed-{seed}"
    command = [sys.executable, "-P", "-m", "pronk.cli.main", "up", str(config)]
    command += ["--headless", "--run-dir", str(run)]
    for override in (f"seed={seed}", *overrides):
        command += ["--set", override]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode and not (run / "summary.json").exists():
        print(done.stdout.decode(errors="replace"), f"seed {seed} could not be run", sep="\n")
        sys.exit(2)
    return run


def journal(run: Path) -> Rows:
    """The rows of a run that have a return."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.get("return_mean") is not None]


def draw(experiment: Experiment, runs: dict[int, Rows], path: Path) -> None:
    """Return over frames, a line for every seed."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for seed, rows in runs.items():
        axes.plot(
            [row["frames"] for row in rows],
            [row["return_mean"] for row in rows],
            label=f"seed {seed}",
        )
    goal = experiment.stop.return_mean
    if goal is not None:
        axes.axhline(goal, color="grey", linestyle="--", linewidth=1, label=f"goal {goal:g}")
    axes.set(xlabel="environment frames learned", ylabel="return, mean of 100 episodes")
    axes.set_title(experiment.env.id, loc="left")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def page(
    config: Path, overrides: list[str], experiment: Experiment, summaries: dict[int, dict[str, Any]]
) -> str:
    """The page about an experiment: picture, table, what it ran on."""
    changed = "".join(f" --set {override}" for override in overrides)
    first = next(iter(summaries.values()))
    hardware = ", ".join(f"{key} {value}" for key, value in first["hardware"].items() if value)
    rows = "".join(
        f"| {seed} | {each['return_mean_last_100']:.2f} | {each['frames']:,} | "
        f"{each['seconds']:.0f} | {each['steps_per_second']:,.0f} | {each['mean_lag']:.1f} |\n"
        for seed, each in summaries.items()
    )
    return (
        f"# {experiment.env.id}\n\n"
        f"Made by `python scripts/learn.py configs/{config.name}{changed}` at commit "
        f"`{(first['commit'] or 'unknown')[:10]}`, {experiment.actor.count} actors of "
        f"{experiment.actor.slots} slots, network `{experiment.network.id}`, memory "
        f"`{experiment.network.core}`, {hardware}.\n\n"
        f"![Return over frames, one line for every seed]({config.stem}.png)\n\n"
        "| seed | return, mean of the last 100 episodes | frames | seconds | steps/s | mean lag |\n"
        f"|---|---|---|---|---|---|\n{rows}"
    )


def main() -> int:
    """Train from every seed, say what came of it, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    experiment = load(options.config, options.set)
    journals, summaries, problems = {}, {}, []
    with tempfile.TemporaryDirectory(prefix="pronk-learn-") as folder:
        for seed in options.seeds:
            run = train(options.config, seed, options.set, Path(folder))
            problems += [f"seed {seed}: {fault}" for fault in faults(run)]
            journals[seed] = journal(run)
            summaries[seed] = json.loads((run / "summary.json").read_text())
    if problems:
        print("\n".join(problems))
        return 1
    PAGES.mkdir(parents=True, exist_ok=True)
    draw(experiment, journals, PAGES / f"{options.config.stem}.png")
    text = page(options.config, options.set, experiment, summaries)
    (PAGES / f"{options.config.stem}.md").write_text(text, encoding="utf-8")
    returns = [summary["return_mean_last_100"] for summary in summaries.values()]
    seconds = [round(summary["seconds"]) for summary in summaries.values()]
    print(f"returns {returns} in {seconds} s")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # take the cluster along
    sys.exit(main())
