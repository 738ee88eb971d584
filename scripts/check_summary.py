"""Say whether a run reached its goal and left what it must: `check_summary.py RUN_DIR`."""

import json
import sys
from pathlib import Path

from pronk.config import load

KEYS = {
    *("run", "env", "algorithm", "seed", "experiment_hash", "commit", "versions", "hardware"),
    *("frames", "steps", "seconds", "steps_per_second", "episodes", "return_mean_last_100"),
    *("stop_reason", "learner_updates", "mean_lag"),
}
FILES = (
    *("config.yaml", "metrics.jsonl", "curve.png", "events.*"),
    *("checkpoints/*", "policies/*", "logs/*"),
)


def faults(run: Path) -> list[str]:
    """What is wrong with a finished run; nothing, when all is well."""
    goal = load(run / "config.yaml").stop.return_mean
    summary = json.loads((run / "summary.json").read_text())
    found = [f"{name} is not there" for name in FILES if not list(run.glob(name))]
    if summary.keys() != KEYS:
        found.append(f"summary.json: other keys than expected: {sorted(summary.keys() ^ KEYS)}")
    elif goal is not None and not reached(summary["return_mean_last_100"], goal):
        found.append(f"return {summary['return_mean_last_100']} is below the goal of {goal}")
    return found


def reached(mean: float | None, goal: float) -> bool:
    """Whether episodes ended, and well enough."""
    return mean is not None and mean >= goal


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    print("\n".join(problems) or "the run reached its goal and left all its files")
    sys.exit(1 if problems else 0)
