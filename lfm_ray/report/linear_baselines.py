"""How well linear models do on each modality and on all together: what a model has to beat.

A modality on which a neural encoder is below them has not been learnt, whatever the training strategy.
`prepare --inspect` fits them and writes what they reach beside the shards; `tune` and its report show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.table import Table
from scipy import sparse

from lfm_ray.checksums import CHECKSUM, is_whole, with_checksum
from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.media.audio import AudioSettings, log_spectrogram
from lfm_ray.datasets.reading.inputs import DataSettings, Inputs
from lfm_ray.datasets.shards import LINEAR_BASELINES, ModalityCard, Shards
from lfm_ray.files import write_atomically
from lfm_ray.models.directions import LEADING
from lfm_ray.models.metrics import correlation, mean_average_precision_of_labels
from lfm_ray.settings import Settings
from lfm_ray.storage import in_store, working_folder

MOST_ROWS = 5000  # of a split, drawn at random
MOST_BYTES = 2**30  # of inputs of a split, which bounds its rows too
AT_ONCE = 64  # rows in memory as models see them
SIDE = 16  # pixels per side that pictures are shrunk to
HASHES = 2**16  # of character n-grams
STRENGTH = 30.0  # inverse of the penalty; features of each modality have a mean square norm of 1
WHAT = {
    "audio": "mean and deviation over time of the log spectra",
    "image": f"pixels, {SIDE} x {SIDE}",
    "video": f"pixels of the mean frame, {SIDE} x {SIDE}",
    "text": "TF-IDF of character n-grams",
    "feature": "the features; of sequences mean and deviation over time",
}


class LinearBaselines(Settings):
    """What linear models, fitted to the training split, reach on the validation split.

    Logistic regressions and their accuracy; of several labels one for each, and their MAP; of numbers ridge regressions
    and their correlation (`lfm_ray.models.directions.LEADING`).
    """

    fingerprint: str = Field(description="of the dataset")
    train_rows: int
    val_rows: int
    majority: float = Field(description="what the same prediction for all reaches, the most frequent class in training")
    unimodal: dict[str, float] = Field(description="modality -> what is reached on it alone")
    together: float = Field(description="what is reached on all modalities, their features side by side")
    metric: str = Field("accuracy", description="which metric these are")

    def below(self, accuracies: Mapping[str, float]) -> list[str]:
        """A sentence for each modality whose accuracy, or other `metric`, is below that of its linear model."""
        return [
            f"{name}: the model's unimodal validation {self.metric} of {accuracies[name]:.3f} is below the"
            f" {linear:.3f} of a linear model: its encoder has not learnt what this modality tells"
            for name, linear in self.unimodal.items()
            if name in accuracies and accuracies[name] < linear
        ]


def fit(shards: Shards, seed: int = 0) -> LinearBaselines:
    """Fits a linear model to each modality, and one to all.

    Features are standardised with the training split's statistics, TF-IDF excepted, and each modality's are
    scaled to a mean square norm of 1, so that one penalty suits all. Of large splits some rows are drawn. Rows that
    lack a modality are no rows of its own model, and have zeros, the mean, for it in that of all.
    """
    names, target = list(shards.card.modalities), shards.card.target
    reached = REACHED[target.kind]
    labels, features, there = {}, {}, {}
    for split in ("train", "val"):
        rows = _rows(shards, split, seed)
        labels[split], features[split] = _features(shards, split, rows)
        there[split] = {name: shards.present(split, name)[rows] for name in shards.card.lacking}
    blocks: dict[str, list[Any]] = {"train": [], "val": []}
    unimodal = {}
    for name in names:
        own = [there[split].get(name, np.ones(len(labels[split]), dtype=bool)) for split in ("train", "val")]
        parts = [_selected(features[split][name], rows) for split, rows in zip(("train", "val"), own, strict=True)]
        train, val = _scaled(shards.card.modalities[name], *parts)
        unimodal[name] = reached(train, labels["train"][own[0]], val, labels["val"][own[1]])
        blocks["train"].append(_with_gaps(train, own[0]))
        blocks["val"].append(_with_gaps(val, own[1]))
    beside = sparse.hstack if any(sparse.issparse(block) for block in blocks["train"]) else np.hstack
    train, val = ((beside(blocks[split])) for split in ("train", "val"))
    together = reached(train, labels["train"], val, labels["val"]) if len(names) > 1 else next(iter(unimodal.values()))
    return LinearBaselines(
        fingerprint=shards.card.fingerprint,
        train_rows=len(labels["train"]),
        val_rows=len(labels["val"]),
        majority=_same_for_all(target.kind, labels["train"], labels["val"]),
        unimodal=unimodal,
        together=together,
        metric=LEADING[target.kind],
    )


def _selected(features: Any, rows: np.ndarray) -> Any:
    """Those of the rows that have the modality; features: an array, or a list of texts."""
    if isinstance(features, np.ndarray):
        return features if rows.all() else features[rows]
    return [text for text, has in zip(features, rows, strict=True) if has]


def _with_gaps(features: Any, rows: np.ndarray) -> Any:
    """The features of all rows, zeros where `rows` is false; features: of the others, an array or a sparse matrix."""
    if rows.all():
        return features
    places = sparse.csr_matrix(
        (np.ones(rows.sum(), np.float32), (np.flatnonzero(rows), np.arange(rows.sum()))), (len(rows), rows.sum())
    )
    return places @ features


def write(baselines: LinearBaselines, folder: Path) -> None:
    """Writes them beside the shards."""
    write_atomically(folder / LINEAR_BASELINES, json.dumps(with_checksum(baselines.model_dump()), indent=2) + "\n")


def read(data: str | Path, fingerprint: str | None) -> LinearBaselines | None:
    """Those of a dataset; None if they were not fitted, or to other data, or the file was altered."""
    folder = working_folder(str(data))
    if in_store(folder) or not (folder / LINEAR_BASELINES).is_file():
        return None
    try:
        content = json.loads((folder / LINEAR_BASELINES).read_text(encoding="utf-8"))
        if not is_whole(content):
            return None
        content.pop(CHECKSUM, None)
        found = LinearBaselines.model_validate(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return found if found.fingerprint == fingerprint else None


def table(baselines: LinearBaselines, cards: Mapping[str, ModalityCard]) -> Table:
    """What they reach, for the terminal."""
    metric, rows = baselines.metric, baselines.val_rows
    title = f"linear models on {baselines.train_rows:,} training rows, {metric} on {rows:,} of validation"
    shown = Table("modality", "fitted to", metric, title=title, title_justify="left")
    shown.columns[2].justify = "right"
    for name, accuracy in baselines.unimodal.items():
        shown.add_row(name, WHAT[cards[name].kind], f"{accuracy:.3f}")
    shown.add_section()
    shown.add_row("all together", "", f"{baselines.together:.3f}")
    constant = "the most frequent class" if metric == "accuracy" else "the same for all"
    shown.add_row("none", constant, f"{baselines.majority:.3f}")
    return shown


def _rows(shards: Shards, split: str, seed: int) -> np.ndarray:
    count = shards.card.rows(split)
    size = sum(int(np.prod(card.shape)) * np.dtype(card.dtype).itemsize for card in shards.card.modalities.values())
    most = max(AT_ONCE, min(MOST_ROWS, MOST_BYTES // size))
    rows = np.random.default_rng(seed).permutation(count)[:most] if count > most else np.arange(count)
    return np.sort(rows)


def _features(shards: Shards, split: str, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels, and modality -> (rows, features), or texts."""
    cards = shards.card.modalities
    inputs = Inputs.of(shards.card, DataSettings(frames=max([1, *(card.shape[0] for card in cards.values())])))
    parts: dict[str, list[Any]] = {name: [] for name in cards}
    labels = []
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        columns, their_labels = shards.take(split, some, list(cards), inputs.frames(some, 1))
        labels.append(inputs.labels(their_labels).numpy())
        seen = inputs(columns, some, 1)
        for name, card in cards.items():
            parts[name].append(_reduced(card, seen[name].numpy()))
    joined: dict[str, Any] = {
        name: [text for batch in some for text in batch] if cards[name].kind == "text" else np.concatenate(some)
        for name, some in parts.items()
    }
    return np.concatenate(labels), joined


