"""Metrics of a process that counts nothing."""

from __future__ import annotations


class FakeMetrics:
    """Tells how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def exposition(self) -> str:
        """See `Metrics.exposition`."""
        self.asked += 1
        return (
            "# HELP fake_scrapes_total How often this was asked\n"
            "# TYPE fake_scrapes_total counter\n"
            f"fake_scrapes_total {self.asked}.0\n"
        )
