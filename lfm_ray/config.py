"""Every setting of lfm_ray, typed, with its unit, bounds and default.

`RunConfig` describes one training run; `PrepareConfig` describes how raw media become shards. A
search space (`lfm_ray/search/space.py`) is a run whose settings are partly distributions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from lfm_ray.schedules import Adaptive, Alpha, Constant, Learned
from lfm_ray.settings import Settings, nearest

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

    path: str = Field("shards/demo", description="folder written by lfm_ray.prepare, or its s3:// or gs://")
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


class EncoderSettings(Settings):
    """The encoder of one modality. What is null is taken from the section `model`, or is as published."""

    name: str | None = Field(
        None,
        validate_default=False,
        description="small: a CNN for spectrograms, images and video, a GRU for text, two layers for features;"
        " resnet18, resnet50; bert; clip_image, clip_text (lfm_ray/models/encoders); null: model.encoder",
    )
    pretrained: str | None = Field(
        None, description="a folder written by save_pretrained, or a name on the Hugging Face hub; null: random weights"
    )
    frozen: bool = Field(False, description="only the layer that makes the embedding is trained")
    learning_rate_factor: float = Field(
        1.0, gt=0, le=1000, description="times optimizer.learning_rate, at every step, for this encoder"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout on the embedding; null: model.dropout")
    width: int | None = Field(
        None,
        ge=1,
        description="channels of the first block of a CNN, size of a transformer's states; null: model.width for"
        " small, else as published",
    )
    layers: int | None = Field(None, ge=1, description="layers of a transformer; null: as published")

    @field_validator("name")
    @classmethod
    def _known_encoder(cls, name: str | None) -> str | None:
        from lfm_ray.models.encoders import ENCODERS  # it imports this file

        return name if name is None else _one_of(name, ENCODERS)

    @model_validator(mode="after")
    def _settings_that_have_an_effect(self) -> Self:
        if self.frozen and self.learning_rate_factor != 1:
            raise ValueError("a frozen encoder has no learning rate; leave out learning_rate_factor")
        if self.pretrained and (self.width or self.layers):
            raise ValueError("a pretrained encoder has its own width and layers; leave them out")
        return self


class ModelSettings(Settings):
    """The encoders and the fusion head."""

    encoder: str = Field("small", validate_default=False, description="of every modality that `encoders` leaves open")
    encoders: dict[str, EncoderSettings] = Field({}, description="modality -> its encoder, or only the encoder's name")
    width: int = Field(16, ge=1, description="channels of the first block of a small encoder")
    embedding_size: int = Field(64, ge=1, description="d, the size of a modality's embedding")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embeddings")
    projection_size: int | None = Field(
        None,
        ge=1,
        description="size of a projection head, whose outputs InfoNCE matches; null: none",
    )
    fusion: str = Field(
        "sum",
        validate_default=False,
        description="how modalities are fused: sum, weight, concat, multitask, shared, affine, gated, channel,"
        " ml_lstm (lfm_ray/models/fusion.py)",
    )

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, name: str) -> str:
        from lfm_ray.models.encoders import ENCODERS

        return _one_of(name, ENCODERS)

    @field_validator("fusion")
    @classmethod
    def _known_head(cls, name: str) -> str:
        from lfm_ray.models.fusion import FUSION_HEADS

        return _one_of(name, FUSION_HEADS)

    @field_validator("encoders", mode="before")
    @classmethod
    def _a_name_will_do(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: {"name": one} if isinstance(one, str) else one for key, one in value.items()}

    def of(self, modality: str) -> EncoderSettings:
        """The settings of a modality's encoder, with `name`, `dropout` and a small encoder's `width` filled in."""
        own = self.encoders.get(modality, EncoderSettings())
        filled: dict[str, Any] = {"name": own.name or self.encoder}
        filled["dropout"] = self.dropout if own.dropout is None else own.dropout
        if filled["name"] == "small" and own.width is None:
            filled["width"] = self.width
        return own.model_copy(update=filled)


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

    name: Literal["sgd", "adam", "adamw"] = Field(
        "adamw",
        description="the optimiser of theta; adam adds the weight decay to the gradient, adamw takes it off theta",
    )
    learning_rate: float = Field(3e-3, gt=0, le=10, description="the highest learning rate of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; the others have their own")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="weight decay")
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant", "table"] = Field(
        "one_cycle",
        description="learning rate over the run; step divides it by ten at 35 % and 70 % of the epochs, plateau where"
        " the training loss no longer falls; table takes it from `table`",
    )
    patience: int = Field(
        5,
        ge=0,
        description="of plateau: so many epochs in a row may pass whose mean training loss, L_Total, is not 0.01 %"
        " below the lowest before; one more divides the learning rate by ten",
    )
    table: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, min_length=1, description="factors of learning_rate over equal shares of the steps, first to last"
    )
    gradient_clip: float | None = Field(5.0, gt=0, description="highest norm of the gradient; null: not clipped")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="an exponential moving average of the weights, with this share of the old one at every step, is"
        " evaluated and saved beside them; null: none",
    )

    @model_validator(mode="after")
    def _a_table_where_it_is_read(self) -> Self:
        if (self.schedule == "table") != (self.table is not None):
            raise ValueError("schedule: table and a list `table` go together")
        return self


class ComputeSettings(Settings):
    """How the numbers are computed: speed and memory, with the same results up to rounding.

    Gradients are not accumulated over several batches: InfoNCE would have the negatives of each alone.
    `data.batch_size` is what theta is updated by, and `data.micro_batch_size` what is in memory at
    once; the negatives are those of the whole batch, on however many workers.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the encoders, by autocast; weights, heads and losses stay in float32. auto: bf16 for other"
        " than small encoders on hardware that computes in it (GPU, AVX512_BF16, AMX), and rightly, else fp32. fp16:"
        " with scaled gradients, on a GPU",
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="of convolutions; auto: channels_last, but contiguous where a CPU has no right gradient of it",
    )
    compile: bool = Field(False, description="the encoders are compiled (torch.compile); gained nothing on a CPU")


