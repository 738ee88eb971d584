"""The command line's parts: lazy verbs, vitals, pictures, run directories, releases, doctor."""

import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from pronk.cli import preflight
from pronk.cli.asking import asked
from pronk.cli.doctor import doctor, examine
from pronk.cli.failure import Failed
from pronk.cli.farewell import farewell
from pronk.cli.main import main
from pronk.cli.picture import Scene, line, picture, sparkline
from pronk.cli.rundir import RunDirectory, differences, fresh
from pronk.cli.session import Judge, Silence
from pronk.cli.signals import Signals
from pronk.cli.status import report
from pronk.cli.supervisor import ChildStatus
from pronk.cli.verbs import ending_well, verbs
from pronk.cli.view import PlainView, Sparks
from pronk.cli.vitals import Monitor, Vitals
from pronk.config import dump, load, parse
from pronk.errors import Misconfigured
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.v1 import registry_pb2
from pronk.words import duration, plural, short

EXPERIMENT = parse("{name: x, env: {id: CartPole-v1}, stop: {return_mean: 475}}")
HEAVY = {"torch", "gymnasium", "onnxruntime", "grpc", "numpy", "pydantic", "redis", "psutil"}


def test_help_imports_no_service_and_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pronk.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = {module.partition(".")[0] for module in done.stderr.split()}
    assert "pronk" in loaded
    assert not loaded & (HEAVY | {"pronk_actor", "pronk_learner", "pronk_param_server"})
    for verb in ("up", "evaluate", "status", "policy", "bench", "doctor", "learner"):
        assert f" {verb} " in done.stdout


def test_every_verb_is_tuned_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Libc:
        @staticmethod
        def mallopt(parameter: int, _value: int) -> None:
            calls.append(parameter)

    monkeypatch.setattr("pronk.startup.ctypes.CDLL", lambda _name: Libc)
    monkeypatch.setattr("pronk.startup.sys.platform", "linux")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    assert sorted(calls) == [-8, -3, -2, -1]
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_what_looks_before_the_start_is_tuned_too(tmp_path: Path) -> None:
    code = "import os\ndef make(): raise OSError(os.environ['OMP_NUM_THREADS'])"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "x.yaml").write_text("{name: x, env: {id: mine:make}}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pronk.cli.preflight", "x.yaml"],
        capture_output=True, text=True, timeout=60, check=False,
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "7"},
    )  # fmt: skip
    assert "OSError: 1 " in done.stderr


