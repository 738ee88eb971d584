"""`pronk up` with real processes: a run that ends, resumes, is interrupted, killed, and heals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pronk.cli.cluster import _PORTS
from pronk.policy.bundle import Bundle

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "cartpole.yaml")
PRONK = [sys.executable, "-P", "-m", "pronk.cli.main"]
SUMMARY_KEYS = {
    "run", "env", "algorithm", "seed", "experiment_hash", "commit", "frames", "steps", "seconds",
    "steps_per_second", "episodes", "return_mean_last_100", "stop_reason", "learner_updates",
    "mean_lag", "versions", "hardware",
}  # fmt: skip

pytestmark = pytest.mark.timeout(180)


def command(run_dir: Path, *more: str) -> list[str]:
    endless = ["--set", "stop.return_mean=null", "--set", "stop.frames=null"]
    return [*PRONK, "up", CONFIG, "--headless", "--run-dir", str(run_dir), *endless, *more]


def run(arguments: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def last_lines(run_dir: Path) -> str:
    """What every service said last, for a person who reads a failure."""
    logs = sorted((run_dir / "logs").glob("*.log"))
    return "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in logs)


@contextmanager
def started(run_dir: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """A cluster that trains; killed at the end, whatever happened."""
    with subprocess.Popen(
        command(run_dir, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            seen = []
            for line in process.stdout:
                seen.append(line)
                if " training " in line:
                    break
            else:
                pytest.fail("".join(seen) + last_lines(run_dir))
            yield process
        finally:
            process.kill()
            for left in belonging_to(run_dir):  # of a test that went wrong
                left.kill()


def belonging_to(run_dir: Path) -> list[psutil.Process]:
    """Living processes that a run of this directory started, whatever became of their parent."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            named = process.environ().get("PRONK_RUN_DIR") == str(run_dir)
            # Valkey rewrites its command line and works in the folder of the logs.
            works_there = process.cwd().startswith(str(run_dir))
            if process.status() != psutil.STATUS_ZOMBIE and (named or works_there):
                found.append(process)
    return found


def service(run_dir: Path, name: str) -> psutil.Process:
    """A living process of a run by the name of its program."""
    return next(p for p in belonging_to(run_dir) if name in " ".join(p.cmdline()))


def listening(processes: list[psutil.Process]) -> set[int]:
    """Ports that `pronk up` chose; others may be anybody's a moment later."""
    return {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in _PORTS
    }


def is_listened_to(port: int) -> bool:
    with suppress(OSError):
        import socket

        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def summary(run_dir: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run_dir / "summary.json").read_text())
    return found


