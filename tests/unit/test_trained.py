"""What was trained on is remembered for a while, in bounds, and over a checkpoint."""

import json

from pronk_learner.trained import _MEMBERS, _UNROLLS, Trained

from pronk.wire.unroll import UnrollHeader


def header(member: str, sequence: int) -> UnrollHeader:
    return UnrollHeader("hash", "run", "default", member, sequence)


def test_slots_of_an_unroll() -> None:
    trained = Trained()
    trained.add(header("a", 1), 3)
    trained.add(header("a", 1), 8)
    trained.add(header("a", 2), 5)
    restored = Trained(json.loads(json.dumps(trained.saved())))
    for each in (trained, restored):
        slots = [each.slots(header(*of)) for of in (("a", 1), ("a", 2), ("a", 3), ("b", 1))]
        assert slots == [8, 5, 0, 0]


def test_the_oldest_are_forgotten() -> None:
    trained = Trained()
    for sequence in range(1, _UNROLLS + 3):
        trained.add(header("a", sequence), 1)
    assert [trained.slots(header("a", sequence)) for sequence in (2, 3)] == [0, 1]
    for number in range(_MEMBERS):
        trained.add(header("busy", number), 1)
        trained.add(header(f"member-{number}", 1), 1)
    saved = trained.saved()
    assert len(saved) == _MEMBERS
    assert "a" not in saved
    assert "busy" in saved
