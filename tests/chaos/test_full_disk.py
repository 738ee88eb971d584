"""A disk that fills up under a running cluster: told, counted, and harmless."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cluster import Cluster, experiment_of
from prometheus_client.parser import text_string_to_metric_families
from pronk_learner import checkpoint
from versions import Versions

DISK = "4m"
WAIT_SECONDS = 120.0
FULL_SECONDS = 15.0
"""That those who died while it is full are watched."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk of its own for a folder."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(ballast: Path) -> None:
    """Leave no byte."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def counted(cluster: Cluster, name: str, counter: str) -> float:
    """The sum of a counter of a program, as its metrics port tells."""
    port = cluster.logged(name, "joined")[-1]["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return sum(s.value for f in families for s in f.samples if s.name == counter)


@pytest.mark.parametrize("logs", ["beside", "on it"])
def test_a_disk_that_is_full_and_then_is_not(tmp_path: Path, logs: str) -> None:
    run = tmp_path / "run"
    with small_disk(run):
        if logs == "beside":
            (tmp_path / "logs").mkdir()
            (run / "logs").symlink_to(tmp_path / "logs")
        cluster = Cluster(experiment_of("stop.seconds=1"), tmp_path)

        def until(condition) -> None:
            cluster.until(condition, time.monotonic() + WAIT_SECONDS)

        def updates() -> float:
            return counted(cluster, "learner", "pronk_updates_total")

        def failed(counter: str) -> float:
            return counted(cluster, "learner", f"pronk_{counter}_failures_total")

        with cluster, Versions(cluster.addresses.server) as versions:
            until(lambda: cluster.timeline.frames)
            saved = checkpoint.folders(run / "checkpoints")
            fill(run / "ballast")
            until(lambda: failed("checkpoint") and failed("disk"))
            trained, served = updates(), len(versions.served)
            until(lambda: updates() > trained and len(versions.served) > served)
            assert checkpoint.newest(run / "checkpoints") is not None
            assert cluster.told == [], "nobody died"

            cluster.kill("learner", "param-server")
            time.sleep(0.5)
            fill(run / "ballast")  # what they left free
            began = time.monotonic()
            until(lambda: time.monotonic() > began + FULL_SECONDS)
            deaths = list(cluster.told)
            assert len(deaths) == 2, "who starts waits for room"

            (run / "ballast").unlink()
            frames = cluster.timeline.frames
            until(lambda: cluster.timeline.frames > frames)
            until(lambda: checkpoint.folders(run / "checkpoints")[-1] not in saved)
            rows = failed("disk")
            cluster.let_end()
            until(cluster.has_ended)
            assert failed("disk") == rows, "written again"
            cluster.drain()
        assert cluster.told == deaths, "nobody else died"
        assert cluster.summary()["stop_reason"] == "seconds reached 1"
        assert versions.error is None
        assert versions.twofold == {}
        if logs == "beside":
            assert cluster.logged("learner", "checkpoint_not_written")
            assert cluster.logged("learner", "not_written")
            waits = cluster.logged("param-server", "waiting")
            assert [line["waiting_for"] for line in waits] == ["room on the disk"]
        assert "Traceback" not in (run / "logs/learner.log").read_text()
        doctor = [sys.executable, "-P", "-m", "pronk.cli.main", "doctor", str(run), "--json"]
        done = subprocess.run(doctor, capture_output=True, text=True, env=os.environ, check=False)
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)
