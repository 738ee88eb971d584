"""The embedded server: bounded, on loopback, writes nothing, ends when it should."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pronk.errors import Misconfigured
from pronk.transport import valkey
from pronk.transport.redis import connect
from pronk.transport.valkey import EmbeddedValkey, valkey_command


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def is_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_is_configured_for_the_buffer(tmp_path):
    with EmbeddedValkey(tmp_path, max_memory=32 << 20) as server, connect(server.url) as client:
        expected = {
            "maxmemory": str(32 << 20),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
            "bind": "127.0.0.1",
        }
        assert {key: client.config_get(key)[key] for key in expected} == expected
        assert client.info("server")["process_id"] == server.pid
        client.set("key", "value")
    assert [path.name for path in tmp_path.iterdir()] == ["valkey.log"]


def test_nothing_is_left_and_it_starts_again_on_its_port(tmp_path):
    server = EmbeddedValkey(tmp_path)
    assert server.pid is None
    with server:
        first, url = server.pid, server.url
        assert first is not None
    assert not is_alive(first)
    assert not is_listened_on(server.port)
    with server:
        assert server.url == url
        assert server.pid != first
    server.stop()  # twice is fine


def test_one_that_does_not_listen_to_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(valkey, "_STOP_SECONDS", 0.2)
    with EmbeddedValkey(tmp_path) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux'")
def test_it_dies_with_its_parent(tmp_path):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pathlib import Path\n"
            "from pronk.transport.valkey import EmbeddedValkey\n"
            "server = EmbeddedValkey(Path(sys.argv[1]))\n"
            "server.start()\n"
            "print(server.pid, flush=True)\n"
            "time.sleep(60)\n",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.01)


def test_it_is_not_started_by_a_thread_that_would_take_it_along(tmp_path):
    refusals = []

    def start():
        try:
            EmbeddedValkey(tmp_path).start()
        except RuntimeError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(refusals) == 1


def test_a_port_in_use_is_told_in_one_line(tmp_path):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        server = EmbeddedValkey(tmp_path, port=port)
        with pytest.raises(Misconfigured, match=rf"port {port}: .*") as caught:
            server.start()
    assert "\n" not in str(caught.value)
    assert server.pid is None


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path):
    with EmbeddedValkey(tmp_path) as first:
        other = EmbeddedValkey(tmp_path, port=first.port)
        with pytest.raises(Misconfigured):
            other.start()


def test_a_server_on_path_does_where_the_wheel_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(valkey, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match=r"no Valkey or Redis.*--redis-url"):
        valkey_command(1, tmp_path, 1)
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    assert valkey_command(1, tmp_path, 1)[0] == str(program)
