"""`pronk learner` that writes down what it trained on, and what it took out of the buffer.

`RECORD` names the file of every applied update's slots; beside it lies `acknowledged.jsonl`.
While a file `hold` lies there too, no stop condition is met.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pronk_learner.learner import Learner
from pronk_learner.progress import Progress

from pronk.cli.main import main
from pronk.transport.buffer import Consumer

_count_update = Learner._count_update
_delete = Consumer._delete
_stop_reason = Progress.stop_reason


def count_and_record(self: Learner, draw: Any) -> None:
    """Count the update, and write down its slots."""
    _count_update(self, draw)
    slots = [
        [group.unroll.header.member, group.unroll.header.sequence, int(slot)]
        for group in draw.groups
        for slot in group.unroll.slot[group.start : group.stop]
    ]
    epoch, update = self._assignment.epoch, self._progress.counters.updates
    _append(Path(os.environ["RECORD"]), {"epoch": epoch, "update": update, "slots": slots})


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


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    Learner._count_update = count_and_record  # type: ignore[method-assign]
    Consumer._delete = delete_and_record  # type: ignore[method-assign]
    Progress.stop_reason = stop_reason_unless_held  # type: ignore[method-assign]
    main(["learner", *sys.argv[1:]])
