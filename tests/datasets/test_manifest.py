from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
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
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "manifest.csv").write_bytes("words,label\nd\u00e9j\u00e0,a\n".encode(encoding))
        with pytest.raises(UserError, match="is not a text in UTF-8; save it"):
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


def test_a_class_whose_training_rows_lack_their_files_is_left_out_of_the_other_splits(tmp_path: Path) -> None:
    """The other rows of the class are bad too, each for its own reason."""
    names = [f"{number}.wav" for number in range(6)]
    for name in names[1:]:
        (tmp_path / name).touch()
    table = pd.DataFrame(
        {"sound": names, "label": [*"abcabc"], "split": ["train"] * 3 + ["val"] * 3, "id": [*"uvwxyz"]}
    )
    manifest = check_manifest(tmp_path / "m.csv", table, {"sound": "audio"})
    assert manifest.classes == ["b", "c"]
    assert [row.id for rows in manifest.splits.values() for row in rows] == ["v", "w", "y", "z"]
    reasons = {row.id: row.reason for row in manifest.bad}
    assert reasons == {"u": "there is no such file", "x": "this class of split val does not occur in train"}


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


@pytest.mark.parametrize(
    ("labels", "bad"),
    [
        (["1", "2 ", "1", "2", "1", "2", "1"], ("b", "label", "2 ", "has blanks at its ends")),
        (["1", "2", "1;2", "2", "1", "2", "1"], ("c", "label", "1;2", "looks like 2 labels")),
        (["a", "b", "a | b", "b", "a", "b", "a"], ("c", "label", "a | b", "looks like 2 labels")),
    ],
)
def test_a_label_that_would_silently_be_a_class_of_its_own_is_bad(
    tmp_path: Path, labels: list[str], bad: tuple[str, ...]
) -> None:
    (found,) = read_manifest(write(tmp_path, **(LONGER | {"label": labels})), {"words": "text"}).bad
    assert tuple(found)[:3] == bad[:3] and found.reason.startswith(bad[3])


@pytest.mark.parametrize("other", ["SAD", "sad\u200b", "\uff53ad"])
def test_labels_that_look_alike_are_refused(tmp_path: Path, other: str) -> None:
    labels = ["sad", other, "sad", other, "sad", other, "sad"]
    with pytest.raises(UserError, match="differ only in how they are written"):
        read_manifest(write(tmp_path, **(LONGER | {"label": labels})), {"words": "text"})


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 11, 3, 11, 3, 11, 3], ["3", "11"]),
        ([True, False, True, False, True, False, True], ["False", "True"]),
        ([1.5, -2.0, 1.5, -2.0, 1.5, -2.0, 1.5], ["-2", "1.5"]),
        (pd.Categorical(["lo", "hi"] * 3 + ["lo"], categories=["lo", "mid", "hi"], ordered=True), ["lo", "hi"]),
    ],
)
def test_labels_of_any_type_have_their_order(tmp_path: Path, labels: Any, classes: list[str]) -> None:
    frame = pd.DataFrame(LONGER | {"label": labels})
    manifest = check_manifest(tmp_path / "frame", frame, {"words": "text"})
    assert manifest.classes == classes and not manifest.bad
    found = [classes[row.label] for rows in manifest.splits.values() for row in rows]
    assert found == [f"{label:g}" if isinstance(label, float) else str(label) for label in labels]


def test_a_card_decides_the_order_of_the_classes(tmp_path: Path) -> None:
    manifest = check_manifest(tmp_path / "x", pd.DataFrame(LONGER), {"words": "text"}, classes=["2", "3", "1"])
    assert manifest.classes == ["2", "1"]


def test_a_group_stays_in_one_split_and_every_class_is_in_each(tmp_path: Path) -> None:
    people, each = 20, 6
    frame = pd.DataFrame(
        {
            "words": [f"w{i}" for i in range(people * each)],
            "label": ["a", "b"] * (people * each // 2),
            "speaker": [f"s{i // each}" for i in range(people * each)],
        }
    )
    manifest = check_manifest(tmp_path / "x", frame, {"words": "text"}, group="speaker")
    speakers = {
        split: {frame["speaker"][int(row.id)] for row in rows} for split, rows in manifest.splits.items()
    }  # fmt: skip
    assert sum(map(len, speakers.values())) == people == len(set().union(*speakers.values()))
    assert len(speakers["val"]) == len(speakers["test"]) == 2
    assert all({row.label for row in rows} == {0, 1} for rows in manifest.splits.values())
    again = check_manifest(tmp_path / "x", frame, {"words": "text"}, group="speaker")
    assert again.splits == manifest.splits
    assert check_manifest(tmp_path / "x", frame, {"words": "text"}, group="speaker", seed=1).splits != manifest.splits
    with pytest.raises(UserError, match="no such column; did you mean speaker"):
        check_manifest(tmp_path / "x", frame, {"words": "text"}, group="speakr")
    with pytest.raises(UserError, match="has a column split"):
        check_manifest(tmp_path / "x", pd.DataFrame(LONGER), {"words": "text"}, group="id")


def test_a_missing_column_names_those_of_the_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"words": ["x"], "emotion": ["a"]})
    with pytest.raises(UserError, match="has no column 'label'; columns of the file: emotion, words"):
        check_manifest(tmp_path / "x", frame, {"words": "text"})


def test_one_matrix_for_all_rows_is_refused_and_a_path_may_hold_dots(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", np.zeros((7, 3)))
    frame = pd.DataFrame(LONGER | {"f": ["all.npy"] * 7})
    with pytest.raises(UserError, match=r"every row names the same file as its f, .*all\.npy; save the array"):
        check_manifest(tmp_path / "x", frame, {"f": "feature"})
    for row in range(7):
        np.save(tmp_path / f"{row}.npy", np.zeros(3))
    frame = frame.assign(f=[f"{row}.npy" for row in range(7)])
    dotted = tmp_path / "inner" / ".." / "x"
    assert not check_manifest(dotted, frame, {"f": "feature"}).bad
    with pytest.raises(UserError, match=r"a: f: is outside .*inner; --allow-outside accepts it"):
        check_manifest(tmp_path / "inner" / "x", frame.assign(f="../0.npy"), {"words": "text", "f": "feature"})


@pytest.mark.parametrize(
    "name", ["fused", "train", "values", "a.b", "..", "a/b", "forward", "accuracy_gap", " x", "-x"]
)
def test_a_name_that_would_mean_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"--text .*(rename the column|must be visible)"):
        read_manifest(write(tmp_path), {name: "text"})
