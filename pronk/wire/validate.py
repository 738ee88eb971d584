"""Is an unroll what this experiment asked for?

Shapes, dtypes and names must be exactly those of the environment's spec. Floats must be finite and
within ±`MAX_FLOAT`, and what is used as an index or a probability must be in range. Bounds that
float observations declare are not enforced, since many environments overstep them.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.wire.bounds import MAX_FLOAT, MAX_RETURN
from pronk.wire.errors import WireError
from pronk.wire.spec import ActionSpec, ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import Arrays, Unroll

_MEMBER = re.compile(r"[a-z]{1,16}-[0-9A-Za-z]{12}")
"""Ids that the parameter server issues. What was trained is remembered by member."""
_LOG_PROB_ROUNDING = 1e-4
"""How far above 0 rounding may lift the log-probability of discrete actions."""


@dataclass(frozen=True)
class Expectation:
    """What a learner takes."""

    run: str
    experiment_hash: str
    policy: str
    spec: EnvironmentSpec
    unroll_length: int
    """T."""
    core_shapes: Mapping[str, tuple[int, ...]]
    """{name: shape of one slot's core state}; empty without a core."""
    newest_version: Callable[[], float] = lambda: math.inf
    """The learner's own number, which rises: nobody can have acted with a newer one."""


def check(unroll: Unroll, expectation: Expectation) -> None:
    """Refuse an unroll that could mislead or break the learner.

    Raises:
        WireError: with the reason "run", "experiment", "policy", "spec" (names of arrays, a mask
            too many or missing), "shape", "dtype", "non_finite" or "range".
    """
    _check_origin(unroll, expectation)
    _check_form(unroll, expectation)
    _check_values(unroll, expectation.spec)
    _expect_within("behaviour_version", unroll.behaviour_version, 0, expectation.newest_version())
    _check_episodes(unroll, expectation.spec)


def _check_origin(unroll: Unroll, expectation: Expectation) -> None:
    header = unroll.header
    for reason, found, expected in (
        ("run", header.run, expectation.run),
        ("experiment", header.experiment_hash, expectation.experiment_hash),
        ("policy", header.policy, expectation.policy),
    ):
        if found != expected:
            raise WireError(reason, f"{reason} {found!r}, expected {expected!r}")
    if not _MEMBER.fullmatch(header.member):
        raise WireError("range", f"member {header.member!r} is no id that a server issues")
    if header.sequence < 1:
        raise WireError("range", f"sequence {header.sequence}, they count from 1")


def _check_form(unroll: Unroll, expectation: Expectation) -> None:
    """Names, shapes and dtypes of everything."""
    spec = expectation.spec
    if unroll.slot.ndim != 1 or not unroll.slot.size:
        raise WireError("shape", f"slot: shape {unroll.slot.shape}, expected one axis")
    first = unroll.slot.shape
    rows = (expectation.unroll_length, *first)
    seen = (expectation.unroll_length + 1, *first)
    _expect("slot", unroll.slot, np.int32, first)
    _expect("behaviour_log_prob", unroll.behaviour_log_prob, np.float32, rows)
    _expect("reward", unroll.reward, np.float32, rows)
    _expect("terminated", unroll.terminated, np.bool_, rows)
    _expect("truncated", unroll.truncated, np.bool_, rows)
    _expect("valid", unroll.valid, np.bool_, rows)
    _expect("task", unroll.task, np.int32, seen)
    _expect("behaviour_version", unroll.behaviour_version, np.int64, rows)
    _expect("last_reward", unroll.last_reward, np.float32, first)
    _expect("reset", unroll.reset, np.bool_, first)
    observations = {array.name: (array.dtype, array.shape) for array in spec.observation}
    _expect_group("observation", unroll.obs, observations, seen)
    actions = {action.name: (_dtype(action), action.shape) for action in spec.action}
    _expect_group("action", unroll.action, actions, rows)
    _expect_group("last_action", unroll.last_action, actions, first)
    cores = {name: (np.float32, shape) for name, shape in expectation.core_shapes.items()}
    _expect_group("core_state", unroll.core_state, cores, first)
    if unroll.distribution:
        sizes = {action.name: (np.float32, (action.parameters,)) for action in spec.action}
        _expect_group("distribution", unroll.distribution, sizes, rows)
    for name, extra in unroll.extras.items():
        _expect(f"extra {name}", extra, extra.dtype, (*rows, *extra.shape[2:]))
    if (unroll.action_mask is not None) != spec.action_mask:
        raise WireError("spec", "an action mask" if not spec.action_mask else "no action mask")
    if unroll.action_mask is not None:
        _expect("action_mask", unroll.action_mask, np.bool_, (*seen, spec.mask_size))


def _check_values(unroll: Unroll, spec: EnvironmentSpec) -> None:
    """What the numbers say, once every array has its form."""
    _expect_numbers("behaviour_log_prob", unroll.behaviour_log_prob)
    _expect_numbers("reward", unroll.reward)
    _expect_numbers("last_reward", unroll.last_reward)
    for kind, group in (
        ("core_state", unroll.core_state),
        ("distribution", unroll.distribution),
        ("extra", unroll.extras),
    ):
        for name, array in group.items():
            _expect_numbers(f"{kind} {name}", array)
    for observation in spec.observation:
        _check_observation(observation, unroll.obs[observation.name])
    for action in spec.action:
        _check_action(f"action {action.name}", action, unroll.action[action.name])
        _check_action(f"last_action {action.name}", action, unroll.last_action[action.name])
    if unroll.action_mask is not None:
        _check_mask(unroll, unroll.action_mask, spec)
    if all(isinstance(action, DiscreteSpec) for action in spec.action):
        _expect_within("behaviour_log_prob", unroll.behaviour_log_prob, high=_LOG_PROB_ROUNDING)
    _expect_within("task", unroll.task, 0, len(spec.tasks) - 1)
    _expect_within("slot", unroll.slot, 0)
    if len(set(unroll.slot.tolist())) != unroll.slots:
        raise WireError("range", "slot: one slot twice")


def _check_observation(spec: ArraySpec, array: NDArray[Any]) -> None:
    _expect_numbers(f"observation {spec.name}", array)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        if spec.low > limits.min or spec.high < limits.max:
            _expect_within(f"observation {spec.name}", array, spec.low, spec.high)


def _check_action(name: str, spec: ActionSpec, array: NDArray[Any]) -> None:
    if not isinstance(spec, DiscreteSpec):
        _expect_numbers(name, array)
    elif spec.scalar:
        _expect_within(name, array, 0, spec.choices[0] - 1)
    else:
        for choice, count in enumerate(spec.choices):
            _expect_within(name, array[..., choice], 0, count - 1)


def _check_mask(unroll: Unroll, mask: NDArray[np.bool_], spec: EnvironmentSpec) -> None:
    """Every chosen action was allowed; rows that are not valid (where nothing may be) apart."""
    t, n = np.nonzero(unroll.valid)
    start = 0
    for action in spec.action:
        if not isinstance(action, DiscreteSpec):
            continue
        chosen = unroll.action[action.name][t, n].reshape(len(t), len(action.choices))
        for choice, count in enumerate(action.choices):
            if not mask[t, n, start + chosen[:, choice]].all():
                raise WireError("range", f"action {action.name}: a choice that the mask forbids")
            start += count


def _check_episodes(unroll: Unroll, spec: EnvironmentSpec) -> None:
    if len(unroll.episodes) > unroll.reward.size:
        raise WireError("range", f"{len(unroll.episodes)} episodes in {unroll.reward.size} rows")
    slots, tasks = set(unroll.slot.tolist()), len(spec.tasks)
    for episode in unroll.episodes:
        if not math.isfinite(episode.episode_return):
            raise WireError("non_finite", f"an episode's return is {episode.episode_return}")
        if abs(episode.episode_return) > MAX_RETURN:
            raise WireError("range", f"an episode's return is {episode.episode_return}")
        if episode.slot not in slots:
            raise WireError("range", f"an episode of slot {episode.slot}, which is not here")
        if not 0 <= episode.task < tasks:
            raise WireError("range", f"an episode of task {episode.task}, there are {tasks}")
        if episode.steps < 1 or episode.frames < 1:
            raise WireError("range", "an episode without steps")


def _dtype(action: ActionSpec) -> type[np.generic]:
    return np.int64 if isinstance(action, DiscreteSpec) else np.float32


def _expect(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise WireError("shape", f"{name}: shape {array.shape}, expected {shape}")
    if array.dtype != dtype:
        raise WireError("dtype", f"{name}: dtype {array.dtype}, expected {np.dtype(dtype)}")


def _expect_group(
    kind: str,
    arrays: Arrays,
    expected: Mapping[str, tuple[Any, tuple[int, ...]]],
    lead: tuple[int, ...],
) -> None:
    if arrays.keys() != expected.keys():
        found = sorted(arrays)
        raise WireError("spec", f"{kind}: arrays {found}, expected {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        _expect(f"{kind} {name}", arrays[name], dtype, (*lead, *shape))


def _expect_numbers(name: str, array: NDArray[Any]) -> None:
    """Floats that can be computed with; anything goes for other dtypes."""
    if array.dtype.kind != "f" or not array.size:
        return
    low, high = float(array.min()), float(array.max())  # either is NaN where any element is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise WireError("non_finite", f"{name} is not finite")
    if low < -MAX_FLOAT or high > MAX_FLOAT:
        raise WireError("range", f"{name}: {low:g} to {high:g}, expected within ±{MAX_FLOAT:g}")


def _expect_within(
    name: str, array: NDArray[Any], low: float = -math.inf, high: float = math.inf
) -> None:
    if array.size and (array.min() < low or array.max() > high):
        raise WireError(
            "range", f"{name}: {array.min()} to {array.max()}, expected {low} to {high}"
        )
