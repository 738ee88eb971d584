"""Checkpoints: whole or not there."""

from pathlib import Path

import pytest
import torch
from pronk_learner import checkpoint
from pronk_learner.checkpoint import Checkpoint, Counters

from pronk.errors import Misconfigured


def make(updates: int) -> Checkpoint:
    return Checkpoint(
        weights={"a.weight": torch.full((2, 3), float(updates))},
        optimizer={"0/square": torch.ones(2, 3), "0/step": torch.tensor(5.0)},
        counters=Counters(steps=7, updates=updates, returns=[1.5, -2.0], lag_sum=0.25),
        experiment_hash="abc",
        rng=torch.get_rng_state().tolist(),
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = make(3)
    checkpoint.save(tmp_path, saved, keep=2)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert loaded.counters == saved.counters
    assert loaded.rng == saved.rng
    assert loaded.experiment_hash == "abc"
    torch.testing.assert_close(loaded.weights, saved.weights, rtol=0, atol=0)
    torch.testing.assert_close(loaded.optimizer, saved.optimizer, rtol=0, atol=0)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for updates in (1, 2, 10, 11):
        checkpoint.save(tmp_path, make(updates), keep=2)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [10, 11]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.save(tmp_path, make(1), keep=3)
    file = checkpoint.save(tmp_path, make(2), keep=3) / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert loaded.counters.updates == 1


def test_a_half_written_one_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, make(1), keep=3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_durably", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, make(2), keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


def test_none_that_can_be_read_is_told(tmp_path: Path) -> None:
    (checkpoint.save(tmp_path, make(1), keep=3) / "state.json").write_text("{}")
    with pytest.raises(Misconfigured, match="no checkpoint in"):
        checkpoint.newest(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "missing") is None
