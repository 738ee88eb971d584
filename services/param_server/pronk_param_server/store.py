"""The parameter server's state on disk: SQLite, used by one thread only.

A change is on disk before anybody hears of it; `kill -9` at any moment leaves the state before it
or after it. Two servers never use one folder.
"""

import fcntl
import json
import secrets
import sqlite3
import time
from contextlib import ExitStack
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from pronk.errors import Misconfigured
from pronk.files import is_full
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server.records import Change, PolicyRecord, RunRecord, Saved

LAYOUT: Final = 1
"""Version of the tables below; rises with every change of them."""

KEPT_AUDIT: Final = 10_000
"""Newest lines of the audit log that stay."""

_FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""What SQLite says of a full disk; the second, of the memory that its readers share."""

_TABLES = """
CREATE TABLE IF NOT EXISTS run (
    only INTEGER PRIMARY KEY CHECK (only = 1), run TEXT NOT NULL, experiment_hash TEXT NOT NULL,
    state INTEGER NOT NULL, reason TEXT NOT NULL, spec BLOB) STRICT;
CREATE TABLE IF NOT EXISTS policy (
    policy TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder TEXT NOT NULL, floor INTEGER NOT NULL,
    reserved INTEGER NOT NULL, finished INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS release (
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, message BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    sequence INTEGER PRIMARY KEY, time REAL NOT NULL, event TEXT NOT NULL,
    detail TEXT NOT NULL) STRICT;
"""


class Store:
    """The run's tables in `folder`; call every method on the writer thread.

    Raises:
        OSError: the disk is full (`pronk.files.is_full`): try again.
        Misconfigured: the folder cannot be used, is in use, or was written by another version.
    """

    def __init__(self, folder: Path) -> None:
        with ExitStack() as undo:  # whoever tries again must not find the lock held
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = undo.enter_context(_lock(folder / "lock"))
                self._database = _open(folder / "registry.sqlite3")
            except OSError as error:
                if is_full(error):
                    raise
                raise Misconfigured(f"cannot use {folder}: {error.strerror}") from None
            except sqlite3.Error as error:
                _raise_if_full(error)
                raise Misconfigured(f"cannot use {folder / 'registry.sqlite3'}: {error}") from None
            undo.pop_all()

    def load(self, name: str, experiment_hash: str) -> Saved:
        """What is stored; a new run of the experiment `name` if nothing is.

        Raises:
            OSError: the disk is full (`pronk.files.is_full`): try again.
            Misconfigured: the folder holds a run of another experiment, or is damaged.
        """
        try:
            return self._load(name, experiment_hash)
        except (sqlite3.Error, DecodeError) as error:
            _raise_if_full(error)
            raise Misconfigured(f"cannot use the run directory's database: {error}") from None

    def _load(self, name: str, experiment_hash: str) -> Saved:
        row = self._database.execute(
            "SELECT run, experiment_hash, state, reason, spec FROM run"
        ).fetchone()
        if row is None:
            run = RunRecord(f"{name}-{secrets.token_hex(4)}", experiment_hash)
            self.commit(Change("run_created", {"run": run.run}, run=run))
            return Saved(run)
        run = RunRecord(row[0], row[1], pb.RunState.ValueType(row[2]), row[3], row[4])
        if run.experiment_hash != experiment_hash:
            raise Misconfigured(
                f"the run directory holds run {run.run} of another experiment (hash "
                f"{run.experiment_hash}, this one's is {experiment_hash}): choose another "
                "directory, or undo the changes to keys that may not change on resume"
            )
        return Saved(run, self._policies(), self._releases())

    def commit(self, change: Change) -> None:
        """Write a change: all of it, or nothing."""
        with self._database as database:
            if change.run is not None:
                run = change.run
                database.execute(
                    "INSERT OR REPLACE INTO run VALUES (1, ?, ?, ?, ?, ?)",
                    (run.run, run.experiment_hash, run.state, run.reason, run.spec),
                )
            database.executemany(
                "INSERT OR REPLACE INTO policy VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (p.policy, p.epoch, p.holder, p.floor, p.reserved, p.finished)
                    for p in change.policies
                ],
            )
            if change.release is not None:
                database.execute(
                    "INSERT INTO release (id, message) VALUES (?, ?)",
                    (change.release.id, change.release.SerializeToString()),
                )
            if not change.event:
                return
            database.execute(
                "INSERT INTO audit (time, event, detail) VALUES (?, ?, ?)",
                (time.time(), change.event, json.dumps(change.detail, sort_keys=True)),
            )
            database.execute(
                "DELETE FROM audit WHERE sequence <= (SELECT max(sequence) FROM audit) - ?",
                (KEPT_AUDIT,),
            )

    def close(self) -> None:
        """Close the files; another server may use the folder then."""
        self._database.close()
        self._lock.close()

    def _policies(self) -> dict[str, PolicyRecord]:
        rows = self._database.execute(
            "SELECT policy, epoch, holder, floor, reserved, finished FROM policy"
        )
        return {
            policy: PolicyRecord(policy, epoch, holder, floor, reserved, bool(finished))
            for policy, epoch, holder, floor, reserved, finished in rows
        }

    def _releases(self) -> dict[str, pb.Release]:
        rows = self._database.execute("SELECT id, message FROM release ORDER BY sequence")
        return {row[0]: pb.Release.FromString(row[1]) for row in rows}


def _lock(path: Path) -> Any:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Misconfigured(f"another parameter server uses {path.parent}: stop it first") from None
    return file


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        _prepare(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    # FULL: what was answered survives the machine's power as well.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    damage = database.execute("PRAGMA quick_check").fetchone()[0]
    if damage != "ok":
        damage = " ".join(damage.split())
        raise Misconfigured(
            f"{path} is damaged ({damage}): restore it, or choose another directory"
        )
    layout = database.execute("PRAGMA user_version").fetchone()[0]
    if layout not in (0, LAYOUT):
        raise Misconfigured(f"{path} has layout {layout}, this version of pronk knows {LAYOUT}")
    database.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {LAYOUT};COMMIT;")


def _raise_if_full(error: Exception) -> None:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _FULL:
        raise OSError(ENOSPC, str(error)) from None
