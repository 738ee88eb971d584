"""The experiment: one YAML file describes the whole cluster.

Where things run (addresses, credentials) is not part of it: that comes from `PRONK_*` variables.
The hash of all fields that are not `FREE` is the experiment hash, which every unroll and every
member carries.
"""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from pronk.config.fields import FREE, NUMBER, PolicyName, Section
from pronk.config.schema import (
    ActorConfig,
    AlgorithmConfig,
    BufferConfig,
    EnvConfig,
    LearnerConfig,
    NetworkConfig,
    PolicyConfig,
    StopConfig,
)


def unrolls_needed(batch_size: int, slots: int, most: int | None = None) -> int:
    """Unrolls that a buffer must hold for a batch always to come together.

    An unroll keeps its place until its last slot is trained, and gives no more than half a batch
    at once while others are to be had.

    Args:
        batch_size: B.
        slots: of the smallest unroll.
        most: of the largest, where they are not all the same.
    """
    if batch_size % slots == 0 and most in (None, slots):
        return max(2, batch_size // slots)
    # Of small unrolls the oldest may have but one slot left. Of large ones two may, and then two
    # whole ones are needed for the two halves of a batch.
    return max(4, -(-(batch_size - 1) // slots) + 1)


def overlay(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own` laid over it, mapping by mapping.

    Another `id` leaves the `kwargs` of the base's behind. Doing it twice changes nothing.
    """
    if "id" in own and own["id"] != base.get("id"):
        base = {key: value for key, value in base.items() if key != "kwargs"}
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = overlay(below, value)
        merged[key] = value
    return merged


class Experiment(Section):
    """A whole experiment."""

    name: Annotated[PolicyName, FREE]
    """Names the run directory and the run."""
    seed: Annotated[int, Field(ge=0, lt=2**63), NUMBER] = 0
    """Makes environments, sampling and initial weights repeatable."""
    env: EnvConfig
    """The environment."""
    network: NetworkConfig = NetworkConfig()
    """The network."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """The algorithm."""
    policies: Annotated[dict[PolicyName, PolicyConfig], Field(min_length=1, max_length=64)] = {
        "default": PolicyConfig()
    }
    """Policies by name; each has its own learner, stream and versions."""
    actor: ActorConfig = ActorConfig()
    """Actors."""
    buffer: BufferConfig = BufferConfig()
    """The buffer."""
    learner: LearnerConfig = LearnerConfig()
    """Learners."""
    stop: StopConfig = StopConfig()
    """When the run is over; nothing set: it runs until it is stopped."""

    @model_validator(mode="before")
    @classmethod
    def _policies_start_from_the_experiment(cls, data: Any) -> Any:
        """Complete what a policy overrides of a section, so that it is checked as it will be."""
        policies = data.get("policies") if isinstance(data, dict) else None
        if not isinstance(policies, dict):
            return data
        return data | {"policies": {name: _completed(p, data) for name, p in policies.items()}}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.actor.slots < len(self.policies):
            raise ValueError(
                f"actor.slots: {self.actor.slots} slots cannot serve {len(self.policies)} policies"
            )
        self._check_buffer()
        if self.actor.lockstep:
            self._check_lockstep()
        return self

    def _check_buffer(self) -> None:
        for name in self.policies:
            batch, slots = self.algorithm_of(name).batch_size, self.slots_of(name)
            if (needed := unrolls_needed(batch, slots)) > self.buffer.max_entries:
                raise ValueError(
                    f"algorithm.batch_size: a batch of {batch} slots never fits the buffer of "
                    f"policy {name!r}, which holds {self.buffer.max_entries} unrolls of {slots} "
                    f"slots, some of them half used: raise buffer.max_entries to {needed} or more"
                )

    def _check_lockstep(self) -> None:
        for name in self.policies:
            if self.algorithm_of(name).batch_size != self.slots_of(name):
                raise ValueError(
                    f"actor.lockstep: policy {name!r} needs batch_size = its slots "
                    f"({self.slots_of(name)}), so that every unroll is one update"
                )
        if self.learner.publish_every != 1:
            raise ValueError("actor.lockstep: learner.publish_every must be 1")

    def network_of(self, policy: str) -> NetworkConfig:
        """The network of a policy."""
        return self.policies[policy].network or self.network

    def algorithm_of(self, policy: str) -> AlgorithmConfig:
        """The algorithm of a policy."""
        return self.policies[policy].algorithm or self.algorithm

    def slots_of(self, policy: str) -> int:
        """Slots of one actor that play the policy."""
        return len(self.slot_ranges()[policy])

    def slot_ranges(self) -> dict[str, range]:
        """Slots of one actor by policy: contiguous, at least one each, by largest remainder."""
        total = sum(policy.share for policy in self.policies.values())
        spare = self.actor.slots - len(self.policies)
        exact = {name: spare * policy.share / total for name, policy in self.policies.items()}
        counts = {name: 1 + int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: int(exact[name]) - exact[name])
        for name in by_remainder[: self.actor.slots - sum(counts.values())]:
            counts[name] += 1
        ranges, start = {}, 0
        for name, count in counts.items():
            ranges[name] = range(start, start + count)
            start += count
        return ranges


def _completed(policy: Any, experiment: dict[str, Any]) -> Any:
    if not isinstance(policy, dict):
        return policy
    return policy | {
        name: overlay(experiment[name], policy[name])
        for name in ("network", "algorithm")
        if isinstance(experiment.get(name), dict) and isinstance(policy.get(name), dict)
    }
