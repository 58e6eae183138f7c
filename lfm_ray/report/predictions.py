"""What a run says of each sample of the validation split: a table, and a page with what it gets wrong.

`predictions.csv` has a row for each sample: id, label, what the fusion and each modality take it for, whether that is
right, their probabilities of every class, what each modality contributes to the probability of the true class and which
contributes the most (`lfm_ray.models.contribution`), and `disagreement`, the mean divergence of the modalities'
predictions from their mean, in nats. `predictions.html` has the confusion matrices, the accuracy of each class by the
fusion and by each modality, and the samples on which the modalities disagree most, with their pictures and their sound.
What takes their place for several labels or numbers is in `lfm_ray.report.predicted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_shards
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.files import check_within, write_atomically
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.contribution import Coalitions, sample_contributions
from lfm_ray.models.metrics import confusion
from lfm_ray.models.targets import TARGETS
from lfm_ray.report.plots import COLOURS, DARK_COLOURS
from lfm_ray.report.predicted import PREDICTED, Predicted
from lfm_ray.report.showing import Shown, shown
from lfm_ray.runtime import compute
from lfm_ray.search.kept_model import best_with_model, model_of
from lfm_ray.search.sweep import SWEEP, Sweep
from lfm_ray.storage import exists, fetch, push
from lfm_ray.storage import shown as shown_path
from lfm_ray.training.run_folder import CHECKPOINT
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import build_model

HERE = Path(__file__).parent
SPLIT = "val"  # only lfm_ray.confirm reads the test split
MOST_CLASSES = 30  # of a confusion matrix that is shown whole
MOST_CONFUSIONS = 40
EXAMPLES = 12


@dataclass(frozen=True)
class Predictions:
    """What a run says of a split.

    labels: those of the shards; probabilities: `fused` or a modality -> (N, C), or (N, 1) numbers in their unit.
    said: why it is not the best trial of a sweep.
    contributed: of classes, modality -> (N,), its Shapley value for each sample. rows: the samples' row numbers in the
    split; there: of each modality that some of them lack, (N,) bool, whether a sample has it.
    """

    folder: Path
    epoch: int
    config: RunConfig
    shards: Shards
    labels: np.ndarray
    probabilities: dict[str, np.ndarray]
    said: str = ""
    contributed: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray = field(default_factory=lambda: np.arange(0))
    there: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, data: Path | None = None) -> Predictions:
        """Of a run, of a trial, or of the best trial of a sweep; data: shards to use instead of the run's.

        Raises:
            UserError: there is no model, or the shards are not those that it was trained on.
        """
        check_within(folder)
        said = ""
        if exists(folder / SWEEP):
            folder, said = best_with_model(Sweep.open(folder))
        fetch(folder / CHECKPOINT)
        if not (folder / CHECKPOINT).is_file():
            raise UserError(f"{shown_path(folder)}: holds neither a run ({CHECKPOINT}) nor a sweep ({SWEEP})")
        model = model_of(folder)
        config = model.config
        shards = Shards(data or config.data.path)
        if model.card is None or model.card.fingerprint != shards.card.fingerprint:
            raise UserError(f"{shown_path(shards.path)}: are not the shards of this run; name them with --data")
        shards.fetch([SPLIT])
        outputs, labels, contributed = _outputs(model, shards)
        logits = {"fused": config.method.predict(outputs), **outputs.unimodal}
        target = shards.card.target
        found = {name: TARGETS[target.kind].said(value.float()).cpu().numpy() for name, value in logits.items()}
        found = {name: target.in_its_unit(value) for name, value in found.items()}
        rows = shards.usable(SPLIT, config.data.modalities)
        masks = {name: outputs.rows_with(name) for name in outputs.unimodal}
        there = {name: mask.cpu().numpy() for name, mask in masks.items() if mask is not None}
        return cls(folder, model.epoch, config, shards, labels, found, said, contributed, rows, there)

    @property
    def modalities(self) -> list[str]:
        """Without `fused`."""
        return list(self.probabilities)[1:]

    @property
    def disagreement(self) -> np.ndarray:
        """(N,): how far the modalities that a sample has disagree; 0 for a single one."""
        each = np.stack([self.probabilities[name] for name in self.modalities])
        there = np.stack([self.there.get(name, np.ones(len(self.labels), dtype=bool)) for name in self.modalities])
        found = np.zeros(len(self.labels))
        for having in np.unique(there, axis=1).T:
            rows = (there == having[:, None]).all(axis=0)
            found[rows] = self.kind.disagreement(each[np.ix_(having, rows)])
        return found

    @property
    def kind(self) -> Predicted:
        """What predictions of the targets' kind are shown by."""
        return PREDICTED[self.shards.card.target.kind]

    def words(self, labels: np.ndarray) -> list[str]:
        """Labels, or what is predicted, as a manifest writes them."""
        card = self.shards.card
        return [card.target.words(label, card.classes) for label in labels]

    def frame(self) -> pd.DataFrame:
        """One row for each sample; of a modality that it lacks, the fields are empty."""
        ids = self.shards.ids(SPLIT)
        columns: dict[str, Any] = {"id": [ids[row] for row in self.rows], "label": self.words(self.labels)}
        for name, chances in self.probabilities.items():
            columns[name] = self.words(self.kind.chosen(chances))
            verdict, values = self.kind.verdict(chances, self.labels)
            columns[f"{name} {verdict}"] = values
        if self.contributed:
            columns |= {f"{name} contributes": values for name, values in self.contributed.items()}
            shares = [np.where(self.there.get(name, True), one, -np.inf) for name, one in self.contributed.items()]
            most = np.stack(shares).argmax(axis=0)
            columns["preferred"] = np.array(list(self.contributed), dtype=object)[most]
        columns["disagreement"] = self.disagreement
        for name, chances in self.probabilities.items():
            columns |= {f"{name}: {label}": chances[:, i] for i, label in enumerate(self.shards.card.classes)}
        frame = pd.DataFrame(columns)
        for name, there in self.there.items():
            own = [column for column in frame if column == name or str(column).startswith((f"{name} ", f"{name}: "))]
            frame[own] = frame[own].where(pd.Series(there), None)
        return frame

    def matrix(self, name: str) -> np.ndarray:
        """The confusion matrix (C, C) of `fused` or a modality."""
        rows = self.there.get(name, slice(None))
        chosen = self.probabilities[name][rows].argmax(axis=1)
        return confusion(chosen, self.labels[rows], len(self.shards.card.classes))


