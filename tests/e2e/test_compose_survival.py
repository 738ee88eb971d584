"""The cluster of docker-compose.yml on a real engine outlives what is done to it, and resumes."""

import time

import pytest
from compose_cluster import ACTORS, Cluster, eventually
from compose_programs import docker, engine

KILLED = ("actor", "learner", "redis", "param-server")
CUT_SECONDS = 20.0
SCRAPE_SECONDS = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


def restarts(cluster: Cluster) -> dict[str, list[str]]:
    """How often the restart policy brought each container back, by service."""
    return {service: cluster.inspect(service, "{{.RestartCount}}") for service in KILLED}


def at_rest(cluster: Cluster) -> float | None:
    """Frames that the actors of now have played, if those stood still between three scrapes."""
    played = 'sum(pronk_frames_produced_total{job="actor"})'
    before = cluster.value(played)
    time.sleep(3.2 * SCRAPE_SECONDS)
    return before if before == cluster.value(played) else None


def test_it_learns_and_outlives_whatever_is_done_to_it(cluster: Cluster) -> None:
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(cluster.all_up, 120, "every target of Prometheus is up")
    eventually(lambda: cluster.frames > 100_000, 120, "it learns")

    for service in KILLED:
        cluster.kill(service)
        cluster.goes_on(f"after {service} was killed")

    for service in KILLED:
        before = restarts(cluster)
        container = cluster.containers(service)[0]
        docker("network", "disconnect", f"{cluster.name}_default", container)
        time.sleep(CUT_SECONDS)
        docker("network", "connect", "--alias", service, f"{cluster.name}_default", container)
        cluster.goes_on(f"after {service} was cut off")
        assert restarts(cluster) == before, f"nobody ends because {service} was cut off"

    # Down and up again, with another stop condition: it goes on where it was.
    before_down = cluster.frames
    cluster.compose("down")
    cluster.stop_at(return_mean=475, frames=10**12)
    cluster.up()
    first = eventually(lambda: cluster.frames, 120, "it trains again")
    assert first >= before_down * 0.9 > 0, "it resumes"
    finished = eventually(
        lambda: (found := cluster.status()) and found["state"] == "FINISHED" and found,
        300,
        "the run is over",
    )
    assert finished["return_mean"] >= 475
    eventually(cluster.all_up, 60, "everybody is up at the end")
    assert len([m for m in finished["members"] if m["alive"]]) == ACTORS + 1
    played = eventually(lambda: at_rest(cluster), 60, "everybody is idle")
    assert played > 0
    eventually(lambda: len(cluster.healthy()) == ACTORS + 5, 60, "all are healthy")
    cluster.compose("down", "--volumes")
