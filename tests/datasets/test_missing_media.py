"""Rows without one of their media: bad rows, or kept with --allow-missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from media_files import features, png, wav
from prepared import prepared
from raw_layouts import crema_d

from lfm_ray.datasets.columns import PackedFrames, presence
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest, read_manifest
from lfm_ray.datasets.preparing.sources import of_dataset, of_folders
from lfm_ray.datasets.reading.inputs import DataSettings, Inputs
from lfm_ray.datasets.shards import CARD, Shards
from lfm_ray.errors import UserError
from lfm_ray.report import linear_baselines
from lfm_ray.report.contact_sheet import contact_sheet
from lfm_ray.report.inspection import missing_values
from lfm_ray.settings import load

KINDS: dict[str, Kind] = {"sound": "audio", "picture": "image", "words": "text", "vector": "feature"}
ROWS = 16
LACKS = {0: ["picture"], 3: ["sound", "words"], 5: ["vector"], 7: ["picture", "sound", "vector"], 13: ["words"]}
SETTINGS = ["audio.n_fft=128", "audio.hop=64", "text.length=12"]
"""Rows 0 to 9 are train, the others val."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest in which some files are not named, and others are named and not there."""
    folder, lines = tmp_path_factory.mktemp("raw"), []
    for row in range(ROWS):
        named = {"sound": f"{row}.wav", "picture": f"{row}.png", "words": f"word {row}", "vector": f"{row}.npy"}
        wav(folder / named["sound"], seconds=0.2, seed=row)
        png(folder / named["picture"], width=9, height=8, mode="RGB", seed=row)
        np.save(folder / named["vector"], np.arange(3.0) + row)
        for number, name in enumerate(LACKS.get(row, [])):
            if number or name == "words":
                named[name] = ""
            else:
                (folder / named[name]).unlink()
        lines.append(named | {"id": f"r{row}", "label": "ab"[row % 2], "split": "val" if row >= 10 else "train"})
    pd.DataFrame(lines).to_csv(folder / "manifest.csv", index=False)
    return folder


def manifest(raw: Path, **more: Any) -> Manifest:
    return read_manifest(raw / "manifest.csv", KINDS, allow_missing=True, **more)


def made(rows: Manifest, out: Path, *overrides: str) -> Shards:
    return prepared(rows, load(PrepareConfig, None, [*SETTINGS, *overrides]), out)


@pytest.fixture(scope="module", params=["tensor", "packed"])
def shards(request: pytest.FixtureRequest, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    how = ["storage.sound=waveform", "storage.picture=jpeg"] if request.param == "packed" else []
    return made(manifest(raw), tmp_path_factory.mktemp("made") / request.param, *how)


def test_without_the_flag_they_are_bad_rows(raw: Path) -> None:
    found = read_manifest(raw / "manifest.csv", KINDS)
    assert {(row.id, row.column, row.reason) for row in found.bad} == {
        ("r0", "picture", "there is no such file"),
        ("r3", "words", "is empty"),
        ("r5", "vector", "there is no such file"),
        ("r7", "sound", "is empty"),
        ("r13", "words", "is empty"),
    }


def test_rows_have_the_values_that_they_have(raw: Path) -> None:
    found = manifest(raw)
    assert not found.bad
    for row in [row for rows in found.splits.values() for row in rows]:
        assert set(row.values) == set(KINDS) - set(LACKS.get(int(row.id[1:]), []))


def test_a_row_without_any_is_bad(raw: Path, tmp_path: Path) -> None:
    table = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    table.loc[2, list(KINDS)] = ""
    table.loc[4, list(KINDS)] = ["no.wav", "", "", "no.npy"]
    table.to_csv(raw / "none.csv", index=False)
    bad = read_manifest(raw / "none.csv", KINDS, allow_missing=True).bad
    assert [(row.id, row.reason) for row in bad] == [
        ("r2", "is empty, and so is each other modality (sound, picture, words, vector)"),
        ("r4", "there is no such file"),
    ]


def test_a_damaged_file_is_not_a_missing_one(raw: Path, tmp_path: Path) -> None:
    table = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    (raw / "cut.wav").write_bytes((raw / "1.wav").read_bytes()[:20])
    table.loc[1, "sound"] = "cut.wav"
    table.to_csv(raw / "damaged.csv", index=False)
    with pytest.raises(UserError, match=r"1 rows cannot be used; the first: r1: sound: .*cut.wav"):
        made(read_manifest(raw / "damaged.csv", KINDS, allow_missing=True), tmp_path / "out")


def test_shards_say_which_rows_have_which_modality(shards: Shards) -> None:
    card = shards.card
    assert {name: one.missing for name, one in card.modalities.items()} == {
        "sound": {"train": 2}, "picture": {"train": 2}, "words": {"train": 1, "val": 1}, "vector": {"train": 2},
    }  # fmt: skip
    assert missing_values(card) == "sound 2 train; picture 2 train; words 1 train, 1 val; vector 2 train"
    train = pa.ipc.open_file(pa.memory_map(str(shards.path / "train-00000.arrow"))).get_batch(0)
    for name in KINDS:
        expected = [name not in LACKS.get(row, []) for row in range(10)]
        assert shards.present("train", name).tolist() == train.column(name).is_valid().to_pylist() == expected
        columns, _ = shards.take("train", np.array([7, 1, 0]), [name])
        assert columns[presence(name)].tolist() == [expected[7], expected[1], expected[0]]
    shards.verify()
    whole, _ = shards.arrays("train")
    some, _ = shards.take("train", np.arange(10))
    for name, column in whole.items():
        if isinstance(column, PackedFrames):
            assert [column.files(row) for row in range(10)] == [some[name].files(row) for row in range(10)]
        else:
            assert np.array_equal(column, some[name])


def test_statistics_are_those_of_the_rows_that_have_it(shards: Shards) -> None:
    vector = shards.card.modalities["vector"]
    rows = np.array([np.arange(3.0) + row for row in range(10) if row not in (5, 7)])
    np.testing.assert_allclose([vector.mean, vector.std], [rows.mean(), rows.std()])
    np.testing.assert_allclose([vector.means, vector.stds], [rows.mean(axis=0), rows.std(axis=0)])


def test_inputs_of_the_others_are_as_without_gaps(shards: Shards, raw: Path, tmp_path: Path) -> None:
    """Also augmented, as what is drawn for a sample depends on nothing else."""
    augmented = {"smallest_crop": 0.3, "flip": 0.5, "time_mask": 0.3}
    inputs = Inputs.of(shards.card, DataSettings.model_validate({"augmentation": augmented}), 1, training=True)
    rows = np.arange(10)
    columns, _ = shards.take("train", rows)
    together = inputs(columns, rows, 3)
    for row in (1, 2, 4):
        columns, _ = shards.take("train", np.array([row]))
        alone = inputs(columns, np.array([row]), 3)
        for name in KINDS:
            assert np.array_equal(together[name][row], alone[name][0]), name
    assert not together["vector"][[5, 7]].any() and not together["words"][3].any()
    assert not inputs._unpacked(shards.take("train", rows)[0]["picture"], "picture", shards.card.modalities["picture"])[
        [0, 7]
    ].any()


def test_shards_without_gaps_are_byte_for_byte_as_they_are(raw: Path, tmp_path: Path) -> None:
    table = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    table[[row not in LACKS for row in range(ROWS)]].to_csv(raw / "full.csv", index=False)
    sums = []
    for allow in (False, True):
        rows = read_manifest(raw / "full.csv", KINDS, allow_missing=allow)
        out = made(rows, tmp_path / str(allow)).path
        sums.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.iterdir()})
    assert sums[0] == sums[1] and CARD in sums[0]
    assert "missing" not in (tmp_path / "True" / CARD).read_text()


