"""Environments that fail: the slot gets another one, the others go on, and it is told."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toy_envs
from toy_envs import LENGTH

from pronk import envs
from pronk.config.schema import EnvConfig
from pronk.envs import Failure, SlotEnv, StepResult
from pronk.envs.failures import PATIENCE
from pronk.envs.make import _seeds
from pronk.errors import Broken, Misconfigured

SEED = 7
KINDS = {
    "crash": ("crash", "RuntimeError: the simulator is gone"),
    "exit": ("crash", "SystemExit: 0"),
    "not a tuple": ("crash", "ValueError: not enough values"),
    "no reward": ("crash", "TypeError: float"),
    "nan": ("non_finite", "observation 'state' is not finite"),
    "infinite": ("non_finite", "the reward is not finite"),
    "huge": ("range", "observation 'state' is not within ±1e+09"),
    "lavish": ("range", "the reward is not within ±1e+09"),
    "narrow": ("shape", "observation 'state' has the shape (1,) instead of (2,)"),
    "ragged": ("shape", "observation 'state' is no array"),
    "fraction": ("shape", "observation 'count' is float64 instead of int64"),
    "far": ("range", "observation 'count' is not within 0 to 3"),
    "reset_crash": ("crash", "RuntimeError: the simulator is gone"),
    "reset_nan": ("non_finite", "observation 'state' is not finite"),
    "reset_narrow": ("shape", "observation 'state' has the shape (1,) instead of (2,)"),
    "reset_far": ("range", "observation 'count' is not within 0 to 3"),
}
"""How a toy fails → what is told of it."""


@pytest.fixture
def made():
    """Makes environments and closes them; with the list of what they told."""
    opened: list[SlotEnv] = []

    def make(slots: int, **config) -> tuple[SlotEnv, list[Failure]]:
        told: list[Failure] = []
        env = envs.make(EnvConfig(**config), slots, SEED, told.append)
        opened.append(env)
        return env, told

    yield make
    for env in opened:
        env.close()


def play(env: SlotEnv, steps: int) -> list[StepResult]:
    """Copied rows, the first of them the reset."""
    obs, mask = env.reset()
    none = np.zeros(env.slots, np.bool_)
    rows = [StepResult(copied(obs), none.astype(np.float32), none, none, mask)]
    for _ in range(steps):
        row = env.step({"default": np.zeros(env.slots, np.int64)})
        rows.append(row._replace(obs=copied(row.obs)))
    return rows


def copied(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in obs.items()}


def check_slot(rows: list[StepResult], slot: int, failed_at: int | None) -> None:
    """The rows of a toy that failed once, or never: its steps count on, from 0 after a failure."""
    count, dead = 0, False
    for number, row in enumerate(rows[1:], 1):
        failed = number == failed_at
        began = dead or failed
        count = 0 if began else count + 1
        assert row.obs["count"][slot] == row.obs["state"][slot, 1] == count
        assert row.reward[slot] == (0 if began else count)
        dead = count == LENGTH
        assert row.terminated[slot] == dead
        assert not row.truncated[slot]
        assert (row.failed is not None and row.failed[slot]) == failed


def failure_row(kind: str) -> int:
    return LENGTH + 1 if kind.startswith("reset_") else 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_that_fails_gets_another_environment_and_the_others_go_on(made, kind):
    seeds = _seeds(SEED, 3)
    env, told = made(3, id="toy_envs:Faulty", kwargs={"faults": {str(seeds[1]): kind}})
    rows = play(env, 12)
    for slot in range(3):
        check_slot(rows, slot, failure_row(kind) if slot == 1 else None)
    (failure,) = told
    reason, said = KINDS[kind]
    assert (failure.slot, failure.reason) == (1, reason)
    assert failure.said.startswith(said)
    assert "\n" not in failure.said


def test_in_processes_of_their_own_too(made):
    """All kinds at once, each in a slot, beside one that does not fail."""
    kinds = ["", "crash", "exit", "infinite", "fraction", "lavish", "reset_nan"]
    seeds = _seeds(SEED, len(kinds))
    faults = {str(seed): kind for seed, kind in zip(seeds, kinds, strict=True)}
    env, told = made(
        len(kinds), id="toy_envs:Faulty", vectorization="async", kwargs={"faults": faults}
    )
    rows = play(env, 9)
    for slot, kind in enumerate(kinds):
        check_slot(rows, slot, failure_row(kind) if kind else None)
    assert {failure.slot: failure.reason for failure in told} == {
        slot: KINDS[kind][0] for slot, kind in enumerate(kinds) if kind
    }
    assert len(told) == len(kinds) - 1


@pytest.mark.parametrize(("kind", "reason"), [("die", "crash"), ("hang", "hang")])
def test_processes_that_die_or_hang_are_killed_and_started_anew(made, kind, reason):
    """All of them: every slot begins an episode."""
    seeds = _seeds(SEED, 2)
    env, told = made(
        2,
        id="toy_envs:Faulty",
        vectorization="async",
        step_seconds=3,
        kwargs={"faults": {str(seeds[1]): kind}},
    )
    before = env._env.processes
    rows = play(env, 6)
    for slot in range(2):
        check_slot(rows, slot, 2)
    (failure,) = told
    assert (failure.slot, failure.reason) == (None, reason)
    assert "slot 1" in failure.said
    assert not any(process.is_alive() for process in before)


@pytest.mark.parametrize(
    ("kind", "reason", "said"),
    [
        ("crash", "crash", "RuntimeError: all gone"),
        ("nan", "non_finite", "slot 1: observation 'default' is not finite"),
        ("infinite", "non_finite", "slot 1: the reward is not finite"),
        ("huge", "range", "slot 1: observation 'default' is not within ±1e+09"),
        ("narrow", "shape", "the shape (2, 1) instead of (2, 2)"),
        ("fewer", "shape", "the shape (1, 2) instead of (2, 2)"),
    ],
)
def test_a_vector_environment_is_replaced_as_a_whole(made, monkeypatch, kind, reason, said):
    monkeypatch.setattr(toy_envs.FaultyVector, "lives", 0)
    env, told = made(2, id="toy_envs:Faulty-v0", kwargs={"fault": kind})
    rows = play(env, 7)
    steps = [row.obs["default"][:, 1].tolist() for row in rows]
    assert steps == [[n, n] for n in (0, 1, 2, 0, 1, 2, 3, 0)]
    assert [row.reward.tolist() for row in rows] == [[n, n] for n in (0, 1, 2, 0, 1, 2, 3, 0)]
    assert [row.failed is not None and row.failed.all() for row in rows] == [
        number == 3 for number in range(8)
    ]
    (failure,) = told
    assert (failure.slot, failure.reason) == (None, reason)
    assert said in failure.said


@pytest.mark.parametrize(
    ("mask", "reason"), [((True, True), "shape"), ((False,) * 3, "range"), ((True,) * 4, "shape")]
)
def test_masks_that_nobody_can_act_by(made, mask, reason):
    env, told = made(1, id="toy_envs:Masked", kwargs={"wrong": 2, "mask": mask})
    env.reset()
    env.step({"default": np.array([0])})
    result = env.step({"default": np.array([1])})
    assert result.failed.tolist() == [True]
    assert result.action_mask.tolist() == [[True, False, False]]
    assert [failure.reason for failure in told] == [reason]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_slot_that_always_fails_ends_the_play_with_one_line(made, mode):
    seeds = _seeds(SEED, 2)
    kwargs = {"faults": {str(seeds[0]): ""}, "otherwise": "crash", "at": 1}
    env, told = made(2, id="toy_envs:Faulty", vectorization=mode, kwargs=kwargs)
    with pytest.raises(Broken) as caught:
        play(env, PATIENCE + 3)
    assert str(caught.value) == (
        f"environment toy_envs:Faulty (slot 1) failed {PATIENCE} times in a row: "
        "RuntimeError: the simulator is gone"
    )
    assert Counter(failure.slot for failure in told) == {1: PATIENCE}


def test_a_vector_environment_that_cannot_be_built_again_ends_the_play(made, monkeypatch):
    monkeypatch.setattr(toy_envs.FaultyVector, "lives", 0)
    env, _ = made(2, id="toy_envs:Faulty-v0", kwargs={"fault": "crash"})

    def cannot(self, num_envs, fault):
        raise OSError("no licence left")

    monkeypatch.setattr(toy_envs.FaultyVector, "__init__", cannot)
    with pytest.raises(Broken, match=r"Faulty-v0 failed 5 times in a row: OSError: no licence"):
        play(env, 3)


def test_one_that_fails_now_and_then_is_borne_with_for_ever(made):
    seeds = _seeds(SEED, 2)
    kwargs = {"faults": {str(seeds[0]): ""}, "otherwise": "crash"}
    env, told = made(2, id="toy_envs:Faulty", kwargs=kwargs)
    rows = play(env, 10 * PATIENCE)
    check_slot(rows, 0, None)
    assert [row.failed is not None for row in rows[1:]] == [False, True] * 5 * PATIENCE
    assert len(told) == 5 * PATIENCE


class BadStart(toy_envs.Faulty):
    """Every first observation is nothing that its space knows."""

    def _obs(self):
        return super()._obs() | {"count": -3}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_fails_from_the_start_is_misconfigured(mode):
    config = EnvConfig(id=f"{__name__}:BadStart", vectorization=mode)
    with pytest.raises(Misconfigured, match=r"slot 0\) failed 5 times in a row: .*'count'") as why:
        envs.make(config, 2, SEED)
    assert "\n" not in str(why.value)


def test_a_new_environment_has_a_seed_of_its_own_that_repeats():
    def later_seeds(slots: int) -> list[int | None]:
        given: list[int | None] = []
        reset = toy_envs.Faulty.reset
        with pytest.MonkeyPatch.context() as patch:

            def noting(self, *, seed=None, options=None):
                given.append(seed)
                return reset(self, seed=seed)

            patch.setattr(toy_envs.Faulty, "reset", noting)
            kwargs = {"otherwise": "crash"}
            env = envs.make(EnvConfig(id="toy_envs:Faulty", kwargs=kwargs), slots, SEED)
            play(env, 6)
            env.close()
        return given

    seeds = later_seeds(2)
    assert len(seeds) == len(set(seeds)) == 2 * 4
    assert seeds == later_seeds(2)


# Hangs, in processes that may end

_PLAY = """
import sys
import numpy as np
from pronk import envs
from pronk.config.schema import EnvConfig

