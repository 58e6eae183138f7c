from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lfm_ray.datasets.manifest import read_manifest
from lfm_ray.errors import UserError

TABLE = {
    "id": ["a", "b", "c", "d", "e"],
    "words": ["one", "two", "three", "four", "five"],
    "label": ["10", "9", "10", "9", "10"],
    "split": ["train", "train", "val", "val", "test"],
}


def write(folder: Path, **changes: Any) -> Path:
    columns = {name: values for name, values in (TABLE | changes).items() if values is not None}
    pd.DataFrame(columns).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_rows_classes_and_splits(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path), {"words": "text"})
    assert manifest.classes == ["9", "10"]  # numerically, not as text
    assert {split: [row.id for row in rows] for split, rows in manifest.splits.items()} == {
        "train": ["a", "b"], "val": ["c", "d"], "test": ["e"],
    }  # fmt: skip
    assert manifest.splits["train"][0].values == {"words": "one"}
    assert [row.label for row in manifest.splits["val"]] == [1, 0]


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    from_csv = read_manifest(write(tmp_path), {"words": "text"})
    table = pd.DataFrame(TABLE | {"label": [10, 9, 10, 9, 10]})
    table.to_parquet(tmp_path / "manifest.parquet")
    from_parquet = read_manifest(tmp_path / "manifest.parquet", {"words": "text"})
    assert from_parquet.splits == from_csv.splits
    assert from_parquet.fingerprint == from_csv.fingerprint


def test_text_that_looks_like_nothing_stays_text(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, words=["NA", "null", "nan", "None", "0"]), {"words": "text"})
    assert [row.values["words"] for row in manifest.splits["train"]] == ["NA", "null"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": None, "wrods": TABLE["words"]}, r"no column 'words'; did you mean wrods\?"),
        ({"label": None}, "no column 'label'"),
        ({"label": ["1", "", "1", "2", "1"]}, "row b: column label is empty"),
        ({"words": ["x", None, "x", "x", "x"]}, "row b: column words is empty"),
        (
            {"split": ["train", "training", "val", "val", "test"]},
            r"row b: unknown split 'training'; did you mean train",
        ),
        ({"id": ["a", "b", "b", "d", "e"]}, "id b stands on more than one row"),
        ({"id": ["a", "", "c", "d", "e"]}, "row 1 .* empty id"),
        ({"split": ["val"] * 5}, "no row is of split 'train'"),
        ({"split": ["train"] * 5}, "no row is of split 'val'"),
        ({"label": ["1", "2", "1", "2", "3"]}, "row e: label '3' of split test does not occur in train"),
        ({"label": ["1"] * 5}, "at least two classes"),
        ({"start": ["0", "x", "0", "0", "0"]}, "row b: start must be a number of seconds"),
        ({"start": [1] * 5, "end": [2, 3, 1, 2, 2]}, "row c: end .1 s. does not lie after start"),
        ({name: [] for name in TABLE}, "no rows"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_manifest(write(tmp_path, **changes), {"words": "text"})
    assert "\n" not in str(raised.value)


def test_unreadable_manifests(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "none.csv", {"words": "text"})
    with pytest.raises(UserError, match=r"a \.csv or \.parquet file"):
        read_manifest(tmp_path / "table.xlsx", {"words": "text"})
    (tmp_path / "manifest.csv").write_text("")
    with pytest.raises(UserError, match="empty"):
        read_manifest(tmp_path / "manifest.csv", {"words": "text"})
    (tmp_path / "manifest.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"manifest\.parquet: cannot be read"):
        read_manifest(tmp_path / "manifest.parquet", {"words": "text"})
    with pytest.raises(UserError, match="no modality given"):
        read_manifest(write(tmp_path), {})
    with pytest.raises(UserError, match="meaning of its own"):
        read_manifest(write(tmp_path), {"label": "text"})


def test_paths_start_at_the_manifest_and_missing_files_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "one").touch()
    with pytest.raises(UserError, match=r"4 media files do not exist: .*/two, .*/three, .*/four, \.\.\.") as raised:
        read_manifest(path, {"words": "audio"})
    assert "\n" not in str(raised.value)
    manifest = read_manifest(path, {"words": "audio"}, allow_missing_files=True)
    assert manifest.splits["train"][0].values["words"] == str(tmp_path / "one")
    (tmp_path / "one").write_text("longer")
    assert read_manifest(path, {"words": "audio"}, allow_missing_files=True).fingerprint != manifest.fingerprint


def test_start_and_end(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path, start=["0.5", "", "", "", ""], end=["2", "3", "", "", ""]), {"words": "text"}
    )
    assert [(row.start, row.end) for row in manifest.splits["train"]] == [(0.5, 2.0), (None, 3.0)]


def big(folder: Path, split: bool) -> Path:
    table = pd.DataFrame({"words": ["x"] * 150, "label": ["a"] * 100 + ["b"] * 50})
    if split:
        table["split"] = ["train", "val", "test"] * 50
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_without_a_split_each_class_is_split_by_the_seed(tmp_path: Path) -> None:
    path = big(tmp_path, split=False)
    first, again, other = (read_manifest(path, {"words": "text"}, seed=seed) for seed in (0, 0, 1))
    counts = {split: dict(Counter(row.label for row in rows)) for split, rows in first.splits.items()}
    assert counts == {"train": {0: 80, 1: 40}, "val": {0: 10, 1: 5}, "test": {0: 10, 1: 5}}
    assert first.splits == again.splits
    assert first.splits != other.splits


def test_limit_draws_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    path = big(tmp_path, split=True)
    manifest = read_manifest(path, {"words": "text"}, limit={"train": 20, "val": 1000})
    numbers = [int(row.id) for row in manifest.splits["train"]]
    assert len(numbers) == 20
    assert numbers == sorted(numbers)
    assert numbers != list(range(0, 60, 3))
    assert len(manifest.splits["val"]) == len(manifest.splits["test"]) == 50
    other = read_manifest(path, {"words": "text"}, limit={"train": 20}, seed=1)
    assert [int(row.id) for row in other.splits["train"]] != numbers
    with pytest.raises(UserError, match=r"limit\.trian: unknown split; did you mean train"):
        read_manifest(path, {"words": "text"}, limit={"trian": 1})
    with pytest.raises(UserError, match=r"limit\.train: must be at least 1"):
        read_manifest(path, {"words": "text"}, limit={"train": 0})
