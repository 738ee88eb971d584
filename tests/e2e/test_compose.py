"""The cluster of docker-compose.yml on a real engine: it learns, and outlives what is done to it.

Needs a Docker engine and Compose; `make images` first is not needed, but then it takes longer.
"""

import time

import pytest
from compose_cluster import ACTORS, OURS, STARTED, Cluster, eventually
from compose_programs import blocks, docker, engine, generations

KILLED = ("actor", "learner", "redis", "param-server")
CUT_SECONDS = 20.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


@pytest.mark.parametrize("cluster", generations(), indirect=True)
def test_it_starts_learns_and_stops_in_time(cluster: Cluster) -> None:
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(cluster.all_up, 120, "every target of Prometheus is up")
    eventually(lambda: cluster.frames > 50_000, 120, "it learns")
    eventually(lambda: len(cluster.healthy()) == ACTORS + 5, 60, "all are healthy")
    found = "prometheus_notifications_alertmanagers_discovered"
    eventually(lambda: cluster.value(found), 30, "Prometheus knows whom to alarm")
    for service in STARTED:
        assert set(cluster.inspect(service, "{{.RestartCount}}")) == {"0"}, service

    stopping = {service: cluster.containers(service) for service in STARTED}
    cluster.compose("stop")
    how = "{{.State.ExitCode}} {{.State.OOMKilled}}"
    for service, containers in stopping.items():
        ended = set(docker("inspect", "--format", how, *containers).splitlines())
        assert not any(each.startswith("137 ") or "true" in each for each in ended), service
        assert service not in OURS or ended == {"0 false"}, service
    cluster.compose("down", "--volumes")


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


def test_a_second_policy_has_a_learner_of_its_own(cluster: Cluster) -> None:
    """By the override that docs/operations.md shows."""
    text = blocks("Install", "yaml")[1].replace("/two", "/test")
    override = cluster.folder / "docker-compose.override.yml"
    override.write_text(text.replace("./configs:", f"{cluster.configs}:"))
    cluster.add(override)
    cluster.stop_at(change={"policies": {"left": {}, "right": {}}}, frames=10**12)
    cluster.up("learner-right")
    up = {"actor": ["up"] * ACTORS, "learner": ["up", "up"], "param-server": ["up"]}
    eventually(lambda: up.items() <= cluster.targets().items(), 120, "every target is up")
    learned = "min(pronk_frames_consumed_total) and count(pronk_frames_consumed_total) == 2"
    eventually(lambda: (cluster.value(learned) or 0) > 10_000, 240, "both learn")
    cluster.compose("down", "--volumes")