def test_a_service_still_sets_its_own_number_of_threads(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(dump(parse(dump(EXPERIMENT), ["learner.threads=2"])))
    code = (
        "import sys, types\n"
        "def serve(*_): import torch; print(torch.get_num_threads())\n"
        "sys.modules['pronk_learner.service'] = types.SimpleNamespace(serve=serve)\n"
        "from pronk.cli.main import main\n"
        "main(['learner', '--config', 'x.yaml'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout == "2\n", done.stderr


def test_every_verb_that_design_names_is_there() -> None:
    named = {verb.name for verb in verbs()}
    assert named >= {"up", "param-server", "learner", "actor", "status", "evaluate", "policy"}
    assert named >= {"bench", "doctor"}


@pytest.mark.parametrize("verb", [verb.name for verb in verbs()])
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    words = {"policy": "export", "bench": "cluster"}.get(verb, "Example")
    said = capsys.readouterr().out
    assert words in said
    assert "run_dir" not in said


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"pronk {version('pronk')}\n")


# --- vitals


def answer(
    state: registry_pb2.RunState.ValueType = registry_pb2.RUN_STATE_RUNNING, **learner: Any
) -> registry_pb2.GetStatusResponse:
    status = registry_pb2.GetStatusResponse(run="r", run_state=state)
    status.members.add(
        member="learner-1", kind=registry_pb2.MEMBER_KIND_LEARNER, pid=7, alive=True,
        learner=registry_pb2.LearnerStats(**learner),
    )  # fmt: skip
    return status


def with_actor(
    status: registry_pb2.GetStatusResponse, **stats: Any
) -> registry_pb2.GetStatusResponse:
    status.members.add(
        member="train-1", kind=registry_pb2.MEMBER_KIND_TRAIN, pid=8, alive=True,
        actor=registry_pb2.ActorStats(**stats),
    )  # fmt: skip
    return status


@pytest.mark.parametrize(
    ("waiting", "blocked", "verdict"),
    [
        (0.5, 5.0, "learner-bound"),
        (5.0, 0.5, "actor-bound"),
        (0.5, 0.5, "balanced"),
        (9.0, 8.0, "buffer-bound"),
        (8.0, 9.0, "buffer-bound"),
        (3.9, 9.0, "learner-bound"),
        (9.0, 3.9, "actor-bound"),
    ],
)
def test_the_verdict_names_who_holds_up_whom(waiting: float, blocked: float, verdict: str) -> None:
    monitor = Monitor()
    first = answer(busy_seconds=100, waiting_seconds=100, steps=0)
    monitor.observe(with_actor(first, busy_seconds=100, blocked_seconds=100), now=0.0)
    second = answer(busy_seconds=110 - waiting, waiting_seconds=100 + waiting, steps=10)
    with_actor(second, busy_seconds=110 - blocked, blocked_seconds=100 + blocked, steps=500)
    vitals = monitor.observe(second, now=10.0)
    assert vitals.learner_waiting == pytest.approx(waiting / 10)
    assert vitals.actors_blocked == pytest.approx(blocked / 10)
    assert vitals.verdict == verdict
    assert [member.steps_per_second for member in vitals.members] == [None, 50.0]


def test_shares_are_of_the_newest_seconds_only() -> None:
    monitor = Monitor()
    for second in range(60):
        busy, waited = (0, second) if second < 40 else (second - 40, 40)
        stats = answer(busy_seconds=busy, waiting_seconds=waited, steps=second)
        vitals = monitor.observe(stats, now=float(second))
    assert vitals.learner_waiting == 0.0


def test_what_cannot_be_told_is_none() -> None:
    vitals = Monitor().observe(registry_pb2.GetStatusResponse(run="r"), now=0.0)
    assert (vitals.state, vitals.verdict, vitals.who_waits()) == ("UNKNOWN", None, None)
    assert vitals.return_mean is vitals.lag is vitals.progress is vitals.steps_per_second is None
    assert json.loads(json.dumps(vitals.as_json()))["members"] == []


def test_frames_count_action_repeat_and_policies_add_up() -> None:
    status = answer(steps=10, frames=40, updates=1, steps_per_second=100.0, progress=0.9)
    status.members.add(
        member="learner-2", kind=registry_pb2.MEMBER_KIND_LEARNER, alive=True,
        learner=registry_pb2.LearnerStats(steps=10, frames=40, steps_per_second=50.0, progress=0.3),
    )  # fmt: skip
    vitals = Monitor().observe(status, now=0.0)
    assert (vitals.steps, vitals.frames) == (20, 80)
    assert (vitals.steps_per_second, vitals.frames_per_second) == (150.0, 600.0)
    assert vitals.progress == 0.3


def test_a_member_long_gone_is_left_out() -> None:
    status = answer()
    status.members[0].alive = False
    status.members[0].seconds_since_heartbeat = 30
    assert len(Monitor().observe(status, now=0.0).members) == 1
    status.members[0].seconds_since_heartbeat = 300
    assert not Monitor().observe(status, now=0.0).members


# --- when a run is over


def judged(*answers: registry_pb2.GetStatusResponse | None, step: float = 1.0) -> list[str | None]:
    judge, monitor = Judge(), Monitor()
    times = [step * index for index in range(len(answers))]
    ends = []
    for status, now in zip(answers, times, strict=True):
        ends.append(judge.end(None if status is None else monitor.observe(status, now), now))
    return ends


RUNNING, FINISHED, FAILED = (
    registry_pb2.RUN_STATE_RUNNING,
    registry_pb2.RUN_STATE_FINISHED,
    registry_pb2.RUN_STATE_FAILED,
)


def test_a_run_ends_at_once_when_it_was_running() -> None:
    assert judged(None, answer(RUNNING), answer(FINISHED)) == [None, None, "FINISHED"]
    assert judged(answer(RUNNING), answer(FAILED)) == [None, "FAILED"]


def test_the_old_end_of_a_resumed_run_does_not_count() -> None:
    stale = registry_pb2.GetStatusResponse(run_state=FINISHED)
    raised = [stale] * 30 + [answer(FINISHED)] + [answer(RUNNING, updates=5)] * 2
    assert judged(*raised, step=0.5) == [None] * len(raised)


def test_a_resumed_run_that_is_over_already_ends() -> None:
    stale = registry_pb2.GetStatusResponse(run_state=FINISHED)
    over = [stale] * 3 + [answer(FINISHED, updates=5)] * 10
    assert judged(*over)[-1] == "FINISHED"
    assert judged(*over)[:4] == [None] * 4


def test_a_server_that_does_not_answer_is_told_and_at_last_given_up() -> None:
    told: list[str] = []
    silence = Silence(told.append)
    for seconds in range(0, 65, 5):
        silence.look(seconds, "it stands still")
    assert len(told) == 2
    assert "not answered for 30 s: it stands still" in told[0]
    silence.look(0.0, "")
    silence.look(31.0, "again")
    assert len(told) == 3
    with pytest.raises(Failed, match="not answered for 10:00"):
        silence.look(600.0, "it stands still")


# --- pictures


VITALS = Vitals(
    run="r", state="RUNNING", reason="", members=(), newest={}, steps=1_234_567, frames=1_234_567,
    updates=900, steps_per_second=61_234.5, frames_per_second=61_234.5, return_mean=213.4, lag=2.25,
    progress=0.449, seconds_left=83.0,
)  # fmt: skip
SCENE = Scene(
    name="cartpole", environment="CartPole-v1", run_dir="runs/x", seconds=42.0, phase="training",
    children=[
        ChildStatus("param-server", "running", 1, 0),
        *(ChildStatus(f"actor-{i}", "running", None, 0) for i in range(20)),
        ChildStatus("learner", "restarting", None, 1),
    ],
    vitals=VITALS, goal=475.0,
)  # fmt: skip


def drawn(scene: Scene, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(picture(scene, "▁▃█"))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_picture_shows_what_one_wants_to_know() -> None:
    shown = drawn(SCENE)
    for text in ("cartpole", "CartPole-v1", "45 %", "at most 1:23 left", "213.4", "▁▃█", "goal 475",
                 "61,234 steps/s", "1.23 M frames", "900 updates", "lag 2.2", "runs/x/logs",
                 "restarting (restarted 1×)", "12 more actors"):  # fmt: skip
        assert text in shown
    assert len(shown.splitlines()) <= 24, "fits a terminal"


def test_the_picture_stands_missing_numbers_and_narrow_terminals() -> None:
    nothing = Vitals(run="", state="UNKNOWN", reason="", members=(), newest={})
    for vitals in (None, nothing, VITALS):
        scene = Scene("x", "e", "d", 0.0, "starting", [], vitals)
        assert all(len(row) <= 40 for row in drawn(scene, 40).splitlines())


def test_a_scene_on_one_line() -> None:
    assert line(SCENE) == (
        "   42 s  training  45 %  frames 1.23 M  61,234 steps/s  return 213.4 (goal 475)  lag 2.2  "
        "at most 1:23 left"
    )
    assert "\n" not in line(SCENE)


def test_the_time_left_is_a_bound_where_a_return_ends_the_run_too() -> None:
    without = replace(SCENE, goal=None)
    for show in (line, drawn):
        assert "at most 1:23 left" in show(SCENE)
        assert "1:23 left" in show(without)
        assert "at most" not in show(without)
        assert "goal" not in show(without)
    assert "at most 1:23" in shown(report(VITALS)), "status does not know the goal"
    assert "return 213.4 (goal -150)" in line(replace(SCENE, goal=-150.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_not_shown(value: float) -> None:
    assert duration(value) == "–"
    monitor = Monitor()
    for busy in (0.0, value):
        status = answer()
        status.members[0].learner.busy_seconds = busy
        for name in ("return_mean", "lag_mean", "steps_per_second", "progress", "seconds_left"):
            setattr(status.members[0].learner, name, value)
        status.actor_demand = value
        vitals = monitor.observe(status, now=busy if busy == 0 else 2.0)
    json.dumps(vitals.as_json(), allow_nan=False)
    assert vitals.return_mean is vitals.actor_demand is None
    page = shown(report(vitals))
    assert "nan" not in page
    assert "inf" not in page


def test_durations_and_counts() -> None:
    assert [plural(n, "slot") for n in (1, 2, 0)] == ["1 slot", "2 slots", "0 slots"]
    assert [duration(s) for s in (0, 59.4, 60, 3599.6, 7387)] == [
        "0 s", "59 s", "1:00", "1:00:00", "2:03:07",
    ]  # fmt: skip
    assert [short(n) for n in (0, 950, 12_345, 4_560_000)] == ["0", "950", "12.3 k", "4.56 M"]


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(2, 64))
def test_sparklines_are_bounded_and_end_with_the_newest(values: list[float], width: int) -> None:
    bars = sparkline(values, width)
    assert len(bars) == (min(width, len(values)) if len(values) > 1 else 0)
    if bars and values[-1] == max(values):
        assert bars[-1] == "█" or len(set(bars)) == 1


def test_the_history_of_sparks_is_bounded() -> None:
    sparks = Sparks()
    for second in range(100_000):
        sparks.add(float(second), float(second))
    assert len(sparks._values) < 64
    assert sparks.text()[0] == "▁"
    assert sparks.text()[-1] >= "▇"


def test_plain_lines_come_every_few_seconds_and_at_every_change() -> None:
    console = Console(file=io.StringIO(), width=200)
    view = PlainView(console)
    for phase in ("starting", "starting", "training", "training"):
        view.show(Scene("x", "e", "d", 1.0, phase, [], None))
    view.tell("actor-0 died")
    assert isinstance(console.file, io.StringIO)
    assert [row.split()[-1] for row in console.file.getvalue().splitlines()] == [
        "starting", "training", "died",
    ]  # fmt: skip


def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    code = (
        "import sys\n"
        "from pronk.cli.view import PlainView, Screen, Terminal\n"
        "screen = Screen(PlainView(Terminal()))\n"
        "for _ in range(3): screen.tell('hello ' * 10_000)\n"
        "print('alive', file=sys.stderr)\n"
    )
    command = f"set -o pipefail; {shlex.join([sys.executable, '-c', code])} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "alive\n")


def test_status_is_a_page() -> None:
    monitor = Monitor()
    monitor.observe(with_actor(answer(busy_seconds=1), busy_seconds=1), 0.0)
    vitals = monitor.observe(
        with_actor(answer(busy_seconds=2, waiting_seconds=1), busy_seconds=2, steps=100), 1.0
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(report(vitals))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("run r", "RUNNING", "learner 0", "actor 0", "alive", "actor-bound"):
        assert text in shown


def shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


HOSTILE = "[/red] \x1b]0;mine\x07"


def test_what_others_call_themselves_is_shown_and_not_obeyed() -> None:
    status = answer()
    status.run, status.run_state_reason = HOSTILE, HOSTILE
    status.members[0].host = HOSTILE
    status.members[0].versions.add(policy=HOSTILE, number=3)
    page = shown(report(Monitor().observe(status, 0.0)))
    assert page.count("[/red] ]0;mine") == 4
    assert "\x1b]0" not in page
    assert "\x07" not in page


def test_a_server_s_words_do_not_reach_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), ending_well():
        raise Misconfigured(HOSTILE)
    assert capsys.readouterr().err == "pronk: [/red] ]0;mine\n"


# --- run directories


def test_a_fresh_run_directory_is_nobody_s(tmp_path: Path) -> None:
    first = fresh(EXPERIMENT, tmp_path)
    first.path.mkdir(parents=True)
    assert fresh(EXPERIMENT, tmp_path).path != first.path
    assert first.path.name.startswith("x-")


def test_a_run_directory_resumes_with_the_free_keys_changed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    assert not directory.check(EXPERIMENT)
    with directory.locked():
        directory.write_config(EXPERIMENT)
        assert load(directory.config) == EXPERIMENT
    longer = parse(dump(EXPERIMENT), ["stop.return_mean=490", "actor.count=5"])
    assert directory.check(longer)
    assert differences(EXPERIMENT, longer) == []
    with pytest.raises(Misconfigured, match=r"algorithm\.discount"):
        directory.check(parse(dump(EXPERIMENT), ["algorithm.discount=0.5"]))


def test_every_fixed_difference_has_a_name() -> None:
    other = parse(dump(EXPERIMENT), ["network.kwargs={hidden: [8]}", "policies={a: {}}"])
    assert [text.partition(" ")[0] for text in differences(EXPERIMENT, other)] == [
        "network.kwargs.hidden", "policies.a.share", "policies.default.share",
    ]  # fmt: skip


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pronk.cli.rundir import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): print('in', flush=True); time.sleep(60)"
    )
    directory = RunDirectory(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Misconfigured, match="in use"), directory.locked():
            pass
        process.kill()
    with directory.locked():
        pass


def test_the_farewell_says_what_lies_where(tmp_path: Path) -> None:
    summary = {
        "stop_reason": "return_mean reached 475", "return_mean_last_100": 478.2, "steps": 900_000,
        "frames": 900_000, "seconds": 23.4, "steps_per_second": 38_461.5,
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "curve.png").touch()
    for number in (9, 10):
        (tmp_path / "policies" / f"default-{number}").mkdir(parents=True)
        (tmp_path / "policies" / f"default-{number}" / "manifest.json").touch()
    console = Console(file=io.StringIO(), width=200)
    farewell(RunDirectory(tmp_path), EXPERIMENT, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    for text in ("return_mean reached 475", "478.2", "900,000 steps", "38,462 steps/s",
                 "policies/default-10", "curve.png", "logs", f"pronk evaluate {tmp_path}",
                 f"--run-dir {tmp_path}"):  # fmt: skip
        assert text in said
    assert "default-9" not in said


# --- preflight


def test_a_batch_must_fit_the_buffer() -> None:
    spec = EnvironmentSpec(
        "big", (ArraySpec("default", "uint8", (4, 84, 84)),), (DiscreteSpec("default", (6,)),)
    )
    sized = "{name: x, env: {id: A}, algorithm: {batch_size: 32}, buffer: {max_entries: %d}}"
    preflight.check_buffer(parse(sized % 32), spec)  # one slot an entry: two are over 1 MiB
    with pytest.raises(Misconfigured, match=r"32 unrolls of 1 slot, and .*max_entries to 64"):
        preflight.check_buffer(parse(sized % 31), spec)


# --- signals and doctor


def test_a_second_signal_hurries_unless_it_comes_with_the_first() -> None:
    with Signals() as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert signals.stop.wait(10)
        assert (signals.number, signals.hurried) == (signal.SIGTERM, False)
        time.sleep(0.6)
        signal.raise_signal(signal.SIGHUP)
        assert not signals.hurried
        signal.raise_signal(signal.SIGINT)
        assert (signals.number, signals.hurried) == (signal.SIGTERM, True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    doctor(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "python", "cores", "memory", "disk", "actor", "learner", "param-server", "gpu", "bf16",
        "valkey", "atari", "minatar", "minigrid", "allocator", "loopback", "docker",
    }  # fmt: skip
    assert found["valkey"]["verdict"] == found["loopback"]["verdict"] == "ok"


def test_the_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"onnxruntime", "minigrid"}
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "pronk.cli.checks.importlib.util.find_spec",
        lambda name: None if name in hidden else found(name),
    )
    findings = {finding.name: finding for finding in examine()}
    assert findings["actor"].verdict == "missing"
    assert findings["actor"].advice == "pip install 'pronk[actor]'"
    assert findings["minigrid"].verdict == "optional"
    assert findings["learner"].verdict == "ok"


def test_status_of_a_directory_where_nothing_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no cluster runs in"), asked(tmp_path):
        pass


def test_status_finds_the_cluster_of_a_run_directory(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.announced("127.0.0.1:20001"), asked(tmp_path) as (server, _):
        assert str(server) == "127.0.0.1:20001"
    assert not directory.address.exists()
