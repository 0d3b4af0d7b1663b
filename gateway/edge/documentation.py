"""GET /schema: the interface as one plain page, of nothing but what is sent with it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

from litestar.openapi.plugins import OpenAPIRenderPlugin

from functions._kit.http import HttpRequest

METHODS = ("get", "put", "post", "patch", "delete")
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid; }
code { font-size: 0.95em; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
td { padding: 0.1rem 1.5rem 0.1rem 0; vertical-align: top; }
pre { white-space: pre-wrap; font: inherit; }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""By which a browser under our Content-Security-Policy knows the page's one style element."""


class PlainPage(OpenAPIRenderPlugin):
    """Lists the operations; programs read /schema/openapi.json."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: HttpRequest, openapi_schema: dict[str, Any]) -> bytes:
        """The page, in UTF-8."""
        del request
        return page(openapi_schema).encode()


def page(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML: each operation with parameters, bodies and answers."""
    title = escape(document["info"]["title"])
    operations = "".join(
        _operation(method, path, item[method])
        for path, item in sorted(document["paths"].items())
        for method in METHODS
        if method in item
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(document['info'].get('description', ''))} "
        f'The whole of it, with every schema: <a href="/schema/openapi.json">openapi.json</a>.</p>'
        f"{operations}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind)}</td><td>{escape(text)}</td></tr>"
        for name, kind, text in _rows(operation)
    )
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p><strong>{escape(operation.get('summary') or '')}</strong></p>"
        f"<pre>{escape(operation.get('description') or '')}</pre><table>{rows}</table>"
    )


def _rows(operation: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What goes in and what comes out: name, kind, explanation."""
    for parameter in operation.get("parameters", ()):
        need = "required" if parameter.get("required") else "optional"
        yield parameter["name"], f"{parameter['in']}, {need}", parameter.get("description") or ""
    for media in operation.get("requestBody", {}).get("content", {}):
        yield media, "body", ""
    for status, answer in sorted(operation.get("responses", {}).items()):
        yield status, "answer", answer.get("description") or ""
