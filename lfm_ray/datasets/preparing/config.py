"""The settings of `lfm_ray.prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import Field, model_validator

from lfm_ray.datasets.kinds import Kind, Storage
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.media.features import FeatureSettings
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.media.text import TextSettings
from lfm_ray.datasets.media.video import VideoSettings
from lfm_ray.errors import UserError
from lfm_ray.settings import Settings, build


class PrepareConfig(Settings):
    """How raw media become shards.

    The section of a kind holds for all its columns. What differs for one is written with its name, as in
    `image.depth.channels=1`, and kept in `columns`.
    """

    audio: AudioSettings = AudioSettings()
    image: ImageSettings = ImageSettings()
    video: VideoSettings = VideoSettings()
    text: TextSettings = TextSettings()
    feature: FeatureSettings = FeatureSettings()
    columns: dict[Kind, dict[str, dict[str, Any]]] = Field({}, description="kind -> column -> settings of its own")
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

    @model_validator(mode="before")
    @classmethod
    def _move_columns(cls, values: Any) -> Any:
        """Mappings within a section are settings of single columns."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        columns = {kind: dict(own) for kind, own in (values.get("columns") or {}).items()}
        for kind in get_args(Kind):
            section = values.get(kind)
            if not isinstance(section, Mapping):
                continue
            own = {name: value for name, value in section.items() if isinstance(value, Mapping)}
            if own:
                values[kind] = {name: value for name, value in section.items() if name not in own}
                columns[kind] = columns.get(kind, {}) | own
        return values | {"columns": columns} if columns else values

    def of(self, name: str, kind: Kind) -> Any:
        """The settings of a column: those of its kind, and its own.

        Raises:
            UserError: its own ones are wrong.
        """
        section, own = getattr(self, kind), self.columns.get(kind, {}).get(name)
        if not own:
            return section
        try:
            return build(type(section), {**section.model_dump(), **own})
        except UserError as error:
            raise UserError(f"{kind}.{name}.{error}") from None
