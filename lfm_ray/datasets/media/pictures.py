"""Image file -> uint8 pixels."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lfm_ray.datasets.media.deep_pictures import deep_values, is_deep, is_grey, oriented
from lfm_ray.settings import Settings

SCALE: Any = Field(
    None,
    gt=0,
    description="of pictures with more than 8 bits: what their values are multiplied by, before they are clipped to"
    " 0..255, such as 0.032 for depth in mm up to 8 m; null: they are refused",
)

MOST_PIXELS = 90_000_000  # of a picture that is read: about 1.3 GB while it is decoded


class ImageSettings(Settings):
    """Image -> uint8 pixels."""

    size: int | None = Field(
        None, ge=4, description="pixels per side; null: the shorter one of most files, at most 224"
    )
    channels: Literal[1, 3] | None = Field(None, description="1: grey, 3: RGB; null: as in most files")
    scale: float | None = SCALE


def load_image(path: str, settings: ImageSettings) -> np.ndarray:
    """Reads an image and turns it upright -> (C, H, W) uint8; no setting may be null.

    Errors that Pillow raises on a broken file pass through.
    """
    assert settings.size is not None and settings.channels is not None
    return load_picture(path, settings.size, settings.channels, settings.scale)


def load_picture(path: str, size: int, channels: int, scale: float | None) -> np.ndarray:
    """`load_image` with its settings one by one.

    Raises:
        ValueError: the picture has more than 8 bits per channel, and there is no `scale`.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.format == "EPS":  # Pillow would have another program run what it holds
            raise ValueError("is PostScript, a program, not a picture")
        if image.width * image.height > MOST_PIXELS:  # or one row could take gigabytes in each process
            raise ValueError(
                f"has {image.width} x {image.height} pixels, more than the {MOST_PIXELS:,}; make it smaller"
            )
        if is_deep(image, path):
            upright = oriented(eight_bits(deep_values(image, path), scale), image)
        else:
            upright = ImageOps.exif_transpose(image)
        return square(upright, size, channels)


def eight_bits(values: np.ndarray, scale: float | None) -> Any:
    """Values of more than 8 bits, such as depth in mm -> a Pillow image of 8 bits, by `scale`.

    values: (H, W), or (H, W, 3 or 4) of colours and opacity, which has 16 bits.

    Raises:
        ValueError: there is no scale, or a value is not a finite number.
    """
    from PIL import Image

    if scale is None:
        raise ValueError("has more than 8 bits per channel; set scale (docs/data.md), or convert it to 8 bits")
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite numbers")
    scaled = values.astype(np.float64) * scale
    if values.ndim == 3:
        scaled[..., 3:] = values[..., 3:] / 257
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def image_header(path: str) -> tuple[int, int]:
    """Shorter side in pixels and number of channels (1 or 3), without decoding."""
    from PIL import Image

    with Image.open(path) as image:
        return min(image.size), 1 if is_grey(image) else 3


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
