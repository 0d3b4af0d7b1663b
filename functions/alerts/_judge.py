"""Which detections become alerts: labels, least score, zones, cooldown."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from functions._kit.messages import NO_JSON, Message
from functions._kit.ports import KeyValue
from functions.alerts._detector import Detection
from functions.alerts.contracts import COOLDOWNS, Moment, Rules

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """A detection that the rules want, in one zone; `number` tells equals of a frame apart."""

    detection: Detection
    zone: str | None
    number: int

    @property
    def name(self) -> str:
        """What tells it from all other findings of its frame."""
        return f"{self.detection.label}\0{self.zone}\0{self.number}"


class Last(Message, frozen=True, kw_only=True):
    """An alert whose cooldown may still forbid others."""

    at: Moment
    alert_id: str


class Recent(Message, frozen=True, kw_only=True):
    """The last alerts of a camera, label and zone, in the order in which they were made."""

    alerts: tuple[Last, ...]


REMEMBERED = 32
"""Alerts of a kind: a frame that comes late, or again, is held against those around its time."""


def wanted(found: Iterable[Detection], rules: Rules, counts: Counter[str]) -> list[Finding]:
    """The findings, best first; a detection that makes none counts as `ignored.<label>`.

    An object within several zones makes a finding in each.
    """
    findings: list[Finding] = []
    numbers: Counter[tuple[str, str | None]] = Counter()
    labels = frozenset(rules.labels)
    for detection in found:
        zones: list[str | None] = []
        if detection.label in labels and detection.score >= rules.min_score:
            zones = list(_zones(detection, rules))
        if not zones:
            counts[f"ignored.{detection.label}"] += 1
        for zone in zones:
            findings.append(Finding(detection, zone, numbers[detection.label, zone]))
            numbers[detection.label, zone] += 1
    return findings


def _zones(detection: Detection, rules: Rules) -> Iterator[str | None]:
    if not rules.zones:
        yield None
    box = detection.box
    x, y = box.x + box.width / 2, box.y + box.height
    for zone in rules.zones:
        if contains(zone.polygon, x, y):
            yield zone.name


ROUNDING = 1e-9
"""The lower edge is a sum of two numbers of four digits, and may miss its mark by 1e-16."""


def contains(polygon: Sequence[tuple[float, float]], x: float, y: float) -> bool:
    """Whether the point is inside, or on the edge of, the polygon.

    The crossing number of a ray (Shimrat, "Algorithm 112", CACM 1962), edges looked at before:
    an object that is cut off by the picture's lower edge stands on the edge of its zone.
    """
    inside = False
    ax, ay = polygon[-1]
    for bx, by in polygon:
        cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        between = (
            min(ax, bx) - ROUNDING <= x <= max(ax, bx) + ROUNDING
            and min(ay, by) - ROUNDING <= y <= max(ay, by) + ROUNDING
        )
        if abs(cross) < ROUNDING and between:
            return True
        if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
            inside = not inside
        ax, ay = bx, by
    return inside


async def take_cooldown(
    values: KeyValue, key: str, *, at: datetime, seconds: float, alert_id: str
) -> bool:
    """Whether the alert may be: none of its kind within `seconds` of `at`, before or after.

    What all workers see decides, so that two never make an alert of the same object, and a
    worker that looks at a frame again after a crash comes to the same alert, or to none again.
    """
    seen = values.seen(COOLDOWNS).get(key)
    if seen is not None and _verdict(_read(seen), at, seconds, alert_id) is False:
        return False
    while True:
        entry = await values.get(COOLDOWNS, key)
        alerts = () if entry is None else _read(entry.value)
        verdict = _verdict(alerts, at, seconds, alert_id)
        if verdict is not None:
            return verdict
        mine = [*alerts, Last(at=at, alert_id=alert_id)]
        value = msgspec.json.encode(Recent(alerts=tuple(mine[-REMEMBERED:])))
        if await values.swap(COOLDOWNS, key, value, revision=entry.revision if entry else 0):
            return True


def _verdict(alerts: Sequence[Last], at: datetime, seconds: float, alert_id: str) -> bool | None:
    """True for an alert that was made before, False for one that is forbidden, None for others."""
    if any(last.alert_id == alert_id for last in alerts):
        return True
    if any(abs((at - last.at).total_seconds()) < seconds for last in alerts):
        return False
    return None


def _read(value: bytes) -> tuple[Last, ...]:
    """The last alerts of a kind; none where the value cannot be read, which then is replaced."""
    try:
        return _decode(value).alerts
    except NO_JSON as error:
        log.warning("the last alerts of a kind cannot be read: %s", error)
        return ()


_decode = msgspec.json.Decoder(Recent).decode
