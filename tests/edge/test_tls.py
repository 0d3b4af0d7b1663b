"""TLS by settings, to and from the real servers; whose certificate is not believed is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import pytest_asyncio
import uvicorn

from functions._kit.errors import Unavailable
from gateway.adapters import jetstream
from gateway.adapters.inference import TritonInference
from gateway.adapters.jetstream import connect
from gateway.adapters.objects import S3Address, open_objects
from gateway.adapters.tables import open_database
from gateway.embedded import EmbeddedServers, EmbeddedSettings, TritonSettings
from gateway.embedded.folder import DataFolder
from gateway.embedded.process import Command, Process, http_status
from gateway.processes import http_config
from gateway.runtime import open_runtime
from gateway.serving import Server
from gateway.settings import Settings, SettingsError, load
from gateway.tls import TlsFiles

if TYPE_CHECKING:
    from tests.edge.conftest import Certificates

BIN = Path(sys.executable).parent


@pytest_asyncio.fixture
async def claims(tmp_path: Path) -> AsyncIterator[DataFolder]:
    """Its ports are claimed as `nereid up` does it: no other test's server takes them."""
    folder = DataFolder(tmp_path / "claimed")
    await folder.open()
    yield folder
    folder.close()


@asynccontextmanager
async def running(name: str, tmp_path: Path, argv: list[str], port: int) -> AsyncIterator[None]:
    """A server of the test's own, from its first TCP connection to the end of the block."""

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    process = Process(Command(name=name, argv=argv, log=tmp_path / f"{name}.log"))
    await process.start(answers)
    try:
        yield
    finally:
        await process.stop()


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[int]:
    """A listener as a gateway has it, of an app that tells scheme and caller."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = json.dumps([scope["scheme"], scope["client"][0]]).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config: uvicorn.Config = http_config(settings, app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def test_http_is_answered_over_tls(
    certificates: Certificates, strangers: Certificates
) -> None:
    settings = Settings(tls_certificate=certificates.server, tls_key=certificates.server_key)
    assert settings.url == "https://127.0.0.1:8000"
    async with gateway(settings) as port:
        believing = ssl.create_default_context(cafile=certificates.ca)
        async with httpx.AsyncClient(verify=believing, trust_env=False) as http:
            answer = await http.get(f"https://localhost:{port}/")
        assert answer.json()[0] == "https"
        other = ssl.create_default_context(cafile=strangers.ca)
        async with httpx.AsyncClient(verify=other, trust_env=False) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(f"https://localhost:{port}/")
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.HTTPError):
                await http.get(f"http://localhost:{port}/")
        assert await http_status(port, "/", tls=True) == 200
        assert await http_status(port, "/") is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_versions_of_tls_are_not_spoken(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    settings = Settings(tls_certificate=certificates.server, tls_key=certificates.server_key)
    async with gateway(settings) as port:
        context = ssl.create_default_context(cafile=certificates.ca)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port, ssl=context)


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        (None, {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, "127.0.0.1"),
        ("10.0.0.0/8", {"X-Forwarded-For": "203.0.113.9"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        ("127.0.0.0/8, 10.0.0.1", {"X-Forwarded-For": "1.2.3.4, 203.0.113.9, 10.0.0.1"},
         "203.0.113.9"),
        ("127.0.0.1", {}, "127.0.0.1"),
    ],
)  # fmt: skip
async def test_a_callers_address_is_taken_from_named_proxies_alone(
    trusted: str | None, forwarded: dict[str, str], expected: str
) -> None:
    async with (
        gateway(Settings(trusted_proxies=trusted)) as port,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        answer = await http.get(f"http://127.0.0.1:{port}/", headers=forwarded)
        scheme, address = answer.json()
        assert address == expected
        assert scheme == "http"
        assert "server" not in answer.headers


@asynccontextmanager
async def nats_over_tls(
    tmp_path: Path, certificates: Certificates, claims: DataFolder
) -> AsyncIterator[str]:
    """The URL of a NATS that wants a certificate of its clients, too."""
    port = claims.port("nats")
    config = tmp_path / "nats.conf"
    tls = {"cert_file": str(certificates.server), "key_file": str(certificates.server_key)}
    tls |= {"ca_file": str(certificates.ca)}
    both = {"host": "127.0.0.1", "port": port, "tls": tls | {"verify": True}}
    streams = {"jetstream": {"store_dir": str(tmp_path / "streams")}}
    config.write_text(json.dumps(both | streams))
    argv = [str(BIN / "nats-server"), "--config", str(config)]
    async with running("nats", tmp_path, argv, port):
        yield f"tls://localhost:{port}"


async def test_nats_is_spoken_to_over_tls_with_certificates_of_both(
    tmp_path: Path,
    certificates: Certificates,
    strangers: Certificates,
    claims: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with nats_over_tls(tmp_path, certificates, claims) as url:
        client = await connect(url, name="test", tls=certificates.files)
        await client.flush()
        await client.close()
        monkeypatch.setattr(jetstream, "CONNECT_TIMEOUT_S", 2.0)  # so long it tries again
        for wrong in (
            TlsFiles(ca=certificates.ca),
            TlsFiles(ca=strangers.ca, certificate=certificates.client, key=certificates.client_key),
        ):
            with pytest.raises(Unavailable):
                await connect(url, name="test", tls=wrong)


@asynccontextmanager
async def s3_over_tls(
    tmp_path: Path, certificates: Certificates, claims: DataFolder
) -> AsyncIterator[str]:
    """The address of an S3 with one bucket and a picture."""
    port = claims.port("s3")
    (tmp_path / "files" / "bucket").mkdir(parents=True)
    (tmp_path / "files" / "bucket" / "cat.jpg").write_bytes(b"cat")
    argv = [
        *(str(BIN / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", "access,secret-key", "--cert", str(certificates.server)),
        *("--key", str(certificates.server_key), "--config", "", str(tmp_path / "files")),
    ]
    async with running("s3", tmp_path, argv, port):
        yield f"https://localhost:{port}"


async def test_s3_is_spoken_to_over_tls(
    tmp_path: Path, certificates: Certificates, strangers: Certificates, claims: DataFolder
) -> None:
    async with s3_over_tls(tmp_path, certificates, claims) as endpoint:

        def address(ca: Path | None) -> S3Address:
            return S3Address(
                endpoint=endpoint,
                access_key="access",
                secret_key="secret-key",
                bucket="bucket",
                ca=ca,
            )

        async with open_objects(address(certificates.ca)) as objects:
            assert await objects.healthy()
            assert (await objects.read("cat.jpg", limit_bytes=10))[0] == b"cat"
            assert (await objects.head("cat.jpg")) is not None
            assert (await objects.presign("cat.jpg", expires_s=60)).startswith("https://")
        async with open_objects(address(strangers.ca)) as objects:
            with pytest.raises(Unavailable):
                await objects.head("cat.jpg")
            with pytest.raises(Unavailable):
                await objects.read("cat.jpg", limit_bytes=10)


SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""PostgreSQL's protocol, section "SSL Session Encryption"; the server says S, and TLS begins."""


