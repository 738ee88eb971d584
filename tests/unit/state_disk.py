"""The parameter server's state with a disk in memory, for tests of the state machine."""

import grpc
import pytest
from param_servers import SPEC
from pronk_param_server.records import Change, RunRecord, Saved
from pronk_param_server.refusal import Refusal
from pronk_param_server.state import State

from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.spec import to_proto
from pronk.wire.v1 import registry_pb2 as pb

HASH = "e" * 16
A, B = "a" * 32, "b" * 32
BLOB = "0" * 64


class Disk:
    """What a store does, in memory: changes are kept, and a restart sees only those."""

    def __init__(self, *policies: str) -> None:
        self.policies = policies or ("default",)
        self.saved = Saved(RunRecord("run-1", HASH))
        self.now = 100.0
        self.state = State(self.saved, self.policies, self.now)

    def change(self, change: Change | None) -> None:
        if change is None:
            return
        saved = self.saved
        self.saved = Saved(
            change.run or saved.run,
            saved.policies | {record.policy: record for record in change.policies},
            saved.releases | ({change.release.id: change.release} if change.release else {}),
        )
        self.state.apply(change)

    def restart(self, *, clean: bool = False) -> None:
        if clean:
            self.change(self.state.decide_tightening())
        self.state = State(self.saved, self.policies, self.now)

    def join(self, kind: pb.MemberKind.ValueType, incarnation: str, /, **fields: object) -> str:
        request = registration(kind, incarnation, **({"policies": self.policies} | fields))
        self.change(self.state.decide_registration(request))
        return self.state.members.register(request, self.now).id

    def learner(self, incarnation: str = A, policy: str = "") -> str:
        policies = [policy or self.policies[0]]
        return self.join(pb.MEMBER_KIND_LEARNER, incarnation, policies=policies)

    def grant(self, member: str, policy: str = "") -> tuple[int, int]:
        policy = policy or self.policies[0]
        request = pb.GrantEpochRequest(member=member, policy=policy)
        self.change(self.state.decide_grant(request, self.now))
        record = self.state.policies[policy]
        return record.epoch, record.floor

    def publish(self, member: str, epoch: int, number: int, json: str = "{}") -> None:
        request = publication(member, epoch, number, json, self.policies[0])
        if not self.state.check_publish(request):
            return
        self.change(self.state.decide_reservation(request.manifest.version))
        self.state.publish(request.manifest)

    def release(self, member: str, epoch: int, number: int) -> pb.Release:
        request = pb.CutReleaseRequest(member=member, version=version(epoch, number), reason="r")
        self.change(self.state.decide_release(request, created=1.0))
        return self.state.release_of(request.version)

    def set_run_state(self, member: str, state: pb.RunState.ValueType, reason: str = "") -> None:
        request = pb.SetRunStateRequest(member=member, state=state, reason=reason)
        self.change(self.state.decide_run_state(request))


def registration(
    kind: pb.MemberKind.ValueType, incarnation: str, /, **fields: object
) -> pb.RegisterRequest:
    values: dict[str, object] = {
        "kind": kind,
        "contract_version": CONTRACT_VERSION,
        "experiment_hash": HASH,
        "incarnation": incarnation,
        "spec": None if kind == pb.MEMBER_KIND_LEARNER else to_proto(SPEC),
    }
    return pb.RegisterRequest(**(values | fields))  # type: ignore[arg-type]


def version(epoch: int, number: int, policy: str = "default") -> pb.Version:
    return pb.Version(policy=policy, epoch=epoch, number=number)


def publication(
    member: str, epoch: int, number: int, json: str = "{}", policy: str = "default"
) -> pb.PublishRequest:
    manifest = pb.PolicyManifest(version=version(epoch, number, policy), json=json, blobs=[BLOB])
    return pb.PublishRequest(member=member, manifest=manifest)


def refused(code: str, words: str = "") -> "pytest.RaisesExc[Refusal]":
    return pytest.raises(
        Refusal, match=words or None, check=lambda error: error.code == grpc.StatusCode[code]
    )