def test_a_split_that_lacks_a_modality_altogether_is_refused(raw: Path, tmp_path: Path) -> None:
    table = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    for split, message in {"train": "no training row has sound", "val": "no row of split val has sound"}.items():
        table.assign(sound=table["sound"].where(table["split"] != split, "")).to_csv(raw / "never.csv", index=False)
        rows = read_manifest(raw / "never.csv", KINDS, allow_missing=True)
        with pytest.raises(UserError, match=message):
            made(rows, tmp_path / split)


def test_rows_that_have_none_of_a_runs_modalities_are_not_read(shards: Shards) -> None:
    assert shards.usable("train").tolist() == list(range(10))
    assert shards.usable("train", ["sound", "picture"]).tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert shards.usable("train", ["words"]).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_linear_models_are_fitted_to_the_rows_that_have_the_modality(shards: Shards, tmp_path: Path) -> None:
    found = linear_baselines.fit(shards)
    assert set(found.unimodal) == set(KINDS) and all(0 <= value <= 1 for value in found.unimodal.values())
    assert (found.train_rows, found.val_rows) == (10, 6)
    contact_sheet(shards, tmp_path / "sheet.png")


def test_folders_of_classes(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for label in "ab":
            folder = tmp_path / "raw" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                png(folder / f"{number}.png", width=8, height=8, mode="RGB", seed=number)
                if number != 1:
                    features(folder / f"{number}.npy")
    kinds: dict[str, Kind] = {"image": "image", "feature": "feature"}
    assert len(of_folders(tmp_path / "raw", kinds, PrepareConfig()).bad) == 4
    found = of_folders(tmp_path / "raw", kinds, PrepareConfig(), allow_missing=True)
    assert not found.bad
    assert [len(row.values) for row in found.splits["train"]] == [2, 1, 2, 2] * 2


def test_clips_of_crema_d_that_lack_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crema_d(tmp_path)
    sounds = sorted((tmp_path / "AudioWAV").glob("*.wav"))
    sounds[1].unlink()
    strict, _ = of_dataset("crema_d", tmp_path)
    assert [(row.id, row.column, row.reason) for row in strict.bad] == [
        (sounds[1].stem, "audio", "there is no such file")
    ]
    kept, _ = of_dataset("crema_d", tmp_path, allow_missing=True)
    rows = {row.id: row for split in kept.splits.values() for row in split}
    assert not kept.bad and set(rows[sounds[1].stem].values) == {"video"}
