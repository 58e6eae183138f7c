"""Sequences of features (T, d) -> (B, d'): words of MOSEI, frames of wav2vec 2.0, tokens of a frozen model.

Where sequences differ in length, the steps that a sample has not are NaN in the shards (`feature.length`), and are
neither read nor counted.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.inputs import standardised


class SequenceSettings(EncoderSettings):
    """Settings of `sequence`."""

    pooling: Literal["mean", "attention", "transformer"] = Field(
        "attention",
        description="how steps become one vector: mean; attention, a mean weighted by what a trained layer thinks of"
        " each step; transformer, the mean of its states",
    )
    heads: int = Field(4, ge=1, description="attention heads of the transformer")

    @model_validator(mode="after")
    def _layers_of_something(self) -> Self:
        if self.layers and self.pooling != "transformer":
            raise ValueError("layers are those of pooling: transformer")
        if self.pooling == "transformer" and (self.width or 64) % self.heads:
            raise ValueError(f"width {self.width or 64} is not a multiple of {self.heads} heads")
        return self


class SequenceEncoder(nn.Module):
    """Steps (B, T, d) -> Linear, ReLU (B, T, width) -> one vector -> Linear -> (B, d').

    Each of the d entries is standardised with its own figures. `width` is 64 unless it is set. A sequence without
    any step is taken for one step of the mean.

    Raises:
        UserError: the features are no sequences.
    """

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        own = settings if isinstance(settings, SequenceSettings) else SequenceSettings()
        width, self.pooling = settings.width or 64, own.pooling
        std = torch.tensor(card.stds or [card.std])
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(card.means or [card.mean]), persistent=False)
        self.register_buffer("std", torch.where(std > 1e-6 * std.max(), std, 1.0), persistent=False)
        self.hidden = nn.Linear(card.shape[-1], width)
        if self.pooling == "attention":
            self.weigh = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        if self.pooling == "transformer":
            layer = nn.TransformerEncoderLayer(width, own.heads, 4 * width, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(
                layer, settings.layers or 2, nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.register_buffer("positions", positions(card.shape[0], width), persistent=False)
        self.project = nn.Linear(width, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, T, d) of any real dtype; steps with NaN are missing."""
        dtype = self.project.weight.dtype
        present = ~value.isnan().any(dim=2)
        present = torch.cat([present[:, :1] | ~present.any(dim=1, keepdim=True), present[:, 1:]], dim=1)
        value = standardised(value, self.mean.to(dtype), self.std.to(dtype), dtype).nan_to_num(0.0)
        states = self.hidden(value).relu()
        if self.pooling == "attention":
            scores = self.weigh(states).squeeze(2).masked_fill(~present, -torch.inf)
            return self.project((scores.softmax(dim=1).unsqueeze(2) * states).sum(dim=1))
        if self.pooling == "transformer":
            states = states + self.positions.to(dtype)
            states = self.layers(states, src_key_padding_mask=~present)
        states = torch.where(present.unsqueeze(2), states, 0.0)
        return self.project(states.sum(dim=1) / present.sum(dim=1, keepdim=True))


def positions(steps: int, width: int) -> Tensor:
    """(T, width): sines and cosines of the step, as in "Attention is all you need" (Vaswani et al., NeurIPS 2017)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def check(card: ModalityCard, settings: EncoderSettings) -> None:
    """Checks that features are sequences."""
    if len(card.shape) != 2:
        raise UserError(f"name: sequence takes features of shape (T, d), and these have {card.shape}; use small")


ENCODER = Encoder(
    SequenceEncoder, ("feature",), ("width", "layers"), large=False, settings_class=SequenceSettings, check=check
)
