"""Checkpoints: whole or not there."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from faults import ruin
from pronk_learner import checkpoint
from pronk_learner.checkpoint import Checkpoint, CorruptError, Counters

from pronk import files
from pronk.errors import Fenced, Misconfigured
from pronk.telemetry import metrics


def make(updates: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(
        epoch=epoch,
        weights={"a.weight": torch.full((2, 3), float(updates))},
        optimizer={"0/square": torch.ones(2, 3), "0/step": torch.tensor(5.0)},
        counters=Counters(steps=7, updates=updates, returns=[1.5, -2.0], lag_sum=0.25),
        experiment_hash="abc",
        experiment="name: tiny\n",
        rng=torch.get_rng_state().tolist(),
        trained={"train-1": [(7, 8), (8, 3)]},
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = make(3)
    checkpoint.save(tmp_path, saved, keep=2)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert loaded.counters == saved.counters
    assert loaded.rng == saved.rng
    assert loaded.trained == saved.trained
    assert (loaded.epoch, loaded.experiment_hash, loaded.experiment) == (1, "abc", "name: tiny\n")
    torch.testing.assert_close(loaded.weights, saved.weights, rtol=0, atol=0)
    torch.testing.assert_close(loaded.optimizer, saved.optimizer, rtol=0, atol=0)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for updates in (1, 2, 10, 11, 11):  # the same update again: counters may have gone on
        checkpoint.save(tmp_path, make(updates), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001-000004", "000001-000005"]


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "optimizer.safetensors", "config.yaml", "state.json"]
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_one_is_told_counted_and_passed_over(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, make(1), keep=3)
    ruin(checkpoint.save(tmp_path, make(2), keep=3) / name, damage)
    before = metrics.CHECKPOINTS_DAMAGED._value.get()
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert loaded.counters.updates == 1
    assert metrics.CHECKPOINTS_DAMAGED._value.get() == before + 1
    output = capsys.readouterr()
    assert (output.out + output.err).count("checkpoint_damaged") == 1


def test_no_bit_of_the_counters_can_flip_unseen(tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, make(1), keep=3) / "state.json"
    text = file.read_text()
    assert '"steps": 7' in text
    file.write_text(text.replace('"steps": 7', '"steps": 6'))
    with pytest.raises(CorruptError, match=r"state\.json does not have its hash"):
        checkpoint.load(file.parent)


# Epochs


def test_a_higher_epoch_is_newer_whatever_its_updates(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(100, epoch=1), keep=3)
    checkpoint.save(tmp_path, make(50, epoch=2), keep=3)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert (loaded.epoch, loaded.counters.updates) == (2, 50)


def test_an_older_epoch_writes_and_removes_nothing(tmp_path: Path) -> None:
    for updates in (1, 2, 3):
        checkpoint.save(tmp_path, make(updates, epoch=2), keep=3)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Fenced, match=r"epoch 1 ended: .* holds a checkpoint of epoch 2"):
        checkpoint.save(tmp_path, make(9, epoch=1), keep=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_older_epoch_that_slept_while_it_wrote_is_not_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the folder and its rename another learner took over and saved."""
    write = files.write

    def sleep_over(path: Path, data: bytes) -> None:
        monkeypatch.setattr(files, "write", write)
        checkpoint.save(tmp_path, make(5, epoch=2), keep=1)
        write(path, data)

    checkpoint.save(tmp_path, make(8, epoch=1), keep=1)
    monkeypatch.setattr(files, "write", sleep_over)
    with suppress(OSError):  # what it was writing has been tidied up
        checkpoint.save(tmp_path, make(9, epoch=1), keep=1)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None
    assert (loaded.epoch, loaded.counters.updates) == (2, 5)


def test_a_newer_epoch_clears_up_after_an_older_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(8, epoch=1), keep=2)
    (tmp_path / ".000001-000002").mkdir()  # killed while it wrote
    (tmp_path / ".000003-000001").mkdir()  # somebody newer is writing
    for updates in (8, 9):
        checkpoint.save(tmp_path, make(updates, epoch=2), keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".000003-000001", "000002-000001", "000002-000002"]


def test_a_half_written_one_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, make(1), keep=3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, make(2), keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["000001-000001"]


def test_none_that_can_be_read_is_told(tmp_path: Path) -> None:
    (checkpoint.save(tmp_path, make(1), keep=3) / "state.json").write_text("{}")
    with pytest.raises(Misconfigured, match="no checkpoint in"):
        checkpoint.newest(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "missing") is None
