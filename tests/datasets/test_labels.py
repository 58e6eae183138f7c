"""The column `label`: several labels a row, and numbers, from the manifest to the shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.preparing.build import _target, make_shard
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest, check_manifest, read_manifest
from lfm_ray.datasets.preparing.sources import of_manifest
from lfm_ray.datasets.shards import CARD, DatasetCard, ShardFile, Shards, write_shard
from lfm_ray.datasets.targets import TargetCard
from lfm_ray.errors import UserError


def manifest(labels: list[object], target: TargetKind, splits: str | None = None, folder: Path = Path()) -> Manifest:
    """A manifest of texts; splits: a letter for each row, t for train and v for val."""
    table = pd.DataFrame({"words": [f"word {i}" for i in range(len(labels))], "label": labels})
    if splits:
        table["split"] = [{"t": "train", "v": "val"}[letter] for letter in splits]
    return check_manifest(folder / "m.csv", table, {"words": "text"}, target=target)


def stored(found: Manifest, split: str = "train") -> list[object]:
    """The labels of a split."""
    return [np.asarray(row.label).tolist() for row in found.splits[split]]


def test_several_labels_a_row() -> None:
    found = manifest(["dog; rain", "rain", ["dog"], [], ";", "rain|dog"], "multilabel", "ttttvv")
    assert found.classes == ["dog", "rain"] and found.target == "multilabel"
    assert stored(found) == [[1, 1], [0, 1], [1, 0], [0, 0]]
    assert stored(found, "val") == [[0, 0], [1, 1]]
    assert manifest(["10;9", "9", "10"], "multilabel", "ttv").classes == ["9", "10"]


def test_numbers_as_targets() -> None:
    found = manifest([-1.5, 2, "3e1", "0.25"], "regression", "tttv")
    assert found.classes == [] and stored(found) == [-1.5, 2, 30] and stored(found, "val") == [0.25]
    card = _target(found, skipped=["2"])  # a row whose media are broken
    assert (card.kind, card.mean, card.std) == ("regression", 0.25, 1.75)


def test_the_target_is_part_of_the_fingerprint() -> None:
    labels: list[object] = ["1", "2", "1"]
    found = {kind: manifest(labels, kind, "ttv").fingerprint for kind in ("classes", "multilabel", "regression")}
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("target", "labels", "reason"),
    [
        ("multilabel", ["a;b", "a;b;a", "b", "a"], "names a twice"),
        ("multilabel", ["a;b", "", "b", "a"], "is empty"),
        ("multilabel", ["a;b", "b", "b", "a;c"], "the label 'c' of split val does not occur in train"),
        ("regression", ["1", "two", "3", "4"], "must be a number, as --target regression says"),
        ("regression", ["1", "1,5", "3", "4"], "must be a number"),
        ("regression", ["1", "inf", "3", "4"], "must be a number"),
        ("regression", ["1", "1_000", "3", "4"], "must be a number"),
        ("multilabel", ["[a, b]", "a", "b", "a"], "is a list written as text; write dog;rain"),
        ("classes", ["['a', 'b']", "a", "b", "a"], "is a list written as text"),
        ("classes", ["a\nx.wav,b", "a", "b", "a"], "has a line break; is there a quotation mark that is not closed"),
        ("classes", ["a;b", "a", "b", "a"], "looks like 2 labels; a row has one, or several with --target multilabel"),
    ],
)
def test_labels_that_cannot_be_read_are_bad_rows(target: TargetKind, labels: list[object], reason: str) -> None:
    good: list[object] = ["7", "8"] if target == "regression" else ["a", "b"]
    found = manifest([*good, *labels], target, "ttttvv")
    assert len(found.bad) == 1
    assert found.bad[0].column == "label" and found.bad[0].reason.startswith(reason)


def test_several_labels_are_seen_where_none_stands_alone() -> None:
    found = manifest(["dog;rain", "rain;wind", "dog;wind", "x", "y", "x"], "classes", "tttttv")
    assert [row.reason[:19] for row in found.bad[:3]] == ["looks like 2 labels"] * 3


@pytest.mark.parametrize(
    ("target", "labels", "reason"),
    [
        ("multilabel", ["a;b", "b;a", "a"], "all rows of train have the same labels"),
        ("multilabel", ["a;b", "A", "a"], "differ only in how they are written"),
        ("regression", ["3", "3.0", "4"], "all labels of train are 3; there is nothing to learn"),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused(target: TargetKind, labels: list[object], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        manifest(labels, target, "ttv")


def test_a_split_that_is_made_has_the_rarest_labels_and_the_range_of_numbers_everywhere() -> None:
    random = np.random.default_rng(0)
    rare: list[object] = ["a;rare" if i % 10 == 0 else random.choice(["a", "a;b", "b"]) for i in range(200)]
    found = manifest(rare, "multilabel")
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 160, "val": 20, "test": 20}
    place = found.classes.index("rare")
    assert [sum(label[place] for label in stored(found, split)) for split in found.splits] == [16, 2, 2]  # type: ignore[index]
    numbers = manifest([float(i) for i in random.permutation(100)], "regression")
    for split in ("val", "test"):  # one of each tenth
        assert sorted(int(label) // 10 for label in stored(numbers, split)) == list(range(10))  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_parquet_files_of_splits_without_val_have_other_targets_too(tmp_path: Path, kind: TargetKind) -> None:
    several: list[object] = [["a"] if i % 2 else ["a", "b"] for i in range(40)]
    numbers: list[object] = [i / 10 for i in range(40)]
    for split, rows in (("train", 40), ("test", 8)):
        labels = several if kind == "multilabel" else numbers
        table = pd.DataFrame({"words": [f"word {i}" for i in range(rows)], "tags": labels[:rows]})
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    found = of_manifest(tmp_path, {"words": "text"}, PrepareConfig(), label="tags", target=kind)
    assert not found.bad and {split: len(rows) for split, rows in found.splits.items()} == {
        "train": 36, "val": 4, "test": 8
    }  # fmt: skip
    if kind == "multilabel":
        assert sorted(stored(found, "val")) == [[1, 0], [1, 0], [1, 1], [1, 1]]  # type: ignore[type-var]
        assert stored(found, "test")[:2] == [[1, 1], [1, 0]]
    else:
        assert sorted(int(label) for label in stored(found, "val")) == [0, 1, 2, 3]  # type: ignore[call-overload]
    file = tmp_path / "train-00000-of-00001.parquet"  # as a manifest, which has one column of labels as well
    again = read_manifest(file, {"words": "text"}, label="tags", target=kind)
    assert {split: len(rows) for split, rows in again.splits.items()} == {"train": 32, "val": 4, "test": 4}


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_shards_hold_what_was_written(tmp_path: Path, kind: TargetKind) -> None:
    labels: list[object] = ["a;b", "b", "a", "b"] if kind == "multilabel" else [0.1, -2, 1e6, 3]
    found = manifest(labels, kind, "tttv", tmp_path)
    splits = {}
    for split, rows in found.splits.items():
        bare = [replace(row, values={}) for row in rows]
        result = make_shard(tmp_path / f"{split}-00000.arrow", bare, {}, None)  # type: ignore[arg-type]
        splits[split] = [ShardFile(file=result["file"], rows=result["rows"], sha256=result["sha256"])]
    card = DatasetCard(
        modalities={},
        target=_target(found, []),
        classes=found.classes,
        splits=splits,
        preprocessing={},
        fingerprint="0",
    )
    (tmp_path / CARD).write_text(card.to_json())
    shards = Shards(tmp_path)
    assert shards.arrays("train", [])[1].tolist() == stored(found) == shards.take("train", np.arange(3), [])[1].tolist()
    shards.verify()


@pytest.mark.parametrize(
    ("target", "labels", "said"),
    [
        (TargetCard(kind="multilabel"), np.array([[1, 2]], np.uint8), "a label is neither 0 nor 1"),
        (TargetCard(kind="multilabel"), np.array([[1]], np.uint8), "not of type"),
        (TargetCard(kind="regression"), np.array([np.nan]), "a label is not finite"),
        (TargetCard(kind="regression"), np.array([1]), "not of type double"),
        (TargetCard(), np.array([2]), "a label is outside the 2 classes that dataset.json names"),
    ],
)
def test_labels_that_only_an_altered_file_can_have(
    tmp_path: Path, target: TargetCard, labels: np.ndarray, said: str
) -> None:
    from lfm_ray.datasets.shards import sha256

    file = tmp_path / "train-00000.arrow"
    write_shard(file, ["0"], labels, {})
    splits = {"train": [ShardFile(file=file.name, rows=1, sha256=sha256(file))]}
    card = DatasetCard(
        modalities={}, target=target, classes=[] if target.kind == "regression" else ["a", "b"], splits=splits,
        preprocessing={}, fingerprint="0",
    )  # fmt: skip
    (tmp_path / CARD).write_text(card.to_json())
    with pytest.raises(UserError, match=said):
        Shards(tmp_path).arrays("train", [])


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), ("\u00e9", "e\u0301"), ("a", "\uff41"), ("a", "a\u200b"), ("a", "a\ufe0f"), ("ab", "a\u034fb"),
     ("a", "a\u3164"), ("a", "a\u2800"), ("a b", "a\u00a0b"), ("a-b", "a\u2011b"), ("a-b", "a\u2013b"),
     ("-1", "\u22121"), ("it's", "it\u2019s"), ("1", "1.0"), ("01", "1"), ("1e3", "1000"), ("0", "-0"),
     ("1", "\u0661")],
)  # fmt: skip
@pytest.mark.parametrize("target", ["classes", "multilabel"])
def test_labels_that_look_the_same_are_named(one: str, other: str, target: TargetKind) -> None:
    with pytest.raises(UserError, match="differ only in how they are written; make them one, or rename one"):
        manifest([one, other, "c", one], target, "tttv")


def test_labels_that_differ_a_little_are_two() -> None:
    for one, other in (
        ("a", "b"),
        ("9007199254740993", "9007199254740992"),
        ("a.", "a"),
        ("1_0", "10"),
        ("1e99999", "2"),
    ):
        assert len(manifest([one, other, one], "classes", "ttv").classes) == 2


def test_classes_that_a_dataset_names_twice_are_one_and_their_order_is_always_the_same() -> None:
    table = pd.DataFrame({"words": list("abc"), "label": ["b", "a", "b"], "split": ["train", "train", "val"]})
    found = check_manifest(Path("m.csv"), table, {"words": "text"}, classes=["b", "a", "b"])
    assert found.classes == ["b", "a"]
    assert manifest(["nan", "2", "10", "2"], "classes", "tttv").classes == ["10", "2", "nan"]


@pytest.mark.parametrize("character", ["\0", "\x1b[31m", "\x07", "\u2028", "\u202e", "\x85"])
def test_characters_that_steer_a_terminal_are_in_no_label_and_no_id(character: str) -> None:
    (bad,) = manifest(["a", "b", f"x{character}y", "a"], "classes", "tttv").bad
    assert bad.reason.startswith("has a character that cannot be shown") and bad.value.isprintable()
    table = pd.DataFrame({"words": list("abcd"), "label": list("abaa"), "split": ["train", "train", "val", "val"]})
    (bad,) = check_manifest(Path("m.csv"), table.assign(id=["1", "2", f"3{character}4", "5"]), {"words": "text"}).bad
    assert bad.column == "id" and bad.id.isprintable()


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (["a", None], "is a list with an empty label in it"),
        (["a", ""], "is a list with an empty label in it"),
        ([float("nan")], "is a list with an empty label in it"),
        (["a;b"], "is a list that holds 'a;b', and ; and | separate labels; rename it"),
        ([["a"]], "is a list that holds a list where a text or a number belongs"),
        ({"a": 1}, "holds a structure where a label, or a list of labels, belongs"),
    ],
)
def test_lists_of_labels_with_something_else_in_them(label: object, reason: str) -> None:
    found = manifest([["a", b"b"], {"b", "a"}, [1.0], label, ("a",)], "multilabel", "ttttv")
    assert found.classes == ["1", "a", "b"] and [bad.reason for bad in found.bad] == [reason]
