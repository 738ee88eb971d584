"""Where released policies are found: the folders of a run, or a parameter server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from pronk.cli.asking import remote, telling_outage
from pronk.cli.rundir import is_run_directory
from pronk.errors import Misconfigured
from pronk.policy.bundle import MANIFEST, Bundle
from pronk.policy.folders import released
from pronk.policy.manifest import Manifest, from_json
from pronk.transport.cluster import list_releases
from pronk.transport.policies import fetch_bundle
from pronk.transport.settings import Address
from pronk.wire.v1 import registry_pb2


@dataclass(frozen=True)
class Release:
    """A released policy.

    Attributes:
        name: `<policy>-<number>`.
        created: Unix time in seconds.
    """

    name: str
    created: float
    reason: str
    manifest: Manifest


class Source(Protocol):
    """Where releases are found."""

    def list(self) -> list[Release]:
        """Every release, by policy and number."""

    def fetch(self, name: str) -> Bundle:
        """The whole policy, its hashes checked."""


@contextmanager
def open_source(run_dir: Path | None) -> Iterator[Source]:
    """The releases of a run directory (or one policy folder), or of `PRONK_SERVER`.

    Raises:
        Misconfigured: there is no such directory, or it is of something else.
        Failed: the parameter server does not answer.
    """
    if run_dir is not None:
        yield Folders(run_dir)
        return
    with remote() as (server, channel), telling_outage(server):
        yield Server(server, channel)


def pick(source: Source, name: str | None) -> Release:
    """The release of a name; without one the newest.

    Raises:
        Misconfigured: there is none, or several policies have one.
    """
    releases = source.list()
    if not releases:
        raise Misconfigured("there are no released policies yet: a learner leaves one when it ends")
    if name is None:
        policies = sorted({release.manifest.policy for release in releases})
        if len(policies) > 1:
            raise Misconfigured(
                f"several policies are released ({', '.join(policies)}): "
                f"choose with --release, for example --release {releases[-1].name}"
            )
        return releases[-1]
    found = [release for release in releases if release.name == name]
    if not found:
        raise Misconfigured(
            f"--release {name}: choose one of {', '.join(release.name for release in releases)}"
        )
    return found[0]


class Folders:
    """Releases in folders: of a run directory, or one policy's own."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise Misconfigured(f"{path} is no directory: name a run directory or a policy folder")
        own = (path / MANIFEST).exists()
        self._folders = [path] if own else released(path)
        if not self._folders and not is_run_directory(path):
            raise Misconfigured(f"{path} is no run directory and no policy folder: name one")

    def list(self) -> list[Release]:
        """Every release; weights are not read."""
        return [self._release(folder) for folder in self._folders]

    def fetch(self, name: str) -> Bundle:
        """The whole policy, its hashes checked."""
        by_name = {self._release(folder).name: folder for folder in self._folders}
        return Bundle.load(by_name[name])

    def _release(self, folder: Path) -> Release:
        path = folder / MANIFEST
        try:
            manifest = from_json(path.read_bytes(), str(path))
        except OSError as error:
            raise Misconfigured(f"cannot read {path}: {error.strerror}") from None
        name = f"{manifest.policy}-{manifest.number}"
        return Release(name, path.stat().st_mtime, "", manifest)


class Server:
    """Releases of a parameter server."""

    def __init__(self, address: Address, channel: grpc.Channel) -> None:
        self._address = address
        self._channel = channel

    def list(self) -> list[Release]:
        """Every release."""
        found = [self._release(message) for message in list_releases(self._channel)]
        return sorted(found, key=lambda release: (release.manifest.policy, release.manifest.number))

    def fetch(self, name: str) -> Bundle:
        """The whole policy, its hashes checked."""
        by_name = {self._release(m).name: m for m in list_releases(self._channel)}
        return fetch_bundle(self._channel, by_name[name].manifest)

    def _release(self, message: registry_pb2.Release) -> Release:
        manifest = from_json(message.manifest.json, f"release {message.id} of {self._address}")
        name = f"{manifest.policy}-{manifest.number}"
        return Release(name, message.created, message.reason, manifest)
