"""The exported graph computes what torch computes, for all weights that it will ever hold."""

import numpy as np
import onnxruntime as ort
import policy_cases as cases
import pytest
import torch
from torch import nn

from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.nets.network import build
from pronk.policy import tracing
from pronk.policy.engine import FingerprintMismatch, OnnxEngine, open_engine
from pronk.policy.export import Diverged, Exporter
from pronk.policy.tracing import ExportRefused
from pronk.wire.weights import pack, unpack

UPDATES = 100


def exporter_and_engine(name):
    network = cases.network_of(name)
    exporter = Exporter(network, "default")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=0, frames=0)
    return network, exporter, open_engine(bundle)


EVERY_CORE = [f"{torso}-{core}-discrete" for torso in cases.KWARGS for core in ("none", "lstm")]
"""Every torso with every core."""


def every_network(quick):
    """All of them; those that are not named take minutes together."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[] if name in quick else pytest.mark.slow)
            for name in cases.CASES
        ],
    )


@every_network(quick=cases.FEWER)
def test_engine_equals_torch_over_a_hundred_updates(name):
    network, exporter, engine = exporter_and_engine(name)
    for update in range(1, UPDATES + 1):
        cases.scramble(network, seed=update)
        bundle = exporter.bundle(network.state_dict(), epoch=1, number=update, frames=0)
        engine = engine.load(bundle.weights)
        batch = cases.batch_of(network, rows=1 + update % 5, seed=update)
        assert cases.worst(cases.run_torch(network, batch), engine.step(batch)) <= 1e-5


@every_network(quick=EVERY_CORE)
def test_weights_that_are_all_equal(name):
    """Export from such a network too: the exporter would merge its weights into one."""
    network = cases.network_of(name)
    cases.fill(network, 0.1)
    exporter = Exporter(network, "default")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    engine = open_engine(bundle)
    batch = cases.batch_of(network)
    assert cases.worst(cases.run_torch(network, batch), engine.step(batch)) <= 1e-5

    for update in range(2, 2 + UPDATES):
        cases.scramble(network, seed=update)
        bundle = exporter.bundle(network.state_dict(), epoch=1, number=update, frames=0)
        engine = open_engine(bundle, like=engine)
        assert cases.worst(cases.run_torch(network, batch), engine.step(batch)) <= 1e-5


@pytest.mark.parametrize("name", cases.FEWER)
def test_every_weight_counts(name):
    """One stale weight of all changes the fingerprint: none is baked into the graph."""
    network, exporter, _ = exporter_and_engine(name)
    cases.scramble(network, seed=1)
    old = unpack(exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0).weights)
    cases.scramble(network, seed=2)
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=2, frames=0)
    new = unpack(bundle.weights)
    assert {key for key in network.state_dict() if not key.endswith("count")} == new.keys()
    for key in new:
        stale = pack(new | {key: old[key]})
        with pytest.raises(FingerprintMismatch, match=r"'default' 1\.2: output"):
            open_engine(type(bundle)(bundle.manifest, bundle.graph, stale, bundle.probe))


def test_graph_takes_only_what_the_network_uses():
    network = cases.network_of("mlp-none-discrete")
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    assert [port.name for port in bundle.manifest.inputs] == ["obs.default"]
    network = cases.network_of("last-multi-lstm")
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    assert [port.name for port in bundle.manifest.inputs] == [
        *("obs.default", "core.h", "core.c", "last_action.default", "last_action.buttons"),
        *("last_reward", "reset", "action_mask"),
    ]


def test_graph_is_the_same_for_every_learner():
    """So its blob is stored once, and a restarted learner publishes only weights."""
    bundles = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = build(*cases.CASES["dict-lstm"])
        exporter = Exporter(network, "default")
        bundles.append(exporter.bundle(network.state_dict(), epoch=seed, number=1, frames=0))
    first, second = bundles
    assert first.graph == second.graph
    assert first.probe == second.probe
    assert first.weights != second.weights


def test_folder_runs_in_a_plain_onnx_runtime(tmp_path):
    network, exporter, engine = exporter_and_engine("shallow-lstm-discrete")
    cases.scramble(network, seed=1)
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    bundle.save(tmp_path)
    session = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    batch = unpack(bundle.probe)
    outputs = [port.name for port in session.get_outputs()]
    plain = dict(zip(outputs, session.run(outputs, batch), strict=True))
    assert cases.worst(engine.load(bundle.weights).step(batch), plain) == 0


def test_old_engine_is_untouched_by_load():
    network, exporter, engine = exporter_and_engine("mlp-lstm-discrete")
    batch = cases.batch_of(network)
    before = engine.step(batch)
    cases.scramble(network, seed=1)
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    newer = engine.load(bundle.weights)
    assert cases.worst(before, engine.step(batch)) == 0
    assert cases.worst(before, newer.step(batch)) > 0.01


def test_a_grown_head_needs_another_graph():
    _, _, engine = exporter_and_engine("mlp-none-discrete")
    network = cases.network_of("mlp-none-multi")
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    assert not engine.fits(bundle.manifest)
    with pytest.raises(Misconfigured, match=r"do not fit its graph: policy_heads.*float32 \[9"):
        engine.load(bundle.weights)
    batch = cases.batch_of(network)
    grown = open_engine(bundle, like=engine)
    assert cases.worst(cases.run_torch(network, batch), grown.step(batch)) <= 1e-5


def test_memory_layout_does_not_matter():
    """A channels-last weight is a transposed view: its bytes must still be in C order."""
    network, exporter, engine = exporter_and_engine("shallow-none-discrete")
    weight = network.state_dict()["trunk.torso.convolutions.0.0.weight"]
    assert not weight.is_contiguous()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        state = {
            key: value.clone(memory_format=memory_format) if value.dim() == 4 else value
            for key, value in network.state_dict().items()
        }
        bundle = exporter.bundle(state, epoch=1, number=1, frames=0)
        batch = cases.batch_of(network)
        outputs = open_engine(bundle, like=engine).step(batch)
        assert cases.worst(cases.run_torch(network, batch), outputs) <= 1e-5


def test_outputs_that_are_not_finite_are_not_published():
    network, exporter, _ = exporter_and_engine("mlp-none-discrete")
    network.state_dict()["value_head.linear.bias"].fill_(torch.nan)
    with pytest.raises(Diverged, match="'value' is not finite"):
        exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)


class _User(nn.Module):
    """Base of the torsos that follow, made as a user's own would be."""

    output_size = 5

    def __init__(self, observation):
        super().__init__()
        self.linear = nn.Linear(5, 5)


