"""What `pronk up --secure` makes: private, one role's apart from another's, gone at the end."""

import os
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pronk.cli.credentials import SERVER, throwaway
from pronk.transport.acl import aclfile
from pronk.transport.security import ROLES


def test_it_is_private_and_goes_even_after_a_failure() -> None:
    seen: dict[Path, int] = {}

    def fail() -> None:
        with throwaway("127.0.0.1:1", 2) as made:
            for path in [made.folder, *made.folder.rglob("*")]:
                seen[path] = path.stat().st_mode
            raise RuntimeError("the cluster failed")

    old = os.umask(0)
    try:
        with pytest.raises(RuntimeError):
            fail()
    finally:
        os.umask(old)
    assert len(seen) > 20
    for path, mode in seen.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path
        assert not path.exists()


def test_every_role_has_its_own_and_the_authority_keeps_nothing() -> None:
    with throwaway("127.0.0.1:1", 2) as made, throwaway("127.0.0.1:1", 2) as other:
        assert made.folder != other.folder
        keys, tokens = set(), set()
        authority = x509.load_pem_x509_certificate((made.folder / SERVER / "ca.crt").read_bytes())
        for role in (SERVER, *ROLES):
            own = made.environment(role)
            paths = {Path(value) for value in own.values() if value.startswith("/")}
            assert {path.parent for path in paths} == {made.folder / role}
            assert all(path.is_file() for path in paths)
            pem = Path(own["PRONK_TLS_KEY"]).read_bytes()
            key = load_pem_private_key(pem, None).public_key()
            certificate = x509.load_pem_x509_certificate(Path(own["PRONK_TLS_CERT"]).read_bytes())
            assert certificate.public_key() == key
            certificate.verify_directly_issued_by(authority)
            keys.add(pem)
            assert ("PRONK_REDIS_URL_FILE" in own) == (role in ("actor", "learner"))
            if role != SERVER:
                tokens.add(Path(own["PRONK_TOKEN_FILE"]).read_text())
        assert len(keys) == len(ROLES) + 1
        assert len(tokens) == len(ROLES)
        stored = {path.read_bytes() for path in made.folder.rglob("*.key")}
        assert stored == keys, "the authority's own key is nowhere"
        assert made.aclfile.read_text() != other.aclfile.read_text()
        for role in ("actor", "learner"):
            url = Path(made.environment(role)["PRONK_REDIS_URL_FILE"]).read_text()
            password = urlsplit(url).password
            assert password
            assert password not in made.aclfile.read_text()


def test_its_variables_can_be_sourced() -> None:
    with throwaway("127.0.0.1:1", 2) as made:
        for role in ROLES:
            script = f". {made.env_file(role)}; env"
            shown = subprocess.check_output(["sh", "-c", script], text=True, env={})
            found = dict(line.split("=", 1) for line in shown.splitlines())
            expected = made.environment(role) | {"PRONK_SERVER": "127.0.0.1:1"}
            assert expected.items() <= found.items()


def test_what_is_shown_of_it_holds_no_password() -> None:
    with throwaway("127.0.0.1:1", 2) as made:
        assert repr(made) == f"Credentials(folder={made.folder!r}, server='127.0.0.1:1')"
        assert aclfile({"actor": "secret"}).count("secret") == 0
