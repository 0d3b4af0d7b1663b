"""A camera's rules, where every process sees them: a JetStream key-value bucket."""

from __future__ import annotations

import logging
from functools import lru_cache

import msgspec

from functions._kit.errors import NotFound
from functions._kit.messages import NO_JSON
from functions._kit.ports import KeyValue
from functions.alerts.contracts import CAMERAS, Rules, is_camera_id

log = logging.getLogger(__name__)

DEFAULT = Rules()


@lru_cache(maxsize=4096)
def decode_rules(value: bytes) -> Rules:
    """A camera's rules as the bucket holds them; the default ones where they cannot be read."""
    try:
        return msgspec.json.decode(value, type=Rules)
    except NO_JSON as error:
        log.warning("a camera's rules cannot be read: %s", error)
        return DEFAULT


def rules_of(values: KeyValue, camera_id: str) -> Rules:
    """The camera's rules, or the default ones; changes arrive within a moment."""
    value = values.seen(CAMERAS).get(camera_id)
    return DEFAULT if value is None else decode_rules(value)


def valid_camera_id(text: str) -> str:
    """`text` as a camera's id. Raises `NotFound`, for no such camera can exist."""
    if not is_camera_id(text):
        raise NotFound(
            "camera_not_found",
            "a camera_id has 1 to 64 letters, digits, '-' and '_'",
            field="camera_id",
        )
    return text
