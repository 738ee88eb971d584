"""Spaces as named arrays, and actions on their way to an environment."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st
from toy_envs import Nested

from pronk.envs.actions import ActionLayout
from pronk.envs.failures import Unusable
from pronk.envs.masks import mask_row
from pronk.envs.observations import ObservationLayout
from pronk.errors import Misconfigured
from pronk.wire.spec import ArraySpec, ContinuousSpec, DiscreteSpec


def test_observation_specs_of_every_space():
    layout = ObservationLayout(Nested.observation_space)
    assert {spec.name: spec for spec in layout.specs} == {
        "body.speed": ArraySpec("body.speed", "float32", (2,), -1, 1),
        "pair.0": ArraySpec("pair.0", "int64", (), -1, 1),
        "pair.1": ArraySpec("pair.1", "int8", (4,), 0, 1),
        "kind": ArraySpec("kind", "int64", (2,), 0, 4),
        "frame": ArraySpec("frame", "uint8", (2, 2, 3), 0, 255),
    }
    assert layout.dropped == ["mission"]


def test_plain_spaces_have_the_default_name():
    assert ObservationLayout(spaces.Box(0, 1, (3,))).specs[0].name == "default"
    assert ActionLayout(spaces.Discrete(4)).specs == (DiscreteSpec("default", (4,)),)


def test_batched_and_single_observations_agree():
    space = Nested.observation_space
    space.seed(3)
    layout = ObservationLayout(space)
    rows = [space.sample() for _ in range(4)]
    written = layout.empty(4)
    write = layout.writer(written)
    for slot, row in enumerate(rows):
        write(slot, row)
    batched = {
        "body": {"speed": np.stack([row["body"]["speed"] for row in rows])},
        "pair": tuple(np.stack([row["pair"][i] for row in rows]) for i in range(2)),
        "kind": np.stack([row["kind"] for row in rows]),
        "frame": np.stack([row["frame"] for row in rows]),
    }
    arrays = layout.arrays(batched, 4)
    assert arrays.keys() == written.keys() == {spec.name for spec in layout.specs}
    for spec in layout.specs:
        np.testing.assert_array_equal(arrays[spec.name], written[spec.name])
        assert arrays[spec.name].dtype == written[spec.name].dtype == np.dtype(spec.dtype)
        assert arrays[spec.name].shape == (4, *spec.shape)
    assert written["pair.0"].tolist() == [row["pair"][0] for row in rows]


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Dict({"a": spaces.Graph(spaces.Discrete(2), None)}), "'a'.*Graph"),
        (spaces.Text(3), "holds nothing"),
        (spaces.Box(0, 1, (0,)), "no elements"),
        (spaces.Box(0, 1, (2,), np.longdouble), "does not travel"),
        (
            spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            "'a.b'; rename",
        ),
    ],
)
def test_observations_that_are_no_arrays_are_refused(space, says):
    with pytest.raises(Misconfigured, match=says):
        ObservationLayout(space)


@pytest.mark.parametrize(
    "space",
    [spaces.Text(3), spaces.Box(0, 9, (2,), np.int32), spaces.Dict({}), spaces.Box(0, 1, (0,))],
)
def test_actions_that_no_policy_can_take_are_refused(space):
    with pytest.raises(Misconfigured):
        ActionLayout(space)


def test_action_specs_of_every_space():
    assert ActionLayout(Nested.action_space).specs == (
        ContinuousSpec("arm", (2,), (0.0, -2.0), (10.0, 2.0)),
        DiscreteSpec("gears.0", (3,)),
        DiscreteSpec("gears.1", (2, 4), scalar=False),
        DiscreteSpec("lights", (2, 2), scalar=False),
    )


@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(1, 5))
def test_every_policy_action_is_an_action_of_the_space(seed, slots):
    rng = np.random.default_rng(seed)
    layout = ActionLayout(Nested.action_space)
    action = {}
    for spec in layout.specs:
        if isinstance(spec, ContinuousSpec):
            action[spec.name] = rng.normal(0, 3, (slots, *spec.shape)).astype(np.float32)
        elif spec.scalar:
            action[spec.name] = rng.integers(0, spec.choices[0], slots)
        else:
            action[spec.name] = rng.integers(0, spec.choices, (slots, len(spec.choices)))
    batched = layout.batch(action)
    assert batch_space(Nested.action_space, slots).contains(batched)
    for slot, single in enumerate(layout.singles(action)):
        assert Nested.action_space.contains(single)
        assert single["gears"][0] == action["gears.0"][slot] + 5
        np.testing.assert_array_equal(single["gears"][1], action["gears.1"][slot])
        np.testing.assert_array_equal(single["arm"], batched["arm"][slot])


def test_continuous_actions_are_stretched_and_clipped():
    low = np.array([0, -2, -np.inf, 0, -1], np.float32)
    high = np.array([10, 2, np.inf, np.inf, 1], np.float32)
    layout = ActionLayout(spaces.Box(low, high))
    given = np.array([[0.5] * 5, [-7] * 5, [7] * 5], np.float32)
    kept = given.copy()
    expected = [[7.5, 1, 0.5, 0.5, 0.5], [0, -2, -7, -7, -1], [10, 2, 7, 7, 1]]
    np.testing.assert_allclose(layout.batch({"default": given}), expected)
    np.testing.assert_array_equal(given, kept)


def test_environments_never_get_the_callers_arrays():
    layout = ActionLayout(spaces.MultiDiscrete([3, 3]))
    chosen = np.ones((2, 2), np.int64)
    assert not np.shares_memory(layout.singles({"default": chosen})[0], chosen)
    unbounded = ActionLayout(spaces.Box(-np.inf, np.inf, (2,)))
    floats = np.ones((2, 2), np.float32)
    assert not np.shares_memory(unbounded.batch({"default": floats}), floats)


def test_masks_in_one_array_or_several():
    assert mask_row(np.array([1, 0, 1], np.int8), 3).tolist() == [True, False, True]
    assert mask_row((np.array([1, 0]), np.array([0, 1, 1])), 5).tolist() == [1, 0, 0, 1, 1]
    assert mask_row(None, 2).all()
    with pytest.raises(Unusable, match=r"2 entries.*3 choices"):
        mask_row(np.ones(2), 3)