def write_predictions(found: Predictions) -> tuple[Path, Path]:
    """Writes the table and the page into the run's folder, and returns them."""
    table, page = found.folder / "predictions.csv", found.folder / "predictions.html"
    write_atomically(table, found.frame().to_csv(index=False, float_format="%.6g"))
    write_atomically(page, render(found))
    push(table, page)
    return table, page


def render(found: Predictions) -> str:
    """The page."""
    classes, kind = found.shards.card.classes, found.shards.card.target.kind
    matrices = {name: found.matrix(name) for name in found.probabilities} if kind == "classes" else {}
    measured = found.kind.measured(found.probabilities, found.labels, found.there)
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("predictions.html").render(
        title=f"{found.folder.name}: predictions",
        about=f"epoch {found.epoch} of {found.config.epochs}, {len(found.labels)} samples of the validation split",
        names=list(found.probabilities),
        classes=classes,
        measured=measured,
        samples=len(found.labels),
        lines=[["-" if np.isnan(value) else f"{value:.3f}" for value in line] for line in measured.lines],
        overall=[f"{value:.3f}" for value in measured.overall],
        matrices={name: _cells(matrix) for name, matrix in matrices.items()} if len(classes) <= MOST_CLASSES else {},
        confusions=_confusions(matrices, classes) if len(classes) > MOST_CLASSES else [],
        examples=_examples(found),
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
    )


