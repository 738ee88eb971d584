"""Actions from distribution parameters, in numpy: what an actor does at every step.

Small arrays are bound by the number of numpy calls, so each is made to count. Everything is
float32, as in the graph and in the loss.
"""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.wire.spec import ActionSpec, ContinuousSpec, DiscreteSpec

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]
Parameters = Mapping[str, Floats]

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


def sample(
    actions: tuple[ActionSpec, ...], params: Parameters, rng: np.random.Generator
) -> tuple[Arrays, Floats]:
    """Draw actions.

    Args:
        actions: the environment's.
        params: {action: [N, P]} float32.
        rng: the only source of chance.

    Returns:
        {action: [N, …]} (int64 discrete, float32 continuous) and their joint log-probability [N].
    """
    chosen: Arrays = {}
    log_probs = []
    for action in actions:
        given = params[action.name]
        if isinstance(action, DiscreteSpec):
            chosen[action.name], part = _draw_discrete(action, given, rng)
        else:
            chosen[action.name], part = _draw_continuous(action, given, rng)
        log_probs.append(part)
    return chosen, reduce(np.add, log_probs)


def mode(actions: tuple[ActionSpec, ...], params: Parameters) -> Arrays:
    """The most likely actions, {action: [N, …]}."""
    best: Arrays = {}
    for action in actions:
        given = params[action.name]
        if isinstance(action, DiscreteSpec):
            columns = [part.argmax(-1) for part in _choices(action, given)]
            best[action.name] = columns[0] if action.scalar else np.stack(columns, -1)
        else:
            best[action.name] = given[:, : action.size].reshape(len(given), *action.shape)
    return best


def log_prob(
    actions: tuple[ActionSpec, ...], params: Parameters, action: Mapping[str, NDArray[Any]]
) -> Floats:
    """Joint log-probability […] of actions {name: […, …]} under params {name: […, P]}."""
    log_probs = (
        _log_prob_discrete(spec, params[spec.name], action[spec.name])
        if isinstance(spec, DiscreteSpec)
        else _log_prob_continuous(spec, params[spec.name], action[spec.name])
        for spec in actions
    )
    return reduce(np.add, log_probs)


def _draw_discrete(
    action: DiscreteSpec, logits: Floats, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Floats]:
    """Actions [N] or [N, choices], and their log-probability [N]."""
    # With slots along the last axis every operation is one long loop, not one per slot.
    columns = logits.T.copy()
    if action.scalar:
        return _draw_choice(columns, rng)
    drawn, start = [], 0
    for count in action.choices:
        drawn.append(_draw_choice(columns[start : start + count], rng))
        start += count
    chosen, log_probs = zip(*drawn, strict=True)
    return np.stack(chosen, 1), reduce(np.add, log_probs)


def _draw_choice(logits: Floats, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Logits [A, N], overwritten → choices [N] and their log-probability [N].

    By inverting the cumulative distribution: the choice is the number of partial sums ≤ u·total.
    With u < 1 in float32 that product is below the total for every total, so the last sum never
    counts; a choice of probability 0 has the sum of the one before it, so it is never the answer.
    (The Gumbel trick is as quick, but its log of a draw that is exactly 0 can pick a masked one.)
    """
    logits -= np.maximum.reduce(logits, 0)
    sums = np.add.accumulate(np.exp(logits), 0)
    total = sums[-1]
    threshold = rng.random(total.size, dtype=np.float32)
    threshold *= total
    choice: NDArray[np.int64] = np.add.reduce(sums <= threshold, 0, dtype=np.int64)
    return choice, logits[choice, np.arange(total.size)] - np.log(total)


def _draw_continuous(
    action: ContinuousSpec, params: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Actions [N, *shape], and their log-probability [N]."""
    mean, log_std = params[:, : action.size], params[:, action.size :]
    drawn = rng.standard_normal(mean.shape, dtype=np.float32)
    drawn *= np.exp(log_std)
    drawn += mean
    # From the rounded action and not from the noise: it is the action that the learner gets.
    log_probs = _log_prob_continuous(action, params, drawn)
    return drawn.reshape(len(params), *action.shape), log_probs


def _log_prob_discrete(action: DiscreteSpec, logits: Floats, value: NDArray[Any]) -> Floats:
    columns = value[..., None] if action.scalar else value
    total = np.zeros(logits.shape[:-1], np.float32)
    for index, part in enumerate(_choices(action, logits)):
        shifted = part - part.max(-1, keepdims=True)
        chosen = np.take_along_axis(shifted, columns[..., index : index + 1], -1)[..., 0]
        total += chosen - np.log(np.exp(shifted).sum(-1))
    return total


def _log_prob_continuous(action: ContinuousSpec, params: Floats, value: NDArray[Any]) -> Floats:
    mean, log_std = params[..., : action.size], params[..., action.size :]
    deviation = (value.reshape(mean.shape) - mean) * np.exp(-log_std)
    per_element = -0.5 * deviation * deviation - log_std - np.float32(_HALF_LOG_2_PI)
    log_prob_: Floats = per_element.sum(-1)
    return log_prob_


def _choices(action: DiscreteSpec, logits: Floats) -> list[Floats]:
    """The logits […, P] of each choice."""
    return np.split(logits, np.cumsum(action.choices)[:-1], -1)
