import json
import math

import pytest

from pronk.config.schema import EnvConfig, NetworkConfig
from pronk.errors import Misconfigured
from pronk.policy.manifest import Manifest, from_json, to_json
from pronk.policy.signature import Port
from pronk.wire.spec import ArraySpec, ContinuousSpec, DiscreteSpec, EnvironmentSpec

SPEC = EnvironmentSpec(
    environment="made-up",
    observation=(
        ArraySpec("unbounded", "float32", (3,)),
        ArraySpec("half", "float32", (2, 2), low=0.0),
        ArraySpec("frames", "uint8", (4, 84, 84), 0, 255),
    ),
    action=(
        DiscreteSpec("choice", (4,)),
        DiscreteSpec("buttons", (2, 3), scalar=False),
        ContinuousSpec("joints", (2,), (-1.0, -math.inf), (1.0, math.inf)),
    ),
    action_mask=True,
    tasks=("easy", "hard"),
    agents=("red", "blue"),
    frames_per_step=4,
)
MANIFEST = Manifest(
    policy="default",
    epoch=3,
    number=2**40,
    frames=10**12,
    engine="onnx",
    environment=SPEC,
    env=EnvConfig(id="ALE/Pong-v5", kwargs={"full_action_space": True}),
    network=NetworkConfig(id="shallow", kwargs={"hidden": 128}, core="lstm", last_action=True),
    core={"h": (256,), "c": (256,)},
    inputs=(Port("obs.frames", "uint8", (4, 84, 84)), Port("reset", "bool", ())),
    outputs=(Port("value", "float32", ()),),
    graph="a" * 64,
    weights="b" * 64,
    probe="c" * 64,
    fingerprint={"value": [[0.1], [-2.5e-8]], "dist.choice": [[1.0, -1e9]]},
)


def test_round_trip_keeps_everything_infinite_bounds_included():
    text = to_json(MANIFEST)
    assert "\n" not in text
    assert from_json(text) == MANIFEST
    assert from_json(text.encode()) == MANIFEST
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_action_kinds_survive():
    kinds = [type(action) for action in from_json(to_json(MANIFEST)).environment.action]
    assert kinds == [DiscreteSpec, DiscreteSpec, ContinuousSpec]


def test_blobs():
    assert MANIFEST.blobs == ("a" * 64, "b" * 64, "c" * 64)
    torch_only = MANIFEST.model_copy(update={"engine": "torch", "graph": None})
    assert torch_only.blobs == ("b" * 64, "c" * 64)
    assert from_json(to_json(torch_only)) == torch_only


def changed(**changes):
    return json.dumps(json.loads(to_json(MANIFEST)) | changes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("{}", "policy: Field required"),
        (changed(format="pronk-policy/2"), "format: Input should be 'pronk-policy/1'"),
        (changed(weights="xyz"), "weights: String should match"),
        (changed(weights="../../../etc/passwd"), "weights: String should match"),
        (changed(surprise=1), "surprise: Extra inputs"),
        (changed(network={"id": "mlp", "cores": "lstm"}), "network.cores: Extra inputs"),
        (changed(engine="pickle"), "engine: Input should be"),
    ],
)
def test_what_is_no_manifest_is_told_in_one_line(text, reason):
    with pytest.raises(Misconfigured, match=r"^here: not a policy manifest") as caught:
        from_json(text, "here")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
