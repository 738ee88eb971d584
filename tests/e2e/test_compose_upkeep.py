"""Upgrade, backup, restore and a look inside by the commands of docs/operations.md, under a run."""

import json
import re
import tarfile
from collections.abc import Iterator

import pytest
from compose_cluster import OURS, STARTED, Cluster, eventually
from compose_programs import blocks, build_images, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


@pytest.fixture
def learning(cluster: Cluster) -> Cluster:
    """A cluster in the midst of a run."""
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(lambda: cluster.frames > 50_000, 240, "it learns")
    return cluster


@pytest.fixture
def own_images() -> Iterator[None]:
    """Whatever a test builds, others find what is in this tree."""
    yield
    build_images()


def test_an_older_state_is_restored_and_the_run_goes_on(learning: Cluster) -> None:
    backup, restore = blocks("Back up and restore")
    frames = learning.frames
    learning.follow(backup)
    learning.goes_on("while the server was away", since=frames)
    # Two epochs that the backup knows nothing of, and checkpoints of theirs.
    for _ in range(2):
        learning.kill("learner")
        learning.goes_on("after the learner was killed")

    frames = learning.frames
    learning.follow(restore)
    learning.goes_on("after the parameter server was restored", since=frames)
    assert learning.restarts("learner") == 1, "the first epoch it was granted was an old one"
    learning.compose("down", "--volumes")


def resumed(cluster: Cluster) -> list[int]:
    """At how many frames learners went on from a checkpoint."""
    lines = cluster.compose("logs", "--no-color", "learner").splitlines()
    told = [json.loads(line[line.index("{") :]) for line in lines if '"resumed"' in line]
    return [int(each["frames"]) for each in told]


def test_the_learners_state_is_restored_in_the_same_way(learning: Cluster) -> None:
    backup, restore = blocks("Back up and restore")
    frames = learning.frames
    learning.follow(backup.replace("param-server", "learner"))
    learning.goes_on("after the backup", since=2 * frames)
    frames = learning.frames

    named = restore.replace("sh param-server", "sh learner")
    learning.follow(named.replace("param-server.tar", "learner.tar"))
    _, restored = eventually(lambda: len(at := resumed(learning)) == 2 and at, 120, "it resumes")
    assert restored < frames, "from what was restored, not from what was there"
    learning.goes_on("after the learner was restored", since=restored)
    learning.compose("down", "--volumes")


def test_what_was_learned_is_brought_out_and_examined(cluster: Cluster) -> None:
    cluster.stop_at(frames=50_000)
    cluster.up()
    eventually(
        lambda: (now := cluster.status()) and now["state"] == "FINISHED", 240, "the run is over"
    )
    (bring,) = blocks("Stop and resume")
    cluster.follow(bring)
    with tarfile.open(cluster.folder / "run.tar") as brought:
        names = brought.getnames()
    assert {"./summary.json", "./curve.png"} < set(names)
    assert any(name.endswith("/graph.onnx") for name in names)

    (examine,) = blocks("Watch")
    learner, server = examine.replace("\\\n", "").splitlines()
    for command, part in ((learner, "checkpoints"), (server, "ledger")):
        script = f"{command.replace('cartpole', 'test')} --json"
        found = json.loads(cluster.run("bash", "-c", script, seconds=120).stdout)
        missing = [name for name, finding in found.items() if finding["verdict"] == "missing"]
        assert not missing
        assert found[part]["verdict"] == "ok"
    cluster.compose("down", "--volumes")


def test_parts_are_upgraded_one_after_the_other(learning: Cluster, own_images: None) -> None:
    identity = "{{.Id}} {{.Image}} {{.State.StartedAt}} {{.RestartCount}}"

    def seen() -> dict[str, list[list[str]]]:
        return {name: [*map(str.split, learning.inspect(name, identity))] for name in STARTED}

    build_images("next")
    (block,) = blocks("Upgrade")
    steps = block.splitlines()[-len(OURS) :]
    for service, step in zip(OURS, steps, strict=True):
        assert re.fullmatch(rf"docker compose up --detach --no-deps .*{service}", step)
        before = seen()
        learning.follow(step)
        after = seen()
        new = {image for _, image, *_ in after.pop(service)}
        assert new.isdisjoint(image for _, image, *_ in before.pop(service)), service
        assert after == before, f"nobody else is touched when {service} is upgraded"
        learning.goes_on(f"after {service} was upgraded")
    learning.compose("down", "--volumes")
