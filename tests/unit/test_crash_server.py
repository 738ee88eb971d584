"""The parameter server's writes under every fault at every call: the old state, or the new one."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from faults import Operation, at_every_call, needs_ptrace
from param_servers import SPEC, fake_bundle
from pronk_param_server import report_files
from pronk_param_server.blob_files import blob_path, persist, prune, sound
from pronk_param_server.records import Change
from pronk_param_server.state import State
from pronk_param_server.store import Store

from pronk.errors import Misconfigured
from pronk.transport.bundles import to_message
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.spec import to_proto
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import reports_pb2

HASH = "e" * 16
BUNDLE = fake_bundle(1, weights=b"weights" * 1000)
MANIFEST = to_message(BUNDLE.manifest)

pytestmark = needs_ptrace


class Server:
    """What a parameter server does between two calls: decide, store, make true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "server"
        self.store = Store(self.folder)
        saved = self.store.load("tiny", HASH)
        prune(self.folder / "blobs", saved.blobs)
        self.state = State(saved, ["default"], 0.0)
        request = pb.RegisterRequest(
            kind=pb.MEMBER_KIND_LEARNER, incarnation="a" * 32, policies=["default"]
        )
        self.learner = self.state.members.register(request, 0.0).id

    def change(self, change: Change | None) -> None:
        if change is not None:
            self.store.commit(change)
            self.state.apply(change)

    def grant(self) -> None:
        if self.state.policies["default"].epoch == 0:
            request = pb.GrantEpochRequest(member=self.learner, policy="default")
            self.change(self.state.decide_grant(request, 0.0))

    def publish(self) -> None:
        request = pb.PublishRequest(member=self.learner, manifest=MANIFEST)
        if self.state.newest("default") is None and self.state.check_publish(request):
            self.change(self.state.decide_reservation(MANIFEST.version))
            self.state.publish(MANIFEST)

    def release(self) -> None:
        request = pb.CutReleaseRequest(member=self.learner, version=MANIFEST.version, reason="r")
        persist(self.folder / "blobs", BUNDLE.blobs)
        self.change(self.state.decide_release(request, created=1.0))

    def finish(self) -> None:
        state = pb.RUN_STATE_FINISHED
        request = pb.SetRunStateRequest(member=self.learner, state=state, reason="done")
        if self.state.run.state != state:
            self.change(self.state.decide_run_state(request))

    def meet_an_actor(self) -> None:
        request = pb.RegisterRequest(
            kind=pb.MEMBER_KIND_TRAIN,
            contract_version=CONTRACT_VERSION,
            experiment_hash=HASH,
            incarnation="b" * 32,
            policies=["default"],
            spec=to_proto(SPEC),
        )
        self.change(self.state.decide_registration(request))

    def leave(self) -> None:
        self.change(self.state.decide_leave(self.learner))

    def stop(self) -> None:
        if self.state.policies["default"].reserved > MANIFEST.version.number:
            # As in the life that saw the version: one that began later knows the block only.
            self.state._highest["default"] = MANIFEST.version.number
            self.change(self.state.decide_tightening())

    def report(self, summary: bytes = b"first" * 1000) -> None:
        report = reports_pb2.Report(policy="default", summary=summary)
        report_files.write(self.folder / "reports/default", report)

    def report_again(self) -> None:
        self.report(b"second" * 1000)


STEPS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "first start": (None, ()),
    "spec": ((), ("meet_an_actor",)),
    "grant": ((), ("grant",)),
    "publish": (("grant",), ("publish",)),
    "release": (("grant", "publish"), ("publish", "release")),
    "finish": (("grant", "publish", "release"), ("finish",)),
    "leave": (("grant",), ("leave",)),
    "stop": (("grant", "publish"), ("stop",)),
    "first report": (("grant",), ("report",)),
    "report": (("grant", "report"), ("report_again",)),
}
"""What an older server had done (None: there was none), and what is done under faults."""


class Serve:
    """A server's life; `multiprocessing` takes it along."""

    def __init__(self, steps: tuple[str, ...] | None) -> None:
        self.steps = steps

    def __call__(self, folder: Path) -> None:
        if self.steps is None:
            return
        server = Server(folder)
        try:
            for step in self.steps:
                getattr(server, step)()
        finally:
            server.store.close()


def look(folder: Path) -> Any:
    """Everything on disk, as the next server sees it."""
    store = Store(folder / "server")
    try:
        rows = store._database.execute("SELECT experiment_hash FROM run").fetchall()
        events = store._database.execute("SELECT event FROM audit ORDER BY sequence").fetchall()
        if not rows:
            return events
        saved = store.load("tiny", HASH)
    finally:
        store.close()
    assert sound(folder / "server/blobs", saved.blobs) == saved.blobs, "a release without its bytes"
    run, report = saved.run, report_files.read(folder / "server/reports/default")
    return events, run.state, run.reason, run.spec, saved.policies, sorted(saved.releases), report


@pytest.mark.parametrize("name", STEPS)
def test_the_old_state_or_the_new_one(tmp_path: Path, name: str) -> None:
    before, steps = STEPS[name]
    operation = Operation(Serve(before), Serve(steps), look, (Misconfigured, sqlite3.Error))
    calls = at_every_call(operation, tmp_path / "at")
    assert all(calls.values())


ORPHAN = "0" * 64


def leave_an_orphan(folder: Path) -> None:
    persist(folder, BUNDLE.blobs)
    persist(folder, {ORPHAN: b"of a release that was never recorded"})


def prune_at_start(folder: Path) -> None:
    prune(folder, BUNDLE.blobs)
    if blob_path(folder, ORPHAN).exists():
        raise OSError("it tells nobody, for the next start removes it")


def blobs(folder: Path) -> tuple[set[str], bool]:
    return sound(folder, BUNDLE.blobs), blob_path(folder, ORPHAN).exists()


def test_pruning_takes_nothing_that_a_release_names(tmp_path: Path) -> None:
    at_every_call(Operation(leave_an_orphan, prune_at_start, blobs), tmp_path / "at")
    assert blobs(tmp_path / "at/last") == (set(BUNDLE.blobs), False)
