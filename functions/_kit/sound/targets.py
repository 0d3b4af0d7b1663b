"""Which rates and channels each format of a target may have."""

from __future__ import annotations

from functions._kit.errors import Unprocessable
from functions._kit.ports.audio import AUDIO_TYPES, AudioTarget

MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""All that MPEG-1, MPEG-2 (ISO 11172-3, 13818-3) and MPEG-2.5 know."""
RATES = range(8_000, 192_001)
CHANNELS = range(1, 3)


def check_target(target: AudioTarget) -> None:
    """Raise `Unprocessable` (`unsupported_target`) for a target that is not written."""
    if target.format not in AUDIO_TYPES:
        raise _unsupported("target", f"must be one of {', '.join(AUDIO_TYPES)}")
    if target.format == "mp3" and target.sample_rate not in MP3_RATES:
        rates = ", ".join(map(str, MP3_RATES))
        raise _unsupported("sample_rate", f"must be one of {rates} for mp3; take wav for others")
    if target.sample_rate not in RATES:
        raise _unsupported("sample_rate", f"must lie in {RATES.start} to {RATES.stop - 1}")
    if target.channels not in CHANNELS:
        raise _unsupported("channels", "must be 1 or 2; more channels are mixed down to them")


def _unsupported(field: str, rule: str) -> Unprocessable:
    return Unprocessable("unsupported_target", f"{field} {rule}.", field=field)
