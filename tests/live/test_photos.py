"""A photo's whole way over HTTP, and the kinds of pictures that people have."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import numpy as np
import pytest
import pyvips

from tests.live.conftest import Api, Nereid, client_of, encoded, final_events


def opened(file: bytes) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(file, "")


def psnr(a: pyvips.Image, b: pyvips.Image) -> float:
    """Peak signal to noise ratio in dB, for 8 bits a sample."""
    difference = a.numpy().astype(np.float64) - b.numpy()
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def reduced(image: pyvips.Image, scale: int) -> pyvips.Image:
    return image.reduce(scale, scale).cast("uchar")


async def result_of(api: Api, photo: bytes, **body: Any) -> tuple[dict[str, Any], pyvips.Image]:
    result = (await api.run(photo, **body))["result"]
    return result, opened(await api.download(result["url"]))


async def test_a_photo_comes_back_enlarged_with_true_facts(
    api: Api, system: Nereid, image: pyvips.Image, photo: bytes
) -> None:
    sent = await api.http.post("/api/v1/media", files={"file": ("My photo.PNG", photo)})
    assert sent.status_code == 201
    uploaded = sent.json()
    assert uploaded["sha256"] == hashlib.sha256(photo).hexdigest()
    assert (uploaded["width"], uploaded["height"], uploaded["size"]) == (96, 64, len(photo))
    assert uploaded["content_type"] == "image/jpeg"

    accepted = await api.send(uploaded["file_path"])
    assert accepted.status_code == 202
    body = accepted.json()
    assert body["status"] == "queued"
    assert accepted.headers["Location"] == body["status_url"]
    events = [event async for event in api.events(body["task_id"])]
    assert events[0].name in {"queued", "processing"}  # a quick worker may be heard first
    assert {event.name for event in events[1:-1]} == {"processing"}
    assert events[-1].name == "completed"
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0

    row = await api.finished(body["task_id"])
    assert (row["status"], row["progress"], row["attempts"]) == ("completed", 1.0, 1)
    assert row["created_at"] <= row["started_at"] <= row["finished_at"]
    assert row["created_at"].endswith("Z")
    result = row["result"]
    file = await api.download(result["url"])
    enlarged = opened(file)
    assert (result["width"], result["height"]) == (192, 128) == (enlarged.width, enlarged.height)
    assert (result["size"], result["sha256"]) == (len(file), hashlib.sha256(file).hexdigest())
    assert result["content_type"] == "image/jpeg"
    assert (result["model"], result["model_version"]) == ("realesr-animevideov3-x2", "1")
    assert psnr(reduced(enlarged, 2), image) > 30
    for thumbnail in result["thumbnails"]:
        small = opened(await api.download(thumbnail["url"]))
        assert (small.width, small.height) == (thumbnail["width"], thumbnail["height"])
    assert result["thumbnails"]
    assert len(await final_events(system, body["task_id"])) == 1


async def test_a_result_url_holds_for_its_own_file_alone(api: Api, photo: bytes) -> None:
    url = (await api.run(photo))["result"]["url"]
    async with httpx.AsyncClient(trust_env=False) as nobody:
        assert (await nobody.get(url.partition("?")[0])).status_code in {400, 403}
        assert (await nobody.get(url.replace("_x2", "_x3"))).status_code == 403
        assert (await nobody.put(url, content=b"mine")).status_code == 403
    assert "X-Amz-Expires=86400" in url


async def test_events_are_resumed_without_a_gap_and_end_for_good(api: Api, photo: bytes) -> None:
    task_id = await api.process(await api.upload(photo))
    everything = [event async for event in api.events(task_id)]
    rest = [event async for event in api.events(task_id, after=everything[0].id)]
    assert rest == everything[1:]
    again = await api.http.get(
        f"/api/v1/media/processingTasks/{task_id}/events",
        headers={"Last-Event-ID": everything[-1].id},
    )
    assert again.status_code == 204  # tells an EventSource not to come back


async def test_the_same_idempotency_key_gives_the_same_task_and_another_body_409(
    api: Api, photo: bytes, word: str
) -> None:
    body = {"file_path": await api.upload(photo), "workflow": "nas-photo-processing"}
    headers = {"Idempotency-Key": word}
    first = await api.http.post("/api/v1/media:process", json=body, headers=headers)
    again = await api.http.post("/api/v1/media:process", json=body, headers=headers)
    assert first.status_code == again.status_code == 202
    assert first.json()["task_id"] == again.json()["task_id"]
    other = await api.http.post(
        "/api/v1/media:process", json=body | {"priority": 6}, headers=headers
    )
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert (await api.finished(first.json()["task_id"]))["attempts"] == 1


async def test_tasks_are_listed_newest_first_page_by_page(
    api: Api, system: Nereid, photo: bytes
) -> None:
    async with client_of(system, "other") as http:
        other = Api(http)
        path = await other.upload(photo)
        made = [await other.process(path) for _ in range(3)]
        for task_id in made:
            await other.finished(task_id)
        listing = "/api/v1/media/processingTasks"
        page = (await http.get(listing, params={"limit": 2, "status": "completed"})).json()
        assert [item["task_id"] for item in page["items"]] == [made[2], made[1]]
        following = await http.get(listing, params={"cursor": page["next_cursor"]})
        assert made[0] in [item["task_id"] for item in following.json()["items"]]
    mine = (await api.http.get(listing, params={"limit": 200})).json()["items"]
    assert not {item["task_id"] for item in mine} & set(made)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
async def test_each_scale_gives_its_size_and_stays_close_to_the_photo(
    api: Api, image: pyvips.Image, scale: int
) -> None:
    result, enlarged = await result_of(api, encoded(image, ".png"), scale_factor=scale)
    assert (enlarged.width, enlarged.height) == (96 * scale, 64 * scale)
    assert result["content_type"] == "image/png"
    assert psnr(reduced(enlarged, scale), image) > 30


async def test_a_professional_jpeg_becomes_a_png_of_the_largest_model(
    api: Api, image: pyvips.Image
) -> None:
    tiny = image.crop(0, 0, 32, 24)
    result, enlarged = await result_of(
        api, encoded(tiny, ".jpg", Q=98), workflow="professional-photo-processing", scale_factor=4
    )
    assert (result["content_type"], result["model"]) == ("image/png", "realesrgan-x4plus")
    assert (enlarged.width, enlarged.height) == (128, 96)
    assert psnr(reduced(enlarged, 4), tiny) > 25


async def test_denoising_changes_a_noisy_photo_and_strength_0_does_not(
    api: Api, image: pyvips.Image
) -> None:
    noise = pyvips.Image.gaussnoise(image.width, image.height, sigma=20, mean=0, seed=7)
    file = encoded((image + noise).cast("uchar"), ".png")
    _, default = await result_of(api, file)
    _, off = await result_of(api, file, denoise_strength=0)
    _, full = await result_of(api, file, denoise_strength=1)
    assert np.array_equal(default.numpy(), off.numpy())
    assert psnr(reduced(full, 2), image) > psnr(reduced(off, 2), image) + 1


async def test_a_photo_that_lies_on_its_side_comes_back_upright(
    api: Api, image: pyvips.Image
) -> None:
    turned = image.rot270().copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    _, enlarged = await result_of(api, encoded(turned, ".jpg", Q=95))
    assert (enlarged.width, enlarged.height) == (192, 128)
    oriented = enlarged.get_typeof("orientation")
    assert not oriented or enlarged.get("orientation") == 1
    assert psnr(reduced(enlarged, 2), image) > 28


async def test_metadata_is_kept_unless_it_shall_not_be(api: Api, image: pyvips.Image) -> None:
    named = image.copy()
    named.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "Somebody")
    profile = pyvips.Image.profile_load("srgb")
    named.set_type(pyvips.GValue.blob_type, "icc-profile-data", bytes(profile))
    file = encoded(named, ".jpg", Q=90)
    _, kept = await result_of(api, file)
    assert kept.get("exif-ifd0-Artist").startswith("Somebody")
    assert kept.get_typeof("icc-profile-data")
    _, stripped = await result_of(api, file, output={"keep_metadata": False})
    assert not stripped.get_typeof("exif-ifd0-Artist")
    assert not stripped.get_typeof("icc-profile-data")


async def test_16_bits_stay_16_bits_in_png_and_tiff(api: Api, image: pyvips.Image) -> None:
    deep = (image.cast("float") * 257).cast("ushort").copy(interpretation="rgb16")
    for suffix, content_type in ((".png", "image/png"), (".tif", "image/tiff")):
        result, enlarged = await result_of(api, encoded(deep, suffix))
        assert (result["content_type"], enlarged.format) == (content_type, "ushort")
        assert psnr(reduced(enlarged / 257, 2), image) > 30
        assert len(np.unique(enlarged.numpy() % 257)) > 50  # more than 8 bits stretched


async def test_transparency_is_enlarged_too(api: Api, image: pyvips.Image) -> None:
    half = pyvips.Image.black(48, 64).join(pyvips.Image.black(48, 64) + 255, "horizontal")
    _, enlarged = await result_of(api, encoded(image.bandjoin(half.cast("uchar")), ".png"))
    assert enlarged.bands == 4
    alpha = enlarged[3].numpy()
    assert alpha[:, :80].max() < 10
    assert alpha[:, 112:].min() > 245


async def test_grey_stays_grey_and_cmyk_is_understood(api: Api, image: pyvips.Image) -> None:
    grey = image.colourspace("b-w")
    _, enlarged = await result_of(api, encoded(grey, ".jpg", Q=95))
    assert enlarged.bands == 1
    assert psnr(reduced(enlarged, 2), grey) > 30
    cmyk = image.icc_export(output_profile="cmyk", depth=8)
    assert cmyk.bands == 4
    _, printed = await result_of(api, encoded(cmyk, ".jpg", Q=95))
    assert (printed.width, printed.height) == (192, 128)
    rgb = printed if printed.bands == 3 else printed.icc_import(embedded=True).colourspace("srgb")
    assert psnr(reduced(rgb, 2), image) > 17  # inks cannot show every colour


@pytest.mark.parametrize("name", ["webp", "avif", "jpeg", "png"])
async def test_the_result_comes_in_the_format_that_was_asked_for(
    api: Api, image: pyvips.Image, photo: bytes, name: str
) -> None:
    result, enlarged = await result_of(api, photo, output={"format": name, "quality": 85})
    assert result["content_type"] == f"image/{name}"
    assert psnr(reduced(enlarged, 2), image) > 28
