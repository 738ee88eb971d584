"""What `make secrets` makes for docker-compose.secure.yml: modes, names, addresses; only once."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509

from pronk.transport.acl import aclfile
from pronk.transport.security import ROLES

SCRIPT = Path(__file__).parents[2] / "scripts/make_secrets.py"


def make(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as somebody whose files are for everybody."""
    return subprocess.run(
        [sys.executable, SCRIPT],
        cwd=folder, env=os.environ | variables, umask=0, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    done = make(folder, PRONK_PORT="50061")
    assert done.returncode == 0, done.stderr
    assert ". secrets/operator/env && pronk status" in done.stdout
    return folder / "secrets"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_for_you_alone_and_containers_may_read_their_own(made: Path) -> None:
    assert mode(made) == 0o700
    found = list(made.rglob("*"))
    assert {path.name for path in made.iterdir()} == {*ROLES, "param-server", "redis"}
    for path in found:
        assert mode(path) == (0o755 if path.is_dir() else 0o644), path


def test_certificates_are_for_the_names_in_the_cluster_and_on_this_machine(made: Path) -> None:
    for holder, names, addresses in (
        ("param-server", ["param-server", "localhost"], ["127.0.0.1"]),
        ("redis", ["redis"], []),
    ):
        certificate = x509.load_pem_x509_certificate((made / holder / "tls.crt").read_bytes())
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert known.get_values_for_type(x509.DNSName) == names
        assert list(map(str, known.get_values_for_type(x509.IPAddress))) == addresses


def test_the_buffers_url_is_that_of_the_container(made: Path) -> None:
    passwords = {}
    for role in ("actor", "learner"):
        url = urlsplit((made / role / "redis_url").read_text().strip())
        assert (url.scheme, url.hostname, url.port, url.username) == ("rediss", "redis", 6379, role)
        assert parse_qs(url.query) == {"ssl_ca_certs": ["/secrets/ca.crt"]}
        assert url.password
        passwords[role] = url.password
    assert (made / "redis/users.acl").read_text() == aclfile(passwords)


def test_an_operator_asks_from_this_machine(made: Path) -> None:
    lines = (made / "operator/env").read_text().splitlines()
    words = dict(shlex.split(line)[1].split("=", 1) for line in lines)
    assert words["PRONK_SERVER"] == "localhost:50061"
    assert words["PRONK_TOKEN_FILE"] == str(made / "operator/token")
    assert words["PRONK_TLS_CA"] == str(made / "operator/ca.crt")


def test_a_second_run_refuses_and_changes_nothing(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}

    done = make(made.parent)

    assert done.returncode == 1
    assert done.stderr == "secrets/ is there already: remove it to have new ones\n"
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_without_a_port_it_is_that_of_docker_compose_yml(tmp_path: Path) -> None:
    assert make(tmp_path, PRONK_PORT="").returncode == 0

    assert "PRONK_SERVER=localhost:50051\n" in (tmp_path / "secrets/operator/env").read_text()
