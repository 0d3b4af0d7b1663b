"""Keys of the bucket that come from outside: what they may be, and whose files they name."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from functions._kit.errors import NotFound, Unprocessable
from functions._kit.http import Principal
from functions._kit.ports import TaskStore

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


async def check_readable(
    key: str, principal: Principal, store: TaskStore, reserved: Sequence[str] = ()
) -> None:
    """Raise `NotFound`, as for a key that is not there, where the file is not the caller's to use.

    uploads/CLIENT/ and results/TASK/ are their client's, alerts/ and frames/ are for those with
    `alerts:read`, audio/ is nobody's; `system:read` may use all of these. Keys below `reserved`
    (models) are no files at all. Everything else in the bucket is the operator's, shared by all.
    """
    allowed = not key.startswith(OWN_PREFIXES) or "system:read" in principal.scopes
    if key.startswith(f"uploads/{principal.client_id}/"):
        allowed = True
    elif key.startswith("results/"):
        allowed = allowed or await _is_task_of(key.split("/")[1], principal, store)
    elif key.startswith(("alerts/", "frames/")):
        allowed = allowed or "alerts:read" in principal.scopes
    if not allowed or key.startswith(tuple(reserved)):
        raise NotFound("file_not_found", f"there is no file {key!r}", field="file_path")


async def _is_task_of(text: str, principal: Principal, store: TaskStore) -> bool:
    try:
        row = await store.get(str(uuid.UUID(text)))
    except ValueError:
        return False
    return row is not None and row.task.client_id == principal.client_id
