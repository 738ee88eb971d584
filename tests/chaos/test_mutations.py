"""Ten thousand spoiled unrolls and a thousand spoiled calls: every one is refused, or is sound.

Made by `random` from fixed seeds, and not by a library of property tests: each run is the same ten
thousand, so that what failed fails again, and what a change lets through was refused before.
Bytes are edited under a right checksum, since wrong ones are refused before they are read.
"""

import math
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import torch
from cluster_clients import TRAIN, Client
from given_entries import GivenEntries
from google.protobuf.message import Message
from param_servers import ServerThread, fake_bundle
from prometheus_client import REGISTRY
from prometheus_client.samples import Sample
from pronk_learner.ingest import Ingest
from pronk_learner.trainer import Trainer
from rpc_methods import METHODS, call
from unroll_samples import HEADER, RICH, sample

from pronk.config import parse
from pronk.nets.network import build
from pronk.rl.batch import SlotGroup, assemble
from pronk.transport.bundles import to_message
from pronk.transport.heart import Heart
from pronk.transport.limits import CALLS_PER_SECOND
from pronk.wire import codec
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.digest import digest
from pronk.wire.errors import WireError
from pronk.wire.v1 import blobs_pb2, reports_pb2, tensor_pb2, unroll_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.validate import Expectation, check

