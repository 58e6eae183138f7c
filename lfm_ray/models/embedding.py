"""Frozen pretrained models, whose outputs are features: computed once, for sweeps that need no encoder then."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfm_ray.datasets.columns import Column, PackedFrames
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders import build_encoder, check_encoder
from lfm_ray.models.encoders.auto import AutoEncoder, AutoSettings

TOKENS = "tokens"  # a pooling that leaves the sequence as it is
MOST_ROWS, MOST_BYTES = 64, 32 * 2**20  # of a batch of inputs, as float32


def frozen_encoder(modality: str, card: ModalityCard, pretrained: str, pooling: str = "auto") -> AutoEncoder:
    """A pretrained model that is not trained, in evaluation mode, on the CPU.

    Raises:
        UserError: it cannot be loaded, or does not take what the modality holds; names the modality.
    """
    settings = AutoSettings.model_validate(
        {"name": "auto", "pretrained": pretrained, "pooling": "auto" if pooling == TOKENS else pooling, "frozen": True}
    )
    try:
        check_encoder(modality, card, settings)
        encoder = build_encoder(modality, card, settings, 1)
    except UserError as error:
        reason = str(error).removeprefix(f"model.encoders.{modality}.").removeprefix("pretrained: ")
        raise UserError(f"--embed {modality}: {reason}") from None
    assert isinstance(encoder, AutoEncoder)
    return encoder.eval().requires_grad_(False)


def weights_of(encoder: AutoEncoder) -> dict[str, Tensor]:
    """Everything that its features depend on, without the layer `project`."""
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith("project.")}


def digest(encoder: AutoEncoder) -> str:
    """sha256 of the weights."""
    result = hashlib.sha256()
    for name, value in sorted(weights_of(encoder).items()):
        result.update(name.encode())
        result.update(value.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()


class Embedder:
    """Stored samples of one modality -> features, by a frozen encoder on its device.

    All stored frames of a video count. A batch takes at most 64 samples and 32 MiB of inputs, and half of that where
    a GPU's memory does not suffice.
    """

    def __init__(
        self, name: str, card: ModalityCard, preprocessing: dict[str, Any], encoder: AutoEncoder, pooling: str
    ) -> None:
        self.name, self.encoder = name, encoder
        self.features = encoder.tokens if pooling == TOKENS else encoder.pooled
        self.device = next(encoder.body.parameters()).device
        source = DatasetCard(
            modalities={name: card}, classes=[], splits={}, preprocessing=preprocessing, fingerprint=""
        )
        own = Inputs.of(source)
        frames = card.shape[0] if card.kind == "video" else 1
        self.inputs = Inputs(own.modalities, frames, own.audio)
        self.rows = max(1, min(MOST_ROWS, MOST_BYTES // (4 * math.prod(card.shape))))

    @torch.no_grad()
    def __call__(self, column: Column) -> np.ndarray:
        """(N, d) float32, or (N, T, d) tokens."""
        parts: list[np.ndarray] = []
        done = 0
        while done < len(column):
            rows = np.arange(done, min(len(column), done + self.rows))
            chosen = _rows(column, rows)
            value = self.inputs({self.name: chosen}, rows, 1)[self.name]
            try:
                parts.append(self.features(value.to(self.device)).float().cpu().numpy())
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise UserError(f"--embed {self.name}: one sample does not fit into the GPU's memory") from None
                self.rows //= 2
                torch.cuda.empty_cache()
                continue
            done += len(rows)
        return np.concatenate(parts)


def embedded_where(embedder: Embedder, column: Column, there: np.ndarray) -> np.ndarray:
    """`embedder` of the samples where `there` is true, and zeros where it is not; (N, d), or (N, T, d) tokens."""
    if there.all():
        return embedder(column)
    if not there.any():  # its first sample, a placeholder, tells the shape
        return np.zeros((len(there), *embedder(_rows(column, np.arange(1))).shape[1:]), np.float32)
    found = embedder(_rows(column, np.flatnonzero(there)))
    whole = np.zeros((len(there), *found.shape[1:]), found.dtype)
    whole[there] = found
    return whole


def _rows(column: Column, rows: np.ndarray) -> Column:
    if isinstance(column, PackedFrames):
        return PackedFrames(column.data, column.begin[rows], column.end[rows])
    return column[rows]
