"""The embedded server: bounded, on loopback, writes nothing, whichever program there is."""

import pytest
from valkeys import EmbeddedValkey

from pronk.errors import Misconfigured
from pronk.transport import valkey
from pronk.transport.redis import connect
from pronk.transport.valkey import valkey_command


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
        client.set("key", "value")
    assert [path.name for path in tmp_path.iterdir()] == ["valkey.log"]


def test_a_server_on_path_does_where_the_wheel_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(valkey, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match=r"no Valkey or Redis.*--redis-url"):
        valkey_command(1, tmp_path, 1)
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    assert valkey_command(1, tmp_path, 1)[0] == str(program)