def _outputs(stored: StoredModel, shards: Shards) -> tuple[Outputs, np.ndarray, dict[str, np.ndarray]]:
    """What the evaluated weights of a checkpoint say of the whole split, the labels, and the contributions."""
    config = stored.config
    model = build_model(config, shards.card)
    stored.load_into(model)
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    model.to(device).eval()
    inputs = Inputs.of(shards.card, config.data)
    order = Order(shards.usable(SPLIT, list(inputs.modalities)), max(256, config.data.batch_size), 0, False)
    parts: list[Outputs] = []
    labels: list[np.ndarray] = []
    with torch.no_grad():
        for batch in ReadBatches(from_shards(shards, SPLIT, list(inputs.modalities)), order, inputs).epoch(1):
            parts.append(model(compute.on_device(batch, device).inputs))
            labels.append(batch.labels.numpy())
    whole, truth = Outputs.join(parts), np.concatenate(labels)
    if shards.card.target.kind != "classes":
        return whole, truth, {}
    values = Coalitions(model.head, config.method.predict, whole, torch.from_numpy(truth).to(device))
    return whole, truth, sample_contributions(values)


def _cells(matrix: np.ndarray) -> list[list[tuple[int, int]]]:
    """Each row of a matrix as pairs of a number and its share of the row in per cent."""
    shares = 100 * matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    return [
        list(zip(*pair, strict=True)) for pair in zip(matrix.tolist(), shares.round().astype(int).tolist(), strict=True)
    ]


def _confusions(matrices: Mapping[str, np.ndarray], classes: list[str]) -> list[tuple[str, str, str, int]]:
    """The most frequent confusions: of what, the class, what it was taken for, how often."""
    found = []
    for name, matrix in matrices.items():
        wrong = matrix - np.diag(matrix.diagonal())
        for place in np.argsort(-wrong, axis=None, kind="stable")[: MOST_CONFUSIONS // len(matrices)]:
            i, j = np.unravel_index(place, wrong.shape)
            if wrong[i, j]:
                found.append((name, classes[i], classes[j], int(wrong[i, j])))
    return found


def _examples(found: Predictions) -> list[dict[str, Any]]:
    """The samples on which the modalities disagree most."""
    if len(found.modalities) < 2:
        return []
    rows = np.argsort(-found.disagreement, kind="stable")[:EXAMPLES]
    shards, labels = found.shards, found.words(found.labels)
    inputs, ids = Inputs.of(shards.card, found.config.data), shards.ids(SPLIT)
    examples = []
    for row in rows.tolist():
        at = found.rows[[row]]
        lacking = [name for name, there in found.there.items() if not there[row]]
        stored, _ = shards.take(SPLIT, at, list(inputs.modalities), inputs.frames(at, 1))
        seen = inputs(stored, at, 1)
        media: list[Shown] = [
            shown(name, shards.card, inputs, stored[name], seen[name][0].numpy())
            if name not in lacking
            else Shown(name, words="missing")
            for name in inputs.modalities
        ]
        said = {
            name: _said(found, chances, row) if name not in lacking else ("missing", "", "")
            for name, chances in found.probabilities.items()
        }
        examples.append(
            {"id": ids[at[0]], "label": labels[row], "said": said, "media": media}
            | {"disagreement": f"{found.disagreement[row]:.3f}"}
        )
    return examples


def _said(found: Predictions, chances: np.ndarray, row: int) -> tuple[str, str, str]:
    """What is predicted for a sample, with which probability, and whether it is right, or its error."""
    at = slice(row, row + 1)
    verdict, (value,) = found.kind.verdict(chances[at], found.labels[at])
    judged = f"{value:+.3g}" if verdict == "error" else "right" if value else "wrong"
    sure = f"{chances[row].max():.2f}" if found.shards.card.target.kind == "classes" else ""
    return found.words(found.kind.chosen(chances[at]))[0], sure, judged
