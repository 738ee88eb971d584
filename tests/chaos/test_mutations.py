"""Ten thousand spoiled unrolls and a thousand spoiled calls: every one is refused, or is sound.

Made by `random` from fixed seeds, and not by a library of property tests: each run is the same ten
thousand, so that what failed fails again, and what a change lets through was refused before.
Bytes are edited under a right checksum, since wrong ones are refused before they are read. Half the
calls are spoiled by bytes, half by fields, since edits of bytes hardly ever make a number wild.
Every tenth is a first registration, with a server that knows no environment yet.
"""

import itertools
import math
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from cluster_clients import TRAIN, Client
from given_entries import GivenEntries
from google.protobuf.message import Message
from numpy.typing import NDArray
from param_servers import ServerThread
from prometheus_client import REGISTRY
from prometheus_client.samples import Sample
from pronk_learner.ingest import Ingest
from pronk_learner.trainer import Trainer
from rpc_methods import METHODS, call
from rpc_requests import sound_requests
from unroll_samples import HEADER, RICH, sample
from wild_values import spoil

from pronk.config import parse
from pronk.nets.network import build
from pronk.rl.batch import SlotGroup, assemble
from pronk.transport import cluster, limits
from pronk.transport.heart import Heart
from pronk.wire import codec
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.unroll import Unroll
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import tensor_pb2, unroll_pb2
from pronk.wire.validate import Expectation, check

UNROLLS, CALLS, FIRST_CALLS = 10_000, 1_000, 100
TRAINED_EVERY = 50
"""Of the unrolls that are sound."""
WATCH_SECONDS = 0.1
EXPERIMENT = parse(
    "name: x\nenv: {id: rich}\n"
    "network: {id: mlp, core: lstm, normalise_observations: true, kwargs: {hidden: [8]}}\n"
)
REGISTER = next(method for method in METHODS if method.name == "Register")
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
    wild = chance.choice((math.nan, -math.inf, 3e38, 0.9 * MAX_FLOAT))
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


def floats_of(unroll: Unroll) -> Iterator[NDArray[np.floating]]:
    """All arrays of floats."""
    for value in vars(unroll).values():
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, np.ndarray) and each.dtype.kind == "f":
                yield each


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
            assert all((np.abs(array) <= MAX_FLOAT).all() for array in floats_of(item[1]))
            if sound % TRAINED_EVERY == 0:
                group = SlotGroup(item[1], 0, item[1].slots)
                applied += trainer.update(assemble([group]), frames=0).applied
    assert sound == verdicts.pop("sound")
    assert refused_unrolls() - before == verdicts, "every refusal is counted"
    assert ingest.refused == sum(verdicts.values())
    assert applied > sound / TRAINED_EVERY / 2
    assert all(torch.isfinite(weights).all() for weights in trainer.weights().values())


def test_spoiled_calls_are_refused_and_the_server_answers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_SECOND", 1e6)  # which have tests of their own
    monkeypatch.setattr(limits, "BURST", 10**6)
    chance = random.Random(2)
    codes: dict[str, Counter[grpc.StatusCode]] = {"bytes": Counter(), "fields": Counter()}
    refused_before = refused_calls()
    with ServerThread(tmp_path) as server, Client(server) as client:
        sound = sound_requests(client)
        for _ in range(CALLS - FIRST_CALLS):
            method, how = chance.choice(METHODS), chance.choice(("bytes", "fields"))
            watches = method.name == "Watch"  # one that is let in lasts
            request = sound[method.name]
            spoiled = (
                edited(request.SerializeToString(), chance)
                if how == "bytes"
                else spoil(request, chance)
            )
            code, _ = call(client.channel, method, spoiled, WATCH_SECONDS if watches else 10)
            if not (watches and code == grpc.StatusCode.DEADLINE_EXCEEDED):
                codes[how][code] += 1
            assert is_sound(client.status()), (method.name, spoiled)
        assert server.error is None
    for found in codes.values():
        assert set(found) <= {grpc.StatusCode.OK, *REFUSALS}
        assert sum(found.values()) > (CALLS - FIRST_CALLS) * 0.4
        assert found[grpc.StatusCode.OK] < sum(found.values()) * 0.5, "edits reach the checks"
    told = sum(count for found in codes.values() for code, count in found.items() if code.value[0])
    assert refused_calls() - refused_before == told, "every refusal is counted"


def is_sound(status: pb.GetStatusResponse) -> bool:
    """Whether every number of an answer is one."""
    return all(math.isfinite(number) for number in numbers_of(status))


def numbers_of(message: Message) -> Iterator[float]:
    """Every number with a point in a message, at any depth."""
    for _, value in message.ListFields():
        for each in (
            value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        ):
            if isinstance(each, Message):
                yield from numbers_of(each)
            elif isinstance(each, float):
                yield each


def test_a_spoiled_first_registration_leaves_a_run_that_can_be_trained(tmp_path: Path) -> None:
    chance = random.Random(3)
    codes: Counter[grpc.StatusCode] = Counter()
    servers = itertools.count()
    while sum(codes.values()) < FIRST_CALLS:
        folder = tmp_path / str(next(servers))
        with ServerThread(folder) as server, Client(server) as client:
            known = False  # until one is let in, each is the first
            while not known and sum(codes.values()) < FIRST_CALLS:
                request = client.membership(TRAIN)._register_request
                spoil_spec(request, chance)
                code, _ = call(client.channel, REGISTER, request.SerializeToString())
                codes[code] += 1
                known = code == grpc.StatusCode.OK
            if not known:
                client.join(TRAIN)
            assert cluster.wait_for_spec(client.channel, client.stop)
            assert is_sound(client.status())
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > FIRST_CALLS / 3


def spoil_spec(request: pb.RegisterRequest, chance: random.Random) -> None:
    """Spoil what a registration says about the environment."""
    request.spec.ParseFromString(spoil(request.spec, chance))


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
