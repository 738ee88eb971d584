"""`pronk learner` that writes down what it trained on, saved, and took out of the buffer.

`RECORD` names the file of every applied update and every checkpoint; beside it lies
`acknowledged.jsonl`. While a file `hold` lies there too, no stop condition is met.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pronk_learner import checkpoint
from pronk_learner.learner import Learner
from pronk_learner.progress import Progress

from pronk.cli.main import main
from pronk.rl.batch import SlotGroup
from pronk.transport.buffer import Consumer

_count_update = Learner._count_update
_delete = Consumer._delete
_save = checkpoint.save
_stop_reason = Progress.stop_reason


def count_and_record(self: Learner, draw: Any) -> None:
    """Count the update, and write down what it was made of."""
    _count_update(self, draw)
    counters = self._progress.counters
    line = {
        "update": counters.updates,
        "version": counters.version,
        "groups": [_described(group) for group in draw.groups],
        "episodes": [
            [unroll.header.member, episode.slot, episode.number]
            for unroll in draw.unrolls
            for episode in unroll.episodes
        ],
    }
    _append(Path(os.environ["RECORD"]), _stamp(self._assignment.epoch) | line)


def save_and_record(folder: Path, saved: checkpoint.Checkpoint, keep: int) -> Path:
    """Save, and only then write down that it is saved: the record never promises too much."""
    path = _save(folder, saved, keep)
    _append(Path(os.environ["RECORD"]), _stamp(saved.epoch) | {"update": saved.counters.updates})
    return path


def delete_and_record(self: Consumer, ids: Sequence[bytes]) -> int:
    """Delete entries, and write down whose consumer it was."""
    deleted = _delete(self, ids)
    if deleted:
        line = {"consumer": self._name, "entries": deleted}
        _append(Path(os.environ["RECORD"]).with_name("acknowledged.jsonl"), line)
    return deleted


def stop_reason_unless_held(self: Progress) -> str | None:
    """Why the run is over, once it may be."""
    held = Path(os.environ["RECORD"]).with_name("hold").exists()
    return None if held else _stop_reason(self)


def _stamp(epoch: int) -> dict[str, Any]:
    return {"when": time.monotonic(), "epoch": epoch}


def _described(group: SlotGroup) -> list[Any]:
    """As `record.Group` has it; an actor changes versions between unrolls only."""
    header, where = group.unroll.header, slice(group.start, group.stop)
    return [
        header.member,
        header.sequence,
        int(group.unroll.behaviour_version[:, where].min()),
        int(group.unroll.valid[:, where].sum()),
        group.unroll.slot[where].tolist(),
    ]


def _append(path: Path, line: dict[str, Any]) -> None:
    # A line begins with a new one: what a killed learner left of its last stands alone.
    with path.open("ab", buffering=0) as file:
        file.write(b"\n" + json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    Learner._count_update = count_and_record  # type: ignore[method-assign]
    Consumer._delete = delete_and_record  # type: ignore[method-assign]
    checkpoint.save = save_and_record
    Progress.stop_reason = stop_reason_unless_held  # type: ignore[method-assign]
    main(["learner", *sys.argv[1:]])
