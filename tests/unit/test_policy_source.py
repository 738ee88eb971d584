"""Versions are checked before they act, and only the newest is prepared."""

import threading
import time
from dataclasses import replace

import pytest
import torch
from param_servers import eventually
from prometheus_client import REGISTRY
from pronk_actor import policy_source
from pronk_actor.policy_source import PolicySource

from pronk.config.schema import NetworkConfig
from pronk.nets.network import build
from pronk.policy.bundle import Bundle
from pronk.policy.export import Exporter
from pronk.transport.heart import Heart
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec

SPEC = EnvironmentSpec(
    "toy", (ArraySpec("default", "float32", (3,)),), (DiscreteSpec("default", (2,)),)
)


@pytest.fixture(scope="module")
def make():
    """Makes bundles of a small network with weights that follow from the number."""
    network = build(SPEC, NetworkConfig(id="mlp", kwargs={"hidden": [4]}))
    exporter = Exporter(network, "default")

    def bundle(number: int) -> Bundle:
        torch.manual_seed(number)
        weights = {name: torch.randn_like(t) for name, t in network.state_dict().items()}
        return exporter.bundle(weights, epoch=1, number=number, frames=0)

    return bundle


@pytest.fixture
def source():
    source = PolicySource("default", SPEC, 1, Heart(), on_error=lambda: None)
    yield source
    source.close()


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("pronk_policies_refused_total", {"reason": reason}) or 0


def test_the_first_version_is_waited_for(source, make):
    assert not source.at_hand
    assert source.wait_above(-1, 0.01) is None
    source.offer(make(0))
    ready = source.wait_above(-1, 10)
    assert ready is not None
    assert ready.version == (1, 0)
    assert source.at_hand


def test_newer_versions_follow_and_old_engines_stay(source, make):
    source.offer(make(1))
    first = source.wait_above(0, 10)
    source.offer(make(2))
    second = source.wait_above(1, 10)
    assert first is not None
    assert second is not None
    assert second.engine is not first.engine
    assert first.version.number == 1
    source.offer(make(2))
    source.offer(make(1))
    assert source.wait_above(2, 0.1) is None


def test_a_wrong_fingerprint_is_refused_and_the_old_version_goes_on(source, make):
    source.offer(make(1))
    assert source.wait_above(0, 10)
    before = refused("fingerprint")
    good, other = make(3), make(4)
    forged = replace(
        good,
        manifest=good.manifest.model_copy(update={"fingerprint": other.manifest.fingerprint}),
    )
    source.offer(forged)
    assert source.wait_above(1, 0.3) is None
    assert refused("fingerprint") == before + 1
    assert source.newest().version.number == 1
    source.offer(make(5))
    assert source.wait_above(1, 10)


def test_what_cannot_be_run_is_refused(source, make):
    before = refused("unusable")
    good = make(1)
    source.offer(replace(good, weights=b"no weights"))
    assert source.wait_above(-1, 0.3) is None
    stranger = good.manifest.model_copy(update={"policy": "blue"})
    source.offer(replace(good, manifest=stranger))
    assert source.wait_above(-1, 0.3) is None
    foreign = good.manifest.model_copy(update={"environment": replace(SPEC, environment="another")})
    source.offer(replace(good, manifest=foreign))
    assert source.wait_above(-1, 0.3) is None
    assert refused("unusable") == before + 3


def test_of_the_versions_that_wait_only_the_newest_is_prepared(source, make, monkeypatch):
    prepared, held, begun = [], threading.Event(), threading.Event()
    open_engine = policy_source.open_engine

    def slowly(bundle, threads, *, like):
        prepared.append(bundle.manifest.number)
        begun.set()
        held.wait(10)
        return open_engine(bundle, threads, like=like)

    monkeypatch.setattr(policy_source, "open_engine", slowly)
    source.offer(make(1))
    assert begun.wait(10)
    for number in (2, 3, 4, 5):
        source.offer(make(number))
    held.set()
    assert source.wait_above(4, 10)
    assert prepared == [1, 5]


def test_what_should_not_happen_ends_the_actor(make, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr(policy_source, "open_engine", fail)
    ended = threading.Event()
    source = PolicySource("default", SPEC, 1, Heart(), on_error=ended.set)
    source.offer(make(1))
    assert ended.wait(10)
    assert str(source.error) == "out of order"
    source.close()


def test_who_prepares_is_late_only_when_it_is_stuck(make, monkeypatch):
    heart, lock = Heart(0.2), threading.Event()
    monkeypatch.setattr(policy_source, "open_engine", lambda *_, **__: lock.wait(20))
    source = PolicySource("default", SPEC, 1, heart, on_error=lambda: None)
    time.sleep(0.3)
    assert not heart.late(), "it has nothing to do"
    source.offer(make(1))
    eventually(lambda: heart.late() == ["prepare-default"])
    lock.set()
    eventually(lambda: not heart.late())
    source.close()
