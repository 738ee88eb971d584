"""What `pronk doctor` asks about the learners' part of a run directory."""

from pathlib import Path

from pronk.finding import Finding
from pronk_learner import checkpoint
from pronk_learner.checkpoint import Checkpoint, CorruptError

_NOTHING_YET = "no learner came so far: `pronk up` begins anew"


def examine(run_dir: Path) -> list[Finding]:
    """Every checkpoint of every policy; nothing is written."""
    places = sorted({*run_dir.glob("checkpoints"), *run_dir.glob("*/checkpoints")})
    if not places:
        return [Finding("checkpoints", "optional", "none", _NOTHING_YET)]
    return [finding for place in places for finding in _examine(run_dir, place)]


def _examine(run_dir: Path, place: Path) -> list[Finding]:
    name = str(place.relative_to(run_dir))
    folders = checkpoint.folders(place)
    if not folders:
        return [Finding(name, "optional", "none", _NOTHING_YET)]
    found: list[Finding] = []
    newest: Checkpoint | None = None
    for path in folders:
        try:
            newest = checkpoint.load(path)
        except CorruptError as error:
            where = str(path.relative_to(run_dir))
            found.append(Finding(where, "missing", str(error), "remove it: it is passed over"))
    if newest is None:
        advice = "restore one: `pronk up` cannot go on from here"
        return [*found, Finding(name, "missing", "none can be read", advice)]
    said = f"newest that can be read: epoch {newest.epoch}, {newest.counters.frames} frames"
    return [*found, Finding(name, "ok", said)]
