"""How far the models are: a line for each, and on a terminal a spinner for the one at work."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from gateway.first_models import ModelProgress

if TYPE_CHECKING:
    from rich.status import Status


class ModelLines:
    """Shows what `FirstModels` reports, on stderr."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def show(self, progress: ModelProgress) -> None:
        """Tell of one model, which begins or has ended; nobody may be there to be told."""
        with suppress(OSError):
            self._show(progress)

    def _show(self, progress: ModelProgress) -> None:
        self._clear()
        at = f"{progress.number} of {progress.total}"
        if progress.problem is not None:
            said = f"the model {progress.model} could not be loaded ({at}): {progress.problem}"
            click.echo(said, err=True)
        elif progress.seconds is not None:
            said = f"model     {at}: {progress.model}, loaded in {progress.seconds:.1f} s"
            click.echo(said, err=True)
        elif sys.stderr.isatty():
            from rich.console import Console

            spinning = Console(stderr=True).status(f"model {at}: loading {progress.model}")
            spinning.start()
            self._status = spinning

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
