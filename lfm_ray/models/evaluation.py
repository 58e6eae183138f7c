"""All metrics of a split: of the fusion and of each modality, and the gaps between modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.contribution import contribution_names
from lfm_ray.models.directions import LEADING
from lfm_ray.models.metrics import modality_gap
from lfm_ray.models.targets import TARGETS, target_of
from lfm_ray.registry import Registry

METRICS: Registry[Callable[[Tensor, Tensor, Outputs], float]] = Registry("metric", {})
"""Metrics of one's own: (logits (N, C) by which the method predicts, labels (N,), outputs) of a split -> a number."""


def metric_names(modalities: Iterable[str], kind: TargetKind = "classes") -> list[str]:
    """The keys of `evaluate` for these modalities and targets of this kind."""
    each = [f"{name}/{key}" for name in ("fused", *modalities) for key in TARGETS[kind].metric_names]
    lead = LEADING[kind]
    return [*each, f"unimodal_{lead}", f"{lead}_gap", "modality_gap", TARGETS[kind].probe_name]


def evaluated_names(modalities: Sequence[str], kind: TargetKind = "classes") -> list[str]:
    """What is known of an evaluated split: the keys of `evaluate`, and of `contribution.contributions` of classes."""
    return [*metric_names(modalities, kind), *(contribution_names(modalities) if kind == "classes" else [])]


def evaluate(fused: Tensor, outputs: Outputs, labels: Tensor, unit: float = 1.0) -> dict[str, float]:
    """All metrics of a split.

    fused: (N, C), the logits by which the method predicts; outputs and labels of the whole split. Where samples lack a
    modality, its metrics are those of the samples that have it, and 0 if there is none. unit: of targets
    that are numbers, what 1 is in their own unit. Keys, for targets that are classes: `fused/accuracy`, `fused/map`,
    `fused/macro_f1`, `fused/balanced_accuracy`, `fused/worst_class_accuracy`, `fused/loss`, `fused/calibration_error`,
    the same for each modality, and

    - `unimodal_accuracy`: the mean over modalities of their accuracies;
    - `accuracy_gap`: the highest of those accuracies minus the lowest;
    - `modality_gap`: the distance between the centroids of the modalities' normalised embeddings
      (Liang et al., "Mind the gap", NeurIPS 2022), the mean over pairs;
    - `probe_map`: MAP of a linear probe of all embeddings, `probe_scores`. It tells what has been
      learnt before the classifier shows it, as where alpha is near 1.

    Of several labels, MAP takes the place of the accuracy (`unimodal_map`, `map_gap`), and there is `micro_f1`. Of
    numbers, the correlation does (`unimodal_correlation`, `correlation_gap`, `probe_correlation`), and there is `mae`.
    """
    target = target_of(labels)
    values: dict[str, float] = {}
    for name, (logits, truth) in _with_labels(fused, outputs, labels).items():
        none = dict.fromkeys(target.metric_names, 0.0)
        found = target.metrics(logits.float(), truth, unit) if len(truth) else none
        values |= {f"{name}/{metric}": value for metric, value in found.items()}
    lead = LEADING[target.kind]
    scores = [values[f"{name}/{lead}"] for name in outputs.unimodal]
    values[f"unimodal_{lead}"] = float(np.mean(scores))
    values[f"{lead}_gap"] = max(scores) - min(scores)
    values["modality_gap"] = modality_gap(_own_embeddings(outputs))
    values[target.probe_name] = target.probe(_filled_embeddings(outputs), labels)
    return values


def confusions(fused: Tensor, outputs: Outputs, labels: Tensor) -> dict[str, list[list[int]]]:
    """The confusion matrix of the fusion (`fused`) and of each modality; empty where targets are no classes.

    Arguments as of `evaluate`.
    """
    target = target_of(labels)
    matrices = {name: target.confusion(*one) for name, one in _with_labels(fused, outputs, labels).items()}
    return {name: matrix.tolist() for name, matrix in matrices.items() if matrix is not None}


def _with_labels(fused: Tensor, outputs: Outputs, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """`fused` and each modality -> logits and labels of the samples that have it."""
    found = {"fused": (fused, labels)}
    for name, logits in outputs.unimodal.items():
        rows = outputs.rows_with(name)
        found[name] = (logits, labels) if rows is None else (logits[rows], labels[rows])
    return found


def _own_embeddings(outputs: Outputs) -> dict[str, Tensor]:
    """Modality -> (n, d), the embeddings of the samples that have it; without those that no sample has."""
    found = {}
    for name, value in outputs.embeddings.items():
        rows = outputs.rows_with(name)
        if rows is None or rows.any():
            found[name] = value if rows is None else value[rows]
    return found


def _filled_embeddings(outputs: Outputs) -> dict[str, Tensor]:
    """Modality -> (N, d); where a sample lacks it, the mean of those that have it, which tells the probe nothing."""
    found = dict(outputs.embeddings)
    for name, value in _own_embeddings(outputs).items():
        rows = outputs.rows_with(name)
        if rows is not None:
            found[name] = torch.where(rows[:, None], outputs.embeddings[name], value.mean(dim=0))
    return found
