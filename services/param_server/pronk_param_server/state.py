"""The cluster's state machine: run, spec, epochs, versions, run state. Pure: no I/O, no clock.

A decision that must outlive the server is a `Change`: `decide_…` makes it or raises `Refusal`, the
caller writes it to disk, then `apply` makes it true. Between the two nothing else may be decided.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from pronk.wire.digest import digest
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import spec_pb2
from pronk_param_server import admission
from pronk_param_server.members import LEASE_SECONDS, Members
from pronk_param_server.records import Change, PolicyRecord, RunRecord, Saved
from pronk_param_server.refusal import (
    EXISTS,
    INVALID,
    NOT_FOUND,
    PRECONDITION,
    Refusal,
)

RESERVED_NUMBERS = 1000
"""Version numbers are reserved on disk in blocks of this many, one write for each."""
KEPT_VERSIONS = 3
"""Newest versions of a policy that stay in memory."""
MAX_NUMBER = 1 << 53
"""Version numbers stay below, so that every reader can hold them exactly."""


class State:
    """The state of one server incarnation.

    Args:
        saved: what is on disk.
        policies: the experiment's policies.
        now: the clock; leases of holders from before the start end `LEASE_SECONDS` after it.
    """

    def __init__(self, saved: Saved, policies: Iterable[str], now: float) -> None:
        self.run: RunRecord = saved.run
        self.members = Members(now)
        self.policies: dict[str, PolicyRecord] = {
            name: saved.policies.get(name, PolicyRecord(name)) for name in policies
        }
        self.releases: dict[str, pb.Release] = dict(saved.releases)
        self._started = now
        # No number above it was ever published; exact once this incarnation has seen a version.
        self._highest = {name: record.reserved for name, record in self.policies.items()}
        self._versions: dict[str, deque[pb.PolicyManifest]] = {
            name: deque(maxlen=KEPT_VERSIONS) for name in self.policies
        }
        self._hashes: dict[str, str] = {}
        # Until the learner publishes again, new actors act with the newest release that is whole.
        for release in sorted(self.releases.values(), key=_number):
            whole = saved.lost.isdisjoint(release.manifest.blobs)
            if whole and release.manifest.version.policy in self._versions:
                self._hold(release.manifest)

    def decide_registration(self, request: pb.RegisterRequest) -> Change | None:
        """Check a registration; the first actor's brings the spec, which must be stored first."""
        return admission.check(request, self.run, tuple(self.policies))

    @property
    def spec(self) -> spec_pb2.EnvironmentSpec | None:
        """The environment's spec; None before the first actor."""
        content = self.run.spec
        return None if content is None else spec_pb2.EnvironmentSpec.FromString(content)

    # Epochs

    def decide_grant(self, request: pb.GrantEpochRequest, now: float) -> Change:
        """The next epoch of a policy, for a learner that trains it."""
        member = self.members.get(request.member)
        record = self._record(request.policy)
        if member.kind != pb.MEMBER_KIND_LEARNER or record.policy not in member.policies:
            raise Refusal(INVALID, f"member {member.id} did not register to train {record.policy}")
        if record.holder != member.id and self._holds_lease(record, now):
            raise Refusal(
                PRECONDITION,
                f"learner {record.holder} holds epoch {record.epoch} of policy "
                f"{record.policy} and is alive",
            )
        floor = self._highest[record.policy]
        granted = replace(record, epoch=record.epoch + 1, holder=member.id, floor=floor)
        detail: dict[str, str | int] = {
            "policy": record.policy,
            "epoch": granted.epoch,
            "member": member.id,
            "floor": floor,
        }
        return Change("epoch_granted", detail, policies=(granted,))

    def decide_leave(self, member_id: str) -> Change | None:
        """A learner that leaves gives its epochs back."""
        freed = tuple(
            replace(record, holder="")
            for record in self.policies.values()
            if record.holder == member_id
        )
        return Change("epoch_given_back", {"member": member_id}, policies=freed) if freed else None

    def _holds_lease(self, record: PolicyRecord, now: float) -> bool:
        if not record.holder:
            return False
        # A holder from before the server's start may still be alive, about to register again.
        return record.holder in self.members or now - self._started < LEASE_SECONDS

    def _check_holder(self, member_id: str, version: pb.Version) -> PolicyRecord:
        record = self._record(version.policy)
        if version.epoch != record.epoch or record.holder not in ("", member_id):
            raise Refusal(
                PRECONDITION,
                f"epoch {version.epoch} of policy {record.policy} ended: the newest is "
                f"{record.epoch}, held by {record.holder or 'nobody'}",
            )
        if not record.holder:
            raise Refusal(PRECONDITION, f"epoch {record.epoch} was given back: ask for a new one")
        return record

    # Versions

    def newest(self, policy: str) -> pb.PolicyManifest | None:
        """The newest version of a policy."""
        versions = self._versions[self._record(policy).policy]
        return versions[-1] if versions else None

    def newest_versions(self) -> list[pb.Version]:
        """The newest version of each policy that has one."""
        return [versions[-1].version for versions in self._versions.values() if versions]

    def newest_hashes(self) -> dict[str, str]:
        """The hash of the newest version of each policy that has one."""
        return self._hashes

    def kept_blobs(self) -> set[str]:
        """Hashes of the blobs of every version in memory."""
        return {
            name
            for versions in self._versions.values()
            for manifest in versions
            for name in manifest.blobs
        }

    def check_publish(self, request: pb.PublishRequest) -> bool:
        """Whether a version is to be published; False when it already was."""
        version = request.manifest.version
        record = self._check_holder(request.member, version)
        if not record.floor < version.number < MAX_NUMBER:
            raise Refusal(
                INVALID,
                f"version number {version.number} of epoch {record.epoch} is not above its floor "
                f"{record.floor}",
            )
        for manifest in self._versions[version.policy]:
            if manifest.version.number == version.number:
                if manifest == request.manifest:
                    return False
                raise Refusal(EXISTS, f"version {version.number} exists with another content")
        newest = self.newest(version.policy)
        if newest is not None and version.number < newest.version.number:
            raise Refusal(
                EXISTS,
                f"version {version.number} comes after {newest.version.number} was published",
            )
        return True

    def decide_reservation(self, version: pb.Version) -> Change | None:
        """Reserve a block of numbers before the first of them is published."""
        record = self._record(version.policy)
        if version.number <= record.reserved:
            return None
        reserved = version.number + RESERVED_NUMBERS
        return Change("", {}, policies=(replace(record, reserved=reserved),))

    def publish(self, manifest: pb.PolicyManifest) -> None:
        """Make a version, checked before, the newest."""
        policy = manifest.version.policy
        self._hold(manifest)
        self._highest[policy] = max(self._highest[policy], manifest.version.number)

    def _hold(self, manifest: pb.PolicyManifest) -> None:
        policy = manifest.version.policy
        self._versions[policy].append(manifest)
        self._hashes[policy] = digest(manifest.json.encode())

    def decide_tightening(self) -> Change:
        """At a clean end: give unused numbers back, so that the next start leaves no gap."""
        tight = (replace(r, reserved=self._highest[name]) for name, r in self.policies.items())
        return Change("server_stopped", {}, policies=tuple(tight))

    # Releases and the run's state

    def decide_release(self, request: pb.CutReleaseRequest, created: float) -> Change | None:
        """A new release at Unix time `created`; None when the version already is one."""
        version = request.version
        record = self._record(version.policy)
        if request.member:
            self._check_holder(request.member, version)
        release_id = _release_id(version)
        if release_id in self.releases:
            return None
        for manifest in self._versions[record.policy]:
            if manifest.version == version:
                release = pb.Release(
                    id=release_id, manifest=manifest, created=created, reason=request.reason
                )
                detail: dict[str, str | int] = {"release": release_id, "reason": request.reason}
                return Change("release_cut", detail, release=release)
        raise Refusal(
            NOT_FOUND,
            f"version {version.number} of policy {record.policy} is not among the newest "
            f"{KEPT_VERSIONS}: publish it first",
        )

    def release_of(self, version: pb.Version) -> pb.Release:
        """The release that a version is.

        Raises:
            KeyError: it is none.
        """
        return self.releases[_release_id(version)]

    def decide_run_state(self, request: pb.SetRunStateRequest) -> Change:
        """The run's next state; learners speak for their policy, operators for the run."""
        if request.state not in (
            pb.RUN_STATE_RUNNING,
            pb.RUN_STATE_FINISHED,
            pb.RUN_STATE_FAILED,
        ):
            raise Refusal(INVALID, "a run is RUNNING, FINISHED or FAILED")
        finished = request.state == pb.RUN_STATE_FINISHED
        held = [
            record
            for record in self.policies.values()
            if not request.member or record.holder == request.member
        ]
        if not held:
            raise Refusal(PRECONDITION, f"member {request.member} holds the epoch of no policy")
        changed = {record.policy: replace(record, finished=finished) for record in held}
        state = request.state
        if finished and not all(r.finished for r in (self.policies | changed).values()):
            state = self.run.state
        detail: dict[str, str | int] = {
            "member": request.member,
            "asked": pb.RunState.Name(request.state),
            "state": pb.RunState.Name(state),
            "reason": request.reason,
        }
        reason = request.reason if state == request.state else self.run.reason
        run = replace(self.run, state=state, reason=reason)
        return Change("run_state", detail, run=run, policies=tuple(changed.values()))

    def apply(self, change: Change) -> None:
        """Make a change, now on disk, true."""
        self.run = change.run or self.run
        self.policies |= {record.policy: record for record in change.policies}
        if change.release is not None:
            self.releases[change.release.id] = change.release

    def _record(self, policy: str) -> PolicyRecord:
        record = self.policies.get(policy)
        if record is None:
            raise Refusal(INVALID, f"no policy {policy!r}: there are {', '.join(self.policies)}")
        return record


def _release_id(version: pb.Version) -> str:
    return f"{version.policy}-{version.number}"


def _number(release: pb.Release) -> int:
    return release.manifest.version.number
