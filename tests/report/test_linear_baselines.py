"""Linear models on each modality: what they are fitted to, what they reach, and where they are shown."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
from made_sweep import make_sweep
from rich.console import Console

from lfm_ray.datasets.media.text import TextSettings, tokens
from lfm_ray.datasets.shards import (
    CARD,
    LINEAR_BASELINES,
    DatasetCard,
    ModalityCard,
    ShardFile,
    Shards,
    sha256,
    write_shard,
)
from lfm_ray.report import linear_baselines
from lfm_ray.report.inspection import inspect
from lfm_ray.report.outcome import print_outcome
from lfm_ray.report.page import render
from lfm_ray.report.page_figures import Figures
from lfm_ray.report.sweep_view import SweepView

COUNTS = {"train": 120, "val": 60}
WORDS = {0: ["sunny", "warm", "bright"], 1: ["rainy", "cold", "grey"], 2: ["windy", "stormy", "gusty"]}


def card(kind: str, shape: list[int], dtype: str, **others: int) -> ModalityCard:
    return ModalityCard.model_validate({"kind": kind, "shape": shape, "dtype": dtype, "mean": 0, "std": 1, **others})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Three classes; each modality tells them apart, except `noise`."""
    folder, random = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    splits = {}
    for split, count in COUNTS.items():
        labels = np.arange(count) % 3
        texts = [" ".join(random.choice([*WORDS[label], "day", "the", "a"], 6)) for label in labels]
        spectra = random.normal(size=(count, 1, 6, 20))
        spectra[np.arange(count), 0, labels] *= 3  # only the deviation of a band tells
        pictures = random.integers(0, 60, (count, 3, 24, 24))
        pictures[np.arange(count), labels, 8:16, 8:16] += 60
        features = random.normal(size=(count, 4)) * [1, 1000, 0, 1]
        features[:, 1] += 3000 * labels
        values = {
            "sound": spectra.astype(np.float16), "picture": pictures.astype(np.uint8),
            "film": np.stack([pictures] * 2, axis=1).astype(np.uint8),
            "words": np.stack([tokens(text, TextSettings(length=64)) for text in texts]),
            "numbers": features.astype(np.float32), "noise": random.normal(size=(count, 2, 3)).astype(np.float32),
        }  # fmt: skip
        write_shard(folder / f"{split}.arrow", [str(n) for n in range(count)], labels.tolist(), values)
        splits[split] = [ShardFile(file=f"{split}.arrow", rows=count, sha256=sha256(folder / f"{split}.arrow"))]
    modalities = {
        "sound": card("audio", [1, 6, 20], "float16"), "picture": card("image", [3, 24, 24], "uint8"),
        "film": card("video", [2, 3, 24, 24], "uint8"), "words": card("text", [64], "int16", vocabulary=257),
        "numbers": card("feature", [4], "float32"), "noise": card("feature", [2, 3], "float32"),
    }  # fmt: skip
    whole = DatasetCard(
        modalities=modalities, classes=["a", "b", "c"], splits=splits, preprocessing={}, fingerprint="made"
    )
    (folder / CARD).write_text(whole.model_dump_json())
    return Shards(folder)


def test_each_kind_is_learnt_from_what_tells_its_classes_apart(shards: Shards) -> None:
    found = linear_baselines.fit(shards)
    assert {name for name, accuracy in found.unimodal.items() if accuracy > 0.8} == {
        "sound", "picture", "film", "words", "numbers",
    }  # fmt: skip
    assert found.unimodal["noise"] < 0.55
    assert found.together > 0.95
    assert found.majority == pytest.approx(1 / 3)
    assert (found.train_rows, found.val_rows) == (120, 60)
    assert linear_baselines.fit(shards) == found


def test_sequences_and_waveforms_are_reduced_over_time() -> None:
    steps = np.array([[[1.0, 2], [3, 4], [np.nan, np.nan]], [[np.nan, np.nan]] * 3], np.float32)
    reduced = linear_baselines._reduced(card("feature", [3, 2], "float32", padded=True), steps)
    assert reduced.tolist() == [[2, 3, 1, 1], [0, 0, 0, 0]]
    wave = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
    assert linear_baselines._reduced(card("audio", [4000], "float32", sample_rate=8000), wave).shape == (2, 80)


def test_of_large_splits_rows_are_drawn(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_baselines, "MOST_ROWS", 80)
    found = linear_baselines.fit(shards)
    assert (found.train_rows, found.val_rows) == (80, 60)


def test_inspect_of_a_folder_that_cannot_be_written_shows_what_it_found(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "contact_sheet.png")

    monkeypatch.setattr("lfm_ray.report.inspection.contact_sheet", refused)
    console = Console(width=100, record=True, file=io.StringIO())
    inspect(shards.path, console)
    printed = console.export_text()
    assert "all checksums are right" in printed
    assert "no picture of samples is drawn: " in printed and "Read-only file system" in printed


def test_inspect_shows_them_and_writes_them_beside_the_shards(shards: Shards) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    inspect(shards.path, console)
    printed = console.export_text()
    found = linear_baselines.read(shards.path, "made")
    assert found is not None
    for name, accuracy in found.unimodal.items():
        assert any(name in line and f"{accuracy:.3f}" in line for line in printed.splitlines())
    assert "TF-IDF of character n-grams" in printed
    assert linear_baselines.read(shards.path, "other data") is None
    file = shards.path / LINEAR_BASELINES
    whole = file.read_text()
    for altered in (whole.replace(f'"together": {found.together}', '"together": 0.999'), "[]", "7"):
        assert altered != whole
        file.write_text(altered)
        assert linear_baselines.read(shards.path, "made") is None
    file.write_text(whole)


def test_a_model_below_its_linear_model_is_flagged_in_the_table_and_the_report(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    linear = {"fingerprint": "made", "train_rows": 9, "val_rows": 9, "majority": 0.1, "together": 0.981}
    (data / LINEAR_BASELINES).write_text(json.dumps(linear | {"unimodal": {"audio": 0.979, "image": 0.012}}))
    make_sweep(tmp_path / "s", 4, **{"data": {"path": str(data)}})
    console = Console(width=200, record=True, file=io.StringIO())
    print_outcome(tmp_path / "s", console, str)
    printed = console.export_text()
    (row,) = (line for line in printed.splitlines() if "linear models" in line)
    assert [word for word in row.split() if word[0] == "0"] == ["0.981", "0.979", "0.012", "0.967"]
    assert "audio: the model's unimodal validation accuracy of " in printed
    assert "is below the 0.979 of a linear model" in printed
    assert "image: the model's" not in printed
    page = render(Figures(SweepView.of([tmp_path / "s"])), "report")
    assert "linear models" in page
    assert "is below the 0.979 of a linear model" in page


def test_without_them_nothing_is_shown(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s", 4)
    assert ">linear models<" not in render(Figures(SweepView.of([tmp_path / "s"])), "report")


def test_a_modality_whose_rows_are_of_one_class_has_a_model_that_predicts_it() -> None:
    values, labels = np.zeros((3, 2)), np.array([1, 1, 1])
    assert linear_baselines._accuracy(values, labels, np.zeros((4, 2)), np.array([1, 0, 1, 2])) == 0.5
