"""Pronk on a workload: `run.py WORKLOAD VARIANT FOLDER`; it trains until ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workloads import SYNC_CARTPOLE, Teller

_ROOT = Path(__file__).resolve().parents[3]
_ENDLESS = ("stop.frames=null", "stop.seconds=null", "stop.return_mean=null")
EXPERIMENTS = {
    "cartpole": ("cartpole.yaml",),
    "cartpole-sync": ("cartpole.yaml", f"env.id=workloads:{SYNC_CARTPOLE}"),
    "minatar": ("minatar_breakout.yaml",),
    "pong": ("atari_pong.yaml",),
}
"""The configurations that come with it and are documented, with what the workload changes."""


def main(name: str, variant: str, folder: str) -> int:
    """Train until a signal comes; the status of `pronk up`."""
    if variant != "documented":
        sys.exit(f"ours has no variant {variant}")
    config, *changes = EXPERIMENTS[name]
    run = Path(folder) / "run"
    command = [sys.executable, "-P", "-m", "pronk.cli.main", "up", str(_ROOT / "configs" / config)]
    command += ["--headless", "--run-dir", str(run)]
    for change in (*_ENDLESS, *changes):
        command += ["--set", change]
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    cluster = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)})
    signal.signal(signal.SIGTERM, lambda *_: cluster.terminate())
    follow(run / "metrics.jsonl", cluster, Teller())
    return cluster.returncode


def follow(metrics: Path, cluster: subprocess.Popen[bytes], teller: Teller) -> None:
    """Tell every row that the learner writes, about one a second.

    `steps` are valid transitions in applied updates, each once (`Progress.applied`); `return_mean`
    is of the last hundred episodes.
    """
    while cluster.poll() is None and not metrics.exists():
        time.sleep(0.1)
    if cluster.poll() is not None:
        return
    with metrics.open(encoding="utf-8") as rows:
        kept = ""
        while cluster.poll() is None:
            kept += rows.readline()
            if not kept.endswith("\n"):
                time.sleep(0.1)
                continue
            row, kept = json.loads(kept), ""
            mean = row["return_mean"]
            returns = [] if mean is None else [mean]
            teller.tell(row["steps"], returns, row["episodes"], at=row["time"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
