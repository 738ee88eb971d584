"""Export of a network to an ONNX graph that is right for all weights, or a refusal.

The exporter merges initializers of equal value, and two merged ones cannot be patched apart: so a
copy of the network is exported whose weights all differ, every floating-point one must turn up in
the graph and of the others those that a step reads, and the graph is compared with torch under two
further sets of weights before anyone uses it.
"""

import contextlib
import copy
import io
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from pronk.errors import Misconfigured
from pronk.nets.network import PolicyNetwork
from pronk.policy import graph as onnx_graph
from pronk.policy import probe, signature
from pronk.policy.engine import OnnxEngine, agree
from pronk.policy.torch_engine import call, call_numpy
from pronk.wire.weights import pack

OPSET = 17
_PREFIX = "network."


class ExportRefused(Misconfigured):
    """The network cannot become an ONNX graph that is right for all weights."""


class Graph(NamedTuple):
    """An exported network."""

    model: bytes
    """The ONNX graph, its weights detached."""
    inputs: tuple[str, ...]
    """Inputs that the network uses."""
    weights: tuple[str, ...]
    """Keys of the state_dict that the graph takes."""


def trace(network: PolicyNetwork) -> Graph:
    """Export a network that is on the CPU and in `eval` mode.

    Raises:
        ExportRefused: an operator has no ONNX form, a weight would be lost, or the graph does not
            compute what torch computes.
    """
    exported = distinct(network, seed=0)
    model = _export(exported)
    onnx_graph.rename_weights(model, _PREFIX)
    inputs = tuple(port.name for port in model.graph.input)  # the exporter drops unused ones
    names = _weights(network, model)
    state = exported.state_dict()
    layout = pack({name: state[name].numpy() for name in names})
    graph = Graph(onnx_graph.detach_weights(model, names, layout), inputs, names)
    for seed in (1, 2):
        _compare(graph, distinct(network, seed))
    return graph


def distinct(network: PolicyNetwork, seed: int) -> PolicyNetwork:
    """A copy whose floating-point weights and buffers are disturbed, no two of them alike.

    They stay near the network's own, so that variances stay positive and activations in range: a
    saturated network would hide that a weight is wrong.
    """
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if tensor.min() < 0:
                tensor.add_(noise - 0.5, alpha=1 / fan_in**0.5)
            else:
                tensor.add_(noise, alpha=0.5 / fan_in)
    return network


class _Flat(nn.Module):
    """`step` with its inputs in a row, as the exporter wants them."""

    def __init__(self, network: PolicyNetwork, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(self.network, dict(zip(self.inputs, tensors, strict=True))).values())


def _export(network: PolicyNetwork) -> ModelProto:
    batch = probe.make(network.spec, network.core_shapes)
    inputs = tuple(batch)
    outputs = [port.name for port in signature.outputs(network.spec, network.core_shapes)]
    file = io.BytesIO()
    try:
        with _quiet():
            torch.onnx.export(
                _Flat(network, inputs).eval(),
                tuple(torch.from_numpy(array) for array in batch.values()),
                file,  # type: ignore[arg-type]  # files in memory are taken too
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes={name: {0: "N"} for name in (*inputs, *outputs)},
                opset_version=OPSET,
                dynamo=False,
                # Folding bakes weights into new constants, which no patch reaches.
                do_constant_folding=False,
            )
    except (OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        raise ExportRefused(_refusal(error)) from error
    return onnx.load_model_from_string(file.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch has to say about an export; errors still come out as exceptions.

    It warns that this exporter is the old one (it takes 0.2 s, the new one 14), and prints the
    whole graph when it refuses one, which its own switch for that does not prevent in 2.13.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = log


def _refusal(error: Exception) -> str:
    text = " ".join(str(error).split())
    operator = re.search(r"\b(?:aten|prim|quantized|torchvision|custom)\w*::\w+", text)
    reason = f"operator {operator.group()} has no ONNX form" if operator else text[:200]
    return (
        f"the network does not export to ONNX: {reason}; "
        "change it, or set actor.engine: torch (actors then need pronk[actor-torch])"
    )


def _weights(network: PolicyNetwork, model: ModelProto) -> tuple[str, ...]:
    """Every floating-point key of the state_dict, and those of the others that are in the graph.

    Counters that training alone reads are not.

    Raises:
        ExportRefused: a floating-point weight is not in the graph, or a step reads another one that
            is not: it was baked in as a constant.
    """
    found = onnx_graph.weight_names(model)
    names = []
    for name, tensor in network.state_dict().items():
        if name in found:
            names.append(name)
        elif tensor.is_floating_point():
            raise ExportRefused(
                f"the network does not export to ONNX: weight {name!r} is not in the graph; it is "
                "unused, or tied to another: remove it (a buffer: register it persistent=False), "
                "or set actor.engine: torch"
            )
        elif _is_read(network, name):
            raise ExportRefused(
                f"the network does not export to ONNX: buffer {name!r} became a constant of the "
                "graph; if it never changes register it persistent=False, else keep it a tensor "
                "that no other one equals, or set actor.engine: torch"
            )
    return tuple(names)


def _is_read(network: PolicyNetwork, name: str) -> bool:
    """Whether a step reads a buffer of whole numbers: with other numbers it gives something else.

    They cannot be disturbed before the export, as floating-point ones are: they may be indices.
    """
    batch = probe.make(network.spec, network.core_shapes)
    expected = call_numpy(network, batch)
    for change in (torch.logical_not, torch.zeros_like, lambda x: x + 1, lambda x: x * -3):
        changed = copy.deepcopy(network)
        buffer = changed.state_dict()[name]
        buffer.copy_(change(buffer))
        try:
            outputs = call_numpy(changed, batch)
        except Exception:  # whatever a network of the user's makes of numbers that it cannot use
            return True
        if not all(agree(expected[output], outputs[output]) for output in expected):
            return True
    return False


def _compare(graph: Graph, network: PolicyNetwork) -> None:
    state = network.state_dict()
    weights = pack({name: state[name].numpy() for name in graph.weights})
    try:
        engine = OnnxEngine(graph.model, weights)
    except Misconfigured as error:
        raise ExportRefused(f"the network does not export to ONNX: {error}") from error
    # Another number of rows than at the export: none may be baked in.
    for rows, seed in ((None, 4), (3, 3)):
        batch = probe.make(network.spec, network.core_shapes, rows, seed)
        outputs = engine.step(batch)
        for name, expected in call_numpy(network, batch).items():
            if not agree(expected, outputs[name]):
                raise ExportRefused(
                    f"the network does not export to ONNX: output {name!r} differs from torch's; "
                    "Python that depends on values or on chance does not export: change it, or "
                    "set actor.engine: torch"
                )
