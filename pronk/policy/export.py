"""From a network to bundles: exported once, then patched with new weights after every update."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from pronk.config.schema import EnvConfig
from pronk.errors import Misconfigured
from pronk.nets.network import PolicyNetwork
from pronk.policy.bundle import Bundle


class ExportRefused(Misconfigured):
    """The network cannot become an ONNX graph that is right for all weights."""


class Diverged(RuntimeError):  # noqa: N818 - it says what happened to the weights
    """The weights give outputs that are not finite; they are not made into a version."""


class Exporter:
    """Makes bundles of one policy.

    Raises:
        ExportRefused: the network does not export; the line names the operator.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        policy: str,
        *,
        engine: Literal["onnx", "torch"] = "onnx",
        env: EnvConfig | None = None,
    ) -> None:
        raise NotImplementedError

    def bundle(
        self, state_dict: Mapping[str, Tensor], *, epoch: int, number: int, frames: int
    ) -> Bundle:
        """The version with these weights (`network.state_dict()`, on any device).

        Raises:
            Diverged: the outputs on the probe batch are not finite.
        """
        raise NotImplementedError
