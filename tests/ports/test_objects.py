"""One suite over the fake and over a real S3 server: what `Objects` promises."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import pytest_asyncio

from functions._kit.errors import NotFound, TooLarge, Unavailable
from functions._kit.fakes import FakeObjects
from functions._kit.messages import new_id, now
from functions._kit.ports import ObjectInfo, Objects
from gateway.adapters.objects import MOST_REMEMBERED, S3Address, S3Objects, open_objects
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


Write = Callable[..., Awaitable[None]]


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


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Stores bytes as an object."""

    async def upload(
        objects: Objects, key: str, content: bytes, content_type: str = "text/plain"
    ) -> None:
        path = tmp_path / "written"
        path.write_bytes(content)
        await objects.upload(path, key, content_type)

    return upload


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


async def test_an_empty_file_is_a_file(objects: Objects, key: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    await objects.upload(tmp_path / "empty", key, "application/octet-stream")
    assert await content(objects, key, tmp_path) == b""


async def test_a_large_object_passes(objects: Objects, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.writelines(noise(20_000_000))
    await objects.upload(source, key, "image/tiff")
    assert await content(objects, key, tmp_path) == source.read_bytes()
    whole, info = await objects.read(key, limit_bytes=20_000_000)
    assert whole == source.read_bytes()
    assert info.size_bytes == len(whole)


async def test_an_object_is_replaced_whole(
    objects: Objects, key: str, tmp_path: Path, write: Write
) -> None:
    await write(objects, key, b"a longer first version")
    await write(objects, key, b"second", "text/html")
    assert await content(objects, key, tmp_path) == b"second"
    info = await objects.head(key)
    assert info is not None
    assert info.content_type == "text/html"


@pytest.mark.parametrize("size_bytes", [0, 1, 300_000])
async def test_an_object_is_read_whole_with_its_facts(
    objects: Objects, key: str, write: Write, size_bytes: int
) -> None:
    await write(objects, key, b"x" * size_bytes, "image/jpeg")
    whole, info = await objects.read(key, limit_bytes=size_bytes)
    assert whole == b"x" * size_bytes
    assert (info.key, info.size_bytes, info.content_type) == (key, size_bytes, "image/jpeg")
    assert info == await objects.head(key)


async def test_many_read_at_once(objects: Objects, key: str, write: Write) -> None:
    for number in range(10):
        await write(objects, f"{key}/{number}", str(number).encode())
    names = [f"{key}/{number % 10}" for number in range(200)]
    found = await asyncio.gather(*(objects.read(name, limit_bytes=9) for name in names))
    assert [data.decode() for data, _ in found] == [name[-1] for name in names]


async def test_the_moment_of_writing_is_known(
    objects: Objects, key: str, tmp_path: Path, write: Write
) -> None:
    before = now() - timedelta(seconds=2)  # S3 tells whole seconds
    await write(objects, key, b"x")
    infos = [await objects.head(key), await objects.download(key, tmp_path / "copy")]
    infos += [(await objects.read(key, limit_bytes=1))[1], *await listed(objects, key)]
    assert len(infos) == 4
    for info in infos:
        assert info is not None
        assert info.modified_at is not None
        assert before <= info.modified_at <= now() + timedelta(seconds=2)
        assert info.modified_at.utcoffset() == timedelta(0)


async def test_a_copy_is_the_same_and_stays_when_the_first_goes(
    objects: Objects, key: str, tmp_path: Path, write: Write
) -> None:
    await write(objects, f"{key}/first", b"content", "image/x-odd")
    await write(objects, f"{key}/second", b"what was there before")
    await objects.copy(f"{key}/first", f"{key}/second")
    await objects.delete([f"{key}/first"])
    assert await content(objects, f"{key}/second", tmp_path) == b"content"
    info = await objects.head(f"{key}/second")
    assert info is not None
    assert info.content_type == "image/x-odd"


async def test_what_is_absent_cannot_be_copied(objects: Objects, key: str) -> None:
    with pytest.raises(NotFound) as caught:
        await objects.copy(key, f"{key}-copy")
    assert caught.value.code == "file_not_found"
    assert await objects.head(f"{key}-copy") is None


async def listed(objects: Objects, prefix: str) -> list[ObjectInfo]:
    return [info async for info in objects.list(prefix)]


async def test_all_keys_with_a_prefix_are_listed_and_no_other(
    objects: Objects, key: str, write: Write
) -> None:
    names = [f"{key}/a", f"{key}/ab/c", f"{key}/ab/d/e", f"{key}/b", f"{key}b"]
    for number, name in enumerate(names):
        await write(objects, name, b"x" * number)
    expected = [(name, number, "") for number, name in enumerate(names)]
    for prefix, found in (
        (key, expected),
        (f"{key}/", expected[:4]),
        (f"{key}/a", expected[:3]),
        (f"{key}/ab/", expected[1:3]),
        (f"{key}/absent", []),
    ):
        infos = await listed(objects, prefix)
        assert sorted((i.key, i.size_bytes, i.content_type) for i in infos) == found


async def test_a_long_list_comes_in_pages(objects: Objects, key: str, write: Write) -> None:
    await write(objects, f"{key}/0", b"x")
    many = [f"{key}/{number}" for number in range(1, 1100)]
    for at in range(0, len(many), 50):
        await asyncio.gather(*(objects.copy(f"{key}/0", name) for name in many[at : at + 50]))
    names = [f"{key}/0", *many]
    assert {info.key for info in await listed(objects, f"{key}/")} == set(names)
    await objects.delete(names)
    assert await listed(objects, f"{key}/") == []


async def test_what_is_absent_is_none_to_head_and_not_found_to_download(
    objects: Objects, key: str, tmp_path: Path
) -> None:
    assert await objects.head(key) is None
    for call in (objects.download(key, tmp_path / "copy"), objects.read(key, limit_bytes=1)):
        with pytest.raises(NotFound) as caught:
            await call
        assert (caught.value.code, caught.value.field) == ("file_not_found", "file_path")


async def test_a_folder_of_keys_is_no_object(
    objects: Objects, key: str, tmp_path: Path, write: Write
) -> None:
    await write(objects, f"{key}/inside", b"x")
    assert await objects.head(key) is None
    for call in (objects.download(key, tmp_path / "copy"), objects.read(key, limit_bytes=1)):
        with pytest.raises(NotFound):
            await call
    await objects.delete([key])
    assert await objects.head(f"{key}/inside") is not None


async def test_more_than_the_limit_is_refused_before_it_comes(
    objects: Objects, key: str, tmp_path: Path, write: Write
) -> None:
    await write(objects, key, b"12345")
    await objects.download(key, tmp_path / "fits", limit_bytes=5)
    for call in (
        objects.download(key, tmp_path / "large", limit_bytes=4),
        objects.read(key, limit_bytes=4),
    ):
        with pytest.raises(TooLarge) as caught:
            await call
        assert caught.value.code == "file_too_large"
    assert not (tmp_path / "large").exists()


async def test_deleted_objects_are_gone_and_may_be_deleted_again(
    objects: Objects, key: str, write: Write
) -> None:
    names = [f"{key}/a", f"{key}/b", f"{key}/kept"]
    for name in names:
        await write(objects, name, b"x")
    for _ in range(2):
        await objects.delete([*names[:2], f"{key}/never", f"{key}/never/deeper"])
        assert [info.key for info in await listed(objects, key)] == [f"{key}/kept"]
    await objects.delete([])


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_a_key(
    objects: Objects, key: str, name: str, tmp_path: Path, write: Write
) -> None:
    await write(objects, f"{key}/{name}", name.encode())
    await objects.copy(f"{key}/{name}", f"{key}/copy of {name}")
    for odd in (f"{key}/{name}", f"{key}/copy of {name}"):
        assert await content(objects, odd, tmp_path) == name.encode()
        whole, info = await objects.read(odd, limit_bytes=100)
        assert (whole, info.key) == (name.encode(), odd)
        assert await objects.head(odd) == info
    assert {i.key for i in await listed(objects, key)} == {
        f"{key}/{name}",
        f"{key}/copy of {name}",
    }
    await objects.delete([f"{key}/{name}"])
    assert await objects.head(f"{key}/{name}") is None
    assert await objects.head(f"{key}/copy of {name}") is not None


async def test_a_url_names_its_object_and_carries_no_secret(objects: Objects, key: str) -> None:
    url = httpx.URL(await objects.presign(f"{key}/a b.jpg", expires_s=60))
    assert url.path.endswith(f"/{key}/a b.jpg")
    assert "secret" not in str(url)


async def test_a_server_that_runs_is_healthy(objects: Objects) -> None:
    assert await objects.healthy()


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_url_reads_its_object_without_credentials(
    real: S3Objects, key: str, name: str, write: Write
) -> None:
    await write(real, f"{key}/{name}", name.encode(), "image/webp")
    url = await real.presign(f"{key}/{name}", expires_s=60)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url)
        assert (answer.status_code, answer.content) == (200, name.encode())
        assert answer.headers["content-type"] == "image/webp"
        assert (await http.get(url.partition("?")[0])).status_code >= 400, "readable without"


async def test_a_forged_or_expired_url_is_refused(real: S3Objects, key: str, write: Write) -> None:
    await write(real, f"{key}/mine", b"x")
    await write(real, f"{key}/theirs", b"y")
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
        async with asyncio.timeout(60):
            while (await http.get(short)).status_code == 200:
                await asyncio.sleep(0.1)
        assert (await http.get(short)).status_code in {400, 403}  # rclone says 400, S3 itself 403


async def test_what_was_seen_is_believed_for_a_while_but_never_that_it_is_absent(
    real: S3Objects, key: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    frozen = SimpleNamespace(monotonic=lambda: clock[0])  # for the module alone, not the loop
    monkeypatch.setattr("gateway.adapters.objects.time", frozen)
    looked: list[str] = []
    head = real.head

    async def looking(key: str) -> ObjectInfo | None:
        looked.append(key)
        return await head(key)

    monkeypatch.setattr(real, "head", looking)
    assert await real.seen(key, within_s=10) is None
    await write(real, key, b"xy")
    first = await real.seen(key, within_s=10)
    assert first is not None
    assert first.size_bytes == 2
    assert len(looked) == 2
    clock[0] += 9
    assert await real.seen(key, within_s=10) is first
    assert len(looked) == 2
    clock[0] += 1
    assert await real.seen(key, within_s=10) is not first
    assert len(looked) == 3
    await write(real, key, b"xyz")
    changed = await real.seen(key, within_s=10)
    assert changed is not None
    assert changed.size_bytes == 3
    await real.copy(key, f"{key}2")
    assert await real.seen(f"{key}2", within_s=10) is not None
    await real.delete([key, f"{key}2"])
    assert await real.seen(key, within_s=10) is None
    assert await real.seen(f"{key}2", within_s=10) is None


async def test_a_url_is_handed_out_again_and_never_holds_longer_than_was_asked(
    real: S3Objects, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    frozen = SimpleNamespace(monotonic=lambda: clock[0])  # for the module alone, not the loop
    monkeypatch.setattr("gateway.adapters.objects.time", frozen)
    signed: list[tuple[str, int]] = []

    def sign(bucket_url: str, key: str, expires_s: int) -> str:
        signed.append((key, expires_s))
        return f"{bucket_url}/{key}?{len(signed)}"

    monkeypatch.setattr(real, "_signed", sign)
    day = await real.presign(key, expires_s=86_400)
    clock[0] += 59
    assert await real.presign(key, expires_s=86_400) == day
    assert await real.presign(key, expires_s=100) != day
    clock[0] += 1.5
    assert await real.presign(key, expires_s=86_400) != day, "it would be too old by now"
    assert await real.presign(f"{key}2", expires_s=86_400) != day
    count = len(signed)
    await real.presign(key, expires_s=100)
    assert len(signed) == count + 1, "a short life is used up sooner"
    for n in range(MOST_REMEMBERED):
        await real.presign(f"{key}/{n}", expires_s=60)
    assert len(real._urls) == MOST_REMEMBERED


async def test_urls_carry_the_public_address_and_reading_goes_to_ours(
    real_address: S3Address, key: str, write: Write
) -> None:
    public = "https://files.example.org"
    address = S3Address(
        endpoint=real_address.endpoint,
        access_key=real_address.access_key,
        secret_key=real_address.secret_key,
        bucket=real_address.bucket,
        public_endpoint=public,
    )
    async with open_objects(address) as objects:
        await write(objects, key, b"x")
        url = await objects.presign(key, expires_s=60)
        assert (await objects.read(key, limit_bytes=1))[0] == b"x"
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
        calls += [objects.read("k", limit_bytes=1), objects.copy("k", "l")]
        calls += [objects.delete(["k"]), listed(objects, "k")]
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.code, caught.value.backend) == ("s3_unavailable", "s3")
