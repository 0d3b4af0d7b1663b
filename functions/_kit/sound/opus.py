"""libopus by ctypes: it decodes at the target's own rate and channels, three times as fast.

libavcodec's decoder gives 48 kHz, which must then be resampled. The library is the one that
PyAV's libavcodec has loaded; without it the general way is taken.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from av.buffer import Buffer

RATES = frozenset({8_000, 12_000, 16_000, 24_000, 48_000})
"""What `opus_decoder_create` takes."""
LONGEST_PACKET_MS = 120
_SET_GAIN = 4034  # OPUS_SET_GAIN_REQUEST, opus_defines.h
_HEAD_BYTES = 19  # RFC 7845, 5.1, for mapping family 0


@cache
def _library() -> ctypes.CDLL | None:
    """The libopus of this process, with the types of what is called; None where there is none."""
    mapped = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    paths = {words[-1] for words in mapped if "/libopus" in words[-1]}
    if not paths:
        return None
    library = ctypes.CDLL(paths.pop())
    decoder, samples, place = ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
    library.opus_decoder_create.restype = decoder
    library.opus_decoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, ctypes.c_void_p]
    library.opus_decode.restype = samples
    library.opus_decode.argtypes = [
        *(decoder, ctypes.c_void_p, ctypes.c_int32),
        *(place, ctypes.c_int, ctypes.c_int),
    ]
    library.opus_decoder_ctl.argtypes = [decoder, ctypes.c_int]
    library.opus_decoder_destroy.argtypes = [decoder]
    library.opus_decoder_destroy.restype = None
    return library


def can_decode(head: bytes | None, rate: int) -> bool:
    """Whether a stream with this OpusHead (RFC 7845) can be decoded straight at `rate`."""
    return (
        head is not None
        and len(head) >= _HEAD_BYTES
        and head[:8] == b"OpusHead"
        and head[18] == 0  # mapping family 0: one stream of one or two channels
        and rate in RATES
        and _library() is not None
    )


class OpusDecoder:
    """Decodes packets to interleaved 16-bit samples at `rate`, in one or two channels."""

    def __init__(self, head: bytes, rate: int, channels: int) -> None:
        """`head` is the stream's OpusHead, which holds a gain in 1/256 dB."""
        library = _library()
        if library is None:
            raise RuntimeError("libopus is not loaded")
        self._library, self._channels = library, channels
        self._room = rate * LONGEST_PACKET_MS // 1000
        self._last = rate // 50
        self._samples = (ctypes.c_int16 * (self._room * channels))()
        self._view = memoryview(self._samples).cast("B")
        self._address = ctypes.addressof(self._samples)
        error = ctypes.c_int()
        self._decoder = library.opus_decoder_create(rate, channels, ctypes.byref(error))
        if not self._decoder:
            raise RuntimeError(f"opus_decoder_create: error {error.value}")
        gain = int.from_bytes(head[16:18], "little", signed=True)
        if gain:
            library.opus_decoder_ctl(self._decoder, _SET_GAIN, ctypes.c_int32(gain))

    def decode(self, packet: Buffer) -> memoryview | None:
        """The packet's samples, which hold until the next call; None where it is broken."""
        count = self._library.opus_decode(
            self._decoder, packet.buffer_ptr, packet.buffer_size, self._address, self._room, 0
        )
        if count < 0:
            return None
        self._last = count
        return self._view[: count * 2 * self._channels]

    def conceal(self) -> memoryview:
        """What libopus makes up for a lost packet, as long as the last one."""
        count = self._library.opus_decode(self._decoder, None, 0, self._address, self._last, 0)
        return self._view[: max(count, 0) * 2 * self._channels]

    def close(self) -> None:
        """Free the decoder."""
        self._library.opus_decoder_destroy(self._decoder)
