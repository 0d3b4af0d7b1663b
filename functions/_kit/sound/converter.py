"""One file into another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from functions._kit.ports.audio import AudioTarget, Sound
from functions._kit.sound.reader import PADDING_S, Source, open_source
from functions._kit.sound.refusals import too_long, undecodable
from functions._kit.sound.targets import check_target
from functions._kit.sound.writer import check_fits, open_writer


def convert(
    source: Path,
    into: Path,
    target: AudioTarget,
    *,
    longest_s: float,
    on_progress: Callable[[float], None] | None = None,
) -> Sound:
    """Write the first audio stream of `source` to `into`, a second at a time.

    Raises as `AudioConverter.convert` does, and `Unprocessable` (`unsupported_target`); `into` is
    gone then. `on_progress` hears how many seconds of sound are written, 0 when the
    file is opened; what it raises ends this.
    """
    check_target(target)
    try:
        with open_source(source) as sound:
            return _write(sound, into, target, longest_s, on_progress or (lambda _: None))
    except MemoryError as error:
        into.unlink(missing_ok=True)
        raise undecodable("takes more memory than a conversion may have") from error
    except BaseException:
        into.unlink(missing_ok=True)
        raise


def _write(
    sound: Source,
    into: Path,
    target: AudioTarget,
    longest_s: float,
    on_progress: Callable[[float], None],
) -> Sound:
    told_s = sound.duration_s
    if told_s is not None:
        if told_s > longest_s + PADDING_S:
            raise too_long(longest_s, told_s if sound.recognised.tells_duration else None)
        check_fits(target, told_s)
    on_progress(0.0)
    with open_writer(into, target) as writer:
        for block in sound.blocks(target):
            writer.write(block)
            written_s = writer.samples / target.sample_rate
            if written_s > longest_s:
                raise too_long(longest_s)
            check_fits(target, written_s)
            on_progress(written_s)
    if not writer.samples:
        raise undecodable("holds no sound")
    return Sound(
        duration_s=writer.samples / target.sample_rate,
        container=sound.container.format.name.partition(",")[0],
        codec=sound.stream.codec_context.codec.canonical_name,
        size_bytes=into.stat().st_size,
    )
