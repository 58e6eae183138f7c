"""FFmpeg goes by a file's content: nothing that names other files is opened as media, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import av
import media_files
import pytest

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import containers
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.datasets.preparing import decoding
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Row

CONFIG = PrepareConfig(
    audio=AudioSettings(sample_rate=8000, seconds=0.5, n_fft=256, hop=100), video=VideoSettings(frames=2, size=16)
)
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{name}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile {name}\n",
    "hls": HLS,
    "hls of an address": HLS.replace("{name}", "http://127.0.0.1:9/{name}"),
    "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period/></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    "pls": "[playlist]\nFile1={name}\n",
    "asx": "<ASX version='3'><entry><ref href='{name}'/></entry></ASX>",
}


@pytest.mark.parametrize("suffix", [".wav", ".mp4", ".m3u8"])
@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("which", PLAYLISTS)
def test_a_playlist_is_no_medium(tmp_path: Path, which: str, kind: Kind, suffix: str) -> None:
    secret = media_files.wav(tmp_path / "secret.wav") if kind == "audio" else media_files.video(tmp_path / "secret.mp4")
    file = tmp_path / f"list{suffix}"
    file.write_text(PLAYLISTS[which].replace("{name}", secret.name))
    with pytest.raises(decoding.BrokenMedia) as raised:
        decoding.decode(Row("a", 0, {"x": str(file)}), "x", kind, CONFIG)
    assert "playlist" in raised.value.reason or "XML document" in raised.value.reason
    with pytest.raises((av.FFmpegError, ValueError)):
        containers.opened(str(file))


def test_without_the_list_of_formats_it_would_be_opened(tmp_path: Path) -> None:
    media_files.wav(tmp_path / "secret.wav")
    (tmp_path / "list.wav").write_text(PLAYLISTS["concat"].replace("{name}", "secret.wav"))
    with av.open(str(tmp_path / "list.wav")) as container:
        assert container.format.name == "concat"
        assert next(container.decode(audio=0)).samples


def test_every_format_of_the_list_is_one_of_ffmpegs() -> None:
    known = {name for format_ in av.formats_available for name in format_.split(",")}
    assert {"concat", "hls", "sdp", "image2"} & known
    assert not {"concat", "hls", "dash", "sdp", "rtsp", "image2", "imf"} & set(containers.SELF_CONTAINED.split(","))


def test_postscript_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(decoding.BrokenMedia) as raised:
        decoding.decode(Row("a", 0, {"x": str(tmp_path / "a.png")}), "x", "image", CONFIG.model_copy(
            update={"image": CONFIG.image.model_copy(update={"size": 8, "channels": 1})}))  # fmt: skip
    assert raised.value.reason == "is PostScript, a program, not a picture"
