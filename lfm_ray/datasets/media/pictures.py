"""Image or video file -> uint8 pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lfm_ray.settings import Settings


class VideoSettings(Settings):
    """Video -> uint8 frames."""

    frames: int = Field(
        10,
        ge=1,
        description="frames per clip in the shards: the middle one of each of so many equal parts; see data.frames",
    )
    size: int = Field(224, ge=4, description="pixels per side")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB")


class ImageSettings(Settings):
    """Image -> uint8 pixels."""

    size: int | None = Field(None, ge=4, description="pixels per side; null: the first file's shorter one, at most 224")
    channels: Literal[1, 3] | None = Field(None, description="1: grey, 3: RGB; null: as in the first file")


def load_image(path: str, settings: ImageSettings) -> np.ndarray:
    """Reads an image and turns it upright -> (C, H, W) uint8; no setting may be null.

    Errors that Pillow raises on a broken file pass through.
    """
    from PIL import Image, ImageOps

    assert settings.size is not None and settings.channels is not None
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError("has more than 8 bits per channel; convert it to 8 bits first")
        return square(ImageOps.exif_transpose(image), settings.size, settings.channels)


def image_header(path: str) -> tuple[int, int]:
    """Shorter side in pixels and number of channels (1 or 3), without decoding."""
    from PIL import Image

    with Image.open(path) as image:
        return min(image.size), 1 if image.mode in ("1", "L", "LA") else 3


def load_video(path: str, settings: VideoSettings, start: float | None, end: float | None) -> np.ndarray:
    """Divides the clip into parts with equally many frames and reads the middle frame of each -> (F, C, H, W) uint8.

    A first pass reads the timestamps of the clip's frames without decoding, since durations in headers
    are often missing or wrong. A clip with too few frames repeats some. A folder contains a clip's
    frames as images, in the alphabetical order of their names, and takes no `start` or `end`.
    Errors that PyAV or Pillow raise on a broken file pass through.
    """
    import av

    if Path(path).is_dir():
        return _load_frames(Path(path), settings, start, end)
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("holds no video")
        stream = container.streams.video[0]
        times = _frame_times(container, stream, start, end)
        if not times:
            raise ValueError(f"holds no frame from {start or 0:g} s on")
        wanted = [times[middle] for middle in _middles(len(times), settings.frames)]
        _rewind(container, start)
        pixels: list[np.ndarray] = []
        for frame in container.decode(stream):
            while len(pixels) < len(wanted) and frame.time is not None and frame.time >= wanted[len(pixels)] - 1e-4:
                pixels.append(square(frame.to_image(), settings.size, settings.channels))
            if len(pixels) == len(wanted):
                return np.stack(pixels)
    raise ValueError(f"ends before its frame at {wanted[len(pixels)]:.2f} s")


def _load_frames(folder: Path, settings: VideoSettings, start: float | None, end: float | None) -> np.ndarray:
    from PIL import Image

    if start is not None or end is not None:
        raise ValueError("is a folder of frames, which have no timestamps: leave start and end empty")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise ValueError("holds no .jpg or .png frame")
    pixels = []
    for middle in _middles(len(files), settings.frames):
        with Image.open(files[middle]) as image:
            pixels.append(square(image, settings.size, settings.channels))
    return np.stack(pixels)


def square(image: Any, size: int, channels: int) -> np.ndarray:
    """Pillow image -> (C, size, size) uint8: the central square, resized; transparent images are put on white."""
    from PIL import Image, ImageOps

    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):  # the colour under it means nothing
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def to_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """(C, H, W) uint8 -> a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _middles(count: int, parts: int) -> list[int]:
    """Divides `count` items into equal parts and returns the index of the middle item of each."""
    return [int((part + 0.5) * count / parts) for part in range(parts)]


def _frame_times(container: Any, stream: Any, start: float | None, end: float | None) -> list[float]:
    """Timestamps, in seconds and in order, of the frames from `start` to before `end`."""
    _rewind(container, start)
    times = []
    for packet in container.demux(stream):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            continue
        times.append(float(stamp * packet.time_base))
        # Frames are stored in decoding order: one shown before `end` never decodes after it.
        if end is not None and packet.dts is not None and float(packet.dts * packet.time_base) >= end:
            break
    return sorted(time for time in times if (start or 0) <= time and (end is None or time < end))


def _rewind(container: Any, start: float | None) -> None:
    """Seeks to the key frame at or before `start`."""
    import av

    container.seek(int((start or 0) * av.time_base), backward=True)