@asynccontextmanager
async def with_tls(port: int, certificates: Certificates) -> AsyncIterator[int]:
    """TLS before a PostgreSQL that is built without, as the embedded one is."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            behind = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pipe(reader, behind[1]), pipe(behind[0], writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_postgresql_is_spoken_to_over_tls_by_its_url(
    database_url: str, certificates: Certificates, strangers: Certificates
) -> None:
    plain = httpx.URL(database_url)
    assert plain.port is not None
    async with with_tls(plain.port, certificates) as port:
        address = database_url.replace(f"127.0.0.1:{plain.port}", f"localhost:{port}")
        checked = f"{address}?sslmode=verify-full&sslnegotiation=postgres&sslrootcert="
        async with open_database(f"{checked}{certificates.ca}") as database:
            assert await database.healthy()
        for wrong in (
            f"{checked}{strangers.ca}",
            f"{database_url}?sslmode=verify-full&sslrootcert={certificates.ca}",
        ):
            with pytest.raises(psycopg.OperationalError):
                await psycopg.AsyncConnection.connect(wrong)


@asynccontextmanager
async def triton_over_tls(tmp_path: Path, certificates: Certificates) -> AsyncIterator[str]:
    """The address of a Triton that wants a certificate of its clients, too."""
    arguments = (
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={certificates.server}",
        f"--grpc-server-key={certificates.server_key}",
        f"--grpc-root-cert={certificates.ca}",
    )
    settings = EmbeddedSettings(triton=TritonSettings(arguments=arguments))
    async with EmbeddedServers(tmp_path / "data", want={"triton"}, settings=settings) as servers:
        yield servers.triton.url.replace("127.0.0.1", "localhost")


async def test_triton_is_spoken_to_over_tls_with_certificates_of_both(
    tmp_path: Path, certificates: Certificates, strangers: Certificates
) -> None:
    async with triton_over_tls(tmp_path, certificates) as address:
        async with TritonInference(address, tls=certificates.files) as inference:
            assert await inference.healthy()
            assert "nanodet-g-416" in await inference.model_names()
        for wrong in (
            None,
            TlsFiles(ca=certificates.ca),
            TlsFiles(ca=strangers.ca, certificate=certificates.client, key=certificates.client_key),
        ):
            async with TritonInference(address, tls=wrong, status_timeout_s=2.0) as inference:
                assert not await inference.healthy()


async def test_the_settings_reach_every_server(
    tmp_path: Path,
    certificates: Certificates,
    strangers: Certificates,
    claims: DataFolder,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From variables to connections, as a gateway and a worker open them."""
    async with (
        nats_over_tls(tmp_path, certificates, claims) as nats_url,
        s3_over_tls(tmp_path, certificates, claims) as endpoint,
        triton_over_tls(tmp_path, certificates) as triton_url,
    ):
        variables = {
            "DATA": tmp_path / "ours",
            "DATABASE_URL": database_url,
            "TOKEN_SECRET": "s" * 32,
            "WEBHOOK_SECRET": "w" * 32,
            "NATS_URL": nats_url,
            "TRITON_URL": triton_url,
            "S3_ENDPOINT": endpoint,
            "S3_ACCESS_KEY": "access",
            "S3_SECRET_KEY": "secret-key",
            "S3_BUCKET": "bucket",
            **{f"{name}_CA": certificates.ca for name in ("NATS", "S3", "TRITON")},
            **{f"{name}_CERTIFICATE": certificates.client for name in ("NATS", "TRITON")},
            **{f"{name}_KEY": certificates.client_key for name in ("NATS", "TRITON")},
        }

        def settings(**other: Path) -> Settings:
            chosen = variables | other
            return load({f"NEREID_{name}": str(value) for name, value in chosen.items()})

        async with open_runtime(settings(), name="nereid-serve") as runtime:
            assert {name: await probe() for name, probe in runtime.probes.items()} == {
                "queue": True, "s3": True, "database": True, "triton": True,
            }  # fmt: skip
        wrong = settings(S3_CA=strangers.ca, TRITON_CA=strangers.ca)
        async with open_runtime(wrong, name="nereid-work") as runtime:
            assert not await runtime.probes["s3"]()
            assert not await runtime.probes["triton"]()
        monkeypatch.setattr(jetstream, "CONNECT_TIMEOUT_S", 2.0)
        with pytest.raises(Unavailable):
            async with open_runtime(settings(NATS_CA=strangers.ca), name="nereid-work"):
                pass


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TLS_CERTIFICATE": "{server}"}, "tls_certificate and tls_key belong together"),
        ({"TLS_CERTIFICATE": "{server}", "TLS_KEY": "{client_key}"}, "tls_certificate, tls_key"),
        ({"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "{server_key}"}, "tls_certificate"),
        ({"MODEL_REPOSITORY": "s3://nereid"}, "model_repository"),
        ({"NATS_CERTIFICATE": "{client}"}, "nats_certificate and nats_key belong together"),
        ({"NATS_CA": "/nowhere.pem"}, "nats_ca"),
        ({"S3_CA": "{client_key}"}, "s3_ca"),
        ({"TRITON_CA": "{ca}", "TRITON_CERTIFICATE": "{client}", "TRITON_KEY": "{server_key}"},
         "triton_key"),
        ({"TRUSTED_PROXIES": "127.0.0.1, *"}, "trusted_proxies"),
        ({"TRUSTED_PROXIES": "proxy.example.org"}, "trusted_proxies"),
        ({"CORS_ORIGINS": "*"}, "cors_origins"),
        ({"CORS_ORIGINS": "https://a.example/path"}, "cors_origins"),
        ({"TOKEN_SECRET": "short"}, "token_secret"),
        ({"TOKEN_SECRET_PREVIOUS": "short"}, "token_secret_previous"),
        ({"WEBHOOK_SECRET": "short"}, "webhook_secret"),
    ],
)  # fmt: skip
def test_a_setting_that_would_open_a_door_stops_the_start(
    certificates: Certificates, variables: dict[str, str], words: str
) -> None:
    files = {name: str(getattr(certificates, name)) for name in certificates.__slots__}
    environ = {f"NEREID_{name}": value.format(**files) for name, value in variables.items()}
    with pytest.raises(SettingsError, match=words):
        load(environ)
