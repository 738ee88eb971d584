"""Asking a Redis of somebody else whether it is there."""

from urllib.parse import urlsplit

from pronk.cli.asking import Asker
from pronk.transport.redis import connect


class Pinger(Asker):
    """Sends a PING twice a second, each with a deadline.

    Attributes:
        address: where it is, without user, password and options.
    """

    def __init__(self, url: str) -> None:
        """Nothing is sent yet.

        Raises:
            Misconfigured: the URL is malformed.
        """
        super().__init__("ping")
        self.address = address(url)
        self._client = connect(url)
        self._password: str = self._client.connection_pool.connection_kwargs.get("password") or ""

    def _ask(self) -> str:
        try:
            self._client.ping()
        except Exception as error:  # whatever went wrong: nobody else asks
            why = " ".join(str(error).split())
            # The library's own errors do not quote the password; what a server answers may.
            quoted = self._password != "" and self._password in why
            return type(error).__name__ if quoted or not why else why
        return ""


def address(url: str) -> str:
    """What may be shown of a URL: `redis://host:port`."""
    parts = urlsplit(url)
    # An @ behind the host is of a password that was not percent-encoded: this is no host.
    host = (
        "" if "@" in parts.path + parts.query + parts.fragment else parts.netloc.rpartition("@")[2]
    )
    return f"{parts.scheme}://{host}" if host else "the Redis of --redis-url"
