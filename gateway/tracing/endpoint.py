"""Where traces go, as the settings say it. Needs none of OpenTelemetry."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.settings import SettingsError

TRACES_PATH = "/v1/traces"


def traces_url(endpoint: str) -> str:
    """Where the collector takes traces: `endpoint` with /v1/traces. Raises `SettingsError`."""
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise SettingsError(
            f"NEREID_OTLP_ENDPOINT={endpoint} must be http(s)://host:port of an OTLP/HTTP collector"
        )
    path = parts.path.rstrip("/").removesuffix(TRACES_PATH) + TRACES_PATH
    return parts._replace(path=path).geturl()


def parse_headers(text: str | None) -> dict[str, str]:
    """`name=value,name=value` as headers. Raises `SettingsError`, without the values."""
    headers = {}
    for pair in (text or "").split(","):
        name, equals, value = pair.partition("=")
        if pair.strip():
            if not equals or not name.strip():
                raise SettingsError(
                    "NEREID_OTLP_HEADERS must be name=value, further ones by commas"
                )
            headers[name.strip()] = value.strip()
    return headers
