"""Starts and ends of episodes on their way to the parameter server, in bounded batches."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence

import grpc

from pronk.telemetry import logs, metrics
from pronk.transport.cluster import EpisodeReporter
from pronk.transport.retry import details_of
from pronk.wire.v1 import registry_pb2 as pb
from pronk_actor.agent import PolicyVersion
from pronk_actor.episodes import Ended

REPORT_SECONDS = 1.0
"""Between two batches."""
MAX_WAITING = 5_000
"""Starts, and ends, that wait at most; the oldest are dropped."""
LANE = "stable"


class EpisodeReports:
    """Gathers episodes and delivers them once a second, on a thread of its own."""

    def __init__(self, reporter: EpisodeReporter, stop: threading.Event) -> None:
        """Start to deliver, until `close`; `stop` ends waiting for an unreachable server."""
        self._reporter = reporter
        self._stop = stop
        self._lock = threading.Lock()
        self._starts: deque[pb.EpisodeStart] = deque(maxlen=MAX_WAITING)
        self._ends: deque[pb.EpisodeEnd] = deque(maxlen=MAX_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report-episodes", daemon=True)
        self._thread.start()

    def began(
        self, policy: str, version: PolicyVersion, episodes: Iterable[tuple[int, int]]
    ) -> None:
        """Episodes began: (slot, number) each."""
        told = _message(policy, version)
        starts = [pb.EpisodeStart(version=told, slot=s, number=n) for s, n in episodes]
        with self._lock:
            self._starts.extend(starts)

    def ended(self, policy: str, ended: Sequence[Ended]) -> None:
        """Episodes ended; they are reported under the versions that they began with."""
        ends = []
        for episode, version in ended:
            metrics.EPISODE_RETURN.labels(policy, str(episode.task), LANE).observe(
                episode.episode_return
            )
            end = pb.EpisodeEnd(
                version=_message(policy, version),
                task=episode.task,
                slot=episode.slot,
                number=episode.number,
                steps=episode.steps,
            )
            setattr(end, "return", episode.episode_return)
            ends.append(end)
        with self._lock:
            self._ends.extend(ends)

    def close(self) -> None:
        """Deliver what is left, unless the server is away, and end the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(REPORT_SECONDS):
            self._deliver()
        self._deliver()

    def _deliver(self) -> None:
        with self._lock:
            starts, ends = list(self._starts), list(self._ends)
            self._starts.clear()
            self._ends.clear()
        if not starts and not ends:
            return
        try:
            self._reporter.send(starts, ends, self._stop)
        except grpc.RpcError as error:
            logs.get().warning("episodes_refused", count=len(ends), why=details_of(error))


def _message(policy: str, version: PolicyVersion) -> pb.Version:
    return pb.Version(policy=policy, epoch=version.epoch, number=version.number)
