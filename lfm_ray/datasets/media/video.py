"""Video file, or folder of frames -> uint8 pixels."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lfm_ray.datasets.media import containers
from lfm_ray.datasets.media.pictures import SCALE, eight_bits, load_picture, square
from lfm_ray.datasets.media.whole import check_whole
from lfm_ray.settings import Settings

FRAMES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class VideoSettings(Settings):
    """Video -> uint8 frames."""

    frames: int = Field(
        10,
        ge=1,
        description="frames per clip in the shards: the one in the middle of each of so many parts of equal length; see"
        " data.frames",
    )
    size: int = Field(224, ge=4, description="pixels per side")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB")
    scale: float | None = SCALE


def load_video(path: str, settings: VideoSettings, start: float | None, end: float | None) -> np.ndarray:
    """Divides the clip into parts of equal length and reads what is shown in the middle of each -> (F, C, H, W) uint8.

    start, end: seconds from the container's start. A clip with too few frames repeats some. Frames are
    turned upright. A folder contains a clip's frames as pictures, in the order of the numbers in their names,
    and takes no `start` or `end`. Errors that PyAV or Pillow raise on a broken file pass through.

    Raises:
        ValueError: there is no such clip, or the file is cut short.
    """
    if Path(path).is_dir():
        return _load_frames(Path(path), settings, start, end)
    check_whole(path)
    first = start or 0.0
    times, until = containers.frame_times(path, first, end)
    if not times:
        raise ValueError(f"holds no frame from {first:g} s on")
    moments = [first + middle * (until - first) for middle in middles(settings.frames)]
    wanted = [times[number] for number in shown(times, moments)]
    pixels: list[np.ndarray] = []
    container, _ = containers.opened_at(path, first)
    with container:
        stream, origin = containers.video(container), containers.start_of(container)
        order = iter(containers.frame_times(path, 0.0, None)[0]) if container.format.name == "avi" else None
        for frame in container.decode(stream):
            time = frame.time if order is None else next(order, None)
            if time is None:
                continue
            time -= origin if order is None else 0.0
            while len(pixels) < len(wanted) and time >= wanted[len(pixels)] - 1e-4:
                image = _image(frame, settings.scale)
                upright = image.rotate(frame.rotation, expand=True) if frame.rotation else image
                pixels.append(square(upright, settings.size, settings.channels))
            if len(pixels) == len(wanted):
                return np.stack(pixels)
    raise ValueError(f"ends before its frame at {wanted[len(pixels)]:.2f} s")


def _image(frame: Any, scale: float | None) -> Any:
    """A decoded frame as a picture of 8 bits; grey of more bits, such as depth, needs a scale, as stills do."""
    if frame.format.name.startswith("gray") and frame.format.components[0].bits > 8:
        return eight_bits(frame.to_ndarray(), scale)
    return frame.to_image()


def middles(parts: int) -> list[float]:
    """The middles of so many equal parts of the unit interval."""
    return [(part + 0.5) / parts for part in range(parts)]


def shown(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """Which frame is shown at each moment: the last that begins before it, or the first."""
    return [max(0, bisect.bisect_right(times, moment + containers.ROUNDED) - 1) for moment in moments]


def _load_frames(folder: Path, settings: VideoSettings, start: float | None, end: float | None) -> np.ndarray:
    if start is not None or end is not None:
        raise ValueError("is a folder of frames, which have no timestamps: leave start and end empty")
    found = (file for file in folder.iterdir() if file.suffix.lower() in FRAMES and not file.name.startswith("."))
    files = sorted(found, key=natural)
    if not files:
        raise ValueError(f"holds no frame ({', '.join(FRAMES)})")
    pixels = []
    for middle in middles(settings.frames):
        file = files[int(middle * len(files))]
        if not file.is_file():
            raise ValueError(f"its frame {file.name} is not a file, or a link to one that is gone")
        try:
            pixels.append(load_picture(str(file), settings.size, settings.channels, settings.scale))
        except ValueError as error:
            raise ValueError(f"its frame {file.name} {error}") from None
    return np.stack(pixels)


def natural(file: Path) -> list[tuple[int, int | str]]:
    """Sorts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", file.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]
