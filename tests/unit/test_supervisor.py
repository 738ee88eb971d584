"""Supervision of processes, with `python -c …` for children."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from pronk.cli import process as process_module
from pronk.cli.cluster import Addresses, choose_addresses, free_ports, programs
from pronk.cli.failure import Failed
from pronk.cli.process import Process, Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import parse
from pronk.errors import Misconfigured

QUICK = RestartRule(
    first_seconds=0.05, longest_seconds=0.2, healthy_seconds=0.5, deaths=4, window_seconds=20.0
)
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(60)"
)


def program(
    folder: Path, name: str, code: str, *, stage: int = 0, grace_seconds: float = 5.0
) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-c", code),
        log=folder / f"{name}.log",
        stage=stage,
        grace_seconds=grace_seconds,
    )


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def tick_until(
    supervisor: Supervisor, condition: Callable[[], bool], seconds: float = 10.0
) -> None:
    def ticked() -> bool:
        supervisor.tick()
        return condition()

    until(ticked, seconds)


def never() -> bool:
    return False


def has_pid(supervisor: Supervisor) -> Callable[[], bool]:
    return lambda: supervisor.statuses()[0].pid is not None


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def logged(path: Path, word: str, times: int = 1) -> bool:
    return path.exists() and path.read_text().count(word) >= times


def test_the_wait_doubles_up_to_a_limit() -> None:
    rule = RestartRule(first_seconds=0.5, longest_seconds=30.0)
    assert [rule.wait(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert rule.wait(50) == rule.wait(5000) == 30.0


def kill_first(supervisor: Supervisor) -> None:
    pid = supervisor.statuses()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_dead_child_is_started_again_with_backoff(tmp_path: Path) -> None:
    events: list[str] = []
    with Supervisor([program(tmp_path, "a", SLEEP)], QUICK, events.append) as supervisor:
        for deaths in (1, 2):
            until(partial(logged, tmp_path / "a.log", "up", deaths))
            kill_first(supervisor)
            tick_until(supervisor, lambda deaths=deaths: len(events) == deaths)  # type: ignore[misc]
            assert supervisor.statuses()[0].state == "restarting"
            tick_until(supervisor, has_pid(supervisor))
        assert supervisor.statuses()[0].restarts == 2
    assert events == [
        "a was killed by SIGKILL; starting it again in 0.05 s",
        "a was killed by SIGKILL; starting it again in 0.1 s",
    ]


def test_a_healthy_while_resets_the_backoff(tmp_path: Path) -> None:
    events: list[str] = []
    with Supervisor([program(tmp_path, "a", SLEEP)], QUICK, events.append) as supervisor:
        for deaths in (1, 2):
            healthy_at = time.monotonic() + QUICK.healthy_seconds + 0.2
            tick_until(supervisor, lambda at=healthy_at: time.monotonic() > at)  # type: ignore[misc]
            kill_first(supervisor)
            tick_until(supervisor, lambda deaths=deaths: len(events) == deaths)  # type: ignore[misc]
            tick_until(supervisor, has_pid(supervisor))
    assert [event.rpartition(" in ")[2] for event in events] == ["0.05 s", "0.05 s"]


def test_status_2_ends_it_with_the_child_s_last_line(tmp_path: Path) -> None:
    code = (
        "import sys; print('pronk: env.id: no such thing', file=sys.stderr); print('{}'); "
        "sys.exit(2)"
    )
    children = [program(tmp_path, "good", SLEEP), program(tmp_path, "bad", code)]
    (tmp_path / "bad.log").write_text("pronk: of an earlier start\n")
    with Supervisor(children, QUICK) as supervisor:
        with pytest.raises(Misconfigured, match=r"^env\.id: no such thing$"):
            tick_until(supervisor, never)
        pids = [status.pid for status in supervisor.statuses() if status.pid]
        assert len(pids) == 1
    assert not is_running(pids[0])


def test_status_2_without_a_word_does_not_blame_an_earlier_start(tmp_path: Path) -> None:
    (tmp_path / "bad.log").write_text("pronk: of an earlier start\n")
    with (
        Supervisor([program(tmp_path, "bad", "import sys; sys.exit(2)")], QUICK) as supervisor,
        pytest.raises(Misconfigured, match=r"^bad ended with status 2$"),
    ):
        tick_until(supervisor, never)


def test_too_many_deaths_end_it_with_the_reason_and_the_log(tmp_path: Path) -> None:
    code = "import sys; print('boom', file=sys.stderr); sys.exit(1)"
    with (
        Supervisor([program(tmp_path, "a", code)], QUICK) as supervisor,
        pytest.raises(Failed) as caught,
    ):
        tick_until(supervisor, never)
    assert str(caught.value) == (
        f"a ended with status 1: boom (4 deaths within 20 s; see {tmp_path / 'a.log'})"
    )
    assert (tmp_path / "a.log").read_text() == "boom\n" * 4


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    nowhere = Program("a", ("/no/such/program",), tmp_path / "a.log")
    with (
        pytest.raises(Misconfigured, match=r"/no/such/program: No such file or directory"),
        Supervisor([nowhere], QUICK) as supervisor,
    ):
        tick_until(supervisor, never)


def test_draining_goes_from_the_highest_stage_to_the_lowest(tmp_path: Path) -> None:
    code = """
        import signal, sys, time
        def end(*_):
            time.sleep(0.2)
            with open(sys.argv[1] if len(sys.argv) > 1 else "ORDER", "a") as order:
                order.write("NAME\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(60)
    """
    order = tmp_path / "order"

    def child(name: str, stage: int) -> Program:
        text = textwrap.dedent(code).replace("NAME", name).replace("ORDER", str(order))
        return program(tmp_path, name, text, stage=stage)

    children = [child("buffer", 0), child("server", 1), child("actor", 3), child("learner", 2)]
    with Supervisor(children, QUICK) as supervisor:
        until(lambda: all(logged(tmp_path / f"{c.name}.log", "up") for c in children))
        supervisor.drain()
        assert {status.state for status in supervisor.statuses()} == {"stopped"}
    assert order.read_text().split() == ["actor", "learner", "server", "buffer"]


def test_a_log_that_grows_is_put_aside_while_its_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_LOG_LIMIT", 1000)
    code = "import itertools\nfor n in itertools.count(): print(n, flush=True)"
    noisy = program(tmp_path, "a", code)
    with Supervisor([noisy], QUICK) as supervisor:
        until(lambda: supervisor.tick() or logged(tmp_path / "a.log.1", "\n"))
        before = (tmp_path / "a.log.1").read_bytes()
        until(lambda: supervisor.tick() or (tmp_path / "a.log.1").read_bytes() != before)
    assert b"\0" not in (tmp_path / "a.log").read_bytes(), "no hole where it was cut"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]


def test_who_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    events: list[str] = []
    child = program(tmp_path, "a", STUBBORN, grace_seconds=0.3)
    with Supervisor([child], QUICK, events.append) as supervisor:
        until(lambda: logged(tmp_path / "a.log", "up"))
        pid = supervisor.statuses()[0].pid
        assert pid is not None
        started = time.monotonic()
        supervisor.drain()
        assert 0.3 <= time.monotonic() - started < 5
        assert not is_running(pid)
    assert events == ["a did not stop within 0.3 s"]


def test_hurrying_kills_at_once(tmp_path: Path) -> None:
    children = [
        program(tmp_path, n, STUBBORN, stage=s, grace_seconds=60) for n, s in (("a", 1), ("b", 0))
    ]
    with Supervisor(children, QUICK) as supervisor:
        until(lambda: all(logged(child.log, "up") for child in children))
        pids = [status.pid for status in supervisor.statuses()]
        started = time.monotonic()
        supervisor.drain(lambda: time.monotonic() - started > 0.2)
        assert time.monotonic() - started < 5
        assert not any(is_running(pid) for pid in pids if pid)


def test_what_a_child_leaves_behind_in_its_group_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True)"
    )
    process = Process(program(tmp_path, "a", code))
    until(lambda: process.poll() is not None)
    grandchild = int((tmp_path / "a.log").read_text())
    until(lambda: not is_running(grandchild))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where Linux has them")
def test_a_killed_child_leaves_no_shared_memory(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, time; "
        "lock = multiprocessing.get_context('spawn').Lock(); "
        "print(lock._semlock.name, flush=True); time.sleep(60)"
    )
    process = Process(program(tmp_path, "a", code))
    until(lambda: (tmp_path / "a.log").exists() and logged(tmp_path / "a.log", "\n"))
    name = (tmp_path / "a.log").read_text().strip().removeprefix("/")
    memory = Path("/dev/shm") / f"sem.{name}"
    assert memory.exists()
    process.kill()
    assert not memory.exists()


def test_leaving_in_an_error_leaves_nothing_running(tmp_path: Path) -> None:
    pids: list[int] = []

    def run() -> None:
        with Supervisor([program(tmp_path, n, STUBBORN) for n in "abc"], QUICK) as supervisor:
            pids.extend(status.pid for status in supervisor.statuses() if status.pid)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert len(pids) == 3
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    parent = f"""
        import sys, time
        from pathlib import Path
        from pronk.cli.process import Program
        from pronk.cli.supervisor import Supervisor
        folder = Path({str(tmp_path)!r})
        children = [
            Program(n, (sys.executable, "-c", {STUBBORN!r}), folder / f"{{n}}.log") for n in "ab"
        ]
        with Supervisor(children) as supervisor:
            print(*(status.pid for status in supervisor.statuses()), flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        until(lambda: all(logged(tmp_path / f"{n}.log", "up") for n in "ab"))
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
        process.kill()
    until(lambda: not any(is_running(pid) for pid in pids))


def test_ports_in_use_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("pronk.cli.cluster._PORTS", range(port, port + 200))
        ports = free_ports(100)
    assert port not in ports
    assert len(set(ports)) == 100


def test_no_free_port_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pronk.cli.cluster._is_free", lambda _: False)
    with pytest.raises(Misconfigured, match="no free ports"):
        choose_addresses()


def test_the_programs_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRONK_TOKEN", "of-a-remote-cluster")
    monkeypatch.setattr("pronk.cli.cluster.valkey_command", lambda *_: ["valkey"])
    experiment = parse("{name: x, env: {id: A}, actor: {count: 3}, policies: {red: {}, blue: {}}}")
    directory = RunDirectory(tmp_path)
    own = programs(experiment, directory, Addresses("127.0.0.1:1", "redis://127.0.0.1:2/0", 2))
    assert [p.name for p in own] == [
        "valkey", "param-server", "learner-red", "learner-blue", "actor-0", "actor-1", "actor-2",
    ]  # fmt: skip
    assert [p.stage for p in own] == sorted(p.stage for p in own)
    server = own[1]
    assert server.environment["PRONK_SERVER"] == server.environment["PRONK_LISTEN"] == "127.0.0.1:1"
    assert "PRONK_TOKEN" not in server.environment
    foreign = programs(experiment, directory, Addresses("127.0.0.1:1", "redis://there/0", None))
    assert foreign[0].name == "param-server"
    assert foreign[0].environment["PRONK_REDIS_URL"] == "redis://there/0"
