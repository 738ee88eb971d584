"""The cluster of docker-compose.yml on a real engine: it learns, and stops when it is told to.

Needs a Docker engine and Compose; `make images` first is not needed, but then it takes longer.
"""

import pytest
from compose_cluster import ACTORS, OURS, STARTED, Cluster, eventually
from compose_programs import blocks, docker, engine, generations

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
