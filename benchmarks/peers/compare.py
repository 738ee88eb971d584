"""Train the same beside others, in turn, and say who learns how fast.

A trial is a whole program in a process group of its own, from its start until it has shown its
steady steps per second and reached the score, or until its time is over. First every peer shows
all of its variants, then the better ones are repeated.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import venvs
import verdict
from peers import HERE, OURS, PEERS, Peer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from trial import Point, Rules, Trial, run
from workloads import WORKLOADS

from pronk.hardware import processor, usable_cores

QUICK = Rules(limit=90.0, warm_up=2.0, window=8.0)
"""And to no score: whether all runs is what it shows."""
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXAMPLES = """Examples:
  python benchmarks/peers/compare.py --out runs/peers
  python benchmarks/peers/compare.py --workload cartpole --workload cartpole-sync --rounds 5
  python benchmarks/peers/compare.py --quick --workload minatar --peer rllib
"""


class Comparison:
    """All trials, and what is made of them."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options, self.console = options, console
        self.rules = QUICK if options.quick else Rules(limit=60 * options.minutes)
        self.peers = [peer for peer in PEERS if peer.folder in {OURS, *options.peer}]
        self.trials: list[Trial] = []
        self.bare: dict[str, dict[str, dict[str, float]]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.started = time.strftime("%Y-%m-%d %H:%M %Z")

    def prepare(self) -> None:
        """Make what is missing, and see how fast the environments are alone."""
        for peer in self.peers:
            if not venvs.is_ready(peer, self.options.venvs):
                with self.console.status(f"installing {peer.title} (minutes, gigabytes)"):
                    venvs.make(peer, self.options.venvs)
            self.versions[peer.folder] = venvs.versions(self._python(peer), peer.packages)
        for workload in self.options.workload:
            self.bare[workload] = {}
            for peer in self.peers:
                with self.console.status(f"{workload} alone, with what {peer.title} uses"):
                    rates = venvs.bare_rates(self._python(peer), workload)
                self.bare[workload][peer.folder] = rates
                words = ", ".join(f"{kind} {rate:,.0f} steps/s" for kind, rate in rates.items())
                self._say(f"{workload} alone, {peer.title}: {words}")

    def compare(self) -> None:
        """Run all trials."""
        for workload in self.options.workload:
            for peer, variant in self._turns(workload):
                self._try(workload, peer, variant)

    def _turns(self, workload: str) -> Iterator[tuple[Peer, str]]:
        """Who trains next: A B C D A B C D, first with all variants, then with the better ones."""
        for turn in range(max(len(peer.variants) for peer in self.peers)):
            for peer in self.peers:
                # Who has fewer variants shows them again: all have as many trials.
                yield peer, peer.variants[turn % len(peer.variants)]
        for _ in range(0 if self.options.quick else self.options.rounds - 1):
            chosen = {peer.folder: verdict.better(self._of(workload, peer)) for peer in self.peers}
            for turn in range(max(map(len, chosen.values()), default=0)):
                for peer in self.peers:
                    if variants := chosen[peer.folder]:
                        yield peer, variants[turn % len(variants)]

    def _of(self, workload: str, peer: Peer) -> list[Trial]:
        return [t for t in self.trials if (t.workload, t.peer) == (workload, peer.folder)]

    def _try(self, workload: str, peer: Peer, variant: str) -> None:
        trial = Trial(workload, peer.folder, variant)
        plain = not self.console.is_terminal
        goal = None if self.options.quick else WORKLOADS[workload].goal
        columns = (
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
        )  # fmt: skip
        with (
            Progress(*columns, console=self.console, transient=True, disable=plain) as progress,
            tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder,
        ):
            what = f"{workload} · {peer.title} · {variant}"
            shown = progress.add_task(what, total=self.rules.limit, told="starting")

            def tell(point: Point) -> None:
                score = "" if point.score is None else f", score {point.score:.1f}"
                told = f"{point.steps:,} steps{score}"
                progress.update(shown, completed=point.seconds, told=told)

            program = str(HERE / peer.folder / "run.py")
            command = [self._python(peer), program, workload, variant, folder]
            run(trial, command, self.rules, goal, Path(folder), tell, {"PYTHONPATH": str(HERE)})
        self.trials.append(trial)
        self._say(f"{what}: {_said(trial)}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _python(self, peer: Peer) -> str:
        return venvs.python_of(peer, self.options.venvs)

    def report(self, interrupted: bool) -> dict[str, Any]:
        """Everything that a reader needs to repeat and to judge it."""
        tried = dict.fromkeys(trial.workload for trial in self.trials)
        return {
            "started": self.started,
            "interrupted": interrupted,
            "quick": self.options.quick,
            "rules": asdict(self.rules),
            "hardware": {"processor": processor(), "cores": usable_cores()},
            "commit": _commit(),
            "versions": self.versions,
            "bare_rates": self.bare,
            "workloads": {name: verdict.judge(name, self.trials) for name in tried},
            "trials": self.trials,
        }


def _said(trial: Trial) -> str:
    if trial.failed is not None:
        return f"FAILED, {trial.failed}"
    rate = "no steady rate" if trial.rate is None else f"{trial.rate:,.0f} steps/s"
    if trial.to_goal is None:
        return rate
    word = "score" if trial.reached else "score not reached, counts as"
    return f"{rate}, {word} {'after ' if trial.reached else ''}{trial.to_goal:.0f} s"


def _commit() -> str:
    command = ["git", "-C", str(HERE), "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _plain(thing: Any) -> Any:
    if is_dataclass(thing) and not isinstance(thing, type):
        return {key: value for key, value in asdict(thing).items() if key != "points"}
    raise TypeError(type(thing).__name__)


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    others = [peer.folder for peer in PEERS if peer.folder != OURS]
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="may be repeated; default: all"
    )
    parser.add_argument(
        "--peer", action="append", choices=others, help="may be repeated; default: all"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="the first tries all variants (default: 3)"
    )
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="limit of a trial (default: 20)"
    )
    parser.add_argument("--quick", action="store_true", help="every variant once and briefly")
    parser.add_argument(
        "--venvs", type=Path, default=Path("runs/peers/venvs"), help="where peers are installed"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/peers"), help="where peers.json and peers.md go"
    )
    options = parser.parse_args()
    options.workload = options.workload or list(WORKLOADS)
    options.peer = options.peer or others
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Once: what follows is the writing of the report, and that is quick."""
    for number in _ASKING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Compare; 130 when it was interrupted, 2 when a peer cannot be installed."""
    options, console = arguments(), Console()
    for number in _ASKING:
        signal.signal(number, _interrupt)
    comparison, interrupted = Comparison(options, console), False
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        comparison.prepare()
        comparison.compare()
    except KeyboardInterrupt:
        interrupted = True
    except subprocess.CalledProcessError as error:  # it has said why
        console.print(f"cannot prepare the peers: {shlex.join(map(str, error.cmd))} failed")
        return 2
    report = comparison.report(interrupted)
    text = json.dumps(report, indent=2, default=_plain) + "\n"
    (options.out / "peers.json").write_text(text, encoding="utf-8")
    page = verdict.markdown(report)
    (options.out / "peers.md").write_text(page, encoding="utf-8")
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
