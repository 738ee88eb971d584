"""One episode as an animated picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pronk.envs import Recorder
from pronk.errors import Misconfigured
from pronk_actor.agent import Agent

MAX_FRAMES = 1000
"""A longer episode is shown with pictures left out."""
MAX_STEPS = 200_000
"""Where an episode that does not end is cut off."""
_SIZE = 420
_MILLISECONDS = 40


def film(recorder: Recorder, agent: Agent) -> list[Image.Image]:
    """Play one episode; its pictures, small and of few colours.

    Raises:
        Misconfigured: the environment draws no pictures, or lacks a package for it.
    """
    obs, mask = recorder.reset()
    pictures, every = [_shrunk(recorder.render())], 1
    dead = np.zeros(1, np.bool_)
    for step in range(1, MAX_STEPS):
        action = agent.act(obs, mask).action
        result = recorder.step(action)
        if result.failed is not None:
            break  # what it shows now is another episode
        obs, mask = result.obs, result.action_mask
        agent.observe(action, result.reward.copy(), dead)
        ended = bool(result.terminated[0] or result.truncated[0])
        if ended or step % every == 0:
            pictures.append(_shrunk(recorder.render()))
        if ended:
            break
        if len(pictures) == MAX_FRAMES:
            pictures, every = pictures[::2], every * 2
    return pictures


def save(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write the pictures as a GIF that repeats.

    Raises:
        Misconfigured: the file cannot be written.
    """
    first, *others = pictures
    try:
        first.save(
            path,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=_MILLISECONDS,
            loop=0,
        )
    except OSError as error:
        raise Misconfigured(f"--gif: cannot write {path}: {error.strerror}") from None


def _shrunk(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    largest = max(image.size)
    if largest > _SIZE:
        image = image.resize(
            (image.width * _SIZE // largest, image.height * _SIZE // largest),
            Image.Resampling.BOX,
        )
    elif scale := _SIZE // largest:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return image.quantize(64)
