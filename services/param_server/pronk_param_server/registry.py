"""The registry service: decides one thing at a time, stores it, then answers."""

# ruff: noqa: N802 - gRPC names the methods.

import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from pronk.telemetry import logs, metrics
from pronk.transport.security import Authority, Roles
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.v1 import access_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceServicer
from pronk_param_server import overview
from pronk_param_server.blob_files import persist
from pronk_param_server.blobs import Blobs, check_hash
from pronk_param_server.calls import LARGE_BYTES, Context, answered, check_size, streamed
from pronk_param_server.episodes import Episodes
from pronk_param_server.ledger import Ledger
from pronk_param_server.members import HEARTBEAT_SECONDS, LEASE_SECONDS
from pronk_param_server.news import News
from pronk_param_server.refusal import DENIED, INVALID, NOT_FOUND, Refusal
from pronk_param_server.state import State
from pronk_param_server.writer import Writer

MAX_BLOBS = 16
"""Blobs of one version."""


class Registry(RegistryServiceServicer):
    """Serves `state`.

    Args:
        state: what is true.
        ledger: changes it.
        writer: the thread that stores blobs.
        blobs: the versions' bytes.
        blob_folder: where a release's bytes go.
        authority: tells an operator from a learner, where a method takes both.
        shares: share of an actor's slots that play each policy.
        incarnation: of this server.
    """

    def __init__(
        self,
        state: State,
        ledger: Ledger,
        writer: Writer,
        blobs: Blobs,
        blob_folder: Path,
        authority: Authority,
        shares: Mapping[str, float],
        incarnation: str,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._writer = writer
        self._blobs = blobs
        self._blob_folder = blob_folder
        self._authority = authority
        self._shares = shares
        self._incarnation = incarnation
        self._episodes = Episodes(state.policies.keys())
        self._news = News(state, blobs)

    # Members

    @answered
    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Issue a member id."""
        check_size(request, LARGE_BYTES)
        change = self._state.decide_registration(request)
        self._check_role(context, _role_of(request.kind))
        if change is not None:
            await self._ledger.change(lambda: self._state.decide_registration(request))
        member = self._state.members.register(request, time.monotonic())
        return pb.RegisterResponse(
            member=member.id,
            run=self._state.run.run,
            server_incarnation=self._incarnation,
            index=member.index,
            lease_seconds=LEASE_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            run_state=self._state.run.state,
            newest=self._state.newest_versions(),
            newest_hashes=self._state.newest_hashes(),
        )

    @answered
    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        """Renew a lease, and tell what changed."""
        check_size(request)
        self._check_role(context, _role_of(self._state.members.get(request.member).kind))
        if len(request.versions) > len(self._state.policies):
            raise Refusal(INVALID, "more versions than policies")
        self._state.members.heartbeat(request, time.monotonic())
        run = self._state.run
        return pb.HeartbeatResponse(
            server_incarnation=self._incarnation,
            run_state=run.state,
            run_state_reason=run.reason,
            newest=self._state.newest_versions(),
            epochs={name: record.epoch for name, record in self._state.policies.items()},
            newest_hashes=self._state.newest_hashes(),
        )

    @answered
    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveResponse:
        """End a lease; a member that is not known may leave as well."""
        check_size(request)
        if request.member in self._state.members:
            self._check_role(context, _role_of(self._state.members.get(request.member).kind))
            await self._ledger.change(lambda: self._state.decide_leave(request.member))
            self._state.members.remove(request.member)
            self._close_episodes(request.member)
        return pb.LeaveResponse()

    @answered
    async def GetSpec(self, request: pb.GetSpecRequest, context: Context) -> pb.GetSpecResponse:
        """The environment's spec."""
        check_size(request)
        spec = self._state.spec
        if spec is None:
            raise Refusal(NOT_FOUND, "no actor has registered yet")
        return pb.GetSpecResponse(spec=spec)

    # Versions

    @answered
    async def GrantEpoch(
        self, request: pb.GrantEpochRequest, context: Context
    ) -> pb.GrantEpochResponse:
        """Grant a learner the sole right to a policy."""
        check_size(request)
        await self._ledger.change(lambda: self._state.decide_grant(request, time.monotonic()))
        record = self._state.policies[request.policy]
        return pb.GrantEpochResponse(epoch=record.epoch, number_floor=record.floor)

    @answered
    async def Publish(self, request: pb.PublishRequest, context: Context) -> pb.PublishResponse:
        """Make a version the newest."""
        check_size(request, LARGE_BYTES)
        manifest = request.manifest
        if not self._state.check_publish(request):
            return pb.PublishResponse()
        await self._take_blobs(request)
        self._check_blobs(manifest)
        if self._state.decide_reservation(manifest.version) is not None:
            await self._ledger.change(lambda: self._state.decide_reservation(manifest.version))
        async with self._ledger.deciding:  # a grant may be on its way to the disk
            self._check_blobs(manifest)
            if self._state.check_publish(request):
                self._state.publish(manifest)
        self._blobs.retain(self._state.kept_blobs())
        metrics.VERSIONS_PUBLISHED.labels(manifest.version.policy).inc()
        self._news.announce(manifest.version.policy)
        return pb.PublishResponse()

    @streamed
    def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """Send the newest version, and every newer one that the reader is ready for."""
        check_size(request)
        return self._news.watch(request, context)

    @answered
    async def CutRelease(
        self, request: pb.CutReleaseRequest, context: Context
    ) -> pb.CutReleaseResponse:
        """Make a published version a release: first its bytes are on disk, then its record."""
        check_size(request)
        self._check_operator_or(request.member, context)
        change = self._state.decide_release(request, time.time())
        if change is not None and change.release is not None:
            contents = self._blobs.to_persist(change.release.manifest.blobs)
            await self._writer.run(persist, self._blob_folder, contents)
            self._blobs.persisted(contents)
            await self._ledger.change(lambda: self._state.decide_release(request, time.time()))
        return pb.CutReleaseResponse(release=self._state.release_of(request.version))

    @streamed
    async def ListReleases(
        self, request: pb.ListReleasesRequest, context: Context
    ) -> AsyncIterator[pb.ListReleasesResponse]:
        """Releases, oldest first."""
        check_size(request)
        for release in tuple(self._state.releases.values()):
            if request.policy in ("", release.manifest.version.policy):
                yield pb.ListReleasesResponse(release=release)

    # The run

    @answered
    async def SetRunState(
        self, request: pb.SetRunStateRequest, context: Context
    ) -> pb.SetRunStateResponse:
        """Move the run to a state."""
        check_size(request)
        self._check_operator_or(request.member, context)
        await self._ledger.change(lambda: self._state.decide_run_state(request))
        return pb.SetRunStateResponse()

    @answered
    async def ReportEpisodes(
        self, request: pb.ReportEpisodesRequest, context: Context
    ) -> pb.ReportEpisodesResponse:
        """Count starts and ends of episodes."""
        check_size(request, LARGE_BYTES)
        member = self._state.members.get(request.member)
        for policy, _kind in self._episodes.report(request, member.kind, time.monotonic()):
            metrics.EPISODES_REPORTED.labels(policy).inc()
        return pb.ReportEpisodesResponse()

    @answered
    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """Who is in the cluster and how it does."""
        check_size(request)
        state, now = self._state, time.monotonic()
        demands = overview.demands(state, self._shares)
        return pb.GetStatusResponse(
            run=state.run.run,
            server_incarnation=self._incarnation,
            experiment_hash=state.run.experiment_hash,
            run_state=state.run.state,
            run_state_reason=state.run.reason,
            members=[member.to_proto(now) for member in state.members.all()],
            newest=state.newest_versions(),
            # A full buffer of one policy blocks the whole actor: the slowest learner decides.
            actor_demand=min(demands.values(), default=None),
            episodes=self._episodes.summaries(),
            contract_version=CONTRACT_VERSION,
        )

    # What nobody calls from afar

    def sweep(self, now: float) -> None:
        """End leases and old episodes, and tell metrics; call it about once a second."""
        for member in self._state.members.expire(now):
            logs.get().warning("lease_ended", member=member.id)
            self._close_episodes(member.id)
        for policy, _kind in self._episodes.censor(now):
            metrics.EPISODES_CENSORED.labels(policy).inc()
        overview.tell_metrics(self._state, self._shares)

    async def close(self) -> None:
        """End all watches and store what makes the next start smooth."""
        self._news.close()
        try:
            await self._ledger.change(self._state.decide_tightening)
        except (OSError, sqlite3.Error) as error:
            logs.get().error("disk_failed", why=str(error))

    def _close_episodes(self, member: str) -> None:
        for policy, _kind in self._episodes.close(member):
            metrics.EPISODES_LOST.labels(policy).inc()

    async def _take_blobs(self, request: pb.PublishRequest) -> None:
        if not request.blobs.keys() <= set(request.manifest.blobs):
            raise Refusal(INVALID, "a blob that the version does not name")
        for name, content in request.blobs.items():
            if name not in self._blobs:
                with self._blobs.upload(name, len(content)) as upload:
                    upload.receive(content)
                    await self._writer.run(upload.hash_newest)
                    upload.finish()

    def _check_blobs(self, manifest: pb.PolicyManifest) -> None:
        if not 0 < len(manifest.blobs) <= MAX_BLOBS:
            raise Refusal(INVALID, f"a version has 1 to {MAX_BLOBS} blobs")
        for name in manifest.blobs:
            check_hash(name)
            if name not in self._blobs:
                raise Refusal(NOT_FOUND, f"blob {name} is not stored")

    def _check_role(self, context: Context, role: access_pb2.Role.ValueType) -> None:
        roles: Roles = self._authority.roles(context.invocation_metadata() or ()) or frozenset()
        if role not in roles:
            raise Refusal(DENIED, f"this needs the role {access_pb2.Role.Name(role)}")

    def _check_operator_or(self, member: str, context: Context) -> None:
        # Without a member the caller speaks for nobody's policy but for the whole run.
        role = access_pb2.ROLE_LEARNER if member else access_pb2.ROLE_OPERATOR
        self._check_role(context, role)


def _role_of(kind: pb.MemberKind.ValueType) -> access_pb2.Role.ValueType:
    learner = kind == pb.MEMBER_KIND_LEARNER
    return access_pb2.ROLE_LEARNER if learner else access_pb2.ROLE_ACTOR
