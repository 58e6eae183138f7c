"""Diagnosing and re-learning: encoders that have learnt more than what generalises are set back towards their start.

Wei, Li, Feng and Hu, "Diagnosing and re-learning for balanced multimodal learning", ECCV 2024. Code read:
GeWu-Lab/Diagnosing_Relearning_ECCV2024 at 025085e (code/ours.py). The same (tests/parity): clusters, purities,
weights, and the encoders' new values. Different: the code passes the training split through the network once more in
evaluation mode; here the training features are those of the epoch's own steps, at no cost, of as many samples as the
metrics of training are computed of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.cluster import KMeans
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.models.classifier import Outputs

FIRST = "first/"


def purity(embeddings: Tensor, labels: Tensor, classes: int) -> float:
    """How well clusters of embeddings (N, d) agree with labels (N,): the share of samples of their cluster's class.

    The class of a cluster is its most frequent one. There are `classes` clusters, by k-means of the embeddings, which
    are scaled to -1 ... 1 in each dimension.
    """
    scaled = MinMaxScaler(feature_range=(-1, 1)).fit_transform(embeddings.detach().cpu().double().numpy())
    clusters = KMeans(n_clusters=min(classes, len(scaled)), random_state=0).fit_predict(scaled)
    return cluster_purity(clusters, labels.cpu().numpy())


def cluster_purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples that have the most frequent label of their cluster."""
    main = [np.bincount(labels[clusters == one]).max() for one in np.unique(clusters)]
    return float(sum(main) / len(labels))


class Relearn(Method):
    """Every few epochs, each encoder's weights become a mixture with its initial ones.

        theta <- w theta_0 + (1 - w) theta,   w = tanh(lambda |purity of training - purity of validation|),

    where the purity is that of clusters of the modality's embeddings. A modality that has been learnt too far, whose
    features separate the classes on the training split only, is set back most. The loss is joint training's.
    """

    name: Literal["relearn"] = "relearn"
    source: ClassVar[str] = "ECCV 2024"
    only_classes: ClassVar[str] = "measures how pure clusters are in classes"
    gap_weight: float = Field(3.0, ge=0, le=1000, description="lambda (authors: 3); 0: joint training")
    period: int = Field(20, ge=1, description="epochs from one re-learning to the next (authors: 20)")
    times: int = Field(3, ge=0, description="how many times at most (authors: 3)")

    def measures(self, outputs: Outputs, labels: Tensor) -> Row:
        """The purity of each modality."""
        if not self.gap_weight:
            return {}
        classes = outputs.fused.shape[1]
        return {f"{name}/purity": purity(z, labels, classes) for name, z in outputs.embeddings.items()}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Keeps the initial weights of the encoders."""
        super().after_backward(outputs, labels, state)
        if state.steps == 0 and self.gap_weight:
            named = state.model.encoders.named_parameters()
            state.memory.update({f"{FIRST}{name}": value.detach().clone() for name, value in named})

    def due(self, state: State) -> bool:
        """Whether encoders are set back after this epoch: after epoch 1 + period, 1 + 2 period, ..."""
        past = state.epoch - 1
        return self.gap_weight > 0 and past > 0 and past % self.period == 0 and past // self.period <= self.times

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Sets the encoders back, if it is time; returns by how much."""
        if not self.due(state):
            return {}
        weights = {}
        for name, encoder in state.model.encoders.items():
            gap = abs(metrics[f"train/{name}/purity"] - metrics[f"val/{name}/purity"])
            weights[name] = w = math.tanh(self.gap_weight * gap)
            with torch.no_grad():
                for key, value in encoder.named_parameters():
                    value.copy_(w * state.memory[f"{FIRST}{name}.{key}"].to(value) + (1 - w) * value)
        return {f"relearn/{name}": w for name, w in weights.items()}
