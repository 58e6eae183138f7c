"""A file that is cut is refused, whatever its container; what follows the last part is no promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from movies import RATE, chirp, movie
from PIL import Image

from lfm_ray.datasets.media import audio, video
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.datasets.media.whole import check_whole

SOUND = AudioSettings(sample_rate=RATE, seconds=1)
FILMS = {
    "a.ts": {"offset": 1.4},
    "a.mpg": {"codec": "mpeg2video", "sound_codec": "mp2"},
    "a.wmv": {"codec": "msmpeg4v3", "sound_codec": "libmp3lame"},
    "live.mkv": {"muxer": {"live": "1"}},
    "live.webm": {"codec": "libvpx", "sound_codec": "libopus", "muxer": {"live": "1"}},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "start.mp4": {"muxer": {"movflags": "faststart"}},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, how in FILMS.items():
        movie(folder / name, frames=25, sound=chirp(1), **how)  # type: ignore[arg-type]
    for name in ("a.rf64", "a.w64", "a.aiff", "a.au", "a.caf"):
        soundfile.write(folder / name, chirp(1), RATE)
    return folder


@pytest.mark.parametrize("name", [*FILMS, "a.rf64", "a.w64", "a.aiff", "a.au", "a.caf"])
def test_whole_files_are_read_and_cut_ones_refused(films: Path, tmp_path: Path, name: str) -> None:
    whole = (films / name).read_bytes()
    audio.load(str(films / name), SOUND, None, None)
    path = tmp_path / name
    for cut in np.random.default_rng(0).integers(len(whole) // 4, len(whole) - 100, 8):
        path.write_bytes(whole[: cut - (cut % 188 == 0)])  # no harm is seen where a stream ends with one of its parts
        with pytest.raises(ValueError, match="cut short"):
            audio.load(str(path), SOUND, None, None)


@pytest.mark.parametrize("name", ["a.gif", "a.mxf"])
def test_cut_films_that_have_no_size_as_a_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.gif":
        frames = [Image.effect_noise((32, 32), 50 + 10 * number) for number in range(20)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    else:
        movie(path, codec="mpeg2video", size=(64, 64), sound=chirp(2), sound_codec="pcm_s16le", sound_rate=48000)
    whole = path.read_bytes()
    video.load_video(str(path), VideoSettings(frames=2, size=8), None, None)
    for cut in np.random.default_rng(0).integers(len(whole) // 4, len(whole) - 100, 8):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cut short"):
            video.load_video(str(path), VideoSettings(frames=2, size=8), None, None)


def test_sound_in_which_libsndfile_cannot_seek_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", chirp(1), RATE, subtype="GSM610")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    found = audio.load(str(tmp_path / "a.wav"), AudioSettings(sample_rate=RATE, seconds=0.5), 0.25, None)
    np.testing.assert_allclose(found, expected[RATE // 4 :][: RATE // 2], atol=1e-3)


@pytest.mark.parametrize("name", ["live.mkv", "live.webm", "a.ts", "fragments.mp4"])
def test_the_length_of_a_live_stream_is_measured(films: Path, name: str) -> None:
    assert audio.header(str(films / name))[1] == pytest.approx(1.0, abs=0.1)


def test_a_flac_from_a_pipe_has_the_length_of_its_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", chirp(1), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # 36 bits of the number of samples: unknown
    (tmp_path / "a.flac").write_bytes(content)
    assert audio.header(str(tmp_path / "a.flac"))[1] == pytest.approx(1.0, abs=0.1)
    loaded = audio.load(str(tmp_path / "a.flac"), SOUND, 0.25, None)
    np.testing.assert_allclose(loaded[: RATE // 2], chirp(1)[RATE // 4 :][: RATE // 2], atol=1e-3)


def test_what_follows_the_last_part_is_no_promise(films: Path, tmp_path: Path) -> None:
    for name in ("start.mp4", "a.mpg", "a.wmv"):
        (tmp_path / name).write_bytes((films / name).read_bytes() + b"\0" * 1000)
        check_whole(tmp_path / name)


@pytest.mark.parametrize("length", range(4, 14))
def test_a_gif_that_ends_in_its_header_is_cut(length: int, tmp_path: Path) -> None:
    (tmp_path / "cut.gif").write_bytes(b"GIF89a\1\0\1\0\x80\0\0"[:length])
    with pytest.raises(ValueError, match="an end of its last picture"):
        check_whole(str(tmp_path / "cut.gif"))
