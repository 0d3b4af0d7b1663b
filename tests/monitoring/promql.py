"""Reads PromQL far enough to say whether an expression can be true of metrics that exist.

Each expression is given the labels that its result has and, where that is plain, its unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e\d+)?(?![\w.]))|(?P<name>[a-zA-Z_:][\w:]*)|(?P<string>\"[^\"]*\")"
    r"|(?P<range>\[\w+\])|(?P<op>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},]))"
)
DURATION = re.compile(r"\[(?:\d+[smhdw])+\]")
AGGREGATES = {"sum", "max", "min", "avg", "count"}
OF_COUNTERS = {"rate", "increase"}
OVER_TIME = {"min_over_time", "max_over_time", "avg_over_time", "changes"}
SETS = {"and", "or", "unless"}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus itself puts on whatever it scrapes."""


class PromqlError(Exception):
    """The expression cannot be read, or is about something that does not exist."""


@dataclass(frozen=True)
class Series:
    """A metric as Prometheus has it: a histogram is three."""

    kind: str
    labels: frozenset[str]
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """What an expression gives: its labels (None for a scalar), and its unit where it is plain."""

    labels: frozenset[str] | None
    unit: str = ""
    number: float | None = None
    name: str = ""
    ranged: bool = False


@dataclass
class Checker:
    """Checks expressions against `series`; `values` are the values that labels may have."""

    series: Mapping[str, Series]
    values: Mapping[str, set[str]]
    used: set[str] = field(default_factory=set)

    def check(self, text: str) -> Result:
        """The result of `text`. Raises `PromqlError`."""
        self._tokens = tokens(text)
        result = self._binary(0)
        if self._tokens:
            raise PromqlError(f"{text!r}: {self._tokens} is left over")
        return result

    def _next(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _take(self, *wanted: str) -> str:
        token = self._next()
        if not token or (wanted and token not in wanted):
            raise PromqlError(f"{token!r} stands where {wanted or 'something'} is wanted")
        return self._tokens.pop(0)

    def _binary(self, level: int) -> Result:
        levels = [{"or"}, {"and", "unless"}, COMPARISONS, {"+", "-"}, {"*", "/", "%"}]
        if level == len(levels):
            return self._primary()
        left = self._binary(level + 1)
        while self._next() in levels[level]:
            operator = self._take()
            on = None
            if self._next() in {"on", "ignoring"}:
                word = self._take()
                on = self._labels() if word == "on" else None
            left = self._join(left, operator, self._binary(level + 1), on)
        return left

    def _join(
        self, left: Result, operator: str, right: Result, on: frozenset[str] | None
    ) -> Result:
        if left.ranged or right.ranged:
            raise PromqlError("a range cannot be calculated with")
        if operator in COMPARISONS:
            _check_threshold(self.series.get(left.name), right)
        if left.labels is None or right.labels is None:
            unit = left.unit if operator not in {"*", "/"} else ""
            return Result(left.labels if right.labels is None else right.labels, unit)
        for side in (left.labels, right.labels):
            if on is not None and not on <= side:
                raise PromqlError(f"on {sorted(on)} of {sorted(side)}")
        if on is None and operator not in SETS and left.labels != right.labels:
            raise PromqlError(f"{sorted(left.labels)} never match {sorted(right.labels)}")
        if operator == "/":
            return Result(left.labels, _divided(left.unit, right.unit))
        return Result(left.labels, left.unit)

    def _primary(self) -> Result:
        token = self._take()
        if token == "(":
            inner = self._binary(0)
            self._take(")")
            return inner
        if re.fullmatch(r"\d.*", token):
            return Result(None, number=float(token))
        if token in AGGREGATES:
            return self._aggregate()
        if self._next() == "(":
            return self._function(token)
        return self._selector(token)

    def _labels(self) -> frozenset[str]:
        self._take("(")
        found = set()
        while self._next() != ")":
            found.add(self._take())
            if self._next() == ",":
                self._take()
        self._take(")")
        return frozenset(found)

    def _aggregate(self) -> Result:
        by: frozenset[str] = frozenset()
        if self._next() == "by":
            self._take()
            by = self._labels()
        self._take("(")
        inner = self._binary(0)
        self._take(")")
        if inner.labels is None or inner.ranged:
            raise PromqlError("only vectors are summed")
        if not by <= inner.labels:
            raise PromqlError(f"by {sorted(by)} of {sorted(inner.labels)}")
        return Result(by, inner.unit, name=inner.name)

    def _function(self, name: str) -> Result:
        self._take("(")
        arguments = [] if self._next() == ")" else [self._binary(0)]
        while self._next() == ",":
            self._take()
            arguments.append(self._binary(0))
        self._take(")")
        last = arguments[-1]
        if name in OF_COUNTERS:
            if not last.ranged or self.series[last.name].kind != "counter":
                raise PromqlError(f"{name} of {last.name}, which is no range of a counter")
            unit = f"{last.unit}/s" if name == "rate" else last.unit
            return Result(last.labels, unit, name=last.name)
        if name in OVER_TIME:
            if not last.ranged:
                raise PromqlError(f"{name} wants a range")
            return Result(last.labels, last.unit if "over_time" in name else "", name=last.name)
        if name == "histogram_quantile":
            if last.labels is None or "le" not in last.labels or not last.name.endswith("_bucket"):
                raise PromqlError("histogram_quantile wants buckets, by le")
            return Result(last.labels - {"le"}, last.unit.removesuffix("/s"), name=last.name)
        if name == "absent":
            return Result(frozenset())
        if name == "vector":
            return Result(frozenset())
        raise PromqlError(f"the function {name} is not known here")

    def _selector(self, name: str) -> Result:
        if name not in self.series:
            raise PromqlError(f"there is no metric {name}")
        self.used.add(name)
        series = self.series[name]
        if self._next() == "{":
            self._take()
            while self._next() != "}":
                self._matcher(name, series.labels | TARGET)
                if self._next() == ",":
                    self._take()
            self._take("}")
        ranged = self._next().startswith("[")
        if ranged and not DURATION.fullmatch(self._take()):
            raise PromqlError(f"{name} wants a duration")
        return Result(series.labels | TARGET, unit_of(name), name=name, ranged=ranged)

    def _matcher(self, name: str, labels: frozenset[str]) -> None:
        label, operator, text = self._take(), self._take("=", "!=", "=~", "!~"), self._take()[1:-1]
        if label not in labels:
            raise PromqlError(f"{name} has no label {label}")
        known = self.values.get(label)
        if known is None:
            return
        for one in text.split("|") if "~" in operator else [text]:
            if not any(re.fullmatch(one, value) for value in known):
                raise PromqlError(f"{name}: no {label} is ever {one!r}, only {sorted(known)}")


def tokens(text: str) -> list[str]:
    """The words of an expression; Grafana's variable for a range is a duration."""
    text = text.replace("$__rate_interval", "5m").strip()
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise PromqlError(f"cannot read {text[at:]!r}")
        found.append(match.group().strip())
        at = match.end()
    return found


def unit_of(name: str) -> str:
    """By the end of the name, as Prometheus' naming has it."""
    name = re.sub(r"_(bucket|sum|total)$", "", name)
    ends = {"_seconds": "s", "_bytes": "bytes", "_us": "µs"}
    return next((unit for end, unit in ends.items() if name.endswith(end)), "")


def _divided(left: str, right: str) -> str:
    """What one unit by another is; the same one leaves a share."""
    if left == right:
        return ""
    if left.endswith("/s") and right.endswith("/s"):
        return _divided(left.removesuffix("/s"), right.removesuffix("/s"))
    return left if not right else f"{left} per {right}"


def _check_threshold(series: Series | None, right: Result) -> None:
    if series is not None and series.buckets and right.number is not None:
        within = min(series.buckets) <= right.number < max(series.buckets)
        if not within or right.number not in series.buckets:
            raise PromqlError(
                f"{right.number} is no bound of {series.buckets}: it would be a guess"
            )
