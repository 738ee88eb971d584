"""Engines: what runs a policy's step in an actor."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle
from pronk.policy.fingerprint import condense
from pronk.policy.graph import PatchableGraph
from pronk.policy.manifest import Manifest
from pronk.wire.digest import digest
from pronk.wire.weights import unpack

Arrays = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-4
"""Of an engine against torch, relative to the largest output (at least 1).

Deep networks with large values were seen to differ by 1e-5; one update changes outputs by more than
1e-3. A false alarm stops an actor, so the limit leaves room.
"""


class FingerprintMismatch(Misconfigured):
    """The engine does not compute what the learner computed from the same weights."""


class Engine(Protocol):
    """Runs one version of a policy. Immutable: `load` gives another engine."""

    def step(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """One step of N slots.

        Args:
            inputs: {name: [N, …]}: all that the manifest lists; more are ignored.

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

    def fits(self, manifest: Manifest) -> bool:
        """Whether the manifest's network is the engine's, so that `load` is enough."""
        ...


class OnnxEngine:
    """Runs a graph in ONNX Runtime, on `threads` threads that do not spin.

    New weights are patched into the model and a new session is built: `add_initializer` of
    `SessionOptions` gives wrong outputs for convolutions, silently.

    Raises:
        Misconfigured: graph and weights do not fit, or ONNX Runtime does not take the graph.
    """

    def __init__(self, graph: bytes, weights: bytes, threads: int = 1) -> None:
        self._hash = digest(graph)
        self._graph = PatchableGraph(graph)
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 3
        self._inputs = self._graph.inputs
        self._start(weights)

    def step(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine.step`."""
        outputs = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        return dict(zip(self._outputs, outputs, strict=True))

    def load(self, weights: bytes) -> Self:
        """See `Engine.load`."""
        engine = object.__new__(type(self))
        engine.__dict__.update(self.__dict__)
        engine._start(weights)
        return engine

    def fits(self, manifest: Manifest) -> bool:
        """See `Engine.fits`."""
        return manifest.graph == self._hash

    def _start(self, weights: bytes) -> None:
        model = self._graph.patched(weights)
        try:
            self._session = ort.InferenceSession(
                model, self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise Misconfigured(
                f"ONNX Runtime does not take the policy's graph: {str(error).splitlines()[0]}"
            ) from None
        self._outputs = [port.name for port in self._session.get_outputs()]


def open_engine(bundle: Bundle, threads: int = 1, *, like: Engine | None = None) -> Engine:
    """An engine that runs the bundle, its fingerprint checked.

    Args:
        bundle: the version to run.
        threads: of the engine.
        like: the engine of an earlier version: while the network is the same only its weights are
            replaced, which is quicker.

    Raises:
        FingerprintMismatch: the engine's outputs are not the learner's.
        Misconfigured: the bundle cannot be run here.
    """
    if like is not None and like.fits(bundle.manifest):
        engine = like.load(bundle.weights)
    elif bundle.manifest.engine == "onnx":
        engine = OnnxEngine(bundle.graph, bundle.weights, threads)
    else:
        engine = _torch_engine(bundle, threads)
    check_fingerprint(engine, bundle)
    return engine


def check_fingerprint(engine: Engine, bundle: Bundle) -> None:
    """Compare the engine's outputs on the probe batch with the learner's.

    Raises:
        FingerprintMismatch: they differ.
    """
    manifest = bundle.manifest
    outputs = engine.step(unpack(bundle.probe))
    for name, rows in manifest.fingerprint.items():
        expected = np.asarray(rows, np.float32)
        if not agree(expected, condense(outputs[name])):
            raise FingerprintMismatch(
                f"policy {manifest.policy!r} {manifest.epoch}.{manifest.number}: output {name!r} "
                "is not what the learner computed from these weights; not acting with it"
            )


def agree(expected: NDArray[Any], output: NDArray[Any]) -> bool:
    """Whether an output is the expected one, up to the rounding of another engine."""
    if expected.shape != output.shape:
        return False
    ordinary = np.abs(expected[np.abs(expected) < 1e8])  # logits of masked choices are not
    scale = max(1.0, float(ordinary.max(initial=0.0)))
    return bool((np.abs(expected - output) <= TOLERANCE * scale).all())


def _torch_engine(bundle: Bundle, threads: int) -> Engine:
    try:
        from pronk.policy.torch_engine import TorchEngine
    except ImportError:
        raise Misconfigured(
            f"policy {bundle.manifest.policy!r} runs in torch only: install pronk[actor-torch]"
        ) from None
    return TorchEngine(bundle.manifest, bundle.weights, threads)