def _reduced(card: ModalityCard, values: np.ndarray) -> Any:
    """What a linear model gets of a batch: (B, features) float32, or B texts."""
    if card.kind == "text":
        return [_text(tokens, card) for tokens in values]
    values = values.astype(np.float32)
    if card.padded:
        values = np.ma.masked_invalid(values)
        return np.concatenate([values.mean(axis=1).filled(0), values.std(axis=1).filled(0)], axis=1)
    if card.kind == "audio":
        spectra = values[:, 0] if card.sample_rate is None else _spectra(values, card.sample_rate)
        return np.concatenate([spectra.mean(axis=-1), spectra.std(axis=-1)], axis=1)
    if card.kind in ("image", "video"):
        import torch

        pictures = torch.from_numpy(values.mean(axis=1) if card.kind == "video" else values)
        side = min(SIDE, pictures.shape[-1])
        return torch.nn.functional.adaptive_avg_pool2d(pictures, side).flatten(1).numpy()
    return values.reshape(len(values), -1)


def _spectra(waveforms: np.ndarray, rate: int) -> np.ndarray:
    """Waveforms (B, samples) -> log mel spectra (B, bands, frames)."""
    import torch

    settings = AudioSettings(sample_rate=rate, n_mels=40, n_fft=min(512, waveforms.shape[-1]))
    return log_spectrogram(torch.from_numpy(waveforms), settings)[:, 0].numpy()


