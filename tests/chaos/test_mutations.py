"""Ten thousand spoiled unrolls and a thousand spoiled calls: every one is refused, or is sound.

Seeded; bytes are edited under a right checksum, since wrong ones are refused before they are read.
"""

import math
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import grpc
import numpy as np
from cluster_clients import TRAIN, Client
from google.protobuf.message import Message
from param_servers import ServerThread, fake_bundle
from prometheus_client import REGISTRY
from unroll_samples import HEADER, RICH, RICH_CORE, sample

from pronk.transport.bundles import to_message
from pronk.transport.limits import CALLS_PER_SECOND
from pronk.wire import codec
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.v1 import blobs_pb2, tensor_pb2, unroll_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.validate import Expectation, check

UNROLLS, CALLS = 10_000, 1_000
EXPECTED = Expectation(
    HEADER.run, HEADER.experiment_hash, HEADER.policy, RICH, unroll_length=3, core_shapes=RICH_CORE
)
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}


def edited(body: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, cut out, doubled, or cut off."""
    spoiled = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(spoiled) + 1)
        length = chance.randint(1, 16)
        edit = chance.choice(("change", "cut", "double", "insert", "end"))
        if edit == "change":
            spoiled[at : at + length] = chance.randbytes(min(length, len(spoiled) - at))
        elif edit == "cut":
            del spoiled[at : at + length]
        elif edit == "double":
            spoiled[at:at] = spoiled[at : at + length]
        elif edit == "insert":
            spoiled[at:at] = chance.randbytes(length)
        else:
            del spoiled[at:]
    return bytes(spoiled)


def poisoned(body: bytes, chance: random.Random) -> bytes:
    """The message with one element of one array replaced by what does not belong there."""
    message = unroll_pb2.Unroll.FromString(body)
    tensors = [t for t in tensors_of(message) if len(t.data) >= 4]
    tensor = chance.choice(tensors)
    data = bytearray(tensor.data)
    at = 4 * chance.randrange(len(data) // 4)
    wild = chance.choice((math.nan, math.inf, -math.inf, 3e38))
    data[at : at + 4] = chance.choice((struct.pack("<f", wild), b"\xff\xff\xff\x7f", b"\xff" * 4))
    tensor.data = bytes(data)
    return message.SerializeToString()


def tensors_of(message: Message) -> Iterator[tensor_pb2.Tensor]:
    """All arrays of an unroll."""
    for _, value in message.ListFields():
        for each in value if isinstance(value, Iterable) else [value]:
            if isinstance(each, tensor_pb2.Tensor):
                yield each


def test_spoiled_unrolls_are_refused_under_a_reason() -> None:
    chance = random.Random(1)
    reasons: Counter[str] = Counter()
    for number in range(UNROLLS):
        if number % 100 == 0:
            whole = codec.encode(sample(RICH, RICH_CORE, rows=3, slots=2, seed=number))
        body = chance.choice((edited, poisoned))(whole[10:], chance)
        frame = struct.pack("<4sHI", b"PRNK", CONTRACT_VERSION, zlib.crc32(body)) + body
        try:
            unroll = codec.decode(frame)
            check(unroll, EXPECTED)
        except WireError as error:
            reasons[error.reason] += 1
        else:
            reasons["sound"] += 1
            floats = (unroll.reward, unroll.behaviour_log_prob, unroll.last_reward)
            assert all(np.isfinite(array).all() for array in floats)
    assert sum(reasons.values()) == UNROLLS
    assert len(reasons) > 5, "edits reach many checks"
    assert reasons["sound"] < UNROLLS / 2


def calls(client: Client) -> Iterator[tuple[str, Message]]:
    """A sound request of every method that takes one."""
    learner = client.learner()
    actor = client.join(TRAIN)
    bundle = fake_bundle(learner.grant.number_floor + 1, learner.grant.epoch)
    manifest = to_message(bundle.manifest)
    version = manifest.version
    begun = pb.EpisodeStart(version=version, slot=1, number=1)
    ended = pb.EpisodeEnd(version=version, slot=1, number=1, steps=5, **{"return": 1.0})
    registry = "/pronk.v1.RegistryService/"
    yield registry + "Register", actor._register_request
    yield registry + "Heartbeat", pb.HeartbeatRequest(member=actor.member, versions=[version])
    yield registry + "GetSpec", pb.GetSpecRequest()
    yield registry + "GrantEpoch", pb.GrantEpochRequest(member=learner.member, policy="default")
    yield (
        registry + "Publish",
        pb.PublishRequest(member=learner.member, manifest=manifest, blobs=bundle.blobs),
    )
    yield registry + "CutRelease", pb.CutReleaseRequest(member=learner.member, version=version)
    yield (
        registry + "ReportEpisodes",
        pb.ReportEpisodesRequest(member=actor.member, sequence=1, starts=[begun], ends=[ended]),
    )
    yield registry + "GetStatus", pb.GetStatusRequest()
    yield registry + "Leave", pb.LeaveRequest(member="train-unknown")
    yield "/pronk.v1.BlobService/Get", blobs_pb2.GetRequest(hash=manifest.blobs[0])


def test_spoiled_calls_are_refused_and_the_server_answers_on(tmp_path: Path) -> None:
    chance = random.Random(2)
    codes: Counter[grpc.StatusCode] = Counter()
    refused_before = refusals()
    with ServerThread(tmp_path) as server, Client(server) as client:
        sound = [(method, request.SerializeToString()) for method, request in calls(client)]
        for number in range(CALLS):
            if number % (CALLS_PER_SECOND // 2) == 0:
                channel = server.connect()  # each connection may make so many calls
            method, request = chance.choice(sound)
            if method.endswith("Get"):
                answer = channel.unary_stream(method)
                codes[code_of(lambda: list(answer(edited(request, chance), timeout=10)))] += 1  # noqa: B023
            else:
                ask = channel.unary_unary(method)
                codes[code_of(lambda: ask(edited(request, chance), timeout=10))] += 1  # noqa: B023
        assert client.status().run, "it answers still"
        assert server.error is None
    assert sum(codes.values()) == CALLS
    assert set(codes) <= {grpc.StatusCode.OK, *REFUSALS}
    told = sum(count for code, count in codes.items() if code in REFUSALS)
    assert told > 50, "edits reach the checks"
    assert refusals() - refused_before == told, "every refusal is counted"


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
    return grpc.StatusCode.OK


def refusals() -> float:
    """Refused calls that this process has counted."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "pronk_rpc_refused_total"
    )