config, slots, steps = sys.argv[1:]
tell = lambda failure: print(failure, flush=True)
env = envs.make(EnvConfig.model_validate_json(config), int(slots), 7, tell)
env.reset()
for _ in range(int(steps)):
    env.step({"default": np.zeros(env.slots, np.int64)})
env.close()
"""


def played(slots: int, steps: int, **config) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(toy_envs.__file__).parent), *sys.path])
    arguments = [EnvConfig(**config).model_dump_json(), str(slots), str(steps)]
    return subprocess.run(
        [sys.executable, "-c", _PLAY, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("env_id", "kwargs", "where"),
    [
        ("toy_envs:Faulty", {"faults": {str(_seeds(SEED, 2)[1]): "hang"}}, " (slot 1)"),
        ("toy_envs:Faulty-v0", {"fault": "hang"}, ""),
    ],
)
def test_a_hang_in_the_actors_own_process_ends_it_with_one_line(env_id, kwargs, where):
    done = played(2, 9, id=env_id, kwargs=kwargs, step_seconds=1)
    assert done.returncode == 1
    assert done.stderr == (
        f"pronk: environment {env_id}{where} hangs: "
        "a step took longer than 1 s (env.step_seconds)\n"
    )
    assert "reason='hang'" in done.stdout


def test_native_code_that_lets_nothing_else_run_cannot_keep_the_process():
    done = played(2, 9, id="toy_envs:Faulty", kwargs={"otherwise": "freeze"}, step_seconds=1)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_every_slot_has_all_the_time_again():
    """Six slots take longer than the limit, none of them does alone."""
    done = played(6, 1, id="toy_envs:Slow", step_seconds=2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
