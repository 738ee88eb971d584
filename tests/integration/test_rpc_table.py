"""Every method: a request too large, one that comes twice, before its time and after it."""

from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from cluster_clients import TRAIN, Client
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from param_servers import ServerThread
from prometheus_client import REGISTRY
from rpc_methods import METHODS, call
from rpc_requests import sound_requests

from pronk.transport import cluster
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

CALL_SECONDS, WATCH_SECONDS = 10.0, 0.3


class Row(NamedTuple):
    """How calls of a method end.

    Attributes:
        again: the second of two equal requests; it changes nothing.
        early: the members, epochs and versions that it speaks of were never heard of here.
        late: its members have left.
    """

    again: str = "OK"
    early: str = "OK"
    late: str = "OK"


EXPECTED = {
    "Register": Row(),
    "Heartbeat": Row(early="NOT_FOUND", late="NOT_FOUND"),
    "Leave": Row(),
    "GetSpec": Row(early="NOT_FOUND"),
    "GrantEpoch": Row(early="NOT_FOUND", late="NOT_FOUND"),
    "Publish": Row(early="FAILED_PRECONDITION", late="FAILED_PRECONDITION"),
    # One that is let in waits for what is newer.
    "Watch": Row("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    "CutRelease": Row(early="FAILED_PRECONDITION", late="FAILED_PRECONDITION"),
    "ListReleases": Row(),
    "SetRunState": Row(early="FAILED_PRECONDITION", late="FAILED_PRECONDITION"),
    "ReportEpisodes": Row(early="NOT_FOUND", late="NOT_FOUND"),
    "GetStatus": Row(),
    "Put": Row(),
    "Get": Row(early="NOT_FOUND"),
    "LeaveReport": Row(early="FAILED_PRECONDITION", late="FAILED_PRECONDITION"),
    "ListReports": Row(),
}
RISING = "GrantEpoch"
"""What is granted twice is granted anew: nobody can tell whether the first answer arrived."""
NAMES = [method.name for method in METHODS]
every_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def test_every_method_has_its_row() -> None:
    assert sorted(NAMES) == sorted(EXPECTED)


def requests(client: Client) -> dict[str, Message]:
    """As members send them; the one who leaves has no thread that registers it again."""
    found = sound_requests(client)
    leaver = client.membership(TRAIN)._register_request
    left = RegistryServiceStub(client.channel).Register(leaver, timeout=5)
    return found | {"Leave": pb.LeaveRequest(member=left.member)}


def ending(channel: grpc.Channel, method: MethodDescriptor, request: bytes) -> str:
    """How a call ends; refusals are counted."""
    labels = {"method": method.name}
    seconds = WATCH_SECONDS if method.name == "Watch" else CALL_SECONDS
    code, _ = call(channel, method, request, seconds)
    labels["code"] = code.name
    if code.name not in ("OK", "DEADLINE_EXCEEDED"):
        assert REGISTRY.get_sample_value("pronk_rpc_refused_total", labels)
    return code.name


@every_method
def test_too_large(client: Client, method: MethodDescriptor) -> None:
    """A sound request beside three megabytes in a field that nobody knows."""
    padding = b"x" * (3 << 20)
    field = b"\x82\x7d" + b"\x80\x80\xc0\x01"  # number 2000, length-delimited, so many bytes
    sound = requests(client)[method.name].SerializeToString()
    before = seen(client)
    assert ending(client.channel, method, sound + field + padding) == "INVALID_ARGUMENT"
    code, _ = call(client.channel, method, b"x" * (5 << 20))  # gRPC itself reads no more
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert seen(client) == before


@every_method
def test_twice(client: Client, method: MethodDescriptor) -> None:
    request = requests(client)[method.name].SerializeToString()
    row = EXPECTED[method.name]
    assert ending(client.channel, method, request) == row.again
    before = seen(client)
    assert ending(client.channel, method, request) == row.again
    assert (seen(client) == before) == (method.name != RISING)


@every_method
def test_before_its_time(tmp_path: Path, client: Client, method: MethodDescriptor) -> None:
    """What was right at one server, sent to one that knows nobody yet."""
    request = requests(client)[method.name].SerializeToString()
    with ServerThread(tmp_path / "other") as other, other.connect() as channel:
        assert ending(channel, method, request) == EXPECTED[method.name].early


@every_method
def test_after_all_left(server: ServerThread, method: MethodDescriptor) -> None:
    with Client(server) as client:
        request = requests(client)[method.name].SerializeToString()
    with server.connect() as channel:
        assert ending(channel, method, request) == EXPECTED[method.name].late


def seen(client: Client) -> list[object]:
    """What others see of the cluster, times left out."""
    status = client.status()
    learner = next(m for m in status.members if m.kind == pb.MEMBER_KIND_LEARNER)
    beat = RegistryServiceStub(client.channel).Heartbeat
    told = beat(pb.HeartbeatRequest(member=learner.member), timeout=5)
    return [
        sorted((member.member, member.index) for member in status.members),
        (status.run_state, status.run_state_reason),
        list(status.newest),
        list(status.episodes),
        dict(told.epochs),
        dict(told.newest_hashes),
        cluster.list_releases(client.channel),
        cluster.list_reports(client.channel),
    ]
