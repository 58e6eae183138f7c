"""Is a media file as long as its container says? A download that was broken off is not.

Only sizes in bytes count. Durations are no promise: an edit list or a careless writer may claim more than
there ever was. Containers that are written while they are sent (live Matroska, MPEG-TS) promise nothing.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PLACEHOLDER = 2_000_000_000  # bytes; from here on a 32-bit size was written before the size was known
ISO_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot")
OGG_LAST = 4  # flag of the last page of a stream
FLV_HEAD = 4096


def check_whole(path: str | Path) -> None:
    """Raises a ValueError if the file ends before its container's end."""
    status = os.stat(path)
    if promised := _promised(str(path), status.st_size, status.st_mtime_ns):
        raise ValueError(f"is cut short: it should have {promised}, and has {status.st_size:,} bytes")


@functools.lru_cache(maxsize=4096)
def _promised(path: str, size: int, changed: int) -> str:
    """What the file should have and lacks; empty: nothing. changed: a file that was replaced is read again."""
    with open(path, "rb") as file:
        head = file.read(12)
        checks: dict[bool, Callable[[BinaryIO, int], str]] = {
            head[4:8] in ISO_BOXES: _iso,
            head[:4] == b"RIFF" and head[8:12] == b"AVI ": _avi,
            head[:4] == b"\x1a\x45\xdf\xa3": _matroska,
            head[:3] == b"FLV": _flv,
            head[:4] == b"OggS": _ogg,
            head[:4] == b"caff": _caf,
        }
        file.seek(0)
        return checks[True](file, size) if True in checks else ""


def _bytes(promised: int, size: int) -> str:
    return f"{promised:,}" if promised > size else ""


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
            return _bytes(at + length, size)
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
            return _bytes(at + 8 + length, size)
        at += 8 + length + length % 2
    return ""


def _matroska(file: BinaryIO, size: int) -> str:
    """EBML: the head, then a segment, whose size is unknown where it was sent live."""
    head = file.read(64 * 1024)
    begin = head.find(b"\x18\x53\x80\x67")
    if begin < 0 or begin + 5 > len(head):
        return ""
    first = head[begin + 4]
    width = 9 - first.bit_length()  # bytes of the size: as many as there are leading zeros, and one
    if first == 0 or begin + 4 + width > len(head):
        return ""
    bits = 7 * width
    length = int.from_bytes(head[begin + 4 : begin + 4 + width], "big") & ((1 << bits) - 1)
    return "" if length == (1 << bits) - 1 else _bytes(begin + 4 + width + length, size)


def _flv(file: BinaryIO, size: int) -> str:
    """The size in bytes among the metadata, where a writer put it; else the last tag must be whole."""
    head = file.read(FLV_HEAD)
    if (at := head.find(b"filesize\x00")) >= 0 and len(found := head[at + 9 : at + 17]) == 8:
        (promised,) = struct.unpack(">d", found)
        if promised > 0:
            return _bytes(int(promised), size)
    at = 9 + 4
    while at + 11 <= size:
        file.seek(at + 1)
        length = int.from_bytes(file.read(3), "big")
        if at + 11 + length > size:
            return _bytes(at + 11 + length, size)
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
            return _bytes(at + 12 + length, size)
        at += 12 + length
    return ""
