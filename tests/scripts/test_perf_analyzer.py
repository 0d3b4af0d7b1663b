from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.scripts import script

install = script("scripts/perf_analyzer.py")

OLD_FORM = """
# deb http://no.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/keys/debian.gpg] http://second.example/debian bookworm main
deb http://mirror.example/debian bookworm-updates main
deb-src http://mirror.example/debian bookworm main
"""
NEW_FORM = """
Types: deb deb-src
# http://no.example/debian
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://security.example/debian
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


def sources(folder: Path, name: str, text: str) -> list[tuple[str, str]]:
    (folder / "sources.list.d").mkdir()
    (folder / name).write_text(text)
    return [(one.uri, one.signed_by) for one in install.own_sources(folder, "bookworm")]


def test_the_mirror_is_the_machines_own_in_the_old_form(tmp_path: Path) -> None:
    assert sources(tmp_path, "sources.list", OLD_FORM) == [
        ("http://mirror.example/debian", ""),
        ("http://second.example/debian", "/keys/debian.gpg"),
    ]


def test_and_in_the_new_form(tmp_path: Path) -> None:
    assert sources(tmp_path, "sources.list.d/debian.sources", NEW_FORM) == [
        ("http://mirror.example/debian", "/keys/debian.gpg"),
        ("http://second.example/debian", "/keys/debian.gpg"),
    ]


def test_a_machine_without_any_sources_has_none(tmp_path: Path) -> None:
    assert list(install.own_sources(tmp_path, "bookworm")) == []


def test_the_line_for_the_newer_release_keeps_the_key() -> None:
    signed = install.Source("http://mirror.example/debian", "/keys/debian.gpg")
    assert signed.line("trixie") == (
        "deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian trixie main\n"
    )
    assert "signed-by" not in install.Source("http://mirror.example/debian").line("trixie")


@pytest.mark.parametrize(
    ("glibc", "enough"),
    [("glibc 2.36", False), ("glibc 2.38", True), ("glibc 2.41", True), ("musl 1.2", False)],
)
def test_the_loader_is_needed_below_glibc_2_38(*, glibc: str, enough: bool) -> None:
    assert install.is_new_enough(glibc) == enough


def test_the_launcher_takes_the_loader_where_it_is_needed() -> None:
    plain = install.launcher(Path("/a b/perf_analyzer"), None)
    assert plain == "#!/bin/sh\nexec '/a b/perf_analyzer' \"$@\"\n"
    loaded = install.launcher(Path("/p/perf_analyzer"), Path("/l"))
    folder = "/l/usr/lib/x86_64-linux-gnu"
    assert f"exec {folder}/ld-linux-x86-64.so.2 --library-path {folder} /p/perf" in loaded


def test_another_distribution_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.platform, "freedesktop_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(SystemExit, match="perf_analyzer of your own on PATH"):
        install.fetch_libraries(tmp_path)


def test_a_mirror_that_is_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(install.platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setattr(install.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(install, "SOURCES", tmp_path)
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n")
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("this machine has no apt")
    with pytest.raises(SystemExit, match="apt's mirror is unreachable"):
        install.fetch_libraries(tmp_path / "libraries")
    assert not (tmp_path / "libraries").exists()
