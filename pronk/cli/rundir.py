"""The directory of a run: created or resumed, locked, and what lies where in it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pronk import config, files
from pronk.config import Experiment
from pronk.config.load import fixed_keys
from pronk.errors import Misconfigured

CONFIG = "config.yaml"
_LOCK = ".lock"
_SIGNS = (
    CONFIG,
    "server/registry.sqlite3",
    "checkpoints",
    "*/checkpoints",
    "policies",
    "summary.json",
)
"""Each is in some run directory: of `pronk up`, of one service, of one policy, or fetched."""


@dataclass(frozen=True)
class RunDirectory:
    """Where the parts of a run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The experiment, with all overrides and defaults."""
        return self.path / CONFIG

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.path / "logs"

    def check(self, experiment: Experiment) -> bool:
        """Whether a run is there to be resumed, and `experiment` may resume it.

        Raises:
            Misconfigured: the directory holds something else, or another experiment.
        """
        try:
            # Hidden: the lock, and what a crash left of a file that was being written.
            entries = [entry for entry in self.path.iterdir() if entry.name[0] != "."]
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Misconfigured(f"cannot use {self.path}: {error.strerror}") from None
        if not entries:
            return False
        if not self.config.exists():
            raise Misconfigured(f"{self.path} is not empty and not a run directory: choose another")
        different = differences(config.load(self.config), experiment)
        if different:
            raise Misconfigured(
                f"{self.path} holds another experiment: {', '.join(different)}; "
                "give another --run-dir, or the run's own values"
            )
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other `pronk up` out, as long as this process lives.

        Raises:
            Misconfigured: another one is in, or the directory cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Misconfigured(f"cannot use {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Misconfigured(f"{self.path} is in use by another `pronk up`") from None
        try:
            yield
        finally:
            os.close(descriptor)

    @property
    def address(self) -> Path:
        """Where the parameter server of a running `pronk up` is written down."""
        return self.path / "server" / "address"

    @contextmanager
    def announced(self, server: str, credentials: Path | None = None) -> Iterator[None]:
        """Have the parameter server's address written down for `pronk status RUN_DIR`.

        Where it asks for credentials, so is the folder in which a reader's lie: no secret.
        """
        lines = [server, *([str(credentials)] if credentials else [])]
        try:
            self.address.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self.address, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise Misconfigured(f"cannot write {self.address}: {error.strerror}") from None
        try:
            yield
        finally:
            self.address.unlink(missing_ok=True)

    def write_config(self, experiment: Experiment) -> None:
        """Write the experiment in one step.

        Raises:
            Misconfigured: the disk is full or cannot be written.
        """
        try:
            files.replace(self.config, config.dump(experiment).encode())
        except OSError as error:
            raise Misconfigured(f"cannot write {self.config}: {error.strerror}") from None


def fresh(experiment: Experiment, root: Path = Path("runs")) -> RunDirectory:
    """A run directory that nobody has used: `runs/<name>-<time>`."""
    stem = f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = root / stem, 1
    while path.exists():
        count += 1
        path = root / f"{stem}-{count}"
    return RunDirectory(path)


def is_run_directory(path: Path) -> bool:
    """Whether something in a directory is what a run leaves, be it but one service's part."""
    return any(next(path.glob(sign), None) is not None for sign in _SIGNS)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Keys that may not change on resume and differ, each as `key (old → new)`."""
    if config.experiment_hash(old) == config.experiment_hash(new):
        return []
    before, after = (
        _leaves(old.model_dump(mode="json", by_alias=True)),
        _leaves(new.model_dump(mode="json", by_alias=True)),
    )
    free = {key for key, is_free in fixed_keys().items() if is_free}
    return [
        f"{key} ({before.get(key)!r} → {after.get(key)!r})"
        for key in sorted(before.keys() | after.keys())
        if key not in free and before.get(key) != after.get(key)
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    leaves: dict[str, Any] = {}
    for key, child in value.items():
        leaves |= _leaves(child, f"{prefix}{key}.")
    return leaves
