"""The console in a real Chromium, on the real system, as a reader uses it."""

# ruff: noqa: RUF001 - the page writes signs of times and ranges as people do

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
import wave
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import pyvips
from nats.aio.client import Client
from playwright.async_api import Browser, FloatRect, JSHandle, Page, async_playwright, expect

from functions.alerts.contracts import Alert, Box, alert_subject, image_subject
from tests.live.browser import Console, Wire, chromium, chromium_path, console_of
from tests.live.cameras import CUP, Bucket, Camera, bucket_of, camera_of, jpeg, nats_of, only
from tests.live.conftest import KEY, SECRET, Nereid, encoded
from tests.live.sounds import FIRST_WORDS, RATE, VOICE, plain, samples, voice

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME = jpeg(CUP, width=160)
"""The detector sees two cups in it."""
WHOLE = [[0, 0], [1, 0], [1, 1], [0, 1]]
EVIL = "<img src=x onerror=alert(1)>"
HOUR = timedelta(hours=1)
REFUSED = ("status of 401", "status of 403")
"""What Chromium says of an answer that the test provokes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def console(browser: Browser, system: Nereid) -> AsyncIterator[Console]:
    """The console on a desktop, signed in."""
    size: Any = {"width": 1280, "height": 900}
    async with console_of(
        browser, system.url, s3=system.running["s3_endpoint"], viewport=size
    ) as opened:
        await opened.sign_in()
        yield opened


class Scene:
    """A camera whose alerts a test writes itself: their facts on NATS, their pictures in S3."""

    def __init__(self, camera: Camera, queue: Client, bucket: Bucket) -> None:
        self.camera = camera
        self._queue = queue.jetstream()
        self._bucket = bucket

    async def tell(self, at: datetime | None = None, **facts: Any) -> str:
        """An alert becomes known, with its picture at once; its id."""
        moment = at or datetime.now(UTC)
        camera_id = self.camera.camera_id
        identifier = uuid.uuid4()
        key = f"alerts/{moment:%Y-%m-%d}/{camera_id}/{identifier}.jpg"
        await self._bucket.put(key, FRAME)
        alert = Alert(
            alert_id=str(identifier),
            camera_id=camera_id,
            label="cat",
            score=0.8,
            box=Box(x=0.25, y=0.5, width=0.5, height=0.25),
            captured_at=moment,
            created_at=datetime.now(UTC),
            model="test",
            model_version="1",
            frame_key="frames/none",
        )
        alert = msgspec.structs.replace(alert, **facts)
        await self._publish(alert_subject(camera_id), alert)
        kept = msgspec.structs.replace(alert, image_key=key)
        await self._publish(image_subject(camera_id), kept)
        return alert.alert_id

    async def _publish(self, subject: str, alert: Alert) -> None:
        headers = {"Nats-Msg-Id": f"{alert.alert_id}.{subject}"}
        await self._queue.publish(subject, msgspec.json.encode(alert), headers=headers)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(system: Nereid, word: str) -> AsyncIterator[Scene]:
    async with (
        camera_of(system, word, cooldown_seconds=0) as camera,
        nats_of(system) as queue,
        bucket_of(system) as bucket,
    ):
        yield Scene(camera, queue, bucket)


async def local(page: Page, selector: str) -> FloatRect:
    """Where an element is, in pixels of the window."""
    box = await page.locator(selector).bounding_box()
    assert box is not None
    return box


async def test_a_wrong_key_is_told_and_a_right_one_is_kept_in_the_tab_alone(
    browser: Browser, system: Nereid
) -> None:
    s3 = system.running["s3_endpoint"]
    async with console_of(browser, system.url, bears=REFUSED, s3=s3) as console:
        page = console.page
        await page.goto(system.url)
        key = page.locator("#api-key")
        for wrong in ("nobody's key", "schlüssel"):
            await key.fill(wrong)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("API key")
            await expect(page.locator("#app")).to_be_hidden()
        await page.locator("#sign-in-error").wait_for()
        await console.shot("wrong-key")
        await key.fill(KEY.format("me"))
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_have_text("Live")
        assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert KEY.format("me") not in page.url
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0
        await page.reload()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.long
async def test_a_client_signs_in_with_its_secret_and_its_token_is_renewed(
    browser: Browser, system: Nereid
) -> None:
    s3 = system.running["s3_endpoint"]
    async with console_of(browser, system.url, bears=REFUSED, s3=s3) as console:
        page = console.page
        await page.goto(system.url)
        await page.get_by_role("radio", name="Client").check()
        await page.get_by_label("Client id").fill("me")
        await page.get_by_label("Client secret").fill("not the secret")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("is wrong")
        await page.get_by_label("Client secret").fill(SECRET.format("me"))
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_have_text("Live")

        def tokens() -> int:
            return sum(request.url.endswith("/auth/token") for request in console.requests)

        assert tokens() == 2
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("Live")
        assert tokens() == 2
        await page.evaluate(
            """() => {
              const kept = JSON.parse(sessionStorage.getItem("nereid.credentials"));
              kept.renewAt = 0;
              kept.token += "x";
              sessionStorage.setItem("nereid.credentials", JSON.stringify(kept));
            }"""
        )
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("Live")
        assert tokens() == 3


async def test_what_a_client_may_not_see_is_told_with_the_scope(
    browser: Browser, system: Nereid
) -> None:
    async with console_of(browser, system.url, bears=REFUSED) as console:
        async with console.page.expect_response("**/concurrent-status") as answer:
            await console.sign_in("reader")
        assert (await answer.value).status == 403
        told = console.page.locator("#alerts-error")
        await expect(told).to_contain_text("needs the scope 'alerts:read'")
        await expect(console.page.locator("#connection")).to_have_text("Not live")
        await expect(console.page.locator("#tasks-error")).to_be_hidden()
        await expect(console.page.locator("#sound-figures")).to_be_hidden()


async def test_a_frame_becomes_a_card_with_its_box_while_one_looks_on(
    console: Console, system: Nereid, word: str
) -> None:
    page = console.page
    rules: dict[str, Any] = {
        "labels": ["cup"],
        "min_score": 0.45,
        "zones": [{"name": EVIL, "polygon": WHOLE}],
    }
    async with camera_of(system, word, **rules) as camera:
        await camera.send(FRAME)
        card = page.locator("#alert-list .card", has_text=word)
        await expect(card).to_have_count(1)
        await expect(page.locator("#announce")).to_contain_text("New alert")
        alert = only(await camera.recorded(1))
    await expect(card.locator("img")).to_be_visible()
    await expect(card.locator(".place")).to_have_text(f"{word} · {EVIL}")
    assert await page.locator("img[src=x]").count() == 0
    await expect(card.locator("strong")).to_have_text("cup")
    await expect(card).to_contain_text(f"{alert['score']:.0%}".replace("%", " %"))
    captured = datetime.fromisoformat(alert["captured_at"])
    title = await card.locator("time").get_attribute("title")
    assert title == f"{captured:%Y-%m-%d %H:%M:%S} UTC"
    shown = captured + timedelta(hours=5, minutes=45)
    assert f"{shown:%H:%M:%S}" in await card.locator("time").inner_text()
    await card.locator("img").evaluate("image => image.decode()")
    await _box_is_right(page, f'[data-alert="{alert["alert_id"]}"]', alert["box"])
    await console.shot("live-alert")
    await card.get_by_role("button", name="Open").click()
    await page.locator("#viewer img").evaluate("image => image.decode()")
    await _box_is_right(page, "#viewer", alert["box"])
    await expect(page.locator("#viewer .facts")).to_contain_text(EVIL)
    await expect(page.locator("#viewer .zone")).to_have_count(1)


async def _box_is_right(page: Page, within: str, box: dict[str, float]) -> None:
    """The drawn box against the picture as it is shown, within bars where it is not 16 : 9."""
    frame = await local(page, f"{within} img")
    width, height = await page.locator(f"{within} img").evaluate(
        "image => [image.naturalWidth, image.naturalHeight]"
    )
    scale = min(frame["width"] / width, frame["height"] / height)
    left = frame["x"] + (frame["width"] - width * scale) / 2
    top = frame["y"] + (frame["height"] - height * scale) / 2
    drawn = await page.locator(f"{within} .box").evaluate(
        """rect => {
          const { x, y, width, height } = rect.getBBox();
          const matrix = rect.getScreenCTM();
          const a = new DOMPoint(x, y).matrixTransform(matrix);
          const b = new DOMPoint(x + width, y + height).matrixTransform(matrix);
          return [a.x, a.y, b.x, b.y];
        }"""
    )
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    assert drawn == pytest.approx(
        [
            left + box["x"] * width * scale,
            top + box["y"] * height * scale,
            left + right * width * scale,
            top + bottom * height * scale,
        ],
        abs=1.0,
    )


async def test_filters_pages_and_reviews_show_each_alert_once(
    console: Console, scene: Scene
) -> None:
    page, now = console.page, datetime.now(UTC)
    cats = [await scene.tell(now - timedelta(minutes=n), score=0.5 + n / 200) for n in range(45)]
    dogs = [await scene.tell(now - 3 * HOUR - timedelta(minutes=n), label="dog") for n in range(3)]
    await scene.camera.recorded(48)
    await page.reload()
    await console.see(scene.camera.camera_id)
    await expect(page.locator("#alert-list .card")).to_have_count(40)
    assert await console.shown() == cats[:40]
    await page.get_by_role("button", name="Load more").click()
    await expect(page.locator("#alert-list .card")).to_have_count(48)
    assert await console.shown() == cats + dogs
    await expect(page.get_by_role("button", name="Load more")).to_be_hidden()

    await page.get_by_label("Label", exact=True).last.select_option("dog")
    await expect(page.locator("#alert-list .card")).to_have_count(3)
    assert await console.shown() == dogs
    await console.card(dogs[1]).get_by_role("button", name="Reviewed").click()
    await expect(console.card(dogs[1]).locator(".review")).to_have_attribute("aria-pressed", "true")
    await page.get_by_label("Review", exact=True).select_option("false")
    await expect(page.locator("#alert-list .card")).to_have_count(2)
    assert await console.shown() == [dogs[0], dogs[2]]
    await page.get_by_role("button", name="Clear filters").click()
    await console.loaded()
    await console.see(scene.camera.camera_id)
    await expect(page.locator("#alert-list .card")).to_have_count(40)

    score = page.get_by_label("Least score")
    await score.fill("0.7")
    await score.dispatch_event("change")
    await expect(page.locator("#alert-list .card")).to_have_count(8)
    assert await console.shown() == cats[40:] + dogs
    await page.get_by_label("Time").select_option("1")
    await expect(page.locator("#alert-list .card")).to_have_count(5)
    await page.get_by_label("Time").select_option("custom")
    start = now - 4 * HOUR + timedelta(hours=5, minutes=45)
    await page.get_by_label("From", exact=True).fill(f"{start:%Y-%m-%dT%H:%M}")
    await page.get_by_label("To", exact=True).fill(f"{start + 2 * HOUR:%Y-%m-%dT%H:%M}")
    await page.get_by_label("To", exact=True).dispatch_event("change")
    await expect(page.locator("#alert-list .card")).to_have_count(3)
    assert await console.shown() == dogs
    stored = {a["alert_id"]: a["reviewed"] for a in await scene.camera.alerts(label="dog")}
    assert stored == {dogs[0]: False, dogs[1]: True, dogs[2]: False}


async def test_nothing_is_missed_and_nothing_doubled_when_the_wire_is_cut(
    browser: Browser, system: Nereid, scene: Scene
) -> None:
    s3 = system.running["s3_endpoint"]
    bears = ("ERR_", "Failed to load resource")
    async with (
        Wire(system.url) as wire,
        console_of(browser, wire.url, bears=bears, s3=s3) as console,
    ):
        await console.sign_in()
        before = await scene.tell()
        await console.card(before).wait_for()
        await console.see(scene.camera.camera_id)
        await wire.cut()
        await expect(console.page.locator("#connection")).to_have_text("Reconnecting …")
        await console.shot("reconnecting")
        meanwhile = [await scene.tell() for _ in range(5)]
        await wire.mend()
        await expect(console.page.locator("#connection")).to_have_text("Live")
        after = await scene.tell()
        await console.card(after).wait_for()
        await scene.camera.recorded(7)
        await expect(console.page.locator("#alert-list img:visible")).to_have_count(7)
        assert await console.shown() == [after, *reversed(meanwhile), before]
        streams = [r for r in console.requests if r.url.endswith("/alerts/stream")]
        assert "last-event-id" not in streams[0].headers
        assert streams[-1].headers["last-event-id"].isdigit()


async def test_nothing_moves_under_a_reader_who_is_in_the_list(
    console: Console, scene: Scene
) -> None:
    first = await scene.tell()
    await console.card(first).wait_for()
    await console.see(scene.camera.camera_id)
    await console.card(first).get_by_role("button", name="Open").focus()
    second, third = await scene.tell(), await scene.tell()
    newer = console.page.locator("#newer")
    await expect(newer).to_have_text("↑ 2 new alerts")
    assert await console.shown() == [first]
    await newer.click()
    await expect(newer).to_be_hidden()
    assert await console.shown() == [third, second, first]
    focused = "document.activeElement.closest('[data-alert]').dataset.alert"
    assert await console.page.evaluate(focused) == third


async def within_an_hour() -> datetime:
    """Now, when the hour does not end within half a minute: the bars would move on."""
    while (now := datetime.now(UTC)).minute == 59 and now.second >= 30:
        await asyncio.sleep(1)
    return now


async def test_the_bars_and_the_table_agree_with_the_counts(console: Console, scene: Scene) -> None:
    page, now = console.page, await within_an_hour()
    start = now.replace(minute=0, second=0, microsecond=0)
    told = Counter[tuple[datetime, str]]()
    for hours, label, count in ((0, "cat", 2), (1, "cat", 1), (1, "dog", 3), (23, "dog", 1)):
        for _ in range(count):
            await scene.tell(start - hours * HOUR, label=label)
            told[start - hours * HOUR, label] += 1
    await scene.tell(start - 24 * HOUR)  # too old for the chart
    await scene.camera.recorded(8)
    await page.reload()
    await console.see(scene.camera.camera_id)
    await expect(page.locator("#chart-readout")).to_have_text(
        f"7 alerts, most at {_local(start - HOUR)}–{_local(start)} (4)"
    )
    bars = await page.locator("#chart-body rect.part").evaluate_all(
        """all => all.map((e) => [e.parentElement.dataset.hour, e.dataset.name,
          Number(e.dataset.count), e.getBBox().height])"""
    )
    drawn = {(datetime.fromisoformat(hour), label): count for hour, label, count, _ in bars}
    assert drawn == told
    heights = {height / count for _, _, count, height in bars}
    assert max(heights) == pytest.approx(min(heights), rel=0.01)
    query = {"camera_id": scene.camera.camera_id, "from": (start - 23 * HOUR).isoformat()}
    answer = await scene.camera.http.get("/api/v1/alerts/counts", params=query)
    counted = {
        (datetime.fromisoformat(item["hour"]), item["label"]): item["count"]
        for item in answer.json()["items"]
    }
    assert counted == drawn

    await page.get_by_role("radio", name="Camera").check()
    legend = page.locator("#chart-legend li")
    assert await legend.all_text_contents() == [f"{scene.camera.camera_id}7"]
    await page.get_by_role("radio", name="Label").check()
    await page.get_by_role("button", name="Table").click()
    rows = page.locator("#chart-body tbody tr")
    await expect(rows).to_have_count(24)
    assert await rows.nth(1).locator("td").all_inner_texts() == ["3", "1", "4"]
    await console.shot("table")
    await rows.nth(1).get_by_role("button").click()
    await expect(page.locator("#alert-list .card")).to_have_count(4)


def _local(moment: datetime) -> str:
    return f"{moment + timedelta(hours=5, minutes=45):%H:%M}"


@pytest.mark.long
async def test_everything_can_be_done_with_the_keyboard_alone(
    browser: Browser, system: Nereid, scene: Scene
) -> None:
    alert_id = await scene.tell()
    await scene.camera.recorded(1)
    s3 = system.running["s3_endpoint"]
    async with console_of(browser, system.url, s3=s3) as console:
        page, press = console.page, console.page.keyboard.press
        await page.goto(system.url)
        await page.keyboard.type(KEY.format("me"))
        await press("Enter")
        await console.card(alert_id).wait_for()
        await _tab_to(page, "#filter-camera")
        await page.keyboard.type(scene.camera.camera_id)
        await expect(page.locator("#filter-camera")).to_have_value(scene.camera.camera_id)
        await expect(page.locator("#alert-list .card")).to_have_count(1)
        await _tab_to(page, ".open")
        await press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await press("ArrowRight")
        await press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        assert await page.evaluate("document.activeElement.className") == "open"
        await press("Tab")
        await press("Space")
        await expect(page.locator(".card .review")).to_have_attribute("aria-pressed", "true")
        await _tab_to(page, "#chart-table", back=True)
        await press("Enter")
        await expect(page.locator("#chart-body tbody tr")).to_have_count(24)
        await _tab_to(page, "#photo-file")
        await _tab_to(page, "[name=scale]:checked")
        await press("ArrowRight")
        await expect(page.locator("[name=scale]:checked")).to_have_value("3")
        await _tab_to(page, "#denoise")
        await press("ArrowRight")
        await expect(page.locator("#denoise-shown")).to_have_text("5 %")
        for part in ("#sound-file", "#sound-record", "#sound-prompt"):
            await _tab_to(page, part)
        await _tab_to(page, "#sign-out", back=True)
        await press("Enter")
        await expect(page.locator("#api-key")).to_be_focused()
    async with asyncio.timeout(60):
        while not only(await scene.camera.alerts())["reviewed"]:
            await asyncio.sleep(0.05)


async def _tab_to(page: Page, selector: str, *, back: bool = False) -> None:
    """Press Tab until the element has the focus, which must be seen at every stop."""
    for _ in range(80):
        await page.keyboard.press("Shift+Tab" if back else "Tab")
        seen, there = await page.evaluate(
            """(selector) => {
              const element = document.activeElement;
              const shows = (e) => e && getComputedStyle(e).outlineStyle !== "none";
              const seen = shows(element) || shows(element.nextElementSibling);
              return [seen || element === document.body, element.matches(selector)];
            }""",
            selector,
        )
        assert seen, await page.evaluate("document.activeElement.outerHTML")
        if there:
            return
    pytest.fail(f"the keyboard does not reach {selector}")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
async def test_it_fits_a_phone_and_a_desktop_and_every_text_stands_out(
    browser: Browser, system: Nereid, scene: Scene, scheme: Any
) -> None:
    for number in range(12):
        labels = ("person", "car", "dog", "cat")
        moment = datetime.now(UTC) - number * timedelta(minutes=47)
        await scene.tell(moment, label=labels[number % 4], zone="A zone with a rather long name")
    await scene.camera.recorded(12)
    s3 = system.running["s3_endpoint"]
    for width, height in ((320, 640), (390, 844), (1280, 900)):
        size: Any = {"width": width, "height": height}
        async with console_of(
            browser, system.url, s3=s3, viewport=size, color_scheme=scheme, reduced_motion="reduce"
        ) as console:
            await console.page.goto(system.url)
            assert await console.too_wide() == []
            await console.sign_in()
            await console.see(scene.camera.camera_id)
            await expect(console.page.locator("#alert-list img:visible").first).to_be_visible()
            await console.page.wait_for_load_state("load")
            await console.shot(f"{width}-{scheme}")
            views = ["alerts", "photos", "recordings", "tasks"] if width < 900 else ["alerts"]
            asked = [r for r in console.requests if r.url.endswith("/concurrent-status")]
            assert (asked == []) == (width < 900)  # only while somebody can see the figures
            for view in views:
                if width < 900:
                    await console.page.locator(f'#views a[href="#{view}"]').click()
                await expect(console.page.locator(f"#{view}")).to_be_visible()
                assert await console.too_wide() == [], view
                if view == "recordings":
                    await expect(console.page.locator("#sound-figures")).to_be_visible()
                await console.shot(f"{width}-{scheme}-{view}")
                faint = await console.faint_texts() if view == "alerts" else []
                assert faint == []
            assert await console.page.evaluate("document.getAnimations().length") == 0


async def test_a_photo_is_enlarged_and_compared_with_what_it_was(
    console: Console, photo: bytes
) -> None:
    page = console.page
    moved = await _moved(page, "coffee cup.jpg", "image/jpeg", photo)
    await page.dispatch_event("#drop", "dragenter", {"dataTransfer": moved})
    await expect(page.locator("#drop")).to_have_class("drop over")
    await page.dispatch_event("#drop", "drop", {"dataTransfer": moved})
    await expect(page.locator("#photo-name")).to_have_text("coffee cup.jpg96 × 64 → 192 × 128")
    await page.get_by_role("radio", name="3×").check()
    await expect(page.locator("#photo-name")).to_contain_text("288 × 192")
    await page.get_by_label("Remove noise").fill("0.3")
    await page.get_by_role("button", name="Enlarge").click()
    slider = page.get_by_role("slider", name="How much of the original")
    await expect(slider).to_be_visible()
    await expect(page.locator("#photo-progress")).to_be_hidden()

    shapes = await page.locator("#photo-result img").evaluate_all(
        """async (all) => {
          await Promise.all(all.map((image) => image.decode()));
          return all.map((image) => {
            const { x, y, width, height } = image.getBoundingClientRect();
            return [image.className, image.naturalWidth, x, y, width, height];
          });
        }"""
    )
    (after, before) = shapes
    assert (before[0], before[1], after[0], after[1]) == ("before", 96, "after", 288)
    assert before[2:] == after[2:]
    assert after[4] / after[5] == pytest.approx(1.5, rel=0.01)

    await slider.focus()
    await page.keyboard.press("Home")
    assert await _seam(page) == pytest.approx(0, abs=0.01)
    await page.keyboard.press("ArrowRight")
    assert await _seam(page) == pytest.approx(0.01, abs=0.002)
    stage = await local(page, "#photo-result .compare")
    middle = stage["y"] + stage["height"] / 2
    await page.mouse.move(stage["x"] + 20, middle)
    await page.mouse.down()
    await page.mouse.move(stage["x"] + stage["width"] * 0.75, middle, steps=5)
    await page.mouse.up()
    assert await _seam(page) == pytest.approx(0.75, abs=0.02)
    await console.shot("before-after")

    link = page.locator("#photo-result a")
    async with httpx.AsyncClient(trust_env=False) as nobody:
        result = await nobody.get(str(await link.get_attribute("href")))
    assert result.headers["content-type"] == "image/jpeg"
    row = page.locator("#task-list li", has_text="coffee cup.jpg, 3×")
    await expect(row).to_contain_text("completed")
    sent = next(r for r in console.requests if r.url.endswith("/media:process"))
    enhance = json.loads(str(sent.post_data))["parameters"]["image_enhance"]
    assert enhance == {"scale_factor": 3, "denoise_strength": 0.3}

    await page.get_by_role("button", name="Compare large").click()
    await page.get_by_role("button", name="Actual size").click()
    assert (await local(page, "#viewer .compare"))["width"] == 288
    await page.keyboard.press("Escape")
    await row.get_by_role("button", name="View result").click()
    await expect(page.locator("#viewer-title")).to_have_text("288 × 192")


async def _moved(page: Page, name: str, media_type: str, content: bytes) -> JSHandle:
    """A file on its way from a folder to the page."""
    return await page.evaluate_handle(
        """([name, type, content]) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const moved = new DataTransfer();
          moved.items.add(new File([bytes], name, { type }));
          return moved;
        }""",
        [name, media_type, base64.b64encode(content).decode()],
    )


async def _seam(page: Page) -> float:
    """Where the original ends, as a fraction of the picture's width."""
    stage, divider = await local(page, ".compare"), await local(page, ".compare .divider")
    return (divider["x"] + 1 - stage["x"]) / stage["width"]


