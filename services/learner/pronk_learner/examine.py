"""What `pronk doctor` asks about the learners' part of a run directory."""

from pathlib import Path

from pronk.finding import Finding
from pronk_learner import checkpoint
from pronk_learner.checkpoint import Checkpoint, CorruptError


def examine(run_dir: Path) -> list[Finding]:
    """Every checkpoint of every policy; nothing is written."""
    places = sorted({*run_dir.glob("checkpoints"), *run_dir.glob("*/checkpoints")})
    if not places:
        return [Finding("checkpoints", "missing", "none", "no learner has run here")]
    return [finding for place in places for finding in _examine(run_dir, place)]


def _examine(run_dir: Path, place: Path) -> list[Finding]:
    found: list[Finding] = []
    newest: Checkpoint | None = None
    for path in checkpoint.folders(place):
        try:
            newest = checkpoint.load(path)
        except CorruptError as error:
            name = str(path.relative_to(run_dir))
            found.append(Finding(name, "missing", str(error), "remove it: it is passed over"))
    name = str(place.relative_to(run_dir))
    if newest is None:
        advice = "restore one: `pronk up` cannot go on from here"
        return [*found, Finding(name, "missing", "none can be read", advice)]
    said = f"newest that can be read: epoch {newest.epoch}, {newest.counters.frames} frames"
    return [*found, Finding(name, "ok", said)]
