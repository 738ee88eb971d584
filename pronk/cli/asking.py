"""Asking the parameter server how the cluster is."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from pronk.cli.credentials import role_files
from pronk.cli.failure import Failed
from pronk.cli.rundir import RunDirectory
from pronk.cli.vitals import Monitor, Vitals
from pronk.errors import Misconfigured
from pronk.transport import channels, retry
from pronk.transport.cluster import status
from pronk.transport.settings import Address, Settings, parse_address
from pronk.transport.settings import load as load_settings

_POLL_SECONDS = 0.5
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@contextmanager
def remote() -> Iterator[tuple[Address, grpc.Channel]]:
    """The parameter server that `PRONK_SERVER` names, with credentials from the environment."""
    settings = load_settings()
    channel = channels.connect(settings)
    try:
        yield settings.server, channel
    finally:
        channel.close()


@contextmanager
def local(server: str | Address, credentials: Path | None = None) -> Iterator[grpc.Channel]:
    """A parameter server on this machine, whatever credentials the environment has.

    Args:
        server: its address.
        credentials: the folder of a role; None: it asks for none.
    """
    own: dict[str, Any] = dict.fromkeys(("tls_ca", "tls_cert", "tls_key", "token_file"))
    own |= role_files(credentials) if credentials else {}
    channel = channels.connect(Settings(server=parse_address(server), token=None, **own))
    try:
        yield channel
    finally:
        channel.close()


@contextmanager
def asked(run_dir: Path | None) -> Iterator[tuple[Address, grpc.Channel]]:
    """The cluster that `pronk up` runs in a directory; without one, that of `PRONK_SERVER`.

    Raises:
        Failed: no cluster runs there.
    """
    if run_dir is None:
        with remote() as found:
            yield found
        return
    try:
        line, *folder = RunDirectory(run_dir).address.read_text(encoding="utf-8").splitlines()
        server = parse_address(line)
        gone = bool(folder) and not Path(folder[0]).exists()  # of a `pronk up` that was killed
    except (OSError, ValueError):
        gone = True
    if gone:
        raise Failed(f"no cluster runs in {run_dir}: `pronk up` starts one")
    with local(server, Path(folder[0]) if folder else None) as channel:
        yield server, channel


@contextmanager
def telling_outage(server: Address) -> Iterator[None]:
    """Turn failed calls into errors that a person understands.

    Raises:
        Failed: nobody answers.
        Misconfigured: the credentials are refused.
    """
    try:
        yield
    except grpc.RpcError as error:
        code = retry.code_of(error)
        if code in _REFUSALS:
            raise Misconfigured(
                f"{server} refuses: {retry.details_of(error)}; see PRONK_TOKEN and PRONK_TLS_CA"
            ) from None
        if retry.is_outage(error):
            raise Failed(
                f"no parameter server answers at {server}: "
                "name the directory of a running `pronk up`, or set PRONK_SERVER"
            ) from None
        raise Failed(f"{server} answered: {retry.details_of(error)}") from None


class Asker(ABC):
    """Asks twice a second in a thread of its own, until its context is left.

    Attributes:
        why: the last question was not answered; empty when it was.
        silent_seconds: without an answer, added up over the questions: while this process stood
            still (Ctrl-Z) it asked none.
    """

    def __init__(self, name: str) -> None:
        self.why = ""
        self.silent_seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start asking."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join(channels.CALL_SECONDS)

    @abstractmethod
    def _ask(self) -> str:
        """Ask once; why there was no answer, or nothing."""

    def _run(self) -> None:
        while not self._stop.is_set():
            asked_at = time.monotonic()
            self.why = self._ask()
            if self.why:
                waited = min(time.monotonic() - asked_at, channels.CALL_SECONDS)
                self.silent_seconds += waited + _POLL_SECONDS
            else:
                self.silent_seconds = 0.0
            self._stop.wait(_POLL_SECONDS)


class Poller(Asker):
    """Asks the parameter server; `newest` is the last answer, and what goes wrong leaves it so."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__("status")
        self.newest: Vitals | None = None
        self._channel = channel
        self._monitor = Monitor()

    def _ask(self) -> str:
        try:
            self.newest = self._monitor.observe(status(self._channel), time.monotonic())
        except grpc.RpcError as error:
            return retry.details_of(error)
        except Exception as error:  # whatever was answered: nobody else asks
            return f"{type(error).__name__}: {error}"
        return ""
