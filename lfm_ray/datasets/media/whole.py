"""Is a media file as long as its container says? A download that was broken off is not.

Only sizes in bytes count. Durations are no promise: an edit list or a careless writer may claim more than
there ever was. What is written while it is sent (live Matroska, MPEG streams) does not say how long it will be,
only how long each of its parts is: it is cut if the last one is.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lfm_ray.datasets.media import raw_streams
from lfm_ray.datasets.media.rare_containers import RARE, bytes_beyond

PLACEHOLDER = 2_000_000_000  # bytes; from here on a 32-bit size was written before the size was known
ISO_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot")
OGG_LAST = 4  # flag of the last page of a stream
FLV_HEAD = 4096
GIF_PICTURE, GIF_EXTENSION = 0x2C, 0x21  # the first byte of a block
MXF_KEY = b"\x06\x0e\x2b\x34"  # the first of the 16 bytes that say what follows
SEGMENT = 0x8538067  # of Matroska, without the mark of its width
TRANSPORT = (
    (188, 0),
    (192, 4),
    (204, 0),
)  # bytes of the packets of an MPEG transport stream, and where 0x47 is in each


def check_whole(path: str | Path) -> None:
    """Raises a ValueError if the file ends before its container's end."""
    status = os.stat(path)
    if promised := _promised(str(path), status.st_size, status.st_mtime_ns):
        raise ValueError(f"is cut short: it should have {promised}, and has {status.st_size:,} bytes")


@functools.lru_cache(maxsize=4096)
def _promised(path: str, size: int, changed: int) -> str:
    """What the file should have and lacks; empty: nothing. changed: a file that was replaced is read again."""
    with open(path, "rb") as file:
        head = file.read(32)
        for at, marks, check in CONTAINERS:
            file.seek(0)
            if head.startswith(marks, at) and (lacking := check(file, size)):
                return lacking
        return bytes_beyond(raw_streams.promised(file, size), size)


def _iso(file: BinaryIO, size: int) -> str:
    """MP4, QuickTime and the like: boxes of a size (32 bits, or 64 bits after a 1; 0: to the end) and a type."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length == 0 or not kind.isalnum():
            return ""
        if at + length > size:
            return bytes_beyond(at + length, size)
        at += max(length, 8)
    return ""


def _avi(file: BinaryIO, size: int) -> str:
    """RIFF chunks one after another, of which a long file has several."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length == 0 or length >= PLACEHOLDER:
            return ""
        if at + 8 + length > size:
            return bytes_beyond(at + 8 + length, size)
        at += 8 + length + length % 2
    return ""


def _matroska(file: BinaryIO, size: int) -> str:
    """EBML: elements of a name and a size; where it was sent live, the size of what holds others is unknown."""
    at = 0
    while at + 2 <= size:
        name, at = _ebml_number(file, at)
        length, at = _ebml_number(file, at)
        if length is None:
            continue  # the elements in it come next
        if at + length > size:
            return bytes_beyond(at + length, size)
        if name == SEGMENT:
            return ""
        at += length
    return ""


def _ebml_number(file: BinaryIO, at: int) -> tuple[int | None, int]:
    """A number of as many bytes as its first has leading zeros, and one; None: all its bits are set. Where it ends."""
    file.seek(at)
    first = file.read(1)
    width = 9 - first[0].bit_length() if first else 1
    if width > 8:
        return 0, at + 1
    value = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _flv(file: BinaryIO, size: int) -> str:
    """The size in bytes among the metadata, where a writer put it; else the last tag must be whole."""
    head = file.read(FLV_HEAD)
    if (at := head.find(b"filesize\x00")) >= 0 and len(found := head[at + 9 : at + 17]) == 8:
        (promised,) = struct.unpack(">d", found)
        if promised > 0:
            return bytes_beyond(int(promised), size)
    at = 9 + 4
    while at + 11 <= size:
        file.seek(at + 1)
        length = int.from_bytes(file.read(3), "big")
        if at + 11 + length > size:
            return bytes_beyond(at + 11 + length, size)
        at += 11 + length + 4
    return ""


def _ogg(file: BinaryIO, size: int) -> str:
    """The last page says that it is the last, and is whole."""
    file.seek(max(0, size - 65_536))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return "a last page"
    segments = tail[at + 26]
    end = at + 27 + segments + sum(tail[at + 27 : at + 27 + segments])
    return "" if tail[at + 5] & OGG_LAST and end <= len(tail) else "a last page"


