"""Tokens, roles and TLS, over real connections."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cluster_clients import LEARNER, TRAIN
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from param_servers import SPEC, ServerThread
from rpc_methods import METHODS, SERVICES, call

from pronk.cli.authority import Authority as CertificateAuthority
from pronk.errors import Misconfigured
from pronk.transport import cluster
from pronk.transport.channels import connect
from pronk.transport.membership import Membership
from pronk.transport.security import (
    ALL_ROLES,
    ROLES,
    Authority,
    authority,
    check_listen,
    client_credentials,
    required_roles,
    server_credentials,
)
from pronk.transport.server import RoleInterceptor
from pronk.transport.settings import Settings, parse_address
from pronk.wire.v1 import access_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

TOKENS = {name: f"token-of-{name}" for name in ROLES}
OUTSIDERS = ("uncertified", "stranger", "plaintext")
"""Without a client's certificate, with one of another authority, without TLS."""

# Written out, so that a change of the protocol's roles is a change of two files.
EVERYBODY = {"actor", "learner", "operator", "reader"}
EXPECTED: dict[str, set[str]] = {
    "Register": {"actor", "learner"},
    "Heartbeat": {"actor", "learner"},
    "Leave": {"actor", "learner"},
    "GetSpec": {"learner", "operator", "reader"},
    "GrantEpoch": {"learner"},
    "Publish": {"learner"},
    "Watch": EVERYBODY,
    "CutRelease": {"learner", "operator"},
    "ListReleases": EVERYBODY,
    "SetRunState": {"learner", "operator"},
    "ReportEpisodes": {"actor"},
    "GetStatus": EVERYBODY,
    "Put": {"learner"},
    "Get": EVERYBODY,
    "LeaveReport": {"learner"},
    "ListReports": {"operator", "reader"},
}


class Certificates:
    """An authority made on the spot, with a server's and a client's certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = CertificateAuthority()
        (folder / "ca.crt").write_text(authority.certificate)
        for name, hosts in (("server", ["127.0.0.1"]), ("client", [])):
            certificate, key = authority.issue(name, hosts)
            (folder / f"{name}.crt").write_text(certificate)
            (folder / f"{name}.key").write_text(key)

    @property
    def ca(self) -> dict[str, Path]:
        return {"tls_ca": self.folder / "ca.crt"}

    def pair(self, name: str) -> dict[str, Path]:
        return {
            "tls_cert": self.folder / f"{name}.crt",
            "tls_key": self.folder / f"{name}.key",
        }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    lines = [f"{role} {token}" for role, token in TOKENS.items()]
    lines += [f"{role} token-of-all" for role in TOKENS]
    file.write_text("\n".join(["# roles and tokens", "", *lines]))
    return file


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, tokens_file: Path, certificates: Certificates
) -> Iterator[ServerThread]:
    """A server that asks for a client's certificate and for a token."""
    folder = tmp_path_factory.mktemp("guarded")
    pair = certificates.pair("server")
    with ServerThread(folder, tokens_file=tokens_file, **certificates.ca, **pair) as server:
        yield server


@pytest.fixture(scope="module")
def channels(
    guarded: ServerThread, certificates: Certificates, strangers: Certificates
) -> Iterator[dict[str, grpc.Channel]]:
    known = certificates.ca | certificates.pair("client")
    shown: dict[str, dict[str, Any]] = {
        name: known | {"token": token} for name, token in TOKENS.items()
    }
    shown |= {"wrong": known | {"token": "token-of-nobody"}, "none": known}
    # With a token that everything would be allowed with.
    shown |= {
        "uncertified": certificates.ca | {"token": "token-of-all"},
        "stranger": certificates.ca | strangers.pair("client") | {"token": "token-of-all"},
        "plaintext": {"token": "token-of-all"},
    }
    channels = {name: guarded.connect(**settings) for name, settings in shown.items()}
    yield channels
    for channel in channels.values():
        channel.close()


def test_the_protocol_names_the_roles_that_are_meant() -> None:
    declared = {
        method.name: {
            name
            for name, role in ROLES.items()
            if role in method.GetOptions().Extensions[access_pb2.roles]
        }
        for method in METHODS
    }
    assert declared == EXPECTED


