"""The experiment schema: what it accepts, what it says to a person, what the hash covers."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pronk.config import ConfigError, Experiment, dump, experiment_hash, load, parse
from pronk.config.load import fixed_keys
from pronk.config.schema import PolicyConfig

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = "name: try\nenv: {id: CartPole-v1}\n"


def message(*overrides: str, text: str = BASE) -> str:
    with pytest.raises(ConfigError) as error:
        parse(text, overrides)
    assert "\n" not in str(error.value), "one line"
    return str(error.value).removeprefix("experiment: ")


def test_the_smallest_experiment():
    experiment = parse(BASE)

    assert experiment.env.id == "CartPole-v1"
    assert experiment.slots_of("default") == experiment.actor.slots
    assert experiment.network_of("default") == experiment.network


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learning_rate", "algorithm.optimizer.learning_rate"),
        ("learner.learning_rate", "algorithm.optimizer.learning_rate"),
        ("lr", "algorithm.optimizer.learning_rate"),
        ("batch_size", "algorithm.batch_size"),
        ("algorithm.batchsize", "algorithm.batch_size"),
        ("gamma", "algorithm.discount"),
        ("algorithm.lambda_", "algorithm.lambda"),
        ("total_timesteps", "stop.frames"),
        ("actor.num_envs", "actor.slots"),
        ("environment", "env"),
        ("enf", "env"),
        ("env.idd", "env.id"),
        ("network.hiden", None),
        ("policies.red.shar", "policies.red.share"),
        ("policies.red.network.cor", "policies.red.network.core"),
        ("xyzzy", None),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(key, meant):
    expected = f"unknown key {key}" + (f"; did you mean {meant}?" if meant else "")

    assert message(f"{key}=1") == expected


def test_a_misspelt_key_is_said_before_the_one_it_leaves_missing():
    assert message(text="name: try\nenv: {idd: CartPole-v1}") == (
        "unknown key env.idd; did you mean env.id? (and 1 more)"
    )


@pytest.mark.parametrize("place", ["env.kwargs", "network.kwargs"])
def test_keyword_arguments_of_others_are_never_unknown(place):
    experiment = parse(BASE, [f"{place}.learning_rat=1", f"{place}.deep.key=1e-3"])

    section, name = place.split(".")
    assert getattr(getattr(experiment, section), name) == {
        "learning_rat": 1,
        "deep": {"key": 0.001},
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("algorithm.batch_size=x", "algorithm.batch_size: expected a number, found 'x'"),
        ("algorithm.batch_size='8'", "algorithm.batch_size: expected a number, found '8'"),
        ("algorithm.batch_size=true", "algorithm.batch_size: expected a number, found True"),
        ("algorithm.batch_size=0", "algorithm.batch_size: input should be greater than or equal"),
        ("algorithm.batch_size=1.5", "algorithm.batch_size: input should be a valid integer"),
        ("algorithm.discount=.nan", "algorithm.discount: must be finite, found nan"),
        ("algorithm.discount=1.5", "algorithm.discount: input should be less than or equal to 1"),
        ("stop.return_mean=.inf", "stop.return_mean: must be finite, found inf"),
        ("stop.frames=0", "stop.frames: input should be greater than or equal to 1, found 0"),
        ("seed=-1", "seed: input should be greater than or equal to 0, found -1"),
        ("network.last_action=1", "network.last_action: input should be a valid boolean, found 1"),
        ("network.core=gru", "network.core: input should be 'none' or 'lstm', found 'gru'"),
        ("algorithm.optimizer.name=sgd", "algorithm.optimizer.name: input should be 'rmsprop' or"),
        ("name=A b", "name: a name is lower-case letters, digits, '.', '_' and '-', at most 63"),
        ("env.id=3", "env.id: input should be a valid string, found 3"),
        ("env.id=", "env.id: input should be a valid string, found nothing"),
        ("env=3", "env: expected keys below it, found 3"),
        ("env.kwargs=", "env.kwargs: expected keys below it, found nothing"),
        ("env.wrappers=[{id: Wrapper}]", "env.wrappers.0.id: expected module:Class"),
        ("policies={}", "policies: dictionary should have at least 1 item"),
        ("policies.RED.share=1", "policies.RED: a name is lower-case letters"),
        ("policies.red.share=0", "policies.red.share: input should be greater than or equal to"),
        ("actor.slots=4097", "actor.slots: input should be less than or equal to 4096"),
    ],
)
def test_an_impossible_value_is_one_line(override, said):
    assert message(override).startswith(said)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["algorithm.batch_size=2049"],
            "algorithm.batch_size: a batch of 2049 slots never fits the buffer of policy "
            "'default', which holds 64 unrolls of 32 slots, some of them half used: raise "
            "buffer.max_entries to 65 or more",
        ),
        (
            ["policies={red: {}, blue: {}}", "algorithm.batch_size=1025"],
            "algorithm.batch_size: a batch of 1025 slots never fits",
        ),
        (["actor.slots=1", "policies={red: {}, blue: {}}"], "actor.slots: 1 slots cannot serve 2"),
        (["algorithm.rho_bar=.5"], "algorithm.c_bar: V-trace needs c_bar ≤ rho_bar"),
        (
            ["env.vectorization=native", "env.wrappers=[{id: 'a:B'}]"],
            "env.vectorization: native environments take no wrappers",
        ),
        (["actor.lockstep=true", "actor.slots=16"], "actor.lockstep: policy 'default' needs batch"),
        (["actor.lockstep=true", "learner.publish_every=2"], "actor.lockstep: learner.publish"),
    ],
)
def test_an_impossible_combination_is_explained(overrides, said):
    assert said in message(*overrides)


def test_a_batch_that_just_fits_is_possible():
    assert parse(BASE, ["algorithm.batch_size=2048"]).algorithm.batch_size == 2048


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not an experiment in YAML: line 1, column 6"),
        ("name: a\nname: b", "line 2, column 1: name is there twice"),
        ("1: 2", "keys are names, found 1"),
        ("a: !!python/object:os.system {}", "line 1, column 4: could not determine a constructor"),
        ("- 1", "expected an experiment (name, env, …), found a list"),
        ("", "expected an experiment (name, env, …), found nothing"),
        ("env: {id: a}", "name is missing"),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_what_is_no_experiment_is_one_line(text, said):
    assert said in message(text=text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env.id", "--set env.id: expected KEY=VALUE"),
        ("=1", "--set =1: expected KEY=VALUE"),
        ("env..id=1", "--set env..id=1: expected KEY=VALUE"),
        ("name.x=1", "--set name.x=1: name is a value, not a section"),
        ("env.id=[", "--set env.id=[: the value is not YAML"),
    ],
)
def test_a_malformed_override_is_one_line(override, said):
    assert message(override).startswith(said)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "binary")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)


def test_numbers_are_read_as_people_write_them():
    experiment = parse(BASE, ["algorithm.optimizer.learning_rate=1e-3", "stop.frames=1e6"])

    assert experiment.algorithm.optimizer.learning_rate == 1e-3
    assert experiment.stop.frames == 1_000_000
    assert parse(BASE, ["stop.frames=2.5e6"]).stop.frames == 2_500_000


OWN = """
name: try
env: {id: a}
network: {id: mlp, kwargs: {hidden: [8]}, core: lstm}
algorithm: {batch_size: 8, lambda: 0.9, rho_bar: 2, c_bar: 2, optimizer: {name: adam, decay: 0.5}}
policies:
  red: {}
  blue:
    network: {core_size: 16, kwargs: {depth: 2}}
    algorithm: {discount: 0.5, optimizer: {learning_rate: 1e-3}}
  green: {network: {id: minatar, kwargs: {width: 4}}}
