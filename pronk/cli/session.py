"""A local cluster from its start to its end, whatever the end is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pronk.cli.asking import Poller, local
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import Supervisor
from pronk.cli.vitals import Vitals
from pronk.config import Experiment

_STALE_SECONDS = 3.0


@dataclass(frozen=True)
class Cluster:
    """The processes, and how they are."""

    supervisor: Supervisor
    poller: Poller


@contextmanager
def cluster(
    experiment: Experiment,
    directory: RunDirectory,
    redis_url: str | None,
    tell: Callable[[str], None],
) -> Iterator[Cluster]:
    """Start everything in `directory`; leaving kills what still runs.

    Raises:
        Misconfigured: the directory is in use, or a program cannot be started.
    """
    with directory.locked():
        directory.write_config(experiment)
        addresses = choose_addresses(redis_url)
        with (
            Supervisor(programs(experiment, directory, addresses), tell=tell) as supervisor,
            directory.announced(addresses.server),
            local(addresses.server) as channel,
            Poller(channel) as poller,
        ):
            yield Cluster(supervisor, poller)


class Judge:
    """Tells when a run is over.

    The parameter server of a resumed run still holds how the run ended before, until the learner
    has looked at the stop condition anew. Hence an end that was there from the start counts only
    when it stands for a while beside a learner at work.
    """

    def __init__(self) -> None:
        self._was_running = False
        self._since: float | None = None

    def end(self, vitals: Vitals | None, now: float) -> str | None:
        """`FINISHED` or `FAILED` once the run is over; `now` in monotonic seconds."""
        if vitals is None:
            return None
        if vitals.state not in ("FINISHED", "FAILED"):
            self._was_running = self._was_running or vitals.state == "RUNNING"
            self._since = None
            return None
        if self._was_running:
            return vitals.state
        learning = any(m.alive and m.kind == "learner" for m in vitals.members) and vitals.updates
        if not learning:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= _STALE_SECONDS:
            return vitals.state
        return None
