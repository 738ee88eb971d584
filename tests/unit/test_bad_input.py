"""The first wrong thing a person types: one line that says what to do, status 2, no traceback."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest

from pronk.cli.main import main
from pronk.cli.rundir import RunDirectory
from pronk.config import parse

LAUGHS = (
    "{a0: &a0 [1, 1], "
    + ", ".join(f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 6))
    + "}"
)
EXPERIMENT = "name: x\nenv: {id: CartPole-v1}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an experiment, `x.yaml`, and nothing else in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("pronk.cli.session.Supervisor", starting_nothing)
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    return tmp_path


def starting_nothing(*_: object, **__: object) -> Never:
    raise AssertionError("nothing may be started")


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == status
    assert "Traceback" not in printed.out + printed.err
    assert printed.err.startswith("pronk: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("pronk: ").strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upp", "x.yaml"], "No such command 'upp'. Did you mean 'up'?; see `pronk --help`"),
        (["up"], "Missing argument 'CONFIG'; see `pronk up --help`"),
        (["up", "x.yaml", "--actors", "many"], "Invalid value for '--actors': "),
        (["up", "x.yaml", "--actors", "0"], "Invalid value for '--actors': "),
        (["up", "nowhere.yaml"], "cannot read experiment nowhere.yaml: No such file"),
        (["up", "."], "cannot read experiment .: Is a directory"),
        (["up", "x.yaml", "--set", "algorithm.batchsize=8"], "did you mean algorithm.batch_size?"),
        (["up", "x.yaml", "--set", "actor.slots=several"], "actor.slots"),
        (["up", "x.yaml", "--set", "algorithm.discount=2"], "algorithm.discount"),
        (["up", "x.yaml", "--set", "algorithm.batch_size=99999"], "buffer.max_entries"),
        (["up", "x.yaml", "--set", "nonsense"], "--set nonsense"),
        (["up", "x.yaml", "--redis-url", "nonsense"], "--redis-url is malformed"),
        (["up", "x.yaml", "--redis-url", "redis://me:word@127.0.0.1:1"], "give --redis-url env"),
        (["up", "x.yaml", "--redis-url", "redis://h:1?password=word"], "give --redis-url env"),
        (["up", "x.yaml", "--run-dir", "x.yaml"], "cannot use x.yaml"),
        (["up", "x.yaml", "--set", "seed=!!bool foo"], "'foo' is no bool"),
        (["up", "x.yaml", "--set", "seed=!!timestamp foo"], "'foo' is no timestamp"),
        (["up", "x.yaml", "--set", "seed=0x" + 5000 * "f"], "at most 128 bits"),
        (["up", "x.yaml", "--set", "seed=" + 5000 * "7"], "is no int"),
        (["up", "x.yaml", "--set", "env.kwargs=&a {b: *a}"], "contains itself"),
        (["up", "x.yaml", "--set", "env.kwargs=" + 400 * "{a: " + 400 * "}"], "more than 32 deep"),
        (["up", "x.yaml", "--set", "env.kwargs" + 400 * ".a" + "=1"], "more than 32 deep"),
        (["up", "x.yaml", "--set", "env.kwargs=" + LAUGHS], "holds more than 10000 values"),
        (
            ["up", "x.yaml", "--set", "policies={a: {share: 1e308}, b: {share: 1e-308}}"],
            "policies.a.share",
        ),
        (["up", "x.yaml", "--set", "buffer.max_bytes=999999999999999999999"], "buffer.max_bytes"),
        (["up", "x.yaml", "--set", "env.step_seconds=1e-300"], "env.step_seconds"),
        (["up", "x.yaml", "--set", "network.id=mpl"], "unknown network 'mpl'; did you mean mlp?"),
        (["up", "x.yaml", "--set", "network.id=shallow"], "shallow needs an image"),
        (["up", "x.yaml", "--set", "network.kwargs.hidden=[-1]"], "network.kwargs: mlp: hidden.0:"),
        (["up", "x.yaml", "--set", "network.kwargs.hiden=[8]"], "did you mean hidden?"),
        (
            ["up", "x.yaml", "--set", "policies={a: {}, b: {network: {id: deep}}}"],
            "deep needs an image",
        ),
        (["up", "x.yaml", "--set", "env.id=':'"], "env.id: ':' names no module"),
        (["up", "x.yaml", "--set", "env.id=..:x"], "env.id: '..:x' names no module"),
        (["up", "x.yaml", "--set", "network.id=':'"], "network.id: ':' names no module"),
        (["doctor", 300 * "x"], "cannot use xxx"),
        (["policy", "list", 300 * "x"], "cannot use xxx"),
        (["evaluate", 300 * "x"], "cannot use xxx"),
        (["policy", "show", "nowhere"], "nowhere is no directory"),
        (["policy", "list", "."], ". is no run directory and no policy folder"),
        (["policy", "show", "."], ". is no run directory and no policy folder"),
        (["policy", "export", "."], "Missing option '--out'"),
        (["policy", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["bench", "cluster", "x.yaml", "--json", "no/where"], "--json no/where"),
        (["status", "--jason"], "--jason"),
        (["learner"], "Missing option '--config'"),
        (["actor", "--config", "x.yaml", "--role", "serve"], "not one of 'train', 'evaluate'"),
        (["actor", "--config", "nowhere.yaml"], "cannot read experiment nowhere.yaml"),
        (["param-server", "--config", "nowhere.yaml"], "cannot read experiment nowhere.yaml"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in one_line(arguments, capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
        (b"a: [1", "x.yaml"),
        (b"- 1\n- 2\n", "expected an experiment"),
        (b"", "expected an experiment"),
    ],
)
def test_a_bad_file(
    folder: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "x.yaml").write_bytes(content)
    assert said in one_line(["up", "x.yaml"], capsys)


@pytest.mark.parametrize("address", [b"garbage\n", b"\n", b"", b"127.0.0.1:99999\n", b"\xff"])
def test_an_address_that_is_none_is_of_no_cluster(
    folder: Path, address: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run" / "server").mkdir(parents=True)
    (folder / "run" / "server" / "address").write_bytes(address)
    line = one_line(["status", "run"], capsys, status=1)
    assert line == "no cluster runs in run: `pronk up` starts one"


def test_a_working_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the working directory is gone" in one_line(["doctor"], capsys)


@pytest.mark.usefixtures("folder")
def test_an_unknown_environment_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(["up", "x.yaml", "--set", "env.id=CartPol-v1"], capsys)
    assert line == "env.id: unknown environment 'CartPol-v1'; did you mean CartPole-v1?"


def test_a_missing_environment_package_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hiding = folder / "hiding"
    hiding.mkdir()
    code = "raise ModuleNotFoundError(\"No module named 'ale_py'\", name='ale_py')"
    (hiding / "ale_py.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(hiding))
    line = one_line(["up", "x.yaml", "--set", "env.id=ALE/Pong-v5"], capsys)
    assert line == "env.id: ALE/Pong-v5 needs the package ale_py: pip install 'pronk[atari]'"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def make():\n    raise RuntimeError('no display')\n", "RuntimeError: no display"),
        ("import os\ndef make():\n    os.abort()\n", "env.id: mine:make was killed by SIGABRT"),
        ("import no_such_package\n", "cannot import mine of 'mine:make'"),
    ],
)
def test_an_environment_of_one_s_own_that_does_not_work(
    folder: Path, code: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(code)
    assert said in one_line(["up", "x.yaml", "--set", "env.id=mine:make"], capsys)


def test_a_run_directory_of_another_experiment_names_the_keys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(folder / "run")
    with directory.locked():
        directory.write_config(parse(EXPERIMENT))
    changed = ["--set", "seed=7", "--set", "env.id=Acrobot-v1", "--set", "stop.frames=5"]
    line = one_line(["up", "x.yaml", "--run-dir", "run", *changed], capsys)
    assert "run holds another experiment" in line
    assert "env.id ('CartPole-v1' → 'Acrobot-v1')" in line
    assert "seed (0 → 7)" in line
    assert "stop.frames" not in line


def test_a_directory_of_something_else_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("")
    assert "not a run directory" in one_line(["up", "x.yaml", "--run-dir", "run"], capsys)
    assert [path.name for path in (folder / "run").iterdir()] == ["thesis.tex"]


def test_a_run_directory_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(folder / "run")
    with directory.locked():
        line = one_line(["up", "x.yaml", "--run-dir", "run"], capsys)
    assert "in use by another `pronk up`" in line


@pytest.mark.usefixtures("folder")
def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = one_line(["up", "x.yaml", "--set", "learner.device=cuda"], capsys)
    assert line.startswith("learner.device: cuda is not to be had, torch ")
    assert line.endswith("; set it to auto or cpu")


@pytest.mark.parametrize(
    "override",
    ["env.id=CartPol-v1", "network.id=mpl", "network.id=shallow", "network.kwargs.hidden=[-1]"],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_run_leaves_no_run_directory(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one_line(["up", "x.yaml", "--set", override], capsys)
    one_line(["up", "x.yaml", "--set", override, "--run-dir", "run"], capsys)
    assert [path.name for path in Path().iterdir()] == ["x.yaml"]


@pytest.mark.usefixtures("folder")
def test_a_package_that_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "pronk.cli.bench", raising=False)
    monkeypatch.delitem(sys.modules, "pronk.cli.measure", raising=False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    line = one_line(["bench", "cluster"], capsys)
    assert line == (
        "`pronk bench` needs the package psutil, which is not installed: pip install 'pronk[local]'"
    )


def test_a_server_that_does_not_answer_is_told_within_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRONK_SERVER", "127.0.0.1:1")
    started = time.monotonic()
    for arguments in (["status"], ["policy", "list"]):
        line = one_line(arguments, capsys, status=1)
        assert line.startswith("no parameter server answers at 127.0.0.1:1")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PRONK_SERVER", "nonsense"), ("PRONK_TLS_CA", "/no/such/file"), ("PRONK_TOKEN", "two words")],
)
def test_bad_addresses_and_credentials(
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert variable in one_line(["status"], capsys)


@pytest.mark.usefixtures("folder")
def test_the_url_of_the_environment_is_taken_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRONK_REDIS_URL", "nonsense-word")
    line = one_line(["up", "x.yaml", "--redis-url", "env"], capsys)
    assert line.startswith("--redis-url is malformed")
    assert "word@" not in line.replace("PASSWORD", "")


def test_a_built_in_network_is_checked_without_torch(folder: Path) -> None:
    """It takes seconds to import, and every start would pay them."""
    code = (
        "import sys; from pathlib import Path; from pronk.cli import preflight, up\n"
        "preflight.main(Path('x.yaml')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, timeout=60, check=True)


def run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "pronk.cli.main", *arguments],
        capture_output=True, text=True, cwd=folder, timeout=60, check=False,
    )  # fmt: skip


def test_the_whole_program_says_one_line_too(folder: Path) -> None:
    done = run(["up", "nowhere.yaml"], folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "pronk: cannot read experiment nowhere.yaml: No such file or directory\n"


def test_ctrl_c_before_anything_started_leaves_nothing(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ndef make():\n    time.sleep(60)\n")
    command = ["up", "x.yaml", "--set", "env.id=slow:make", "--headless"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "pronk.cli.main", *command],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until(lambda: bool(children(process.pid)))
        below = children(process.pid)
        process.send_signal(2)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "pronk: stopped before anything was started\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert sorted(path.name for path in folder.glob("*")) == ["slow.py", "x.yaml"]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