async def test_a_file_that_is_no_photo_is_refused_with_the_reason(
    browser: Browser, system: Nereid
) -> None:
    s3 = system.running["s3_endpoint"]
    async with console_of(browser, system.url, bears=("status of 415",), s3=s3) as console:
        await console.sign_in()
        file: Any = {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"just text"}
        await console.page.locator("#photo-file").set_input_files(file)
        await console.page.get_by_role("button", name="Enlarge").click()
        error = console.page.locator("#photo-error")
        await expect(error).to_be_visible()
        assert len(await error.inner_text()) > 20
        await expect(console.page.get_by_role("button", name="Enlarge")).to_be_enabled()


@pytest.mark.long
async def test_a_task_shows_its_progress_and_can_be_cancelled(
    console: Console, system: Nereid, scene: Scene, image: pyvips.Image
) -> None:
    http = scene.camera.http
    photo = encoded(image.resize(16), ".jpg", Q=75)  # some twenty seconds, in several tiles
    path = (await http.post("/api/v1/media", content=photo)).json()["file_path"]
    body = {
        "file_path": path,
        "workflow": "nas-photo-processing",
        "parameters": {"image_enhance": {"scale_factor": 4}},
    }
    task_id = (await http.post("/api/v1/media:process", json=body)).json()["task_id"]
    row = console.page.locator(f'[data-task="{task_id}"]')
    await expect(row).to_have_attribute("data-status", "processing")
    await row.get_by_role("button", name="Cancel").click()
    await expect(row).to_have_attribute("data-status", "cancelled")
    await expect(row.get_by_role("button", name="Cancel")).to_be_hidden()
    answer = await http.get(f"/api/v1/media/processingTasks/{task_id}")
    assert answer.json()["status"] == "cancelled"


