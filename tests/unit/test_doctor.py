"""`pronk doctor RUN_DIR`: what is wrong with a run's files, in one line each."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import ruin
from param_servers import fake_bundle, tiny_experiment
from pronk_learner import checkpoint
from pronk_learner.checkpoint import Checkpoint, Counters
from pronk_param_server import report_files
from pronk_param_server.blob_files import persist
from pronk_param_server.records import Change
from pronk_param_server.store import Store

from pronk.cli.main import main
from pronk.cli.rundir import RunDirectory
from pronk.transport.bundles import to_message
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import reports_pb2

BUNDLE = fake_bundle(1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory as a finished run leaves it."""
    folder = tmp_path / "run"
    RunDirectory(folder).logs.mkdir(parents=True)
    RunDirectory(folder).write_config(tiny_experiment())
    for updates in (1, 2):
        saved = Checkpoint(
            epoch=1,
            weights={"a": torch.ones(3)},
            optimizer={},
            counters=Counters(updates=updates, frames=updates * 10),
            experiment_hash="abc",
            experiment="name: tiny\n",
            rng=[1],
            trained={},
        )
        checkpoint.save(folder / "checkpoints", saved, keep=3)
    store = Store(folder / "server")
    store.load("tiny", "abc")
    persist(folder / "server/blobs", BUNDLE.blobs)
    release = pb.Release(id="default-1", manifest=to_message(BUNDLE.manifest))
    store.commit(Change("release_cut", {}, release=release))
    store.close()
    report_files.write(folder / "server/reports/default", reports_pb2.Report(policy="default"))
    BUNDLE.save(folder / "policies/default-1")
    return folder


def diagnosis(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int | str | None, dict[str, dict[str, str]]]:
    """The exit status, and what is not ok."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(run_dir), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert all("\n" not in line for finding in found.values() for line in finding.values())
    return end.value.code, {n: f for n, f in found.items() if f["verdict"] == "missing"}


def test_a_whole_run_is_whole(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert diagnosis(run_dir, capsys) == (0, {})
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert before.items() <= after.items(), "it only looks"


def blob(run_dir: Path) -> Path:
    return next(p for p in run_dir.glob("server/blobs/*/*") if p.name == BUNDLE.manifest.weights)


WRONG: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "config.yaml": (lambda run: run / "config.yaml", "remove", "config.yaml"),
    "half a config": (lambda run: run / "config.yaml", "empty", "config.yaml"),
    "no ledger": (lambda run: run / "server/registry.sqlite3", "remove", "ledger"),
    "half a ledger": (lambda run: run / "server/registry.sqlite3", "truncate", "ledger"),
    "no blob": (blob, "remove", "default-1"),
    "another blob": (blob, "flip", "default-1"),
    "another report": (
        lambda run: run / "server/reports/default",
        "flip",
        "server/reports/default",
    ),
    "a bad checkpoint": (
        lambda run: run / "checkpoints/000001-000002/weights.safetensors",
        "flip",
        "checkpoints/000001-000002",
    ),
    "no counters": (
        lambda run: run / "checkpoints/000001-000001/state.json",
        "truncate",
        "checkpoints/000001-000001",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(
    run_dir: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, damage, where = WRONG[name]
    ruin(path(run_dir), damage)
    status, wrong = diagnosis(run_dir, capsys)
    assert status == 1
    assert list(wrong) == [where]
    assert wrong[where]["advice"]


def test_what_cannot_be_looked_at_here_is_said(run_dir: Path) -> None:
    """As in the parameter server's image, which holds no torch."""
    script = "import sys; sys.modules['torch'] = None; from pronk.cli.main import main; main()"
    words = [sys.executable, "-c", script, "doctor", str(run_dir), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ledger"]["verdict"] == "ok"
    assert found["files of pronk_learner"]["verdict"] == "optional"
    assert found["files of pronk_learner"]["found"] == "no torch here"


@pytest.mark.parametrize("place", ["", "server", "checkpoints"])
def test_a_run_that_just_began_lacks_nothing(
    tmp_path: Path, run_dir: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    (begun / place).mkdir(parents=True)
    shutil.copy(run_dir / "config.yaml", begun)
    assert diagnosis(begun, capsys) == (0, {})


@pytest.mark.parametrize("lacking", ["server", "checkpoints"])
def test_files_of_one_service_alone_are_whole(
    run_dir: Path, lacking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container's volume, where no `pronk up` was."""
    shutil.rmtree(run_dir / "logs")
    shutil.rmtree(run_dir / lacking)
    (run_dir / "config.yaml").unlink()
    assert diagnosis(run_dir, capsys) == (0, {})


def test_no_checkpoint_that_can_be_read(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run_dir.glob("checkpoints/*/state.json"):
        ruin(file, "empty")
    status, wrong = diagnosis(run_dir, capsys)
    assert status == 1
    assert wrong["checkpoints"]["found"] == "none can be read"


def test_a_damaged_policy_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ruin(run_dir / "policies/default-1/weights.safetensors", "flip")
    status, wrong = diagnosis(run_dir, capsys)
    assert (status, list(wrong)) == (1, ["policies/default-1"])


def test_no_such_directory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(tmp_path / "nowhere")])
    assert end.value.code == 2
    assert "no run directory" in capsys.readouterr().err


def test_names_of_files_are_shown_and_not_obeyed(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir.parent / "[").mkdir()
    moved = run_dir.rename(run_dir.parent / "[" / "red]")
    ruin(moved / "server/registry.sqlite3", "truncate")
    with pytest.raises(SystemExit):
        main(["doctor", str(moved)])
    assert "[/red] is not whole: see ledger.\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a b"])
def test_a_run_may_be_called_anything(
    run_dir: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run_dir.rename(run_dir.with_name(name))
    assert diagnosis(moved, capsys) == (0, {})
    assert [path.name for path in moved.parent.iterdir()] == [name]


def test_for_a_person_it_ends_with_a_verdict(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", str(run_dir)])
    assert capsys.readouterr().out.endswith("run is whole.\n")
