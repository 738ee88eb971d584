"""`pronk param-server`: wires the pieces together."""

import asyncio
import secrets
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pronk.config import Experiment, experiment_hash
from pronk.config import load as load_experiment
from pronk.files import is_full
from pronk.startup import run_service
from pronk.telemetry import logs, metrics
from pronk.transport import settings as environment
from pronk.transport.health import Health
from pronk.transport.retry import until_answered
from pronk.transport.security import authority
from pronk.transport.server import create_server
from pronk.transport.settings import Settings
from pronk.wire.v1 import blobs_pb2, registry_pb2, reports_pb2
from pronk.wire.v1.blobs_pb2_grpc import add_BlobServiceServicer_to_server
from pronk.wire.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from pronk.wire.v1.reports_pb2_grpc import add_ReportServiceServicer_to_server
from pronk_param_server.blob_files import prune, sound
from pronk_param_server.blob_service import BlobService
from pronk_param_server.blobs import Blobs
from pronk_param_server.ledger import Ledger
from pronk_param_server.records import Saved
from pronk_param_server.registry import Registry
from pronk_param_server.report_service import ReportService
from pronk_param_server.state import State
from pronk_param_server.store import Store
from pronk_param_server.writer import Writer

_SERVICES = (
    registry_pb2.DESCRIPTOR.services_by_name["RegistryService"],
    blobs_pb2.DESCRIPTOR.services_by_name["BlobService"],
    reports_pb2.DESCRIPTOR.services_by_name["ReportService"],
)
_TICK_SECONDS = 0.1
_SWEEP_SECONDS = 1.0
_GRACE_SECONDS = 2.0


def param_server(
    config: Annotated[Path, typer.Option("--config", help="The experiment, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, over the file's; repeatable.")
    ] = None,
) -> None:
    """Hold the run's state: members, epochs, versions, releases.

    Example: PRONK_RUN_DIR=runs/cartpole pronk param-server --config configs/cartpole.yaml
    """

    def main(stop: threading.Event) -> None:
        experiment = load_experiment(config, overrides or ())
        settings = environment.load()
        logs.setup("param-server", settings.log_level)
        asyncio.run(serve(experiment, settings, stop))

    run_service(main)


async def serve(experiment: Experiment, settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set; a disk that is full at the start is waited for.

    Raises:
        Misconfigured: an address is taken or unprotected, or the run directory does not fit.
    """
    folder = settings.required_run_dir() / "server"
    with closing(Writer()) as writer, closing(Health(settings.health_listen)) as health:
        opened = await writer.run(
            until_answered,
            partial(_open, folder, experiment),
            stop,
            "room on the disk",
            again=is_full,
            beat=health.beat,
        )
        if opened is None:
            return
        store, saved = opened
        try:
            await _serve(experiment, settings, stop, store, saved, writer, health, folder / "blobs")
        finally:
            await writer.run(store.close)


def _open(folder: Path, experiment: Experiment) -> tuple[Store, Saved]:
    store = Store(folder)
    try:
        return store, store.load(experiment.name, experiment_hash(experiment))
    except BaseException:
        store.close()
        raise


async def _serve(
    experiment: Experiment,
    settings: Settings,
    stop: threading.Event,
    store: Store,
    saved: Saved,
    writer: Writer,
    health: Health,
    blob_folder: Path,
) -> None:
    shares = {
        policy: experiment.slots_of(policy) / experiment.actor.slots
        for policy in experiment.policies
    }
    await writer.run(prune, blob_folder, saved.blobs)
    whole = await writer.run(sound, blob_folder, saved.blobs)
    state = State(replace(saved, lost=saved.blobs - whole), shares, time.monotonic())
    blobs = Blobs(blob_folder, whole, time.monotonic)
    known = authority(settings)
    incarnation = secrets.token_hex(8)
    registry = Registry(
        state, Ledger(state, store, writer), writer, blobs, blob_folder, known, shares, incarnation
    )

    metrics_port = metrics.serve(settings.metrics_listen.host, settings.metrics_listen.port)
    server, port = create_server(settings, _SERVICES, known)
    add_RegistryServiceServicer_to_server(registry, server)
    add_BlobServiceServicer_to_server(BlobService(blobs, writer), server)
    reports = ReportService(state, writer, blob_folder.with_name("reports"))
    add_ReportServiceServicer_to_server(reports, server)
    await server.start()
    health.set_ready(True)
    logs.get().info(
        "listening",
        address=f"{settings.listen.host}:{port}",
        health_port=health.port,
        metrics_port=metrics_port,
        run=saved.run.run,
        incarnation=incarnation,
    )
    beat = asyncio.create_task(_beat(health, writer))
    # The folder of blobs is made with the first one: the disk is that of the one above.
    await _sweep_until(stop, registry, blob_folder.parent)
    health.set_ready(False)
    beat.cancel()
    await registry.close()
    await server.stop(_GRACE_SECONDS)
    logs.get().info("stopped")


async def _sweep_until(stop: threading.Event, registry: Registry, folder: Path) -> None:
    next_sweep = 0.0
    while not stop.is_set():
        now = time.monotonic()
        if now >= next_sweep:
            next_sweep = now + _SWEEP_SECONDS
            registry.sweep(now)
            metrics.tell_disk(folder)
        await asyncio.sleep(_TICK_SECONDS)


async def _beat(health: Health, writer: Writer) -> None:
    """Feed liveness: the event loop turns and the writer thread answers."""
    while True:
        await writer.run(lambda: None)
        health.beat()
        await asyncio.sleep(_SWEEP_SECONDS)
