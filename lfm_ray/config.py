"""Every setting of lfm_ray, typed, with its unit, bounds and default.

`RunConfig` describes one training run; `PrepareConfig` describes how raw media become shards. A
search space (`lfm_ray/search/space.py`) is a run whose settings are partly distributions.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lfm_ray.schedules import Alpha, Constant, Learned
from lfm_ray.settings import Settings

Kind = Literal["audio", "image", "video", "text", "feature"]
Storage = Literal["tensor", "waveform", "jpeg"]


class AugmentationSettings(Settings):
    """Random changes of training samples, a function of seed, epoch and sample; evaluation has none of them."""

    smallest_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="smallest share of its area that a random crop keeps of an image or of a clip's frames, resized to"
        " the whole; 0.08 is usual for photographs; 1: no crop",
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability that images or frames are mirrored left to right")
    random_frames: bool = Field(False, description="a random frame of each equal part of a clip, not the middle one")
    time_mask: float = Field(0.0, ge=0, lt=1, description="SpecAugment: longest share of the time that is masked")
    frequency_mask: float = Field(0.0, ge=0, lt=1, description="SpecAugment: largest share of the frequencies")


class DataSettings(Settings):
    """Which shards are read, and how."""

    path: str = Field("shards/demo", description="folder written by lfm_ray.prepare")
    modalities: list[str] | None = Field(None, description="which modalities to use; null: all of them")
    batch_size: int = Field(64, ge=2, description="samples a step, over all workers together")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="samples that pass the encoders at once on a worker, so that a large batch fits into memory; the"
        " gradient is that of the whole batch, for one more pass forward; null: the whole batch",
    )
    frames: int = Field(3, ge=1, description="frames of a clip that the model receives, of those in the shards")
    augmentation: AugmentationSettings = AugmentationSettings()
    memory_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="a dataset under this share of the object store is held there, once for all trials of a node; a"
        " larger one is read from its memory-mapped files batch by batch",
    )
    reader_cpus: int = Field(
        0,
        ge=0,
        description="CPUs beside a worker's own on which Ray Data reads, unpacks and augments for it, anywhere in the"
        " cluster; 0: each worker does it on its own CPUs",
    )


class ModelSettings(Settings):
    """The encoders and the fusion head."""

    encoder: Literal["small"] = Field(
        "small", description="small: a CNN for spectrograms, images and video, a GRU for text"
    )
    width: int = Field(16, ge=1, description="channels of the first block of a small encoder")
    embedding_size: int = Field(64, ge=1, description="d, the size of a modality's embedding")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embeddings")
    projection_size: int | None = Field(
        None,
        ge=1,
        description="size of a projection head, whose outputs InfoNCE matches; null: none",
    )
    fusion: Literal["sum", "concat"] = Field("sum", description="how modalities are fused")


class LossSettings(Settings):
    """The classification loss L_CLS and the modality-matching loss L_MM."""

    matching: Literal["infonce", "js"] = Field("infonce", description="infonce: the paper; js: the official code")
    tau: float = Field(0.2, gt=0, le=10, description="temperature of InfoNCE; js has none")
    learn_tau: bool = Field(False, description="tau is learned with theta, from the given value, within 0.01 ... 10")
    uniform_labels: float = Field(
        0.0, ge=0, le=1, description="u: targets are (1 - u) one-hot + u uniform (paper, Figure 1)"
    )


class OptimizerSettings(Settings):
    """How theta is updated."""

    name: Literal["sgd", "adamw"] = Field("adamw", description="the optimiser of theta")
    learning_rate: float = Field(3e-3, gt=0, le=10, description="the highest learning rate of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; adamw has its own")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="weight decay")
    schedule: Literal["one_cycle", "cosine", "step", "constant"] = Field(
        "one_cycle", description="learning rate over the run; step divides it by ten at 35 % and 70 % of the epochs"
    )
    gradient_clip: float | None = Field(5.0, gt=0, description="highest norm of the gradient; null: not clipped")


class RunConfig(Settings):
    """One training run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    method: Literal["lfm", "official", "unimodal"] = Field(
        "lfm", description="training method, a file of lfm_ray/methods"
    )
    alpha: Alpha = Constant()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    epochs: int = Field(20, ge=1, description="T, passes over the training split")
    seed: int = Field(0, ge=0, lt=2**31, description="decides initial weights, order of samples, dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU")

    @field_validator("alpha", mode="before")
    @classmethod
    def _constant_unless_said(cls, value: Any) -> Any:
        return {"strategy": "constant", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _products_need_the_whole_batch(self) -> Self:
        if self.data.micro_batch_size and isinstance(self.alpha, Learned) and self.alpha.solver != "identity":
            raise ValueError(
                f"data.micro_batch_size works with alpha.solver identity only: {self.alpha.solver} needs the graph of"
                " the whole batch"
            )
        return self


class AudioSettings(Settings):
    """Waveform -> log spectrogram (paper section 4.1; see `lfm_ray.datasets.audio.log_spectrogram`)."""

    sample_rate: int | None = Field(None, ge=1000, description="Hz; null: the first file's, at most 16000")
    seconds: float | None = Field(None, gt=0, description="s; null: the longest training clip, at most 10")
    padding: Literal["zeros", "repeat"] = Field("zeros", description="how a short clip is filled up")
    n_fft: int = Field(512, ge=16, description="samples in a window of the Fourier transform")
    hop: int = Field(159, ge=1, description="samples between two windows; 159 gives the paper's sizes at 16 kHz")
    n_mels: int | None = Field(None, ge=1, description="mel bands; null: the n_fft / 2 + 1 linear frequencies")


class ImageSettings(Settings):
    """Image -> uint8 pixels."""

    size: int | None = Field(None, ge=4, description="pixels a side; null: the first file's shorter side, at most 224")
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB; null: as the first file")


class VideoSettings(Settings):
    """Video -> uint8 frames."""

    frames: int = Field(
        10,
        ge=1,
        description="frames a clip in the shards, at the middles of equal parts of it; see data.frames",
    )
    size: int = Field(224, ge=4, description="pixels a side")
    channels: Literal[1, 3] = Field(3, description="1 grey, 3 RGB")


class TextSettings(Settings):
    """Text -> tokens."""

    length: int = Field(128, ge=1, description="tokens; longer texts are cut, shorter ones padded")
    tokenizer: str | None = Field(
        None,
        description="a folder with a tokenizer of transformers, or a name on its hub; null: UTF-8 bytes, 1 to 256,"
        " padded with 0, which need no vocabulary",
    )


class FeatureSettings(Settings):
    """Features that were extracted before: a .npy file of numbers for each sample."""

    shape: list[int] | None = Field(None, description="of one sample; null: as the first training file")


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
