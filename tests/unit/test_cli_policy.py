"""`pronk policy`: what lies in a run directory, shown and exported, its hashes checked."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pronk.cli.main import main
from pronk.cli.releases import Folders, pick
from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle
from pronk.policy.manifest import Manifest
from pronk.policy.signature import Port
from pronk.wire.digest import digest
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec


def bundle(number: int, policy: str = "default") -> Bundle:
    weights = f"weights {number}".encode()
    manifest = Manifest(
        policy=policy, epoch=2, number=number, frames=1000 * number, engine="onnx",
        environment=EnvironmentSpec(
            "CartPole-v1", (ArraySpec("default", "float32", (4,)),), (DiscreteSpec("a", (2,)),)
        ),
        network=NetworkConfig(kwargs={"hidden": [64]}), core={},
        inputs=(Port("obs.default", "float32", (4,)),), outputs=(Port("value", "float32", ()),),
        graph=digest(b"graph"), weights=digest(weights), probe=digest(b"probe"), fingerprint={},
    )  # fmt: skip
    return Bundle(manifest, b"graph", weights, b"probe")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    for number in (90, 100):
        bundle(number).save(tmp_path / "run" / "policies" / f"default-{number}")
    return tmp_path / "run"


def pronk(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_releases_are_listed_by_number(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pronk("policy", "list", run_dir) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["default-90", "default-100"]


def test_what_a_policy_says_of_itself_is_shown_and_not_obeyed(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = bundle(101)
    environment = replace(own.manifest.environment, environment="[/red]\x1b]0;mine")
    hostile = replace(own, manifest=own.manifest.model_copy(update={"environment": environment}))
    hostile.save(run_dir / "policies" / "default-101")
    for verb in ("list", "show"):
        assert pronk("policy", verb, run_dir) == 0
        assert "[/red]]0;mine" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["", "policies/default-100"])
def test_the_newest_is_shown(run_dir: Path, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pronk("policy", "show", run_dir / named) == 0
    shown = capsys.readouterr().out
    for fact in ("100 (epoch 2)", "100,000", "mlp hidden=[64]", "obs.default float32[N, 4]",
                 digest(b"weights 100"), digest(b"graph"), digest(b"probe")):  # fmt: skip
        assert fact in shown


def test_an_older_one_is_exported_whole(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pronk("policy", "export", run_dir, "--release", "default-90", "--out", out) == 0
    assert Bundle.load(out) == bundle(90)


def test_a_damaged_policy_is_not_exported(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "policies" / "default-100" / "weights.safetensors").write_bytes(b"rotten")
    assert pronk("policy", "export", run_dir, "--out", tmp_path / "out") == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").touch()
    assert pronk("policy", "export", run_dir, "--out", tmp_path) == 2
    assert "not an empty directory" in capsys.readouterr().err


def test_one_must_choose_among_several_policies(run_dir: Path) -> None:
    bundle(7, "red").save(run_dir / "red" / "policies" / "red-7")
    with pytest.raises(Misconfigured, match=r"default, red.*--release red-7"):
        pick(Folders(run_dir), None)
    assert pick(Folders(run_dir), "red-7").manifest.number == 7
    with pytest.raises(Misconfigured, match=r"choose one of default-90, default-100, red-7"):
        pick(Folders(run_dir), "red-8")


@pytest.mark.parametrize(
    "part",
    [
        "config.yaml",
        "server/registry.sqlite3",
        "checkpoints",
        "red/checkpoints",
        "policies",
        "summary.json",
    ],
)
def test_a_run_without_releases_says_so(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / part).mkdir(parents=True)
    with pytest.raises(Misconfigured, match="no released policies yet"):
        pick(Folders(tmp_path), None)
    assert pronk("policy", "list", tmp_path) == 0
    assert capsys.readouterr().out == "no released policies yet\n"


def test_looking_at_policies_needs_no_torch(run_dir: Path) -> None:
    code = (
        "import sys\nfrom pronk.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "policy", "list", str(run_dir)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
