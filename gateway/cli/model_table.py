"""`nereid models list` as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from functions.models.available import Available, Capability, Version


def lines(shown: Available, repository: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Capabilities, then models; `repository` holds the versions of each that lie there."""
    rows = [("CAPABILITY", "SERVED BY", "ON ITS WAY, OR LAST CHANGE")]
    rows += [(one.capability, str(one.active), _way(one)) for one in shown.capabilities]
    yield from _table(rows)
    yield ""
    known = {(model.model, v.version): v for model in shown.models for v in model.versions}
    there = {(model, version) for model, versions in repository.items() for version in versions}
    models = [("MODEL", "VERSION", "STATE", "CHECK", "REQUESTS", "SERVES")]
    models += [
        (model, version, *_facts(known.get((model, version))))
        for model, version in sorted({*known, *there}, key=lambda key: (key[0], int(key[1])))
    ]
    yield from _table(models)


def _way(one: Capability) -> str:
    if one.candidate is not None:
        trial = one.candidate
        share = trial.plan.shadow if trial.stage == "shadow" else trial.plan.canary
        seen = trial.evidence
        return (
            f"{trial.target}: {trial.stage} of {share:.0%}, {seen.requests} of"
            f" {trial.plan.requests} requests, {seen.errors} errors"
        )
    if one.outcome is None:
        return ""
    return f"{one.outcome.target} {one.outcome.what.replace('_', ' ')}: {one.outcome.why}"


def _facts(version: Version | None) -> tuple[str, str, str, str]:
    if version is None:
        return ("unloaded", "never", "", "")
    requests = "" if version.statistics is None else str(version.statistics.requests)
    return (version.state, version.checked, requests, ", ".join(version.serves))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
