"""Settings of the environment: values, and one line for each mistake."""

import os
from pathlib import Path

import pytest

from pronk.errors import Misconfigured
from pronk.transport.settings import Address, Settings, load, parse_address


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PRONK_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("param-server.pronk.svc:1", Address("param-server.pronk.svc", 1)),
        ("[::1]:65535", Address("::1", 65535)),
        (" localhost:0 ", Address("localhost", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":50051", "localhost:", "localhost:http", "a b:1", "::1:50051", "[::1]",
     "[localhost]:1", "localhost:65536", "localhost:-1", "http://localhost:1", "localhost:٣"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|at most 65535"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.evil.org", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback == loopback


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRONK_SERVER", "elsewhere:7")
    monkeypatch.setenv("PRONK_INSECURE", "1")
    monkeypatch.setenv("PRONK_RUN_DIR", "/runs/one")
    monkeypatch.setenv("PRONK_TOKEN", "")
    monkeypatch.setenv("PRONK_LOG_LEVEL", "WARNING")
    settings = load()
    assert settings.server == Address("elsewhere", 7)
    assert settings.insecure
    assert settings.log_level == "warning"
    assert settings.required_run_dir() == Path("/runs/one")
    assert settings.client_token() is None, "an empty variable is one that is not set"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PRONK_SERVER", "nowhere", "PRONK_SERVER: 'nowhere' is not HOST:PORT"),
        ("PRONK_METRICS_LISTEN", "x:99999", "PRONK_METRICS_LISTEN: .*at most 65535"),
        ("PRONK_INSECURE", "perhaps", "PRONK_INSECURE: "),
        ("PRONK_LOG_LEVEL", "verbose", "PRONK_LOG_LEVEL: Input should be 'debug', 'info'"),
    ],
)
def test_impossible_values_are_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=words) as error:
        load()
    assert "\n" not in str(error.value)


def test_a_missing_run_directory_is_named() -> None:
    with pytest.raises(Misconfigured, match="PRONK_RUN_DIR"):
        Settings().required_run_dir()


def test_tokens_come_from_the_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    assert Settings(token="word").client_token() == "word"
    assert Settings(token_file=file).client_token() == "from-a-file"


@pytest.mark.parametrize("content", ["", "two words", "schlüssel"])
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(Misconfigured, match="PRONK_TOKEN_FILE: a token is one word"):
        Settings(token_file=file).client_token()
    with pytest.raises(Misconfigured, match="cannot read"):
        Settings(token_file=tmp_path / "missing").client_token()


def test_the_buffer_comes_from_the_file_or_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "redis_url"
    file.write_text("redis://from-a-file/0\n")
    url = "redis://from-the-variable/0"
    assert Settings(redis_url=url).buffer_url() == url
    assert Settings(redis_url=url, redis_url_file=file).buffer_url() == "redis://from-a-file/0"
    file.unlink()
    with pytest.raises(Misconfigured, match="PRONK_REDIS_URL_FILE: cannot read"):
        Settings(redis_url_file=file).buffer_url()


def test_secrets_are_not_shown() -> None:
    settings = Settings(token="very-secret", redis_url="redis://:very-secret@host/0")
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in str(settings.model_dump_json())