async def test_a_voice_dropped_anywhere_becomes_words_that_can_be_heard(
    console: Console, system: Nereid
) -> None:
    page = console.page
    figures = page.locator("#sound-figures")
    await expect(figures.locator("dt")).to_have_text(["Converting", "Waiting", "Average time"])
    await expect(figures.locator("dd").first).to_have_text(re.compile(r"^0 of \d+$"))
    moved = await _moved(page, "two cities.opus", "audio/ogg", VOICE.read_bytes())
    await page.dispatch_event("#alerts", "dragenter", {"dataTransfer": moved})
    await expect(page.locator("#sound-drop")).to_have_class("drop over")
    await page.dispatch_event("#alerts", "drop", {"dataTransfer": moved})
    await expect(page.locator("#sound-name")).to_contain_text("two cities.opus")
    await page.get_by_label("Prompt for the words").fill("Translate to Korean")
    await console.shot("recording-chosen")
    await page.get_by_role("button", name="Transcribe").click()
    said = page.locator("#sound-result .words")
    await expect(said).to_be_visible()
    assert plain(await said.inner_text()).startswith(FIRST_WORDS)
    assert await said.get_attribute("lang") == "en"
    await expect(page.locator("#sound-result .small")).to_contain_text(
        "Without your prompt: no language model is set"
    )
    await expect(page.locator("#sound-result")).to_contain_text("12 s · English · transcribed in")
    await expect(page.locator("#sound-announce")).to_contain_text("Heard: It was")
    seconds = await page.locator("#sound-result audio").evaluate(
        """async (audio) => {
          audio.muted = true;
          await audio.play();
          return audio.duration;
        }"""
    )
    assert seconds == pytest.approx(12.4, abs=0.1)
    await expect(page.locator("#sound-result")).to_be_in_viewport(ratio=1)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await console.shot(f"recording-{scheme}")
        assert await console.faint_texts() == []
    await page.get_by_role("button", name="Sign out").click()
    assert await page.locator("audio").count() == 0
    assert any(request.resource_type == "media" for request in console.requests)


