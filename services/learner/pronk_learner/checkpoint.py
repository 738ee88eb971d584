"""Checkpoints: folders written beside their place, flushed, then renamed into it.

`checkpoints/<epoch>-<serial>/` holds `weights.safetensors`, `optimizer.safetensors`, `config.yaml`
and `state.json`, which names the hashes of all. A folder that does not check out is told and the
one before is used.

The epoch fences: a learner never writes beside a newer epoch's checkpoint, and should it do so
after all (it slept between looking and writing), nobody prefers it.
"""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pronk import files
from pronk.errors import Fenced, Misconfigured
from pronk.telemetry import logs, metrics
from pronk.wire.digest import digest

_STATE = "state.json"
_WEIGHTS, _OPTIMIZER, _CONFIG = "weights.safetensors", "optimizer.safetensors", "config.yaml"
_FILES = (_WEIGHTS, _OPTIMIZER, _CONFIG)


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

    epoch: int
    """Of the learner that saved it."""
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    counters: Counters
    experiment_hash: str
    experiment: str
    """The experiment as YAML, all keys included."""
    rng: list[int]
    """State of torch's CPU generator."""
    trained: dict[str, list[tuple[int, int]]]
    """The place in the buffer: `Trained.saved`."""


class CorruptError(ValueError):
    """A checkpoint folder that cannot be read back."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder` and remove all but the newest `keep`.

    Raises:
        Fenced: a learner of a newer epoch has saved here; nothing is written.
        OSError: the disk is full or not writable; nothing half-written is left under a valid name.
    """
    saved = _folders(folder)
    if saved and saved[-1].epoch > checkpoint.epoch:
        raise Fenced(
            f"epoch {checkpoint.epoch} ended: {folder} holds a checkpoint of epoch "
            f"{saved[-1].epoch}"
        )
    _tidy(folder, checkpoint.epoch)
    serials = [place.serial for place in saved if place.epoch == checkpoint.epoch]
    target = _Place(folder, checkpoint.epoch, max(serials, default=0) + 1)
    target.hidden.mkdir(parents=True)
    try:
        for name, data in _contents(checkpoint).items():
            files.write(target.hidden / name, data)
        files.sync(target.hidden)
        target.hidden.rename(target.path)
    except OSError:
        shutil.rmtree(target.hidden, ignore_errors=True)
        raise
    files.sync(folder)
    for old in [*saved, target][:-keep]:
        _remove(old)
    return target.path


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of the highest epoch that checks out, or None where there is none.

    One that does not is told, counted and passed over.

    Raises:
        Misconfigured: there are some, and none checks out; starting afresh would erase the run.
    """
    places = _folders(folder)
    for place in reversed(places):
        try:
            return load(place.path)
        except CorruptError as error:
            metrics.CHECKPOINTS_DAMAGED.inc()
            logs.get().error("checkpoint_damaged", path=str(place.path), why=str(error))
    if places:
        raise Misconfigured(
            f"no checkpoint in {folder} can be read: restore one, or choose another run directory"
        )
    return None


def folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, oldest first."""
    return [place.path for place in _folders(folder)]


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CorruptError: it does not check out.
    """
    try:
        state = json.loads((folder / _STATE).read_bytes())
        if state.pop("check") != _check(state):
            raise CorruptError(f"{_STATE} does not have its hash")
        data = {name: (folder / name).read_bytes() for name in _FILES}
        for name in _FILES:
            if digest(data[name]) != state["sha256"][name]:
                raise CorruptError(f"{name} does not have its hash")
        return Checkpoint(
            epoch=state["epoch"],
            weights=load_tensors(data[_WEIGHTS]),
            optimizer=load_tensors(data[_OPTIMIZER]),
            counters=Counters(**state["counters"]),
            experiment_hash=state["experiment_hash"],
            experiment=data[_CONFIG].decode(),
            rng=list(bytes.fromhex(state["rng"])),
            trained={
                member: [(sequence, slots) for sequence, slots in unrolls]
                for member, unrolls in state["trained"].items()
            },
        )
    except OSError as error:
        raise CorruptError(f"{Path(error.filename or folder).name}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptError(str(error)) from None


class _Place(NamedTuple):
    """Where the `serial`-th checkpoint of an epoch lies; a later one sorts higher."""

    folder: Path
    epoch: int
    serial: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.epoch:06d}-{self.serial:06d}"

    @property
    def hidden(self) -> Path:
        """Its name while it is being written or removed: nobody looks there."""
        return self.folder / f".{self.path.name}"


_NAME = re.compile(r"(\.?)(\d+)-(\d+)")


def _folders(folder: Path, *, hidden: bool = False) -> list[_Place]:
    if not folder.is_dir():
        return []
    names = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(
        _Place(folder, int(name[2]), int(name[3]))
        for name in names
        if name is not None and bool(name[1]) == hidden
    )


def _tidy(folder: Path, epoch: int) -> None:
    """Remove what a crash left half-written or half-removed; a newer epoch's is at work there."""
    for place in _folders(folder, hidden=True):
        if place.epoch <= epoch:
            shutil.rmtree(place.hidden, ignore_errors=True)


def _remove(place: _Place) -> None:
    with suppress(OSError):  # it is removed next time
        place.path.rename(place.hidden)
        files.sync(place.folder)
        shutil.rmtree(place.hidden)


def _contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    contents = {
        _WEIGHTS: save_tensors(_contiguous(checkpoint.weights)),
        _OPTIMIZER: save_tensors(_contiguous(checkpoint.optimizer)),
        _CONFIG: checkpoint.experiment.encode(),
    }
    state = {
        "epoch": checkpoint.epoch,
        "counters": asdict(checkpoint.counters),
        "experiment_hash": checkpoint.experiment_hash,
        "rng": bytes(checkpoint.rng).hex(),
        "trained": checkpoint.trained,
        "sha256": {name: digest(data) for name, data in contents.items()},
    }
    contents[_STATE] = json.dumps(state | {"check": _check(state)}, indent=2).encode()
    return contents


def _check(state: object) -> str:
    return digest(json.dumps(state, sort_keys=True).encode())


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