class Normed(_User):
    """Layers whose weights start out equal, and counters that only training reads.

    A convolution before a batch norm is what exporters like to fold into one.
    """

    def __init__(self, observation):
        super().__init__(observation)
        self.convolution, self.batch_norm = nn.Conv1d(1, 2, 3, padding=1), nn.BatchNorm1d(2)
        self.layer_norm = nn.LayerNorm(5)

    def forward(self, obs):
        x = self.layer_norm(self.linear(obs["default"]))
        return self.batch_norm(self.convolution(x.unsqueeze(1))).sum(1)


class Unsupported(_User):
    def forward(self, obs):
        return self.linear(torch.special.i1(obs["default"]))


class Unused(_User):
    def __init__(self, observation):
        super().__init__(observation)
        self.forgotten = nn.Linear(2, 2)

    def forward(self, obs):
        return self.linear(obs["default"])


class Tied(_User):
    def __init__(self, observation):
        super().__init__(observation)
        self.twin = nn.Linear(5, 5)
        self.twin.weight = self.linear.weight

    def forward(self, obs):
        return self.twin(self.linear(obs["default"]))


class Branching(_User):
    """Python that looks at values: the trace knows one branch only."""

    def forward(self, obs):
        x = obs["default"]
        return self.linear(x) if len(x) == 4 else self.linear(x) + 1


class Baked(_User):
    """A weight that the trace takes for a constant."""

    def forward(self, obs):
        return self.linear(obs["default"]) * float(self.linear.bias[0])


class Chosen(_User):
    """Whole numbers that a step reads, and others that training alone does."""

    def __init__(self, observation):
        super().__init__(observation)
        self.register_buffer("order", torch.tensor([4, 3, 2, 1, 0]))
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("ready", torch.tensor(True))

    def forward(self, obs):
        return self.linear(obs["default"][:, self.order])


class Counting(Chosen):
    """A whole number that the trace takes for a constant."""

    def forward(self, obs):
        return self.linear(obs["default"]) * int(self.seen)


class Deciding(Chosen):
    """A truth that the trace takes for a constant."""

    def forward(self, obs):
        return self.linear(obs["default"]) if self.ready else obs["default"]


class Twice(Chosen):
    """Whole numbers that the exporter merges, because they are alike."""

    def __init__(self, observation):
        super().__init__(observation)
        self.register_buffer("other", self.order.clone())

    def forward(self, obs):
        return super().forward(obs) + obs["default"][:, self.other]