UNROLLS, CALLS = 10_000, 1_000
TRAINED_EVERY = 50
"""Of the unrolls that are sound."""
WATCH_SECONDS = 0.1
EXPERIMENT = parse(
    "name: x\nenv: {id: rich}\nnetwork: {id: mlp, core: lstm, kwargs: {hidden: [8]}}\n"
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


def spoiled_unrolls(core_shapes: Mapping[str, tuple[int, ...]]) -> Iterator[bytes]:
    chance = random.Random(1)
    for number in range(UNROLLS):
        if number % 100 == 0:
            whole = codec.encode(sample(RICH, core_shapes, rows=3, slots=2, seed=number))
        body = chance.choice((edited, poisoned))(whole[10:], chance)
        yield struct.pack("<4sHI", b"PRNK", CONTRACT_VERSION, zlib.crc32(body)) + body


def verdict(payload: bytes, expectation: Expectation) -> str:
    try:
        check(codec.decode(payload), expectation)
    except WireError as error:
        return error.reason
    return "sound"


def test_a_learner_refuses_spoiled_unrolls_under_a_reason_and_trains_on_the_others() -> None:
    torch.manual_seed(0)
    network = build(RICH, EXPERIMENT.network)
    trainer = Trainer(network, RICH, EXPERIMENT.algorithm, EXPERIMENT.learner)
    shapes = network.core_shapes
    expectation = Expectation(
        HEADER.run, HEADER.experiment_hash, HEADER.policy, RICH, 3, shapes, lambda: 1000
    )
    payloads = list(spoiled_unrolls(shapes))
    verdicts = Counter(verdict(payload, expectation) for payload in payloads)
    assert len(verdicts) > 5, "edits reach many checks"
    assert 0 < verdicts["sound"] < UNROLLS / 2

    before, sound, applied = refused_unrolls(), 0, 0
    given = GivenEntries(payloads)
    with Ingest(given, expectation, 2, Heart()) as ingest:  # type: ignore[arg-type]
        while len(given.acknowledged) < UNROLLS - verdicts["sound"] or sound < verdicts["sound"]:
            item = ingest.get(timeout=0.1)
            if item is None:
                continue
            sound += 1
            floats = (item[1].reward, item[1].behaviour_log_prob, item[1].last_reward)
            assert all(np.isfinite(array).all() for array in floats)
            if sound % TRAINED_EVERY == 0:
                group = SlotGroup(item[1], 0, item[1].slots)
                applied += trainer.update(assemble([group]), frames=0).applied
    assert sound == verdicts.pop("sound")
    assert refused_unrolls() - before == verdicts, "every refusal is counted"
    assert ingest.refused == sum(verdicts.values())
    assert applied > sound / TRAINED_EVERY / 2
    assert all(torch.isfinite(weights).all() for weights in trainer.weights().values())


def sound_requests(client: Client) -> dict[str, Message]:
    """A request of every method that it takes."""
    learner = client.learner()
    actor = client.join(TRAIN)
    bundle = learner.publish(learner.grant.number_floor + 1)
    next_bundle = fake_bundle(learner.grant.number_floor + 2, learner.grant.epoch)
    manifest = to_message(next_bundle.manifest)
    version = to_message(bundle.manifest).version
    begun = pb.EpisodeStart(version=version, slot=1, number=1)
    ended = pb.EpisodeEnd(version=version, slot=1, number=1, steps=5, **{"return": 1.0})
    chunk = b"x" * 100
    me = learner.member
    return {
        "Register": actor._register_request,
        "Heartbeat": pb.HeartbeatRequest(member=actor.member, versions=[version]),
        "Leave": pb.LeaveRequest(member="train-unknown"),
        "GetSpec": pb.GetSpecRequest(),
        "GrantEpoch": pb.GrantEpochRequest(member=me, policy="default"),
        "Publish": pb.PublishRequest(member=me, manifest=manifest, blobs=next_bundle.blobs),
        "Watch": pb.WatchRequest(policy="default", after_number=1),
        "CutRelease": pb.CutReleaseRequest(member=me, version=version, reason="test"),
        "ListReleases": pb.ListReleasesRequest(policy="default"),
        "SetRunState": pb.SetRunStateRequest(member=me, state=pb.RUN_STATE_RUNNING, reason="test"),
        "ReportEpisodes": pb.ReportEpisodesRequest(
            member=actor.member, sequence=1, starts=[begun], ends=[ended]
        ),
        "GetStatus": pb.GetStatusRequest(),
        "Put": blobs_pb2.PutRequest(hash=digest(chunk), size=len(chunk), chunk=chunk),
        "Get": blobs_pb2.GetRequest(hash=manifest.blobs[0]),
        "LeaveReport": reports_pb2.LeaveReportRequest(
            member=me, report=reports_pb2.Report(policy="default", summary=b"{}")
        ),
        "ListReports": reports_pb2.ListReportsRequest(),
    }


def test_spoiled_calls_are_refused_and_the_server_answers_on(tmp_path: Path) -> None:
    chance = random.Random(2)
    codes: Counter[grpc.StatusCode] = Counter()
    refused_before = refused_calls()
    with ServerThread(tmp_path) as server, Client(server) as client:
        sound = {name: r.SerializeToString() for name, r in sound_requests(client).items()}
        for number in range(CALLS):
            if number % (CALLS_PER_SECOND // 2) == 0:
                channel = server.connect()  # each connection may make so many calls
            method = chance.choice(METHODS)
            watches = method.name == "Watch"  # one that is let in lasts
            request = edited(sound[method.name], chance)
            code, _ = call(channel, method, request, WATCH_SECONDS if watches else 10)
            if not (watches and code == grpc.StatusCode.DEADLINE_EXCEEDED):
                codes[code] += 1
        assert client.status().run, "it answers still"
        assert server.error is None
    assert sum(codes.values()) > CALLS * 0.9
    assert set(codes) <= {grpc.StatusCode.OK, *REFUSALS}
    told = sum(count for code, count in codes.items() if code in REFUSALS)
    assert told > 50, "edits reach the checks"
    assert refused_calls() - refused_before == told, "every refusal is counted"


def refused_calls() -> float:
    """Refused calls that this process has counted."""
    return sum(each.value for each in counted("pronk_rpc_refused_total"))


def refused_unrolls() -> Counter[str]:
    """Refused unrolls that this process has counted, by reason."""
    found: Counter[str] = Counter()
    for each in counted("pronk_unrolls_refused_total"):
        found[each.labels["reason"]] += int(each.value)
    return found


def counted(name: str) -> Iterator[Sample]:
    """The samples of a counter."""
    for metric in REGISTRY.collect():
        yield from (each for each in metric.samples if each.name == name)
