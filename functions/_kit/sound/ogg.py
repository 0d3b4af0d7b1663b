"""Where the links of a chained OGG file begin and end: radio recordings are such files.

libavformat gives up at the second link, so each is opened as a file of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from functions._kit.sound.refusals import undecodable

Span: TypeAlias = tuple[int, int]
"""First byte, and the one after the last."""

# RFC 3533, 6: a page's head, up to 255 lengths of segments, and flag 2 for a stream's first page
HEAD_BYTES, MOST_BYTES, FIRST_PAGE = 27, 27 + 255, 2
MAX_PAGES = 4_000_000
"""Four hours have 720,000 where each packet is a page."""
MAX_LINKS = 1000


def links(source: Path) -> list[Span]:
    """The chained files within one. Raises `Unprocessable` for more than `MAX_LINKS`."""
    size = source.stat().st_size
    begins, place, in_heads = [0], 0, True
    with source.open("rb") as file:
        for _ in range(MAX_PAGES):
            head = os.pread(file.fileno(), MOST_BYTES, place)
            if len(head) < HEAD_BYTES or not head.startswith(b"OggS"):
                break
            first = bool(head[5] & FIRST_PAGE)
            if first and not in_heads:
                begins.append(place)
            in_heads = first
            segments = head[26]
            place += HEAD_BYTES + segments + sum(head[HEAD_BYTES : HEAD_BYTES + segments])
    if len(begins) > MAX_LINKS:
        raise undecodable(f"is a chain of more than {MAX_LINKS} recordings")
    return list(zip(begins, [*begins[1:], size], strict=True))
