"""One bad connection cannot starve the rest: limits of calls, watches, silence and age."""

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from cluster_clients import TRAIN, Client
from param_servers import SPEC, ServerThread, eventually, fake_bundle
from prometheus_client import REGISTRY
from pronk_param_server import news, store
from pronk_param_server.news import MAX_WATCHES
from pronk_param_server.records import Change

from pronk.transport import limits
from pronk.transport import server as server_module
from pronk.transport.bundles import to_message
from pronk.transport.membership import Membership
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


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


def test_who_is_refused_for_its_role_is_limited_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_SECOND", 0.001)
    monkeypatch.setattr(limits, "BURST", 5)
    tokens = tmp_path / "tokens"
    tokens.write_text("actor token-of-actor\nreader token-of-reader\n")
    with ServerThread(tmp_path / "run", tokens_file=tokens) as server:
        for token, code in ((None, "UNAUTHENTICATED"), ("token-of-reader", "PERMISSION_DENIED")):
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
            with connection(server) as channel:
                leave = RegistryServiceStub(channel).Leave
                calls = [
                    leave.future(pb.LeaveRequest(member="x"), timeout=60, metadata=metadata)
                    for _ in range(20)
                ]
                codes = Counter(call.code() for call in calls)
            assert codes == {grpc.StatusCode[code]: 5, EXHAUSTED: 15}


def another_member(client: Client) -> None:
    client.join(TRAIN)
    request = client.membership(TRAIN)._register_request
    RegistryServiceStub(client.channel).Register(request, timeout=10)


def a_call_beside_a_watch(client: Client) -> None:
    registry = RegistryServiceStub(client.channel)
    watch = registry.Watch(pb.WatchRequest(policy="default"), timeout=60)
    try:
        for _ in range(3):  # by then the watch has arrived
            time.sleep(0.1)
            registry.GetStatus(pb.GetStatusRequest(), timeout=10)
    finally:
        watch.cancel()


def a_version_of_three_blobs(client: Client) -> None:
    learner, bundle = client.learner(), fake_bundle(1)
    request = pb.PublishRequest(
        member=learner.member, manifest=to_message(bundle.manifest), blobs=bundle.blobs
    )
    RegistryServiceStub(client.channel).Publish(request, timeout=10)


def two_episodes(client: Client) -> None:
    start = pb.EpisodeStart(version=pb.Version(policy="default"))
    request = pb.ReportEpisodesRequest(
        member=client.join(TRAIN).member, sequence=1, starts=[start, start]
    )
    RegistryServiceStub(client.channel).ReportEpisodes(request, timeout=10)


@pytest.mark.parametrize(
    ("limit", "small", "too_much", "code", "why"),
    [
        ("pronk_param_server.members.MAX_MEMBERS", 1, another_member, EXHAUSTED, "cluster is full"),
        ("pronk.transport.server.MAX_CALLS", 1, a_call_beside_a_watch, EXHAUSTED, "limit"),
        ("pronk_param_server.registry.MAX_BLOBS", 2, a_version_of_three_blobs, INVALID, "1 to 2"),
        ("pronk_param_server.episodes.MAX_REPORTED", 1, two_episodes, INVALID, "at most 1"),
    ],
)
def test_a_limit_binds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    small: int,
    too_much: Callable[[Client], None],
    code: grpc.StatusCode,
    why: str,
) -> None:
    with ServerThread(tmp_path / "whole") as server, Client(server) as client:
        too_much(client)
    monkeypatch.setattr(limit, small)
    with (
        ServerThread(tmp_path / "small") as server,
        Client(server) as client,
        pytest.raises(grpc.RpcError, match=why) as refusal,
    ):
        too_much(client)
    assert refusal.value.code() == code  # type: ignore[attr-defined]


def test_one_connection_has_so_many_streams_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "grpc.max_concurrent_streams", 3)
    request = pb.WatchRequest(policy="default")
    with ServerThread(tmp_path / "run") as server, connection(server) as channel:
        registry = RegistryServiceStub(channel)
        registry.GetStatus(pb.GetStatusRequest(), timeout=10)  # both sides have settled
        watches = [registry.Watch(request, timeout=60) for _ in range(3)]
        with pytest.raises(grpc.RpcError, match="DEADLINE"):  # it waits for one to end
            registry.GetStatus(pb.GetStatusRequest(), timeout=1)
        with connection(server) as other:
            RegistryServiceStub(other).GetStatus(pb.GetStatusRequest(), timeout=10)
        watches[0].cancel()
        assert registry.GetStatus(pb.GetStatusRequest(), timeout=10).run


def test_the_audit_log_keeps_its_newest_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KEPT_AUDIT", 3)
    kept = store.Store(tmp_path)
    for number in range(10):
        kept.commit(Change(f"event-{number}", {}))
    kept.close()
    with sqlite3.connect(tmp_path / "registry.sqlite3") as database:
        events = [event for (event,) in database.execute("SELECT event FROM audit")]
    assert events == ["event-7", "event-8", "event-9"]


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


def test_watches_leave_room_for_what_keeps_the_cluster_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections somebody opens."""
    monkeypatch.setattr(server_module, "MAX_CALLS", 12)
    monkeypatch.setattr(news, "MAX_WATCHES_OF_ALL", 9)
    request = pb.WatchRequest(policy="default")
    with ServerThread(tmp_path / "run") as server, ExitStack() as stack:
        greedy = [stack.enter_context(connection(server)) for _ in range(4)]
        watches = [
            RegistryServiceStub(channel).Watch(request, timeout=60)
            for channel in greedy
            for _ in range(4)
        ]
        assert eventually(lambda: sum(not watch.is_active() for watch in watches) == 7)
        modest = RegistryServiceStub(stack.enter_context(connection(server)))
        assert modest.GetStatus(pb.GetStatusRequest(), timeout=5).run
        with pytest.raises(grpc.RpcError, match="9 watches already"):
            next(modest.Watch(request, timeout=5))


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
