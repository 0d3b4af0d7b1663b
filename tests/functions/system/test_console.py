from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from functions.system import console
from gateway.settings import CHECKOUT

FOLDER = Path(console.__file__).parent
SOURCES = sorted(
    path for path in FOLDER.iterdir() if path.suffix.lstrip(".") in console.MEDIA_TYPES
)
SCRIPTS = [path for path in SOURCES if path.suffix == ".js"]
PAGE = (FOLDER / "index.html").read_text()


async def test_the_page_and_each_of_its_files_are_served_to_anybody(
    nobody: httpx.AsyncClient,
) -> None:
    answer = await nobody.get("/")
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="(console/[^"]+)"', PAGE))
    assert {"console/main.js", "console/style.css", "console/icon.svg"} <= named
    for path in SOURCES:
        answer = await nobody.get(f"/console/{path.name}")
        assert (answer.status_code, answer.content) == (200, path.read_bytes())
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type == console.MEDIA_TYPES[path.suffix.lstrip(".")]
    assert named <= {f"console/{path.name}" for path in SOURCES}


@pytest.mark.parametrize("path", ["/", "/console/main.js", "/console/style.css"])
async def test_every_answer_carries_a_strict_policy(nobody: httpx.AsyncClient, path: str) -> None:
    headers = (await nobody.get(path)).headers
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


async def test_a_copy_that_is_still_good_is_not_sent_again(nobody: httpx.AsyncClient) -> None:
    first = await nobody.get("/console/style.css")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await nobody.get("/console/style.css", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-security-policy" in again.headers
    stale = await nobody.get("/console/style.css", headers={"If-None-Match": '"other"'})
    assert stale.content == first.content


@pytest.mark.parametrize(
    "name", ["__init__.py", "nothing.js", "..%2F__init__.py", "%2e%2e", "index.html%00", "main"]
)
async def test_nothing_but_the_consoles_own_files_is_served(
    nobody: httpx.AsyncClient, name: str
) -> None:
    answer = await nobody.get(f"/console/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_page_has_no_script_and_no_style_within_and_loads_nothing_from_elsewhere() -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", PAGE)
    for path in SOURCES:
        hosts = set(re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+[^\s\"']*", path.read_text()))
        assert hosts <= {"http://www.w3.org/2000/svg"}, path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_write_text_only_and_import_what_is_there(path: Path) -> None:
    text = path.read_text()
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert not re.search(markup, text)
    assert not re.search(r"localStorage|document\.cookie", text)
    for imported in re.findall(r'from "([^"]+)"', text):
        assert (FOLDER / imported).is_file(), imported


def test_every_id_that_a_script_asks_for_is_in_the_page() -> None:
    ids = re.findall(r'\bid="([^"]+)"', PAGE)
    assert len(set(ids)) == len(ids)
    for path in SCRIPTS:
        for wanted in re.findall(r'byId\("([^"]+)"\)', path.read_text()):
            assert wanted in ids, (path.name, wanted)


def test_a_wheel_has_every_file_of_the_console(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"functions/system/console/{path.name}" for path in SOURCES} <= names
