"""What a cluster's learners wrote down (see `recording_learner.py`), read while it grows.

It is looked through for orders of events, which do not depend on how fast a machine is. Where time
matters it is the learner's own (`time.monotonic`, which all processes of a machine share).
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

TICK_SECONDS = 2.0
"""A learner looks once a second whether a checkpoint is due; a busy core makes that later."""


class Group(NamedTuple):
    """Slots of one unroll in an update; `steps` are their valid transitions."""

    member: str
    sequence: int
    version: int
    steps: int
    slots: list[int]


class Update(NamedTuple):
    """An applied update; `episodes` are [member, slot, number] of those that it finished."""

    epoch: int
    number: int
    groups: list[Group]
    episodes: list[list[Any]]


class Record:
    """The updates that the newest weights rest on, and how well every recovery went.

    Attributes:
        path: of the record.
        updates: what a restart took back is left out.
        recoveries: for every learner but the first, the updates that its restart took back.
    """

    def __init__(self, path: Path, checkpoint_seconds: float) -> None:
        """`checkpoint_seconds` are those of the experiment."""
        self.path = path
        self.updates: list[Update] = []
        self.recoveries: list[int] = []
        self._longest = checkpoint_seconds + TICK_SECONDS
        self._faults: list[str] = []
        self._read = 0
        self._saved = {"epoch": 0, "update": 0, "when": 0.0}
        self._overdue = 0
        self._born: dict[int, float] = {}
        self._newest: dict[str, float] = {}

    def look(self) -> None:
        """Read what was written since the last look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in parsed(whole):
            if line["epoch"] < self._saved["epoch"]:
                continue  # its learner woke beside a successor, which goes on without it
            if "groups" in line:
                self._see_update(line)
            else:
                self._see_checkpoint(line)

    def learned_since(self, when: float, members: Collection[str] | None = None) -> bool:
        """Whether data of these members (of any) was trained on that was made after the moment.

        It was when the version that acted is the work of an update after the moment.
        """
        known = self._newest if members is None else self._newest.keys() & members
        return any(self._newest[member] > when for member in known)

    def faults(self, summary: dict[str, Any]) -> list[str]:
        """What is wrong: a line each, of recoveries and of what the run's summary counts."""
        groups = list(chain.from_iterable(update.groups for update in self.updates))
        slots = Counter((g.member, g.sequence, slot) for g in groups for slot in g.slots)
        episodes = [tuple(each) for update in self.updates for each in update.episodes]
        said = {
            "learner_updates": len(self.updates),
            "frames": sum(group.steps for group in groups),  # CartPole has one in a step
            "episodes": len(episodes),
        }
        found = [
            f"the summary has {summary[name]} {name}, its updates {count}"
            for name, count in said.items()
            if summary[name] != count
        ]
        if [update.number for update in self.updates] != list(range(1, len(self.updates) + 1)):
            found.append("an update is missing")
        if twice := [slot for slot, count in slots.items() if count > 1]:
            found.append(f"{len(twice)} slots were trained on twice, the first of them {twice[0]}")
        if twice := [each for each, count in Counter(episodes).items() if count > 1]:
            found.append(f"{len(twice)} episodes were counted twice, the first of them {twice[0]}")
        return self._faults + found

    def _see_update(self, line: dict[str, Any]) -> None:
        epoch, number, when = line["epoch"], line["update"], line["when"]
        late = when - self._saved["when"]
        if late > self._longest:
            # Whoever was stopped makes one update before he looks at the clock.
            self._overdue += 1
            if self._overdue == 2:
                self._faults.append(f"update {number} came {late:.1f} s after a checkpoint")
        groups = [Group(*group) for group in line["groups"]]
        self.updates.append(Update(epoch, number, groups, line["episodes"]))
        self._born[line["version"]] = when
        for group in groups:
            born = self._born.get(group.version, 0.0)
            self._newest[group.member] = max(born, self._newest.get(group.member, 0.0))

    def _see_checkpoint(self, line: dict[str, Any]) -> None:
        before = self._saved
        if before["epoch"] and line["epoch"] > before["epoch"]:
            if line["update"] < before["update"]:
                self._faults.append(
                    f"epoch {line['epoch']} began at update {line['update']}, although "
                    f"{before['update']} was saved"
                )
            kept = [update for update in self.updates if update.number <= line["update"]]
            self.recoveries.append(len(self.updates) - len(kept))
            self.updates = kept
        self._saved, self._overdue = line, 0


def parsed(data: bytes) -> Iterator[dict[str, Any]]:
    """Lines of JSON; one that its writer's death cut is left out."""
    for text in data.splitlines():
        with suppress(ValueError):
            yield json.loads(text)
