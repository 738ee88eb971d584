"""One bad connection cannot starve the rest: limits of calls, watches, silence and age."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cluster_clients import TRAIN
from param_servers import SPEC, ServerThread, eventually
from prometheus_client import REGISTRY
from pronk_param_server.registry import MAX_WATCHES

from pronk.transport import limits
from pronk.transport import server as server_module
from pronk.transport.membership import Membership
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def connection(server: ServerThread) -> Iterator[grpc.Channel]:
    """A connection that no other channel of this process shares."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(str(server.address), options=options) as channel:
        yield channel


def refused(method: str) -> float:
    labels = {"method": method, "code": "RESOURCE_EXHAUSTED"}
    return REGISTRY.get_sample_value("pronk_rpc_refused_total", labels) or 0.0


def test_a_flood_is_refused_while_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_SECOND", 1.0)
    monkeypatch.setattr(limits, "BURST", 40)
    before = refused("GetStatus")
    with (
        ServerThread(tmp_path / "run") as server,
        connection(server) as greedy,
        server.connect() as modest,
    ):
        member = Membership(modest, TRAIN, server.hash, ("default",), SPEC)
        assert member.join(threading.Event())
        flood, calm = RegistryServiceStub(greedy), RegistryServiceStub(modest)
        heartbeat = pb.HeartbeatRequest(member=member.member)
        calls = []
        for _ in range(10):
            calls += [flood.GetStatus.future(pb.GetStatusRequest(), timeout=60) for _ in range(40)]
            assert calm.Heartbeat(heartbeat, timeout=5).server_incarnation
        codes = Counter(call.code() for call in calls)
        member.leave()
    assert codes[OK] >= 40
    assert codes[EXHAUSTED] >= 200, codes
    # gRPC itself refuses streams above its own limit.
    assert codes.keys() <= {OK, EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    assert refused("GetStatus") - before == codes[EXHAUSTED]


def test_one_connection_has_so_many_watches_and_no_more(tmp_path: Path) -> None:
    request = pb.WatchRequest(policy="default")
    with (
        ServerThread(tmp_path / "run") as server,
        connection(server) as greedy,
        connection(server) as modest,
    ):
        watch = RegistryServiceStub(greedy).Watch
        watches = [watch(request, timeout=60) for _ in range(MAX_WATCHES)]
        extra = watch(request, timeout=60)
        with pytest.raises(grpc.RpcError, match=f"at most {MAX_WATCHES} watches"):
            next(extra)
        assert extra.code() == EXHAUSTED
        assert all(watch.is_active() for watch in watches)
        with pytest.raises(grpc.RpcError, match="DEADLINE"):  # let in, and nothing was published
            next(RegistryServiceStub(modest).Watch(request, timeout=0.5))

        watches[0].cancel()

        def is_let_in() -> bool:
            with pytest.raises(grpc.RpcError) as error:
                next(watch(request, timeout=0.5))
            return error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

        assert eventually(is_let_in)


def test_a_silent_connection_ends_and_comes_back_when_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "grpc.max_connection_idle_ms", 200)
    with ServerThread(tmp_path / "run") as server, connection(server) as channel:
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        for _ in range(2):
            states.clear()
            RegistryServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=5)
            assert eventually(lambda: grpc.ChannelConnectivity.IDLE in states)


def test_an_old_connection_ends_with_its_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "grpc.max_connection_age_ms", 200)
    shorten(monkeypatch, "grpc.max_connection_age_grace_ms", 200)
    with ServerThread(tmp_path / "run") as server, connection(server) as channel:
        stub = RegistryServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            next(stub.Watch(pb.WatchRequest(policy="default"), timeout=60))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert stub.GetStatus(pb.GetStatusRequest(), timeout=5).run


def shorten(monkeypatch: pytest.MonkeyPatch, option: str, milliseconds: int) -> None:
    """A limit that is there, so short that a test can wait for it."""
    options = dict(server_module._OPTIONS)
    assert options[option] > milliseconds
    monkeypatch.setattr(
        server_module, "_OPTIONS", tuple((options | {option: milliseconds}).items())
    )
