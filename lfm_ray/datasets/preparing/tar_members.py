"""The members of tar files, found without unpacking and read by their position."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lfm_ray.datasets.preparing.embedded import Embedded
from lfm_ray.errors import UserError

COPIED = 2**20  # bytes at once
BLOCK = 512  # bytes; one of zeros ends a tar
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}  # how files begin -> what they are compressed with


@dataclass(frozen=True, slots=True)
class TarMember(Embedded):
    """A file in a tar: its name there, and the byte at which it begins."""

    name: str
    begin: int

    @property
    def place(self) -> str:
        """Its name in the tar."""
        return self.name

    def copy_to(self, target: BinaryIO) -> None:
        """Writes its bytes, a part at a time."""
        with open(self.file, "rb") as tar:
            tar.seek(self.begin)
            left = self.size
            while left and (part := tar.read(min(left, COPIED))):
                target.write(part)
                left -= len(part)
        if left:
            raise ValueError(f"is cut short: the tar ends {left:,} bytes before its end")

    def read(self) -> bytes:
        """All its bytes; for small members."""
        with open(self.file, "rb") as tar:
            tar.seek(self.begin)
            return tar.read(self.size)


class CutTar(Exception):
    """A tar that ends too early or is damaged, and why, in words for a person; its members until there are whole."""


def members(path: Path) -> Iterator[TarMember]:
    """The files in a tar, in order; folders, links and hidden files are passed over.

    Raises:
        UserError: it is not a tar, or is compressed.
        CutTar: after the members that there are.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    for start, how in COMPRESSED.items():
        if head.startswith(start):
            raise UserError(
                f"{path}: is compressed with {how}, so that no sample can be read by itself; decompress it (media are"
                " compressed already)"
            )
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise UserError(f"{path}: is not a tar file: {error}") from None
    with tar:
        try:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                if not member.isreg() or any(part.startswith((".", "__")) for part in Path(member.name).parts):
                    continue
                if member.issparse():
                    raise CutTar(f"holds {member.name} with gaps (sparse), which cannot be read in place; pack it anew")
                yield TarMember(str(path), member.size, member.name, member.offset_data)
        except (tarfile.TarError, EOFError):
            raise CutTar("is cut short in its last member") from None
        end = tar.offset  # type: ignore[attr-defined]
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
    if len(mark) < BLOCK:
        raise CutTar("is cut short: the mark of its end is missing")
    if any(mark):
        raise CutTar(f"is damaged at byte {end:,}; what follows is not read")
