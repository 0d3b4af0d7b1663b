"""Finds functions: every module in a folder of `functions` is one, with no list to keep.

A module whose name begins with `_`, and `contracts`, hold what functions share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType

from litestar.handlers import HTTPRouteHandler

import functions
from functions._kit.consume import Consumer
from functions._kit.errors import NereidError
from functions._kit.policy import HttpPolicy


class RegistryError(NereidError):
    """The functions do not fit together; the message names both sides."""

    def __init__(self, message: str) -> None:
        super().__init__("functions_do_not_fit", message)


@dataclass(slots=True)
class Function:
    """One function: its name (`domain.module`) and the handlers found in it."""

    name: str
    summary: str
    routes: list[HTTPRouteHandler] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)


def discover(package: ModuleType = functions) -> list[Function]:
    """Import every function of `package`; a broken import is raised as it is.

    Raises `RegistryError` for a module without a handler, an HTTP handler without a policy, and
    a route or subject that two functions take.
    """
    found = [
        _function(domain.name, module.name, package)
        for domain in pkgutil.iter_modules(package.__path__)
        if domain.ispkg and not domain.name.startswith("_")
        for module in pkgutil.iter_modules([f"{path}/{domain.name}" for path in package.__path__])
        if not module.name.startswith("_") and module.name != "contracts"
    ]
    _check_unique(found)
    return found


def select(found: Iterable[Function], only: Iterable[str]) -> list[Function]:
    """The functions named by `only` (all where it is empty). Raises `RegistryError`."""
    by_name = {function.name: function for function in found}
    names = list(only)
    for name in names:
        if name not in by_name:
            raise RegistryError(f"no function {name!r}; there are: {', '.join(sorted(by_name))}")
    return [by_name[name] for name in names] if names else list(by_name.values())


def _function(domain: str, name: str, package: ModuleType) -> Function:
    module = importlib.import_module(f"{package.__name__}.{domain}.{name}")
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    function = Function(name=f"{domain}.{name}", summary=summary)
    for value in vars(module).values():
        if isinstance(value, Consumer):
            function.consumers.append(value)
        elif isinstance(value, HTTPRouteHandler):
            if not isinstance(value.opt.get("policy"), HttpPolicy):
                raise RegistryError(
                    f"{function.name}: {value.handler_name} has no policy; "
                    "give it opt={'policy': HttpPolicy(scope=...)}"
                )
            function.routes.append(value)
    if not function.routes and not function.consumers:
        raise RegistryError(f"{function.name} has neither a route nor a @consume handler")
    return function


def _check_unique(found: list[Function]) -> None:
    taken: dict[str, str] = {}
    for function in found:
        keys = [consumer.subject for consumer in function.consumers]
        keys += [
            f"{method} {path}"
            for route in function.routes
            for path in route.paths
            for method in route.http_methods
        ]
        for key in keys:
            if key in taken:
                raise RegistryError(f"{key} is taken by {taken[key]} and by {function.name}")
            taken[key] = function.name
