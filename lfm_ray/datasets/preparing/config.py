"""The settings of `lfm_ray.prepare`."""

from __future__ import annotations

from pydantic import Field

from lfm_ray.datasets.kinds import Storage
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.features import FeatureSettings
from lfm_ray.datasets.media.pictures import ImageSettings, VideoSettings
from lfm_ray.datasets.media.text import TextSettings
from lfm_ray.settings import Settings


class PrepareConfig(Settings):
    """How raw media become shards."""

    audio: AudioSettings = AudioSettings()
    image: ImageSettings = ImageSettings()
    video: VideoSettings = VideoSettings()
    text: TextSettings = TextSettings()
    feature: FeatureSettings = FeatureSettings()
    storage: dict[str, Storage] = Field(
        {},
        description="modality -> how the shards store it. tensor: as models see it, the fastest and the default;"
        " waveform: 16-bit sound, whose spectrogram is computed on every read; jpeg: compressed images or frames,"
        " decoded on every read",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of images and frames stored as jpeg")
    noise: dict[str, float] = Field(
        {},
        description="modality -> Gaussian noise in units of each sample's own standard deviation, which makes the task"
        " harder; it is stored in the shards, so every run sees the same",
    )
    limit: dict[str, int] = Field({}, description="split -> number of rows to keep, drawn at random with the seed")
    seed: int = Field(0, ge=0, lt=2**31, description="of the noise, the limit, and the split if the manifest has none")
