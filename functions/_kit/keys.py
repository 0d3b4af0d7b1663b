"""Keys of the bucket that come from outside."""

from __future__ import annotations

from functions._kit.errors import Unprocessable

MAX_KEY_BYTES = 1024
OWN_PREFIXES = ("results/", "uploads/", "alerts/", "frames/", "audio/")
"""Where Nereid itself writes: what lies there belongs to a client, a task, an alert or a camera."""


def object_key(path: str, field: str) -> str:
    """`path` as a key of the bucket, with or without a leading slash.

    Raises `Unprocessable` (code `invalid_file_path`) for what could mean another place than it
    says: `..`, empty parts, control characters, a backslash, more than 1024 bytes.
    """
    key = path.removeprefix("/")
    parts = key.split("/")
    if (
        not key
        or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES
        or any(part in {"", ".", ".."} for part in parts)
        or any(ord(letter) < 32 or letter in "\x7f\\" for letter in key)
    ):
        raise Unprocessable(
            "invalid_file_path",
            f"{field} must be a path of 1 to {MAX_KEY_BYTES} bytes without '..', empty parts, "
            "backslashes or control characters",
            field=field,
        )
    return key
