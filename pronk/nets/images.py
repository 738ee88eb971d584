"""Which observations are images; it takes no torch to tell."""

from pronk.wire.spec import ArraySpec

_SMALLEST_PLANE = 16


def is_image(array: ArraySpec) -> bool:
    """An image has three axes, or two of which none is short (a grey frame)."""
    if len(array.shape) == 2:
        return min(array.shape) >= _SMALLEST_PLANE
    return len(array.shape) == 3


def image_size(array: ArraySpec) -> tuple[int, int, int]:
    """(channels, height, width) of an image.

    Three axes are channels-first where the first is the shortest, else channels-last: (4, 84, 84)
    is a stack of four frames, (7, 7, 3) and (10, 10, 10) have their channels last.
    """
    if len(array.shape) == 2:
        return 1, *array.shape
    if channels_first(array):
        return array.shape[0], array.shape[1], array.shape[2]
    return array.shape[2], array.shape[0], array.shape[1]


def channels_first(array: ArraySpec) -> bool:
    """Whether the channels of an image of three axes are its first axis."""
    return array.shape[0] < min(array.shape[1:])
