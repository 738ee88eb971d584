"""Torsos: observations → features.

A torso is a module made by `Torso(observation, **kwargs)` from the specs of the observations. It
takes {name: [M, …]} in the specs' dtypes, gives [M, output_size] float, and says `output_size`.
What the arguments of these may be, and their defaults, is in `pronk.config.torsos`. Users bring
their own by `network.id: module:Class`.

Image-like observations pass convolutions; everything else is flattened and joins before the last
layer. Images may be channels-first or channels-last. Integers are multiplied by `scale`, by default
1 / their upper bound (1/255 for pixels; see `observations` for grids of codes).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pronk.nets.images import image_size, is_image
from pronk.nets.initialise import orthogonal
from pronk.nets.observations import to_image, to_vector, vector_size
from pronk.wire.spec import ArraySpec

Observation = tuple[ArraySpec, ...]


class MLP(nn.Module):
    """Fully connected layers with tanh over everything flattened."""

    def __init__(
        self, observation: Observation, hidden: Sequence[int], scale: float | None
    ) -> None:
        super().__init__()
        self.observation, self.scale = observation, scale
        layers: list[nn.Module] = []
        size = vector_size(observation)
        for width in hidden:
            layers += [orthogonal(nn.Linear(size, width)), nn.Tanh()]
            size = width
        self.layers = nn.Sequential(*layers)
        self.output_size = size

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """{name: [M, …]} → [M, output_size]."""
        features: Tensor = self.layers(to_vector(self.observation, obs, self.scale))
        return features


class _Convolutional(nn.Module, ABC):
    """Images through convolutions, then all features through one layer with ReLU."""

    def __init__(self, observation: Observation, hidden: int, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.images = tuple(array for array in observation if is_image(array))
        self.vectors = tuple(array for array in observation if not is_image(array))
        self.convolutions = nn.ModuleList()
        size = vector_size(self.vectors)
        for array in self.images:
            convolution = self._convolution(image_size(array)[0])
            # Weights in this layout make every convolution compute in it, which is faster on
            # CPUs and GPUs alike.
            self.convolutions.append(convolution.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
            with torch.no_grad():
                size += convolution(torch.zeros(1, *image_size(array))).numel()
        self.linear = orthogonal(nn.Linear(size, hidden))
        self.output_size = hidden

    @abstractmethod
    def _convolution(self, channels: int) -> nn.Module: ...

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """{name: [M, …]} → [M, output_size]."""
        parts = [
            convolution(to_image(array, obs[array.name], self.scale)).flatten(1)
            for array, convolution in zip(self.images, self.convolutions, strict=True)
        ]
        if self.vectors:
            parts.append(to_vector(self.vectors, obs, self.scale))
        return torch.relu(self.linear(torch.cat(parts, 1) if len(parts) > 1 else parts[0]))


class MinAtar(_Convolutional):
    """One 3×3 convolution for small grids, as in Young and Tian 2019 (arXiv 1903.03176)."""

    def __init__(
        self,
        observation: Observation,
        channels: int,
        hidden: int,
        scale: float | None,
    ) -> None:
        self.channels = channels
        super().__init__(observation, hidden, scale)

    def _convolution(self, channels: int) -> nn.Module:
        return nn.Sequential(orthogonal(nn.Conv2d(channels, self.channels, 3)), nn.ReLU())


class Shallow(_Convolutional):
    """The shallow network of the IMPALA paper (arXiv 1802.01561, figure 3 left).

    With 84×84×4 observations, 18 actions, and an LSTM of 256 that is fed the last action and
    reward: 1,225,795 parameters (the paper says 1.2 million).
    """

    def _convolution(self, channels: int) -> nn.Module:
        return nn.Sequential(
            orthogonal(nn.Conv2d(channels, 16, 8, stride=4)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(16, 32, 4, stride=2)),
            nn.ReLU(),
        )


class _ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))).

    The second convolution starts small, so that every block starts near the identity and the
    variance of the features does not double with each of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = orthogonal(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = orthogonal(nn.Conv2d(channels, channels, 3, padding=1), 0.1 * math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return x + residual


class Deep(_Convolutional):
    """The deep residual network of the IMPALA paper (arXiv 1802.01561, figure 3 right).

    Sections of 3×3 convolution, 3×3 max pooling of stride 2 and two residual blocks. With 84×84×4
    observations, 18 actions, and an LSTM of 256 that is fed the last action and reward: 1,638,883
    parameters (the paper says 1.6 million).
    """

    def __init__(
        self,
        observation: Observation,
        sections: Sequence[int],
        hidden: int,
        scale: float | None,
    ) -> None:
        self.sections = tuple(sections)
        super().__init__(observation, hidden, scale)

    def _convolution(self, channels: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in self.sections:
            layers += [
                orthogonal(nn.Conv2d(channels, width, 3, padding=1), 1.0),
                nn.MaxPool2d(3, stride=2, padding=1),
                _ResidualBlock(width),
                _ResidualBlock(width),
            ]
            channels = width
        return nn.Sequential(*layers, nn.ReLU())


TORSOS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "minatar": MinAtar,
    "shallow": Shallow,
    "deep": Deep,
}
"""The torsos that `network.id` names; `pronk.config.torsos` has the same."""
