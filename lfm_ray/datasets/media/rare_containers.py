"""Is a file as long as its container says? Containers that are seldom met; `lfm_ray.datasets.media.whole` has the rest.

Each reader returns what the file should have and lacks, in words; empty: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"
Y4M_PLANES = {  # planes beside the first, and how many of its columns and rows one of their pixels is for
    "mono": (0, 1, 1),
    "420": (2, 2, 2),
    "411": (2, 4, 1),
    "422": (2, 2, 1),
    "444": (2, 1, 1),
}


def bytes_beyond(promised: int, size: int) -> str:
    """The number of bytes that a file should have, if it is more than its size."""
    return f"{promised:,}" if promised > size else ""


def _ivf(file: BinaryIO, size: int) -> str:
    """A header that states its length; each frame has its size (32 bits) and its time (64) before it."""
    return _parts(file, size, int.from_bytes(file.read(8)[6:8], "little"), 12, lambda head: 12 + _little(head[:4]))


def _voc(file: BinaryIO, size: int) -> str:
    """Blocks of a type and a size of 24 bits; type 0 is the end."""
    start = _little(file.read(22)[20:22])
    return _parts(file, size, start, 4, lambda head: 4 + _little(head[1:4]) if head[0] else 0)


def _real_media(file: BinaryIO, size: int) -> str:
    """Chunks of a type and a size that includes both; FFmpeg counts the head of DATA, 18 bytes, twice."""

    def length(head: bytes) -> int:
        stated = int.from_bytes(head[4:8], "big")
        return stated - 18 if head[:4] == b"DATA" else stated if head[:4] == b".RMF" or head[:4].isalpha() else 0

    return _parts(file, size, 0, 8, length)


def _png(file: BinaryIO, size: int) -> str:
    """Chunks of a size, a type and a checksum, of animated pictures too; the last is IEND."""
    return _parts(file, size, 8, 8, lambda head: 0 if head[4:] == b"IEND" else 12 + int.from_bytes(head[:4], "big"))


def _wavpack(file: BinaryIO, size: int) -> str:
    """Blocks, each with its size without the first 8 bytes."""
    return _parts(file, size, 0, 8, lambda head: 8 + _little(head[4:8]) if head[:4] == b"wvpk" else 0)


def _obu(file: BinaryIO, size: int) -> str:
    """AV1 by itself: units of a byte of flags, perhaps a second one, and a size in groups of 7 bits."""

    def length(head: bytes) -> int:
        at = 2 if head[0] & 4 else 1
        groups = next((count for count, byte in enumerate(head[at:], 1) if byte < 0x80), 0)
        value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[at : at + groups]))
        return at + groups + value if head[0] & 2 and groups else 0

    return _parts(file, size, 0, 2, length, more=8)


def _tta(file: BinaryIO, size: int) -> str:
    """A header, then the size of each frame of 256 / 245 s."""
    head = file.read(22)
    rate, samples = _little(head[10:14]), _little(head[14:18])
    if not rate:
        return ""
    table = file.read(4 * math.ceil(samples / (256 * rate // 245)))
    return bytes_beyond(30 + sum(_little(table[at : at + 4]) for at in range(0, len(table), 4)) - 4 + len(table), size)


def _sox(file: BinaryIO, size: int) -> str:
    """The sizes of the header and of all channels, in samples of 32 bits."""
    head = file.read(16)
    samples = _little(head[8:16])
    return bytes_beyond(4 + _little(head[4:8]) + 4 * samples, size) if samples < 2**40 else ""


def _flash(file: BinaryIO, size: int) -> str:
    return bytes_beyond(_little(file.read(8)[4:8]), size)


def _y4m(file: BinaryIO, size: int) -> str:
    """Pictures of one size, without compression, each after a line."""
    words = file.readline(1000).split()[1:]
    stated = {"C": "420", "W": "", "H": ""} | {word[:1].decode("latin-1"): word[1:].decode("latin-1") for word in words}
    colours, kind = stated["C"], "mono" if stated["C"].startswith("mono") else stated["C"][:3]
    if not stated["W"].isdecimal() or not stated["H"].isdecimal() or kind not in Y4M_PLANES:
        return ""
    width, height = int(stated["W"]), int(stated["H"])
    others, across, down = Y4M_PLANES[kind]
    pixels = width * height + others * -(-width // across) * -(-height // down)
    pixels += width * height if colours.endswith("alpha") else 0
    deep = colours[4:] if kind == "mono" else colours.partition("p")[2]
    frame = pixels * (2 if deep.isdecimal() and int(deep) > 8 else 1)
    at = file.tell()
    while at < size:
        file.seek(at)
        line = file.readline(1000)
        if not line.startswith(b"FRAME"):
            return ""
        at += len(line) + frame
    return bytes_beyond(at, size)


def _nut(file: BinaryIO, size: int) -> str:
    """An index is at the end, and its length 12 bytes before it: FFmpeg writes one, also where it cannot seek."""
    file.seek(max(0, size - 12))
    length = int.from_bytes(file.read(8), "big")
    if length <= size:
        file.seek(size - length)
        if file.read(8) == NUT_INDEX:
            return ""
    return "an index at its end"


def _nist(file: BinaryIO, size: int) -> str:
    """SPHERE, as TIMIT's .WAV are: lines of a name, a type and a value, in a header of the stated length."""
    lines = file.read(1024).decode("latin-1").split("\n")
    stated = {words[0]: words[2] for line in lines[2:] if len(words := line.split()) == 3}
    numbers = [stated.get(one, "") for one in ("sample_count", "sample_n_bytes", "channel_count")]
    if not all(number.isdecimal() for number in [lines[1].strip(), *numbers]):
        return ""
    if stated.get("sample_coding", "pcm") not in ("pcm", "ulaw", "alaw", "mu-law"):  # compressed
        return ""
    return bytes_beyond(int(lines[1]) + math.prod(int(number) for number in numbers), size)


def _jpeg(file: BinaryIO, size: int) -> str:
    """One picture after another: the last ends in a mark of its end."""
    content = file.read()
    return "" if content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xd8\xff") else "an end of its last picture"


def _parts(file: BinaryIO, size: int, at: int, head: int, length: Callable[[bytes], int], more: int = 0) -> str:
    """Parts one after another, whose first bytes tell their length; 0: what follows is none, and no promise.

    head: bytes that each part has at least; more: further ones that its length may need. A last part that is shorter
    than its head is cut.
    """
    while at < size:
        file.seek(at)
        found = file.read(head + more)
        if len(found) < head:
            return bytes_beyond(at + head, size) if found.strip(b"\0") else ""
        long = length(found)
        if long <= 0:
            return ""
        if at + long > size:
            return bytes_beyond(at + long, size)
        at += long
    return ""


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")


RARE: dict[bytes, Callable[[BinaryIO, int], str]] = {
    b"DKIF": _ivf,
    b"Creative Voice File\x1a": _voc,
    b".RMF": _real_media,
    b"\x89PNG\r\n\x1a\n": _png,
    b"wvpk": _wavpack,
    b"\x12\x00\x0a": _obu,
    b"TTA1": _tta,
    b".SoX": _sox,
    b"FWS": _flash,
    b"YUV4MPEG2 ": _y4m,
    b"nut/multimedia container\x00": _nut,
    b"NIST_1A\n": _nist,
    b"\xff\xd8\xff": _jpeg,
}
