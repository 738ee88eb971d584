import math

import policy_cases as cases
import pytest
import torch
from torch import nn

from pronk.config.schema import NetworkConfig
from pronk.config.torsos import TORSOS
from pronk.errors import Misconfigured
from pronk.nets.images import image_size, is_image
from pronk.nets.network import build
from pronk.nets.observations import to_image, to_vector, vector_size
from pronk.nets.registry import build_torso
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec

ATARI = EnvironmentSpec(
    environment="atari",
    observation=(ArraySpec("default", "uint8", (4, 84, 84), 0, 255),),
    action=(DiscreteSpec("default", (18,)),),
)


@pytest.mark.parametrize(("torso", "parameters"), [("shallow", 1_225_795), ("deep", 1_638_883)])
def test_parameters_of_the_papers_networks(torso, parameters):
    """The paper says 1.2 million and 1.6 million."""
    config = NetworkConfig(id=torso, core="lstm", last_action=True, last_reward=True)
    network = build(ATARI, config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == {"shallow": 2, "deep": 15}[torso]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84, 4), (4, 84, 84)),
        ((3, 64, 48), (3, 64, 48)),
        ((210, 160, 3), (3, 210, 160)),
        ((7, 7, 3), (3, 7, 7)),
        ((10, 10, 10), (10, 10, 10)),
        ((5, 7, 3), (3, 5, 7)),
        ((3, 5, 2), (2, 3, 5)),
        ((12, 64, 64), (12, 64, 64)),
        ((84, 84), (1, 84, 84)),
    ],
)
def test_channels_are_found(shape, size):
    array = ArraySpec("frames", "uint8", shape, 0, 255)
    assert is_image(array)
    assert image_size(array) == size
    pixels = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    image = to_image(array, pixels)
    assert image.shape == (2, *size)
    first_channel = {2: pixels, 3: pixels[..., 0] if shape[-1] == size[0] else pixels[:, 0]}
    bound = 10 if max(size[1:]) < 32 else 255  # small images are grids of codes
    torch.testing.assert_close(image[:, 0], first_channel[len(shape)] / bound)


@pytest.mark.parametrize("shape", [(), (3,), (4, 8), (2, 3, 4, 5)])
def test_other_shapes_are_vectors(shape):
    assert not is_image(ArraySpec("vector", "float32", shape))


@pytest.mark.parametrize(
    ("array", "scale", "given", "expected"),
    [
        (ArraySpec("a", "uint8", (1,), 0, 255), None, 51, 0.2),
        (ArraySpec("a", "uint8", (1,), 0, 10), None, 5, 0.5),
        (ArraySpec("a", "uint8", (1,), 0, 255), 0.1, 5, 0.5),
        (ArraySpec("a", "uint8", (1,), 0, 1), None, 1, 1.0),
        (ArraySpec("a", "bool", (1,), 0, 1), None, True, 1.0),
        (ArraySpec("a", "uint8", (16, 16), 0, 255), None, 7, 0.7),
        (ArraySpec("a", "uint8", (16, 16), 0, 5), None, 5, 1.0),
        (ArraySpec("a", "uint8", (16, 16), 0, 255), 0.5, 7, 3.5),
        (ArraySpec("a", "int8", (1,)), None, -7, -7.0),
        (ArraySpec("a", "float32", (1,), 0, 255), 0.1, 5.0, 5.0),
        (ArraySpec("a", "float64", (1,), -math.inf, math.inf), None, 2.5, 2.5),
    ],
)
def test_numbers_are_scaled(array, scale, given, expected):
    given = torch.full((1, *array.shape), given, dtype=getattr(torch, array.dtype))
    vector = to_vector((array,), {"a": given}, scale)
    assert vector.dtype == torch.float32
    torch.testing.assert_close(vector, torch.full((1, given.numel()), expected))


def test_categories_become_one_hot():
    arrays = (
        ArraySpec("direction", "int64", (), 1, 4),
        ArraySpec("cards", "int32", (2,), 0, 2),
        ArraySpec("clock", "int64", (), 0, 10**6),
    )
    obs = {
        "direction": torch.tensor([1, 4]),
        "cards": torch.tensor([[0, 2], [1, 1]], dtype=torch.int32),
        "clock": torch.tensor([500_000, 0]),
    }
    expected = [[1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0.5], [0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0.0]]
    vector = to_vector(arrays, obs)
    assert vector.shape[1] == vector_size(arrays) == 11
    torch.testing.assert_close(vector, torch.tensor(expected))


