"""Questions and commands to the parameter server, beside membership and policies.

Every function waits for an unreachable server (and, but for releases and reports, for one whose
disk is full) until `stop` is set and then returns None or False; those without `stop` ask once.
`beat` feeds liveness in waits that may be long.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from pronk.errors import Fenced, Misconfigured
from pronk.transport.channels import CALL_SECONDS, refused
from pronk.transport.retry import code_of, details_of, is_outage, is_transient, until_answered
from pronk.wire import spec as specs
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import reports_pb2
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub
from pronk.wire.v1.reports_pb2_grpc import ReportServiceStub

_RELEASE_SECONDS = 30.0
"""Deadline of cutting a release, whose blobs go to disk, and of listing all."""


@dataclass(frozen=True)
class Grant:
    """The sole right to a policy. Versions of this epoch are numbered above `number_floor`."""

    epoch: int
    number_floor: int


def wait_for_spec(
    channel: grpc.Channel, stop: threading.Event, beat: Callable[[], None] = lambda: None
) -> specs.EnvironmentSpec | None:
    """The environment's spec, once the first actor has registered it; None when stopped.

    Raises:
        Misconfigured: the server refuses, or the spec is one that this pronk cannot use.
    """
    stub = RegistryServiceStub(channel)
    try:
        answer = until_answered(
            lambda: stub.GetSpec(pb.GetSpecRequest(), timeout=CALL_SECONDS),
            stop,
            "the first actor, which registers the environment's spec",
            again=lambda error: is_transient(error) or code_of(error) == grpc.StatusCode.NOT_FOUND,
            beat=beat,
        )
    except grpc.RpcError as error:
        raise refused(error) from None
    if answer is None:
        return None
    try:
        return specs.from_proto(answer.spec)
    except WireError as error:
        raise Misconfigured(f"the registered environment cannot be used: {error}") from None


def grant_epoch(
    channel: grpc.Channel,
    member: str,
    policy: str,
    stop: threading.Event,
    beat: Callable[[], None] = lambda: None,
) -> Grant | None:
    """The next epoch of a policy; waits while another learner's lease lives; None when stopped.

    Raises:
        Misconfigured: the server refuses for any other reason.
    """
    stub = RegistryServiceStub(channel)
    request = pb.GrantEpochRequest(member=member, policy=policy)
    # NOT_FOUND: the server restarted and the next heartbeat registers again.
    later = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)
    try:
        answer = until_answered(
            lambda: stub.GrantEpoch(request, timeout=CALL_SECONDS),
            stop,
            f"the right to train policy {policy!r}",
            again=lambda error: is_transient(error) or code_of(error) in later,
            beat=beat,
        )
    except grpc.RpcError as error:
        raise refused(error) from None
    return None if answer is None else Grant(answer.epoch, answer.number_floor)


def cut_release(
    channel: grpc.Channel,
    member: str,
    version: pb.Version,
    reason: str,
    stop: threading.Event,
    beat: Callable[[], None] = lambda: None,
) -> pb.Release | None:
    """Make a published version a release; None when stopped. An operator's `member` is empty.

    Raises:
        Fenced: another learner holds a newer epoch.
        grpc.RpcError: the server cannot (NOT_FOUND: it no longer has the version; ABORTED: its
            disk fails): count it and go on training.
    """
    stub = RegistryServiceStub(channel)
    request = pb.CutReleaseRequest(member=member, version=version, reason=reason)
    try:
        answer = until_answered(
            lambda: stub.CutRelease(request, timeout=_RELEASE_SECONDS),
            stop,
            "the parameter server, to cut a release",
            again=is_outage,
            beat=beat,
        )
    except grpc.RpcError as error:
        raise fenced_or(error) from None
    return None if answer is None else answer.release


def set_run_state(
    channel: grpc.Channel,
    member: str,
    state: pb.RunState.ValueType,
    reason: str,
    stop: threading.Event,
    beat: Callable[[], None] = lambda: None,
) -> bool:
    """Move the run to a state; False when stopped. An operator's `member` is empty.

    A learner speaks for its policy: the run is FINISHED once every policy is.

    Raises:
        Fenced: another learner holds a newer epoch.
        grpc.RpcError: the server cannot.
    """
    stub = RegistryServiceStub(channel)
    request = pb.SetRunStateRequest(member=member, state=state, reason=reason)
    try:
        answer = until_answered(
            lambda: stub.SetRunState(request, timeout=CALL_SECONDS),
            stop,
            "the parameter server, to set the run's state",
            beat=beat,
        )
    except grpc.RpcError as error:
        raise fenced_or(error) from None
    return answer is not None


def list_releases(channel: grpc.Channel, policy: str = "") -> list[pb.Release]:
    """Releases of a policy, of every policy by default, oldest first.

    Raises:
        grpc.RpcError: the server refuses or cannot be reached.
    """
    request = pb.ListReleasesRequest(policy=policy)
    answers = RegistryServiceStub(channel).ListReleases(request, timeout=_RELEASE_SECONDS)
    return [answer.release for answer in answers]


def leave_report(
    channel: grpc.Channel,
    member: str,
    report: reports_pb2.Report,
    stop: threading.Event,
    beat: Callable[[], None] = lambda: None,
) -> bool:
    """Leave what a policy's run came to with the parameter server; False when stopped.

    Raises:
        Fenced: another learner holds a newer epoch.
        grpc.RpcError: the server cannot.
    """
    stub = ReportServiceStub(channel)
    request = reports_pb2.LeaveReportRequest(member=member, report=report)
    try:
        answer = until_answered(
            lambda: stub.LeaveReport(request, timeout=CALL_SECONDS),
            stop,
            "the parameter server, to leave a report",
            again=is_outage,
            beat=beat,
        )
    except grpc.RpcError as error:
        raise fenced_or(error) from None
    return answer is not None


def list_reports(channel: grpc.Channel) -> list[reports_pb2.Report]:
    """What the learners left, by policy.

    Raises:
        grpc.RpcError: the server refuses or cannot be reached.
    """
    request = reports_pb2.ListReportsRequest()
    answers = ReportServiceStub(channel).ListReports(request, timeout=_RELEASE_SECONDS)
    return [answer.report for answer in answers]


def newest_version(channel: grpc.Channel, policy: str) -> pb.PolicyManifest:
    """The newest version of a policy that has one.

    Raises:
        grpc.RpcError: there is none (DEADLINE_EXCEEDED), or the server refuses.
    """
    stream = RegistryServiceStub(channel).Watch(
        pb.WatchRequest(policy=policy), timeout=CALL_SECONDS
    )
    manifest: pb.PolicyManifest = next(stream).manifest
    stream.cancel()
    return manifest


def status(channel: grpc.Channel) -> pb.GetStatusResponse:
    """Who is in the cluster and how it does.

    Raises:
        grpc.RpcError: the server refuses or cannot be reached.
        Misconfigured: it is of another version.
    """
    stub = RegistryServiceStub(channel)
    answer: pb.GetStatusResponse = stub.GetStatus(pb.GetStatusRequest(), timeout=CALL_SECONDS)
    if answer.contract_version != CONTRACT_VERSION:
        raise Misconfigured(
            f"the parameter server's contract version {answer.contract_version} does not fit this "
            f"pronk's {CONTRACT_VERSION}: use the version of pronk that runs there"
        )
    return answer


def fenced_or(error: grpc.RpcError) -> Exception:
    """`Fenced` for a refusal of an older epoch, else the error itself."""
    if code_of(error) == grpc.StatusCode.FAILED_PRECONDITION:
        return Fenced(details_of(error))
    return error


class EpisodeReporter:
    """Delivers a member's starts and ends of episodes, each batch exactly once.

    Call it from one thread, at most once a second; the caller gathers the batches, in bounds.
    """

    def __init__(self, channel: grpc.Channel, member: str) -> None:
        self._stub = RegistryServiceStub(channel)
        self._member = member
        self._sequence = 0

    def send(
        self,
        starts: Sequence[pb.EpisodeStart],
        ends: Sequence[pb.EpisodeEnd],
        stop: threading.Event,
    ) -> bool:
        """Deliver a batch; False when stopped first.

        Raises:
            grpc.RpcError: the server refuses the batch; the next one may be taken.
        """
        self._sequence += 1
        request = pb.ReportEpisodesRequest(
            member=self._member, sequence=self._sequence, starts=starts, ends=ends
        )
        # NOT_FOUND: the server restarted and the next heartbeat registers again.
        answer = until_answered(
            lambda: self._stub.ReportEpisodes(request, timeout=CALL_SECONDS),
            stop,
            "the parameter server, to report episodes",
            again=lambda error: is_transient(error) or code_of(error) == grpc.StatusCode.NOT_FOUND,
        )
        return answer is not None
