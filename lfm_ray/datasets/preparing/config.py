"""TODO"""

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
        description="modality -> how the shards hold it. tensor: as models see it, the fastest and the default;"
        " waveform: 16-bit sound, of which the spectrogram is computed at every reading; jpeg: compressed images or"
        " frames, unpacked at every reading",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="of images and frames that are stored as jpeg")
    noise: dict[str, float] = Field(
        {},
        description="modality -> Gaussian noise in units of each sample's own standard deviation;"
        " makes a task harder, the same for every reader of the shards",
    )
    limit: dict[str, int] = Field({}, description="split -> number of rows kept, drawn at random by the seed")
    seed: int = Field(0, ge=0, lt=2**31, description="decides noise, limit, and the split where the manifest has none")
