"""Verbs that ask a cluster elsewhere, over mutual TLS and with a token."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import torch
from cluster_clients import LEARNER
from faults import ruin
from param_servers import TWO_POLICIES_YAML, ServerThread, free_port
from pronk_param_server import report_files

from pronk import envs
from pronk.cli.credentials import SERVER, Credentials, role_files, throwaway
from pronk.cli.failure import Failed
from pronk.cli.fetch import _default_folder, _Layout
from pronk.cli.main import main
from pronk.config.schema import EnvConfig, NetworkConfig
from pronk.errors import Fenced
from pronk.nets.network import build
from pronk.policy.bundle import Bundle
from pronk.policy.export import Exporter
from pronk.telemetry import metrics
from pronk.transport import cluster
from pronk.transport.bundles import to_message
from pronk.transport.membership import Membership
from pronk.transport.policies import PolicyPublisher
from pronk.transport.settings import Address
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.v1 import reports_pb2

NEVER = threading.Event()
REPORT = reports_pb2.Report(
    policy="default", summary=b'{"frames": 5}\n', curve=b"\x89PNG picture", metrics=b'{"a": 1}\n'
)


@pytest.fixture(scope="module")
def credentials() -> Iterator[Credentials]:
    with throwaway(f"127.0.0.1:{free_port()}", 1) as made:
        yield made


def guarded(folder: Path, credentials: Credentials, **more: str) -> ServerThread:
    host, port = credentials.server.split(":")
    files = dict(role_files(credentials.folder / SERVER))
    files["tokens_file"] = files.pop("token_file").with_name("tokens")
    return ServerThread(folder, address=Address(host, int(port)), **files, **more)


class Learner:
    """A learner of a policy, with a learner's credentials."""

    def __init__(self, server: ServerThread, credentials: Credentials, policy: str) -> None:
        self.policy = policy
        self.channel = server.connect(**dict(role_files(credentials.folder / "learner")))
        self.membership = Membership(self.channel, LEARNER, server.hash, (policy,))
        assert self.membership.join(NEVER)
        self.member = self.membership.member
        grant = cluster.grant_epoch(self.channel, self.member, policy, NEVER)
        assert grant is not None
        self.epoch = grant.epoch

    def publish(self, number: int) -> Bundle:
        config = EnvConfig(id="CartPole-v1")
        torch.manual_seed(number)
        network = build(envs.describe(config), NetworkConfig(kwargs={"hidden": [4]}))
        exporter = Exporter(network, self.policy, env=config)
        bundle = exporter.bundle(
            network.state_dict(), epoch=self.epoch, number=number, frames=640 * number
        )
        assert PolicyPublisher(self.channel, self.member, NEVER).publish(bundle)
        return bundle

    def release(self, bundle: Bundle) -> None:
        version = to_message(bundle.manifest).version
        assert cluster.cut_release(self.channel, self.member, version, "done", NEVER)

    def leave(self) -> None:
        self.membership.leave()
        self.channel.close()


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, credentials: Credentials
) -> Iterator[dict[int, Bundle]]:
    """A cluster with releases 1 and 2, version 3 as the newest, and a report."""
    with guarded(tmp_path_factory.mktemp("remote"), credentials) as server:
        learner = Learner(server, credentials, "default")
        bundles = {number: learner.publish(number) for number in (1, 2, 3)}
        for number in (1, 2):
            learner.release(bundles[number])
        assert cluster.leave_report(learner.channel, learner.member, REPORT, NEVER)
        learner.leave()
        yield bundles


Pronk = Callable[..., int]


