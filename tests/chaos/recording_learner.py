"""`pronk learner` that writes down which slots every applied update was trained on."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from pronk_learner.learner import Learner

from pronk.cli.main import main

_count_update = Learner._count_update


def count_and_record(self: Learner, draw: Any) -> None:
    """Count the update, and append it to the file that `RECORD` names."""
    _count_update(self, draw)
    slots = [
        [group.unroll.header.member, group.unroll.header.sequence, int(slot)]
        for group in draw.groups
        for slot in group.unroll.slot[group.start : group.stop]
    ]
    line = json.dumps({"update": self._progress.counters.updates, "slots": slots}) + "\n"
    with Path(os.environ["RECORD"]).open("a", encoding="utf-8") as file:
        file.write(line)


if __name__ == "__main__":
    Learner._count_update = count_and_record  # type: ignore[method-assign]
    main(["learner", *sys.argv[1:]])
