"""What a run writes into its directory under every fault at every call: the old, or the new."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Operation, at_every_call, needs_ptrace
from param_servers import fake_bundle, tiny_experiment
from pronk_learner import checkpoint, curve, report
from pronk_learner.checkpoint import Checkpoint, Counters

from pronk import config
from pronk.cli.rundir import RunDirectory
from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle, remove
from pronk.policy.folders import released

pytestmark = needs_ptrace

FIRST, SECOND = tiny_experiment(), tiny_experiment().model_copy(update={"name": "other"})
ROWS = [{"updates": number, "frames": number * 10} for number in range(500)]


def make(updates: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(
        epoch=epoch,
        weights={"a.weight": torch.full((50, 30), float(updates))},
        optimizer={"0/square": torch.full((50, 30), float(updates))},
        counters=Counters(updates=updates, frames=updates * 10),
        experiment_hash="abc",
        experiment="name: tiny\n",
        rng=[1, 2, 3],
        trained={},
    )


def save_three(folder: Path) -> None:
    for updates in (1, 2, 3):
        checkpoint.save(folder, make(updates), keep=2)


def save_a_fourth(folder: Path) -> None:
    checkpoint.save(folder, make(4), keep=2)


def save_the_first(folder: Path) -> None:
    checkpoint.save(folder / "checkpoints", make(1), keep=2)


def take_over(folder: Path) -> None:
    checkpoint.save(folder, make(2, epoch=2), keep=2)


def saved(folder: Path) -> Any:
    for inner in (folder, folder / "checkpoints"):
        places = checkpoint.folders(inner)
        for place in places:
            checkpoint.load(place)  # what can be seen is whole, the old ones too
        if places:
            newest = checkpoint.newest(inner)
            assert newest is not None
            assert newest.weights["a.weight"].unique().tolist() == [newest.counters.updates]
            assert len(places) <= 3, "those to be kept, and one that was not yet removed"
            return newest.epoch, newest.counters
    return None


def summarise(folder: Path, steps: int = 1) -> None:
    report.write_json(folder / "summary.json", {"steps": steps, "text": "x" * 5000})


def summarise_again(folder: Path) -> None:
    summarise(folder, 2)


def summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def configure(folder: Path) -> None:
    RunDirectory(folder).write_config(FIRST)


def configure_again(folder: Path) -> None:
    RunDirectory(folder).write_config(SECOND)


def configured(folder: Path) -> Any:
    directory = RunDirectory(folder)
    if not directory.check(FIRST):
        return None  # as if nobody had been here
    return config.load(directory.config)


def leave_policy(folder: Path) -> None:
    fake_bundle(1, weights=b"weights" * 1000).save(folder / "policies/default-1")


def leave_another(folder: Path) -> None:
    fake_bundle(2, weights=b"others" * 1000).save(folder / "policies/default-2")


def remove_policy(folder: Path) -> None:
    for path in (folder / "policies").glob("default-1"):
        remove(path)


def policies(folder: Path) -> Any:
    return [Bundle.load(path) for path in released(folder)]


def journal(folder: Path) -> None:
    (folder / report.METRICS).write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def forget(folder: Path) -> None:
    report.forget(folder / report.METRICS, 250)


def rows(folder: Path) -> Any:
    return report.read(folder / report.METRICS)


def draw(folder: Path, content: bytes = b"first" * 1000) -> None:
    with pytest.MonkeyPatch.context() as patch:  # drawing takes a second
        patch.setattr(curve, "_picture", lambda *_: content)
        curve.draw([{"return_mean": 1.0}], folder / "curve.png", title="tiny", target=None)


def draw_again(folder: Path) -> None:
    draw(folder, b"second" * 1000)


def drawn(folder: Path) -> bytes:
    return (folder / "curve.png").read_bytes()


def nothing(_folder: Path) -> None:
    pass


Step = Callable[[Path], Any]
OPERATIONS: dict[str, tuple[Step, Step, Step]] = {
    "first checkpoint": (nothing, save_the_first, saved),
    "checkpoint and retention": (save_three, save_a_fourth, saved),
    "checkpoint of a new epoch": (save_three, take_over, saved),
    "summary.json": (summarise, summarise_again, summary),
    "config.yaml": (nothing, configure, configured),
    "config.yaml of a resumed run": (configure, configure_again, configured),
    "policy": (leave_policy, leave_another, policies),
    "old policy": (leave_policy, remove_policy, policies),
    "curve.png": (draw, draw_again, drawn),
    "metrics.jsonl": (journal, forget, rows),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_old_or_the_new_one(tmp_path: Path, name: str) -> None:
    at_every_call(Operation(*OPERATIONS[name], (Misconfigured,)), tmp_path / "at")
