"""The one error of these modules."""

from __future__ import annotations


class EngineError(Exception):
    """What is wrong and the way out, in a sentence or one per line."""
