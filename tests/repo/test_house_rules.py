"""The rules of the house, held by tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from functions._kit.policy import HttpPolicy
from gateway.registry import discover
from gateway.settings import CHECKOUT, PREFIX, Settings

TRACKED = subprocess.run(
    ["git", "-C", str(CHECKOUT), "ls-files"], capture_output=True, text=True, check=True
).stdout.split()
SOURCES = [CHECKOUT / name for name in TRACKED if name.endswith(".py")]
FIND_TRITON = "import functions, gateway, importlib.util as u; print(u.find_spec('triton'))"
README = (CHECKOUT / "README.md").read_text()


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of(folder: str) -> list[Path]:
    return [path for path in SOURCES if path.is_relative_to(CHECKOUT / folder)]


@pytest.mark.parametrize("path", of("functions"), ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_a_function_imports_neither_the_gateway_nor_another_domain(path: Path) -> None:
    domain = path.relative_to(CHECKOUT / "functions").parts[0]
    for name in imports(path):
        assert not name.startswith("gateway")
        parts = name.split(".")
        if parts[0] == "functions" and len(parts) > 1:
            allowed = parts[1] in {domain, "_kit"} or name.startswith("functions.tasks.contracts")
            # a store's port speaks of what its domain stores
            allowed |= domain == "_kit" and parts[2:3] == ["contracts"]
            assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize("name", ["scripts", "perf", "tests", "triton"])
def test_nothing_imports_what_is_run_by_path(name: str) -> None:
    for path in of("functions") + of("gateway"):
        assert not any(i == name or i.startswith(f"{name}.") for i in imports(path)), path


def test_the_folder_triton_hides_no_package_of_that_name() -> None:
    assert not list((CHECKOUT / "triton").rglob("__init__.py"))
    found = subprocess.run(
        [sys.executable, "-c", FIND_TRITON],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
        env={"PYTHONSAFEPATH": "1"},
    )
    assert found.stdout.strip() == "None"


def test_sql_stands_in_the_tables_alone() -> None:
    statement = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
    # the embedded server makes its own role and database before there is a table
    allowed = {*of("gateway/adapters/tables"), CHECKOUT / "gateway/embedded/postgres.py"}
    for path in {*of("functions"), *of("gateway")} - allowed:
        assert not statement.search(path.read_text()), path


def test_every_setting_is_explained_in_the_settings_page() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text()
    for name in Settings.__struct_fields__:
        assert f"`{PREFIX}{name.upper()}`" in page
    for mentioned in re.findall(rf"`{PREFIX}([A-Z0-9_]+)`", page):
        assert mentioned == "CONFIG" or mentioned.lower() in Settings.__struct_fields__


def test_every_function_stands_in_the_readme() -> None:
    for function in discover():
        assert f"`{function.name}`" in README


def test_every_route_is_public_on_purpose_or_has_a_scope() -> None:
    public = {
        function.name
        for function in discover()
        for route in function.routes
        if isinstance(policy := route.opt["policy"], HttpPolicy) and policy.scope is None
    }
    assert public == {"system.console", "system.health", "system.token"}


def test_no_tracked_file_is_large_or_names_a_registry() -> None:
    hosts = re.compile(r"https?://(?:[\w.-]*\.)?(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com))")
    for name in TRACKED:
        path = CHECKOUT / name
        assert path.stat().st_size < 10_000_000, name
        if path.suffix in {".py", ".md", ".txt", ".toml", ".sh", ".in", ""}:
            assert not hosts.search(path.read_text(errors="replace")), name


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for page in [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
