"""`make compose-demo` on a real engine: what it learned lies on this machine, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from compose_cluster import Cluster
from compose_programs import COMMIT, ROOT, docker, engine, generations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


@pytest.mark.parametrize("cluster", generations(), indirect=True)
def test_the_demo_leaves_what_it_learned_and_nothing_else(cluster: Cluster) -> None:
    shutil.copy(ROOT / "configs/cartpole.yaml", cluster.configs)
    cluster.environment["DEMO_NAME"] = cluster.name
    del cluster.environment["COMMIT"]
    done = cluster.run("sh", str(ROOT / "scripts/compose_demo.sh"), seconds=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not cluster.left_behind()

    run = ROOT / done.stdout.splitlines()[-1].rpartition(" ")[2]
    try:
        check(run)
    finally:
        shutil.rmtree(run)
    for service in ("param-server", "learner", "actor"):
        label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
        shown = docker("image", "inspect", "--format", label, f"pronk-{service}:local")
        assert shown.strip() == COMMIT, service


def check(run: Path) -> None:
    """Whether policy, curve and summary came."""
    summary = json.loads((run / "summary.json").read_text())
    assert summary["return_mean_last_100"] >= 475
    assert summary["commit"] == COMMIT
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.glob("policies/default-*/graph.onnx"))
