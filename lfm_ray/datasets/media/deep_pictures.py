"""Pictures whose channels have more than 8 bits, of which Pillow keeps the depth only where they are grey alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

DECODERS = {"PNG": "png", "TIFF": "tiff", "PPM": "ppm", "JPEG2000": "jpeg2000"}  # Pillow's formats: FFmpeg's
CHANNELS = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}  # of FFmpeg's formats, whose names go on with be or le
FULL = 65_535
SIZE_MARKER = b"\xff\x51"  # of JPEG 2000, whose sizes follow it
BITS_AT = 40  # bytes after the begin of the marker: the bits of the first channel
HEAD = 65_536
ORIENTATION = 0x0112  # of EXIF


def is_grey(image: Any) -> bool:
    """Whether a picture that is open is grey, with or without transparency."""
    return image.mode in ("1", "L", "LA") or image.mode[0] in "IF" or _raw_mode(image).startswith("LA")


def is_deep(image: Any, path: str) -> bool:
    """Whether a picture that is open has more than 8 bits per channel."""
    if image.mode[0] in "IF" or ";16" in _raw_mode(image):
        return True
    if image.format == "PPM":
        return _most(image) > 255
    if image.format == "JPEG2000":
        with open(path, "rb") as file:
            head = file.read(HEAD)
        at = head.find(SIZE_MARKER) + BITS_AT
        return BITS_AT <= at < len(head) and head[at] & 0x7F > 7  # bits less one
    return False


def deep_values(image: Any, path: str) -> np.ndarray:
    """The values that the file holds -> (H, W) of grey, or (H, W, 3 or 4) of colours and opacity.

    Of grey, opacity is left out: what is not opaque has a value all the same, such as a distance.

    Raises:
        ValueError: Pillow and FFmpeg cannot read it at its depth.
    """
    form, most = image.format, _most(image) if image.format == "PPM" else FULL
    image.load()  # which notices where it is cut; FFmpeg makes up what is not there
    values = np.asarray(image)[..., None] if image.mode[0] in "IF" else _by_ffmpeg(form, path)
    if most != FULL:  # both have stretched them
        values = np.rint(values * (most / FULL)).astype(np.uint16)
    return values[..., 0] if values.shape[-1] < 3 else values


def oriented(image: Any, like: Any) -> Any:
    """`image`, turned upright as the EXIF of the file that it was read from says."""
    from PIL import ImageOps

    image.getexif()[ORIENTATION] = like.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(image)


def _by_ffmpeg(form: str, path: str) -> np.ndarray:
    """(H, W, channels) uint16."""
    import av

    try:
        decoder: Any = av.CodecContext.create(DECODERS[form], "r")
        frames = [*decoder.decode(av.Packet(Path(path).read_bytes())), *decoder.decode(None)]
    except (KeyError, av.error.FFmpegError):
        frames = []
    name = frames[0].format.name if frames else ""
    if name[:-2] not in CHANNELS:
        raise ValueError(
            "has more than 8 bits per channel, in a form that is not read; convert it to 8 bits, or to PNG"
        )
    frame, channels = frames[0], CHANNELS[name[:-2]]
    values = np.frombuffer(frame.planes[0], ">u2" if name.endswith("be") else "<u2").reshape(frame.height, -1)
    return values[:, : frame.width * channels].reshape(frame.height, frame.width, channels).astype(np.uint16)


def _raw_mode(image: Any) -> str:
    """How the file stores its pixels, in Pillow's words, such as RGB;16B."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _most(image: Any) -> int:
    """The value of a PPM that is white."""
    arguments = image.tile[0][3] if image.tile else ""
    return int(arguments[1]) if isinstance(arguments, tuple) and len(arguments) > 1 else FULL * (image.mode[0] == "I")
