"""`pronk up --secure`: everybody shows who they are, and no secret is found where others look."""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil
import pytest
from cluster_clients import TRAIN
from param_servers import EXPERIMENT_YAML, SPEC, ServerThread
from redis.exceptions import AuthenticationError
from test_up import CONFIG, PRONK, belonging_to, command, last_lines, run, started, summary
from valkeys import EmbeddedValkey

from pronk.transport.membership import Membership
from pronk.transport.redis import connect as connect_redis

pytestmark = pytest.mark.timeout(180)

FILES = ("PRONK_TLS_CA", "PRONK_TLS_KEY")
SERVICES = {"param-server", "learner", "actor-0", "actor-1"}
TELL_COMMANDS = """
import json, os, sys

def tell(event, arguments):
    if event == "subprocess.Popen":
        with open(os.environ["COMMANDS"], "a") as file:
            file.write(json.dumps([os.fsdecode(word) for word in arguments[1]]) + "\\n")

sys.addaudithook(tell)
"""


class Spy:
    """Looks at a cluster as another program of this machine could, from its start to its end."""

    def __init__(self, process: "subprocess.Popen[str]", run_dir: Path) -> None:
        self.arguments: set[str] = set()
        self.pages: dict[str, str] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.secrets: set[str] = set()
        self._process = psutil.Process(process.pid)
        self._run_dir = run_dir
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with suppress(psutil.Error):
                for process in [self._process, *self._process.children(recursive=True)]:
                    with suppress(psutil.Error):
                        self._look_at(process)
            self._read_pages()

    def _look_at(self, process: psutil.Process) -> None:
        words = process.cmdline()
        self.arguments.update(words)
        environment = process.environ()
        if "pronk.cli.main" in words and "PRONK_TLS_CERT" in environment:
            self.environments[str(process.pid)] = environment
            for path in Path(environment["PRONK_TLS_CERT"]).parents[1].rglob("*"):
                with suppress(OSError):
                    self.secrets |= secrets_of(path)

    def _read_pages(self) -> None:
        for log in (self._run_dir / "logs").glob("*.log"):
            port = re.search(r'"metrics_port": (\d+)', log.read_text(errors="replace"))
            if port:
                url = f"http://127.0.0.1:{port[1]}/metrics"
                with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                    self.pages[log.stem] = answer.read().decode()


def secrets_of(path: Path) -> set[str]:
    """What a file of credentials holds that nobody may see."""
    if path.name == "tls.key":
        return {line for line in path.read_text().splitlines() if "-----" not in line}
    if path.name == "token":
        return {path.read_text().strip()}
    if path.name == "tokens":
        return {line.split()[1] for line in path.read_text().splitlines()}
    if path.name == "redis_url":
        return {urlsplit(path.read_text()).password or ""}
    return set()


