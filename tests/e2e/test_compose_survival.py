"""The cluster of docker-compose.yml on a real engine outlives what is done to it, and resumes."""

import time

import pytest
from compose_cluster import ACTORS, Cluster, eventually
from compose_programs import docker, engine

KILLED = ("actor", "learner", "redis", "param-server")
CUT_SECONDS = 20.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


def test_it_learns_and_outlives_whatever_is_done_to_it(cluster: Cluster) -> None:
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(cluster.all_up, 120, "every target of Prometheus is up")
    eventually(lambda: cluster.frames > 100_000, 120, "it learns")

    for service in KILLED:
        cluster.kill(service)
        cluster.goes_on(f"after {service} was killed")

    for service in KILLED:
        container = cluster.containers(service)[0]
        docker("network", "disconnect", f"{cluster.name}_default", container)
        time.sleep(CUT_SECONDS)
        docker("network", "connect", "--alias", service, f"{cluster.name}_default", container)
        cluster.goes_on(f"after {service} was cut off")

    # Down and up again, with another stop condition: it goes on where it was.
    before_down = cluster.frames
    cluster.compose("down")
    cluster.stop_at(return_mean=475, frames=10**12)
    cluster.up()
    eventually(lambda: cluster.frames >= before_down * 0.9 > 0, 120, "it resumes")
    finished = eventually(
        lambda: (found := cluster.status()) and found["state"] == "FINISHED" and found,
        300,
        "the run is over",
    )
    assert finished["return_mean"] >= 475
    eventually(cluster.all_up, 60, "everybody is up at the end")
    assert len([m for m in finished["members"] if m["alive"]]) == ACTORS + 1
    frames = cluster.frames
    time.sleep(5)
    assert cluster.frames == frames, "everybody is idle"
    eventually(lambda: len(cluster.healthy()) == ACTORS + 5, 60, "all are healthy")
    cluster.compose("down", "--volumes")
