"""The yardstick against peers, on programs that only tell."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks/peers"
sys.path.insert(0, str(PEERS))

import verdict  # noqa: E402
from peers import PEERS as ALL  # noqa: E402
from trial import Point, Rules, Trial, parse, run, take  # noqa: E402
from workloads import WORKLOADS, make_env, make_vector  # noqa: E402

RULES = Rules(limit=100, warm_up=10, window=20)
TELLS = """
import json, sys, time
for second in range(int(sys.argv[1])):
    told = {"seconds": second, "steps": 10 * second, "score": second if second > 5 else None}
    print("noise", flush=True)
    print("PEER " + json.dumps(told), flush=True)
"""
STUBBORN = """
import os, pathlib, subprocess, sys, time
sleeps = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", sleeps], start_new_session=True)
time.sleep(0.2)
left = pathlib.Path(os.environ["LEFT"])
left.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
left.with_suffix(".new").rename(left)
time.sleep(600)
"""
DRIVER = """
import sys
from pathlib import Path
import compare, trial, venvs, verdict
from peers import Peer
fakes = tuple(Peer(name, name, ("documented",), (), {}) for name in ("ours", "stubborn"))
compare.PEERS = verdict.PEERS = fakes
compare.HERE = Path(sys.argv.pop(1))
compare.QUICK = trial.Rules(limit=60, warm_up=1, window=2, grace=0.2)
venvs.is_ready = lambda *_: True
venvs.python_of = lambda *_: sys.executable
venvs.bare_rates = lambda *_: {"single": 1.0}
sys.exit(compare.main())
"""


def trial_of(
    peer: str, variant: str, *, rate: float, to_goal: float, best: float = 0, reached: bool = True
) -> Trial:
    return Trial("cartpole", peer, variant, 5.0, rate, to_goal, reached, 1000, best)


def fed(*points: tuple[float, int, float | None], goal: float | None = 475) -> tuple[Trial, bool]:
    trial, over = Trial("cartpole", "ours", "documented"), False
    for point in points:
        over = take(trial, Point(*point), RULES, goal)
    return trial, over


@pytest.mark.parametrize(
    ("line", "point"),
    [
        (b'PEER {"seconds": 1.5, "steps": 20, "score": null}\n', Point(1.5, 20, None)),
        (b'PEER {"seconds": 2, "steps": 20, "score": 7}\n', Point(2, 20, 7)),
        (b'INFO PEER {"seconds": 2, "steps": 20, "score": 7}\n', None),
        (b'PEER {"seconds": 2, "steps"\n', None),
        (b'PEER {"seconds": 2}\n', None),
        (b"PEER 7\n", None),
        (b"PEER \xff\n", None),
    ],
)
def test_lines_are_told_from_noise(line, point):
    assert parse(line) == point


def test_steady_rate_leaves_startup_and_warm_up_out():
    trial, over = fed(
        (0, 0, None), (30, 100, None), (39, 200, None), (41, 1000, None), (51, 2000, 480),
        (59, 2800, 490), (61, 9999, 490),
    )  # fmt: skip

    assert over
    assert trial.startup == 30
    assert trial.rate == 100
    assert (trial.reached, trial.to_goal) == (True, 51)


def test_a_trial_goes_on_until_the_score_is_reached():
    assert not fed((1, 10, None), (20, 20, 474), (40, 30, 474))[1]
    assert fed((1, 10, None), (20, 20, 474), (40, 30, 474), goal=None)[1]


def test_a_score_after_the_limit_does_not_count():
    assert not fed((1, 10, None), (101, 20, 480))[0].reached


def test_a_program_is_read_to_its_end(tmp_path):
    rules = Rules(limit=30, warm_up=2, window=4, grace=1)
    trial = Trial("cartpole", "ours", "documented")

    run(trial, [sys.executable, "-c", TELLS, "20"], rules, 15, tmp_path)

    assert trial.rate == 10
    assert (trial.reached, trial.to_goal, trial.failed) == (True, 15, None)


def test_a_program_that_ends_early_failed_and_counts_as_the_limit(tmp_path):
    rules = Rules(limit=30, warm_up=2, window=4, grace=1)
    trial = Trial("cartpole", "ours", "documented")

    run(trial, [sys.executable, "-c", TELLS, "5"], rules, 15, tmp_path)

    assert "status 0" in trial.failed
    assert "noise" in trial.failed
    assert (trial.reached, trial.to_goal) == (False, 30)


def test_each_measure_takes_its_better_variant():
    trials = [
        trial_of("rllib", "documented", rate=10, to_goal=90),
        trial_of("rllib", "wide", rate=30, to_goal=200, reached=False),
        trial_of("rllib", "wide", rate=50, to_goal=200, reached=False),
        trial_of("rllib", "local", rate=20, to_goal=100),
    ]

    rate, soon = verdict.best_rate(trials), verdict.best_time(trials)

    assert (rate.variant, rate.median, rate.least, rate.most) == ("wide", 40, 30, 50)
    assert (soon.variant, soon.median, soon.missed) == ("documented", 90, 0)
    assert verdict.better(trials) == ["wide", "documented"]


def test_of_variants_that_never_reach_the_score_the_best_score_is_repeated():
    trials = [
        trial_of("rllib", "documented", rate=10, to_goal=200, best=3, reached=False),
        trial_of("rllib", "wide", rate=30, to_goal=200, best=5, reached=False),
    ]

    soon = verdict.best_time(trials)

    assert (soon.variant, soon.median, soon.missed) == ("wide", 200, 1)


def test_nothing_measured_is_no_figure():
    assert verdict.best_rate([Trial("cartpole", "rllib", "documented")]) is None
    assert verdict.judge("cartpole", [])["rate_ratio"] is None


def test_the_page_has_ratios_marks_and_differences():
    trials = [
        trial_of("ours", "documented", rate=1000, to_goal=10),
        trial_of("rllib", "wide", rate=50, to_goal=1200, reached=False),
        trial_of("sample_factory", "documented", rate=80, to_goal=100),
    ]
    report = {
        "hardware": {"cores": 2, "processor": "abacus"},
        "commit": "c0ffee",
        "started": "today",
        "interrupted": True,
        "rules": {"limit": 1200.0, "warm_up": 10.0, "window": 60.0},
        "workloads": {"cartpole": verdict.judge("cartpole", trials)},
        "bare_rates": {"cartpole": {"ours": {"vector": 12345.0}}},
        "versions": {"ours": {}, "sample_factory": {}, "rllib": {"ray": "2.60.0"}},
    }

    page = verdict.markdown(report)

    assert "steps/s **12.50** (goal ≥ 10), time to the score **0.10** (goal ≤ 0.25)" in page
    assert "1,200† (1,200 – 1,200; 1 trials, 1 of 1 missed)" in page
    assert "vector 12,345" in page
    assert "Interrupted" in page
    assert "ray 2.60.0" in page
    assert "losses are means" in page
    assert "Stable-Baselines3" not in page


def test_every_peer_has_a_program_and_pins():
    for peer in ALL:
        folder = PEERS / peer.folder
        assert (folder / "run.py").exists()
        lines = (folder / "requirements.txt").read_text().splitlines()
        assert all("==" in line for line in lines if line and not line.startswith("#"))
        assert {"", *WORKLOADS} == set(peer.differences)


def test_environments_are_the_same_single_and_vector():
    single, vector = make_env("cartpole"), make_vector("cartpole-sync", 3, same_step=True)

    assert vector.single_observation_space == single.observation_space
    assert vector.reset(seed=[7, 8, 9])[0][0].tolist() == single.reset(seed=7)[0].tolist()


def test_an_interrupted_comparison_leaves_nothing_and_writes_what_there_is(tmp_path, monkeypatch):
    for name, program in (("ours", TELLS), ("stubborn", STUBBORN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.py").write_text(program.replace("int(sys.argv[1])", "9"))
    left = tmp_path / "left"
    monkeypatch.setenv("LEFT", str(left))
    monkeypatch.setenv("PYTHONPATH", str(PEERS))
    command = [sys.executable, "-c", DRIVER, str(tmp_path), "--quick", "--workload", "cartpole"]
    command += ["--peer", "stubborn", "--out", str(tmp_path)]

    comparison = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not left.exists():
        assert comparison.poll() is None, comparison.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = [int(word) for word in left.read_text().split()]
    assert all(map(psutil.pid_exists, pids))
    comparison.send_signal(signal.SIGINT)
    comparison.send_signal(signal.SIGINT)
    said = comparison.communicate(timeout=60)[0]

    assert comparison.returncode == 130, said
    assert not any(map(psutil.pid_exists, pids))
    report = json.loads((tmp_path / "peers.json").read_text())
    assert report["interrupted"]
    assert [(t["peer"], t["rate"]) for t in report["trials"]] == [("ours", 10.0)]
    assert "Interrupted" in (tmp_path / "peers.md").read_text()
