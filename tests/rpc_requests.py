"""A request of every method that a parameter server takes."""

from cluster_clients import TRAIN, Client
from google.protobuf.message import Message
from param_servers import fake_bundle

from pronk.transport.bundles import to_message
from pronk.wire.digest import digest
from pronk.wire.v1 import blobs_pb2, reports_pb2
from pronk.wire.v1 import registry_pb2 as pb


def sound_requests(client: Client) -> dict[str, Message]:
    """A request of every method that it takes."""
    learner = client.learner()
    actor = client.join(TRAIN)
    bundle = learner.publish(learner.grant.number_floor + 1)
    next_bundle = fake_bundle(learner.grant.number_floor + 2, learner.grant.epoch)
    manifest = to_message(next_bundle.manifest)
    version = to_message(bundle.manifest).version
    begun = pb.EpisodeStart(version=version, slot=1, number=1)
    ended = pb.EpisodeEnd(version=version, slot=1, number=1, steps=5, **{"return": 1.0})
    chunk = b"x" * 100
    me = learner.member
    return {
        "Register": actor._register_request,
        "Heartbeat": pb.HeartbeatRequest(
            member=actor.member,
            versions=[version],
            actor=pb.ActorStats(steps=5, frames=5, busy_seconds=1, blocked_seconds=1),
        ),
        "Leave": pb.LeaveRequest(member="train-unknown"),
        "GetSpec": pb.GetSpecRequest(),
        "GrantEpoch": pb.GrantEpochRequest(member=me, policy="default"),
        "Publish": pb.PublishRequest(member=me, manifest=manifest, blobs=next_bundle.blobs),
        "Watch": pb.WatchRequest(policy="default", after_number=1),
        "CutRelease": pb.CutReleaseRequest(member=me, version=version, reason="test"),
        "ListReleases": pb.ListReleasesRequest(policy="default"),
        "SetRunState": pb.SetRunStateRequest(member=me, state=pb.RUN_STATE_RUNNING, reason="test"),
        "ReportEpisodes": pb.ReportEpisodesRequest(
            member=actor.member, sequence=1, starts=[begun], ends=[ended]
        ),
        "GetStatus": pb.GetStatusRequest(),
        "Put": blobs_pb2.PutRequest(hash=digest(chunk), size=len(chunk), chunk=chunk),
        "Get": blobs_pb2.GetRequest(hash=manifest.blobs[0]),
        "LeaveReport": reports_pb2.LeaveReportRequest(
            member=me, report=reports_pb2.Report(policy="default", summary=b"{}")
        ),
        "ListReports": reports_pb2.ListReportsRequest(),
    }
