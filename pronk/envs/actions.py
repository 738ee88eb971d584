"""Action spaces as named arrays, and a policy's actions as an environment takes them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pronk.envs.paths import Path, check_unique, join
from pronk.errors import Misconfigured
from pronk.wire.spec import ActionSpec, ContinuousSpec, DiscreteSpec


class ActionLayout:
    """Maps a policy's actions {name: [N, …]} onto an action space.

    `Discrete` and `MultiDiscrete` count from the space's own start. `Box`: [-1, 1] is stretched to
    [low, high] and clipped where both are finite; unbounded elements are passed on as they are.
    `MultiBinary` is one choice of two per element. `Dict` and `Tuple` nest.

    Attributes:
        specs: one per action, in the order of the space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Lay out `space`.

        Raises:
            Misconfigured: a space that a policy cannot act in, or two parts of one name.
        """
        self._space = space
        self._boxes: dict[str, _Stretch] = {}
        self.specs: tuple[ActionSpec, ...] = tuple(self._collect(space, ()))
        if not self.specs:
            raise Misconfigured(f"the action space {space} is empty")
        check_unique("action", [spec.name for spec in self.specs])

    def batch(self, action: dict[str, NDArray[Any]]) -> Any:
        """The actions of all slots as a Gymnasium vector environment takes them.

        Arrays [N, …] in the nesting of the space; never the caller's own arrays.
        """
        return self._batch(self._space, (), action)

    def singles(self, action: dict[str, NDArray[Any]]) -> list[Any]:
        """The action of every slot as a single environment takes it."""
        return _unbatch(self._space, self.batch(action))

    def _collect(self, space: spaces.Space[Any], path: Path) -> list[ActionSpec]:
        name = join(path)
        match space:
            case spaces.Dict():
                parts = [self._collect(s, (*path, key)) for key, s in space.spaces.items()]
                return [spec for part in parts for spec in part]
            case spaces.Tuple():
                parts = [self._collect(s, (*path, i)) for i, s in enumerate(space.spaces)]
                return [spec for part in parts for spec in part]
            case spaces.Discrete():
                return [DiscreteSpec(name, (int(space.n),))]
            case spaces.MultiDiscrete():
                return [DiscreteSpec(name, tuple(map(int, space.nvec.flat)), scalar=False)]
            case spaces.MultiBinary():
                return [DiscreteSpec(name, (2,) * int(np.prod(space.shape)), scalar=False)]
            case spaces.Box() if np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
                self._boxes[name] = _Stretch(space)
                low, high = (tuple(map(float, bound.flat)) for bound in (space.low, space.high))
                return [ContinuousSpec(name, space.shape, low, high)]
            case _:
                raise Misconfigured(
                    f"action {name!r}: a policy cannot act in {space}; turn it into Discrete, "
                    "MultiDiscrete, MultiBinary, a Box of floats, Dict or Tuple by a wrapper"
                )

    def _batch(self, space: spaces.Space[Any], path: Path, action: dict[str, NDArray[Any]]) -> Any:
        match space:
            case spaces.Dict():
                return {k: self._batch(s, (*path, k), action) for k, s in space.spaces.items()}
            case spaces.Tuple():
                return tuple(self._batch(s, (*path, i), action) for i, s in enumerate(space.spaces))
        name = join(path)
        chosen = action[name]
        match space:
            case spaces.Discrete():
                return chosen + space.start
            case spaces.MultiDiscrete():
                shaped = chosen.reshape(len(chosen), *space.shape) + space.start
                return shaped.astype(space.dtype, copy=False)
            case spaces.MultiBinary():
                return chosen.reshape(len(chosen), *space.shape).astype(space.dtype)
            case _:
                return self._boxes[name](chosen)


class _Stretch:
    """[-1, 1] → [low, high], clipped, for the bounded elements of a Box."""

    def __init__(self, space: spaces.Box) -> None:
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        self._middle, self._half = low / 2 + high / 2, high / 2 - low / 2
        self._low = np.where(bounded, low, -np.inf)
        self._high = np.where(bounded, high, np.inf)
        self._dtype = space.dtype

    def __call__(self, action: NDArray[np.float32]) -> NDArray[Any]:
        stretched = np.clip(self._middle + self._half * action, self._low, self._high)
        return stretched.astype(self._dtype)


def _unbatch(space: spaces.Space[Any], batched: Any) -> list[Any]:
    match space:
        case spaces.Dict():
            columns = [_unbatch(child, batched[key]) for key, child in space.spaces.items()]
            return [dict(zip(space.spaces, row, strict=True)) for row in zip(*columns, strict=True)]
        case spaces.Tuple():
            columns = [_unbatch(s, b) for s, b in zip(space.spaces, batched, strict=True)]
            return list(zip(*columns, strict=True))
        case spaces.Discrete():
            python: list[Any] = batched.tolist()
            return python
        case _:
            return list(batched)