@pytest.mark.parametrize(
    ("torso", "size"), [("mlp", 64), ("minatar", 128), ("shallow", 256), ("deep", 256)]
)
def test_every_observation_matters(torso, size):
    """Images and the rest of a Dict observation all reach the features."""
    observation = (*cases.DICT, ArraySpec("map", "bool", (36, 36, 2), 0, 1))
    module, width = build_torso(observation, NetworkConfig(id=torso))
    assert width == size
    batch = cases.batch_of(build(cases.spec_of(observation=observation), NetworkConfig()), rows=3)
    obs = {array.name: torch.from_numpy(batch[f"obs.{array.name}"]) for array in observation}
    with torch.no_grad():
        features = module(obs)
        assert features.shape == (3, size)
        for name, array in obs.items():
            other = module(obs | {name: array.roll(1, 0)})
            assert not torch.allclose(features, other), name


def test_policies_start_close_to_uniform():
    network = build(ATARI, NetworkConfig(id="shallow"))
    batch = cases.batch_of(network, rows=16)
    logits = torch.from_numpy(cases.run_torch(network, batch)["dist.default"])
    assert (logits.softmax(1) * 18 - 1).abs().max() < 0.1


def test_deep_features_keep_their_size():
    """Nine residual additions must not blow the features up."""
    torch.manual_seed(0)
    obs = {"default": torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)}
    for torso in ("deep", "shallow"):
        module, _ = build_torso(ATARI.observation, NetworkConfig(id=torso))
        with torch.no_grad():
            assert 0.05 < module(obs).std() < 2


class Mine(nn.Module):
    """A user's torso."""

    def __init__(self, observation, width=3, fail=None):
        super().__init__()
        if fail == "build":
            raise RuntimeError("no such\nlayer")
        self.linear = nn.Linear(5 if fail != "call" else 7, width)
        self.output_size = width if fail != "size" else None

    def forward(self, obs):
        return self.linear(obs["default"])


def test_users_own_torso():
    network = build(
        cases.spec_of(), NetworkConfig(id=f"{__name__}:Mine", kwargs={"width": 4}, core="lstm")
    )
    assert isinstance(network.trunk.torso, Mine)
    assert network.trunk.core.input.in_features == 4


NOT_CALLABLE = 3


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"id": "shalow"}, "unknown network 'shalow'; did you mean shallow?"),
        ({"id": "transformer"}, "unknown network 'transformer'; there are mlp, minatar, shallow"),
        ({"kwargs": {"hiden": [3]}}, "network.kwargs: mlp: unknown key hiden; did you mean hidden"),
        ({"kwargs": {"hidden": 64}}, "network.kwargs: mlp: hidden: input should be a valid list"),
        ({"kwargs": {"hidden": [-1]}}, "mlp: hidden.0: input should be greater than or equal to 1"),
        ({"kwargs": {"hidden": ["a"]}}, "network.kwargs: mlp: hidden.0: expected a number, found"),
        (
            {"kwargs": {"scale": 0}},
            "network.kwargs: mlp: scale: input should be greater than or equal to",
        ),
        ({"id": "deep", "kwargs": {"hidden": 10**12}}, "less than or equal to 16384"),
        ({"id": "shallow"}, "shallow needs an image, but the environment shows none; use mlp"),
        ({"id": "nowhere.at.all:Net"}, "cannot import nowhere.at.all"),
        ({"id": f"{__name__}:Yours"}, "has no 'Yours'"),
        ({"id": f"{__name__}:NOT_CALLABLE"}, "is not a class"),
        ({"id": f"{__name__}:Mine", "kwargs": {"depth": 1}}, "unexpected keyword argument 'depth'"),
        ({"id": f"{__name__}:Mine", "kwargs": {"fail": "build"}}, "Mine: no such"),
        ({"id": f"{__name__}:Mine", "kwargs": {"fail": "size"}}, "integer `output_size`"),
        ({"id": f"{__name__}:Mine", "kwargs": {"fail": "call"}}, "does not work on this"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(config, reason):
    with pytest.raises(Misconfigured) as caught:
        build(cases.spec_of(), NetworkConfig(**config))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("torso", [name for name in TORSOS if TORSOS[name].smallest_image])
def test_the_smallest_image_is_as_small_as_is_said(torso):
    smallest, config = TORSOS[torso].smallest_image, NetworkConfig(id=torso)
    for shape in ((smallest, smallest + 1, 1), (smallest + 1, smallest, 1)):
        build(cases.spec_of(observation=(ArraySpec("a", "uint8", shape, 0, 255),)), config)


@pytest.mark.parametrize("torso", ["minatar", "shallow"])
def test_images_that_are_too_small_are_told(torso):
    smallest, config = TORSOS[torso].smallest_image, NetworkConfig(id=torso)
    for shape in ((smallest - 1, smallest, 1), (smallest, smallest - 1, 1)):
        spec = cases.spec_of(observation=(ArraySpec("grid", "bool", shape, 0, 1),))
        with pytest.raises(Misconfigured, match=rf"'grid' of shape .* is too small for {torso}"):
            build(spec, config)