def services_of(channel: grpc.Channel, token: str | None) -> set[str]:
    """What the server says that it serves."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    [answer] = stub.ServerReflectionInfo(iter([request]), timeout=5, metadata=metadata)
    return {service.name for service in answer.list_services_response.service}


def test_the_server_serves_what_the_table_has(channels: dict[str, grpc.Channel]) -> None:
    known = {service.full_name for service in SERVICES}
    assert services_of(channels["none"], TOKENS["reader"]) == known | {reflection.SERVICE_NAME}


@pytest.mark.parametrize("caller", [*ROLES, "wrong", "none", *OUTSIDERS])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_by_everybody(
    channels: dict[str, grpc.Channel], method: MethodDescriptor, caller: str
) -> None:
    code, details = call(channels[caller], method, b"")
    if caller in OUTSIDERS:
        assert code == grpc.StatusCode.UNAVAILABLE, "no call comes through"
    elif caller in ("wrong", "none"):
        assert code == UNAUTHENTICATED
    elif caller in EXPECTED[method.name]:
        # It gets past the door; what is empty may be refused inside.
        assert code != UNAUTHENTICATED
        assert "needs the role" not in details or "ROLE_" in details
        assert code != grpc.StatusCode.UNKNOWN
    else:
        assert code == DENIED
        assert method.name in details


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_without_tokens_everybody_may_do_everything(
    open_channel: grpc.Channel, method: MethodDescriptor
) -> None:
    code, _ = call(open_channel, method, b"")
    assert code not in (UNAUTHENTICATED, DENIED, grpc.StatusCode.UNKNOWN)


@pytest.fixture(scope="module")
def open_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    with (
        ServerThread(tmp_path_factory.mktemp("open")) as server,
        server.connect() as channel,
    ):
        yield channel


def test_an_actor_cannot_pass_for_a_learner_nor_end_its_lease(
    guarded: ServerThread, channels: dict[str, grpc.Channel]
) -> None:
    stop = threading.Event()
    impostor = Membership(channels["actor"], LEARNER, guarded.hash, ("default",))
    with pytest.raises(Misconfigured, match="ROLE_LEARNER"):
        impostor.join(stop)
    learner = Membership(channels["learner"], LEARNER, guarded.hash, ("default",))
    assert learner.join(stop)
    registry = RegistryServiceStub(channels["actor"])
    for attack in (
        lambda: registry.Leave(pb.LeaveRequest(member=learner.member), timeout=5),
        lambda: registry.Heartbeat(pb.HeartbeatRequest(member=learner.member), timeout=5),
    ):
        with pytest.raises(grpc.RpcError) as error:
            attack()
        assert error.value.code() == DENIED
    learner.leave()


def test_an_operator_speaks_for_the_run_and_a_learner_only_for_its_policy(
    channels: dict[str, grpc.Channel],
) -> None:
    stop = threading.Event()
    with pytest.raises(grpc.RpcError, match="ROLE_OPERATOR"):
        cluster.set_run_state(channels["learner"], "", pb.RUN_STATE_FAILED, "no", stop)
    assert cluster.set_run_state(channels["operator"], "", pb.RUN_STATE_RUNNING, "yes", stop)


def test_a_refused_token_ends_a_member_with_one_line(
    guarded: ServerThread, channels: dict[str, grpc.Channel]
) -> None:
    member = Membership(channels["wrong"], TRAIN, guarded.hash, ("default",), SPEC)
    with pytest.raises(Misconfigured, match="refuses: no token, or an unknown one"):
        member.join(threading.Event())


@pytest.mark.parametrize("caller", [*ROLES, "wrong", "none", *OUTSIDERS])
def test_reflection_for_everybody_with_a_token(
    channels: dict[str, grpc.Channel], caller: str
) -> None:
    token = TOKENS.get(caller, "token-of-nobody")
    channel = channels[caller if caller in OUTSIDERS else "none"]
    if caller in ROLES:
        assert "pronk.v1.RegistryService" in services_of(channel, token)
    else:
        with pytest.raises(grpc.RpcError) as error:
            services_of(channel, None if caller == "none" else token)
        outside = caller in OUTSIDERS
        assert error.value.code() == (grpc.StatusCode.UNAVAILABLE if outside else UNAUTHENTICATED)


async def test_a_method_without_roles_is_for_nobody() -> None:
    async def handler(_details: object) -> object:
        return object()

    class Details:
        method = "/pronk.v1.RegistryService/Forgotten"
        invocation_metadata = ()

    required = {**required_roles(SERVICES), Details.method: frozenset[int]()}
    for known in (required, required_roles(SERVICES)):
        interceptor = RoleInterceptor(known, Authority(None))
        answer = await interceptor.intercept_service(handler, Details())
        assert answer.stream_stream is not None, "the handler that refuses"


# Tokens


def test_a_token_may_have_several_roles(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("actor both\nlearner both\nreader one\n")
    known = authority(Settings(tokens_file=file))
    both = known.roles([("authorization", "Bearer both")])
    assert both == {access_pb2.ROLE_ACTOR, access_pb2.ROLE_LEARNER}
    for header in ("both", "Basic both", "Bearer ", "Bearer BOTH", "bearer both"):
        assert known.roles([("authorization", header)]) is None
    assert Authority(None).roles([]) == ALL_ROLES


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "root token\n", "actor\n", "actor two words\n", "actor tökén\n"]
)
def test_malformed_token_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(Misconfigured, match="PRONK_TOKENS_FILE"):
        authority(Settings(tokens_file=file))


def test_a_token_does_not_travel_readable() -> None:
    with pytest.raises(Misconfigured, match="PRONK_TLS_CA"):
        connect(Settings(server="10.0.0.1:50051", token="secret"))
    connect(Settings(server="10.0.0.1:50051", token="secret", insecure=True)).close()
    connect(Settings(server="10.0.0.1:50051")).close()


# TLS


def reaches(server: ServerThread, **settings: Any) -> bool:
    """Whether a client with these settings is served; nothing but the connection may fail."""
    with server.connect(**settings) as channel:
        try:
            return bool(cluster.status(channel).run)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return False


def test_tls(tmp_path: Path, certificates: Certificates, strangers: Certificates) -> None:
    with ServerThread(tmp_path / "run", **certificates.pair("server")) as server:
        assert reaches(server, **certificates.ca)
        assert not reaches(server), "a client without TLS"
        assert not reaches(server, **strangers.ca), "a client that trusts somebody else"


def test_mutual_tls(tmp_path: Path, certificates: Certificates, strangers: Certificates) -> None:
    with ServerThread(tmp_path / "run", **certificates.ca, **certificates.pair("server")) as server:
        assert reaches(server, **certificates.ca, **certificates.pair("client"))
        assert not reaches(server, **certificates.ca), "a client without a certificate"
        assert not reaches(server, **certificates.ca, **strangers.pair("client"))


def test_tls_with_tokens(tmp_path: Path, certificates: Certificates, tokens_file: Path) -> None:
    with ServerThread(
        tmp_path / "run", tokens_file=tokens_file, **certificates.pair("server")
    ) as server:
        assert reaches(server, token=TOKENS["reader"], **certificates.ca)
        with (
            server.connect(**certificates.ca) as channel,
            pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"),
        ):
            cluster.status(channel)


def test_a_server_that_cannot_be_trusted_ends_a_member(
    tmp_path: Path, certificates: Certificates, strangers: Certificates
) -> None:
    with (
        ServerThread(tmp_path / "run", **certificates.pair("server")) as server,
        server.connect(**strangers.ca) as channel,
    ):
        member = Membership(channel, LEARNER, server.hash, ("default",))
        with pytest.raises(Misconfigured, match="CERTIFICATE_VERIFY_FAILED"):
            member.join(threading.Event())


@pytest.mark.parametrize(
    ("listen", "tls", "tokens", "insecure", "allowed"),
    [
        ("127.0.0.1:0", False, False, False, True),
        ("localhost:0", False, False, False, True),
        ("[::1]:0", False, False, False, True),
        ("0.0.0.0:0", False, False, False, False),
        ("0.0.0.0:0", True, False, False, False),
        ("0.0.0.0:0", False, True, False, False),
        ("0.0.0.0:0", True, True, False, True),
        ("0.0.0.0:0", False, False, True, True),
        ("[::]:0", False, False, False, False),
        ("param-server:0", False, False, False, False),
    ],
)
def test_who_may_listen_where(
    tmp_path: Path, listen: str, tls: bool, tokens: bool, insecure: bool, allowed: bool
) -> None:
    file = tmp_path / "file"
    settings = Settings(
        listen=listen,
        tls_cert=file if tls else None,
        tls_key=file if tls else None,
        tokens_file=file if tokens else None,
        insecure=insecure,
    )
    if allowed:
        check_listen(settings, parse_address(listen))
    else:
        with pytest.raises(Misconfigured, match="PRONK_INSECURE=1"):
            check_listen(settings, parse_address(listen))


def test_an_open_door_is_refused_at_the_start(tmp_path: Path) -> None:
    server = ServerThread(tmp_path / "run", listen=parse_address("0.0.0.0:0"))
    with pytest.raises(Misconfigured, match="PRONK_INSECURE=1"), server:
        pass


def test_files_of_tls_that_do_not_fit(
    tmp_path: Path, certificates: Certificates, strangers: Certificates
) -> None:
    good, other = certificates.pair("client"), strangers.pair("client")
    text, missing = tmp_path / "text", tmp_path / "missing"
    text.write_text("no certificate")
    pem = tmp_path / "pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")
    for settings, words in (
        (Settings(tls_cert=text, tls_key=text), "not a PEM file"),
        (Settings(tls_cert=missing, tls_key=text), "PRONK_TLS_"),
        (Settings(tls_cert=good["tls_cert"]), "go together"),
        (Settings(tls_key=good["tls_key"]), "go together"),
        (Settings(tls_ca=pem), "PRONK_TLS_CA: .*pem holds no certificate"),
        (Settings(tls_ca=good["tls_key"]), "PRONK_TLS_CA: .*client.key holds no certificate"),
        (Settings(tls_cert=pem, tls_key=good["tls_key"]), "PRONK_TLS_CERT: .*pem holds no"),
        (Settings(tls_cert=good["tls_cert"], tls_key=pem), "PRONK_TLS_KEY: .*pem is no key"),
        (Settings(tls_cert=good["tls_cert"], tls_key=other["tls_key"]), "PRONK_TLS_KEY: .* no key"),
        (Settings(tls_ca=missing), "PRONK_TLS_CA: cannot read"),
    ):
        for credentials in (server_credentials, client_credentials):
            with pytest.raises(Misconfigured, match=words):
                credentials(settings)
    with pytest.raises(Misconfigured, match="needs PRONK_TLS_CERT"):
        server_credentials(Settings(**certificates.ca))
    nonsense = ServerThread(tmp_path / "run", tls_cert=pem, tls_key=pem)
    with pytest.raises(Misconfigured, match="PRONK_TLS_CERT"), nonsense:
        pass
