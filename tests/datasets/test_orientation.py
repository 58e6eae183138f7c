"""Pictures are upright, frames in natural order, and depth of 16 bits has a way in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from movies import movie, rotated
from PIL import Image

from lfm_ray.datasets.media import pictures, video
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.media.video import VideoSettings

CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom right": (1, 1), "bottom left": (1, 0)}
UPRIGHT = 0x112  # EXIF's tag of the orientation


def brightest(pixels: np.ndarray) -> str:
    """The brightest corner of (C, H, W)."""
    half = pixels.shape[-1] // 2
    means = {
        name: pixels[:, half * down : half * (down + 1), half * right : half * (right + 1)].mean()
        for name, (down, right) in CORNERS.items()
    }
    return max(means, key=lambda name: means[name])


def corner(width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that is bright at the top left."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[: height // 2, : width // 2] = 230
    return pixels


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0, "top left"), (90, "top right"), (180, "bottom right"), (270, "bottom left")]
)
def test_videos_are_turned_as_their_display_matrix_says(tmp_path: Path, degrees: int, expected: str) -> None:
    path = movie(tmp_path / "a.mp4", frames=3, picture=lambda _: corner(), size=(64, 48))
    if degrees:
        path = rotated(path, tmp_path / "b.mp4", degrees)
    assert brightest(video.load_video(str(path), VideoSettings(frames=1, size=16), None, None)[0]) == expected


@pytest.mark.parametrize(
    ("tag", "expected"), [(1, "top left"), (3, "bottom right"), (6, "top right"), (8, "bottom left")]
)
def test_frames_in_a_folder_are_upright_as_stills_are(tmp_path: Path, tag: int, expected: str) -> None:
    exif = Image.Exif()
    exif[UPRIGHT] = tag
    (tmp_path / "clip").mkdir()
    Image.fromarray(corner()).save(tmp_path / "clip" / "0.jpg", exif=exif)
    clip = video.load_video(str(tmp_path / "clip"), VideoSettings(frames=1, size=16), None, None)
    still = pictures.load_image(str(tmp_path / "clip" / "0.jpg"), ImageSettings(size=16, channels=3))
    assert brightest(clip[0]) == brightest(still) == expected
    np.testing.assert_array_equal(clip[0], still)


def test_frames_are_in_natural_order(tmp_path: Path) -> None:
    names = ["f1_2.png", "f2_1.png", "f2_9.png", "f2_10.PNG", "f10_1.png", "f11_1.png"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 4), 10 * number, np.uint8)).save(tmp_path / name, "PNG")
    (tmp_path / "._f1_1.png").write_bytes(b"what macOS leaves beside a file")
    pixels = video.load_video(str(tmp_path), VideoSettings(frames=6, size=4), None, None)
    assert pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


DEPTH = np.linspace(0, 8000, 64).reshape(8, 8)


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint16), ("a.tiff", np.uint16), ("f.tiff", np.float32)])
def test_depth_of_more_than_8_bits_is_scaled(tmp_path: Path, name: str, dtype: type) -> None:
    Image.fromarray(DEPTH.astype(dtype)).save(tmp_path / name)
    path = str(tmp_path / name)
    assert pictures.image_header(path) == (8, 1)
    with pytest.raises(ValueError, match=r"more than 8 bits per channel; set scale"):
        pictures.load_image(path, ImageSettings(size=8, channels=1))
    pixels = pictures.load_image(path, ImageSettings(size=8, channels=1, scale=255 / 8000))
    np.testing.assert_allclose(pixels[0], DEPTH * 255 / 8000, atol=0.6)
    clipped = pictures.load_image(path, ImageSettings(size=8, channels=1, scale=255 / 4000))
    assert (clipped[0, 4:] == 255).all()


def test_frames_of_depth_are_scaled_or_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(DEPTH.astype(np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"its frame 0\.png has more than 8 bits per channel; set scale"):
        video.load_video(str(tmp_path), VideoSettings(frames=2, size=8, channels=1), None, None)
    pixels = video.load_video(str(tmp_path), VideoSettings(frames=2, size=8, channels=1, scale=255 / 8000), None, None)
    np.testing.assert_allclose(pixels[1, 0], DEPTH * 255 / 8000, atol=0.6)


def test_pictures_of_8_bits_are_left_as_they_are_by_a_scale(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 70, np.uint8)).save(tmp_path / "a.png")
    pixels = pictures.load_image(str(tmp_path / "a.png"), ImageSettings(size=4, channels=1, scale=0.03))
    assert (pixels == 70).all()
