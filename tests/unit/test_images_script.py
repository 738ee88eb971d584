"""What `make images` prints; with a Docker that builds nothing and only notes what it was asked."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/images.sh"
BASE = "python:3.11-slim-bookworm"
DOCKER = r"""#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
"pull --quiet python"*) touch "$LOG.base" ;;
"image inspect python"* | "image inspect --format {{.Size}} python"*)
    [ -e "$LOG.base" ] || exit 1
    echo 100000000 ;;
"image inspect"*) echo 123000000 ;;
esac
"""


@pytest.mark.parametrize("at_hand", [True, False], ids=["base at hand", "base inside BuildKit"])
def test_every_image_is_built_and_its_size_is_told(tmp_path: Path, at_hand: bool) -> None:
    docker, log = tmp_path / "docker", tmp_path / "log"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    if at_hand:
        Path(f"{log}.base").touch()
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "COMMIT": "c0ffee"}
    done = subprocess.run(
        ["sh", SCRIPT, "--network", "host"],
        env=os.environ | own, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"pronk-{service}:local  23 MB on top of {BASE}"
        for service in ("param-server", "actor", "learner")
    ]
    calls = log.read_text().splitlines()
    builds = [call for call in calls if call.startswith("build ")]
    assert len(builds) == 3
    assert all("COMMIT=c0ffee" in call and "--network host" in call for call in builds)
    assert (f"pull --quiet {BASE}" in calls) is not at_hand
