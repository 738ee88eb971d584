"""However and whenever `pronk up` ends: no process, port, file, secret or shared memory is left."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import pytest
from test_up import CONFIG, PRONK, is_listened_to, last_lines, listening, run, until

from pronk.cli.examination import examine
from pronk.cli.rundir import RunDirectory

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="what it promises and looks at is Linux's"),
]

ENVIRONMENT = """
import os, time
from gymnasium.envs.classic_control import CartPoleEnv

def held(where):
    place = os.path.join(os.environ["HOLDS"], where)
    if os.path.exists(place):
        open(place + "-reached", "w").close()
        time.sleep(3600)

class Held(CartPoleEnv):
    def __init__(self):
        super().__init__()
        held("actor" if "PRONK_SERVER" in os.environ else "preflight")

    def step(self, action):
        held("step")
        return super().step(action)
"""
"""CartPole that does not come back once there is a file."""

SMALL = {
    "env.id": "held:Held",
    "network.kwargs": "{hidden: [8]}",
    "algorithm.unroll_length": "8",
    "algorithm.batch_size": "16",
    "actor.slots": "8",
    "buffer.max_entries": "8",
    "stop.return_mean": "null",
    "stop.frames": "null",
}
# As a shell does it: a session of its own, whose terminal this is.
ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
SECOND_THOUGHT_SECONDS = 0.6
PATIENCE = 200.0
"""Seconds, on a machine that has much else to do."""


class Up:
    """A `pronk up` on a terminal of its own, and all that could be left of it."""

    def __init__(self, folder: Path, run_dir: Path, *more: str) -> None:
        self.run_dir, self.folder = run_dir, folder
        self.temporary, self.holds = folder / "temporary", folder / "holds"
        for path in (self.temporary, self.holds):
            path.mkdir()
        (folder / "held.py").write_text(ENVIRONMENT)
        self.said = ""
        self._mark = uuid.uuid4().hex
        self.ports: set[int] = set()
        paths = (str(folder), os.environ.get("PYTHONPATH"))
        self.environment = {
            "MARK": self._mark,
            "HOLDS": str(self.holds),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": ":".join(path for path in paths if path),
            "TERM": "xterm",
            "COLUMNS": "200",
        }
        self._seen: set[psutil.Process] = set()
        self._shared = shared_memory()
        small = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
        self._arguments = [*PRONK, "up", CONFIG, "--run-dir", str(run_dir), *small, *more]

    def __enter__(self) -> Self:
        self._terminal, self._inside = pty.openpty()
        self._attributes = termios.tcgetattr(self._inside)
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *self._arguments],
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            start_new_session=True,
            env=os.environ | self.environment,
        )
        self._open = threading.Event()
        self._open.set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self._open.is_set():
            self.close_terminal()
        os.close(self._inside)
        for process in self.running():  # of a test that went wrong
            with suppress(psutil.Error):
                process.kill()

    def _read(self) -> None:
        while self._open.is_set():
            if select.select([self._terminal], [], [], 0.02)[0]:
                with suppress(OSError):
                    self.said += os.read(self._terminal, 1 << 16).decode(errors="replace")

    def type(self, what: bytes) -> None:
        os.write(self._terminal, what)

    def close_terminal(self) -> None:
        """As a window that is closed: whoever is on this side hangs up."""
        self._open.clear()
        self._reader.join()
        os.close(self._terminal)

    def shows(self, phase: str) -> bool:
        assert self.process.poll() is None, self.told()
        return f"  {phase}" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.said)

    def told(self) -> str:
        return f"{self.process.returncode}: {self.said}\n{last_lines(self.run_dir)}"

    def look(self) -> None:
        """Remember everything that runs now."""
        with suppress(psutil.Error):
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        self._seen |= set(self._marked())
        self.ports = listening(self.running())

    def names(self) -> str:
        found = []
        for process in self.running():
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return "\n".join(found)

    def running(self) -> list[psutil.Process]:
        """All that live of what was seen, and of what inherited the mark, whosever child it is."""
        return [p for p in {*self._seen, *self._marked()} if is_alive(p)]

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("MARK") == self._mark:
                    yield process

    def check_nothing_is_left(self) -> None:
        assert not self.running(), self.names() + self.told()
        assert not any(is_listened_to(port) for port in self.ports)
        assert sorted(self.temporary.rglob("*")) == []
        assert not [path for path in self.run_dir.rglob("*") if path.is_socket() or path.is_fifo()]
        until(lambda: not shared_memory() - self._shared - mapped(), 5)

    def check_terminal(self) -> None:
        """The cursor is shown, and typing works as before."""
        shown, hidden = self.said.rfind("\x1b[?25h"), self.said.rfind("\x1b[?25l")
        assert 0 <= hidden < shown
        assert "\x1b[?1049h" not in self.said
        assert termios.tcgetattr(self._inside) == self._attributes


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def shared_memory() -> set[str]:
    return {str(path) for path in Path("/dev/shm").iterdir()}


def mapped() -> set[str]:
    """Shared memory that a living process uses: other programs come and go beside these."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found |= set(re.findall(r"/dev/shm/\S+", maps.read_text()))
    return found


