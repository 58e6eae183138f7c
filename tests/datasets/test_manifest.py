from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lfm_ray.datasets.preparing.manifest import check_manifest, read_manifest
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
        ({"split": ["val"] * 5}, "no row is in split 'train'"),
        ({"split": ["train"] * 5}, "no row is in split 'val'"),
        ({"words": ["x", "x", "", "", "x"]}, "no row is in split 'val'.*2 rows are bad, the first: c: words: is empty"),
        ({"label": ["1"] * 5}, "at least two classes"),
        ({name: [] for name in TABLE}, "no rows"),
    ],
)
def test_what_is_wrong_with_the_whole_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_manifest(write(tmp_path, **changes), {"words": "text"})
    assert "\n" not in str(raised.value)


TRAIN_TWICE = ["train", "train", "train", "train", "val", "val", "test"]
LONGER = {"id": list("abcdefg"), "words": ["x"] * 7, "label": ["1", "2"] * 3 + ["1"], "split": TRAIN_TWICE}


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"label": ["1", "", "1", "2", "1", "2", "1"]}, [("b", "label", "", "is empty")]),
        (
            {"words": ["x", None, " ", "x", "x", "x", "x"]},
            [("b", "words", "", "is empty"), ("c", "words", "", "is empty")],
        ),
        (
            {"split": ["train", "training", *TRAIN_TWICE[2:]]},
            [("b", "split", "training", "unknown split; did you mean train?")],
        ),
        (
            {"id": ["a", "b", "b", "d", "e", "a", "g"]},
            [
                ("b", "id", "b", "repeats that of an earlier row"),
                ("a", "id", "a", "repeats that of an earlier row of split train; this row is in val"),
            ],
        ),
        ({"id": ["a", "", *"cdefg"]}, [("row 1", "id", "", "is empty")]),
        (
            {"label": ["1", "2", "1", "2", "1", "2", "3"]},
            [("g", "label", "3", "this class of split test does not occur in train")],
        ),
        ({"start": ["0", "x", *"00000"]}, [("b", "start", "x", "must be a number of seconds, 0 or more")]),
        ({"start": ["0", "-1", *"00000"]}, [("b", "start", "-1", "must be a number of seconds, 0 or more")]),
        (
            {"start": ["1"] * 7, "end": ["2", "3", "1", "2", "2", "", "2"]},
            [("c", "end", "1", "must be after start (1 s)")],
        ),
    ],
)
def test_bad_rows_are_listed_all_at_once_and_stand_in_no_split(
    tmp_path: Path, changes: dict[str, Any], bad: list[tuple[str, ...]]
) -> None:
    manifest = read_manifest(write(tmp_path, **(LONGER | changes)), {"words": "text"})
    assert [tuple(row) for row in manifest.bad] == bad
    kept = [row.id for rows in manifest.splits.values() for row in rows]
    assert len(kept) == 7 - len(bad)
    assert len(set(kept)) == len(kept)


def test_unknown_classes_get_the_nearest_of_the_card(tmp_path: Path) -> None:
    table = pd.DataFrame(LONGER | {"label": ["HAPPY", "SAD", "HAPY", "SAD", "HAPPY", "SAD", "SAD"]})
    manifest = check_manifest(tmp_path / "x", table, {"words": "text"}, classes=["HAPPY", "SAD", "CALM"])
    assert [tuple(row) for row in manifest.bad] == [("c", "label", "HAPY", "unknown class; did you mean HAPPY?")]
    assert manifest.classes == ["HAPPY", "SAD"]


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
    with pytest.raises(UserError, match="name is reserved"):
        read_manifest(write(tmp_path), {"label": "text"})


def test_paths_start_at_the_manifest_and_missing_files_are_bad(tmp_path: Path) -> None:
    path = write(tmp_path, **LONGER, file=[f"{name}.wav" for name in "abcdefg"])
    for name in "abdefg":
        (tmp_path / f"{name}.wav").touch()
    manifest = read_manifest(path, {"words": "text", "file": "audio"})
    assert [tuple(row) for row in manifest.bad] == [("c", "file", "c.wav", "there is no such file")]
    assert [row.id for row in manifest.splits["train"]] == ["a", "b", "d"]
    assert [row.values["file"] for row in manifest.splits["train"]] == [str(tmp_path / f"{name}.wav") for name in "abd"]
    (tmp_path / "a.wav").write_text("longer")
    again = read_manifest(path, {"words": "text", "file": "audio"})
    assert again.fingerprint != manifest.fingerprint
    assert again.splits == manifest.splits


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


@pytest.mark.parametrize("value", ["../elsewhere.wav", "a/../../elsewhere.wav", "/etc/hostname"])
def test_media_outside_the_manifests_folder_are_read_only_if_that_is_allowed(tmp_path: Path, value: str) -> None:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "elsewhere.wav").write_bytes(b"x")
    for name in "abc":
        (folder / f"{name}.wav").write_bytes(b"x")
    lines = ["sound,label,split", "a.wav,0,train", "./b.wav,1,train", "c.wav,0,val", f"{value},1,train"]
    (folder / "manifest.csv").write_text("\n".join(lines))
    refused = read_manifest(folder / "manifest.csv", {"sound": "audio"})
    assert [row.value for row in refused.bad] == [value]
    assert "is outside" in refused.bad[0].reason and "--allow-outside" in refused.bad[0].reason
    if value.startswith("/"):
        return
    allowed = read_manifest(folder / "manifest.csv", {"sound": "audio"}, allow_outside=True)
    assert not allowed.bad and len(allowed.splits["train"]) == 3
