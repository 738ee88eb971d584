"""Every experiment of configs/ trains: `pronk up`, for some updates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
SETTINGS = ("stop.return_mean=null", "stop.frames=20_000")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_as_it_is(config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    changes = [word for each in SETTINGS for word in ("--set", each)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pronk.cli.main", "up", str(config), "--headless",
         "--run-dir", str(run_dir), *changes],
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["stop_reason"] == "frames reached 20000"
    assert summary["learner_updates"] > 3
