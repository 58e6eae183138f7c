"""Pictures of more than 8 bits per channel, byte by byte as the formats say: they keep their depth, by `scale`."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfm_ray.datasets.media.pictures import image_header, load_picture

CHANNELS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: how a PNG names them
SIDE = 8


def png(path: Path, values: np.ndarray, orientation: int = 1) -> Path:
    """(height, width, channels) uint16, with or without an EXIF that turns it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, CHANNELS[channels], 0, 0, 0))
        + (chunk(b"eXIf", exif) if orientation > 1 else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return path


def tiff(path: Path, values: np.ndarray) -> Path:
    """Not compressed, one strip, little-endian."""
    height, width, channels = values.shape
    content = values.astype("<u2").tobytes()
    bits = 8 + len(content)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(content))]  # fmt: skip
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, bits + 2 * channels) + content + struct.pack("<H", 16) * channels
        + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    )  # fmt: skip
    return path


def pnm(path: Path, values: np.ndarray, most: int = 65_535) -> Path:
    height, width, channels = values.shape
    head = f"P{6 if channels == 3 else 5}\n{width} {height}\n{most}\n".encode()
    path.write_bytes(head + values.astype(">u2").tobytes())
    return path


def drawn(channels: int, most: int = 8000) -> np.ndarray:
    values = np.random.default_rng(channels).integers(0, most, (SIDE, SIDE, channels), dtype=np.uint16)
    if channels in (2, 4):
        values[..., -1] = 65_535
    return values


FILES = {
    "grey.png": lambda at: png(at, drawn(1)), "alpha.png": lambda at: png(at, drawn(2)),
    "rgb.png": lambda at: png(at, drawn(3)), "rgba.png": lambda at: png(at, drawn(4)),
    "rgb.tif": lambda at: tiff(at, drawn(3)), "rgb.ppm": lambda at: pnm(at, drawn(3)),
    "few.ppm": lambda at: pnm(at, drawn(3), 8000), "few.pgm": lambda at: pnm(at, drawn(1), 8000),
}  # fmt: skip
SHAPES = {"grey.png": 1, "alpha.png": 2, "rgba.png": 4, "few.pgm": 1}


@pytest.mark.parametrize("name", FILES)
def test_values_keep_their_depth(tmp_path: Path, name: str) -> None:
    """0.032: 31 of the values that a channel of 8 bits would have are as many as 250."""
    path = FILES[name](tmp_path / name)
    values, grey = drawn(SHAPES.get(name, 3)), SHAPES.get(name, 3) < 3
    assert image_header(str(path)) == (SIDE, 1 if grey else 3)
    found = load_picture(str(path), SIDE, 1 if grey else 3, 0.032)
    expected = (values[..., : 1 if grey else 3] * 0.032).round().transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="more than 8 bits per channel; set scale"):
        load_picture(str(path), SIDE, 3, None)


def test_values_under_full_transparency(tmp_path: Path) -> None:
    """Grey has them, as a distance is one all the same; colours are put on white, as those of 8 bits are."""
    values = drawn(2)
    values[..., -1] = 0
    found = load_picture(str(png(tmp_path / "a.png", values)), SIDE, 1, 0.032)
    np.testing.assert_array_equal(found[0], (values[..., 0] * 0.032).round())
    values = drawn(4)
    values[..., -1] = 0
    assert (load_picture(str(png(tmp_path / "a.png", values)), SIDE, 3, 0.032) == 255).all()


@pytest.mark.parametrize("channels", CHANNELS)
def test_they_are_turned_upright(tmp_path: Path, channels: int) -> None:
    """Orientation 6: the file's left column is the top line, from right to left."""
    values = drawn(channels)
    found = load_picture(str(png(tmp_path / "a.png", values, orientation=6)), SIDE, 3, 0.032)
    level = load_picture(str(png(tmp_path / "b.png", values)), SIDE, 3, 0.032)
    np.testing.assert_array_equal(found, np.rot90(level, k=-1, axes=(1, 2)))


@pytest.mark.parametrize("channels", CHANNELS)
def test_cut_ones_are_refused(tmp_path: Path, channels: int) -> None:
    path = png(tmp_path / "a.png", drawn(channels))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(OSError, match="truncated"):
        load_picture(str(path), SIDE, 3, 0.032)


def test_jpeg_2000(tmp_path: Path) -> None:
    values = drawn(1)[..., 0]
    Image.fromarray(values).save(tmp_path / "grey.jp2")  # without loss
    found = load_picture(str(tmp_path / "grey.jp2"), SIDE, 1, 0.032)
    np.testing.assert_array_equal(found[0], (values * 0.032).round())
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "shallow.jp2")
    np.testing.assert_array_equal(
        load_picture(str(tmp_path / "shallow.jp2"), SIDE, 1, None)[0], values.astype(np.uint8)
    )
