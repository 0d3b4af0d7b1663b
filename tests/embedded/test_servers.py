from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import aioboto3
import nats
import psutil
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from functions._kit.errors import Conflict, JobFailed
from gateway.adapters.inference import TritonInference
from gateway.adapters.objects import S3Address, open_objects
from gateway.embedded import (
    DataFolder,
    EmbeddedServers,
    EmbeddedSettings,
    Name,
    RunningNats,
    RunningPostgres,
    RunningS3,
    S3Repository,
    S3Settings,
    StartError,
    TritonSettings,
)
from gateway.embedded.triton import shared_memory
from gateway.models.repository import ModelRepository
from gateway.models.s3 import S3Files

ECHO_CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_UINT8 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_UINT8 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
ECHO_MODEL = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(request, "x") for request in requests]
        return [pb.InferenceResponse([pb.Tensor("y", x.as_numpy())]) for x in inputs]
"""
UP = """
import asyncio, pathlib, sys
from gateway.embedded import EmbeddedServers, EmbeddedSettings, TritonSettings

async def main():
    data, repository = map(pathlib.Path, sys.argv[1:])
    triton = TritonSettings(repository=repository, models=("echo",))
    async with EmbeddedServers(data, settings=EmbeddedSettings(triton=triton)):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with one model that needs a stub process."""
    model = tmp_path / "models" / "echo"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(ECHO_CONFIG)
    (model / "1" / "model.py").write_text(ECHO_MODEL)
    return model.parent


def s3_client(server: RunningS3, secret_key: str | None = None) -> Any:
    return aioboto3.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret_key or server.secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


async def test_state_survives_a_restart_on_the_same_data(tmp_path: Path) -> None:
    want = {"nats", "s3", "postgres"}
    async with EmbeddedServers(tmp_path, want=want) as servers:  # type: ignore[arg-type]
        first = (servers.nats.url, servers.s3.endpoint, servers.postgres.url)
        client = await nats.connect(servers.nats.url)
        await client.jetstream().add_stream(name="JOBS", subjects=["jobs.>"])
        await client.jetstream().publish("jobs.a", b"work")
        await client.close()
        async with s3_client(servers.s3) as s3:
            await s3.put_object(Bucket=servers.s3.bucket, Key="a/b", Body=b"picture")
        async with await psycopg.AsyncConnection.connect(servers.postgres.url) as database:
            await database.execute("CREATE TABLE facts AS SELECT 42 AS fact")
    async with EmbeddedServers(tmp_path, want=want) as servers:  # type: ignore[arg-type]
        assert (servers.nats.url, servers.s3.endpoint, servers.postgres.url) == first
        client = await nats.connect(servers.nats.url)
        message = await client.jetstream().get_last_msg("JOBS", "jobs.a")
        await client.close()
        assert message.data == b"work"
        async with s3_client(servers.s3) as s3:
            found = await s3.get_object(Bucket=servers.s3.bucket, Key="a/b")
            assert await found["Body"].read() == b"picture"
        async with await psycopg.AsyncConnection.connect(servers.postgres.url) as database:
            rows = await (await database.execute("SELECT fact FROM facts")).fetchall()
        assert rows == [(42,)]


async def test_nothing_outlives_a_killed_parent_and_its_data_starts_again(
    tmp_path: Path, repository: Path
) -> None:
    data = tmp_path / "data"
    up = await create_subprocess_exec(
        sys.executable, "-c", UP, str(data), str(repository), stdout=PIPE
    )
    assert up.stdout is not None
    assert await up.stdout.readline() == b"ready\n"
    left = psutil.Process(up.pid).children(recursive=True)
    names = {process.name() for process in left}
    assert {"nats-server", "rclone", "postgres", "tritonserver"} <= names
    assert any("python_backend_stub" in name or "triton_pyt" in name for name in names), names
    up.kill()
    await up.wait()
    # Every server and every child of theirs inherited the lock: whoever gets it is alone.
    folder = DataFolder(data)
    await folder.open()
    folder.close()
    assert [process for process in left if not is_gone(process)] == []
    settings = EmbeddedSettings(triton=TritonSettings(repository=repository, models=("echo",)))
    async with EmbeddedServers(data, settings=settings) as servers:
        [option] = [word for word in servers.triton.process.command.argv if "prefix-name" in word]
        prefix = option.rpartition("=")[2]
        assert len(shared_memory(prefix)) == 1
    assert shared_memory(prefix) == []


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_every_server_listens_on_loopback_alone_and_shows_no_secret(
    tmp_path: Path, repository: Path
) -> None:
    settings = EmbeddedSettings(triton=TritonSettings(repository=repository))
    async with EmbeddedServers(tmp_path / "data", settings=settings) as servers:
        us = psutil.Process()
        family = us.children(recursive=True)
        listening: set[tuple[str, str]] = set()
        arguments = ""
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
                listening |= {
                    (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
                    for connection in process.net_connections(kind="inet")
                    if connection.status == psutil.CONN_LISTEN
                }
                arguments += " ".join(process.cmdline())
    expected = ("nats-server", "rclone", "postgres", "tritonserver")
    assert listening == {(name, "127.0.0.1") for name in expected}
    passwords = {servers.s3.secret_key, servers.nats.url[14:78], servers.postgres.url[20:84]}
    assert all(len(password) == 64 and password not in arguments for password in passwords)
    for secret in ("credentials.json", "nats.conf"):
        assert stat.S_IMODE((tmp_path / "data" / secret).stat().st_mode) == 0o600


async def test_a_second_start_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async with EmbeddedServers(tmp_path, want={"nats"}) as servers:
        with pytest.raises(Conflict, match=r"data folder .* is in use"):
            async with EmbeddedServers(tmp_path, want={"nats"}):
                pytest.fail("two owners")
        assert psutil.pid_exists(servers.nats.process.pid)


async def test_one_server_that_fails_ends_the_others_and_frees_the_data(
    tmp_path: Path, repository: Path
) -> None:
    before = psutil.Process().children()
    (repository / "echo" / "1" / "model.py").write_text("import no_such_package")
    settings = EmbeddedSettings(triton=TritonSettings(repository=repository, models=("echo",)))
    with pytest.raises(StartError, match="No module named 'no_such_package'") as caught:
        async with EmbeddedServers(tmp_path, want={"nats", "triton"}, settings=settings):
            pytest.fail("started without its model")
    assert caught.value.code == "triton_not_started"
    assert psutil.Process().children() == before
    async with EmbeddedServers(tmp_path, want={"nats"}):
        pass


async def test_a_broken_model_may_leave_the_server_and_the_others_alone(
    tmp_path: Path, repository: Path
) -> None:
    for name in ("broken", "unreadable"):
        await asyncio.to_thread(shutil.copytree, repository / "echo", repository / name)
    (repository / "broken" / "1" / "model.py").write_text("import no_such_package")
    (repository / "unreadable" / "config.pbtxt").write_text("inputt [ ]")
    triton = TritonSettings(
        repository=repository, models=("broken", "echo", "unreadable"), exit_on_error=False
    )
    settings = EmbeddedSettings(triton=triton)
    async with EmbeddedServers(tmp_path / "data", want={"triton"}, settings=settings) as servers:
        assert servers.triton.broken == {
            "broken": "Internal: ModuleNotFoundError: No module named 'no_such_package'",
            "unreadable": "Triton's log says why",
        }
        async with TritonInference(servers.triton.url) as inference:
            assert await inference.healthy()
            assert (await inference.model("echo")).version == "1"
            with pytest.raises(JobFailed, match="No module named 'no_such_package'"):
                await inference.model("broken")
            assert await inference.healthy()


async def test_the_model_repository_may_lie_in_the_embedded_s3(
    tmp_path: Path, repository: Path
) -> None:
    async def upload(s3: RunningS3 | None) -> TritonSettings:
        assert s3 is not None
        async with s3_client(s3) as client:
            for name in ("config.pbtxt", "1/model.py"):
                body = await asyncio.to_thread((repository / "echo" / name).read_bytes)
                await client.put_object(Bucket="models", Key=f"deep/er/echo/{name}", Body=body)
        return TritonSettings(
            models=("echo",),
            repository=S3Repository(
                url=f"s3://{s3.endpoint}/models/deep/er",
                access_key=s3.access_key,
                secret_key=s3.secret_key,
            ),
        )

    settings = EmbeddedSettings(s3=S3Settings(further_buckets=("models",)), triton=upload)
    want: set[Name] = {"s3", "triton"}
    async with EmbeddedServers(tmp_path / "data", want=want, settings=settings) as servers:
        async with TritonInference(servers.triton.url) as inference:
            assert (await inference.model("echo")).version == "1"
        assert servers.s3.secret_key not in " ".join(servers.triton.process.command.argv)


async def test_a_repository_in_s3_may_be_empty_at_first(tmp_path: Path) -> None:
    async def nothing(s3: RunningS3 | None) -> TritonSettings:
        assert s3 is not None
        address = S3Address(
            endpoint=s3.endpoint,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            bucket=s3.bucket,
        )
        async with open_objects(address) as objects:
            await ModelRepository(S3Files(objects, "models")).ensure()
        place = S3Repository(
            url=f"s3://{s3.endpoint}/{s3.bucket}/models",
            access_key=s3.access_key,
            secret_key=s3.secret_key,
        )
        return TritonSettings(repository=place)

    want: set[Name] = {"s3", "triton"}
    settings = EmbeddedSettings(triton=nothing)
    async with (
        EmbeddedServers(tmp_path / "data", want=want, settings=settings) as servers,
        TritonInference(servers.triton.url) as inference,
    ):
        assert await inference.model_names() == frozenset()


async def test_an_absent_model_is_one_sentence(tmp_path: Path, repository: Path) -> None:
    settings = EmbeddedSettings(triton=TritonSettings(repository=repository, models=("absent",)))
    with pytest.raises(StartError, match=r"no model .*absent: run `just build-models`"):
        async with EmbeddedServers(tmp_path, want={"triton"}, settings=settings):
            pytest.fail("started without its model")


async def test_an_absent_triton_is_one_sentence(tmp_path: Path, repository: Path) -> None:
    lost = TritonSettings(repository=repository, environment=tmp_path / "none")
    settings = EmbeddedSettings(triton=lost)
    with pytest.raises(StartError, match=r"no Triton server in .*none: run `just setup`"):
        async with EmbeddedServers(tmp_path, want={"triton"}, settings=settings):
            pytest.fail("started without a server")


async def test_a_server_that_dies_is_started_again_on_its_address(tmp_path: Path) -> None:
    deaths: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    async with EmbeddedServers(tmp_path, want={"nats", "postgres"}) as servers:
        watching = asyncio.create_task(servers.supervise(lambda *death: deaths.put_nowait(death)))
        for name in ("postgres", "nats"):
            os.kill(getattr(servers, name).process.pid, signal.SIGKILL)
            assert await deaths.get() == (name, -signal.SIGKILL)
        client = await nats.connect(servers.nats.url, max_reconnect_attempts=100)
        await client.close()
        async with asyncio.timeout(60):
            while not await answers(servers.postgres.url):
                await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.wait({watching})


async def answers(url: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(url)).close()
    except psycopg.OperationalError:
        return False
    return True


async def test_nats_refuses_wrong_and_absent_credentials(nats_server: RunningNats) -> None:
    host, port = nats_server.url.rpartition("@")[2].split(":")
    for login in (b"{}", b'{"user": "nereid", "pass": "wrong"}'):
        reader, writer = await asyncio.open_connection(host, int(port))
        assert (await reader.readline()).startswith(b"INFO")
        writer.write(b"CONNECT " + login + b"\r\nPING\r\n")
        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
        writer.close()
        await writer.wait_closed()


async def test_s3_refuses_wrong_credentials(s3: RunningS3) -> None:
    async with s3_client(s3, secret_key="0" * 64) as client:
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await client.list_objects_v2(Bucket=s3.bucket)


async def test_postgres_refuses_wrong_and_absent_passwords(postgres: RunningPostgres) -> None:
    host = postgres.url.rpartition("@")[2]
    for user in ("nereid", "nereid:wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            await psycopg.AsyncConnection.connect(f"postgresql://{user}@{host}")


async def test_each_test_has_a_database_of_its_own(
    database_url: str, postgres: RunningPostgres
) -> None:
    assert database_url != postgres.url
    async with await psycopg.AsyncConnection.connect(database_url) as database:
        await database.execute("CREATE TABLE only_here (id int)")
        row = await (await database.execute("SHOW server_encoding")).fetchone()
    assert row == ("UTF8",)