def test_a_run_ends_and_resumes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = run(command(run_dir, "--set", "stop.frames=100_000"))
    assert done.returncode == 0, done.stdout + done.stderr + last_lines(run_dir)
    assert done.stderr == ""
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "curve.png", "checkpoints"):
        assert (run_dir / name).exists(), name
    assert list(run_dir.glob("events.*"))
    assert {path.stem for path in (run_dir / "logs").glob("*.log")} == {
        "valkey", "param-server", "learner", "actor-0", "actor-1",
    }  # fmt: skip
    first = summary(run_dir)
    assert set(first) == SUMMARY_KEYS
    assert first["stop_reason"] == "frames reached 100000"
    assert isinstance(first["frames"], int)
    assert 100_000 <= first["frames"] < 150_000
    assert f"policy    {run_dir}/policies/default-" in done.stdout
    newest = max((run_dir / "policies").iterdir(), key=lambda path: path.stat().st_mtime)
    assert Bundle.load(newest).manifest.frames == first["frames"]
    assert not belonging_to(run_dir)

    again = run(command(run_dir, "--set", "stop.frames=100_000"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert summary(run_dir)["frames"] == first["frames"], "it was over already"

    more = run(command(run_dir, "--set", "stop.frames=200_000"))
    assert more.returncode == 0, more.stdout + more.stderr
    second = summary(run_dir)
    assert isinstance(second["frames"], int)
    assert 200_000 <= second["frames"] < 250_000
    assert second["run"] == first["run"]
    rows = [json.loads(row) for row in (run_dir / "metrics.jsonl").read_text().splitlines()]
    frames = [row["frames"] for row in rows]
    assert frames == sorted(frames)
    assert frames[0] < 100_000 < 200_000 <= frames[-1]
    assert not belonging_to(run_dir)

    export(run_dir, tmp_path / "exported")


def export(run_dir: Path, out: Path) -> None:
    shown = run([*PRONK, "policy", "show", str(run_dir)])
    assert "CartPole-v1" in shown.stdout
    done = run([*PRONK, "policy", "export", str(run_dir), "--out", str(out)])
    assert done.returncode == 0, done.stderr
    assert Bundle.load(out).manifest.frames == summary(run_dir)["frames"]


@pytest.mark.slow
def test_killed_services_come_back_and_status_sees_them(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started(run_dir) as process:

        def status() -> dict[str, object]:
            done = run([*PRONK, "status", str(run_dir), "--json"])
            assert done.returncode == 0, done.stderr
            found: dict[str, object] = json.loads(done.stdout)
            return found

        before = status()
        for name in ("main actor", "valkey", "main learner"):
            service(run_dir, name).kill()

        def goes_on() -> bool:
            now = status()
            assert isinstance(now["updates"], int)
            assert isinstance(before["updates"], int)
            return now["state"] == "RUNNING" and now["updates"] > before["updates"] + 20

        until(goes_on, 60)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    for name in ("actor-", "valkey", "learner"):
        assert re.search(f"^{name}.*was killed by SIGKILL; starting it again", out, re.MULTILINE)


def test_two_policies_train_in_one_experiment(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    policies = "policies={red: {}, blue: {algorithm: {batch_size: 32}}}"
    done = run(command(run_dir, "--set", policies, "--set", "stop.frames=20_000"))
    assert done.returncode == 0, done.stdout + done.stderr + last_lines(run_dir)
    for policy in ("red", "blue"):
        assert summary(run_dir / policy)["stop_reason"] == "frames reached 20000"
        newest = max((run_dir / policy / "policies").iterdir(), key=lambda p: p.stat().st_mtime)
        bundle = Bundle.load(newest)
        assert bundle.manifest.policy == policy
        assert bundle.manifest.frames == summary(run_dir / policy)["frames"]
        assert f"policy    {newest}" in done.stdout
    assert f"pronk evaluate {run_dir}/red\n" in done.stdout
    asked = run([*PRONK, "evaluate", str(run_dir / "red"), "--episodes", "2"])
    assert asked.returncode == 0, asked.stderr
    asked = run([*PRONK, "evaluate", str(run_dir), "--episodes", "2"])
    assert asked.returncode == 2
    assert "holds 2 policies: give one" in asked.stderr
    assert not belonging_to(run_dir)


NOT_FOR_ONNX = """
import torch
from torch import nn

class Bessel(nn.Module):
    output_size = 16

    def __init__(self, observation):
        super().__init__()
        self.linear = nn.Linear(observation[0].shape[0], 16)

    def forward(self, observation):
        return torch.special.i1(self.linear(observation["default"]))
"""


@pytest.mark.slow
def test_a_network_that_does_not_export_trains_in_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(NOT_FOR_ONNX)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_dir = tmp_path / "run"
    arguments = command(run_dir, "--set", "network.id=mynet:Bessel", "--set", "stop.frames=20000")

    refused = run(arguments)
    assert refused.returncode != 0
    (line,) = refused.stderr.splitlines()
    assert "special_i1" in line
    assert "actor.engine: torch" in line
    assert not (run_dir / "logs").exists(), "refused before anything started"

    done = run([*arguments, "--set", "actor.engine=torch"])
    assert done.returncode == 0, done.stderr + last_lines(run_dir)
    assert summary(run_dir)["learner_updates"]
    (folder,) = (run_dir / "policies").iterdir()
    assert Bundle.load(folder).graph == b""
    evaluated = run([*PRONK, "evaluate", str(run_dir), "--episodes", "2", "--json"])
    assert json.loads(evaluated.stdout)["episodes"] == 2, evaluated.stderr


@pytest.mark.slow
def test_the_bench_measures_a_cluster(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = run([*PRONK, "bench", "cluster", CONFIG, "--seconds", "5", "--json", str(out)])
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["steps_per_second"] > 0
    assert result["frames_per_second"] == pytest.approx(result["steps_per_second"])
    assert "efficiency" not in result, "it cannot be told yet"
    assert 0 < result["learner_busy_share"] <= 1
    assert 0 <= result["actor_blocked_share"] < 1
    assert set(result["cpu_seconds_per_step"]) == {"actor", "learner", "param-server", "valkey"}
    assert all(seconds > 0 for seconds in result["cpu_seconds_per_step"].values())
