"""Grad-CAM: the regions of an image, frame or spectrogram that a class's logit depends on (paper Figure 4).

Selvaraju et al., IJCV 2020, the paper's reference [34]. With A the last feature map of a modality's
encoder, K channels at h x w positions, and y a logit of the fused prediction:

    a_k = mean over positions of dy/dA_k,    L = ReLU(sum_k a_k A_k), upsampled to the size of the input.

In a vision transformer, a position is a patch, and A is the input of the last attention layer: after
it, only the class token matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import ModalityCard, Shards
from lfm_ray.errors import UserError
from lfm_ray.files import check_within, written_anew
from lfm_ray.methods import Method
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.models.encoders import default_encoder
from lfm_ray.models.encoders.inputs import VideoEncoder
from lfm_ray.report.contact_sheet import draw, of_many_classes
from lfm_ray.report.plots import plain_text
from lfm_ray.search.kept_model import model_of
from lfm_ray.search.selection import by_strategy
from lfm_ray.search.study.arms import strategy_name
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.run_folder import CHECKPOINT, CONFIG, WEIGHTS
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import build_model

COLUMNS = 6  # epochs shown per run
SPLITS = ("val", "train")  # where samples are looked up; only lfm_ray.confirm reads the test split
ClassOf = Literal["true", "predicted"]


def grad_cam(
    model: MultimodalClassifier, inputs: Mapping[str, Tensor], logit_of: Callable[[Outputs], Tensor]
) -> tuple[dict[str, Tensor], Outputs]:
    """The Grad-CAM maps of B samples, and the model's outputs for them in evaluation mode.

    inputs: modality -> (B, ...) as the model takes it; logit_of: outputs -> (B,), the logits to
    explain. Returns modality -> (B, H, W) or, for video, (B, F, H, W), non-negative and not
    normalised; modalities whose encoder has no feature map are left out.
    """
    model.eval()
    maps: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}

    def kept(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            maps[name] = output.detach().requires_grad_()  # nothing before this map needs a gradient
            return maps[name]

        return hook

    with ExitStack() as stack:
        for name, encoder in model.encoders.items():
            if has_map(encoder):
                stack.enter_context(_image_encoder(encoder).last_map.register_forward_hook(kept(name)))
        outputs: Outputs = model(inputs)
        for name in maps:  # an encoder sees only the samples that have the modality
            rows = outputs.rows_with(name)
            seen[name] = torch.arange(len(inputs[name])) if rows is None else rows.nonzero().squeeze(1)
        gradients = torch.autograd.grad(logit_of(outputs).sum(), list(maps.values()), materialize_grads=True)
    found = {}
    for (name, features), gradient in zip(maps.items(), gradients, strict=True):
        value = inputs[name]
        if features.ndim == 3:
            size = _image_encoder(model.encoders[name]).patch_size
            grid = (value.shape[-2] // size, value.shape[-1] // size)
            features, gradient = (one[:, 1:].transpose(1, 2).unflatten(2, grid) for one in (features, gradient))
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        coarse = (weights * features).sum(dim=1, keepdim=True).relu().detach()
        fine = F.interpolate(coarse, value.shape[-2:], mode="bilinear", align_corners=False)
        found[name] = value.new_zeros((*value.shape[:-3], *value.shape[-2:]), dtype=fine.dtype)
        found[name][seen[name]] = fine.view(len(seen[name]), *value.shape[1:-3], *value.shape[-2:])
    return found, outputs


def has_map(encoder: nn.Module) -> bool:
    """Whether an encoder has a spatial feature map."""
    return hasattr(_image_encoder(encoder), "last_map")


def _image_encoder(encoder: nn.Module) -> Any:
    return encoder.image if isinstance(encoder, VideoEncoder) else encoder


@dataclass(frozen=True)
class Kept:
    """A run with the model saved after some epochs.

    files: epoch -> weights or checkpoint. notice: what to say of it; empty if there is nothing to say.
    """

    name: str
    files: dict[int, Path]
    notice: str = ""

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return StoredModel.read(list(self.files.values())[-1]).config

    def load(self, epoch: int, model: MultimodalClassifier) -> MultimodalClassifier:
        """Loads into `model` the weights that were evaluated after `epoch`, and returns it."""
        stored = StoredModel.read(self.files[epoch])
        stored.check_is_of(self.config, ())
        if stored.epoch != epoch:
            raise UserError(f"{self.files[epoch]}: holds the model after epoch {stored.epoch}, not {epoch}; remove it")
        stored.load_into(model)
        return model

    @classmethod
    def of(cls, source: Path) -> list[Kept]:
        """From a weights file, a run's folder, or a sweep's folder (the best trial of each strategy that has a model).

        Raises:
            UserError: `source` is none of these, or holds no model.
        """
        check_within(source)
        if source.is_file():
            model = StoredModel.read(source)
            return [cls(_title(source.parent, model), {model.epoch: source})]
        if (source / "sweep.yaml").exists():
            return cls.of_sweep(Sweep.open(source))
        if not (source / CONFIG).exists():
            raise UserError(f"{source}: is not a run, sweep or checkpoint")
        files, last = _weights(source), source / CHECKPOINT
        if not files and not last.exists():
            raise UserError(
                f"{source}: holds no saved model; --set checkpoint.keep_every=5 saves one every five epochs"
            )
        model = model_of(source, last if last.exists() else list(files.values())[-1])
        files.setdefault(model.epoch, last)
        return [cls(_title(source, model), dict(sorted(files.items())))]

    @classmethod
    def of_sweep(cls, sweep: Sweep) -> list[Kept]:
        """The best trial of each strategy that still has a model.

        Raises:
            UserError: no trial has finished, or none that has still has its model.
        """
        trials = sweep.trials()
        best = by_strategy(trials)
        if not best:
            raise UserError(f"{sweep.folder}: no trial of this sweep has finished")
        found: list[Kept] = []
        having = by_strategy([trial for trial in trials if _has_model(trial_folder(sweep.folder, trial.number))])
        for strategy, trial in having.items():
            (kept,) = cls.of(trial_folder(sweep.folder, trial.number))
            better = best[strategy].number
            said = f"trial {better}, the best of {strategy}, has no model any more; this is trial {trial.number}"
            found.append(kept if better == trial.number else replace(kept, notice=said))
        if not found:
            raise UserError(f"{sweep.folder}: no finished trial of this sweep has its model any more ({CHECKPOINT})")
        return found


def _weights(run: Path) -> dict[int, Path]:
    """The weights that a run keeps, by epoch."""
    found = {file.stem.rpartition("-")[2]: file for file in sorted((run / WEIGHTS).glob("epoch-*.pt"))}
    return {int(epoch): file for epoch, file in found.items() if epoch.isdecimal()}


def _has_model(run: Path) -> bool:
    return (run / CONFIG).exists() and ((run / CHECKPOINT).exists() or bool(_weights(run)))


def _title(folder: Path, model: StoredModel) -> str:
    folder = folder.parent if folder.name == WEIGHTS else folder
    return f"{strategy_name(model.config)}\n{folder.name[:22]}"


def choose(shards: Shards, samples: Sequence[str]) -> list[tuple[str, int]]:
    """Resolves `--samples`: the split and row number of each sample.

    A single number asks for that many samples of the validation split, of different classes. Otherwise
    ids, or rows such as val/7 or train/0; an id is looked up in the validation split, then in the
    training split.

    Raises:
        UserError: there is no such row or id, or it is in the test split.
    """
    if len(samples) == 1 and samples[0].isdecimal() and int(samples[0]):
        return [("val", int(row)) for row in of_many_classes(shards, "val", int(samples[0]))]
    where = {name: (split, row) for split in reversed(SPLITS) for row, name in enumerate(shards.ids(split))}
    return [where.get(sample) or _row(shards, sample) for sample in samples]


def _row(shards: Shards, sample: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\w+)/(\d+)", sample)
    if not match:
        raise UserError(f"--samples {sample}: neither an id in {' or '.join(SPLITS)} nor a row such as val/7")
    split, row = match[1], int(match[2])
    if split not in SPLITS:
        raise UserError(f"--samples {sample}: not in {' or '.join(SPLITS)}; only lfm_ray.confirm reads the test split")
    if row >= (rows := shards.card.rows(split)):
        raise UserError(f"--samples {sample}: {split} has rows 0 to {rows - 1}")
    return split, row


@dataclass(frozen=True)
class Maps:
    """The contents of the figure for one run: the samples as the run receives them, and the maps per epoch.

    inputs: modality -> (N, ...); heat: epoch -> modality -> (N, [F,] H, W); probability: epoch ->
    (N, C), those of the fused prediction.
    """

    title: str
    inputs: dict[str, Tensor]
    heat: dict[int, dict[str, Tensor]]
    probability: dict[int, Tensor]


def look(
    kept: Sequence[Kept], samples: Sequence[str], class_of: ClassOf = "true", data: Path | None = None
) -> Iterator[Maps]:
    """Grad-CAM of the samples for each run, for at most `COLUMNS` of its epochs, including the first and last.

    class_of: whether to explain the logit of a sample's label or of the predicted class; data: the
    shards, if they are no longer where the first run read them.

    Raises:
        UserError: a run was trained on other data, or none of its encoders has a feature map.
    """
    shards = Shards(data or kept[0].config.data.path)
    if shards.card.target.kind != "classes":
        raise UserError(f"Grad-CAM explains a class, and the targets of this run are {shards.card.target.kind}")
    chosen = choose(shards, samples)
    for one in kept:
        config = one.config
        if Shards(data or config.data.path).card.fingerprint != shards.card.fingerprint:
            raise UserError(f"{config.data.path}: not the same shards as those of the first run, {shards.path}")
        model, method = build_model(config, shards.card), config.method
        if not any(has_map(encoder) for encoder in model.encoders.values()):
            cards = shards.card.modalities
            named = {name: config.model.of(name).name or default_encoder(cards[name].kind) for name in model.encoders}
            kinds = ", ".join(f"{name} ({encoder})" for name, encoder in named.items())
            raise UserError(f"Grad-CAM needs an encoder with a spatial feature map; the encoders are {kinds}")
        batch = _batch(shards, config, chosen)

        def logit_of(outputs: Outputs, method: Method = method, labels: Tensor = batch.labels) -> Tensor:
            logits = method.predict(outputs)
            which = labels if class_of == "true" else logits.argmax(dim=1)
            return logits.gather(1, which[:, None])[:, 0]

        seen = Maps(one.name, batch.inputs, {}, {})
        for index in sorted({round(float(place)) for place in np.linspace(0, len(one.files) - 1, COLUMNS)}):
            epoch = list(one.files)[index]
            seen.heat[epoch], outputs = grad_cam(one.load(epoch, model), batch.inputs, logit_of)
            seen.probability[epoch] = method.predict(outputs).detach().softmax(dim=1)
        yield seen


def _batch(shards: Shards, config: RunConfig, chosen: Sequence[tuple[str, int]]) -> Batch:
    """The samples as a run of `config` receives them."""
    inputs = Inputs.of(shards.card, config.data)
    parts, labels = [], []
    for split, row in chosen:
        rows = np.array([row])
        columns, its_label = shards.take(split, rows, list(inputs.modalities), inputs.frames(rows, epoch=1))
        parts.append(inputs(columns, rows, epoch=1))
        labels.append(torch.from_numpy(its_label))
    return Batch({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(labels))


@plain_text()
def gradcam_figure(
    kept: Sequence[Kept],
    samples: Sequence[str],
    path: Path,
    class_of: ClassOf = "true",
    data: Path | None = None,
    track: Callable[[Iterator[Maps]], Iterator[Maps]] = iter,
) -> None:
    """Writes a PNG with a row per sample, modality and run: the input, then one column per epoch.

    Warm colours mark what the logit depends on, scaled to each map's own maximum. The title of a map
    gives the predicted class and the probability of the sample's label. See `look`.
    """
    shards = Shards(data or kept[0].config.data.path)
    chosen = choose(shards, samples)
    seen = list(track(look(kept, samples, class_of, data)))
    modalities = list(dict.fromkeys(name for one in seen for heat in one.heat.values() for name in heat))
    ids = {split: shards.ids(split) for split, _ in chosen}
    labels = [int(shards.take(split, np.array([row]), [])[1][0]) for split, row in chosen]
    lines = [(i, name, one) for i in range(len(chosen)) for name in modalities for one in seen]
    columns = 1 + max(len(one.heat) for one in seen)
    widths = max(_width(shards.card.modalities[name], one.inputs[name]) for one in seen for name in modalities)
    figure = Figure(figsize=(1.5 * widths * columns + 1, 1.75 * len(lines)))
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (i, name, one) in zip(axes, lines, strict=True):
        card, sample, label = shards.card.modalities[name], one.inputs[name][i].numpy(), labels[i]
        for axis in line:
            axis.axis("off")
        split, row = chosen[i]
        if one is seen[0]:
            _draw(line[0], sample, card)
            line[0].set_title(f"{ids[split][row][-14:]}: {shards.card.classes[label][:10]}", fontsize=8, loc="left")
        line[0].text(
            -0.06, 0.5, f"{name}, {one.title}", rotation=90, fontsize=8, ha="right", va="center",
            transform=line[0].transAxes,
        )  # fmt: skip
        for axis, (epoch, heat) in zip(line[1:], one.heat.items(), strict=False):
            if name not in heat:
                continue
            _draw(axis, sample, card)
            _overlay(axis, heat[name][i].numpy(), card)
            probability = one.probability[epoch][i]
            says = shards.card.classes[int(probability.argmax())][:10]
            axis.set_title(f"epoch {epoch}: {says} {float(probability[label]):.2f}", fontsize=8, loc="left")
    figure.text(
        0.01, 0.004, "Above each map: the predicted class, and the probability of the sample's own.", fontsize=8
    )  # fmt: skip
    figure.tight_layout(h_pad=0.6, rect=(0, 0.2 / len(lines), 1, 1))
    with written_anew(path) as file:
        figure.savefig(file, dpi=110, format="png")


def _width(card: ModalityCard, inputs: Tensor) -> float:
    """The ratio of a cell's width to its height."""
    return 0.6 * inputs.shape[1] if card.kind == "video" else 1.0


def _draw(axis: Axes, sample: np.ndarray, card: ModalityCard) -> None:
    draw(axis, sample, card)
    axis.images[0].set_cmap("gray")


def _overlay(axis: Axes, heat: np.ndarray, card: ModalityCard) -> None:
    """Draws a map over the sample, more opaque where it is higher."""
    heat = heat / max(float(heat.max()), 1e-12)
    if card.kind == "video":
        heat = np.concatenate(list(heat), axis=1)
    audio = card.kind == "audio"
    axis.imshow(
        heat, cmap="turbo", alpha=0.15 + 0.5 * heat, vmin=0, vmax=1,
        origin="lower" if audio else "upper", aspect="auto" if audio else "equal",
    )  # fmt: skip
