"""A local cluster from its start to its end, whatever the end is."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pronk.cli.asking import Poller, local
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.credentials import Credentials, throwaway
from pronk.cli.failure import Failed
from pronk.cli.pinging import Pinger
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import Supervisor
from pronk.cli.vitals import Vitals
from pronk.config import Experiment
from pronk.words import duration

_STALE_SECONDS = 3.0
SILENCE_SECONDS = 30.0
"""Between two lines about a server that does not answer."""
PATIENCE_SECONDS = 600.0
"""After this long without an answer a run ends: that it is over could never be heard."""


@dataclass(frozen=True)
class Cluster:
    """The processes, and how they are.

    Attributes:
        pinger: of a buffer that is somebody else's.
    """

    supervisor: Supervisor
    poller: Poller
    pinger: Pinger | None = None


@contextmanager
def cluster(
    experiment: Experiment,
    directory: RunDirectory,
    redis_url: str | None,
    tell: Callable[[str], None],
    *,
    secure: bool = False,
) -> Iterator[Cluster]:
    """Start everything in `directory`; leaving kills what still runs.

    Args:
        experiment: what to train.
        directory: where the run lives.
        redis_url: of a buffer that is there already.
        tell: gets one line for every event worth a person's attention.
        secure: with TLS, tokens and passwords made on the spot; not with `redis_url`.

    Raises:
        Misconfigured: the directory is in use, or a program cannot be started.
    """
    addresses = choose_addresses(redis_url)
    with directory.locked(), ExitStack() as stack:
        directory.write_config(experiment)
        credentials: Credentials | None = None
        if secure:
            assert addresses.valkey_port is not None  # noqa: S101 - for the type checker
            made = throwaway(addresses.server, addresses.valkey_port)
            credentials = stack.enter_context(made)
        started = programs(experiment, directory, addresses, credentials)
        reader = credentials.folder / "reader" if credentials else None
        if credentials:
            tell(f"secured; to ask this cluster: . {credentials.env_file('operator')}")
        with (
            Supervisor(started, tell=tell) as supervisor,
            directory.announced(addresses.server, reader),
            local(addresses.server, reader) as channel,
            Poller(channel) as poller,
        ):
            pinger = None if redis_url is None else stack.enter_context(Pinger(redis_url))
            yield Cluster(supervisor, poller, pinger)


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


class Silence:
    """Tells that a server does not answer, and gives up in the end.

    Args:
        tell: gets a line every 30 s.
        who: the server.
        patience: seconds without an answer after which a run ends.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        who: str = "the parameter server",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._tell = tell
        self._who = who
        self._patience = patience
        self._due = SILENCE_SECONDS

    def look(self, seconds: float, why: str) -> None:
        """It was silent for so many seconds, for this reason.

        Raises:
            Failed: nothing came for longer than `patience`.
        """
        silent = f"{self._who} has not answered for {duration(seconds)}"
        if seconds >= self._patience:
            raise Failed(f"{silent} ({why}): see logs/; the same command goes on")
        if seconds < SILENCE_SECONDS:
            self._due = SILENCE_SECONDS
        elif seconds >= self._due:
            self._due = seconds + SILENCE_SECONDS
            self._tell(f"{silent}: {why}")
