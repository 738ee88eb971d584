"""One actor in lock step: a run repeats bit by bit, and every unroll is trained by the weights that
made it, so the importance weight is 1 in every update."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from valkeys import EmbeddedValkey

ROOT = Path(__file__).parents[2]
OVERRIDES = (
    "actor.lockstep=true",
    "actor.count=1",
    "actor.slots=8",
    "algorithm.batch_size=8",
    "algorithm.unroll_length=20",
    "network.core=lstm",
    "network.core_size=16",
    "network.last_action=true",
    "network.normalise_observations=true",
    "stop.return_mean=null",
    "stop.frames=8_000",
)

pytestmark = pytest.mark.timeout(180)


def up(run: Path, *options: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "pronk.cli.main", "up"]
    config = str(ROOT / "configs/cartpole.yaml")
    overrides = [word for override in OVERRIDES for word in ("--set", override)]
    return [*command, config, "--headless", "--run-dir", str(run), *overrides, *options]


def train(run: Path, seed: int) -> dict[str, object]:
    """What the last checkpoint of a run holds, clocks and ids left out."""
    command = up(run, "--set", f"seed={seed}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = max((run / "checkpoints").iterdir())
    state = json.loads((folder / "state.json").read_text())
    counters = {key: value for key, value in state["counters"].items() if key != "seconds"}
    return {"sha256": state["sha256"], "rng": state["rng"], **counters}


def test_an_emptied_buffer_does_not_stop_it(tmp_path):
    """The learner waits for an unroll, the actor for a version, and neither will come."""
    with (
        EmbeddedValkey(tmp_path) as valkey,
        Redis.from_url(valkey.url) as client,
        subprocess.Popen(up(tmp_path / "run", "--redis-url", valkey.url)) as run,
    ):
        try:
            steal_an_unroll(client, run)
            client.flushall()
            assert run.wait(120) == 0
        finally:
            run.kill()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["stop_reason"] == "frames reached 8000"
    assert (tmp_path / "run/logs/actor-0.log").read_text().count("unroll_lost") == 1


def steal_an_unroll(client: Redis, run: "subprocess.Popen[bytes]") -> None:
    """Take one before the learner does."""
    while run.poll() is None:
        with suppress(ResponseError):  # there is no group yet
            for stream in client.keys("pronk:*:unrolls"):
                if client.xreadgroup("learner", "thief", {stream: ">"}, block=2000):
                    return
        time.sleep(0.01)


def test_a_run_repeats_and_another_seed_is_another_run(tmp_path):
    with ThreadPoolExecutor() as pool:
        runs = [(tmp_path / "first", 3), (tmp_path / "second", 3), (tmp_path / "other", 4)]
        first, second, other = pool.map(train, *zip(*runs, strict=True))

    assert second == first
    # Not only in config.yaml, which names the seed. Other play alone would make other weights; the
    # learner's generator tells that the first ones were drawn by the seed.
    weights = "weights.safetensors"
    assert other["sha256"][weights] != first["sha256"][weights]
    assert other["rng"] != first["rng"]
    assert first["updates"] >= 50
    assert first["lag_sum"] == 0
    rows = (tmp_path / "first/metrics.jsonl").read_text().splitlines()
    rhos = [json.loads(row)["rho_mean"] for row in rows]
    assert len(rhos) > 1
    assert max(abs(rho - 1) for rho in rhos) <= 1e-5
