"""Unrolls say exactly what was played: a learner can compute the behaviour again from them."""

import itertools
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pronk_actor.agent import Agent, Memory
from pronk_actor.episodes import EpisodeTracker
from pronk_actor.player import Player, Seat
from pronk_actor.rollout import size_of, split
from toy_policies import CORE, derive, ready, replayed_log_prob

from pronk import envs
from pronk.config.schema import EnvConfig, NetworkConfig
from pronk.envs import Observation, StepResult
from pronk.wire.entries import ENTRY_BYTES, groups, slot_bytes
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import Episode, Unroll, UnrollHeader

HEADER = UnrollHeader("hash", "run", "default", "member", 0)


def play(env_id: str, rows: int, unrolls: int, slots: int = 3, swap_every: int = 2, **kwargs):
    """Unrolls of one player, a new version every `swap_every` unrolls; and its environment."""
    env = envs.make(EnvConfig(id=env_id, kwargs=kwargs), slots, 0)
    rng = np.random.default_rng(1)
    agent = Agent(env.spec, slots, ready(env.spec, 0), rng)
    agent.task[:] = np.arange(slots)  # the policy of these tests looks at it
    player = Player(env.spec, Seat("default", range(slots), rows, distribution=True), agent)
    player.restart(env.reset())
    finished = []
    for index in range(unrolls):
        if index % swap_every == 0:
            agent.adopt(ready(env.spec, index))
        for _ in range(rows):
            player.record(env.step(player.act()))
        finished.append(player.finish(HEADER))
    return env, [unroll for unroll, _ in finished], [ended for _, ended in finished]


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("toy_envs:Counter", {"length": 1}),
        ("toy_envs:Counter", {"length": 3}),
        ("toy_envs:Counter", {"length": 50}),
        ("toy_envs:Masked", {}),
        ("CartPole-v1", {}),
    ],
)
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_the_behaviour_can_be_computed_again_from_the_unroll_alone(env_id, kwargs, rows):
    """Every input of every row: a wrong reset, state, action, reward or version changes it."""
    env, unrolls, _ = play(env_id, rows, 9, **kwargs)
    for unroll in unrolls:
        np.testing.assert_allclose(
            replayed_log_prob(env.spec, unroll), unroll.behaviour_log_prob, atol=1e-6
        )


