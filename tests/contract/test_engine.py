"""Engines act only with what the learner computed, and never need torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import policy_cases as cases
import psutil
import pytest
import torch

from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.nets.network import build
from pronk.policy.engine import FingerprintMismatch, OnnxEngine, agree, open_engine
from pronk.policy.export import Exporter
from pronk.policy.fingerprint import condense
from pronk.policy.manifest import to_json
from pronk.wire.digest import digest
from pronk.wire.spec import DiscreteSpec
from pronk.wire.weights import pack, unpack


@pytest.fixture(scope="module")
def exporter():
    return Exporter(cases.network_of("dict-lstm"), "default")


def bundle_of(exporter, seed=1):
    network = cases.network_of("dict-lstm")
    cases.scramble(network, seed)
    return exporter.bundle(network.state_dict(), epoch=1, number=seed, frames=0)


def test_wrong_fingerprint_stops_the_engine(exporter):
    """Weights of one version under the manifest of another, whatever their hash says."""
    first, second = bundle_of(exporter, 1), bundle_of(exporter, 2)
    manifest = second.manifest.model_copy(update={"weights": digest(first.weights)})
    mixed = replace(second, manifest=manifest, weights=first.weights)
    with pytest.raises(FingerprintMismatch, match="not acting with it"):
        open_engine(mixed)
    with pytest.raises(FingerprintMismatch, match="not acting with it"):
        open_engine(mixed, like=open_engine(first))


@pytest.mark.parametrize("change", [1e-3, -1e-3, float("nan")])
def test_fingerprint_sees_small_changes(exporter, change):
    bundle = bundle_of(exporter)
    arrays = unpack(bundle.weights)
    bias = arrays["value_head.linear.bias"] + np.float32(change)
    weights = pack(arrays | {"value_head.linear.bias": bias})
    with pytest.raises(FingerprintMismatch, match="'value'"):
        open_engine(replace(bundle, weights=weights))


BUTTONS = DiscreteSpec("buttons", (40, 900), scalar=False)


@pytest.fixture(scope="module", params=[False, True], ids=["many choices", "masked"])
def wide(request):
    """A policy of 940 logits and 300 tasks."""
    spec = replace(
        cases.spec_of(),
        action=(BUTTONS,),
        action_mask=request.param,
        tasks=tuple(f"task {number}" for number in range(300)),
    )
    torch.manual_seed(0)
    network = build(spec, cases.config_of()).eval().requires_grad_(False)
    cases.scramble(network, seed=1)
    exporter = Exporter(network, "default")
    return exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)


@pytest.mark.parametrize(
    ("output", "bias", "columns"),
    [
        ("dist.buttons", "policy_heads.heads.0.linear.bias", 940),
        ("value", "value_head.linear.bias", 300),
    ],
)
def test_fingerprint_sees_every_logit_and_every_task(wide, output, bias, columns):
    open_engine(wide)
    arrays = unpack(wide.weights)
    assert arrays[bias].shape == (columns,)
    for column in range(0, columns, 19):
        changed = arrays[bias].copy()
        changed[column] += 0.03
        with pytest.raises(FingerprintMismatch, match=f"'{output}'"):
            open_engine(replace(wide, weights=pack(arrays | {bias: changed})))


def test_fingerprint_of_many_numbers_is_small(wide):
    assert [len(np.ravel(numbers)) for numbers in wide.manifest.fingerprint.values()] == [256, 256]
    assert len(to_json(wide.manifest)) < 32_768


def test_fingerprint_sees_two_that_changed_places():
    output = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    swapped = output.copy()
    swapped[0, [3, 259]] = swapped[0, [259, 3]]  # of one sum
    assert agree(condense(output), condense(output + np.float32(1e-6)))
    assert not agree(condense(output), condense(swapped))
    output[0, 0] = np.nan
    assert not agree(condense(swapped), condense(output))


def test_new_weights_take_the_place_of_the_old_ones():
    network = build(cases.spec_of(), NetworkConfig(kwargs={"hidden": [512, 512]}))
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    engine = open_engine(bundle)

    def grown(loads):
        nonlocal engine
        before = psutil.Process().memory_info().rss
        for _ in range(loads):
            engine = engine.load(bundle.weights)
        return psutil.Process().memory_info().rss - before

    grown(20)
    assert len(bundle.weights) > 1e6
    assert grown(100) < 20 * len(bundle.weights)


def test_agreement_is_relative_to_ordinary_outputs():
    logits = np.array([[0.5, -1e9, 2.0]], np.float32)
    assert agree(logits, logits + np.float32(1e-6))
    assert not agree(logits, logits + np.array([[1e-3, 0, 0]], np.float32))
    assert not agree(logits, np.array([[-1e9, 0.5, 2.0]], np.float32))
    assert not agree(logits, logits[:, :2])
    assert not agree(logits, logits * np.nan)
    large = np.array([[1000.0, 1.0]], np.float32)
    assert agree(large, large + np.float32(1e-3))


def test_engine_ignores_inputs_that_the_graph_does_not_take():
    network = cases.network_of("mlp-none-discrete")
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    engine = open_engine(bundle)
    batch = cases.batch_of(network)
    alone = engine.step({"obs.default": batch["obs.default"]})
    assert cases.worst(alone, engine.step(batch)) == 0


def test_version_is_reused_only_for_the_same_network(exporter):
    bundle = bundle_of(exporter)
    engine = open_engine(bundle)
    assert engine.fits(bundle.manifest)
    assert isinstance(open_engine(bundle_of(exporter, 2), like=engine), OnnxEngine)
    other = Exporter(cases.network_of("mlp-none-discrete"), "default")
    network = cases.network_of("mlp-none-discrete")
    grown = other.bundle(network.state_dict(), epoch=1, number=2, frames=0)
    assert not engine.fits(grown.manifest)
    assert set(open_engine(grown, like=engine).step(cases.batch_of(network))) == {
        *("dist.default", "value")
    }


def test_torch_policy_without_torch_names_the_extra(monkeypatch):
    network = cases.network_of("mlp-none-discrete")
    exporter = Exporter(network, "default", engine="torch")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    monkeypatch.setitem(sys.modules, "pronk.policy.torch_engine", None)
    with pytest.raises(Misconfigured, match=r"install pronk\[actor-torch\]"):
        open_engine(bundle)


_ACTOR = """
import sys
from pathlib import Path
import numpy as np
from pronk.policy import bundle, engine, manifest, probe, sampling, signature
from pronk.wire import weights

loaded = bundle.Bundle.load(Path(sys.argv[1]))
spec, core = loaded.manifest.environment, loaded.manifest.core
running = engine.open_engine(loaded)
running = engine.open_engine(loaded, like=running)
outputs = running.step(probe.make(spec, core, rows=7))
params = signature.group(outputs, signature.DISTRIBUTION)
action, log_prob = sampling.sample(spec.action, params, np.random.default_rng(0))
assert log_prob.shape == (7,) and np.isfinite(log_prob).all()
assert "torch" not in sys.modules, "torch was imported"
print("acted")
"""


def test_acting_needs_no_torch(exporter, tmp_path):
    bundle_of(exporter).save(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _ACTOR, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("acted\n", 0), done.stderr