"""


def test_a_policy_overrides_single_keys_and_keeps_the_experiment_s_others():
    experiment = parse(OWN)

    assert experiment.network_of("red") == experiment.network
    assert experiment.algorithm_of("red") == experiment.algorithm
    network, algorithm = experiment.network_of("blue"), experiment.algorithm_of("blue")
    assert (network.core, network.core_size) == ("lstm", 16)
    assert network.kwargs == {"hidden": [8], "depth": 2}
    assert (algorithm.discount, algorithm.lambda_, algorithm.c_bar) == (0.5, 0.9, 2)
    assert algorithm.optimizer.learning_rate == 1e-3
    assert (algorithm.optimizer.name, algorithm.optimizer.decay) == ("adam", 0.5)
    green = experiment.network_of("green")
    assert (green.kwargs, green.core) == ({"width": 4}, "lstm"), "kwargs belong to an id"


def test_what_policies_override_survives_the_run_directory():
    experiment = parse(OWN)
    again = parse(dump(experiment))

    assert again == experiment
    assert experiment_hash(again) == experiment_hash(experiment)
    other = parse(OWN, ["policies.blue.algorithm.discount=0.6"])
    assert experiment_hash(other) != experiment_hash(experiment)


def test_what_a_policy_overrides_is_checked_together_with_the_rest():
    assert message("policies.red.algorithm.rho_bar=1", text=OWN) == (
        "policies.red.algorithm: algorithm.c_bar: V-trace needs c_bar ≤ rho_bar, found 2.0 > 1.0"
    )
    assert message("algorithm.rho_bar=.5").startswith("algorithm.c_bar: V-trace needs")


@pytest.mark.parametrize("wrong", ["network=3", "policies.red=3", "policies.red.network=3"])
def test_no_section_at_all_is_one_line(wrong):
    assert "expected keys below it, found 3" in message("policies.red.share=1", wrong, text=OWN)


def test_an_override_makes_the_sections_it_needs():
    text = "name: try\nenv: {id: a}\nalgorithm:\n"

    assert parse(text, ["algorithm.optimizer.name=adam"]).algorithm.optimizer.name == "adam"


def test_a_dumped_experiment_is_the_same_experiment():
    experiment = parse(
        BASE, ["policies.red.share=2", "algorithm.lambda=.9", "env.wrappers=[{id: 'a:B'}]"]
    )

    again = parse(dump(experiment))

    assert again == experiment
    assert experiment_hash(again) == experiment_hash(experiment)


@pytest.mark.parametrize("key", [key for key, free in fixed_keys().items() if free])
def test_the_hash_leaves_out_what_may_change_on_resume(key):
    changed = changed_value(key)

    assert changed != parse(BASE)
    assert experiment_hash(changed) == experiment_hash(parse(BASE))


@pytest.mark.parametrize(
    "key",
    [key for key, free in fixed_keys().items() if not free and key != "algorithm.name"],
    # which has one value only
)
def test_the_hash_covers_everything_else(key):
    assert experiment_hash(changed_value(key)) != experiment_hash(parse(BASE))


def changed_value(key: str) -> Experiment:
    """The base experiment with another value at `key`."""
    special = {
        "name": "other",
        "env.id": "Acrobot-v1",
        "env.kwargs": "{a: 1}",
        "env.wrappers": "[{id: 'a:B'}]",
        "env.vectorization": "sync",
        "network.id": "shallow",
        "network.kwargs": "{a: 1}",
        "network.core": "lstm",
        "policies": "{red: {}}",
        "actor.engine": "torch",
        "learner.device": "cpu",
        "learner.precision": "bfloat16",
        "algorithm.optimizer.name": "adam",
        "algorithm.reward.transform": "clip",
        "algorithm.c_bar": "0.5",
        "actor.lockstep": "true",
    }
    if key in special:
        return parse(BASE, [f"{key}={special[key]}"])
    leaf = yaml.safe_load(dump(parse(BASE)))
    for part in key.split("."):
        leaf = leaf[part]
    match leaf:
        case bool():
            value = str(not leaf).lower()
        case None:
            value = "5"
        case float() if (
            0 < leaf <= 1 and key != "algorithm.rho_bar"
        ):  # which may not be below c_bar
            value = str(leaf / 2)
        case _:
            value = str(leaf + 1)
    return parse(BASE, [f"{key}={value}"])


@given(
    slots=st.integers(1, 200),
    shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=8),
)
def test_slots_are_shared_out_completely_and_fairly(slots, shares):
    policies = {f"p{i}": PolicyConfig(share=share) for i, share in enumerate(shares)}
    if slots < len(policies):
        return
    text = yaml.safe_dump({
        "name": "try",
        "env": {"id": "a"},
        "actor": {"slots": slots},
        "algorithm": {"batch_size": 1},
        "policies": {name: {"share": policy.share} for name, policy in policies.items()},
    })  # fmt: skip
    ranges = parse(text).slot_ranges()

    assert [slot for each in ranges.values() for slot in each] == list(range(slots))
    assert all(len(each) >= 1 for each in ranges.values())
    spare = slots - len(policies)
    for each, share in zip(ranges.values(), shares, strict=True):
        assert abs(len(each) - 1 - spare * share / sum(shares)) < 1 + 1e-9


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_that_ships_is_valid_and_ends(path):
    experiment = load(path)

    assert path.read_text().startswith("# "), "says what it shows"
    assert experiment.name == path.stem.replace("_", "-")
    assert experiment.stop.return_mean is not None
    assert experiment.stop.frames is not None


def test_another_id_leaves_the_arguments_of_the_first_behind():
    text = """
name: x
env: {id: A-v0, kwargs: {size: 3}, wrappers: [{id: "m:W"}]}
network: {id: mlp, kwargs: {hidden: [8]}}
"""
    changed = parse(text, ["network.kwargs={width: 3}", "network.id=mine.nets:Net", "env.id=B-v0"])
    assert changed.network.kwargs == {"width": 3}
    assert changed.env.kwargs == {}
    assert changed.env.wrappers == ()
    same = parse(text, ["network.id=mlp", "env.id=A-v0"])
    assert same.network.kwargs == {"hidden": [8]}
    assert same.env.kwargs == {"size": 3}