def test_no_secret_is_where_others_look(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = command(run_dir, "--secure", "--set", "stop.frames=300_000")
    remote = {"PRONK_TOKEN": "of-a-remote-cluster", "PRONK_REDIS_URL": "redis://:remote@there"}
    # Some programs show how they were started for a moment only, as Valkey does.
    (tmp_path / "sitecustomize.py").write_text(TELL_COMMANDS)
    commands = tmp_path / "commands"
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | remote | {"PYTHONPATH": ":".join(paths), "COMMANDS": str(commands)},
    ) as process:
        try:
            with Spy(process, run_dir) as spy:
                said, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, said + last_lines(run_dir)
    assert summary(run_dir)["stop_reason"] == "frames reached 300000"

    # four tokens, five keys of three lines, two passwords: all were seen, so all are looked for
    assert len(spy.secrets) == 4 + 5 * 3 + 2
    assert all(len(secret) >= 20 for secret in spy.secrets)
    assert spy.pages.keys() == SERVICES
    started_as = {word for line in commands.read_text().splitlines() for word in json.loads(line)}
    assert "--aclfile" in started_as

    places = {str(path): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert any(name.endswith("param-server.log") for name in places)
    places |= {name: page.encode() for name, page in spy.pages.items()}
    places |= {word: word.encode() for word in spy.arguments | started_as}
    places["output"] = said.encode()
    for secret in spy.secrets | set(remote.values()):
        assert [name for name, content in places.items() if secret.encode() in content] == []

    folders = {Path(e["PRONK_TLS_CERT"]).parent for e in spy.environments.values()}
    assert {folder.name for folder in folders} == {"param-server", "learner", "actor"}
    assert not any(folder.parent.exists() for folder in folders)
    for environment in spy.environments.values():
        role = Path(environment["PRONK_TLS_CERT"]).parent.name
        assert ("PRONK_REDIS_URL_FILE" in environment) == (role != "param-server")
        assert ("PRONK_TOKENS_FILE" in environment) == (role == "param-server")
        for name in (*FILES, "PRONK_TOKEN_FILE", "PRONK_TOKENS_FILE", "PRONK_REDIS_URL_FILE"):
            assert Path(environment.get(name, f"{role}/x")).parent.name == role


PASSWORD = "hunter-of-the-white-whale"


@pytest.mark.parametrize("verb", ["actor", pytest.param("learner", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"redis://default:{PASSWORD}@127.0.0.1:{{port}}/0", "Redis refuses us"),
        (f"redis://default:{PASSWORD}@127.0.0.1:1/0", '"waiting_for": "the buffer"'),
        (f"redis://default:{PASSWORD}@no.such.host.invalid:1/0", '"waiting_for": "the buffer"'),
        (f"redis://default:{PASSWORD}/@127.0.0.1:1/0", "PRONK_REDIS_URL is malformed"),
        (f"redis://default:{PASSWORD}@[127.0.0.1:1/0", "PRONK_REDIS_URL is malformed"),
        (f"redis://127.0.0.1:1/0?password={PASSWORD}&socket_timeout=x{PASSWORD}", "malformed"),
    ],
)
def test_no_secret_is_where_a_failure_is_told(
    tmp_path: Path, verb: str, url: str, told: str
) -> None:
    """Texts of exceptions like to quote what went wrong."""
    with EmbeddedValkey(tmp_path) as valkey, ServerThread(tmp_path / "server") as server:
        with connect_redis(valkey.url) as admin:
            admin.config_set("requirepass", "another")
        (tmp_path / "x.yaml").write_text(EXPERIMENT_YAML)
        with server.connect() as channel:  # the learner waits for an actor's spec
            actor = Membership(channel, TRAIN, server.hash, ("default",), SPEC)
            assert actor.join(threading.Event())
            said = told_by(verb, tmp_path, server, url.format(port=valkey.port), until=told)
            actor.leave()
    assert told in said
    assert "Traceback" not in said
    assert PASSWORD not in said


def told_by(verb: str, folder: Path, server: ServerThread, url: str, until: str) -> str:
    """What a service says, its log included, from its start to its end soon after `until`."""
    environment = {
        **os.environ,
        "PRONK_SERVER": str(server.address),
        "PRONK_REDIS_URL": url,
        "PRONK_RUN_DIR": str(folder / "run"),
        "PRONK_LOG_LEVEL": "debug",
    }
    with subprocess.Popen(
        [*PRONK, verb, "--config", str(folder / "x.yaml")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until in line:
                process.terminate()
        assert process.wait(30) in (0, 2, -signal.SIGTERM), "".join(lines)
    return "".join(lines)


@pytest.mark.slow
def test_only_those_who_show_who_they_are_are_answered(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with started(run_dir, "--secure") as process:
        server, reader = (run_dir / "server" / "address").read_text().splitlines()
        folder = Path(reader).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)

        shown = run([*PRONK, "status", str(run_dir), "--json"])
        assert json.loads(shown.stdout)["state"] == "RUNNING", shown.stderr
        env = shlex.quote(str(folder / "operator" / "env"))
        sourced = run(["sh", "-c", f'. {env}; exec "$@"', "-", *PRONK, "status", "--json"])
        assert json.loads(sourced.stdout)["state"] == "RUNNING", sourced.stderr

        stranger = run([*PRONK, "status"], PRONK_SERVER=server)
        assert stranger.returncode == 1
        assert len(stranger.stderr.splitlines()) == 1
        without = {
            "PRONK_SERVER": server,
            "PRONK_TLS_CA": f"{reader}/ca.crt",
            "PRONK_TLS_CERT": f"{reader}/tls.crt",
            "PRONK_TLS_KEY": f"{reader}/tls.key",
        }
        tokenless = run([*PRONK, "status"], **without)
        assert tokenless.returncode == 2
        assert "no token" in tokenless.stderr

        port = valkey_port(run_dir)
        url = f"redis://127.0.0.1:{port}/0"
        with connect_redis(url) as client, pytest.raises(AuthenticationError):
            client.ping()

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not folder.exists()
    assert not belonging_to(run_dir)


def valkey_port(run_dir: Path) -> int:
    """Where the cluster's own Valkey listens."""
    (server,) = [p for p in belonging_to(run_dir) if "valkey" in p.name()]
    return next(c.laddr.port for c in server.net_connections() if c.family == socket.AF_INET)


def test_it_makes_users_only_on_a_buffer_of_its_own(tmp_path: Path) -> None:
    refused = run([*PRONK, "up", CONFIG, "--secure", "--redis-url", "redis://127.0.0.1:1/0"])
    assert refused.returncode == 2
    assert "leave --redis-url away" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
