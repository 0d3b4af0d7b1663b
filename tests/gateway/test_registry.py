"""Functions are found, and what does not fit together stops the start with both names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from functions._kit.policy import HttpPolicy, Policy
from gateway.registry import RegistryError, discover, select

HTTP = """
from litestar import get
from functions._kit.policy import HttpPolicy
@get("{path}", opt={opt})
async def handler() -> None: ...
"""
CONSUMER = """
from functions._kit.consume import consume
from functions._kit.messages import Message
from functions._kit.policy import Policy
@consume("{subject}", policy=Policy())
async def handler(message: Message) -> None: ...
"""
OPEN = "{'policy': HttpPolicy(scope=None)}"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Makes a package of functions from texts by `domain/module`."""
    monkeypatch.syspath_prepend(tmp_path)

    def build(**files: str) -> ModuleType:
        for name, text in files.items():
            path = tmp_path / "house" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.with_suffix(".py").write_text(text)
        (tmp_path / "house" / "__init__.py").touch()
        importlib.invalidate_caches()
        return importlib.import_module("house")

    yield build
    for name in [n for n in sys.modules if n.split(".")[0] == "house"]:
        del sys.modules[name]


def test_dropping_a_file_into_a_domain_is_the_whole_registration(
    house: Callable[..., ModuleType],
) -> None:
    package = house(
        a__one=HTTP.format(path="/one", opt=OPEN), b__two=CONSUMER.format(subject="x.y")
    )
    found = {f.name: f for f in discover(package)}
    assert set(found) == {"a.one", "b.two"}
    assert found["a.one"].routes
    assert found["b.two"].consumers[0].subject == "x.y"


def test_shared_files_are_no_functions(house: Callable[..., ModuleType]) -> None:
    package = house(a__one=CONSUMER.format(subject="x"), a__contracts="", a___view="")
    assert [f.name for f in discover(package)] == ["a.one"]


@pytest.mark.parametrize("text", [HTTP.format(path="/s", opt=OPEN), CONSUMER.format(subject="s")])
def test_a_route_or_subject_taken_twice_names_both(
    house: Callable[..., ModuleType], text: str
) -> None:
    with pytest.raises(RegistryError, match=r"taken by a\.one and by b\.two"):
        discover(house(a__one=text, b__two=text))


def test_a_route_without_a_policy_stops_the_start(house: Callable[..., ModuleType]) -> None:
    with pytest.raises(RegistryError, match=r"a\.one: .*has no policy"):
        discover(house(a__one=HTTP.format(path="/x", opt="{}")))


def test_a_file_without_a_handler_stops_the_start(house: Callable[..., ModuleType]) -> None:
    with pytest.raises(RegistryError, match=r"a\.one has neither"):
        discover(house(a__one="x = 1"))


def test_a_broken_import_is_not_swallowed(house: Callable[..., ModuleType]) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        discover(house(a__one="import nowhere"))


def test_selecting_an_unknown_function_lists_those_that_exist() -> None:
    with pytest.raises(RegistryError, match=r"no function 'media\.nothing'.*media\.upload"):
        select(discover(), ["media.nothing"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"timeout_s": 0},
        {"attempts": 0},
        {"ack_wait_s": -1},
        {"backoff_s": ()},
        {"express": 1},
    ],
)
def test_a_wrong_policy_is_refused_when_it_is_made(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).partition("_")[0]):
        Policy(**wrong)  # type: ignore[arg-type]


def test_a_policy_with_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scope 'media:wirte'"):
        HttpPolicy(scope="media:wirte")


@pytest.mark.parametrize("scope", ["", (), ("media:read", "media:wirte")])
def test_a_policy_says_who_or_that_it_is_public(scope: str | tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="scope"):
        HttpPolicy(scope=scope)
    with pytest.raises(TypeError, match="scope"):
        HttpPolicy()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("opt", "error", "words"),
    [
        ("{}", RegistryError, "has no policy"),
        ("{'policy': None}", RegistryError, "has no policy"),
        ("{'policy': 'public'}", RegistryError, "has no policy"),
        ("{'policy': HttpPolicy()}", TypeError, "scope"),
        ("{'policy': HttpPolicy(scope='everybody')}", ValueError, "unknown scope"),
    ],
)
def test_a_function_without_a_scope_or_public_stops_the_start(
    house: Callable[..., ModuleType], opt: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        discover(house(a__one=HTTP.format(path="/x", opt=opt)))


def test_every_function_there_is_says_who_may_call_it() -> None:
    scopes = [
        (function.name, route.opt["policy"].any_of)
        for function in discover()
        for route in function.routes
    ]
    public = {name for name, any_of in scopes if not any_of}
    assert public == {"system.console", "system.health", "system.token"}
    assert len(scopes) >= 35
