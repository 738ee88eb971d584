"""docker-compose.secure.yml on a real engine: the cluster learns, and strangers learn nothing."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compose_cluster import OURS, Cluster, eventually
from compose_programs import ROOT, engine

HOLDERS = (*OURS, "redis")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


def make_secrets(cluster: Cluster) -> Path:
    """What `make secrets` does, elsewhere: whoever runs this test may have secrets of their own."""
    port = cluster.environment["PRONK_PORT"]
    subprocess.run(
        [sys.executable, ROOT / "scripts/make_secrets.py"],
        cwd=cluster.folder, env=os.environ | {"PRONK_PORT": port}, check=True, timeout=60,
    )  # fmt: skip
    return cluster.folder / "secrets"


def as_role(secrets: Path, role: str) -> dict[str, str]:
    """The variables of the role's file `env`, as a shell would read them."""
    words = shlex.split((secrets / role / "env").read_text())
    return dict(word.split("=", 1) for word in words if word != "export")


def refused(cluster: Cluster, **instead: str) -> bool:
    """Whether `pronk status` is refused with the operator's certificates and another token."""
    asking = {name: value for name, value in cluster.asking.items() if name != "PRONK_TOKEN_FILE"}
    done = cluster.ask("status", of=asking | instead)
    return done.returncode == 2 and "refuses" in done.stderr


@pytest.fixture
def secured(cluster: Cluster) -> Cluster:
    secrets = make_secrets(cluster)
    cluster.add(ROOT / "docker-compose.secure.yml")
    cluster.override({name: {"volumes": [f"{secrets / name}:/secrets:ro"]} for name in HOLDERS})
    cluster.asking = as_role(secrets, "operator")
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(lambda: cluster.frames > 50_000, 240, "it learns")
    return cluster


def test_it_learns_and_answers_nobody_without_credentials(secured: Cluster, tmp_path: Path) -> None:
    eventually(secured.all_up, 60, "every target of Prometheus is up")
    done = secured.ask("fetch", "--out", str(tmp_path / "fetched"))
    assert done.returncode == 0, done.stderr

    assert refused(secured)
    assert refused(secured, PRONK_TOKEN="a-guess")
    stranger = {"PRONK_SERVER": secured.asking["PRONK_SERVER"]}
    assert secured.ask("status", of=stranger).returncode != 0

    # An actor's token is good for less than an operator's.
    secured.compose("exec", "-T", "actor", "pronk", "status")
    fetch = ("exec", "-T", "actor", "pronk", "fetch", "--out", "/tmp/fetched")
    done = secured.run("docker", "compose", *fetch, seconds=60)
    assert done.returncode != 0
    assert "refuses" in done.stderr

    redis = ("docker", "compose", "exec", "-T", "redis", "redis-cli")
    tls = secured.run(*redis, "--tls", "--cacert", "/secrets/ca.crt", "ping", seconds=60)
    assert "NOAUTH" in tls.stdout + tls.stderr
    assert "PONG" not in secured.run(*redis, "ping", seconds=60).stdout
    secured.compose("down", "--volumes")


def test_new_secrets_and_a_restart_renew_them(secured: Cluster) -> None:
    frames = secured.frames
    old = (secured.folder / "secrets/operator/token").read_text().strip()
    shutil.rmtree(secured.folder / "secrets")
    make_secrets(secured)
    secured.compose("restart")
    secured.goes_on("with new certificates and tokens", since=frames)
    assert refused(secured, PRONK_TOKEN=old)
    secured.compose("down", "--volumes")