def _caf(file: BinaryIO, size: int) -> str:
    """Chunks of a type and a size of 64 bits; -1: to the end."""
    at = 8
    while at + 12 <= size:
        file.seek(at)
        _, length = struct.unpack(">4sq", file.read(12))
        if length < 0:
            return ""
        if at + 12 + length > size:
            return bytes_beyond(at + 12 + length, size)
        at += 12 + length
    return ""


def _rf64(file: BinaryIO, size: int) -> str:
    """WAV above 4 GB: the sizes of the file and of its samples, in 64 bits, are in the first chunk."""
    head = file.read(40)
    if head[12:16] != b"ds64" or len(head) < 36:
        return ""
    (promised,) = struct.unpack("<Q", head[20:28])
    return bytes_beyond(8 + promised, size) if promised < 2**63 else ""


def _gif(file: BinaryIO, size: int) -> str:
    """Blocks, whose content is in parts of at most 255 bytes; a part of none ends it."""
    content = file.read()
    at = 13 + (_gif_colours(content[10]) if size > 10 else 0)
    while at < size and content[at] in (GIF_PICTURE, GIF_EXTENSION):
        picture = content[at] == GIF_PICTURE
        at += (11 + _gif_colours(content[at + 9]) if at + 9 < size else 11) if picture else 2
        while at < size and content[at]:
            at += 1 + content[at]
        at += 1
    return "" if at <= size else "an end of its last picture"


def _gif_colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _mxf(file: BinaryIO, size: int) -> str:
    """A key of 16 bytes, a length (of 127 bytes at most; else the number of its bytes, and it), a value."""
    at = 0
    while at + 17 <= size:
        file.seek(at)
        key, short = file.read(16), file.read(1)[0]
        if not key.startswith(MXF_KEY):
            return ""
        further = short & 0x7F if short & 0x80 else 0
        length = int.from_bytes(file.read(further), "big") if further else short
        if at + 17 + further + length > size:
            return bytes_beyond(at + 17 + further + length, size)
        at += 17 + further + length
    return ""


def _asf(file: BinaryIO, size: int) -> str:
    """WMA and WMV: objects of a name of 16 bytes and a size that includes both; 0 while it is sent."""
    at = 0
    while at + 24 <= size:
        file.seek(at + 16)
        length = int.from_bytes(file.read(8), "little")
        if length < 24:
            return ""
        if at + length > size:
            return bytes_beyond(at + length, size)
        at += length
    return ""


def _program_stream(file: BinaryIO, size: int) -> str:
    """MPG and VOB: heads of packs, and packets that state their length."""
    at = 0
    while at + 14 <= size:
        file.seek(at)
        head = file.read(14)
        if head[:3] != b"\0\0\1" or head[3] < 0xB9:
            return ""
        if head[3] == 0xB9:  # the end
            length = 4
        elif head[3] == 0xBA:
            length = 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        else:
            length = 6 + int.from_bytes(head[4:6], "big")
        if at + length > size:
            return bytes_beyond(at + length, size)
        at += length
    return ""


def _transport_stream(file: BinaryIO, size: int) -> str:
    """Packets of one length, each with a mark: the last must be whole."""
    head = file.read(5 * 204)
    for length, mark in TRANSPORT:
        if head[mark : 5 * length : length] == b"\x47" * 5 and size % length:
            return bytes_beyond(size // length * length + length, size)
    return ""


# Where in the file which marks are, and what reads it. The last two are one byte, which other files can have there.
CONTAINERS: tuple[tuple[int, tuple[bytes, ...], Callable[[BinaryIO, int], str]], ...] = (
    (4, ISO_BOXES, _iso),
    (8, (b"AVI ",), _avi),
    (0, (b"\x1a\x45\xdf\xa3",), _matroska),
    (0, (b"FLV",), _flv),
    (0, (b"OggS",), _ogg),
    (0, (b"caff",), _caf),
    (0, (MXF_KEY,), _mxf),
    (0, (b"RF64",), _rf64),
    (0, (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",), _asf),
    (0, (b"\0\0\1\xba",), _program_stream),
    (0, (b"GIF8",), _gif),
    *((0, (mark,), check) for mark, check in RARE.items()),
    (0, (b"\x47",), _transport_stream),
    (4, (b"\x47",), _transport_stream),
)