def test_core_state_at_the_start_of_an_unroll_exactly():
    """A state that counts the steps since the reset: the unroll holds it as it was before row 0,
    the reset of row 0 not yet applied (after torchbeast's core_agent_state_test)."""

    class CountingEngine:
        def __init__(self):
            self.seen = []

        def step(self, inputs):
            self.seen.append((inputs["core.h"].copy(), inputs["reset"].copy()))
            counted = inputs["core.h"] * ~inputs["reset"][:, None] + 1
            zeros = np.zeros((len(counted), 2), np.float32)
            return {"dist.default": zeros, "value": zeros[:, 0], "next_core.h": counted}

    env = envs.make(EnvConfig(id="toy_envs:Counter", kwargs={"length": 4}), 2, 0)
    policy = ready(env.spec, 0)
    engine = CountingEngine()
    object.__setattr__(policy, "engine", engine)
    player = Player(
        env.spec, Seat("default", range(2), 3), Agent(env.spec, 2, policy, np.random.default_rng())
    )
    player.restart(env.reset())
    starts, resets = [], []
    for _ in range(6):
        for _ in range(3):
            player.record(env.step(player.act()))
        unroll, _ = player.finish(HEADER)
        starts.append(int(unroll.core_state["h"][0, 0]))
        resets.append(bool(unroll.reset[0]))
        assert (unroll.core_state["h"] == unroll.core_state["h"][0, 0]).all()
    # Rows 0 … 17, episodes of 4 steps and a dead row: resets at rows 0, 5, 10, 15.
    counted = [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    assert starts == counted[::3]
    assert resets == [row % 5 == 0 for row in range(0, 18, 3)]
    assert [int(core[0, 0]) for core, _ in engine.seen] == counted


def test_rows_follow_one_another_across_unrolls():
    _, unrolls, _ = play("toy_envs:Counter", 4, 7)
    observations = [unroll.obs["default"] for unroll in unrolls]
    for before, after in itertools.pairwise(observations):
        np.testing.assert_array_equal(before[-1], after[0])
    rows = np.concatenate([rows[:-1] for rows in observations])
    expected = [divmod(row, 4) for row in range(28)]
    np.testing.assert_array_equal(rows, np.array(expected)[:, None].repeat(3, 1))
    valid = np.concatenate([unroll.valid for unroll in unrolls])[:, 0]
    assert valid.tolist() == [row % 4 != 3 for row in range(28)]
    reward = np.concatenate([unroll.reward for unroll in unrolls])[:, 0]
    assert reward.tolist() == [(1, 2, 3, 0)[row % 4] for row in range(28)]
    terminated = np.concatenate([unroll.terminated for unroll in unrolls])[:, 0]
    assert terminated.tolist() == [row % 8 == 2 for row in range(28)]


def test_the_first_row_of_all_and_rows_after_resets_have_no_past():
    _, unrolls, _ = play("toy_envs:Counter", 4, 7)
    first = unrolls[0]
    assert first.reset.all()
    assert not first.last_action["default"].any()
    assert not first.last_reward.any()
    assert not first.core_state["h"].any()
    after_reset = [unroll for unroll in unrolls if unroll.reset.any()]
    assert len(after_reset) == 7  # length 4 = 3 steps and a dead row
    for unroll in after_reset:
        assert not unroll.last_action["default"].any()
        assert not unroll.last_reward.any()
    _, unrolls, _ = play("toy_envs:Counter", 5, 7)
    for before, after in itertools.pairwise(unrolls):
        past = ~after.reset
        np.testing.assert_array_equal(
            after.last_action["default"], np.where(past, before.action["default"][-1], 0)
        )
        np.testing.assert_array_equal(after.last_reward, np.where(past, before.reward[-1], 0))
    assert any(unroll.last_action["default"].any() for unroll in unrolls)


def test_versions_are_those_that_acted_and_change_between_unrolls_only():
    _, unrolls, _ = play("toy_envs:Counter", 4, 6, swap_every=2)
    assert [np.unique(unroll.behaviour_version).tolist() for unroll in unrolls] == [
        [0], [0], [2], [2], [4], [4]
    ]  # fmt: skip


def test_unrolls_own_their_arrays():
    """What travels must not change while the next unroll is played."""
    _, unrolls, _ = play("CartPole-v1", 4, 2)
    arrays = [
        [*unroll.obs.values(), *unroll.action.values(), unroll.reward, unroll.valid]
        for unroll in unrolls
    ]
    for one in arrays[0]:
        assert not any(np.shares_memory(one, other) for other in arrays[1])


def test_distribution_parameters_travel_when_asked_for():
    _env, unrolls, _ = play("toy_envs:Counter", 4, 1)
    assert unrolls[0].distribution["default"].shape == (4, 3, 2)
    assert unrolls[0].distribution["default"].any()


def brute_force(unrolls: list[Unroll]) -> list[Episode]:
    """Episodes by walking over all rows of all slots."""
    found = []
    for slot in range(unrolls[0].slots):
        total, steps, number = 0.0, 0, 0
        for unroll in unrolls:
            for row in range(unroll.length):
                total += float(unroll.reward[row, slot])
                steps += bool(unroll.valid[row, slot])
                if unroll.terminated[row, slot] or unroll.truncated[row, slot]:
                    found.append(Episode(total, steps, steps, slot, slot, number))
                    total, steps, number = 0.0, 0, number + 1
    return found


def ordered(episodes) -> list[Episode]:
    return sorted(episodes, key=lambda episode: (episode.slot, episode.number))


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_episodes_are_counted_once_with_their_returns(rows):
    _, unrolls, ended = play("CartPole-v1", rows, 200 // rows)
    episodes = [episode for unroll in unrolls for episode in unroll.episodes]
    assert ordered(episodes) == ordered(brute_force(unrolls))
    assert len(episodes) > 10
    assert [end.episode for ends in ended for end in ends] == episodes


def test_episodes_carry_the_version_that_they_began_with():
    _, _, ended = play("toy_envs:Counter", 4, 8, slots=1, swap_every=1, length=5)
    began = [(end.episode.number, end.version.number) for ends in ended for end in ends]
    # Episodes take 6 rows and end in rows 4, 10, 16, … of unrolls of 4 rows.
    assert began == [(0, 0), (1, 1), (2, 2), (3, 4), (4, 5)]


def test_frames_count_the_action_repeat():
    tracker = EpisodeTracker(np.array([7], np.int32), 4)
    rows = np.ones((3, 1), np.bool_)
    ends = np.array([[False], [False], [True]])
    (end,) = tracker.advance(rows.astype(np.float32), rows, ends, (1, 5), np.array([2], np.int32))
    assert end.episode == Episode(3.0, 3, 12, 2, 7, 0)


class Script:
    """Numbered observations; slot s's first episode is cut off before row s: truncated, or the
    environment fails in that row, which is all the difference."""

    def __init__(self, spec: EnvironmentSpec, slots: int, *, fails: bool) -> None:
        self.spec, self.slots, self._fails = spec, slots, fails
        self._row = 0

    def reset(self) -> Observation:
        return Observation(self._look(), None)

    def step(self, action) -> StepResult:
        row, slots = self._row, np.arange(self.slots)
        self._row += 1
        reward = np.where(slots == row, 0, row + slots / 10).astype(np.float32)
        never = np.zeros(self.slots, np.bool_)
        if self._fails:
            return StepResult(self._look(), reward, never, never, None, slots == row)
        return StepResult(self._look(), reward, never, slots == row + 1, None)

    def _look(self):
        return {"default": np.stack([np.arange(self.slots), [self._row] * self.slots], 1) / 10}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_failure_leaves_the_rows_of_a_truncated_episode(rows):
    """At every row of every unroll: nothing false is learned from where an environment failed."""
    spec = EnvironmentSpec(
        "toy", (ArraySpec("default", "float32", (2,)),), (DiscreteSpec("default", (2,)),)
    )
    played = []
    for fails in (True, False):
        agent = Agent(spec, 9, ready(spec, 0), np.random.default_rng(1))
        player = Player(spec, Seat("default", range(9), rows), agent)
        env = Script(spec, 9, fails=fails)
        player.restart(env.reset())
        if not fails:
            player._dead[0] = True  # its first episode ended before row 0
        unrolls, lost = [], []
        for _ in range(9 // rows):
            for _ in range(rows):
                player.record(env.step(player.act()))
            unrolls.append(player.finish(HEADER)[0])
            lost += player.lost
        played.append(unrolls)
        if fails:
            assert lost == [(slot, 0) for slot in range(9 // rows * rows)]
    for failed, truncated in zip(*played, strict=True):
        assert not failed.truncated.any()
        assert not failed.episodes
        for field in fields(Unroll):
            if field.name in ("truncated", "episodes", "header"):
                continue
            one, other = getattr(failed, field.name), getattr(truncated, field.name)
            np.testing.assert_equal(one, other, err_msg=field.name)
        np.testing.assert_allclose(
            replayed_log_prob(spec, failed), failed.behaviour_log_prob, atol=1e-6
        )
    assert all((~unroll.valid).sum() == rows for unroll in played[0])


# Splitting


def an_unroll(rng, length: int, slots: int, extra_bytes: int) -> Unroll:
    spec = EnvironmentSpec(
        "toy",
        (ArraySpec("frame", "uint8", (extra_bytes,)), ArraySpec("x", "float32", ())),
        (DiscreteSpec("default", (2,)), DiscreteSpec("more", (2, 3), scalar=False)),
        action_mask=True,
    )
    rows, more, seen = (length, slots), (length + 1, slots), spec.observation
    return Unroll(
        header=UnrollHeader("hash", "run", "default", "member", 11),
        obs={a.name: rng.integers(0, 9, (*more, *a.shape)).astype(a.dtype) for a in seen},
        action={a.name: rng.integers(0, 2, (*rows, *a.shape)) for a in spec.action},
        behaviour_log_prob=rng.normal(size=rows).astype(np.float32),
        reward=rng.normal(size=rows).astype(np.float32),
        terminated=rng.random(rows) < 0.3,
        truncated=rng.random(rows) < 0.3,
        valid=rng.random(rows) < 0.5,
        task=rng.integers(0, 3, more).astype(np.int32),
        behaviour_version=rng.integers(0, 9, rows),
        core_state={"h": rng.normal(size=(slots, CORE)).astype(np.float32)},
        last_action={a.name: rng.integers(0, 2, (slots, *a.shape)) for a in spec.action},
        last_reward=rng.normal(size=slots).astype(np.float32),
        reset=rng.random(slots) < 0.5,
        slot=np.arange(5, 5 + slots, dtype=np.int32),
        action_mask=rng.random((*more, spec.mask_size)) < 0.5,
        distribution={a.name: rng.normal(size=(*rows, a.parameters)) for a in spec.action},
        extras={"teacher": rng.normal(size=(*rows, 2))},
        episodes=tuple(
            Episode(float(i), i, i, 0, int(rng.integers(5, 5 + slots)), i) for i in range(9)
        ),
    )  # fmt: skip


AXIS = dict.fromkeys(("core_state", "last_action", "last_reward", "reset", "slot"), 0)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 6),
    slots=st.integers(1, 9),
    extra=st.integers(1, 2000),
    limit=st.integers(16 << 10, 40 << 10),
)
def test_splitting_loses_and_repeats_nothing(seed, length, slots, extra, limit):
    whole = an_unroll(np.random.default_rng(seed), length, slots, extra)
    parts = list(split(whole, limit))
    assert [part.header.sequence for part in parts] == list(range(11, 11 + len(parts)))
    for field in fields(Unroll):
        if field.name in ("header", "episodes"):
            continue
        values, expected = [getattr(part, field.name) for part in parts], getattr(whole, field.name)
        axis = AXIS.get(field.name, 1)
        if isinstance(expected, dict):
            for name, array in expected.items():
                joined = np.concatenate([value[name] for value in values], axis)
                np.testing.assert_array_equal(joined, array)
        else:
            np.testing.assert_array_equal(np.concatenate(values, axis), expected)
    together = [episode for part in parts for episode in part.episodes]
    assert sorted(e.number for e in together) == list(range(9))
    for part in parts:
        assert {episode.slot for episode in part.episodes} <= set(part.slot.tolist())


@pytest.mark.parametrize(("slots", "frame", "groups"), [(8, 28224, 8), (64, 16, 1), (16, 4000, 2)])
def test_entries_stay_below_a_mebibyte(slots, frame, groups):
    from pronk.wire.codec import encode

    whole = an_unroll(np.random.default_rng(0), 20, slots, frame)
    parts = list(split(whole))
    assert len(parts) == groups
    assert all(len(encode(part)) <= 1 << 20 for part in parts)


@pytest.mark.parametrize(
    "env_id", ["toy_envs:Counter", "toy_envs:Masked", "CartPole-v1", "Pendulum-v1"]
)
def test_the_size_of_an_unroll_is_known_before_it_is_played(env_id):
    env, (unroll, *_), _ = play(env_id, 7, 1)
    core = sum(array[0].size for array in unroll.core_state.values())
    expected = slot_bytes(env.spec, 7, core_floats=core, distribution=True)
    assert size_of(unroll) == unroll.slots * expected


@pytest.mark.parametrize("separate", [False, True])
def test_the_memory_of_a_network_is_known_before_it_is_built(separate):
    from pronk.nets.network import build

    spec = EnvironmentSpec(
        "toy", (ArraySpec("default", "float32", (3,)),), (DiscreteSpec("default", (4,)),)
    )
    for core in ("none", "lstm"):
        config = NetworkConfig(core=core, core_size=24, separate_value=separate)
        shapes = build(spec, config).core_shapes.values()
        assert config.core_floats == sum(int(np.prod(shape)) for shape in shapes)


@given(slots=st.integers(1, 4096), size=st.integers(1, 2 << 20))
def test_groups_cover_every_slot_and_differ_by_one_at_most(slots, size):
    parts = groups(slots, size)
    assert [slot for part in parts for slot in range(part.start, part.stop)] == list(range(slots))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or max(sizes) * size < ENTRY_BYTES


def test_a_slot_too_large_goes_alone():
    parts = list(split(an_unroll(np.random.default_rng(0), 20, 3, 80_000)))
    assert [part.slots for part in parts] == [1, 1, 1]


def test_derived_rows_need_nothing_but_the_unroll():
    """The toy learner of these tests agrees with what the agent was fed."""
    _env, unrolls, _ = play("toy_envs:Counter", 5, 4)
    for before, after in itertools.pairwise(unrolls):
        derived = derive(before)
        np.testing.assert_array_equal(derived.reset[-1], after.reset)
        np.testing.assert_array_equal(derived.last_reward[-1], after.last_reward)
        np.testing.assert_array_equal(
            derived.last_action["default"][-1], after.last_action["default"]
        )


def test_memory_is_what_row_zero_is_fed_with():
    assert [field.name for field in fields(Memory)] == [
        "core_state", "last_action", "last_reward", "reset"
    ]  # fmt: skip
