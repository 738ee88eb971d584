"""A process's place in the cluster: registration, heartbeats, run state."""

import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc

from pronk.errors import Fenced
from pronk.telemetry import logs
from pronk.transport.channels import CALL_SECONDS, refused
from pronk.transport.retry import Reminder, code_of, details_of, is_transient, until_answered
from pronk.wire import spec as specs
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub


class Held(NamedTuple):
    """A version, and the hash of its manifest's JSON."""

    version: pb.Version
    hash: str


Newest = Mapping[str, Held]
"""The newest version of each policy that the server holds."""
OnNewest = Callable[[str, Newest], None]
"""Called with the server's incarnation and its newest versions."""

# A certificate that does not fit never will, although gRPC calls it unreachable.
_BAD_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"


class Membership:
    """One incarnation of one process, known to the parameter server while its heartbeats last.

    Args:
        channel: to the parameter server.
        kind: what the process is, a `MEMBER_KIND_…`.
        experiment_hash: of the experiment that it runs.
        policies: the policy that a learner trains; the policies that an actor plays.
        spec: the environment, of an actor.

    Attributes:
        member: id issued by the server; stays the same when the server restarts.
        run: id of the run.
        index: smallest number that no living member of this kind had at `join`.
        run_state, reason: the run's `RUN_STATE_…` and why, as last heard.
        newest: the newest version of each policy that the server holds, as last heard.
        error: why the member can no longer take part; `stop` is set with it.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        kind: pb.MemberKind.ValueType,
        experiment_hash: str,
        policies: Sequence[str],
        spec: specs.EnvironmentSpec | None = None,
    ) -> None:
        self._stub = RegistryServiceStub(channel)
        self._register_request = pb.RegisterRequest(
            kind=kind,
            contract_version=CONTRACT_VERSION,
            experiment_hash=experiment_hash,
            spec=None if spec is None else specs.to_proto(spec),
            host=socket.gethostname(),
            pid=os.getpid(),
            policies=policies,
            incarnation=secrets.token_hex(16),
        )
        self.member = ""
        self.run = ""
        self.index = 0
        self.run_state: pb.RunState.ValueType = pb.RUN_STATE_RUNNING
        self.reason = ""
        self.newest: Newest = {}
        self.error: Exception | None = None
        self._epochs: Mapping[str, int] = {}
        self._incarnation = ""
        self._heartbeat_seconds = 1.0
        self._lease_seconds = 10.0
        self._last_answer = 0.0
        self._report = pb.HeartbeatRequest()
        self._on_newest: list[OnNewest] = []
        self._left = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> bool:
        """Register and begin to send heartbeats; wait for an unreachable server.

        Args:
            stop: ends the wait.
            beat: feeds liveness meanwhile.

        Returns:
            False when `stop` was set first.

        Raises:
            Misconfigured: the server refuses the token, the experiment, the spec or the contract.
        """
        try:
            answer = until_answered(
                self._register,
                stop,
                "the parameter server",
                again=_may_be_reached_later,
                beat=beat,
            )
        except grpc.RpcError as error:
            raise refused(error) from None
        if answer is None:
            return False
        self.member, self.run, self.index = answer.member, answer.run, answer.index
        self._register_request.index = answer.index
        self._adopt_lease(answer)
        self._stop = stop
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return True

    def report(
        self, stats: pb.ActorStats | pb.LearnerStats, versions: Iterable[pb.Version] = ()
    ) -> None:
        """What the next heartbeats tell: newest counters and the versions in use."""
        report = pb.HeartbeatRequest(versions=versions)
        if isinstance(stats, pb.ActorStats):
            report.actor.CopyFrom(stats)
        else:
            report.learner.CopyFrom(stats)
        self._report = report

    def on_newest(self, callback: OnNewest) -> None:
        """Have `callback` called after every heartbeat, on the heartbeat's thread.

        It must return within a few seconds, or the lease ends.
        """
        self._on_newest.append(callback)

    @property
    def finished(self) -> bool:
        """The run is over: members stay up, idle."""
        return self.run_state in (pb.RUN_STATE_FINISHED, pb.RUN_STATE_FAILED)

    def check_epoch(self, policy: str, epoch: int) -> None:
        """Make sure that no newer epoch is known; before an acknowledgement or a checkpoint.

        Costs a comparison, unless this process was silent for longer than its lease: then the
        server is asked first. Where it cannot be reached, training goes on: whether the server is
        down or only cut off from here cannot be told, and what an older epoch writes is refused
        where it goes. The buffer deletes an entry for its holder only, the server takes versions
        of the newest epoch only, and the folder of checkpoints holds the newer epoch's.

        Raises:
            Fenced: another learner holds a newer epoch.
        """
        if time.monotonic() - self._last_answer > self._lease_seconds:
            self._ask_again()
        newest = self._epochs.get(policy, 0)
        if newest > epoch:
            raise Fenced(f"epoch {epoch} of policy {policy!r} ended: {newest} was granted")

    def check(self) -> None:
        """Raise `error` if there is one: call it when `stop` ended the work.

        Raises:
            Misconfigured: the server now refuses this member.
            Fenced: the server now holds another run.
        """
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        """Say goodbye, so that the lease ends at once; an unreachable server is not waited for."""
        self._left.set()
        if self._thread is None:
            return
        self._thread.join(CALL_SECONDS)
        try:
            self._stub.Leave(pb.LeaveRequest(member=self.member), timeout=1.0)
        except grpc.RpcError as error:
            logs.get().info("left_without_goodbye", why=details_of(error))

    def _register(self) -> pb.RegisterResponse:
        return self._stub.Register(self._register_request, timeout=CALL_SECONDS)

    def _beat(self) -> None:
        reminder = Reminder()
        # Jitter keeps a thousand actors from beating as one.
        while not self._left.wait(self._heartbeat_seconds * random.uniform(0.9, 1.1)):  # noqa: S311
            try:
                self._heartbeat(CALL_SECONDS)
            except grpc.RpcError as error:
                # Forgotten again since it registered: the next heartbeat does so anew.
                if is_transient(error) or code_of(error) == grpc.StatusCode.NOT_FOUND:
                    if reminder.due():
                        logs.get().warning("heartbeat_unanswered", why=details_of(error))
                    continue
                self.error = refused(error)
            except Fenced as error:
                self.error = error
            else:
                self._tell_newest()
                continue
            self._stop.set()
            return

    def _heartbeat(self, timeout: float) -> None:
        request = pb.HeartbeatRequest()
        request.CopyFrom(self._report)
        request.member = self.member
        try:
            answer = self._stub.Heartbeat(request, timeout=timeout)
        except grpc.RpcError as error:
            if code_of(error) != grpc.StatusCode.NOT_FOUND:
                raise
            self._register_again()
            answer = self._stub.Heartbeat(request, timeout=timeout)
        self.run_state, self.reason = answer.run_state, answer.run_state_reason
        self._hear_of(answer)
        self._epochs = dict(answer.epochs)
        self._incarnation = answer.server_incarnation
        self._last_answer = time.monotonic()

    def _register_again(self) -> None:
        answer = self._register()
        if answer.run != self.run:
            raise Fenced(
                f"the parameter server holds run {answer.run} now; this process belongs to "
                f"{self.run}"
            )
        logs.get().info("registered_again", member=self.member)
        self._adopt_lease(answer)

    def _hear_of(self, answer: pb.RegisterResponse | pb.HeartbeatResponse) -> None:
        hashes = answer.newest_hashes
        self.newest = {v.policy: Held(v, hashes[v.policy]) for v in answer.newest}

    def _adopt_lease(self, answer: pb.RegisterResponse) -> None:
        self._hear_of(answer)
        self.run_state = answer.run_state
        self._incarnation = answer.server_incarnation
        self._heartbeat_seconds = answer.heartbeat_seconds
        self._lease_seconds = answer.lease_seconds
        self._last_answer = time.monotonic()

    def _ask_again(self) -> None:
        try:
            self._heartbeat(timeout=1.0)
        except grpc.RpcError:
            # Asked at most once a lease while the server is away: see `check_epoch`.
            self._last_answer = time.monotonic()

    def _tell_newest(self) -> None:
        for callback in self._on_newest:
            try:
                callback(self._incarnation, self.newest)
            except Exception:
                logs.get().exception("on_newest_failed")


def _may_be_reached_later(error: BaseException) -> bool:
    return is_transient(error) and _BAD_CERTIFICATE not in details_of(error)
