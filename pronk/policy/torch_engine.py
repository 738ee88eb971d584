"""The engine for networks that do not export: torch itself (extra `actor-torch`)."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pronk.errors import Misconfigured
from pronk.nets.network import PolicyNetwork, build
from pronk.policy import signature
from pronk.policy.manifest import Manifest
from pronk.wire.errors import WireError
from pronk.wire.weights import unpack


def call(network: PolicyNetwork, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`network.step` by the names of `pronk.policy.signature`."""
    step = network.step(
        signature.group(inputs, signature.OBSERVATION),
        signature.group(inputs, signature.CORE),
        signature.group(inputs, signature.LAST_ACTION),
        inputs[signature.LAST_REWARD],
        inputs[signature.RESET],
        inputs[signature.TASK],
        inputs.get(signature.ACTION_MASK),
    )
    outputs = {signature.DISTRIBUTION + name: array for name, array in step.params.items()}
    outputs[signature.VALUE] = step.value
    return outputs | {signature.NEXT_CORE + name: x for name, x in step.core_state.items()}


def call_numpy(
    network: PolicyNetwork, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The same in numpy, without gradients."""
    with torch.inference_mode():
        outputs = call(network, {name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: np.ascontiguousarray(array.numpy()) for name, array in outputs.items()}


class TorchEngine:
    """Runs the manifest's network in torch on the CPU; see `pronk.policy.engine.Engine`.

    The network is built from the manifest: a network of the user's own is imported by the name
    that stands there, so only run policies of an experiment that you trust.
    """

    def __init__(self, manifest: Manifest, weights: bytes, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._manifest = manifest
        self._network = build(manifest.environment, manifest.network)
        self._network.eval().requires_grad_(False)
        self._fill(weights)

    def step(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Engine.step`."""
        return call_numpy(self._network, inputs)

    def load(self, weights: bytes) -> Self:
        """See `Engine.load`."""
        engine = copy.copy(self)
        engine._network = copy.deepcopy(self._network)
        engine._fill(weights)
        return engine

    def fits(self, manifest: Manifest) -> bool:
        """See `Engine.fits`."""
        mine = self._manifest
        return (manifest.engine, manifest.network, manifest.environment) == (
            "torch",
            mine.network,
            mine.environment,
        )

    def _fill(self, weights: bytes) -> None:
        try:
            arrays = unpack(weights)
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            self._network.load_state_dict(state)
        except (WireError, RuntimeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise Misconfigured(
                f"the policy's weights do not fit its network: {' '.join(lines)}"
            ) from None
