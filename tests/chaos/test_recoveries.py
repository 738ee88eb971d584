"""What may die, dies at the worst moments: the run goes on, and no version has two contents."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, experiment_of
from pronk_learner import checkpoint
from record import parsed
from redis import Redis
from versions import Versions

WAIT_SECONDS = 120.0
"""For the next thing to happen; it is a matter of seconds, and of the lease's ten."""
LOCK_STEP = (
    "actor.lockstep=true",
    "actor.count=1",
    "actor.slots=8",
    "algorithm.batch_size=8",
    "algorithm.unroll_length=20",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Scene:
    """A cluster that learns, and a watcher of its versions."""

    def __init__(self, cluster: Cluster, versions: Versions) -> None:
        self.cluster = cluster
        self.versions = versions
        self.deeds: list[float] = []

    def until(self, condition) -> None:
        self.cluster.until(condition, time.monotonic() + WAIT_SECONDS)

    def learn(self) -> None:
        """Wait until the run has got on."""
        before = self.cluster.timeline.frames
        self.until(lambda: self.cluster.timeline.frames > before)

    def kill(self, *names: str) -> None:
        """At once."""
        self.deeds.append(time.monotonic())
        self.cluster.kill(*names)

    def flush(self, redis: Redis) -> None:
        """Empty the buffer."""
        self.deeds.append(time.monotonic())
        redis.flushall()

    @property
    def checkpoints(self) -> Path:
        return self.cluster.directory.path / "checkpoints"


@contextmanager
def learning(folder: Path, *changes: str) -> Iterator[Scene]:
    """A run that learns already; leaving lets it learn anew and end, and looks what it came to."""
    cluster = Cluster(experiment_of("stop.seconds=1", *changes), folder)
    with cluster, Versions(cluster.addresses.server) as versions:
        scene = Scene(cluster, versions)
        scene.learn()
        yield scene
        actors = [name for name in cluster.programs if name.startswith("actor")]
        when = max(scene.deeds)
        scene.until(lambda: all(cluster.learned_since(when, name) for name in actors))
        cluster.let_end()
        scene.until(cluster.has_ended)
        cluster.drain()
    assert cluster.summary()["stop_reason"] == "seconds reached 1"
    assert versions.error is None
    assert versions.twofold == {}
    assert versions.served == sorted(versions.served), "versions went back"
    assert not (found := cluster.faults()), "\n".join(found)


@pytest.mark.parametrize("beside", [(), ("param-server",)], ids=["alone", "with the server"])
def test_two_crashes_from_one_checkpoint(tmp_path: Path, beside: tuple[str, ...]) -> None:
    with learning(tmp_path) as scene:
        versions = scene.versions
        scene.until(lambda: len(checkpoint.folders(scene.checkpoints)) > 1)
        seen = len(versions.served)
        scene.until(lambda: len(versions.served) > seen + 3)  # beyond the checkpoint
        scene.kill("learner")
        scene.until(lambda: versions.of_epoch(2) > 3)
        scene.kill("learner", *beside)
        scene.until(lambda: versions.of_epoch(3) > 3)
    resumed = [line["updates"] for line in scene.cluster.logged("learner", "resumed")]
    assert len(resumed) == 2
    assert resumed[0] == resumed[1] > 0, "they went on from the same weights"


def test_a_learner_that_wakes_beside_its_successor_leaves(tmp_path: Path) -> None:
    with learning(tmp_path) as scene:
        cluster = scene.cluster
        scene.deeds.append(time.monotonic())
        cluster.send(signal.SIGSTOP, "learner")
        cluster.start_beside("learner", "successor")
        scene.until(lambda: scene.versions.of_epoch(2) > 3)
        wrote = written_by_the_first(scene)
        cluster.send(signal.SIGCONT, "learner")
        scene.until(lambda: cluster.told)
        scene.learn()
    assert cluster.told[0].startswith("learner ended with status 1;")
    said = (cluster.directory.logs / "learner.log").read_text()
    assert said.count("\npronk: epoch 1 of policy 'default' ended: 2 was granted\n") == 1
    assert "Traceback" not in said
    assert written_by_the_first(scene) <= wrote


def written_by_the_first(scene: Scene) -> set[str]:
    """Checkpoints, acknowledgements and versions of the first epoch."""
    saved = {path.name for path in checkpoint.folders(scene.checkpoints)}
    acknowledged = scene.cluster.record.path.with_name("acknowledged.jsonl").read_bytes()
    consumers = enumerate(line["consumer"] for line in parsed(acknowledged))
    return {
        *(name for name in saved if name.startswith("000001-")),
        *(f"acknowledgement {n}" for n, name in consumers if name.startswith("epoch-1-")),
        *(f"version {number}" for epoch, number in scene.versions.served if epoch == 1),
    }


def test_the_parameter_server_and_all_actors_die_at_once(tmp_path: Path) -> None:
    with learning(tmp_path) as scene:
        learner = scene.cluster.pid("learner")
        served = len(scene.versions.served)
        scene.kill("param-server", "actor-0", "actor-1")
        scene.until(lambda: len(scene.versions.served) > served + 3)
        assert scene.cluster.pid("learner") == learner
    assert {epoch for epoch, _ in scene.versions.served} == {1}


@pytest.mark.parametrize("mode", [(), LOCK_STEP], ids=["normal", "lock step"])
def test_an_emptied_buffer(tmp_path: Path, mode: tuple[str, ...]) -> None:
    with (
        learning(tmp_path, *mode) as scene,
        Redis.from_url(scene.cluster.addresses.redis_url) as redis,
    ):
        for _ in range(4):
            scene.flush(redis)
            scene.learn()
    assert scene.cluster.told == [], "nobody died of it"


@pytest.mark.parametrize("mode", [(), LOCK_STEP], ids=["normal", "lock step"])
def test_a_buffer_that_dies_and_comes_back_empty(tmp_path: Path, mode: tuple[str, ...]) -> None:
    with learning(tmp_path, *mode) as scene:
        for _ in range(2):
            scene.kill("valkey")
            scene.until(lambda: scene.cluster.pid("valkey") is None)
            scene.until(lambda: scene.cluster.pid("valkey") is not None)
            scene.learn()
    died = [line.split()[0] for line in scene.cluster.told]
    assert died == ["valkey", "valkey"], "nobody died of it"