async def test_what_is_no_sound_is_refused_with_the_reason(
    browser: Browser, system: Nereid
) -> None:
    s3 = system.running["s3_endpoint"]
    async with console_of(browser, system.url, bears=("status of 415",), s3=s3) as console:
        page = console.page
        await console.sign_in()
        file: Any = {"name": "notes.opus", "mimeType": "audio/ogg", "buffer": b"just text"}
        await page.locator("#sound-file").set_input_files(file)
        await page.get_by_role("button", name="Transcribe").click()
        error = page.locator("#sound-error")
        await expect(error).to_contain_text("WebM")
        await expect(error).to_be_in_viewport(ratio=1)
        await console.shot("no-sound")
        await expect(page.get_by_role("button", name="Transcribe")).to_be_enabled()
        await page.locator("#sound-file").set_input_files(VOICE)
        await expect(error).to_be_hidden()


@pytest.mark.long
async def test_a_long_recording_becomes_a_task_with_its_words_and_files(console: Console) -> None:
    page = console.page
    file: Any = {"name": "a long one.opus", "mimeType": "audio/ogg", "buffer": voice(75)}
    await page.locator("#sound-file").set_input_files(file)
    await page.get_by_role("button", name="Transcribe").click()
    await expect(page.locator("#sound-result")).to_contain_text("longer than a minute")
    await expect(page.get_by_role("button", name="Transcribe")).to_be_enabled()
    row = page.locator("#task-list li", has_text="a long one.opus")
    await expect(row).to_contain_text("completed")
    await expect(row).to_contain_text("1 min 15 s · English")
    words = row.locator(".words")
    short = await words.inner_text()
    assert plain(short).startswith(FIRST_WORDS)
    assert short.endswith(" …")
    await row.evaluate("row => row.scrollIntoView({ block: 'center' })")
    await console.shot("recording-task")
    await row.get_by_role("button", name="Show all").click()
    whole = await words.inner_text()
    assert plain(whole).count("worst of times") == 6
    await console.shot("recording-task-open")
    await row.get_by_role("button", name="Show less").click()
    assert await words.inner_text() == short

    await row.get_by_role("button", name="View result").click()
    await expect(page.locator("#viewer .words")).to_have_text(whole)
    links = page.locator("#viewer-actions a")
    await expect(links).to_have_count(3)
    files = {}
    async with httpx.AsyncClient(trust_env=False) as nobody:
        for link in await links.all():
            name = (await link.inner_text()).split()[-1]
            files[name] = (await nobody.get(str(await link.get_attribute("href")))).text
    assert json.loads(files["JSON"])["text"] == whole
    assert files[".srt"].startswith("1\n00:00:0")
    assert files[".vtt"].startswith("WEBVTT\n")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await console.shot(f"transcript-{scheme}")
        assert await console.faint_texts() == []


