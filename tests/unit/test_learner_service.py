"""How learners name themselves in their buffer's group."""

import pytest
from pronk_learner.service import consumer_name, epoch_of


def test_a_name_tells_its_epoch() -> None:
    assert epoch_of(consumer_name(12, rank=3)) == 12


@pytest.mark.parametrize("name", ["", "somebody", "epoch-x-rank-0", "epoch-1", "my-epoch-1-rank-0"])
def test_somebody_else_s_name_tells_none(name: str) -> None:
    assert epoch_of(name) is None
