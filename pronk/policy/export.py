"""From a network to bundles: exported once, then filled with new weights after every update."""

import copy
from collections.abc import Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from pronk.config.schema import EnvConfig
from pronk.nets.network import PolicyNetwork
from pronk.policy import probe, signature
from pronk.policy.bundle import Bundle
from pronk.policy.fingerprint import condense
from pronk.policy.manifest import Manifest
from pronk.policy.torch_engine import call_numpy
from pronk.policy.tracing import Graph, trace
from pronk.wire.digest import digest
from pronk.wire.weights import pack

_UNKNOWN = "0" * 64


class Diverged(RuntimeError):  # noqa: N818 - it says what happened to the weights
    """The weights give outputs that are not finite; they are not made into a version."""


class Exporter:
    """Makes the bundles of one policy.

    It keeps a copy of the network on the CPU, in float32: fingerprints do not depend on the
    learner's device or precision, and always belong to the very bytes that are published.

    Args:
        network: the policy's network; only its structure counts here.
        policy: the policy's name.
        engine: `onnx` exports the network; `torch` leaves that out.
        env: how to make the environment, for whoever evaluates the policy later.

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
        self._network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self._state = self._network.state_dict()
        spec, core = network.spec, network.core_shapes
        inputs = signature.inputs(spec, core)
        if engine == "onnx":
            graph = trace(self._network)
        else:
            graph = Graph(b"", tuple(port.name for port in inputs), tuple(self._state))
        # Views of the copy's own memory: filling the copy fills them.
        self._arrays = {name: self._state[name].numpy() for name in graph.weights}
        self._inputs = probe.make(spec, core)
        self._probe = pack({name: self._inputs[name] for name in graph.inputs})
        self._graph = graph.model
        self._manifest = Manifest(
            policy=policy,
            epoch=0,
            number=0,
            frames=0,
            engine=engine,
            environment=spec,
            env=env,
            network=network.config,
            core=core,
            inputs=tuple(port for port in inputs if port.name in graph.inputs),
            outputs=signature.outputs(spec, core),
            graph=digest(graph.model) if graph.model else None,
            weights=_UNKNOWN,
            probe=digest(self._probe),
            fingerprint={},
        )

    def bundle(
        self, state_dict: Mapping[str, Tensor], *, epoch: int, number: int, frames: int
    ) -> Bundle:
        """The version with these weights (`network.state_dict()`, on any device).

        Raises:
            Diverged: the outputs on the probe batch are not finite.
        """
        for name, tensor in self._state.items():
            tensor.copy_(state_dict[name].detach())
        weights = pack(self._arrays)
        manifest = self._manifest.model_copy(
            update={
                "epoch": epoch,
                "number": number,
                "frames": frames,
                "weights": digest(weights),
                "fingerprint": self._fingerprint(),
            }
        )
        return Bundle(manifest, self._graph, weights, self._probe)

    def _fingerprint(self) -> dict[str, list[list[float]]]:
        outputs = call_numpy(self._network, self._inputs)
        for name, output in outputs.items():
            if not np.isfinite(output).all():
                raise Diverged(
                    f"policy {self._manifest.policy!r}: output {name!r} is not finite: training "
                    "has diverged; lower the learning rate"
                )
        return {
            name: condense(output).tolist()
            for name, output in outputs.items()
            if not name.startswith(signature.NEXT_CORE)
        }
