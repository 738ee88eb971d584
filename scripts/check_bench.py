"""Measure a cluster that trains, as `pronk bench cluster` does, against a least speed.

`check_bench.py CONFIG STEPS_PER_SECOND`. Status 0: it is as fast. 1: it is slower. 2: it could not
be measured.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(config: Path, least: float) -> int:
    """Measure and compare."""
    with tempfile.TemporaryDirectory(prefix="pronk-bench-") as folder:
        found = Path(folder) / "bench.json"
        command = [sys.executable, "-P", "-m", "pronk.cli.main", "bench", "cluster", str(config)]
        command += ["--json", str(found)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            return 2
        speed = json.loads(found.read_text())["steps_per_second"]
    print(f"{speed:,.0f} steps/s, at least {least:,.0f} were asked for")
    return 0 if speed >= least else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
