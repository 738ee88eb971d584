"""The parameter server's state machine, without network, disk or clock."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from param_servers import SPEC
from pronk_param_server.members import LEASE_SECONDS
from pronk_param_server.overview import tell_metrics
from pronk_param_server.state import KEPT_VERSIONS, RESERVED_NUMBERS
from state_disk import A, B, Disk, publication, refused

from pronk.telemetry import metrics
from pronk.wire.spec import to_proto
from pronk.wire.v1 import registry_pb2 as pb

# Registration


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"experiment_hash": "f" * 16}, "FAILED_PRECONDITION", "experiment differs.*eeee.*ffff"),
        ({"contract_version": 99}, "FAILED_PRECONDITION", "contract version 99"),
        ({"policies": ["green"]}, "INVALID_ARGUMENT", "no policy green; the run has default"),
        ({"policies": []}, "INVALID_ARGUMENT", "with its policies"),
        ({"incarnation": "short"}, "INVALID_ARGUMENT", "incarnation"),
        ({"incarnation": "no/slashes/in/an/incarnation"}, "INVALID_ARGUMENT", "incarnation"),
        ({"spec": None}, "INVALID_ARGUMENT", "environment's spec"),
        ({"kind": pb.MEMBER_KIND_UNSPECIFIED}, "INVALID_ARGUMENT", "kind"),
    ],
)
def test_registrations_that_are_refused(fields: dict[str, object], code: str, words: str) -> None:
    disk = Disk()
    with refused(code, words):
        disk.join(pb.MEMBER_KIND_TRAIN, A, **fields)
    assert not list(disk.state.members.all())


def test_first_actor_brings_the_spec_and_later_ones_must_have_the_same() -> None:
    disk = Disk()
    assert disk.state.spec is None
    disk.join(pb.MEMBER_KIND_TRAIN, A)
    disk.join(pb.MEMBER_KIND_EVALUATE, B)
    assert disk.state.spec == to_proto(SPEC)
    other = replace(SPEC, environment="Acrobot-v1")
    with refused("FAILED_PRECONDITION", "environment is Acrobot-v1, registered was CartPole-v1"):
        disk.join(pb.MEMBER_KIND_TRAIN, "c" * 32, spec=to_proto(other))


def test_a_learner_needs_no_spec_and_trains_one_policy() -> None:
    disk = Disk("red", "blue")
    disk.learner(policy="red")
    assert disk.state.spec is None
    with refused("INVALID_ARGUMENT", "one policy"):
        disk.join(pb.MEMBER_KIND_LEARNER, B, policies=["red", "blue"])


def test_indexes_are_the_smallest_free_ones_of_a_kind() -> None:
    disk = Disk()
    ids = [disk.join(pb.MEMBER_KIND_TRAIN, letter * 32) for letter in "abc"]
    assert [disk.state.members.get(i).index for i in ids] == [0, 1, 2]
    evaluator = disk.join(pb.MEMBER_KIND_EVALUATE, "e" * 32)
    assert disk.state.members.get(evaluator).index == 0
    disk.state.members.remove(ids[1])
    late = disk.join(pb.MEMBER_KIND_TRAIN, "d" * 32)
    assert disk.state.members.get(late).index == 1


def test_the_same_incarnation_is_the_same_member() -> None:
    disk = Disk()
    first = disk.join(pb.MEMBER_KIND_TRAIN, A)
    disk.join(pb.MEMBER_KIND_TRAIN, B)
    assert disk.join(pb.MEMBER_KIND_TRAIN, A) == first == f"train-{A[:12]}"
    assert disk.state.members.get(first).index == 0
    assert len(list(disk.state.members.all())) == 2


def test_a_member_keeps_its_index_over_a_restart() -> None:
    """Seeds derive from it: a newcomer must not get an index that somebody acts with."""
    disk = Disk()
    disk.join(pb.MEMBER_KIND_TRAIN, A)
    disk.join(pb.MEMBER_KIND_TRAIN, B)
    disk.restart()
    again = disk.join(pb.MEMBER_KIND_TRAIN, B, index=1)
    newcomer = disk.join(pb.MEMBER_KIND_TRAIN, "c" * 32)
    assert disk.state.members.get(again).index == 1
    assert disk.state.members.get(newcomer).index == 0


@pytest.mark.parametrize("host", ["a\x1b[2Jb", "a\nb", "x" * 256])
def test_a_host_s_name_can_be_shown(host: str) -> None:
    with refused("INVALID_ARGUMENT", "printable"):
        Disk().join(pb.MEMBER_KIND_TRAIN, A, host=host)


# Leases


def test_silent_members_are_removed() -> None:
    disk = Disk()
    quiet, alive = disk.join(pb.MEMBER_KIND_TRAIN, A), disk.join(pb.MEMBER_KIND_TRAIN, B)
    for _ in range(int(LEASE_SECONDS) + 1):
        disk.now += 1
        disk.state.members.heartbeat(pb.HeartbeatRequest(member=alive), disk.now)
        gone = disk.state.members.expire(disk.now)
    assert [member.id for member in gone] == [quiet]
    with refused("NOT_FOUND", "register again"):
        disk.state.members.heartbeat(pb.HeartbeatRequest(member=quiet), disk.now)
    assert [member.id for member in disk.state.members.all()] == [alive]


def test_silence_while_the_server_stood_still_counts_for_nobody() -> None:
    disk = Disk()
    disk.join(pb.MEMBER_KIND_TRAIN, A)
    disk.state.members.expire(disk.now)
    assert disk.state.members.expire(disk.now + 60) == []


# Epochs


def test_epochs_rise_and_another_learner_waits_for_the_lease() -> None:
    disk = Disk()
    first, second = disk.learner(A), disk.learner(B)
    assert disk.grant(first) == (1, 0)
    with refused("FAILED_PRECONDITION", f"{first} holds epoch 1"):
        disk.grant(second)
    assert disk.grant(first)[0] == 2, "the same member may ask again"
    disk.state.members.remove(first)  # as its lease ended
    disk.now += LEASE_SECONDS + 1
    assert disk.grant(second)[0] == 3


def test_a_learner_that_leaves_frees_its_policy_at_once() -> None:
    disk = Disk()
    first, second = disk.learner(A), disk.learner(B)
    disk.grant(first)
    disk.change(disk.state.decide_leave(first))
    disk.state.members.remove(first)
    assert disk.grant(second)[0] == 2


def test_after_a_restart_the_holder_has_a_lease_to_come_back() -> None:
    disk = Disk()
    holder = disk.learner(A)
    disk.grant(holder)
    disk.restart()
    other = disk.learner(B)
    with refused("FAILED_PRECONDITION"):
        disk.grant(other)
    disk.now += LEASE_SECONDS + 0.1
    assert disk.grant(other)[0] == 2


def test_only_a_learner_of_the_policy_is_granted_it() -> None:
    disk = Disk("red", "blue")
    red = disk.learner(A, "red")
    actor = disk.join(pb.MEMBER_KIND_TRAIN, B)
    for member, policy in ((red, "blue"), (actor, "red"), (red, "green")):
        with refused("INVALID_ARGUMENT"):
            disk.grant(member, policy)
    with refused("NOT_FOUND"):
        disk.grant("learner-unknown", "red")


# Versions


def test_publishing_is_idempotent_and_makes_the_newest() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    disk.publish(learner, 1, 1)
    assert not disk.state.check_publish(publication(learner, 1, 1))
    disk.publish(learner, 1, 2)
    newest = disk.state.newest("default")
    assert newest is not None
    assert newest.version.number == 2


def test_one_version_never_has_two_contents() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    disk.publish(learner, 1, 1)
    with refused("ALREADY_EXISTS", "another content"):
        disk.publish(learner, 1, 1, json='{"other": true}')


def test_an_older_version_is_not_published_after_a_newer_one() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    for number in range(1, KEPT_VERSIONS + 3):
        disk.publish(learner, 1, number)
    with refused("ALREADY_EXISTS"):
        disk.publish(learner, 1, 1)


@pytest.mark.parametrize("epoch", [0, 1, 3, 99])
def test_only_the_newest_epoch_publishes(epoch: int) -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    disk.grant(learner)
    with refused("FAILED_PRECONDITION", "the newest is 2"):
        disk.publish(learner, epoch, 1)


def test_only_the_holder_publishes_and_not_after_leaving() -> None:
    disk = Disk()
    learner, other = disk.learner(A), disk.learner(B)
    disk.grant(learner)
    with refused("FAILED_PRECONDITION"):
        disk.publish(other, 1, 1)
    disk.change(disk.state.decide_leave(learner))
    with refused("FAILED_PRECONDITION", "given back"):
        disk.publish(learner, 1, 1)


def test_numbers_start_above_the_floor_and_stay_in_range() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    disk.publish(learner, 1, 7)
    assert disk.grant(learner) == (2, 7)
    for number in (0, 7, 2**53):
        with refused("INVALID_ARGUMENT", "floor"):
            disk.publish(learner, 2, number)
    disk.publish(learner, 2, 8)


def test_only_the_newest_versions_keep_their_blobs() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    for number in range(1, 10):
        request = publication(learner, 1, number)
        del request.manifest.blobs[:]
        request.manifest.blobs.append(f"{number:064d}")
        assert disk.state.check_publish(request)
        disk.state.publish(request.manifest)
    assert disk.state.kept_blobs() == {f"{n:064d}" for n in range(10 - KEPT_VERSIONS, 10)}


@dataclass(frozen=True)
class Step:
    what: str
    count: int = 0


STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.sampled_from(["grant", "kill", "stop", "leave"])),
        st.builds(Step, st.just("publish"), st.integers(1, 2 * RESERVED_NUMBERS)),
    ),
    max_size=30,
)


@given(STEPS)
@example([Step("grant"), Step("publish", 2), Step("kill"), Step("grant")])
def test_no_history_uses_a_number_twice(steps: list[Step]) -> None:
    """Over grants, publishing, crashes and clean restarts: epochs rise, floors cover the past."""
    disk = Disk()
    learner = disk.learner()
    epoch, highest = 0, 0
    number: int | None = None  # of the learner, while it holds an epoch
    for step in steps:
        match step.what:
            case "grant":
                granted, floor = disk.grant(learner)
                assert granted > epoch
                assert floor >= highest
                epoch, number = granted, floor
            case "publish" if number is not None:
                number += step.count
                disk.publish(learner, epoch, number)
                assert number > highest, "numbers rise across epochs"
                highest = number
            case "kill" | "stop":
                disk.restart(clean=step.what == "stop")
                disk.learner()
            case "leave":
                disk.change(disk.state.decide_leave(learner))
                number = None
    if not any(step.what == "kill" for step in steps):
        assert disk.grant(learner)[1] == highest, "without crashes no number is skipped"


# Releases


def test_a_release_is_cut_once_and_survives() -> None:
    disk = Disk()
    learner = disk.learner()
    disk.grant(learner)
    disk.publish(learner, 1, 5)
    release = disk.release(learner, 1, 5)
    assert release.id == "default-5"
    assert disk.release(learner, 1, 5) == release
    disk.restart()
    assert disk.state.releases == {"default-5": release}
    newest = disk.state.newest("default")
    assert newest == release.manifest, "until the learner publishes, the release is served"


def test_releases_of_unknown_versions_and_old_epochs_are_refused() -> None:
    disk = Disk()
    learner, other = disk.learner(A), disk.learner(B)
    disk.grant(learner)
    disk.publish(learner, 1, 5)
    with refused("NOT_FOUND", "publish it first"):
        disk.release(learner, 1, 4)
    with refused("FAILED_PRECONDITION"):
        disk.release(other, 1, 5)
    disk.grant(learner)
    with refused("FAILED_PRECONDITION"):
        disk.release(learner, 1, 5)


# Run state


def test_finished_only_once_every_policy_is() -> None:
    disk = Disk("red", "blue")
    red, blue = disk.learner(A, "red"), disk.learner(B, "blue")
    disk.grant(red, "red")
    disk.grant(blue, "blue")
    disk.set_run_state(red, pb.RUN_STATE_FINISHED, "red is done")
    assert disk.state.run.state == pb.RUN_STATE_RUNNING
    disk.restart()
    assert disk.state.policies["red"].finished, "remembered over a restart"
    disk.set_run_state(blue, pb.RUN_STATE_FINISHED, "blue is done")
    assert (disk.state.run.state, disk.state.run.reason) == (pb.RUN_STATE_FINISHED, "blue is done")
    disk.restart()
    assert disk.state.run.state == pb.RUN_STATE_FINISHED
    disk.set_run_state(red, pb.RUN_STATE_RUNNING, "stop.frames was raised")
    assert disk.state.run.state == pb.RUN_STATE_RUNNING
    disk.set_run_state(blue, pb.RUN_STATE_FINISHED)
    assert disk.state.run.state == pb.RUN_STATE_RUNNING


def test_metrics_say_which_policy_is_finished() -> None:
    disk = Disk("red", "blue")
    red, shares = disk.learner(A, "red"), {"red": 0.5, "blue": 0.5}
    disk.grant(red, "red")
    disk.set_run_state(red, pb.RUN_STATE_FINISHED, "red is done")

    def told() -> dict[str, float]:
        tell_metrics(disk.state, shares)
        (family,) = metrics.POLICY_FINISHED.collect()
        found = {sample.labels["policy"]: sample.value for sample in family.samples}
        return {policy: found[policy] for policy in shares}  # others are of other tests

    assert told() == {"red": 1, "blue": 0}
    disk.set_run_state(red, pb.RUN_STATE_RUNNING, "stop.frames was raised")
    assert told() == {"red": 0, "blue": 0}


FLOATS = [
    (kind, field.name)
    for kind in ("actor", "learner")
    for field in pb.HeartbeatRequest.DESCRIPTOR.fields_by_name[kind].message_type.fields
    if field.cpp_type == field.CPPTYPE_DOUBLE
]
ANY_SIGN = {"return_mean", "lag_mean"}


@pytest.mark.parametrize(("kind", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1.7e308])
def test_numbers_that_nobody_has_counted_are_refused(kind: str, name: str, value: float) -> None:
    disk = Disk()
    member = disk.join(pb.MEMBER_KIND_TRAIN, A)
    sound = heartbeat(member, kind, name, 1.0)
    disk.state.members.heartbeat(sound, disk.now)
    if name in ANY_SIGN and math.isfinite(value):
        disk.state.members.heartbeat(heartbeat(member, kind, name, value), disk.now)
        return
    with refused("INVALID_ARGUMENT", name):
        disk.state.members.heartbeat(heartbeat(member, kind, name, value), disk.now)
    assert disk.state.members.get(member).report == sound


def heartbeat(member: str, kind: str, name: str, value: float) -> pb.HeartbeatRequest:
    request = pb.HeartbeatRequest(member=member)
    setattr(getattr(request, kind), name, value)
    return request


def test_one_learner_may_fail_the_run_and_an_operator_may_do_anything() -> None:
    disk = Disk("red", "blue")
    red = disk.learner(A, "red")
    disk.grant(red, "red")
    disk.set_run_state(red, pb.RUN_STATE_FAILED, "loss is not finite")
    assert (disk.state.run.state, disk.state.run.reason) == (
        pb.RUN_STATE_FAILED,
        "loss is not finite",
    )
    disk.set_run_state("", pb.RUN_STATE_FINISHED, "operator")
    assert disk.state.run.state == pb.RUN_STATE_FINISHED


def test_a_learner_without_an_epoch_decides_nothing() -> None:
    disk = Disk()
    learner, fenced = disk.learner(A), disk.learner(B)
    disk.grant(learner)
    with refused("FAILED_PRECONDITION"):
        disk.set_run_state(fenced, pb.RUN_STATE_FINISHED)
    with refused("INVALID_ARGUMENT"):
        disk.set_run_state(learner, pb.RUN_STATE_UNSPECIFIED)
