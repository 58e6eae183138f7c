"""Features published as pickles: read as they are, and nothing else that a pickle can hold."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import prepared
from raw_layouts import LAYOUTS

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.preparing import pickles
from lfm_ray.datasets.preparing.cards import raw_manifest
from lfm_ray.datasets.preparing.decoding import decode
from lfm_ray.datasets.preparing.pickles import PickledArray, Place
from lfm_ray.datasets.preparing.resolving import resolve
from lfm_ray.datasets.preparing.sources import of_dataset
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.models.directions import LEADING
from lfm_ray.prepare import main
from lfm_ray.resources import shipped_file
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

BIG = np.arange(6 * 50 * 100, dtype=np.float32).reshape(6, 50, 100)
ARRAYS = {
    "big": BIG, "big in float64": BIG.astype(np.float64), "big, other byte order": BIG.astype(">f4"),
    "small": np.arange(4, dtype=np.int64), "flags": np.array([True, False]), "texts": np.array(["a", "\u00e9\u4e2d"]),
    "bytes": np.array([b"ab", b"c"]), "objects": np.array(["x", b"y"], dtype=object), "none": np.zeros((0, 3)),
}  # fmt: skip


def written(folder: Path, content: Any, protocol: int = 4) -> Path:
    file = folder / "some.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_what_numpy_reads(tmp_path: Path, protocol: int) -> None:
    beside = {
        "t": ("a", b"b", 1, 2.5, None, True, 2**70),
        "l": [1, [2]],
        "o": collections.OrderedDict(a=1),
        "s": {1, 2},
    }
    file = written(tmp_path, {"arrays": ARRAYS, "scalar": np.float32(0.5), **beside}, protocol)
    found = pickles.read(file)
    assert found.pop("scalar") == 0.5
    arrays = found.pop("arrays")
    assert found == beside
    for name, expected in ARRAYS.items():
        value = arrays[name].values(file)
        assert value.tolist() == expected.tolist() and value.shape == expected.shape, name
        assert name == "objects" or value.dtype == expected.dtype
    assert protocol < 3 or isinstance(arrays["big"].data, Place)  # it is not read, only found
    for i in range(6):
        content = pickles.read_bytes(file, arrays["big"].row(i))
        assert np.array_equal(np.frombuffer(content, np.float32).reshape(50, 100), BIG[i])


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.pkl"  # an array of 2**36 bytes, which the disk has only on paper
    state = b"(K\x01\x8a\x06" + (2**36).to_bytes(6, "little") + b"\x85cnumpy\ndtype\n\x8c\x02u1\x85R"
    state += b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89\x8e" + (2**36).to_bytes(8, "little")
    made = b"\x80\x04}\x8c\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" + state
    with file.open("wb") as out:
        out.write(made)
        out.truncate(len(made) + 2**36)
        out.seek(0, os.SEEK_END)
        out.write(b"tbs.")
    found = pickles.read(file)["a"]
    assert found.shape == (2**36,) and found.data == Place(len(made), 2**36)


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


class Plain:
    pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"a": Runs()}), r"names '(posix|nt)\.system'"),
        (pickle.dumps([Plain()], protocol=4), "names 'test_pickled_features.Plain'"),
        (pickle.dumps([Plain()], protocol=0), r"names 'copy_?reg\._reconstructor'"),
        (pickle.dumps(np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])), "type 'V8'"),
        (pickle.dumps(np.asfortranarray(BIG)), "Fortran's order"),
        (pickle.dumps(BIG)[:9000], "is cut short"),
        (pickle.dumps({"a": [1, 2]})[:-4], "is cut short"),
        (b"(S'touch ran'\nios\nsystem\n.", "holds something else"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", r"names 'os.system'"),
        (b"\x80\x04cnumpy\ndtype\n\x8c\x02f4\x85\x81.", "holds something else"),
        (b"\x80\x04cnumpy\ndtype\n}\x8c\x08__call__K\x01sb.", "holds something else"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "is cut short"),
        (b"\x80\x04\x8d" + b"\xff" * 8, "is cut short"),
        (b"\x95" + b"\x7f" * 8, "is cut short"),
        (b"not a pickle", "is no pickle"),
        (b"", "is no pickle"),
        (b"PK\x03\x04", "is no pickle"),
    ],
)
def test_all_else_is_refused_in_a_line_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pkl").write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        pickles.read(tmp_path / "bad.pkl")
    assert "\n" not in str(raised.value) and not (tmp_path / "ran").exists()


def test_damage_anywhere_is_a_line(tmp_path: Path) -> None:
    whole = pickle.dumps({"train": {"audio": BIG[:2], "id": ["a", "b"]}}, protocol=4)
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(0, 400, 3):
            content[place] = random.integers(256)
        (tmp_path / "bad.pkl").write_bytes(content)
        with contextlib.suppress(UserError):
            pickles.read(tmp_path / "bad.pkl")


def test_sequences_are_without_their_padding(tmp_path: Path) -> None:
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    expected = pickle.loads((tmp_path / "a" / "aligned_50.pkl").read_bytes())
    manifest, config = of_dataset("cmu_mosi_features", tmp_path / "a")
    config = resolve(config, manifest.kinds, manifest.splits["train"])
    assert [row.id for row in manifest.splits["val"]] == [f"-valid/{clip}" for clip in range(6)]
    assert [manifest.classes[int(row.label)] for row in manifest.splits["train"]] == [
        "Negative",
        "Neutral",
        "Positive",
    ] * 2
    for mode, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        for clip, row in enumerate(manifest.splits[split]):
            for name in manifest.kinds:
                seen = decode(row, name, "feature", config).seen
                assert seen.shape == (9, {"text": 30, "audio": 7, "vision": 5}[name])
                steps = 2 + clip % 6
                np.testing.assert_array_equal(seen[:steps], expected[mode][name][clip, :steps])
                assert np.isnan(seen[steps:]).all()


def test_the_other_layout_and_numbers(tmp_path: Path) -> None:
    LAYOUTS["cmu_mosei_features"](tmp_path / "m")
    expected = pickle.loads((tmp_path / "m" / "mosei_senti_data_noalign.pkl").read_bytes())
    manifest, config = of_dataset("cmu_mosei_features", tmp_path / "m", target="regression")
    config = resolve(config, manifest.kinds, manifest.splits["train"])
    assert [row.label for row in manifest.splits["test"]] == [-1.4, 0.0, 2.2] * 2
    row = manifest.splits["train"][3]
    assert row.id == "train3/1.0/2.5"
    seen = decode(row, "audio", "feature", config).seen
    wanted = expected["train"]["audio"][3, 4:].astype(np.float32)
    assert wanted[1, 2] == -np.inf
    wanted[1, 2] = 0
    np.testing.assert_array_equal(seen[:5], wanted)
    assert np.isnan(seen[5:]).all()
    with pytest.raises(UserError, match="leave out --target multilabel"):
        of_dataset("cmu_mosei_features", tmp_path / "m", target="multilabel")


def test_lengths_of_the_file_count(tmp_path: Path) -> None:
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    file = tmp_path / "a" / "aligned_50.pkl"
    content = pickle.loads(file.read_bytes())
    for part in content.values():
        part["audio_lengths"], part["vision_lengths"] = [9, 4, 0, 1, 1, 1], np.array([3] * 6)
        part["audio"] += 1
    file.write_bytes(pickle.dumps(content))
    manifest, config = of_dataset("cmu_mosi_features", tmp_path / "a")
    config = resolve(config, manifest.kinds, manifest.splits["train"])
    there = {
        name: [int((~np.isnan(decode(row, name, "feature", config).seen[:, 0])).sum()) for row in rows]
        for name in manifest.kinds
        for rows in [manifest.splits["train"]]
    }
    assert there == {"text": [2, 3, 4, 5, 6, 7], "audio": [9, 4, 1, 1, 1, 1], "vision": [3] * 6}


def test_no_sequence_is_cut_unless_that_is_asked_for_and_then_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    file = tmp_path / "a" / "aligned_50.pkl"
    content = pickle.loads(file.read_bytes())
    for part in content.values():  # unaligned: sound has steps of its own
        part["audio"] = np.ones((6, 375, 7), np.float32)
        part["audio_lengths"] = [375, 374, 100, 50, 51, 1]
    file.write_bytes(pickle.dumps(content))
    command = ["prepare", "--dataset", "cmu_mosi_features", "--root", str(tmp_path / "a"), "--out"]
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "all")])
    main()
    card = Shards(tmp_path / "all").card
    assert (card.modalities["audio"].shape, card.modalities["text"].shape) == ([375, 7], [9, 30])
    assert not card.modalities["audio"].cut and "were cut" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "cut"), "--set", "feature.audio.length=50"])
    main()
    said = "4 of 6 train, 4 of 6 val, 4 of 6 test rows have more than 50 steps"
    out = capsys.readouterr().out.replace("\n", " ")
    assert f"audio: {said} and were cut; --set feature.audio.length=375 keeps all" in out
    card = Shards(tmp_path / "cut").card
    assert card.modalities["audio"].cut == {"train": 4, "val": 4, "test": 4}
    assert card.modalities["audio"].longest == 375 and card.modalities["vision"].longest is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda part: part.pop("vision"), "train: has no vision"),
        (lambda part: part.pop("regression_labels"), "train: has no regression_labels or labels"),
        (lambda part: part.update(audio=[1, 2]), "train: audio: is not an array of numbers"),
        (lambda part: part.update(audio=np.zeros((6, 9))), r"train: audio: has shape \[6, 9\]"),
        (lambda part: part.update(audio=np.zeros((5, 9, 2))), "train: audio has 5 samples, regression_labels 6"),
        (lambda part: part.update(regression_labels=np.zeros((6, 2))), "does not hold one number for each sample"),
        (lambda part: part.update(regression_labels=np.full(6, np.nan)), "does not hold one number for each sample"),
        (lambda part: part.update(audio_lengths=[10] * 6), "audio_lengths are not 6 numbers of steps, 0 to 9"),
    ],
)
def test_another_layout_is_named(tmp_path: Path, change: Any, said: str) -> None:
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    file = tmp_path / "a" / "aligned_50.pkl"
    content = pickle.loads(file.read_bytes())
    change(content["train"])
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=said):
        raw_manifest("cmu_mosi_features", tmp_path / "a")


def test_there_is_one_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold one \.pkl file of features, and holds 0 \(none\)"):
        raw_manifest("cmu_mosi_features", tmp_path)
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    (tmp_path / "a" / "unaligned_50.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 \(aligned_50\.pkl, unaligned_50\.pkl\); name its folder"):
        raw_manifest("cmu_mosi_features", tmp_path / "a")
    for content in ([1], {"train": {}}, {"train": 1, "valid": 2, "test": 3}):
        with pytest.raises(UserError, match="is not a dict"):
            raw_manifest("cmu_mosi_features", _alone(tmp_path, content))


def _alone(folder: Path, content: Any) -> Path:
    alone = folder / "alone"
    alone.mkdir(exist_ok=True)
    return written(alone, content).parent


def test_an_array_of_the_pickle_is_small(tmp_path: Path) -> None:
    found = pickles.read(written(tmp_path, np.arange(3)))
    assert isinstance(found, PickledArray) and isinstance(found.data, bytes)


@pytest.mark.parametrize("target", ["classes", "regression"])
def test_the_recipe_trains_on_what_was_read(tmp_path: Path, target: TargetKind) -> None:
    LAYOUTS["cmu_mosi_features"](tmp_path / "a")
    shards = prepared(*of_dataset("cmu_mosi_features", tmp_path / "a", target=target), tmp_path / "shards")
    small = ["epochs=1", "model.embedding_size=8", f"data.path={shards.path}"]
    space = load_space(shipped_file("search_spaces/cmu_mosi_features.yaml"), small)
    run = Trainer(space.config({"alpha.strategy": "constant", "alpha.value": 0.3}), shards.card)
    (row,) = fit(run, DataSource(shards, {}).splits(run.config))
    assert np.isfinite(row["val/fused/loss"]) and f"val/vision/{LEADING[target]}" in row
