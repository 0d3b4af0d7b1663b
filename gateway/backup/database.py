"""The database, by PostgreSQL's own pg_dump and pg_restore."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from gateway.backup.manifest import BackupError
from gateway.embedded.postgres import binary

VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
"""What of a URL the tools take from their environment: arguments can be read by all."""


async def dump(url: str, path: Path) -> None:
    """Write all of the database as of one moment. Raises `BackupError`."""
    await _run(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")


async def load(url: str, path: Path, *, overwrite: bool) -> None:
    """Read a dump into a database: all of it or nothing. Raises `BackupError`."""
    clean = ["--clean", "--if-exists"] if overwrite else []
    await _run(
        url,
        "pg_restore",
        *("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"),
        *(*clean, f"--dbname={conninfo_to_dict(url).get('dbname', 'postgres')}", str(path)),
    )


async def _run(url: str, tool: str, *arguments: str) -> None:
    known = conninfo_to_dict(url)
    environment = {
        variable: str(known[name]) for name, variable in VARIABLES.items() if name in known
    }
    process = await asyncio.create_subprocess_exec(
        str(binary(tool)),
        *arguments,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        env={"PATH": os.environ.get("PATH", "")} | environment,
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise BackupError("database_backup_failed", f"{tool} failed: {' '.join(lines[:3])}")
