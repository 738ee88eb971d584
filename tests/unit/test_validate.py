"""Every field of an unroll can be wrong in every way, and is refused under the right reason."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from unroll_samples import HEADER, PLAIN, RICH, RICH_CORE, sample

from pronk.wire import codec
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.errors import WireError
from pronk.wire.spec import ArraySpec
from pronk.wire.unroll import Unroll
from pronk.wire.validate import Expectation, check

ROWS, SLOTS = 3, 2
EXPECTED = Expectation(
    HEADER.run, HEADER.experiment_hash, HEADER.policy, RICH, unroll_length=ROWS,
    core_shapes=RICH_CORE,
)  # fmt: skip


def whole() -> Unroll:
    return sample(RICH, RICH_CORE, rows=ROWS, slots=SLOTS)


def refusal(unroll: Unroll, expectation: Expectation = EXPECTED) -> str:
    with pytest.raises(WireError) as caught:
        check(unroll, expectation)
    return caught.value.reason


# Every array of an unroll: how to get it and how to put another in its place.
SINGLE = (
    "behaviour_log_prob",
    "reward",
    "terminated",
    "truncated",
    "valid",
    "task",
    "behaviour_version",
    "last_reward",
    "reset",
    "slot",
    "action_mask",
)
GROUPS = ("obs", "action", "core_state", "last_action", "distribution", "extras")
ARRAYS = [
    *((field, None) for field in SINGLE),
    *((group, name) for group in GROUPS for name in getattr(whole(), group)),
]
REQUIRED_GROUPS = ("obs", "action", "core_state", "last_action")


def with_array(
    field: str, name: str | None, change: Callable[[NDArray], NDArray], unroll: Unroll | None = None
) -> Unroll:
    unroll = unroll or whole()
    if name is None:
        return replace(unroll, **{field: change(getattr(unroll, field))})
    group = getattr(unroll, field)
    return replace(unroll, **{field: group | {name: change(group[name])}})


def is_float(field: str, name: str | None) -> bool:
    value = getattr(whole(), field)
    return (value if name is None else value[name]).dtype.kind == "f"


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_valid_unrolls_pass_through_the_codec(seed, rows, slots, rich):
    spec, core = (RICH, RICH_CORE) if rich else (PLAIN, {})
    unroll = sample(spec, core, rows=rows, slots=slots, seed=seed)
    expectation = replace(EXPECTED, spec=spec, core_shapes=core, unroll_length=rows)
    check(codec.decode(codec.encode(unroll)), expectation)


def test_optional_parts_may_be_absent():
    check(replace(whole(), distribution={}, extras={}, episodes=()), EXPECTED)


@pytest.mark.parametrize(
    ("field", "reason"), [("run", "run"), ("experiment_hash", "experiment"), ("policy", "policy")]
)
def test_foreign_unrolls(field, reason):
    unroll = whole()
    unroll.header = replace(HEADER, **{field: "another"})
    assert refusal(unroll) == reason


@pytest.mark.parametrize(
    "change",
    [
        {"member": ""},
        {"member": "train-0123456789ab" * 1000},
        {"member": "train-0123456789ab\n"},
        {"member": "train-é123456789ab"},
        {"sequence": 0},
    ],
)
def test_headers_that_no_member_has(change):
    unroll = whole()
    unroll.header = replace(HEADER, **change)
    assert refusal(unroll) == "range"


def test_nobody_acted_with_a_version_that_is_not_made_yet():
    newest = 1000
    expectation = replace(EXPECTED, newest_version=lambda: newest)
    unroll = with_array("behaviour_version", None, put(1001))
    assert refusal(unroll, expectation) == "range"
    newest = 1001  # it rises while the learner trains
    check(unroll, expectation)


WRONG_SHAPES: dict[str, Callable[[NDArray], NDArray]] = {
    "a row short": lambda a: a[:-1],
    "a row too many": lambda a: np.concatenate([a, a[:1]]),
    "an axis too many": lambda a: a[..., None],
    "an axis short": lambda a: a[0],
    "no rows": lambda a: a[:0],
    "a scalar": lambda a: a.reshape(-1)[0].reshape(()),
}


@pytest.mark.parametrize("change", WRONG_SHAPES)
@pytest.mark.parametrize(("field", "name"), ARRAYS)
def test_wrong_shape(field, name, change):
    # Any trailing axes do for an extra: nothing says what it holds.
    if field == "extras" and change in {"an axis too many"}:
        check(with_array(field, name, WRONG_SHAPES[change]), EXPECTED)
        return
    assert refusal(with_array(field, name, WRONG_SHAPES[change])) == "shape"


@pytest.mark.parametrize(("field", "name"), [a for a in ARRAYS if a[0] != "slot"])
def test_slots_that_differ_between_arrays(field, name):
    axis = 0 if field in {"core_state", "last_action", "last_reward", "reset"} else 1
    spoiled = with_array(field, name, lambda a: np.concatenate([a, a], axis))
    assert refusal(spoiled) == "shape"


@pytest.mark.parametrize(("field", "name"), [a for a in ARRAYS if a[0] != "extras"])
def test_wrong_dtype(field, name):
    def other(array: NDArray) -> NDArray:
        return array.astype({"f": "f8", "i": "i2", "b": "u1", "u": "i4"}[array.dtype.kind])

    assert refusal(with_array(field, name, other)) == "dtype"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("field", "name"), [a for a in ARRAYS if is_float(*a)])
def test_non_finite(field, name, value):
    def poison(array: NDArray) -> NDArray:
        array = array.copy()
        array.reshape(-1)[-1] = value
        return array

    assert refusal(with_array(field, name, poison)) == "non_finite"


def put(value: float) -> Callable[[NDArray], NDArray]:
    """The same array with another last element."""

    def change(array: NDArray) -> NDArray:
        array = array.copy()
        array.reshape(-1)[-1] = value
        return array

    return change


OUT_OF_RANGE = [
    ("action", "move", put(3)),
    ("action", "move", put(-1)),
    ("action", "move", put(2**40)),
    ("action", "keys", put(4)),
    ("action", "keys", put(-1)),
    ("last_action", "move", put(3)),
    ("last_action", "keys", put(-1)),
    ("obs", "level", put(10)),
    ("obs", "level", put(-1)),
    ("task", None, put(2)),
    ("task", None, put(-1)),
    ("behaviour_version", None, put(-1)),
    ("slot", None, put(-1)),
    ("slot", None, put(0)),
]


@pytest.mark.parametrize(("field", "name", "change"), OUT_OF_RANGE)
def test_out_of_range(field, name, change):
    assert refusal(with_array(field, name, change)) == "range"


@pytest.mark.parametrize("value", [1.1e9, -3e38])
@pytest.mark.parametrize(("field", "name"), [a for a in ARRAYS if is_float(*a)])
def test_numbers_that_nothing_can_be_computed_with(field, name, value):
    assert refusal(with_array(field, name, put(value))) == "range"
    check(with_array(field, name, put(np.copysign(MAX_FLOAT, value))), EXPECTED)


def test_first_choice_of_several_has_its_own_range():
    def change(array: NDArray) -> NDArray:
        array = array.copy()
        array[0, 0, 0] = 2  # of two; the second choice has four
        return array

    assert refusal(with_array("action", "keys", change)) == "range"


def test_whole_bounds_of_integers_are_allowed():
    for value in (0, 9):
        check(with_array("obs", "level", put(value)), EXPECTED)
    for value in (0, 255):
        check(with_array("obs", "image", put(value)), EXPECTED)


def test_bounds_of_float_observations_are_not_enforced():
    spec = replace(
        RICH, observation=(*RICH.observation[:2], ArraySpec("state", "float32", (4,), 0, 1))
    )
    check(with_array("obs", "state", put(1.5)), replace(EXPECTED, spec=spec))


def test_probabilities_above_one():
    plain = replace(EXPECTED, spec=PLAIN, core_shapes={})
    assert refusal(with_array("behaviour_log_prob", None, put(0.01), sample()), plain) == "range"
    # Rounding may lift it a little; a density may be above one.
    check(with_array("behaviour_log_prob", None, put(1e-6), sample()), plain)
    check(with_array("behaviour_log_prob", None, put(5.0)), EXPECTED)


@pytest.mark.parametrize("group", REQUIRED_GROUPS)
def test_names_must_be_those_of_the_spec(group):
    arrays = getattr(whole(), group)
    first, *_ = arrays
    extra = arrays | {"another": arrays[first]}
    missing = {name: value for name, value in arrays.items() if name != first}
    renamed = {f"{name}2": value for name, value in arrays.items()}
    for wrong in (extra, missing, renamed, {}):
        assert refusal(replace(whole(), **{group: wrong})) == "spec"


def test_a_distribution_is_whole_or_absent():
    distribution = whole().distribution
    del distribution["keys"]
    assert refusal(replace(whole(), distribution=distribution)) == "spec"


def test_a_mask_is_there_when_the_spec_says_so():
    assert refusal(replace(whole(), action_mask=None)) == "spec"
    assert refusal(whole(), replace(EXPECTED, spec=replace(RICH, action_mask=False))) == "spec"


# Where the logits of each choice begin: move 0…2, keys 3…4 and 5…8.
@pytest.mark.parametrize(
    ("action", "choice", "start"), [("move", 0, 0), ("keys", 0, 3), ("keys", 1, 5)]
)
def test_a_chosen_action_must_be_allowed(action, choice, start):
    unroll = whole()
    for t, n in np.argwhere(unroll.valid):
        mask = unroll.action_mask.copy()
        mask[t, n, start + unroll.action[action][t, n].reshape(-1)[choice]] = False
        assert refusal(replace(unroll, action_mask=mask)) == "range"


def test_what_was_not_chosen_may_be_forbidden():
    unroll = whole()
    mask = np.zeros_like(unroll.action_mask)
    for t, n in np.ndindex(ROWS, SLOTS):
        mask[t, n, unroll.action["move"][t, n]] = True
        for choice, start in ((0, 3), (1, 5)):
            mask[t, n, start + unroll.action["keys"][t, n, choice]] = True
    check(replace(unroll, action_mask=mask), EXPECTED)


def test_the_mask_of_a_row_that_is_not_valid_says_nothing():
    unroll = whole()
    valid = np.zeros_like(unroll.valid)
    nothing = np.zeros_like(unroll.action_mask)
    check(replace(unroll, valid=valid, action_mask=nothing), EXPECTED)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"episode_return": np.nan}, "non_finite"),
        ({"episode_return": -np.inf}, "non_finite"),
        ({"episode_return": 1.1e18}, "range"),
        ({"episode_return": -1e308}, "range"),
        ({"slot": 2}, "range"),
        ({"task": 2}, "range"),
        ({"steps": 0}, "range"),
        ({"frames": 0}, "range"),
    ],
)
def test_episodes(change, reason):
    unroll = whole()
    unroll.episodes = (unroll.episodes[0], unroll.episodes[1]._replace(**change))
    assert refusal(unroll) == reason


def test_more_episodes_than_rows():
    unroll = whole()
    unroll.episodes = unroll.episodes[:1] * (ROWS * SLOTS + 1)
    assert refusal(unroll) == "range"
