"""GET, PUT and DELETE /api/v1/cameras/{camera_id}: what a camera reports."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from litestar import delete, get, put
from litestar.params import FromPath, JSONBody

from functions._kit.errors import Unprocessable
from functions._kit.http import Port
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import AlertStore, Inference, KeyValue
from functions.alerts._cameras import DEFAULT, decode_rules, valid_camera_id
from functions.alerts._detector import detector
from functions.alerts.contracts import CAMERAS, Rules, Zone

PATH = "/api/v1/cameras"
SMALLEST_AREA = 1e-6
"""Of a zone, as a fraction of the picture: two pixels of 1080p."""


class Camera(Rules, frozen=True, kw_only=True):
    """A camera and its rules; `configured` is false where they are the default ones."""

    camera_id: str
    configured: bool


class Cameras(Answer, frozen=True, kw_only=True):
    """Every camera that has rules or alerts."""

    items: list[Camera]


@get(PATH, summary="All cameras", opt={"policy": HttpPolicy(scope="alerts:read")})
async def list_cameras(values: Port[KeyValue], alert_store: Port[AlertStore]) -> Cameras:
    """Those that were configured, and those that have sent something, by id."""
    configured = values.seen(CAMERAS)
    ids = sorted({*configured, *await alert_store.cameras()})
    return Cameras(items=[_camera(camera_id, configured.get(camera_id)) for camera_id in ids])


@get(
    PATH + "/{camera_id:str}",
    summary="A camera's rules",
    opt={"policy": HttpPolicy(scope="alerts:read")},
)
async def get_camera(camera_id: FromPath[str], values: Port[KeyValue]) -> Camera:
    """Its rules; the default ones where nobody has set any."""
    entry = await values.get(CAMERAS, valid_camera_id(camera_id))
    return _camera(camera_id, None if entry is None else entry.value)


@put(
    PATH + "/{camera_id:str}",
    summary="Set a camera's rules",
    opt={"policy": HttpPolicy(scope="frames:write")},
)
async def put_camera(
    camera_id: FromPath[str],
    data: JSONBody[Rules],
    values: Port[KeyValue],
    inference: Port[Inference],
) -> Camera:
    """The whole of its rules; what is left out has its default. They hold within a moment."""
    valid_camera_id(camera_id)
    check_zones(data.zones)
    by = await detector(inference, values)
    if data.labels != DEFAULT.labels:  # nobody has to know them who has not asked for them
        check_labels(data.labels, by.labels)
    value = msgspec.json.encode(data)
    await values.put(CAMERAS, camera_id, value)
    return _camera(camera_id, value)


@delete(
    PATH + "/{camera_id:str}",
    summary="Forget a camera's rules",
    opt={"policy": HttpPolicy(scope="frames:write")},
)
async def delete_camera(camera_id: FromPath[str], values: Port[KeyValue]) -> None:
    """Back to the default rules; its alerts stay."""
    await values.delete(CAMERAS, valid_camera_id(camera_id))


def check_labels(labels: list[str], known: tuple[str, ...]) -> None:
    """Raise `Unprocessable` (`unknown_label`) for what the detector cannot see."""
    for label in labels:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise Unprocessable(
                "unknown_label", f"labels: the detector knows no {label[:64]!r}; {hint}",
                field="labels",
            )  # fmt: skip


def check_zones(zones: list[Zone]) -> None:
    """Raise `Unprocessable` (`invalid_zone`) for a name used twice, or no area."""
    names = [zone.name for zone in zones]
    for zone in zones:
        if names.count(zone.name) > 1:
            raise _invalid_zone(f"the name {zone.name!r} is used twice; each zone needs its own")
        if _area(zone.polygon) < SMALLEST_AREA:
            raise _invalid_zone(f"{zone.name!r} has no area; its corners must enclose some")


def _area(polygon: list[tuple[float, float]]) -> float:
    """The shoelace formula."""
    following = [*polygon[1:], polygon[0]]
    pairs = zip(polygon, following, strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2


def _invalid_zone(rule: str) -> Unprocessable:
    return Unprocessable("invalid_zone", f"zones: {rule}", field="zones")


def _camera(camera_id: str, value: bytes | None) -> Camera:
    rules = DEFAULT if value is None else decode_rules(value)
    facts: dict[str, Any] = msgspec.structs.asdict(rules)
    return Camera(camera_id=camera_id, configured=value is not None, **facts)
