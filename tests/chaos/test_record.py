"""What the record of a run gives away: every fault that a run of chaos looks for, made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from record import Record

SECONDS = 5.0
SLOTS = 4
Line = dict[str, Any]


def update(number: int, when: float, epoch: int = 1, **changes: Any) -> Line:
    """One that trains the whole unroll of its number, which an older version had acted in."""
    group = ["actor", number, max(0, number - 2), 10, list(range(SLOTS))]
    line = {"epoch": epoch, "update": number, "when": when, "version": number}
    return line | {"groups": [group], "episodes": [["actor", 0, number]]} | changes


def saved(number: int, when: float, epoch: int = 1) -> Line:
    return {"epoch": epoch, "update": number, "when": when}


def whole_run() -> list[Line]:
    """Eight updates; a crash after the sixth takes two back."""
    return [
        saved(0, 0.0),
        *(update(number, float(number)) for number in range(1, 5)),
        saved(4, 4.5),
        update(5, 5.0),
        update(6, 6.0),
        saved(4, 20.0, epoch=2),
        *(update(number, 16.0 + number, epoch=2) for number in range(5, 9)),
        saved(8, 25.0, epoch=2),
    ]


def read(folder: Path, lines: list[Line]) -> Record:
    record = Record(folder / "record", SECONDS)
    record.path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    record.look()
    return record


def summary(**changes: int) -> dict[str, int]:
    return {"learner_updates": 8, "frames": 80, "episodes": 8} | changes


def test_a_crash_takes_back_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    record = read(tmp_path, whole_run())
    assert record.faults(summary()) == []
    assert record.recoveries == [2]
    assert [each.epoch for each in record.updates] == [1] * 4 + [2] * 4


@pytest.mark.parametrize("name", ["learner_updates", "frames", "episodes"])
def test_a_summary_that_counts_otherwise(tmp_path: Path, name: str) -> None:
    wrong = summary()[name] + 1
    [fault] = read(tmp_path, whole_run()).faults(summary(**{name: wrong}))
    assert fault.startswith(f"the summary has {wrong} {name}")


def test_a_learner_that_goes_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    lines = whole_run()
    lines[8:9] = [saved(2, 20.0, epoch=2), update(3, 20.1, 2), update(4, 20.2, 2)]
    faults = read(tmp_path, lines).faults(summary())
    assert faults == ["epoch 2 began at update 2, although 4 was saved"]


def test_checkpoints_that_are_too_far_apart(tmp_path: Path) -> None:
    lines = whole_run()
    del lines[5]
    for line in lines[5:7]:
        line["when"] += 10.0
    lines[7] = saved(6, 20.0, epoch=2)
    del lines[8:10]
    faults = read(tmp_path, lines).faults(summary())
    assert faults == ["update 6 came 16.0 s after a checkpoint"]


def test_a_learner_that_was_stopped_makes_one_update_before_it_saves(tmp_path: Path) -> None:
    lines = [saved(0, 0.0), update(1, 1.0), update(2, 16.0), saved(2, 16.1)]
    whole = summary(learner_updates=2, frames=20, episodes=2)
    assert read(tmp_path, lines).faults(whole) == []


def test_slots_and_episodes_that_count_twice(tmp_path: Path) -> None:
    again = [["actor", 3, 6, 10, [SLOTS - 1]]]
    lines = whole_run()
    lines[-2] |= {"groups": again, "episodes": [["actor", 0, 3]]}
    assert read(tmp_path, lines).faults(summary()) == [
        f"1 slots were trained on twice, the first of them ('actor', 3, {SLOTS - 1})",
        "1 episodes were counted twice, the first of them ('actor', 0, 3)",
    ]


def test_an_update_that_is_missing(tmp_path: Path) -> None:
    lines = whole_run()
    del lines[2]
    counts = summary(learner_updates=7, frames=70, episodes=7)
    assert read(tmp_path, lines).faults(counts) == ["an update is missing"]


def test_an_older_learner_that_wakes_does_not_count(tmp_path: Path) -> None:
    lines = whole_run()
    lines.insert(10, update(7, 20.5))
    assert read(tmp_path, lines).faults(summary()) == []


def test_what_a_killed_learner_left_of_a_line(tmp_path: Path) -> None:
    record = read(tmp_path, whole_run()[:8])
    with record.path.open("a") as file:
        file.write('\n{"epoch": 1, "upd')
        record.look()
        file.write("".join(f"\n{json.dumps(line)}\n" for line in whole_run()[8:]))
    record.look()
    assert record.faults(summary()) == []


def test_data_is_new_when_the_version_that_acted_is(tmp_path: Path) -> None:
    lines = [update(number, float(number)) for number in (1, 2, 3)]
    lines[2]["groups"] = [["old", 1, 0, 10, [0]], ["new", 1, 2, 10, [0]]]
    record = read(tmp_path, [saved(0, 0.0), *lines])
    assert record.learned_since(1.5)
    assert record.learned_since(1.5, {"new", "somebody"})
    assert not record.learned_since(1.5, {"old"}), "trained now, but played long ago"
    assert not record.learned_since(2.5), "only trained since"
    assert not record.learned_since(0.0, ())