@pytest.fixture
def pronk(
    tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pronk]:
    """`pronk` with a role's credentials in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(role: str, *arguments: str | Path, of: Credentials = credentials) -> int:
        monkeypatch.setenv("PRONK_SERVER", of.server)
        for name, value in of.environment(role).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("role", ["reader", "operator"])
def test_status(released: dict[int, Bundle], pronk: Pronk, role: str, capsys: Captured) -> None:
    assert pronk(role, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "RUNNING"
    assert found["newest"] == {"default": 3}


@pytest.mark.parametrize("verb", ["status", "fetch"])
def test_a_server_of_another_version_is_told_in_one_line(
    released: dict[int, Bundle],
    pronk: Pronk,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    capsys: Captured,
) -> None:
    monkeypatch.setattr("pronk.transport.cluster.CONTRACT_VERSION", 99)
    assert pronk("reader", verb) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"contract version {CONTRACT_VERSION} does not fit this pronk's 99" in line


def test_policies_are_listed_shown_and_exported(
    released: dict[int, Bundle], pronk: Pronk, tmp_path: Path, capsys: Captured
) -> None:
    assert pronk("reader", "policy", "list") == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["default-1", "default-2"]
    assert pronk("reader", "policy", "show", "--release", "default-1") == 0
    assert released[1].manifest.weights in capsys.readouterr().out
    assert pronk("reader", "policy", "export", "--out", tmp_path / "out") == 0
    assert Bundle.load(tmp_path / "out") == released[2]


def test_the_newest_release_is_evaluated(
    released: dict[int, Bundle], pronk: Pronk, capsys: Captured
) -> None:
    assert pronk("reader", "evaluate", "--episodes", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["number"], found["episodes"]) == (2, 2)


def test_a_run_is_fetched_as_a_run_directory(
    released: dict[int, Bundle], pronk: Pronk, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # what is there is renewed
        assert pronk("reader", "fetch", "--out", out) == 0
        assert "default-1 default-2 default-3" in capsys.readouterr().out
    assert (out / "summary.json").read_bytes() == REPORT.summary
    assert (out / "curve.png").read_bytes() == REPORT.curve
    assert (out / "metrics.jsonl").read_bytes() == REPORT.metrics
    for number, bundle in released.items():
        assert Bundle.load(out / "policies" / f"default-{number}") == bundle
    assert pronk("reader", "evaluate", out, "--episodes", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["number"] == 3
    assert pronk("reader", "fetch") == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [
        capsys.readouterr().out.partition(" ")[0]
    ]


@pytest.mark.parametrize(
    ("role", "token", "arguments", "says"),
    [
        ("actor", None, ["fetch"], "needs the role operator or reader"),
        ("reader", "wrong", ["status"], "no token, or an unknown one"),
        ("reader", "wrong", ["evaluate"], "no token, or an unknown one"),
        ("reader", "wrong", ["policy", "list"], "no token, or an unknown one"),
        ("reader", "wrong", ["fetch"], "no token, or an unknown one"),
    ],
)
def test_who_may_not_is_told_in_one_line(
    released: dict[int, Bundle],
    pronk: Pronk,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    token: str | None,
    arguments: list[str],
    says: str,
    capsys: Captured,
) -> None:
    if token is not None:
        monkeypatch.setenv("PRONK_TOKEN", token)
    assert pronk(role, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.fixture
def own() -> Iterator[Credentials]:
    with throwaway(f"127.0.0.1:{free_port()}", 1) as made:
        yield made


def test_a_report_is_of_the_epochs_holder_and_survives_a_restart(
    tmp_path: Path, own: Credentials, pronk: Pronk, capsys: Captured
) -> None:
    with guarded(tmp_path / "run", own, text=TWO_POLICIES_YAML) as server:
        red = Learner(server, own, "red")
        red.publish(1)
        report = reports_pb2.Report(policy="red", summary=b"{}")
        assert cluster.leave_report(red.channel, red.member, report, NEVER)
        for member, policy in ((red.member, "blue"), ("", "red"), ("", "blue"), ("x", "../red")):
            wrong = reports_pb2.Report(policy=policy, summary=b"wrong")
            with pytest.raises(Fenced, match="does not hold the epoch"):
                cluster.leave_report(red.channel, member, wrong, NEVER)
        large = reports_pb2.Report(policy="red", curve=b"x" * (2 << 20))
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            cluster.leave_report(red.channel, red.member, large, NEVER)
        red.leave()
    with guarded(tmp_path / "run", own, text=TWO_POLICIES_YAML):
        assert pronk("reader", "fetch", "--out", tmp_path / "out", of=own) == 0
    assert "reports   red" in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.json").read_bytes() == b"{}"


@pytest.mark.parametrize("damage", ["empty", "truncate", "flip"])
def test_a_damaged_report_is_left_out_and_the_rest_is_fetched(tmp_path: Path, damage: str) -> None:
    with ServerThread(tmp_path / "run", text=TWO_POLICIES_YAML) as server:
        reports = tmp_path / "run" / "server" / "reports"
        for policy in ("blue", "red"):
            report = reports_pb2.Report(policy=policy, summary=b"{}")
            report_files.write(reports / policy, report)
        ruin(reports / "red", damage)
        before = metrics.REPORTS_DAMAGED._value.get()
        with server.connect() as channel:
            assert [report.policy for report in cluster.list_reports(channel)] == ["blue"]
        assert metrics.REPORTS_DAMAGED._value.get() == before + 1


@pytest.mark.parametrize("name", ["..", "../elsewhere", "/etc", "a/b", "", "\x1b[2J"])
def test_names_from_afar_do_not_choose_where_files_go(tmp_path: Path, name: str) -> None:
    assert _Layout(tmp_path, ["blue", "red"]).of("red") == tmp_path / "red"
    with pytest.raises(Failed, match="names that no policies have"):
        _Layout(tmp_path, ["red", name])
    with pytest.raises(Failed, match="a name that no run has"):
        _default_folder(name)
