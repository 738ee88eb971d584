"""torch against ONNX Runtime in an actor: the numbers of `docs/decisions/onnx-policies.md`."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import onnx
import onnxruntime as ort
from _report import interleaved, options, publish, seconds_per_call, table, versions_of
from numpy.typing import NDArray
from onnx.helper import make_tensor_value_info

from pronk.config.schema import NetworkConfig
from pronk.nets.network import build
from pronk.policy import probe
from pronk.policy.engine import OnnxEngine
from pronk.policy.export import Exporter
from pronk.policy.graph import PatchableGraph
from pronk.policy.torch_engine import TorchEngine
from pronk.startup import tune_allocator
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.weights import unpack

ROUNDS = 5
BATCH = 32
PACKAGES = ("torch", "onnxruntime", "onnx", "numpy", "grpcio", "gymnasium", "ale-py")
VECTOR = ArraySpec("default", "float32", (4,))
FRAMES = ArraySpec("default", "uint8", (84, 84, 4), 0, 255)
NETWORKS = {
    "mlp of 256": (VECTOR, NetworkConfig(id="mlp", kwargs={"hidden": [256]})),
    "shallow": (FRAMES, NetworkConfig(id="shallow")),
    "deep": (FRAMES, NetworkConfig(id="deep")),
}
MEASURES = ("torch", "ONNX Runtime", "weights as inputs", "load")
IMPORTS = {
    "ONNX Runtime, gRPC, Gymnasium, ALE": ("onnxruntime", "grpc", "gymnasium", "ale_py"),
    "torch": ("torch",),
}
IMPORT = """
import json, sys, time
import psutil
before, began = psutil.Process().memory_info().rss, time.process_time()
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps([time.process_time() - began, psutil.Process().memory_info().rss - before]))
"""

Call = Callable[[], object]


def calls(observation: ArraySpec, config: NetworkConfig) -> dict[str, Call]:
    """What is measured of a network: a step of every engine, and the load of other weights."""
    spec = EnvironmentSpec("made-up", (observation,), (DiscreteSpec("default", (6,)),))
    network = build(spec, config)
    exporter = Exporter(network, "default")
    bundle = exporter.bundle(network.state_dict(), epoch=1, number=1, frames=0)
    inputs = probe.make(spec, {}, BATCH)
    engine = OnnxEngine(bundle.graph, bundle.weights)
    steps: list[Call] = [
        partial(TorchEngine(bundle.manifest, bundle.weights).step, inputs),
        partial(engine.step, inputs),
        step_with_weights_as_inputs(bundle.graph, bundle.weights, inputs),
        partial(engine.load, bundle.weights),
    ]
    return dict(zip(MEASURES, steps, strict=True))


def step_with_weights_as_inputs(
    graph: bytes, weights: bytes, inputs: dict[str, NDArray[Any]]
) -> Call:
    """A step of a graph that takes its weights with every call, which we do not do."""
    arrays = unpack(weights)
    model = onnx.load_model_from_string(PatchableGraph(graph).patched(weights))
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in arrays]:
        port = make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(port)
        model.graph.initializer.remove(tensor)
    one_thread = ort.SessionOptions()
    one_thread.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), one_thread, providers=["CPUExecutionProvider"]
    )
    taken = {port.name for port in session.get_inputs()}
    feed = {name: array for name, array in (inputs | arrays).items() if name in taken}
    return partial(session.run, None, feed)


def imported(names: tuple[str, ...]) -> tuple[float, int]:
    """Seconds and bytes that a new process needs to import them."""
    command = [sys.executable, "-c", IMPORT, *names]
    seconds, memory = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return seconds, memory


def measure_networks() -> dict[str, dict[str, float]]:
    """Median seconds by network and by what is measured of it."""
    made = {name: calls(*given) for name, given in NETWORKS.items()}
    cases = {
        (name, what): partial(seconds_per_call, made[name][what])
        for name, what in product(NETWORKS, MEASURES)
    }
    found = interleaved(cases, ROUNDS)
    return {name: {what: median(found[name, what]) for what in MEASURES} for name in NETWORKS}


def measure_imports() -> dict[str, dict[str, float]]:
    """Median seconds and bytes by what is imported."""
    found = interleaved({what: partial(imported, names) for what, names in IMPORTS.items()}, ROUNDS)
    return {
        what: {"seconds": median(s for s, _ in tries), "memory": median(m for _, m in tries)}
        for what, tries in found.items()
    }


def main() -> None:
    """Measure networks, then imports."""
    given = options(__doc__, "engines.py").parse_args()
    tune_allocator()
    imports, networks = measure_imports(), measure_networks()
    columns = ("observations per second", *MEASURES[:2], "speed", "weights as inputs", "load")
    publish(
        [
            table(columns, [_network_row(*item) for item in networks.items()]),
            table(("import", "time", "memory"), [_import_row(*item) for item in imports.items()]),
        ],
        {"networks": networks, "imports": imports, "batch": BATCH},
        versions_of(PACKAGES),
        given.json,
    )


def _network_row(name: str, found: dict[str, float]) -> tuple[str, ...]:
    torch, onnx_runtime, with_inputs, load = (found[what] for what in MEASURES)
    return (
        name,
        f"{BATCH / torch:,.0f}",
        f"{BATCH / onnx_runtime:,.0f}",
        f"× {torch / onnx_runtime:.1f}",
        f"{with_inputs / onnx_runtime:.2f} times as long",
        f"{1e3 * load:.2g} ms",
    )


def _import_row(what: str, found: dict[str, float]) -> tuple[str, ...]:
    return what, f"{found['seconds']:.2f} s", f"{found['memory'] / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
