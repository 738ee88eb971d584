"""`pronk evaluate`: whole episodes, counted without favour, told in a table or as JSON."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from pronk_actor.agent import Agent
from pronk_actor.evaluate import _show, evaluate
from pronk_actor.evaluation import Part, play_episodes, quota
from pronk_actor.stored import StoredPolicy, find
from toy_policies import ready
from typer.testing import CliRunner

from pronk import envs
from pronk.config.schema import EnvConfig, NetworkConfig
from pronk.envs.make import _seeds
from pronk.errors import Broken, Misconfigured
from pronk.nets.network import build
from pronk.policy.bundle import Bundle
from pronk.policy.export import Exporter


class ShortOrLong(gymnasium.Env):
    """Episodes of 1 or 19 steps, each as likely; the return is the length."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.choice([1, 19]))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


def test_short_episodes_are_not_favoured():
    """Taking the first 64 episodes to end would give a mean near 4 instead of 10."""
    env = envs.make(EnvConfig(id=f"{__name__}:ShortOrLong"), 16, 0)
    agent = Agent(env.spec, 16, ready(env.spec, 0), np.random.default_rng(0))
    parts = [Part("default", slice(0, 16), agent)]
    lengths = [
        end.episode.steps
        for number in range(8)
        for end in play_episodes(env, parts, quota(64, 16), threading.Event(), number=number)[
            "default"
        ]
    ]
    assert len(lengths) == 8 * 64
    assert abs(np.mean(lengths) - 10) < 1.5


@pytest.mark.parametrize(("episodes", "slots"), [(20, 16), (5, 5), (16, 16), (7, 3)])
def test_episodes_are_shared_out_beforehand(episodes, slots):
    shared = quota(episodes, slots)
    assert shared.sum() == episodes
    assert shared.max() - shared.min() <= 1


def test_what_a_slot_plays_beyond_its_share_does_not_count():
    env = envs.make(EnvConfig(id="toy_envs:Counter"), 3, 0)
    agent = Agent(env.spec, 3, ready(env.spec, 0), np.random.default_rng(0))
    ended = play_episodes(
        env, [Part("default", slice(0, 3), agent)], np.array([1, 3, 0]), threading.Event()
    )["default"]
    played = sorted((end.episode.slot, end.episode.number) for end in ended)
    assert played == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert all(end.episode.episode_return == 1 + 2 + 3 for end in ended)


def test_a_stopped_evaluation_returns_what_it_has():
    env = envs.make(EnvConfig(id="toy_envs:Counter"), 1, 0)
    agent = Agent(env.spec, 1, ready(env.spec, 0), np.random.default_rng(0))
    stop, beats = threading.Event(), []

    def beat() -> None:
        beats.append(None)
        if len(beats) == 5:
            stop.set()

    parts = [Part("default", slice(0, 1), agent)]
    ended = play_episodes(env, parts, np.array([99]), stop, beat=beat)["default"]
    assert len(ended) == 1


def test_an_environment_that_lets_no_episode_end_cannot_be_judged_in():
    config = EnvConfig(id="toy_envs:Faulty", kwargs={"otherwise": "crash"})
    env = envs.make(config, 2, 0)
    agent = Agent(env.spec, 2, ready(env.spec, 0), np.random.default_rng(0))
    parts = [Part("default", slice(0, 2), agent)]
    with pytest.raises(Broken, match=r"Faulty \(slot 0\) failed in 20 episodes in a row"):
        play_episodes(env, parts, np.array([1, 1]), threading.Event())


# The command


def store(
    folder: Path, env_id: str, number: int = 7, policy: str = "default", env=None, **network
) -> Path:
    """A policy's folder with random weights."""
    config = EnvConfig(id=env_id, **(env or {}))
    torch.manual_seed(number)
    net = build(envs.describe(config), NetworkConfig(**network))
    exporter = Exporter(net, policy, env=config)
    bundle = exporter.bundle(net.state_dict(), epoch=1, number=number, frames=12_000)
    bundle.save(folder / f"{policy}-{number}")
    return folder / f"{policy}-{number}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with three versions, of which 10 is newer than 9."""
    folder = tmp_path_factory.mktemp("run")
    for number in (9, 10, 2):
        store(folder / "policies", "CartPole-v1", number, kwargs={"hidden": [8]})
    return folder


