"""The multimodal classifier: one encoder per modality, joined by a fusion head."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator
from torch import Tensor, nn

from lfm_ray.datasets.columns import presence
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders import ENCODERS, EncoderSettings, build_encoder, check_encoder
from lfm_ray.models.fusion import FUSION_HEADS, Head, Logits, Present, check_head
from lfm_ray.own_parts import called, returned
from lfm_ray.settings import Settings, nearest


def _settings_of_its_class(value: Any, info: ValidationInfo) -> Any:
    """The settings of one encoder from its name, or from a mapping; an encoder may have settings of its own."""
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        return value
    name = value.get("name") or info.data.get("encoder")
    try:
        own = ENCODERS[name].settings_class if isinstance(name, str) and name in ENCODERS else EncoderSettings
    except ValueError:  # it cannot be imported: the check of `name` says so, with its place
        own = EncoderSettings
    return own.model_validate(value)


class ModelSettings(Settings):
    """The encoders and the fusion head."""

    encoder: str | None = Field(
        None,
        description="of every modality that `encoders` leaves open; null: ngrams for text, small for all else",
    )
    encoders: dict[str, Annotated[SerializeAsAny[EncoderSettings], BeforeValidator(_settings_of_its_class)]] = Field(
        {}, description="modality -> its encoder, or only the encoder's name"
    )
    width: int = Field(16, ge=1, description="channels of the first block of a small encoder")
    embedding_size: int = Field(64, ge=1, description="d, the size of a modality's embedding")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embeddings")
    projection_size: int | None = Field(
        None,
        ge=1,
        description="size of the projection heads' outputs, which the alignment loss then compares; null: no heads",
    )
    fusion: str = Field(
        "sum",
        validate_default=False,
        description="how modalities are fused: sum, weight, concat, multitask, cosine, shared, boosted, affine, gated,"
        " channel, ml_lstm (lfm_ray/models/fusion.py)",
    )
    head_init: Literal["default", "xavier"] = Field(
        "default",
        description="linear layers of the fusion: PyTorch's, or xavier normal with biases of 0 (official code)",
    )
    fusion_settings: dict[str, Any] = Field({}, description="settings of a fusion head that has any")

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, name: str | None) -> str | None:
        return name if name is None else ENCODERS.check(name)

    @field_validator("fusion")
    @classmethod
    def _known_head(cls, name: str) -> str:
        return FUSION_HEADS.check(name)

    @field_validator("fusion_settings")
    @classmethod
    def _of_the_head(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if (head := info.data.get("fusion")) is None:
            return value
        return FUSION_HEADS[head].settings_class.model_validate(value).model_dump(mode="json")

    def of(self, modality: str) -> EncoderSettings:
        """The settings of a modality's encoder, with `name`, `dropout` and a small encoder's `width` filled in.

        `name` stays null where it is open, since it is then up to the kind of the modality (`default_encoder`).
        """
        own = self.encoders.get(modality)
        if own is None:
            own = EncoderSettings() if self.encoder is None else ENCODERS[self.encoder].settings_class()
        filled: dict[str, Any] = {"name": own.name or self.encoder}
        filled["dropout"] = self.dropout if own.dropout is None else own.dropout
        if filled["name"] in (None, "small", "ngrams") and own.width is None:
            filled["width"] = self.width
        return own.model_copy(update=filled)


LOWEST_TAU, HIGHEST_TAU = 0.01, 10.0  # bounds of a learned tau: CLIP's, and that of the setting


@dataclass(frozen=True)
class Outputs:
    """The classifier's outputs for B samples.

    fused: (B, C), logits of the fusion; unimodal: modality -> (B, C), logits of that modality alone;
    embeddings: modality -> (B, d), z in section 3.1 of the paper; projections: modality -> (B, p), which
    the alignment loss compares instead of embeddings, empty without projection heads; tau: the learned
    temperature, a scalar, or None; extra: name -> (B, any), added by a method in `Method.forward`; present: modality
    -> (B, 1), 1 where a sample has it, else 0, of the modalities that some rows of the dataset lack. Where a sample
    has none, its unimodal logits and its embedding are zeros, which mean nothing (`rows_with`).
    """

    fused: Tensor
    unimodal: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    projections: dict[str, Tensor] = field(default_factory=dict)
    tau: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)

    def rows_with(self, *modalities: str) -> Tensor | None:
        """(B,) bool: the samples that have all these modalities; None where all have."""
        masks = [self.present[name].bool().squeeze(1) for name in modalities if name in self.present]
        rows = torch.stack(masks).all(dim=0) if masks else None
        return None if rows is None or bool(rows.all()) else rows

    def columns(self) -> Tensor:
        """All outputs with one row per sample, side by side: (B, all columns)."""
        return torch.cat(self._parts(), dim=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Applies a row-wise function to all outputs in one call: (B, all columns) -> (B', all columns)."""
        columns = iter(function(self.columns()).split([part.shape[1] for part in self._parts()], dim=1))
        fused = next(columns)
        unimodal, embeddings, projections, extra, present = (
            {name: next(columns) for name in values} for values in self._named()
        )
        return Outputs(fused, unimodal, embeddings, projections, self.tau, extra, present)

    def each(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Applies a row-wise function to each output separately, so that a loss of one has no graph to the others."""
        named = ({name: function(value) for name, value in values.items()} for values in self._named())
        unimodal, embeddings, projections, extra, present = named
        return Outputs(function(self.fused), unimodal, embeddings, projections, self.tau, extra, present)

    def detach(self) -> Outputs:
        """The same outputs, detached from the graph."""
        return replace(self.each(Tensor.detach), tau=None if self.tau is None else self.tau.detach())

    def _named(self) -> list[dict[str, Tensor]]:
        return [self.unimodal, self.embeddings, self.projections, self.extra, self.present]

    def _parts(self) -> list[Tensor]:
        return [self.fused, *(value for values in self._named() for value in values.values())]

    @staticmethod
    def join(parts: Sequence[Outputs]) -> Outputs:
        """The outputs of several batches as one."""
        rows = torch.cat([part.columns() for part in parts])
        return parts[0].map(lambda _: rows)


class MultimodalClassifier(nn.Module):
    """Encoders, dropout and a fusion head for the given modalities.

    modalities: name -> card with kind, shape, mean and std; inputs are standardised with the card's
    figures, so that preprocessing and weights stay together. projection_size: p of the projection heads
    for the alignment loss (Linear, ReLU, Linear, as in SimCLR), or None. tau: the initial value of a
    learned temperature, or None if it is not learned.

    `autocast`: modality -> the half-precision dtype of its encoder (`lfm_ray.runtime.compute`); the
    embeddings, and everything computed from them, have the dtype of the weights.

    Raises:
        UserError: an encoder or the fusion head does not fit the modalities, or pretrained weights
            cannot be loaded.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalityCard],
        classes: int,
        settings: ModelSettings,
        projection_size: int | None = None,
        tau: float | None = None,
    ) -> None:
        super().__init__()
        size, own = settings.embedding_size, {name: settings.of(name) for name in modalities}
        check_model(settings, modalities)
        self.frozen = [name for name, one in own.items() if one.frozen]
        self.embedding_size, self.classes, self.fusion = size, classes, settings.fusion
        self.encoder_names = {name: one.name for name, one in own.items()}
        self.autocast: dict[str, torch.dtype] = {}
        self.shapes = {name: tuple(card.shape) for name, card in modalities.items()}  # of one sample
        self.encoders = nn.ModuleDict(
            {name: build_encoder(name, card, own[name], size) for name, card in modalities.items()}
        )
        self.dropout = nn.ModuleDict({name: nn.Dropout(one.dropout or 0.0) for name, one in own.items()})
        head = FUSION_HEADS[settings.fusion]
        self.head: Head = called(
            f"fusion head {self.fusion}", head, list(modalities), size, classes, **settings.fusion_settings
        )
        if settings.head_init == "xavier":
            for layer in self.head.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        self.projections = nn.ModuleDict()
        if projection_size:
            for name in modalities:
                layers = nn.Linear(size, size), nn.ReLU(), nn.Linear(size, projection_size)
                self.projections[name] = nn.Sequential(*layers)
        self.log_tau = None if tau is None else nn.Parameter(torch.tensor(math.log(tau)))

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """inputs: modality -> (B, ...) with the shape and dtype of its card; which samples have it: `Batch.inputs`."""
        there = {name: inputs[presence(name)] for name in self.encoders if presence(name) in inputs}
        embeddings = {
            name: self.dropout[name](self._embedding_of_present(name, inputs[name], there.get(name)))
            for name in self.encoders
        }
        present = {name: one[:, None] for name, one in there.items() if not bool(one.all())}
        fused, unimodal = self._fused(embeddings, present)
        projections = {name: project(embeddings[name]) for name, project in self.projections.items()}
        masks = {name: one[:, None].to(fused) for name, one in there.items()}
        return Outputs(fused, unimodal, embeddings, projections, self.tau(), {}, masks)

    def _embedding_of_present(self, name: str, value: Tensor, there: Tensor | None) -> Tensor:
        """(B, d): the encoder sees the samples that have the modality, and no others; theirs are zeros."""
        if there is None or bool(there.all()):
            return self._embedding(name, value)
        rows, encoder = there.nonzero().squeeze(1), self.encoders[name]
        zeros = next(self.parameters()).new_zeros(len(value), self.embedding_size)
        norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        synchronised = self.training and any(isinstance(module, nn.SyncBatchNorm) for module in norms)
        if not len(rows) and not synchronised:  # else the other ranks would wait for this one
            # Every parameter is reached all the same, as DDP waits for its gradient.
            return zeros + 0 * sum(one.sum() for one in encoder.parameters() if one.requires_grad)
        chosen = value[rows]
        if len(rows) == 1 and self.training and norms and not synchronised:
            # BatchNorm may have no more than one number a channel, and refuses; twice the same has its statistics.
            return zeros.index_copy(0, rows, self._embedding(name, chosen.repeat_interleave(2, dim=0))[:1])
        return zeros.index_copy(0, rows, self._embedding(name, chosen))

    def _embedding(self, name: str, value: Tensor) -> Tensor:
        half = self.autocast.get(name)
        with torch.autocast(value.device.type, half or torch.bfloat16, enabled=half is not None):
            embedding = self.encoders[name](value)
        shape = (len(value), self.embedding_size)
        if not is_dense(embedding, shape):
            part = f"encoder {self.encoder_names[name]} (model.encoders.{name})"
            returned(
                part, embedding, False, f"a tensor of shape {shape}, a row for each sample, of floating-point numbers"
            )
        return embedding if half is None else embedding.float()

    def _fused(self, embeddings: Mapping[str, Tensor], present: Present) -> Logits:
        """What the head gives; present: empty where all samples have all modalities."""
        result = self.head(embeddings, present) if present else self.head(embeddings)
        part, shape = f"fusion head {self.fusion}", (len(next(iter(embeddings.values()))), self.classes)
        pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)
        returned(part, result, pair, "fused logits, and a mapping from each modality to its own")
        fused, unimodal = result
        named = set(unimodal) == set(embeddings)
        returned(part, list(unimodal), named, f"logits of each of {', '.join(embeddings)}")
        for logits in (fused, *unimodal.values()):
            returned(part, logits, is_dense(logits, shape), f"logits of shape {shape}, floating-point numbers")
        return fused, {
            name: torch.where(present[name], logits, 0) if name in present else logits
            for name, logits in unimodal.items()
        }

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Inside, the whole model computes in the dtype of the weights."""
        autocast, self.autocast = self.autocast, {}
        try:
            yield
        finally:
            self.autocast = autocast

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; frozen encoders stay in evaluation mode (BatchNorm, dropout)."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self

    def tau(self) -> Tensor | None:
        """The learned temperature, or None."""
        return None if self.log_tau is None else self.log_tau.exp()

    def clamp_tau(self) -> None:
        """Clamps a learned temperature to its bounds."""
        if self.log_tau is not None:
            with torch.no_grad():
                self.log_tau.clamp_(math.log(LOWEST_TAU), math.log(HIGHEST_TAU))


def is_dense(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value is a plain tensor of floating-point numbers, of a shape."""
    return (
        isinstance(value, Tensor)
        and value.shape == shape
        and value.is_floating_point()
        and value.layout == torch.strided
        and not value.is_meta
    )


def modality_of(parameter: str, modalities: Collection[str]) -> str:
    """The modality that a named parameter of the classifier belongs to; empty if several share it.

    A modality's own are its encoder, its projection head, and its part of the fusion head.
    """
    owner, first, second = [*parameter.split("."), "", ""][:3]
    name = second if owner == "head" else first
    return name if name in modalities else ""


def check_model(settings: ModelSettings, modalities: Mapping[str, ModalityCard]) -> None:
    """Checks that the encoders and the fusion head fit the modalities; builds nothing.

    Raises:
        UserError: one does not fit; names the setting.
    """
    for name in settings.encoders:
        if name not in modalities:
            raise UserError(f"model.encoders.{name}: there is no such modality{nearest(name, list(modalities))}")
    for name, card in modalities.items():
        check_encoder(name, card, settings.of(name))
    check_head(settings.fusion, list(modalities))
