"""Environments of every kind behind one interface, with one meaning."""

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from toy_envs import LENGTH

from pronk import envs
from pronk.config.schema import EnvConfig, WrapperConfig
from pronk.envs.single import frames_per_step
from pronk.envs.slots import SlotEnv
from pronk.errors import Misconfigured
from pronk.wire import spec as specs
from pronk.wire.spec import ContinuousSpec, DiscreteSpec

MODES = ("native", "sync", "async")


def actions(env: SlotEnv, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random actions as a policy would choose them."""
    chosen: dict[str, np.ndarray] = {}
    for spec in env.spec.action:
        if isinstance(spec, ContinuousSpec):
            chosen[spec.name] = rng.normal(size=(env.slots, *spec.shape)).astype(np.float32)
        else:
            assert isinstance(spec, DiscreteSpec)
            assert spec.scalar
            chosen[spec.name] = rng.integers(0, spec.choices[0], env.slots)
    return chosen


def play(env: SlotEnv, steps: int, seed: int = 0) -> Iterator[tuple[np.ndarray, Any]]:
    """(observation before, result) of each step, copied; single-observation environments."""
    rng = np.random.default_rng(seed)
    name = env.spec.observation[0].name
    obs = env.reset().obs[name].copy()
    for _ in range(steps):
        result = env.step(actions(env, rng))
        arrays = {key: array.copy() for key, array in result.obs.items()}
        yield obs, result._replace(obs=arrays)
        obs = arrays[name]


@pytest.fixture
def made():
    """Makes environments and closes them."""
    open_envs = []

    def make(slots: int = 2, seed: int = 7, **config: Any) -> SlotEnv:
        env = envs.make(EnvConfig(**config), slots, seed)
        open_envs.append(env)
        return env

    yield make
    for env in open_envs:
        env.close()


@pytest.mark.parametrize("mode", MODES)
def test_next_step_reset_is_the_same_in_every_mode(made, mode):
    """The end row shows the true final observation, the next row is dead, then comes the reset."""
    env = made(id="toy_envs:Counter-v0", vectorization=mode)
    assert env.slots == 2
    for row, (obs, result) in enumerate(play(env, 3 * (LENGTH + 1))):
        episode, step = divmod(row, LENGTH + 1)
        dead, ends = step == LENGTH, step == LENGTH - 1
        after = [episode + 1, 0] if dead else [episode, step + 1]
        np.testing.assert_array_equal(obs, [[episode, step]] * 2)
        np.testing.assert_array_equal(result.obs["default"], [after] * 2)
        assert result.reward.tolist() == [0 if dead else step + 1] * 2
        assert result.terminated.tolist() == [ends and episode % 2 == 0] * 2
        assert result.truncated.tolist() == [ends and episode % 2 == 1] * 2
        assert result.reward.dtype == np.float32
        assert result.terminated.dtype == result.truncated.dtype == np.bool_
        assert result.obs["default"].dtype == np.float32


@pytest.mark.parametrize("mode", MODES)
def test_resetting_again_starts_new_episodes(made, mode):
    env = made(id="toy_envs:Counter-v0", vectorization=mode)
    assert env.reset().obs["default"].tolist() == [[0, 0]] * 2
    env.step({"default": np.zeros(2, np.int64)})
    assert env.reset().obs["default"].tolist() == [[1, 0]] * 2


def test_auto_takes_the_native_implementation_unless_wrapped(made):
    native = made(id="CartPole-v1")
    assert type(native).__name__ == "VectorSlots"
    wrapped = made(
        id="CartPole-v1",
        wrappers=[{"id": "gymnasium.wrappers:FrameStackObservation", "kwargs": {"stack_size": 2}}],
    )
    assert type(wrapped).__name__ == "SyncSlots"
    assert wrapped.spec.observation[0].shape == (2, 4)
    assert type(made(id="Acrobot-v1")).__name__ == "SyncSlots"


@pytest.mark.parametrize("mode", ["native", "sync"])
def test_cartpole_ends_where_it_says(made, mode):
    env = made(id="CartPole-v1", vectorization=mode, slots=4)
    assert env.spec.action == (DiscreteSpec("default", (2,)),)
    assert env.spec.observation[0].shape == (4,)
    dead = np.zeros(4, np.bool_)
    ends = 0
    for _, result in play(env, 120):
        state = np.abs(result.obs["default"])
        beyond = (state[:, 0] > 2.4) | (state[:, 2] > 12 * 2 * np.pi / 360)
        np.testing.assert_array_equal(result.terminated, beyond & ~dead)
        assert (state[dead] <= 0.05).all()
        np.testing.assert_array_equal(result.reward, ~dead)
        dead = result.terminated | result.truncated
        ends += int(dead.sum())
    assert ends > 8


@pytest.mark.parametrize("mode", ["native", "sync"])
def test_a_limit_of_steps_truncates(made, mode):
    env = made(id="CartPole-v1", vectorization=mode, max_episode_steps=5)
    flags = [result.truncated.tolist() for _, result in play(env, 12)]
    assert [row for row, flag in enumerate(flags) if all(flag)] == [4, 10]


def test_a_limit_of_steps_holds_for_own_functions(made):
    env = made(id="toy_envs:Counter", kwargs={"length": 9}, max_episode_steps=2)
    truncated = [result.truncated.all() for _, result in play(env, 5)]
    assert truncated == [False, True, False, False, True]


def test_atari_as_the_paper_plays_it(made):
    env = made(id="ALE/Pong-v5", max_episode_steps=12)
    spec = env.spec
    assert spec.frames_per_step == 4
    assert spec.observation == (specs.ArraySpec("default", "uint8", (4, 84, 84), 0, 255),)
    assert spec.action == (DiscreteSpec("default", (6,)),)
    frames = []
    for row, (_, result) in enumerate(play(env, 26)):
        assert result.truncated.all() == (row in (11, 24))
        assert result.reward.dtype == np.float32
        frames.append(result.obs["default"])
    # Stacks move by one frame a step; the reset's does not continue the old episode.
    np.testing.assert_array_equal(frames[3][:, 1:], frames[4][:, :-1])
    assert not np.array_equal(frames[11][:, 1:], frames[12][:, :-1])


def test_atari_rewards_are_raw(made):
    env = made(id="ALE/Carnival-v5", slots=4)
    rewards = np.concatenate([result.reward for _, result in play(env, 150)])
    assert rewards.max() > 1


def test_atari_arguments_reach_the_emulator(made):
    env = made(id="ALE/Pong-v5", kwargs={"frameskip": 2, "full_action_space": True}, slots=1)
    assert env.spec.frames_per_step == 2
    assert env.spec.action == (DiscreteSpec("default", (18,)),)


def test_minatar_and_minigrid(made):
    minatar = made(id="MinAtar/Breakout-v0")
    assert minatar.spec.action == (DiscreteSpec("default", (6,)),)
    assert minatar.spec.observation == (specs.ArraySpec("default", "bool", (10, 10, 4), 0, 1),)
    for _, result in play(minatar, 30):
        assert result.obs["default"].dtype == np.bool_
    alone = gymnasium.make("MinAtar/Breakout-v0").unwrapped
    assert alone.game.sticky_action_prob == 0.1, "actions stick as MinAtar has them"
    minigrid = made(id="MiniGrid-DoorKey-5x5-v0")
    assert [array.name for array in minigrid.spec.observation] == ["direction", "image"]
    image = made(id="MiniGrid-DoorKey-5x5-v0", wrappers=[{"id": "minigrid.wrappers:ImgObsWrapper"}])
    assert [array.name for array in image.spec.observation] == ["default"]
    for _, result in play(image, 5):
        assert result.obs["default"].shape == (2, 7, 7, 3)


def test_continuous_actions(made):
    env = made(id="Pendulum-v1", slots=3)
    assert env.spec.action == (ContinuousSpec("default", (1,), (-2.0,), (2.0,)),)
    for _, result in play(env, 5):
        assert np.isfinite(result.reward).all()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_everything_nested(made, mode):
    env = made(id="toy_envs:Nested", slots=3, vectorization=mode)
    assert env.spec == envs.describe(EnvConfig(id="toy_envs:Nested"))
    rng = np.random.default_rng(0)
    env.reset()
    for _ in range(4):
        result = env.step(
            {
                "arm": rng.normal(size=(3, 2)).astype(np.float32),
                "gears.0": rng.integers(0, 3, 3),
                "gears.1": rng.integers(0, [2, 4], (3, 2)),
                "lights": rng.integers(0, 2, (3, 2)),
            }
        )
        for array in env.spec.observation:
            assert result.obs[array.name].shape == (3, *array.shape)
            assert result.obs[array.name].dtype == array.dtype


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_action_masks(made, mode):
    env = made(id="toy_envs:Masked", vectorization=mode)
    assert env.spec.action_mask
    assert env.spec.mask_size == 3
    mask = env.reset().action_mask
    assert mask is not None
    for row in range(12):
        step = row % 5
        expected = [True] * 3 if step == 4 else [number == step % 3 for number in range(3)]
        assert mask.tolist() == [expected] * 2
        mask = env.step({"default": mask.argmax(1)}).action_mask
        assert mask is not None
        assert mask.dtype == np.bool_


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "ALE/Pong-v5", "MinAtar/Breakout-v0"]
)
def test_seeds_repeat_and_differ(made, env_id):
    """Four slots that get the same actions."""

    def trace(seed: int) -> np.ndarray:
        env = made(id=env_id, seed=seed, slots=4)
        rng = np.random.default_rng(0)
        rows = [env.reset().obs["default"].copy()]
        for _ in range(40):
            same = {name: array[:1].repeat(4) for name, array in actions(env, rng).items()}
            rows.append(env.step(same).obs["default"].copy())
        return np.stack(rows)

    first = trace(5)
    np.testing.assert_array_equal(first, trace(5))
    assert not np.array_equal(first, trace(6))
    assert not np.array_equal(first, first[:, :1].repeat(4, axis=1)), "all slots play the same"


@pytest.mark.parametrize("mode", MODES)
def test_describing_needs_no_slots(mode):
    config = EnvConfig(id="toy_envs:Counter-v0", vectorization=mode)
    spec = envs.describe(config)
    assert spec.environment == config.id
    assert specs.from_proto(specs.to_proto(spec)) == spec


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"id": "CartPol-v1"}, "did you mean CartPole-v1"),
        ({"id": "Pong-v5"}, "did you mean ALE/Pong-v5"),
        ({"id": "ALE/Pnog-v5"}, "did you mean ALE/Pong-v5"),
        ({"id": "MinAtar/Brakeout-v0"}, "did you mean MinAtar/Breakout-v0"),
        ({"id": "zzzzzzzz"}, "Gymnasium id"),
        ({"id": "no_such_module:make"}, "no such module"),
        ({"id": "toy_envs:no_such"}, "toy_envs has no function 'no_such'"),
        ({"id": "toy_envs:LENGTH"}, "no function"),
        ({"id": "toy_envs:not_an_environment"}, "gave a int"),
        ({"id": "toy_envs:broken"}, r"RuntimeError: the simulator is not licensed \(.*toy_envs"),
        ({"id": "toy_envs:Dreamer"}, "Sequence"),
        ({"id": "CartPole-v1", "kwargs": {"colour": 1}}, "cannot make .*CartPole-v1.*colour"),
        ({"id": "ALE/Pong-v5", "kwargs": {"colour": 1}}, "cannot make .*Pong-v5.*colour"),
        ({"id": "toy_envs:SameStep-v0"}, "choose sync"),
        ({"id": "Acrobot-v1", "vectorization": "native"}, "does not exist; choose auto"),
        ({"id": "Acrobot-v1", "wrappers": [{"id": "toy_envs:No"}]}, r"wrappers\.0\.id.*no 'No'"),
        ({"id": "Acrobot-v1", "wrappers": [{"id": "absent:No"}]}, "cannot import absent"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_environment_is_said_in_one_line(config, says):
    with pytest.raises(Misconfigured, match=says) as caught:
        envs.describe(EnvConfig(**config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MinAtar/Breakout-v0", "minatar.gym", "minatar"),
        ("MiniGrid-DoorKey-5x5-v0", "minigrid", "minigrid"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, env_id, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Misconfigured, match=rf"pip install 'pronk\[{extra}\]'"):
        envs.describe(EnvConfig(id=env_id))


def test_a_package_of_gymnasium_itself_that_is_missing(monkeypatch):
    with pytest.raises(Misconfigured, match="pip install"):
        envs.describe(EnvConfig(id="LunarLander-v3"))


def test_frame_skips_of_wrappers_count():
    config = EnvConfig(
        id="ALE/Pong-v5",
        kwargs={"frameskip": 1},
        wrappers=(
            WrapperConfig(id="gymnasium.wrappers:MaxAndSkipObservation", kwargs={"skip": 3}),
        ),
    )
    assert envs.describe(config).frames_per_step == 3


def test_steps_of_physics_are_no_frames():
    class Simulated(gymnasium.Env[Any, Any]):
        """As MuJoCo's environments are."""

        def __init__(self) -> None:
            self.frame_skip = 5

    assert frames_per_step(Simulated()) == 1


@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "ALE/Breakout-v5",
        "MinAtar/Breakout-v0",
        "MiniGrid-DoorKey-5x5-v0",
        "Pendulum-v1",
    ],
)
def test_recording_shows_the_episode_that_is_played(env_id):
    recorder = envs.record(EnvConfig(id=env_id), 3)
    recorder.reset()
    rng = np.random.default_rng(1)
    first = recorder.render()
    for _ in range(10):
        recorder.step(actions(recorder, rng))
    last = recorder.render()
    recorder.close()
    assert first.dtype == last.dtype == np.uint8
    assert first.shape == last.shape
    assert first.shape[2] == 3
    assert not np.array_equal(first, last)


def test_the_colour_picture_of_an_atari_game_is_of_the_same_episode():
    """Grey of the filmed screen is the newest frame that the policy saw, but for its size."""
    from PIL import Image

    recorder = envs.record(EnvConfig(id="ALE/Breakout-v5"), 3)
    rng = np.random.default_rng(1)
    recorder.reset()
    for _ in range(60):
        seen = recorder.step(actions(recorder, rng)).obs["default"][0, -1]
    grey = Image.fromarray(recorder.render()).convert("L").resize((84, 84), Image.Resampling.BOX)
    recorder.close()
    difference = np.abs(np.asarray(grey, float) - seen)
    assert difference.mean() < 3


def test_environments_draw_or_say_what_they_lack(monkeypatch):
    with pytest.raises(Misconfigured, match="render"):
        envs.record(EnvConfig(id="toy_envs:Counter"), 0)
    monkeypatch.setitem(sys.modules, "pygame", None)
    recorder = envs.record(EnvConfig(id="CartPole-v1", vectorization="sync"), 0)
    recorder.reset()
    with pytest.raises(Misconfigured, match="pip install"):
        recorder.render()