def invoke(*arguments) -> dict:
    result = CliRunner().invoke(_app(), [str(argument) for argument in (*arguments, "--json")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _app():
    import typer

    app = typer.Typer()
    app.command()(evaluate)
    return app


def test_the_newest_policy_of_a_run_is_played(run_dir):
    report = invoke(run_dir, "--episodes", 5)
    assert report["number"] == 10
    assert report["episodes"] == 5
    assert report["environment"] == "CartPole-v1"
    assert report["return_min"] <= report["return_mean"] <= report["return_max"]
    assert report["return_mean"] == report["length_mean"]
    assert report["frames"] == 12_000


def test_a_policys_own_folder_is_played_and_repeats(run_dir):
    first = invoke(run_dir / "policies" / "default-9", "--episodes", 4)
    assert first["number"] == 9
    assert first == invoke(run_dir / "policies" / "default-9", "--episodes", 4)
    other = invoke(run_dir / "policies" / "default-9", "--episodes", 4, "--seed", 5)
    sampled = invoke(run_dir / "policies" / "default-9", "--episodes", 4, "--sample")
    assert other["return_mean"] != first["return_mean"]
    assert sampled["actions"] == "sampled"
    assert sampled["return_mean"] != first["return_mean"]


def test_the_table_says_what_was_played(run_dir):
    result = CliRunner().invoke(_app(), [str(run_dir), "--episodes", "3"])
    for words in ("default, version 10", "CartPole-v1", "3 episodes", "±"):
        assert words in result.stdout


def test_episodes_in_which_the_environment_fails_are_told_and_played_again(tmp_path):
    once = {str(_seeds(0, 3)[1]): "crash"}
    kwargs = {"faults": once}
    folder = store(tmp_path, "toy_envs:Faulty", env={"kwargs": kwargs}, kwargs={"hidden": [4]})
    report = invoke(folder, "--episodes", 3)
    assert (report["episodes"], report["episodes_lost"]) == (3, 1)
    assert report["return_min"] == report["return_max"] == 1 + 2 + 3
    result = CliRunner().invoke(_app(), [str(folder), "--episodes", "3"])
    assert "1 more, in which the environment failed" in result.stdout


@pytest.mark.parametrize(
    ("env_id", "network"),
    [
        ("CartPole-v1", {"id": "mlp", "kwargs": {"hidden": [8]}}),
        ("MinAtar/Freeway-v0", {"id": "minatar"}),
        ("ALE/Pong-v5", {"id": "shallow"}),
    ],
)
def test_an_episode_is_drawn(tmp_path, env_id, network, monkeypatch):
    monkeypatch.setattr("pronk_actor.gif.MAX_STEPS", 40)
    stored = StoredPolicy(Bundle.load(store(tmp_path, env_id, **network)))
    from pronk_actor.gif import film, save

    recorder = envs.record(stored.env, 0)
    pictures = film(recorder, stored.agent(recorder, 0, greedy=True))
    recorder.close()
    save(pictures, tmp_path / "episode.gif")
    drawn = Image.open(tmp_path / "episode.gif")
    assert drawn.format == "GIF"
    assert 5 < drawn.n_frames <= 41
    assert 300 < max(drawn.size) <= 420
    assert drawn.convert("L").getextrema()[1] > 100


def test_a_long_episode_is_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr("pronk_actor.gif.MAX_FRAMES", 8)
    monkeypatch.setattr("pronk_actor.gif.MAX_STEPS", 50)
    stored = StoredPolicy(Bundle.load(store(tmp_path, "MinAtar/Freeway-v0", id="minatar")))
    from pronk_actor.gif import film

    recorder = envs.record(stored.env, 0)
    assert 4 <= len(film(recorder, stored.agent(recorder, 0, greedy=True))) <= 8


def test_the_command_draws_too(run_dir, tmp_path):
    report = invoke(run_dir, "--episodes", 1, "--gif", tmp_path / "play.gif")
    assert report["gif"] == str(tmp_path / "play.gif")
    assert Image.open(tmp_path / "play.gif").n_frames > 1


def test_what_is_wrong_with_a_path_is_said_in_one_line(run_dir, tmp_path):
    with pytest.raises(Misconfigured, match="no such folder"):
        find(tmp_path / "absent")
    with pytest.raises(Misconfigured, match="holds no policy yet"):
        find(tmp_path)
    with pytest.raises(Misconfigured, match=r"--gif: .* is no folder"):
        invoke(run_dir, "--gif", tmp_path / "absent" / "play.gif")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with pytest.raises(Misconfigured, match="manifest"):
        invoke(tmp_path / "broken")


def test_a_run_of_several_policies_asks_which(tmp_path):
    store(tmp_path / "red" / "policies", "CartPole-v1", 1, "red", kwargs={"hidden": [4]})
    store(tmp_path / "blue" / "policies", "CartPole-v1", 3, "blue", kwargs={"hidden": [4]})
    with pytest.raises(Misconfigured, match=r"2 policies: give one, .*blue-3 or .*red-1"):
        find(tmp_path)
    assert find(tmp_path / "red").name == "red-1"


def test_an_environment_that_has_changed_is_told(tmp_path, monkeypatch):
    folder = store(tmp_path, "CartPole-v1", kwargs={"hidden": [4]})
    stored = StoredPolicy(Bundle.load(folder))
    monkeypatch.setattr(stored, "env", EnvConfig(id="Acrobot-v1"))
    env = envs.make(stored.env, 1, 0)
    with pytest.raises(Misconfigured, match="does not show or take"):
        stored.agent(env, 0, greedy=True)


# The actor's command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sample"], "--role evaluate"),
        ([], "cannot read experiment"),
    ],
)
def test_an_actor_that_cannot_run_says_so(arguments, says, tmp_path):
    command = [sys.executable, "-c", _RUN_ACTOR, "--config", str(tmp_path / "no.yaml"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


_RUN_ACTOR = "import typer; from pronk_actor.main import actor; typer.run(actor)"


def test_actors_and_evaluation_need_no_torch(run_dir):
    """In a process of its own: a policy is loaded, checked and played."""
    script = f"""
import sys
import pronk_actor.main
assert "numpy" not in sys.modules, "numpy was imported before its threads were limited"
import pronk_actor.service, pronk_actor.evaluate
from pathlib import Path
pronk_actor.evaluate.evaluate(Path({str(run_dir)!r}), episodes=2, as_json=True)
print(sorted(set(sys.modules) & {{"torch", "pronk.nets", "pronk.rl", "jax"}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    report, loaded = done.stdout.strip().splitlines()
    assert json.loads(report)["episodes"] == 2
    assert loaded == "[]"


def test_names_are_shown_and_not_obeyed(capsys):
    numbers = ("return_mean", "return_std", "return_min", "return_max", "length_mean")
    counts = dict.fromkeys(("number", "frames", "episodes", "episodes_lost"), 1)
    names = {"policy": "[red]", "environment": "[/red]\x1b]0;mine", "actions": "sampled"}
    _show(names | counts | dict.fromkeys(numbers, 1.0))
    shown = capsys.readouterr().out
    assert "[red], version 1" in shown
    assert "[/red]]0;mine" in shown
