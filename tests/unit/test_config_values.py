"""Every key of an experiment under every kind of wrong value: one line, or a reason to take it."""

import onnxruntime
import pytest
import torch
from pronk_learner.checkpoint import Counters
from pronk_learner.progress import Progress

from pronk.config import ConfigError, parse
from pronk.config.load import fixed_keys
from pronk.config.torsos import TORSOS
from pronk.envs.watchdog import Watchdog
from pronk.errors import Misconfigured
from pronk.nets import builtin
from pronk.rl import optim

BASE = "name: try\nenv: {id: CartPole-v1}\n"
WRONG = {
    "a list": "[[]]",
    "text": "'8'",
    "no text": "''",
    "long text": 10_000 * "x",
    "a flag": "true",
    "not a number": ".nan",
    "infinite": ".inf",
    "minus infinite": "-.inf",
    "huge": str(10**30),
    "a huge fraction": "1.5e300",
    "hugely negative": str(-(10**30)),
    "negative": "-5",
    "nothing": "null",
}
UNLIMITED = {"nothing": "there is no limit then"}
LOOKED_UP = {"text": "whether it is there is looked up before anything starts"}
BOTH_WAYS = {"a flag": "it is one"}
ACCEPTED = {
    "name": {"text": "a name may be a digit"},
    "env.id": LOOKED_UP,
    "network.id": LOOKED_UP,
    "env.max_episode_steps": {"nothing": "the environment's own limit"},
    "network.last_action": BOTH_WAYS,
    "network.last_reward": BOTH_WAYS,
    "network.normalise_observations": BOTH_WAYS,
    "network.separate_value": BOTH_WAYS,
    "algorithm.optimizer.decay_frames": {"nothing": "the rate is constant then"},
    "actor.ship_distribution": BOTH_WAYS,
    "actor.lockstep": BOTH_WAYS,
    "stop.frames": UNLIMITED,
    "stop.seconds": UNLIMITED,
    "stop.return_mean": UNLIMITED | {"negative": "a return may be below 0"},
    "policies.red.network": {"nothing": "the experiment's own"},
    "policies.red.algorithm": {"nothing": "the experiment's own"},
}
"""{key: {kind of value: why it is taken}}; everything else is refused."""
KEYS = [*fixed_keys(), "policies.red.share", "policies.red.network", "policies.red.algorithm"]


@pytest.mark.parametrize("key", KEYS)
def test_what_a_key_cannot_be_is_one_line_that_names_it(key: str) -> None:
    taken = set()
    for kind, value in WRONG.items():
        try:
            parse(BASE, [f"{key}={value}"])
        except ConfigError as error:
            check(str(error), f"experiment: {key}")
        else:
            taken.add(kind)

    assert taken == set(ACCEPTED.get(key, ()))


def check(line: str, key: str) -> None:
    """It is one line of bearable length that names the key and says what is allowed."""
    assert line.startswith(key)
    assert "\n" not in line
    assert len(line) < 250
    allowed = ("should", "must be", "expected", "a name is", "policy names no")
    assert any(word in line for word in allowed), line


@pytest.mark.parametrize("torso", TORSOS)
def test_what_an_argument_of_a_torso_cannot_be_is_one_line(torso: str) -> None:
    for key in fixed_keys(TORSOS[torso]):
        taken = set()
        for kind, value in WRONG.items():
            network = parse(BASE, [f"network.id={torso}", f"network.kwargs.{key}={value}"]).network
            try:
                builtin.arguments((), network)
            except Misconfigured as error:
                if "needs an image" in str(error):
                    taken.add(kind)
                else:
                    check(str(error), f"network.kwargs: {torso}: {key}")
            else:
                taken.add(kind)
        assert taken == ({"nothing"} if key == "scale" else set()), key


@pytest.mark.parametrize(
    ("key", "greatest", "more"),
    [
        ("env.step_seconds", 86_400, 86_401),
        ("actor.threads", 256, 257),
        ("stop.return_episodes", 10_000, 10_001),
        ("algorithm.optimizer.learning_rate", 10, 10.1),
        ("algorithm.optimizer.decay_frames", 10**15, 10**15 + 1),
        ("algorithm.optimizer.epsilon", 1e9, 1.1e9),
    ],
)
def test_the_greatest_value_works_and_the_next_is_refused(
    key: str, greatest: float, more: float
) -> None:
    with pytest.raises(ConfigError, match=f"{key}: input should be less than or equal to"):
        parse(BASE, [f"{key}={more}"])
    experiment = parse(BASE, [f"{key}={greatest}"])

    watchdog = Watchdog(experiment.env.step_seconds, lambda _slot: None)
    watchdog.start()
    watchdog.close()
    assert Progress(experiment.stop, Counters()).stop_reason() is None
    onnxruntime.SessionOptions().intra_op_num_threads = experiment.actor.threads
    config = experiment.algorithm.optimizer
    weights = torch.nn.Parameter(torch.ones(2))
    weights.grad = torch.ones(2)
    optim.build([weights], config).step()
    assert torch.isfinite(weights).all()
    assert optim.learning_rate(config, 0) == config.learning_rate
