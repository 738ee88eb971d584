"""Is an unroll what this experiment asked for?"""

from collections.abc import Mapping
from dataclasses import dataclass

from pronk.wire.spec import EnvironmentSpec
from pronk.wire.unroll import Unroll


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


def check(unroll: Unroll, expectation: Expectation) -> None:
    """Refuse an unroll that could mislead or break the learner.

    Raises:
        WireError: with the reason "run", "experiment", "policy", "spec" (names of arrays, a mask
            too many or missing), "shape", "dtype", "non_finite" or "range".
    """
    raise NotImplementedError
