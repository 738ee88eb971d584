"""Engines: what runs a policy's step in an actor."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle

Arrays = Mapping[str, NDArray[Any]]


class FingerprintMismatch(Misconfigured):
    """The engine does not compute what the learner computed from the same weights."""


class Engine(Protocol):
    """Runs one version of a policy. Immutable: `load` gives another engine."""

    def step(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """One step of N slots.

        Args:
            inputs: {name: [N, …]} as `pronk.policy.signature.inputs` lists them. What the policy
                does not use may be left out, or given and is then ignored.

        Returns:
            {"dist.<action>": [N, P], "value": [N], "next_core.<name>": [N, …]}, all float32.
        """
        ...

    def load(self, weights: bytes) -> Self:
        """An engine of the same network with other weights; this one stays as it is.

        So a thread may prepare the next version while this one acts. One call at a time.

        Raises:
            Misconfigured: the weights do not fit the network.
        """
        ...


def open_engine(bundle: Bundle, threads: int = 1, *, like: Engine | None = None) -> Engine:
    """An engine that runs the bundle, its fingerprint checked.

    Args:
        bundle: the version to run.
        threads: of the engine.
        like: an engine of an earlier version: with the same network it is reused, which is
            quicker.

    Raises:
        FingerprintMismatch: the engine's outputs are not the learner's.
        Misconfigured: the bundle cannot be run here.
    """
    raise NotImplementedError


def check_fingerprint(engine: Engine, bundle: Bundle) -> None:
    """Compare the engine's outputs on the probe batch with the learner's.

    Raises:
        FingerprintMismatch: they differ.
    """
    raise NotImplementedError
