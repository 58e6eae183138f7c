"""Checksums inside the JSON files that hold what a dataset, a model or a run is: an altered one gives no numbers.

A table in CSV, which other programs read, has its checksum in a file beside it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"  # the key in a card
CRC = "crc32"  # the key in a line
MARK = "# sha256 of all other lines: "


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a card, and the sha256 of the rest of it."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return {**rest, CHECKSUM: hashlib.sha256(_plain(rest)).hexdigest()}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether a card is as it was written; one without a checksum was written by an earlier version."""
    return not content.get(CHECKSUM) or with_checksum(content) == dict(content)


def line_of(record: Mapping[str, Any], number: int) -> str:
    """A record as line `number` of a file of JSON lines; the line holds a CRC-32 of both."""
    rest = {key: value for key, value in record.items() if key != CRC}
    return json.dumps({**rest, CRC: _crc(rest, number)}, separators=(",", ":")) + "\n"


def record_of(line: str | bytes, number: int) -> tuple[dict[str, Any], bool]:
    """The record in line `number`, and whether it had a CRC, which those of earlier versions have not.

    Raises:
        ValueError: the line is no record, or not the one that was written there.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("is no record")
    crc = record.pop(CRC, None)
    if crc is not None and crc != _crc(record, number):
        raise ValueError("its checksum differs, so it was altered or moved")
    return record, crc is not None


def _crc(record: Mapping[str, Any], number: int) -> int:
    return zlib.crc32(_plain(record), number)


def _plain(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def sealed(text: str) -> str:
    """A text between two lines with its sha256, which YAML takes for comments; one is left when part of it is lost."""
    line = f"{MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"
    return f"{line}{text}{line}"


def is_seal_right(text: str) -> bool:
    """Whether a text is as `sealed` made it; one without such lines was never sealed, or no longer is."""
    lines = text.splitlines(keepends=True)
    content = "".join(line for line in lines if not line.startswith(MARK))
    right = f"{MARK}{hashlib.sha256(content.encode()).hexdigest()}\n"
    return all(line == right for line in lines if line.startswith(MARK))


def sum_of(content: bytes, name: str) -> str:
    """The checksum of a file of this name, as `sha256sum` writes and checks it."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"
