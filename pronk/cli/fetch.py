"""`pronk fetch`: what a cluster elsewhere has learned, as a folder like a run directory."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from pydantic import TypeAdapter, ValidationError

from pronk.cli.asking import remote, telling_outage
from pronk.cli.failure import Failed
from pronk.config.fields import PolicyName
from pronk.errors import Misconfigured
from pronk.transport.bundles import BadBlob
from pronk.transport.cluster import list_releases, list_reports, newest_version, status
from pronk.transport.policies import fetch_bundle
from pronk.transport.retry import code_of
from pronk.wire.v1 import registry_pb2, reports_pb2

_RUN = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
"""What the parameter server makes of an experiment's name and a few random digits."""


def fetch(
    out: Annotated[
        Path | None, typer.Option(help="Where to; what is there is renewed. Default: runs/RUN.")
    ] = None,
) -> None:
    """Fetch a remote run: its releases, the newest policy, and at its end summary and curve.

    PRONK_SERVER names the parameter server; token and TLS come from the environment too. What
    comes is laid out as in a run directory: `pronk evaluate` and `pronk policy` read it.

    [bold]Example[/bold]  [cyan]PRONK_SERVER=cluster:50051 PRONK_TLS_CA=ca.pem
    PRONK_TOKEN_FILE=token pronk fetch --out pong[/cyan]
    """
    with remote() as (server, channel), telling_outage(server):
        answer, reports = status(channel), list_reports(channel)
        default = _default_folder(answer.run)
        manifests = [*_newest(channel, answer), *(r.manifest for r in list_releases(channel))]
        folder = out or default
        policies = {m.version.policy for m in manifests} | {r.policy for r in reports}
        layout = _Layout(folder, sorted(policies))
        with _writing(folder):
            for report in reports:
                _save(report, layout.of(report.policy))
            saved = {path for m in manifests if (path := _save_policy(channel, m, layout))}
    print(f"{answer.run} → {folder}")
    print(f"policies  {' '.join(sorted(path.name for path in saved)) or 'none yet'}")
    left = " ".join(sorted(report.policy for report in reports))
    print(f"reports   {left or 'none yet: a learner leaves one when it ends'}")


def _default_folder(run: str) -> Path:
    if not _RUN.fullmatch(run):  # it becomes the name of a folder, and is printed
        raise Failed("the parameter server sent a name that no run has")
    return Path("runs") / run


class _Layout:
    """Where each policy's files go: a run of several policies has a folder for each."""

    def __init__(self, folder: Path, policies: Sequence[str]) -> None:
        names = TypeAdapter(list[PolicyName])
        try:
            names.validate_python(list(policies))  # they become names of folders
        except ValidationError:
            raise Failed("the parameter server sent names that no policies have") from None
        self._folder = folder
        self._several = len(policies) > 1

    def of(self, policy: str) -> Path:
        """The folder of a policy."""
        return self._folder / policy if self._several else self._folder


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(f"cannot write {folder}: {error.strerror}") from None


def _newest(
    channel: grpc.Channel, answer: registry_pb2.GetStatusResponse
) -> Iterator[registry_pb2.PolicyManifest]:
    for version in answer.newest:
        yield newest_version(channel, version.policy)


def _save_policy(
    channel: grpc.Channel, manifest: registry_pb2.PolicyManifest, layout: _Layout
) -> Path | None:
    """Fetch and save a version; None where it was superseded meanwhile."""
    try:
        bundle = fetch_bundle(channel, manifest)
    except BadBlob as error:
        raise Failed(str(error)) from None
    except grpc.RpcError as error:
        if code_of(error) == grpc.StatusCode.NOT_FOUND:
            return None
        raise
    version = manifest.version
    path = layout.of(version.policy) / "policies" / f"{version.policy}-{version.number}"
    bundle.save(path)
    return path


def _save(report: reports_pb2.Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("summary.json", report.summary),
        ("curve.png", report.curve),
        ("metrics.jsonl", report.metrics),
    ):
        if content:
            (folder / name).write_bytes(content)
