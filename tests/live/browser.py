"""What the tests of the console share: a real Chromium, a page that is watched, cut wires."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Locator, Page, Request, async_playwright, expect

from tests.live.conftest import KEY

ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 60_000
"""How long an element may take to be as a test wants it, on the busiest of machines."""
ZONE = "Asia/Kathmandu"
"""UTC+05:45: hours of the clock that are not hours of UTC show what assumes they are."""

expect.set_options(timeout=PATIENCE_MS)

CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".hidden, :disabled, svg, .picture-note, noscript, script")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(ground(element))].sort((x, y) => y - x);
    found.push({ text: walker.currentNode.data.trim(), ratio: (a + 0.05) / (b + 0.05) });
  }
  return found;
}"""
"""WCAG 2.2, 1.4.3: each visible text's contrast with the ground it stands on."""


def chromium_path() -> str:
    """Chromium's program; the test is skipped where there is none."""
    named = os.environ.get("NEREID_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            "no Chromium: install Debian's package (apt-get install --no-install-recommends "
            "chromium), or set NEREID_TEST_CHROMIUM to the program"
        )
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser for the tests of a file."""
    path = chromium_path()
    # Chromium refuses its sandbox to root
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Console:
    """A page of the console, and all that it asked for and complained of."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def sign_in(self, client: str = "me") -> None:
        """Open the console with a client's API key, and wait until it is live."""
        await self.page.goto(self.url)
        await self.page.get_by_label("API key", exact=True).last.fill(KEY.format(client))
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.locator("#app").wait_for()
        if client == "me":
            await self.page.locator("#connection[data-state=live]").wait_for()

    async def see(self, camera_id: str) -> None:
        """Show one camera's alerts and nothing else."""
        choice = self.page.locator("#filter-camera")
        await choice.locator(f'option[value="{camera_id}"]').wait_for(state="attached")
        if not await choice.is_visible():
            await self.page.locator("#filters-shown").click()
        await choice.select_option(camera_id)
        await self.loaded()

    async def loaded(self) -> None:
        """Return when the list has been loaded."""
        await self.page.locator("#alert-list:not([aria-busy])").wait_for(state="attached")

    def card(self, alert_id: str) -> Locator:
        """An alert's card."""
        return self.page.locator(f'[data-alert="{alert_id}"]')

    async def shown(self) -> list[str]:
        """The ids of the alerts that are shown, in their order."""
        cards = self.page.locator("#alert-list [data-alert]")
        ids: list[str] = await cards.evaluate_all("all => all.map((e) => e.dataset.alert)")
        return ids

    async def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        ARTEFACTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=ARTEFACTS / f"console-{name}.png")

    async def too_wide(self) -> list[str]:
        """What makes the page scroll sideways."""
        script = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
          [...document.querySelectorAll("body *")]
            .filter((e) => e.getBoundingClientRect().right > innerWidth)
            .map((e) => `${e.tagName}#${e.id}.${e.getAttribute("class")}`)"""
        found: list[str] = await self.page.evaluate(script)
        return found

    async def faint_texts(self) -> list[Any]:
        """Texts whose contrast is below 4.5."""
        found: list[Any] = await self.page.evaluate(CONTRASTS)
        assert len(found) > 20
        return [text for text in found if text["ratio"] < 4.5]


@asynccontextmanager
async def console_of(
    browser: Browser, url: str, *, bears: tuple[str, ...] = (), s3: str = "", **options: Any
) -> AsyncIterator[Console]:
    """The console at `url` in a context of its own.

    At the end the page must have complained of nothing but what `bears` names, and asked nobody
    but the gateway (and `s3` for pictures).
    """
    options = {"timezone_id": ZONE, "locale": "en-GB"} | options
    async with await browser.new_context(**options) as context:
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        console = Console(page, url)
        asked = console.requests
        page.on("request", lambda request: asked.append(request))  # noqa: PLW0108 - it is marked
        page.on("pageerror", lambda error: console.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                console.complaints.append(said.text) if said.type in {"error", "warning"} else None
            ),
        )
        yield console
    left = [c for c in console.complaints if not any(text in c for text in bears)]
    assert left == []
    for request in console.requests:
        if request.url.startswith(("blob:", "data:")):
            continue
        pictures = {urlsplit(s3).netloc} if request.resource_type in {"image", "media"} else set()
        assert urlsplit(request.url).netloc in {urlsplit(url).netloc} | pictures, request.url


class Wire:
    """A wire to a server, on a port of its own, that can be cut and mended."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        self._open: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection, and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            for end in (writer, far_writer):
                self._open.discard(end)
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()
    except OSError:
        pass  # the wire was cut
    writer.close()