def _text(tokens: np.ndarray, card: ModalityCard) -> str:
    """Bytes become their text again; tokens of a tokenizer a text with a character for each."""
    present = tokens[tokens != card.padding]
    if card.vocabulary == 257:
        return bytes((present - 1).astype(np.uint8)).decode("utf-8", errors="replace")
    return "".join(chr(0x10000 + int(token)) for token in present)


def _scaled(card: ModalityCard, train: Any, val: Any) -> tuple[Any, Any]:
    """Features of both splits, standardised by the training split, or TF-IDF of its n-grams."""
    if card.kind == "text":
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        hashed = HashingVectorizer(analyzer="char", ngram_range=(1, 4), n_features=HASHES, alternate_sign=False)
        weights = TfidfTransformer(sublinear_tf=True).fit(counts := hashed.transform(train))
        return weights.transform(counts), weights.transform(hashed.transform(val))
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-6 * np.maximum(1, np.abs(mean))
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0) / np.sqrt(max(1, varies.sum()))
    # A value that training never came near says nothing that a linear model could extrapolate.
    most = 10 / np.sqrt(max(1, varies.sum()))
    return tuple(((part - mean) * scale).clip(-most, most).astype(np.float32) for part in (train, val))  # type: ignore[return-value]


def _accuracy(train: Any, labels: np.ndarray, val: Any, expected: np.ndarray) -> float:
    """Of a logistic regression on the validation split; where training has one class, that is what is predicted."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if (labels == labels[0]).all():  # as the few rows that have a rare modality may
        return float((expected == labels[0]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is near enough
        model = LogisticRegression(C=STRENGTH, max_iter=200).fit(train, labels)
    return float(model.score(val, expected))


def _map(train: Any, labels: np.ndarray, val: Any, expected: np.ndarray) -> float:
    """Of a logistic regression for each label that some but not all training rows have; others have equal scores."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros(expected.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for label in np.flatnonzero((labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)):
            model = LogisticRegression(C=STRENGTH, max_iter=200).fit(train, labels[:, label])
            scores[:, label] = model.decision_function(val)
    return mean_average_precision_of_labels(scores, expected > 0)


def _correlation(train: Any, labels: np.ndarray, val: Any, expected: np.ndarray) -> float:
    """Of a ridge regression, with the penalty of the others for each row."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / STRENGTH).fit(train, labels)
    return correlation(model.predict(val), expected)


def _same_for_all(kind: TargetKind, labels: np.ndarray, expected: np.ndarray) -> float:
    """What a constant prediction reaches: its accuracy, its MAP, no correlation."""
    if kind == "regression":
        return 0.0
    if kind == "multilabel":
        return mean_average_precision_of_labels(np.zeros(expected.shape), expected > 0)
    return float((expected == np.bincount(labels).argmax()).mean())


REACHED: dict[TargetKind, Callable[[Any, np.ndarray, Any, np.ndarray], float]] = {
    "classes": _accuracy,
    "multilabel": _map,
    "regression": _correlation,
}
