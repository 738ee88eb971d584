"""Members, learners and watchers to test with, as real processes use them."""

import threading
from collections.abc import Callable
from typing import Self

from param_servers import SPEC, ServerProcess, ServerThread, fake_bundle

from pronk.policy.bundle import Bundle
from pronk.transport import cluster
from pronk.transport.bundles import to_message
from pronk.transport.membership import Membership
from pronk.transport.policies import PolicyPublisher, PolicyWatcher
from pronk.wire.v1 import registry_pb2 as pb

LEARNER, TRAIN = pb.MEMBER_KIND_LEARNER, pb.MEMBER_KIND_TRAIN
Server = ServerThread | ServerProcess


class Client:
    """Members, learners and watchers of one process; ends them all."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.channel = server.connect()
        self.stop = threading.Event()
        self.failures: list[Exception] = []
        self._members: list[Membership] = []
        self._watchers: list[PolicyWatcher] = []

    def join(self, kind: pb.MemberKind.ValueType, policy: str = "default") -> Membership:
        member = self.membership(kind, policy)
        assert member.join(self.stop)
        return member

    def membership(self, kind: pb.MemberKind.ValueType, policy: str = "default") -> Membership:
        """One that is yet to join."""
        spec = None if kind == LEARNER else SPEC
        member = Membership(self.channel, kind, self.server.hash, (policy,), spec)
        self._members.append(member)
        return member

    def learner(self, policy: str = "default") -> "Learner":
        return Learner(self, policy)

    def watch(self, policy: str = "default") -> "Received":
        received = Received()
        self.call_back(received, policy)
        return received

    def call_back(self, callback: Callable[[Bundle], None], policy: str = "default") -> None:
        watcher = PolicyWatcher(self.channel, policy, callback, self.failures.append, self.stop)
        watcher.start()
        self._watchers.append(watcher)

    def status(self) -> pb.GetStatusResponse:
        return cluster.status(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for member in self._members:
            member.leave()
        for watcher in self._watchers:
            watcher.join()
        self.channel.close()


class Learner:
    """A member that holds an epoch, and publishes."""

    def __init__(self, client: Client, policy: str) -> None:
        self.client, self.policy = client, policy
        self.membership = client.join(LEARNER, policy)
        self.member = self.membership.member
        self.grant = self.ask_for_epoch()
        self.publisher = PolicyPublisher(client.channel, self.member, client.stop)

    def ask_for_epoch(self) -> cluster.Grant:
        client = self.client
        grant = cluster.grant_epoch(client.channel, self.member, self.policy, client.stop)
        assert grant is not None
        return grant

    def publish(self, number: int, weights: bytes | None = None) -> Bundle:
        bundle = fake_bundle(number, self.grant.epoch, policy=self.policy, weights=weights)
        assert self.publisher.publish(bundle)
        return bundle

    def release(self, bundle: Bundle, reason: str = "test") -> pb.Release:
        version = to_message(bundle.manifest).version
        client = self.client
        release = cluster.cut_release(client.channel, self.member, version, reason, client.stop)
        assert release is not None
        return release

    def finish(self, reason: str) -> None:
        cluster.set_run_state(
            self.client.channel, self.member, pb.RUN_STATE_FINISHED, reason, self.client.stop
        )


class Received:
    """What a watcher's callback was given."""

    def __init__(self) -> None:
        self.bundles: list[Bundle] = []

    def __call__(self, bundle: Bundle) -> None:
        self.bundles.append(bundle)

    @property
    def numbers(self) -> list[int]:
        return [bundle.manifest.number for bundle in self.bundles]
