"""Where tensors are computed."""

from typing import Literal

import torch

from pronk.errors import Misconfigured


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that an experiment asks for; `auto` is a GPU where there is one.

    Raises:
        Misconfigured: there is no GPU that torch can use.
    """
    gpu = torch.cuda.is_available()
    if wanted == "cuda" and not gpu:
        why = "torch is built for CPUs only" if torch.version.cuda is None else "torch finds no GPU"
        raise Misconfigured(f"learner.device: cuda is not to be had, {why}; set it to auto or cpu")
    return torch.device("cuda" if gpu and wanted != "cpu" else "cpu")