@pytest.mark.long
async def test_what_is_said_into_the_microphone_becomes_words(
    system: Nereid, tmp_path: Path
) -> None:
    spoken = tmp_path / "spoken.wav"
    with wave.open(str(spoken), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples().tobytes())
    device = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}"]
    s3 = system.running["s3_endpoint"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", *device]
        )
        async with console_of(browser, system.url, s3=s3) as console:
            page = console.page
            await console.sign_in()
            # the reader has not said yes: the browser says no for them
            await page.get_by_role("button", name="Record", exact=True).click()
            await expect(page.locator("#sound-error")).to_contain_text("may not use the microphone")
            await page.context.grant_permissions(["microphone"])
            await page.get_by_role("button", name="Record", exact=True).click()
            await expect(page.get_by_role("timer")).to_have_text(re.compile("^0:(0[4-9]|[1-5])"))
            await expect(page.get_by_role("button", name="Transcribe")).to_be_disabled()
            await console.shot("microphone")
            await page.get_by_role("button", name="Stop").click()
            await expect(page.locator("#sound-name")).to_contain_text(".webm")
            await page.get_by_role("button", name="Transcribe").click()
            said = page.locator("#sound-result .words")
            await expect(said).to_be_visible()
            assert "best of times" in plain(await said.inner_text())
            await page.get_by_role("button", name="Sign out").click()
        await browser.close()


async def test_the_health_names_every_part(console: Console) -> None:
    parts = console.page.locator("#health .part")
    await expect(parts).not_to_have_count(0)
    titles = await parts.evaluate_all("all => all.map((e) => e.title)")
    assert {"queue: ok", "s3: ok", "database: ok", "triton: ok"} <= set(titles)
    await expect(console.page.locator("#health-note")).to_be_hidden()
