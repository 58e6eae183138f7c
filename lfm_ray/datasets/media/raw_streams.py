"""Sound without a container: frames one after another, each of which begins with a mark and says how long it is.

The layouts are those of ISO/IEC 11172-3 and 13818-3 (MPEG audio: MP3, MP2), 14496-3 (ADTS and LOAS: AAC), ETSI
TS 102 366 (AC-3 and E-AC-3), TS 102 114 (DTS, its core in words of 16 bits) and RFC 4867 (AMR).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)  # kbit/s
AC3_SAMPLING = (48_000, 44_100, 32_000)
AMR_NARROW = (13, 14, 16, 18, 20, 21, 27, 32, 6, 6, 6, 6, 1, 1, 1, 1)  # bytes of a frame of each type
AMR_WIDE = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1)
LAYER_1, LAYER_2, LAYER_3 = 3, 2, 1  # as MPEG's headers number them; 0 is ADTS
MPEG_RATES = {  # kbit/s, for MPEG 1 (True) or 2 and 2.5, and a layer
    (True, LAYER_1): tuple(range(32, 449, 32)),
    (True, LAYER_2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, LAYER_3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, LAYER_1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, LAYER_2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, LAYER_3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_SAMPLING = (44_100, 48_000, 32_000)  # Hz of MPEG 1; 2 has half of it, 2.5 a quarter
MPEG_VERSIONS = {3: 1, 2: 2, 0: 4}  # how a header numbers them, and by what their sampling rates are divided
COUNTS = (b"Xing", b"Info", b"VBRI")  # in the first frame of an MP3: how many follow
MOST_OF_A_FRAME = 2881  # bytes, of MPEG audio


class Stream(NamedTuple):
    """A kind of frames: the first byte of each, the bytes at its begin that tell its length, and how they do.

    length: the first bytes of a frame -> its bytes; None: these do not begin one.
    """

    mark: int | None
    head: int
    length: Callable[[bytes], int | None]


def _adts(head: bytes) -> int | None:
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _loas(head: bytes) -> int | None:
    if head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return None
    return 3 + ((head[1] & 0x1F) << 8 | head[2])


def _ac3(head: bytes) -> int | None:
    if head[:2] != b"\x0b\x77":
        return None
    if head[5] >> 3 > 10:  # E-AC-3
        return 2 * (((head[2] & 7) << 8 | head[3]) + 1)
    sampling, rate = head[4] >> 6, head[4] & 0x3F
    if sampling == 3 or rate >= 2 * len(AC3_RATES):
        return None
    words = AC3_RATES[rate // 2] * 96_000 // AC3_SAMPLING[sampling]
    return 2 * (words + (rate % 2 if AC3_SAMPLING[sampling] == 44_100 else 0))


def _dts(head: bytes) -> int | None:
    if head[:4] != b"\x7f\xfe\x80\x01":
        return None
    return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1


def _mpeg(head: bytes) -> int | None:
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, sampling, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer == 0 or rate in (0, 15) or sampling == 3:
        return None
    divided = MPEG_VERSIONS[version]
    bits, hertz = 1000 * MPEG_RATES[divided == 1, layer][rate - 1], MPEG_SAMPLING[sampling] // divided
    if layer == LAYER_1:
        return 4 * (12 * bits // hertz + padding)
    return (72 if layer == LAYER_3 and divided > 1 else 144) * bits // hertz + padding


def _amr(sizes: tuple[int, ...]) -> Callable[[bytes], int | None]:
    return lambda head: sizes[head[0] >> 3 & 15]


MPEG = Stream(0xFF, 3, _mpeg)
STREAMS = (Stream(0xFF, 6, _adts), MPEG, Stream(0x56, 3, _loas), Stream(0x0B, 6, _ac3), Stream(0x7F, 8, _dts))
AMR = {b"#!AMR\n": Stream(None, 1, _amr(AMR_NARROW)), b"#!AMR-WB\n": Stream(None, 1, _amr(AMR_WIDE))}


def promised(file: BinaryIO, size: int) -> int:
    """Up to which byte the last frame should go, if the file ends in the midst of it; else 0.

    A file whose end is that of a frame looks whole, wherever it was cut. What follows the frames is no promise: tags,
    zeros. Of two frames that begin alike, the first must be whole before a second counts.
    """
    start = _after_tag(file)
    for name, stream in AMR.items():
        file.seek(0)
        if file.read(len(name)) == name:
            return _walked(file, size, len(name), stream)
    return next((end for stream in STREAMS if (end := _walked(file, size, start, stream))), 0)


def has_no_count(path: str) -> bool:
    """Whether this is MP3 or MP2 that does not say how many frames it has, so that its length is only estimated."""
    with open(path, "rb") as file:
        file.seek(_after_tag(file))
        frame = file.read(MOST_OF_A_FRAME)
    return len(frame) >= MPEG.head and _mpeg(frame) is not None and not any(name in frame for name in COUNTS)


def _walked(file: BinaryIO, size: int, at: int, stream: Stream) -> int:
    whole = 0
    while at < size:
        file.seek(at)
        head = file.read(stream.head)
        if len(head) < stream.head:
            return at + stream.head if whole and head[0] == stream.mark else 0
        length = stream.length(head)
        if not length:
            return 0
        if at + length > size:
            return at + length if whole else 0
        at, whole = at + length, whole + 1
    return 0


def _after_tag(file: BinaryIO) -> int:
    """Where an ID3 tag at the begin ends; its size is in four groups of 7 bits, and it can have a foot. 0: none."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return (20 if head[5] & 0x10 else 10) + sum(
        (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
    )
