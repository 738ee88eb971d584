"""ONNX graphs whose weights live outside them.

Weights are initializers that refer to `weights.safetensors` by offset (ONNX external data), so a
policy's folder runs in any ONNX runtime, a graph is small and the same for all versions, and it
cannot be run by accident with the values it was exported with. Engines put the weights back in.
"""

import json
from collections.abc import Collection

import onnx
from onnx import ModelProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from pronk.errors import Misconfigured
from pronk.policy.bundle import WEIGHTS
from pronk.wire.errors import WireError
from pronk.wire.weights import unpack


def rename_weights(model: ModelProto, prefix: str) -> None:
    """Take `prefix` off the names of all initializers."""
    names = {
        tensor.name: tensor.name.removeprefix(prefix)
        for tensor in model.graph.initializer
        if tensor.name.startswith(prefix)
    }
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]


def weight_names(model: ModelProto) -> set[str]:
    """Names of all initializers."""
    return {tensor.name for tensor in model.graph.initializer}


def detach_weights(model: ModelProto, names: Collection[str], weights: bytes) -> bytes:
    """The graph as bytes, with the initializers of these names referring to the weights' file.

    Args:
        model: changed in place.
        names: initializers that are weights; others are constants and stay.
        weights: a safetensors blob of the same names, dtypes and shapes as every later one, and
            therefore of the same layout.
    """
    header_size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + header_size])
    for tensor in model.graph.initializer:
        if tensor.name not in names:
            continue
        begin, end = header[tensor.name]["data_offsets"]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": WEIGHTS, "offset": 8 + header_size + begin, "length": end - begin}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString(deterministic=True)


class PatchableGraph:
    """A graph in memory that takes weights again and again.

    Raises:
        Misconfigured: the bytes are not an ONNX graph.
    """

    def __init__(self, graph: bytes) -> None:
        try:
            self._model = onnx.load_model_from_string(graph)
        except Exception as error:  # protobuf's own DecodeError differs between its backends
            raise Misconfigured(f"the policy's graph cannot be read: {error}") from None
        self._names = set[str]()
        for tensor in self._model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                self._names.add(tensor.name)
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(port.name for port in self._model.graph.input)

    def patched(self, weights: bytes) -> bytes:
        """The whole model with these weights, as bytes.

        Raises:
            Misconfigured: the weights are not those of this graph.
        """
        try:
            arrays = unpack(weights)
        except WireError as error:
            raise Misconfigured(f"the policy's weights cannot be read: {error}") from None
        if arrays.keys() != self._names:
            odd = ", ".join(sorted(arrays.keys() ^ self._names)[:3])
            raise Misconfigured(f"the policy's weights do not fit its graph: {odd}")
        # A message frees what its fields once held only with itself: patch a copy each time.
        model = ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            name = tensor.name
            if name not in self._names:
                continue
            array = arrays[name]
            dtype = tensor_dtype_to_np_dtype(tensor.data_type)
            if array.shape != tuple(tensor.dims) or array.dtype != dtype:
                raise Misconfigured(
                    f"the policy's weights do not fit its graph: {name} is {array.dtype} "
                    f"{list(array.shape)} where {dtype} {list(tensor.dims)} belongs"
                )
            tensor.raw_data = array.tobytes()
        return model.SerializeToString()
