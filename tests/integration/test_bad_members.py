"""What one member says can spoil neither the run nor what others are told about it."""

import math
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from cluster_clients import TRAIN, Client
from param_servers import SPEC, eventually
from prometheus_client import REGISTRY
from pronk_param_server import overview
from structlog.testing import capture_logs

from pronk.cli.asking import Poller
from pronk.cli.session import Judge
from pronk.errors import Misconfigured
from pronk.transport import channels, cluster
from pronk.transport.bundles import to_message
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import spec_pb2
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

INTERNAL, INVALID = grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT


def refused(method: str, code: grpc.StatusCode) -> float:
    labels = {"method": method, "code": code.name}
    return REGISTRY.get_sample_value("pronk_rpc_refused_total", labels) or 0.0


BAD_SPECS: dict[str, Callable[[spec_pb2.EnvironmentSpec], object]] = {
    "unknown dtype": lambda m: setattr(m.observation[0], "dtype", 99),
    "no tasks": lambda m: m.ClearField("tasks"),
    "an action without kind": lambda m: m.action[0].ClearField("discrete"),
    "a shape that nobody can hold": lambda m: m.observation[0].shape.extend([2**31 - 1] * 2),
}


@pytest.mark.parametrize("spoil", BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_first_actor_with_a_spoiled_spec_leaves_the_run_to_the_next(
    client: Client, spoil: Callable[[spec_pb2.EnvironmentSpec], object]
) -> None:
    bad = client.membership(TRAIN)
    spoil(bad._register_request.spec)
    with pytest.raises(Misconfigured, match="the environment's spec"):
        bad.join(client.stop)
    client.join(TRAIN)
    assert cluster.wait_for_spec(client.channel, client.stop) == SPEC


def test_a_registered_spec_that_cannot_be_used_is_told_in_one_line(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a server that knows more than this learner does."""
    monkeypatch.setattr("pronk_param_server.admission.check_spec", lambda spec: None)
    odd = client.membership(TRAIN)
    odd._register_request.spec.observation[0].dtype = 99  # type: ignore[assignment]
    assert odd.join(client.stop)
    with pytest.raises(Misconfigured, match=r"cannot be used: .* unknown data type 99"):
        cluster.wait_for_spec(client.channel, client.stop)


def ends(client: Client, value: float) -> tuple[str, pb.ReportEpisodesRequest]:
    learner, actor = client.learner(), client.join(TRAIN)
    version = to_message(learner.publish(learner.grant.number_floor + 1).manifest).version
    end = pb.EpisodeEnd(version=version, slot=1, number=1, steps=1)
    setattr(end, "return", value)
    return learner.member, pb.ReportEpisodesRequest(
        member=actor.member, sequence=1, ends=[end, end, end]
    )


def test_no_return_silences_status(client: Client) -> None:
    learner, request = ends(client, 1.7e308)
    with Poller(client.channel) as poller:
        judge = Judge()
        eventually(lambda: poller.newest)
        assert judge.end(poller.newest, time.monotonic()) is None
        with pytest.raises(grpc.RpcError, match="a return") as error:
            RegistryServiceStub(client.channel).ReportEpisodes(request, timeout=5)
        assert error.value.code() == INVALID
        stop = threading.Event()
        cluster.set_run_state(client.channel, learner, pb.RUN_STATE_FINISHED, "done", stop)
        eventually(lambda: judge.end(poller.newest, time.monotonic()) == "FINISHED")


def test_no_heartbeat_makes_the_demand_nonsense(client: Client) -> None:
    learner, actor = client.learner().membership, client.join(TRAIN)
    heartbeat = RegistryServiceStub(client.channel).Heartbeat
    for member in (learner.member, actor.member):
        heartbeat(pb.HeartbeatRequest(member=member), timeout=5)
    actor.report(pb.ActorStats(frames=10, busy_seconds=10))
    learner.report(pb.LearnerStats(frames_since_start=10, busy_seconds=10))
    eventually(lambda: client.status().actor_demand == 1)
    for seconds in (math.nan, math.inf, 1.7e308, -1.0):
        for request in (
            pb.HeartbeatRequest(member=actor.member, actor=pb.ActorStats(busy_seconds=seconds)),
            pb.HeartbeatRequest(
                member=learner.member, learner=pb.LearnerStats(busy_seconds=seconds)
            ),
        ):
            with pytest.raises(grpc.RpcError, match="busy_seconds") as error:
                heartbeat(request, timeout=5)
            assert error.value.code() == INVALID
    assert client.status().actor_demand == 1


def test_a_crash_of_a_call_is_counted_and_told_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OverflowError("too large")

    client.join(TRAIN)
    monkeypatch.setattr(overview, "demands", fails)
    monkeypatch.setattr(overview, "tell_metrics", lambda *_: None)
    before = refused("GetStatus", INTERNAL)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match="fails at GetStatus") as error:
                client.status()
            assert error.value.code() == INTERNAL
    assert refused("GetStatus", INTERNAL) == before + 3
    assert [each["method"] for each in logs if each["event"] == "call_failed"] == ["GetStatus"]


def test_a_crash_of_a_stream_is_counted_as_well(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = client.learner()
    learner.publish(1)

    def fails(*_: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("pronk_param_server.blobs.Blobs.small", fails)
    before = refused("Watch", INTERNAL)
    with pytest.raises(grpc.RpcError, match="fails at Watch"):
        cluster.newest_version(client.channel, "default")
    assert refused("Watch", INTERNAL) == before + 1


def test_a_poller_counts_how_long_nothing_was_answered_and_asks_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([ValueError("nonsense"), None])

    def status(channel: grpc.Channel) -> pb.GetStatusResponse:
        if (error := next(answers, None)) is not None:
            raise error
        return cluster.status(channel)

    monkeypatch.setattr("pronk.cli.asking.status", status)
    with Poller(client.channel) as poller:
        eventually(lambda: poller.why)
        assert poller.why == "ValueError: nonsense"
        assert 0 < poller.silent_seconds < channels.CALL_SECONDS + 1
        eventually(lambda: poller.newest)
        assert (poller.silent_seconds, poller.why) == (0.0, "")
