"""URLs that callers want to be called at when a task ends."""

from __future__ import annotations

import unicodedata
from ipaddress import ip_address
from urllib.parse import urlsplit

from functions._kit.addresses import is_public
from functions._kit.errors import Unprocessable


def check_callback(url: str, *, allow_private: bool) -> None:
    """Raise `Unprocessable` (code `invalid_callback_url`) for a URL that will never be called.

    Names are resolved, and checked again, when the webhook is sent.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or port == 0
        or parts.username is not None
        or any(letter <= " " or letter == "\x7f" for letter in url)
        or _odd_number(host)
    ):
        raise Unprocessable(
            "invalid_callback_url",
            "callback_url must be an http or https URL with a host, without credentials, spaces "
            "and control characters",
            field="callback_url",
        )
    if not allow_private and not _public(host):
        raise Unprocessable(
            "invalid_callback_url",
            "callback_url points to a private or loopback address; the operator can allow that "
            "with NEREID_ALLOW_PRIVATE_CALLBACKS",
            field="callback_url",
        )


def _odd_number(host: str) -> bool:
    """Whether `host` ends in a number and is no plain address: 127.1, 2130706433, 0x7f000001.

    Digits of other scripts and full-width letters count, which a client may turn into ours.
    """
    last = unicodedata.normalize("NFKC", host).rstrip(".").rpartition(".")[2].lower()
    if ":" in host or not (last.isdigit() or last.startswith("0x")):
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def _public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # RFC 6761, section 6.3: these names mean this machine
        return host.rstrip(".").rpartition(".")[2].lower() != "localhost"