# How it is ended.


def typed(up: Up) -> None:
    up.type(b"\x03")


def terminated(up: Up) -> None:
    up.process.send_signal(signal.SIGTERM)
    up.process.send_signal(signal.SIGTERM)  # as `timeout` does: no second thought


def closed(up: Up) -> None:
    up.close_terminal()


def killed(up: Up) -> None:
    up.process.kill()


STATUS = {typed: 130, terminated: 143, closed: 129, killed: -9}


# When.


def logged(up: Up, name: str, word: str) -> Callable[[], bool]:
    log = up.run_dir / "logs" / f"{name}.log"
    return lambda: up.process.poll() is None and log.exists() and word in log.read_text()


def hold(up: Up, where: str) -> None:
    (up.holds / where).touch()
    until((up.holds / f"{where}-reached").exists, PATIENCE)


def checking(up: Up) -> None:
    hold(up, "preflight")


def starting(up: Up) -> None:
    until(lambda: up.shows("starting"), PATIENCE)


def joining(up: Up) -> None:
    """The learner is there and sees to its network, its epoch and its checkpoint."""
    until(logged(up, "learner", "joined"), PATIENCE)


def training(up: Up) -> None:
    until(lambda: up.shows("training"), PATIENCE)


def secured(up: Up) -> None:
    training(up)
    assert list(up.temporary.rglob("tls.key")), "there is something to be left"


def hanging(up: Up) -> None:
    """In the middle of a step that does not come back."""
    training(up)
    hold(up, "step")


def stopping(up: Up) -> None:
    hanging(up)
    up.process.send_signal(signal.SIGTERM)
    until(lambda: up.shows("stopping"), PATIENCE)
    time.sleep(SECOND_THOUGHT_SECONDS)


def finishing(up: Up) -> None:
    """The learner writes what stays."""
    until((up.run_dir / "summary.json").exists, PATIENCE)


def resuming(up: Up) -> None:
    until(logged(up, "learner", "resumed"), PATIENCE)


ASYNC = ("--set", "env.vectorization=async", "--set", "actor.slots=3", "--set", "actor.count=1")
MOMENTS = {
    "checking": (checking, ()),
    "starting": (starting, ()),
    "joining": (joining, ()),
    "training": (training, ()),
    "secure": (secured, ("--secure",)),
    "processes": (hanging, ASYNC),
    "stopping": (stopping, ()),
    "finishing": (finishing, ("--set", "stop.frames=5_000")),
    "resuming": (resuming, ()),
}
QUICK = {
    ("checking", terminated),
    ("starting", closed),
}
CASES = [
    pytest.param(
        moment, ending, id=f"{moment}-{ending.__name__}",
        marks=() if (moment, ending) in QUICK else pytest.mark.slow,
    )
    for moment in MOMENTS
    for ending in STATUS
]  # fmt: skip


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that ended."""
    folder = tmp_path_factory.mktemp("earlier")
    with Up(folder, folder / "run", "--set", "stop.frames=5_000") as up:
        assert up.process.wait(PATIENCE) == 0, up.told()
        up.check_nothing_is_left()
    return folder / "run"


@pytest.mark.parametrize(("moment", "ending"), CASES)
def test_nothing_is_left(
    moment: str, ending: Callable[[Up], None], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run_dir = tmp_path / "run"
    reach, more = MOMENTS[moment]
    if moment == "resuming":
        shutil.copytree(request.getfixturevalue("earlier"), run_dir)
        shutil.rmtree(run_dir / "logs")
    with Up(tmp_path, run_dir, *more) as up:
        reach(up)
        up.look()
        assert len(up.running()) >= 2
        ending(up)
        status = up.process.wait(PATIENCE)
        if ending is killed:  # all else ends a moment later
            until(lambda: not up.running())
        up.check_nothing_is_left()
        first = terminated if moment == "stopping" and ending is not killed else ending
        assert status == STATUS[first], up.told()
        if ending in (typed, terminated):
            up.check_terminal()
        if run_dir.exists():
            check_run(up)
            if ending in (typed, killed):  # in order, and not
                check_it_goes_on(up)


def check_run(up: Up) -> None:
    """It is whole, nobody holds it, and nobody is said to be there."""
    assert [f for f in examine(up.run_dir) if f.verdict == "missing"] == []
    with RunDirectory(up.run_dir).locked():
        pass
    asked = run([*PRONK, "status", str(up.run_dir)])
    assert asked.returncode == 1
    assert len(asked.stderr.splitlines()) == 1


def check_it_goes_on(up: Up) -> None:
    for held in up.holds.iterdir():
        held.unlink()
    arguments = [*PRONK, "up", str(up.run_dir / "config.yaml"), "--run-dir", str(up.run_dir)]
    done = subprocess.run(
        [*arguments, "--headless", "--set", "stop.frames=1"],
        env=os.environ | up.environment,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, up.told()
    assert json.loads((up.run_dir / "summary.json").read_text())["learner_updates"]
