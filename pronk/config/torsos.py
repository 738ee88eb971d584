"""What `network.kwargs` may say of each torso that `network.id` names.

The torsos themselves are in `pronk.nets.torsos` and need torch; this does not, so that a mistake is
told before anything starts.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from pronk.config.fields import Positive, Section, Width

Widths = Annotated[list[Width], Field(max_length=64)]


class Torso(Section):
    """What all of them take."""

    smallest_image: ClassVar[int] = 0
    """Height and width that an image must have; 0: it needs no image."""

    scale: Positive | None = None
    """Integers are multiplied by it; default: 1 / their upper bound, of small images 1/10 at
    least."""


class MLP(Torso):
    """Fully connected layers."""

    hidden: Widths = [64, 64]
    """Widths of the layers."""


class MinAtar(Torso):
    """One 3×3 convolution, for images of 3×3 or more."""

    smallest_image: ClassVar[int] = 3

    channels: Width = 16
    """Channels of the convolution."""
    hidden: Width = 128
    """Width of the last layer."""


class Shallow(Torso):
    """Two convolutions, for images of 20×20 or more."""

    smallest_image: ClassVar[int] = 20

    hidden: Width = 256
    """Width of the last layer."""


class Deep(Torso):
    """Residual sections, for images."""

    smallest_image: ClassVar[int] = 1

    sections: Widths = [16, 32, 32]
    """Channels of each section."""
    hidden: Width = 256
    """Width of the last layer."""


TORSOS: dict[str, type[Torso]] = {
    "mlp": MLP,
    "minatar": MinAtar,
    "shallow": Shallow,
    "deep": Deep,
}
"""The torsos by the names that `network.id` knows them by."""
