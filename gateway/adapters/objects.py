"""The port `Objects` over any S3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aioboto3
import aiohttp
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.ports import ObjectInfo

PART_BYTES = 8 << 20
"""Size of a part of a multipart upload, and of a read: bounds the memory of one transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """Where the bucket is and who we are there."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"
    public_endpoint: str | None = None


class S3Objects:
    """One client for a process."""

    def __init__(self, client: Any, address: S3Address) -> None:
        self._client = client
        self._bucket = address.bucket
        self._region = address.region
        self._credentials = Credentials(address.access_key, address.secret_key)
        endpoint = (address.public_endpoint or address.endpoint).rstrip("/")
        self._public_url = f"{endpoint}/{quote(address.bucket)}"

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Objects.head`."""
        with _translated():
            try:
                found = await self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        return ObjectInfo(key, found["ContentLength"], found.get("ContentType", ""))

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """See `Objects.download`."""
        with _translated():
            try:
                answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    raise NotFound(
                        "file_not_found", f"there is no file {key!r}", field="file_path"
                    ) from error
                raise
            size = answer["ContentLength"]
            if limit_bytes is not None and size > limit_bytes:
                answer["Body"].close()
                raise TooLarge(
                    "file_too_large",
                    f"{key!r} has {size} bytes; the limit is {limit_bytes}",
                    field="file_path",
                )
            written = 0
            body = answer["Body"]
            async with body:
                with path.open("wb") as file:
                    async for chunk in body.iter_chunks(1 << 20):
                        written += await asyncio.to_thread(file.write, chunk)
            if written != size:
                raise Unavailable("s3", f"{key!r} ended after {written} of {size} bytes")
        return ObjectInfo(key, size, answer.get("ContentType", ""))

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """See `Objects.upload`."""
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        with _translated(), path.open("rb") as file:
            await self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentLength=size,
                ContentType=content_type,
            )

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> int:
        """See `Objects.put`. A multipart upload, aborted when anything goes wrong."""
        target = {"Bucket": self._bucket, "Key": key}
        with _translated():
            upload = await self._client.create_multipart_upload(**target, ContentType=content_type)
            target["UploadId"] = upload["UploadId"]
            parts: list[dict[str, Any]] = []
            written = 0
            try:
                async for block in _blocks(chunks):
                    part = await self._client.upload_part(
                        **target, PartNumber=len(parts) + 1, Body=block
                    )
                    parts.append({"PartNumber": len(parts) + 1, "ETag": part["ETag"]})
                    written += len(block)
                await self._client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": parts}
                )
            except BaseException:
                await asyncio.shield(self._client.abort_multipart_upload(**target))
                raise
        return written

    async def delete(self, key: str) -> None:
        """See `Objects.delete`."""
        with _translated():
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def presign(self, key: str, *, expires_s: int) -> str:
        """See `Objects.presign`."""
        # botocore's signer without its endpoint rules: the same URL in a sixth of the time
        request = AWSRequest("GET", f"{self._public_url}/{quote(key, safe='/~')}")
        signer = S3SigV4QueryAuth(self._credentials, "s3", self._region, expires=expires_s)
        signer.add_auth(request)
        return str(request.url)

    async def healthy(self) -> bool:
        """See `Objects.healthy`."""
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True


@asynccontextmanager
async def open_objects(address: S3Address) -> AsyncIterator[S3Objects]:
    """Open the client; nothing is sent before the first call."""
    session = aioboto3.Session(
        aws_access_key_id=address.access_key,
        aws_secret_access_key=address.secret_key,
        region_name=address.region,
    )
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=5,
        read_timeout=60,
        retries={"max_attempts": 2, "mode": "standard"},
        max_pool_connections=64,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with session.client("s3", endpoint_url=address.endpoint, config=config) as client:
        yield S3Objects(client, address)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`chunks` joined into parts of `PART_BYTES`; at least one, so that empty files exist too."""
    buffer = bytearray()
    sent = False
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= PART_BYTES:
            sent = True
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    if buffer or not sent:
        yield bytes(buffer)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise Unavailable("s3", f"S3 refused: {error}") from error
    except (BotoCoreError, HTTPClientError, aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable("s3", f"S3 cannot be reached: {error!r}") from error
    except ConnectionError as error:
        raise Unavailable("s3", f"S3 cannot be reached: {error!r}") from error


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
