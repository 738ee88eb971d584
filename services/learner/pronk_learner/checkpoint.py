"""Checkpoints: folders written beside their place, flushed, then renamed into it.

`checkpoints/<updates>/` holds `weights.safetensors`, `optimizer.safetensors` and `state.json`,
which names the hashes of the others. A folder that does not check out is told and the one before
is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pronk.errors import Misconfigured
from pronk.telemetry import logs

_STATE = "state.json"
_FILES = ("weights.safetensors", "optimizer.safetensors")


@dataclass
class Counters:
    """How far a run has come; resumed parts included."""

    steps: int = 0
    frames: int = 0
    updates: int = 0
    version: int = 0
    """Number of the newest version."""
    episodes: int = 0
    seconds: float = 0.0
    lag_sum: float = 0.0
    """Sum over updates of their mean lag."""
    returns: list[float] = field(default_factory=list)
    """The newest episodes' returns, oldest first."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a learner goes on from."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    counters: Counters
    experiment_hash: str
    rng: list[int]
    """State of torch's CPU generator."""


class CorruptError(ValueError):
    """A checkpoint folder that cannot be read back."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder` and remove all but the newest `keep`.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left under a valid name.
    """
    contents = {
        _FILES[0]: save_tensors(_contiguous(checkpoint.weights)),
        _FILES[1]: save_tensors(_contiguous(checkpoint.optimizer)),
    }
    state = {
        "counters": asdict(checkpoint.counters),
        "experiment_hash": checkpoint.experiment_hash,
        "rng": bytes(checkpoint.rng).hex(),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    contents[_STATE] = json.dumps(state).encode()
    target = folder / f"{checkpoint.counters.updates:012d}"
    temporary = folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, data in contents.items():
            _write_durably(temporary / name, data)
        _sync(temporary)
        if target.exists():  # the same update, saved again
            shutil.rmtree(target)
        temporary.rename(target)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that checks out, or None where there is none.

    Raises:
        Misconfigured: there are some, and none checks out; starting afresh would erase the run.
    """
    candidates = _folders(folder)
    for candidate in reversed(candidates):
        try:
            return _load(candidate)
        except (CorruptError, OSError) as error:
            logs.get().error("checkpoint is corrupt", path=str(candidate), reason=str(error))
    if candidates:
        raise Misconfigured(
            f"no checkpoint in {folder} can be read: restore one, or choose another run directory"
        )
    return None


def _load(folder: Path) -> Checkpoint:
    try:
        state = json.loads((folder / _STATE).read_bytes())
        data = {name: (folder / name).read_bytes() for name in _FILES}
        for name, digest in state["sha256"].items():
            if hashlib.sha256(data[name]).hexdigest() != digest:
                raise CorruptError(f"{name} does not have its hash")
        return Checkpoint(
            weights=load_tensors(data[_FILES[0]]),
            optimizer=load_tensors(data[_FILES[1]]),
            counters=Counters(**state["counters"]),
            experiment_hash=state["experiment_hash"],
            rng=list(bytes.fromhex(state["rng"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(str(error)) from None


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
