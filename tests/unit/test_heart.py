"""Which threads are late."""

import time

import pytest

from pronk.transport.heart import Heart


def test_who_is_at_work_must_come_by() -> None:
    heart = Heart(0.1)
    heart.beat("loop")
    with heart.at_work("sender") as beat:
        assert heart.late() == []
        time.sleep(0.2)
        assert heart.late() == ["loop", "sender"]
        heart.beat("loop")
        assert heart.late() == ["sender"]
        beat()
        assert heart.late() == []


def test_nothing_is_expected_of_who_has_ended() -> None:
    heart = Heart(0.0)

    def fail() -> None:
        with heart.at_work("sender"):
            time.sleep(0.01)
            assert heart.late() == ["sender"]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert heart.late() == []
