"""What `pronk doctor` asks about the parameter server's part of a run directory."""

import sqlite3
from contextlib import closing
from pathlib import Path

from google.protobuf.message import DecodeError

from pronk.finding import Finding
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server import report_files
from pronk_param_server.blob_files import damage_of

_ADVICE = "restore the folder `server`, or start a new run directory from a checkpoint's config"


def examine(run_dir: Path) -> list[Finding]:
    """The ledger, releases' blobs, reports; nothing is written, a server may be running."""
    folder = run_dir / "server"
    path = folder / "registry.sqlite3"
    if not path.exists():
        if (folder / "blobs").exists():
            return [Finding("ledger", "missing", f"no {path}", _ADVICE)]
        advice = "no parameter server came so far: `pronk up` begins anew"
        return [Finding("ledger", "optional", "none", advice)]
    try:
        # A path may hold what means something in a URI.
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            damage = database.execute("PRAGMA integrity_check").fetchone()[0]
            rows = database.execute("SELECT id, message FROM release ORDER BY sequence").fetchall()
        releases = {row[0]: pb.Release.FromString(row[1]) for row in rows}
    except (sqlite3.Error, DecodeError) as error:
        return [Finding("ledger", "missing", f"{path}: {error}", _ADVICE)]
    if damage != "ok":
        return [Finding("ledger", "missing", f"{path}: {' '.join(damage.split())}", _ADVICE)]
    found = [Finding("ledger", "ok", f"intact, {len(releases)} releases")]
    found += [_release(folder / "blobs", release) for release in releases.values()]
    return found + [_report(path) for path in sorted((folder / "reports").glob("[!.]*"))]


def _report(path: Path) -> Finding:
    name = f"server/reports/{path.name}"
    try:
        report_files.read(path)
    except report_files.DamagedError as error:
        advice = "remove it, or restore it: a learner leaves another when it ends"
        return Finding(name, "missing", str(error), advice)
    return Finding(name, "ok", "whole")


def _release(folder: Path, release: pb.Release) -> Finding:
    names = set(release.manifest.blobs)
    damaged = [name for name in names if damage_of(folder, name) is not None]
    if damaged:
        what = f"{len(damaged)} of {len(names)} blobs missing or damaged"
        advice = "the release before is served; cut it anew, or restore the blobs"
        return Finding(release.id, "missing", what, advice)
    return Finding(release.id, "ok", f"{len(names)} blobs, whole")
