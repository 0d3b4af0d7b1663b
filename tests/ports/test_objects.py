"""One suite over the fake and over a real S3 server: what `Objects` promises."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.fakes import FakeObjects
from functions._kit.messages import new_id
from functions._kit.ports import Objects
from gateway.adapters.objects import PART_BYTES, S3Address, S3Objects, open_objects
from gateway.embedded import RunningS3

ODD_NAMES = [
    "with space.jpg",
    "a+b.jpg",
    "100%.jpg",
    "100%25.jpg",
    "what?.jpg",
    "#1.jpg",
    "a&b=c;d.jpg",
    "Übergröße 写真 📷.jpg",
    "quote'\".jpg",
    "deep/er/and~deeper/file",
    "*.jpg",
    ".hidden",
]


@pytest.fixture(params=["fake", "s3"])
def address(request: pytest.FixtureRequest) -> S3Address | None:
    """Where the real server is; None for the fake. Not async: it may start the server."""
    return None if request.param == "fake" else _address(request.getfixturevalue("s3"))


@pytest.fixture
def real_address(s3: RunningS3) -> S3Address:
    return _address(s3)


def _address(running: RunningS3) -> S3Address:
    return S3Address(
        endpoint=running.endpoint,
        access_key=running.access_key,
        secret_key=running.secret_key,
        bucket=running.bucket,
    )


@pytest_asyncio.fixture
async def objects(address: S3Address | None) -> AsyncIterator[Objects]:
    if address is None:
        yield FakeObjects()
        return
    async with open_objects(address) as real:
        yield real


@pytest_asyncio.fixture
async def real(real_address: S3Address) -> AsyncIterator[S3Objects]:
    async with open_objects(real_address) as objects:
        yield objects


@pytest.fixture
def key() -> str:
    return f"tests/{new_id()}"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def noise(size_bytes: int) -> Iterator[bytes]:
    """Mebibytes that no two of which are the same, and what remains."""
    for at in range(0, size_bytes, 1 << 20):
        block = hashlib.sha256(at.to_bytes(8, "big")).digest() * (1 << 15)
        yield block[: min(len(block), size_bytes - at)]


async def content(objects: Objects, key: str, tmp_path: Path) -> bytes:
    path = tmp_path / "downloaded"
    await objects.download(key, path)
    return path.read_bytes()


async def test_a_file_comes_back_as_it_went_in(objects: Objects, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 40)
    await objects.upload(source, key, "image/png")
    info = await objects.download(key, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (info.key, info.size_bytes, info.content_type) == (key, 10_240, "image/png")
    assert await objects.head(key) == info


@pytest.mark.parametrize("parts", [[], [b""], [b"x"], [b"ab", b"", b"c" * 100]], ids=repr)
async def test_chunks_become_one_object(
    objects: Objects, key: str, tmp_path: Path, parts: list[bytes]
) -> None:
    assert await objects.put(key, chunks(*parts), "text/plain") == len(b"".join(parts))
    assert await content(objects, key, tmp_path) == b"".join(parts)
    info = await objects.head(key)
    assert info is not None
    assert info.content_type == "text/plain"


async def test_an_empty_file_is_a_file(objects: Objects, key: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await objects.upload(tmp_path / "empty", key, "application/octet-stream")
    assert await content(objects, key, tmp_path) == b""


@pytest.mark.parametrize("size_bytes", [PART_BYTES, 2 * PART_BYTES + 12_345])
async def test_a_large_object_passes_in_parts(
    objects: Objects, key: str, tmp_path: Path, size_bytes: int
) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.writelines(noise(size_bytes))
    whole = hashlib.sha256(source.read_bytes()).hexdigest()
    await objects.upload(source, f"{key}-uploaded", "image/tiff")
    written = await objects.put(f"{key}-put", chunks(*noise(size_bytes)), "image/tiff")
    assert written == size_bytes
    for name in (f"{key}-uploaded", f"{key}-put"):
        copied = await content(objects, name, tmp_path)
        assert hashlib.sha256(copied).hexdigest() == whole


async def test_an_object_is_replaced_whole(objects: Objects, key: str, tmp_path: Path) -> None:
    await objects.put(key, chunks(b"a longer first version"), "text/plain")
    await objects.put(key, chunks(b"second"), "text/html")
    assert await content(objects, key, tmp_path) == b"second"
    info = await objects.head(key)
    assert info is not None
    assert info.content_type == "text/html"


@pytest.mark.parametrize("before", [0, PART_BYTES + 1], ids=["at once", "after a part"])
async def test_a_broken_off_put_leaves_nothing(objects: Objects, key: str, before: int) -> None:
    class SourceError(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(before)
        raise SourceError

    with pytest.raises(SourceError):
        await objects.put(key, broken(), "image/png")
    assert await objects.head(key) is None


async def test_a_cancelled_put_leaves_the_old_object(
    objects: Objects, key: str, tmp_path: Path
) -> None:
    await objects.put(key, chunks(b"old"), "text/plain")
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(PART_BYTES + 1)
        asked.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(objects.put(key, endless(), "text/plain"))
    await asked.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await content(objects, key, tmp_path) == b"old"


async def test_what_is_absent_is_none_to_head_and_not_found_to_download(
    objects: Objects, key: str, tmp_path: Path
) -> None:
    assert await objects.head(key) is None
    with pytest.raises(NotFound) as caught:
        await objects.download(key, tmp_path / "copy")
    assert (caught.value.code, caught.value.field) == ("file_not_found", "file_path")


async def test_a_folder_of_keys_is_no_object(objects: Objects, key: str, tmp_path: Path) -> None:
    await objects.put(f"{key}/inside", chunks(b"x"), "text/plain")
    assert await objects.head(key) is None
    with pytest.raises(NotFound):
        await objects.download(key, tmp_path / "copy")


async def test_a_download_beyond_the_limit_is_refused_before_it_begins(
    objects: Objects, key: str, tmp_path: Path
) -> None:
    await objects.put(key, chunks(b"12345"), "text/plain")
    await objects.download(key, tmp_path / "fits", limit_bytes=5)
    with pytest.raises(TooLarge) as caught:
        await objects.download(key, tmp_path / "large", limit_bytes=4)
    assert caught.value.code == "file_too_large"
    assert not (tmp_path / "large").exists()


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(
    objects: Objects, key: str
) -> None:
    await objects.put(key, chunks(b"x"), "text/plain")
    for _ in range(2):
        await objects.delete(key)
        assert await objects.head(key) is None


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_a_key(objects: Objects, key: str, name: str, tmp_path: Path) -> None:
    await objects.put(f"{key}/{name}", chunks(name.encode()), "text/plain")
    assert await content(objects, f"{key}/{name}", tmp_path) == name.encode()
    info = await objects.head(f"{key}/{name}")
    assert info is not None
    assert info.key == f"{key}/{name}"
    await objects.delete(f"{key}/{name}")
    assert await objects.head(f"{key}/{name}") is None


async def test_a_url_names_its_object_and_carries_no_secret(objects: Objects, key: str) -> None:
    url = httpx.URL(await objects.presign(f"{key}/a b.jpg", expires_s=60))
    assert url.path.endswith(f"/{key}/a b.jpg")
    assert "secret" not in str(url)


async def test_a_server_that_runs_is_healthy(objects: Objects) -> None:
    assert await objects.healthy()


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_url_reads_its_object_without_credentials(
    real: S3Objects, key: str, name: str
) -> None:
    await real.put(f"{key}/{name}", chunks(name.encode()), "image/webp")
    url = await real.presign(f"{key}/{name}", expires_s=60)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url)
        assert (answer.status_code, answer.content) == (200, name.encode())
        assert answer.headers["content-type"] == "image/webp"
        assert (await http.get(url.partition("?")[0])).status_code >= 400, "readable without"


async def test_a_forged_or_expired_url_is_refused(real: S3Objects, key: str) -> None:
    await real.put(f"{key}/mine", chunks(b"x"), "text/plain")
    await real.put(f"{key}/theirs", chunks(b"y"), "text/plain")
    url = await real.presign(f"{key}/mine", expires_s=60)
    short = await real.presign(f"{key}/mine", expires_s=1)
    forged = [
        url.replace("/mine", "/theirs"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
    ]
    assert len({url, *forged}) == 4
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).status_code == 200
        for bad in forged:
            assert (await http.get(bad)).status_code == 403
        assert (await http.put(url, content=b"z")).status_code == 403, "a URL to read writes"
        async with asyncio.timeout(10):
            while (await http.get(short)).status_code == 200:
                await asyncio.sleep(0.1)
        assert (await http.get(short)).status_code in {400, 403}  # rclone says 400, S3 itself 403


async def test_urls_carry_the_public_address(real_address: S3Address, key: str) -> None:
    public = "https://files.example.org"
    address = S3Address(
        endpoint=real_address.endpoint,
        access_key=real_address.access_key,
        secret_key=real_address.secret_key,
        bucket=real_address.bucket,
        public_endpoint=public,
    )
    async with open_objects(address) as objects:
        await objects.put(key, chunks(b"x"), "text/plain")
        url = await objects.presign(key, expires_s=60)
    assert url.startswith(f"{public}/{real_address.bucket}/tests/")


@pytest.mark.parametrize("fault", ["sick fake", "no server", "wrong secret", "no bucket"])
async def test_a_store_that_does_not_serve_us_is_unavailable(
    fault: str, real_address: S3Address, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    if fault == "sick fake":
        fake = FakeObjects()
        fake.sick = True
        await _is_unavailable(fake, tmp_path)
        return
    wrong = {
        "no server": {"endpoint": "http://127.0.0.1:1"},
        "wrong secret": {"secret_key": "wrong"},
        "no bucket": {"bucket": "absent"},
    }[fault]
    fields = {name: getattr(real_address, name) for name in ("endpoint", "access_key")}
    fields |= {name: getattr(real_address, name) for name in ("secret_key", "bucket")}
    async with open_objects(S3Address(**{**fields, **wrong})) as objects:
        await _is_unavailable(objects, tmp_path, all_calls=fault == "wrong secret")


async def _is_unavailable(objects: Objects, tmp_path: Path, *, all_calls: bool = True) -> None:
    """Without a bucket S3 says that the object is absent; without a server each call takes 2 s."""
    assert not await objects.healthy()
    calls: list[Awaitable[object]] = [objects.upload(tmp_path / "file", "k", "text/plain")]
    if all_calls:
        calls += [objects.head("k"), objects.download("k", tmp_path / "copy")]
        calls += [objects.put("k", chunks(b"x"), "text/plain"), objects.delete("k")]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("s3_unavailable", "s3")