class CheckpointSettings(Settings):
    """How often the state is saved from which a run goes on after a kill, and what is kept beside it."""

    hours_between_failures: float = Field(
        6.0,
        ge=0,
        description="mean time between two kills, which decides how often the state is saved; 0: after every epoch",
    )
    keep_every: int | None = Field(
        None,
        ge=1,
        description="epochs between two that the model is kept of, for good, beside the first and the last: to see what"
        " it looked at (lfm_ray.report --gradcam); null: none",
    )

    def is_due(self, elapsed: float, cost: float) -> bool:
        """Whether the state is to be saved again, `elapsed` seconds after a save that took `cost` seconds.

        Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
        the ACM 17(9), 1974: the square root of twice the cost times the mean time between failures. For a cost of
        15 ms and 6 hours that is 25 s, so 0.06 % of the time; for 10 s it is 11 minutes, 1.5 %.
        """
        return elapsed >= math.sqrt(2 * cost * 3600 * self.hours_between_failures)

    def keeps(self, epoch: int, epochs: int) -> bool:
        """Whether the model after `epoch` of so many is kept."""
        return self.keep_every is not None and (epoch in (1, epochs) or epoch % self.keep_every == 0)


class MethodSettings(Settings):
    """The training method: its name, and the settings that stand in its own file of lfm_ray/methods."""

    name: str

    @classmethod
    def kinds(cls) -> Mapping[str, type[Settings]]:
        """The methods by their names."""
        from lfm_ray.methods import METHODS  # it imports this file

        return METHODS

    def check(self, run: RunConfig) -> None:
        """Refuses other settings of the run that the method cannot do with.

        Raises:
            ValueError: names the setting.
        """


class RunConfig(Settings):
    """One training run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    method: SerializeAsAny[MethodSettings] = Field(
        MethodSettings(name="lfm"),
        description="training method, a file of lfm_ray/methods: its name, or its name and its own settings",
    )
    alpha: Alpha = Constant()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: ComputeSettings = ComputeSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    epochs: int = Field(20, ge=1, description="T, passes over the training split")
    seed: int = Field(0, ge=0, lt=2**31, description="decides initial weights, order of samples, dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU")

    @model_validator(mode="before")
    @classmethod
    def _the_head_that_the_method_needs(cls, values: Any) -> Any:
        from lfm_ray.methods import head_of

        if isinstance(values, dict) and isinstance(model := values.get("model", {}), dict) and "fusion" not in model:
            head = head_of(values.get("method"))
            return {**values, "model": {**model, "fusion": head}} if head else values
        return values

    @field_validator("method", mode="before")
    @classmethod
    def _of_its_class(cls, value: Any) -> Any:
        from lfm_ray.methods import CHOICE

        if isinstance(value, str) or type(value) is MethodSettings:
            value = {"name": getattr(value, "name", value)}
        return CHOICE.validate_python({"name": "lfm", **value}) if isinstance(value, dict) else value

    @field_validator("alpha", mode="before")
    @classmethod
    def _constant_unless_said(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"strategy": value}
        return {"strategy": "constant", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _what_the_method_can_do(self) -> Self:
        self.method.check(self)
        return self

    @model_validator(mode="after")
    def _products_need_the_whole_batch(self) -> Self:
        if self.data.micro_batch_size and isinstance(self.alpha, Learned) and self.alpha.solver != "identity":
            raise ValueError(
                f"data.micro_batch_size works with alpha.solver identity only: {self.alpha.solver} needs the graph of"
                " the whole batch"
            )
        return self

    @model_validator(mode="after")
    def _products_need_what_is_not_compiled(self) -> Self:
        if self.compute.compile and self.learns_alpha and not self.looks_ahead:
            raise ValueError(
                "compute.compile works with alpha.solver identity only: a compiled encoder has no second derivative"
            )
        return self

    @property
    def learns_alpha(self) -> bool:
        """Whether alpha is updated by a gradient."""
        return isinstance(self.alpha, Adaptive)

    @property
    def fits_validation(self) -> bool:
        """Whether alpha is fitted to the validation split, on which the run cannot be measured then."""
        return isinstance(self.alpha, Learned) and self.alpha.outer == "val"

    @property
    def looks_ahead(self) -> bool:
        """Whether the hyper-gradient is that of the identity solver, which takes no second derivative."""
        return isinstance(self.alpha, Learned) and self.alpha.solver == "identity"


def _one_of(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if name not in names:
        similar = nearest(name, names)
        raise ValueError(f"must be one of {', '.join(names)}{similar if 'did you mean' in similar else ''}")
    return name


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
