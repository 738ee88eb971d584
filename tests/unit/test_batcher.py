"""Batches: exact size, mixed, every slot once, entries finished with their last slot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pronk_learner.batcher import Batcher

from pronk.config.experiment import unrolls_needed
from pronk.wire.unroll import Unroll, UnrollHeader


def make_unroll(member: str, sequence: int, slots: int, length: int = 2) -> Unroll:
    row = (length, slots)
    return Unroll(
        header=UnrollHeader("hash", "run", "default", member, sequence),
        obs={"default": np.zeros((length + 1, slots, 1), np.float32)},
        action={"default": np.zeros(row, np.int64)},
        behaviour_log_prob=np.zeros(row, np.float32),
        reward=np.zeros(row, np.float32),
        terminated=np.zeros(row, np.bool_),
        truncated=np.zeros(row, np.bool_),
        valid=np.ones(row, np.bool_),
        task=np.zeros((length + 1, slots), np.int32),
        behaviour_version=np.zeros(row, np.int64),
        core_state={},
        last_action={"default": np.zeros(slots, np.int64)},
        last_reward=np.zeros(slots, np.float32),
        reset=np.zeros(slots, np.bool_),
        slot=np.arange(slots, dtype=np.int32),
    )


@settings(deadline=None)
@given(
    batch=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), max_size=30),
)
def test_every_slot_is_drawn_once_in_batches_of_the_exact_size(
    batch: int, sizes: list[tuple[str, int]]
) -> None:
    batcher = Batcher(batch, clock=lambda: 0.0)
    drawn: list[tuple[str, int, int]] = []
    finished: list[bytes] = []
    for sequence, (member, slots) in enumerate(sizes):
        batcher.add(str(sequence).encode(), make_unroll(member, sequence, slots))
        while (draw := batcher.draw()) is not None:
            assert sum(g.stop - g.start for g in draw.groups) == batch
            members = {m for m, _ in sizes[: sequence + 1]}
            if len(members) > 1 and batch > 1:
                assert len(draw.groups) >= 2
            for group in draw.groups:
                header = group.unroll.header
                drawn += [
                    (header.member, header.sequence, s) for s in range(group.start, group.stop)
                ]
            finished += draw.finished
            assert draw.steps == 2 * batch
    assert len(drawn) == len(set(drawn))
    assert len(drawn) + batcher.slots == sum(slots for _, slots in sizes)
    complete = {
        str(i).encode()
        for i, (member, slots) in enumerate(sizes)
        if all((member, i, s) in drawn for s in range(slots))
    }
    assert set(finished) == complete
    assert len(finished) == len(complete)


def stalls(batch: int, sizes: list[int], room: int, hurry: list[bool]) -> bool:
    """Whether a full buffer of `room` unrolls ever makes no batch at once.

    An unroll counts until its last slot was trained. `hurry`: the learner draws as soon as it can
    instead of when the buffer is full.
    """
    batcher = Batcher(batch, clock=lambda: 0.0)
    held = sequence = 0
    unrolls = [make_unroll("ab"[index % 2], index, size, 1) for index, size in enumerate(sizes)]
    for step in range(20 * room):
        full = held == room
        if (full or (sequence > 1 and hurry[step % len(hurry)])) and (draw := batcher.draw()):
            held -= len(draw.finished)
        elif full:
            return True
        else:
            batcher.add(str(sequence).encode(), unrolls[sequence % len(unrolls)])
            held, sequence = held + 1, sequence + 1
    return False


@settings(deadline=None)
@given(
    batch=st.integers(1, 80),
    slots=st.integers(1, 100),
    uneven=st.lists(st.booleans(), min_size=2, max_size=8),
    spare=st.integers(0, 3),
    hurry=st.lists(st.booleans(), min_size=1, max_size=8),
)
def test_what_the_schema_accepts_never_stalls(
    batch: int, slots: int, uneven: list[bool], spare: int, hurry: list[bool]
) -> None:
    """Unrolls of one size, or of two neighbouring ones, as `pronk.wire.entries` makes them."""
    sizes = [slots + each for each in uneven]
    room = unrolls_needed(batch, min(sizes), max(sizes)) + spare
    assert not stalls(batch, sizes, room, hurry)


@pytest.mark.parametrize(
    ("batch", "slots"), [(64, 65), (64, 64), (64, 8), (64, 1), (40, 3), (41, 5), (6, 4), (1024, 33)]
)
def test_one_unroll_less_stalls(batch: int, slots: int) -> None:
    room = unrolls_needed(batch, slots) - 1
    assert any(stalls(batch, [slots] * 2, room, hurry) for hurry in ([False], [True]))


def test_one_actor_alone_may_fill_a_batch_by_itself() -> None:
    batcher = Batcher(4, clock=lambda: 0.0)
    batcher.add(b"1", make_unroll("a", 1, 4))
    draw = batcher.draw()
    assert draw is not None
    assert draw.finished == (b"1",)


def test_an_actor_that_went_away_stops_holding_back_the_other() -> None:
    now = [0.0]
    batcher = Batcher(4, clock=lambda: now[0])
    batcher.add(b"1", make_unroll("a", 1, 2))
    batcher.add(b"2", make_unroll("b", 1, 2))
    assert batcher.draw() is not None
    batcher.add(b"3", make_unroll("a", 2, 4))
    assert batcher.draw() is None  # b may still send
    now[0] = 1.5
    assert batcher.draw() is not None


def test_invalid_rows_are_not_steps() -> None:
    unroll = make_unroll("a", 1, 3)
    unroll.valid[1, 2] = False
    batcher = Batcher(3)
    batcher.add(b"1", unroll)
    draw = batcher.draw()
    assert draw is not None
    assert draw.steps == 5
