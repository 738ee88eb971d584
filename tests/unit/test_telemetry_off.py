"""Nobody is told that somebody trains: ONNX Runtime's wheels would, from their import on."""

import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_leaves_no_number_of_this_machine(tmp_path: Path) -> None:
    places = {name: str(tmp_path) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", "import pronk.policy.engine"], env=inherited | places, check=True
    )
    assert list(tmp_path.rglob("*")) == []
