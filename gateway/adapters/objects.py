"""The port `Objects` over any S3."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aioboto3
import aiohttp
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from yarl import URL

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.ports import ObjectInfo
from gateway.tls import TlsFiles, client_context
from gateway.tracing import UNTRACED, Tracing

MOST_DELETED = 1000
"""Keys of one request to delete (S3's API reference, DeleteObjects)."""
CONNECTIONS = 64
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
OWN_URL_S = 300
"""How long a URL holds that we use ourselves, at once; our clock may differ from the server's."""
SAME_URL_S = 60.0
"""For so long the same question gets the same URL: whoever asks again and again costs little."""
MOST_REMEMBERED = 4096
"""URLs, and facts of objects: the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """Where the bucket is and who we are there."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"
    public_endpoint: str | None = None
    ca: Path | None = None
    """The authorities to believe, where the endpoint says https:// and it is not the machine's."""


class S3Objects:
    """One client for a process. Small objects are read past it: see `read`."""

    def __init__(
        self,
        client: Any,
        http: aiohttp.ClientSession,
        address: S3Address,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._client = client
        self._tracing = tracing
        self._http = http
        self._bucket = address.bucket
        self._region = address.region
        self._credentials = Credentials(address.access_key, address.secret_key)
        self._url = _bucket_url(address.endpoint, address.bucket)
        self._public_url = _bucket_url(address.public_endpoint or address.endpoint, address.bucket)
        self._urls: OrderedDict[tuple[str, int], tuple[float, str]] = OrderedDict()
        self._seen: OrderedDict[str, tuple[float, ObjectInfo]] = OrderedDict()

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Objects.head`. Signed by hand like `copy`: every status of a task asks."""
        request = AWSRequest("HEAD", f"{self._url}/{quote(key, safe='/~')}")
        S3SigV4Auth(self._credentials, "s3", self._region).add_auth(request)
        with self._asking("HeadObject", key):
            async with self._http.head(
                URL(request.url, encoded=True), headers=dict(request.headers.items())
            ) as answer:
                if answer.status == 404:
                    return None
                if answer.status != 200:
                    raise Unavailable("s3", f"S3 refused: status {answer.status} for {key!r}")
                return _found(key, answer, int(answer.headers["Content-Length"]))

    async def seen(self, key: str, *, within_s: float) -> ObjectInfo | None:
        """See `Objects.seen`."""
        at, info = self._seen.get(key, (0.0, None))
        if info is not None and time.monotonic() - at < within_s:
            return info
        self._forget(key)
        asked = time.monotonic()
        info = await self.head(key)
        if info is not None:
            self._seen[key] = asked, info
            if len(self._seen) > MOST_REMEMBERED:
                self._seen.popitem(last=False)
        return info

    def _forget(self, *keys: str) -> None:
        for key in keys:
            self._seen.pop(key, None)

    async def download(self, key: str, path: Path, *, limit_bytes: int | None = None) -> ObjectInfo:
        """See `Objects.download`."""
        with self._asking("GetObject", key):
            try:
                answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if _status(error) == 404:
                    raise _not_found(key) from error
                raise
            size = answer["ContentLength"]
            if limit_bytes is not None and size > limit_bytes:
                answer["Body"].close()
                raise _too_large(key, size, limit_bytes)
            written = 0
            body = answer["Body"]
            async with body:
                with path.open("wb") as file:
                    async for chunk in body.iter_chunks(1 << 20):
                        written += await asyncio.to_thread(file.write, chunk)
            if written != size:
                raise Unavailable("s3", f"{key!r} ended after {written} of {size} bytes")
        return _info(key, answer)

    async def read(self, key: str, *, limit_bytes: int) -> tuple[bytes, ObjectInfo]:
        """See `Objects.read`. A signed URL and bare aiohttp: about half the CPU of get_object."""
        url = self._signed(self._url, key, OWN_URL_S)
        with self._asking("GetObject", key):
            async with self._http.get(URL(url, encoded=True)) as answer:
                if answer.status == 404:
                    raise _not_found(key)
                if answer.status != 200:
                    raise Unavailable("s3", f"S3 refused: status {answer.status} for {key!r}")
                size = int(answer.headers["Content-Length"])
                if size > limit_bytes:
                    raise _too_large(key, size, limit_bytes)
                content = await answer.read()
        return content, _found(key, answer, size)

    async def upload(self, path: Path, key: str, content_type: str) -> None:
        """See `Objects.upload`."""
        self._forget(key)
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        with self._asking("PutObject", key), path.open("rb") as file:
            await self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentLength=size,
                ContentType=content_type,
            )

    async def copy(self, source: str, target: str) -> None:
        """See `Objects.copy`. Signed by hand like `read`: every alert is a copy."""
        self._forget(target)
        origin = f"/{quote(self._bucket)}/{quote(source, safe='/~')}"
        request = AWSRequest("PUT", f"{self._url}/{quote(target, safe='/~')}")
        request.headers["x-amz-copy-source"] = origin
        S3SigV4Auth(self._credentials, "s3", self._region).add_auth(request)
        with self._asking("CopyObject", target):
            async with self._http.put(
                URL(request.url, encoded=True),
                headers=dict(request.headers.items()),
                skip_auto_headers=("Content-Type",),  # the copy keeps the first one's
            ) as answer:
                if answer.status == 404:
                    raise _not_found(source)
                # S3 may say 200 first and find out afterwards (its API reference, CopyObject)
                if answer.status != 200 or b"<Error" in await answer.read():
                    raise Unavailable("s3", f"S3 refused to copy {source!r}: {answer.status}")

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Objects.delete`."""
        self._forget(*keys)
        for at in range(0, len(keys), MOST_DELETED):
            some = [{"Key": key} for key in keys[at : at + MOST_DELETED]]
            with self._asking("DeleteObjects", ""):
                answer = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": some, "Quiet": True}
                )
            for error in answer.get("Errors", []):
                # rclone fails for a key that is a folder of keys: there was nothing to delete
                if await self.head(error["Key"]) is not None:
                    raise Unavailable("s3", f"S3 did not delete {error['Key']!r}: {error['Code']}")

    async def presign(self, key: str, *, expires_s: int) -> str:
        """See `Objects.presign`. A URL is handed out again while it holds nearly as long as asked.

        That is for `SAME_URL_S`, or a hundredth of its life where that is less.
        """
        now, asked = time.monotonic(), (key, expires_s)
        until, url = self._urls.get(asked, (0.0, ""))
        if now >= until:
            url = self._signed(self._public_url, key, expires_s)
            self._urls[asked] = now + min(SAME_URL_S, expires_s / 100), url
            self._urls.move_to_end(asked)
            if len(self._urls) > MOST_REMEMBERED:
                self._urls.popitem(last=False)
        return url

    async def healthy(self) -> bool:
        """See `Objects.healthy`."""
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `Objects.list`."""
        pages = self._client.get_paginator("list_objects_v2")
        with _translated():
            async for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    modified_at = found["LastModified"].astimezone(UTC)
                    yield ObjectInfo(found["Key"], found["Size"], "", modified_at)

    @contextmanager
    def _asking(self, operation: str, key: str) -> Iterator[None]:
        """One request: a span of its own, and S3's errors as ours."""
        with self._tracing.storage(operation, self._bucket, key), _translated():
            yield

    def _signed(self, bucket_url: str, key: str, expires_s: int) -> str:
        """Botocore's signer without its endpoint rules: the same URL in a sixth of the time."""
        request = AWSRequest("GET", f"{bucket_url}/{quote(key, safe='/~')}")
        signer = S3SigV4QueryAuth(self._credentials, "s3", self._region, expires=expires_s)
        signer.add_auth(request)
        return str(request.url)


@asynccontextmanager
async def open_objects(address: S3Address, tracing: Tracing = UNTRACED) -> AsyncIterator[S3Objects]:
    """Open the client; nothing is sent before the first call."""
    session = aioboto3.Session(
        aws_access_key_id=address.access_key,
        aws_secret_access_key=address.secret_key,
        region_name=address.region,
    )
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"max_attempts": 2, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with (
        session.client(
            "s3",
            endpoint_url=address.endpoint,
            config=config,
            verify=str(address.ca) if address.ca else None,
        ) as client,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS, ssl=client_context(TlsFiles(ca=address.ca))
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as http,
    ):
        yield S3Objects(client, http, address, tracing)


def _bucket_url(endpoint: str, bucket: str) -> str:
    return f"{endpoint.rstrip('/')}/{quote(bucket)}"


def _info(key: str, answer: dict[str, Any]) -> ObjectInfo:
    modified_at = answer["LastModified"].astimezone(UTC)
    return ObjectInfo(key, answer["ContentLength"], answer.get("ContentType", ""), modified_at)


def _found(key: str, answer: aiohttp.ClientResponse, size: int) -> ObjectInfo:
    modified_at = parsedate_to_datetime(answer.headers["Last-Modified"])
    return ObjectInfo(key, size, answer.headers.get("Content-Type", ""), modified_at)


def _not_found(key: str) -> NotFound:
    return NotFound("file_not_found", f"there is no file {key!r}", field="file_path")


def _too_large(key: str, size: int, limit_bytes: int) -> TooLarge:
    return TooLarge(
        "file_too_large",
        f"{key!r} has {size} bytes; the limit is {limit_bytes}",
        field="file_path",
    )


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
