"""Observation spaces as named arrays."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pronk.envs.failures import Unusable
from pronk.envs.paths import Path, check_unique, join, pick
from pronk.errors import Misconfigured
from pronk.wire.errors import WireError
from pronk.wire.spec import ArraySpec
from pronk.wire.tensors import dtype_to_wire


class ObservationLayout:
    """Where the named arrays of a spec lie in the observations of a space.

    `Box`, `Discrete`, `MultiBinary` and `MultiDiscrete` are one array each; `Dict` and `Tuple`
    flatten into `a.b` names. Discrete values keep the space's own counting, the spec holds their
    bounds. float64 becomes float32, which is what networks compute in. Text is left out: no network
    of ours reads it.

    Attributes:
        specs: one per array.
        spaces: the arrays' own spaces by name.
        dropped: names of the parts that were left out.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Lay out `space`.

        Raises:
            Misconfigured: a space that is no fixed set of arrays, or two parts of one name.
        """
        self.dropped: list[str] = []
        self.spaces: OrderedDict[str, spaces.Space[Any]] = OrderedDict()
        self._leaves: list[tuple[Path, ArraySpec]] = []
        self._collect(space, ())
        if not self._leaves:
            raise Misconfigured(f"the observation space {space} holds nothing that a network reads")
        self.specs = tuple(spec for _, spec in self._leaves)
        check_unique("observation", [spec.name for spec in self.specs])

    def arrays(self, observation: Any, slots: int) -> dict[str, NDArray[Any]]:
        """Batched observations of a vector environment as {name: [slots, …]} of the specs' dtypes.

        Raises:
            Unusable: they are of another shape or of values that the dtype cannot hold.
        """
        return {
            spec.name: _fitting(
                spec.name, pick(observation, path), (slots, *spec.shape), np.dtype(spec.dtype)
            ).astype(spec.dtype, copy=False)
            for path, spec in self._leaves
        }

    def single(self, observation: Any) -> dict[str, Any]:
        """The parts of one environment's observation by name."""
        return {spec.name: pick(observation, path) for path, spec in self._leaves}

    def empty(self, slots: int) -> dict[str, NDArray[Any]]:
        """Arrays for the observations of `slots` slots, {name: [slots, …]}."""
        return {spec.name: np.zeros((slots, *spec.shape), spec.dtype) for spec in self.specs}

    def writer(self, into: dict[str, NDArray[Any]]) -> Callable[[int, Any], None]:
        """A function of (slot, its observation) that fills the slot's rows of `into`.

        It raises `Unusable` for an observation that does not fit its space.
        """
        rows = [
            (_row_writer(spec.name, into[spec.name], np.dtype(self.spaces[spec.name].dtype)), path)
            for path, spec in self._leaves
        ]
        if len(rows) == 1 and not rows[0][1]:
            return rows[0][0]

        def write(slot: int, observation: Any) -> None:
            for write_row, path in rows:
                write_row(slot, pick(observation, path))

        return write

    def _collect(self, space: spaces.Space[Any], path: Path) -> None:
        match space:
            case spaces.Dict():
                for key, child in space.spaces.items():
                    self._collect(child, (*path, key))
            case spaces.Tuple():
                for index, child in enumerate(space.spaces):
                    self._collect(child, (*path, index))
            case _ if _is_text(space):
                self.dropped.append(join(path))
            case _:
                self._leaves.append((path, _array_spec(space, join(path))))
                self.spaces[join(path)] = space


def _row_writer(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> Callable[[int, Any], None]:
    """A function of (slot, value) that fills a row of `array`, quickly where values are `dtype`."""
    shape = array.shape[1:]
    takes_any = array.dtype.kind == "f"

    def write(slot: int, value: Any) -> None:
        try:
            fits = value.shape == shape and (takes_any or value.dtype is dtype)
        except AttributeError:  # a number, a list
            fits = False
        # A value of another shape would be stretched over the row without a word.
        array[slot] = value if fits else _fitting(name, value, shape, array.dtype)

    return write


def _fitting(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`value` as an array of `shape` whose numbers `dtype` can hold (rounded, not cut off).

    Raises:
        Unusable: it is no such array.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise Unusable("shape", f"observation {name!r} is no array: {error}") from None
    if array.shape != shape:
        raise Unusable(
            "shape", f"observation {name!r} has the shape {array.shape} instead of {shape}"
        )
    if (
        array.dtype != dtype
        and array.dtype.kind not in "biu"
        and not np.can_cast(array.dtype, dtype, "same_kind")
    ):
        raise Unusable("shape", f"observation {name!r} is {array.dtype} instead of {dtype}")
    return array


def _is_text(space: spaces.Space[Any]) -> bool:
    """`Text`, and spaces of a package's own that hold strings (MiniGrid's missions)."""
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def _array_spec(space: spaces.Space[Any], name: str) -> ArraySpec:
    match space:
        case spaces.Box():
            dtype = _dtype(space, name)
            low, high = float(np.min(space.low)), float(np.max(space.high))
            return ArraySpec(name, dtype, space.shape, low, high)
        case spaces.Discrete():
            start = int(space.start)
            return ArraySpec(name, "int64", (), start, start + int(space.n) - 1)
        case spaces.MultiBinary():
            return ArraySpec(name, "int8", space.shape, 0, 1)
        case spaces.MultiDiscrete():
            last = space.start + space.nvec - 1
            low, high = float(np.min(space.start)), float(np.max(last))
            return ArraySpec(name, "int64", space.shape, low, high)
        case _:
            raise Misconfigured(
                f"observation {name!r}: a {type(space).__name__} space is no fixed set of arrays; "
                "turn it into Box, Discrete, MultiBinary, MultiDiscrete, Dict or Tuple by a wrapper"
            )


def _dtype(space: spaces.Box, name: str) -> str:
    if 0 in space.shape:
        raise Misconfigured(f"observation {name!r} has no elements: shape {space.shape}")
    dtype = np.dtype(space.dtype)
    if dtype == np.float64:
        return "float32"
    try:
        dtype_to_wire(dtype)
    except WireError as error:
        raise Misconfigured(f"observation {name!r}: {error}") from None
    return dtype.name