def user_network(torso):
    torch.manual_seed(0)
    config = NetworkConfig(id=f"{__name__}:{torso.__name__}")
    return build(cases.spec_of(), config).eval()


def test_users_network_exports():
    network = user_network(Normed)
    exporter = Exporter(network, "default")
    cases.scramble(network, seed=1)
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    batch = cases.batch_of(network)
    assert cases.worst(cases.run_torch(network, batch), open_engine(bundle).step(batch)) <= 1e-5
    assert "trunk.torso.batch_norm.num_batches_tracked" not in unpack(bundle.weights)


def test_whole_numbers_that_are_read_are_patched_too():
    network = user_network(Chosen)
    exporter = Exporter(network, "default")
    state = network.state_dict()
    state["trunk.torso.order"].copy_(torch.tensor([1, 1, 0, 0, 2]))
    bundle = exporter.bundle(state, epoch=1, number=1, frames=0)
    assert not {"trunk.torso.seen", "trunk.torso.ready"} & unpack(bundle.weights).keys()
    batch = cases.batch_of(network)
    assert cases.worst(cases.run_torch(network, batch), open_engine(bundle).step(batch)) <= 1e-5


@pytest.mark.parametrize(
    ("torso", "reason"),
    [
        (Unsupported, "operator aten::special_i1 has no ONNX form"),
        (Unused, "weight 'trunk.torso.forgotten.weight' is not in the graph"),
        (Tied, "weight 'trunk.torso.(linear|twin).weight' is not in the graph"),
        (Branching, "output 'dist.default' differs from torch's"),
        (Baked, "output 'dist.default' differs from torch's"),
        (Counting, "buffer 'trunk.torso.seen' became a constant"),
        (Deciding, "buffer 'trunk.torso.ready' became a constant"),
        (Twice, "buffer 'trunk.torso.(order|other)' became a constant"),
    ],
)
def test_network_that_does_not_export_is_refused_in_one_line(torso, reason, capfd):
    with pytest.raises(ExportRefused, match=reason) as caught:
        Exporter(user_network(torso), "default")
    assert "\n" not in str(caught.value)
    assert "actor.engine: torch" in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("torso", [Unsupported, Unused, Tied, Branching, Baked])
def test_torch_engine_runs_what_does_not_export(torso):
    network = user_network(torso)
    exporter = Exporter(network, "default", engine="torch")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    assert (bundle.graph, bundle.manifest.graph) == (b"", None)
    engine = open_engine(bundle)
    batch = cases.batch_of(network)
    before = engine.step(batch)
    assert cases.worst(cases.run_torch(network, batch), before) <= 1e-6

    cases.scramble(network, seed=1)
    newer = exporter.bundle(network.state_dict(), epoch=1, number=2, frames=0)
    assert engine.fits(newer.manifest)
    outputs = open_engine(newer, like=engine).step(batch)
    assert cases.worst(cases.run_torch(network, batch), outputs) <= 1e-6
    assert cases.worst(before, engine.step(batch)) == 0


def test_export_is_silent(capfd, recwarn):
    Exporter(cases.network_of("dict-lstm"), "default")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_disturbed_copies_differ_everywhere_and_stay_usable():
    network = cases.network_of("normalised-lstm")
    cases.fill(network, 0.0)
    network.state_dict()["normaliser.variance0"].fill_(1e-6)
    copies = [tracing.distinct(network, seed) for seed in (0, 1)]
    for copy in copies:
        values = [v.flatten() for v in copy.state_dict().values() if v.is_floating_point()]
        flat = torch.cat(values)
        assert len(flat.unique()) > 0.99 * len(flat)
        outputs = cases.run_torch(copy, cases.batch_of(copy))
        assert all(np.isfinite(output).all() for output in outputs.values())
    states = [copy.state_dict() for copy in copies]
    for key, value in states[0].items():
        assert not value.is_floating_point() or not torch.equal(value, states[1][key])


def test_engine_refuses_foreign_bytes():
    network, exporter, engine = exporter_and_engine("mlp-none-discrete")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    with pytest.raises(Misconfigured, match="graph cannot be read"):
        OnnxEngine(b"not a graph", bundle.weights)
    with pytest.raises(Misconfigured, match="weights cannot be read"):
        engine.load(b"not weights")
    arrays = unpack(bundle.weights)
    first = next(iter(arrays))
    with pytest.raises(Misconfigured, match=f"do not fit its graph: {first}"):
        engine.load(pack({key: value for key, value in arrays.items() if key != first}))
    with pytest.raises(Misconfigured, match="float64"):
        engine.load(pack(arrays | {first: arrays[first].astype(np.float64)}))
