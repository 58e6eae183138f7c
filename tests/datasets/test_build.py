from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import media_files
import numpy as np
import pytest

from lfm_ray.config import AudioSettings, PrepareConfig
from lfm_ray.datasets import build as job
from lfm_ray.datasets.manifest import Manifest, read_manifest
from lfm_ray.datasets.media import decode, resolve
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_local")

CONFIG = PrepareConfig(audio=AudioSettings(n_fft=128, hop=64), noise={"sound": 0.3, "picture": 0.2})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "SHARD_ROWS", 6)
    return media_files.dataset(tmp_path / "raw")


def read(path: Path, allow_missing_files: bool = False) -> Manifest:
    return read_manifest(path, {"sound": "audio", "picture": "image"}, allow_missing_files=allow_missing_files)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the next job end as by Ctrl-C when `count` shards are done."""
    original = job._progress

    def progress(results: Iterator[dict[str, Any]], *others: Any) -> Iterator[dict[str, Any]]:
        for number, result in enumerate(original(results, *others), start=1):
            yield result
            if number == count:
                raise KeyboardInterrupt

    monkeypatch.setattr(job, "_progress", progress)


def test_shards_hold_the_decoded_rows_in_the_manifests_order(source: Path, tmp_path: Path) -> None:
    manifest, out = read(source), tmp_path / "new" / "out"
    assert job.build(manifest, CONFIG, out)
    shards = Shards(out)
    shards.verify()
    assert {split: [shard.rows for shard in found] for split, found in shards.card.splits.items()} == {
        "train": [6, 6, 6, 6],
        "val": [6, 2],
        "test": [6, 2],
    }
    config = resolve(CONFIG, manifest.kinds, manifest.splits["train"])
    assert shards.card.preprocessing == config.model_dump(mode="json")
    arrays, labels = shards.arrays("train")
    assert labels.tolist() == [row.label for row in manifest.splits["train"]]
    for number, row in enumerate(manifest.splits["train"]):
        for name, kind in manifest.kinds.items():
            np.testing.assert_array_equal(arrays[name][number], decode(row, name, kind, config))
    for name, card in shards.card.modalities.items():
        assert card.mean == pytest.approx(arrays[name].astype(float).mean())
        assert card.std == pytest.approx(arrays[name].astype(float).std())
    assert not list(out.parent.glob("out.*"))


def test_equal_input_gives_equal_bytes_and_nothing_is_done_twice(source: Path, tmp_path: Path) -> None:
    assert job.build(read(source), CONFIG, tmp_path / "a")
    assert job.build(read(source), CONFIG, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert not job.build(read(source), CONFIG, tmp_path / "a")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}


def test_an_interrupted_job_goes_on_where_it_stopped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "out", tmp_path / "out.partial"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            job.build(read(source), CONFIG, out)
    assert not out.exists()
    done = {path.stem for path in work.glob("[!.]*.json")}
    assert done
    decoded: list[str] = []
    original = job._run

    def run(plan: dict[str, Any], done: Any, *others: Any) -> Iterator[dict[str, Any]]:
        for result in original(plan, done, *others):
            decoded.append(result["file"])
            yield result

    monkeypatch.setattr(job, "_run", run)
    assert job.build(read(source), CONFIG, out)
    assert not done & set(decoded)
    assert not work.exists()
    monkeypatch.undo()
    monkeypatch.setattr(job, "SHARD_ROWS", 6)
    assert job.build(read(source), CONFIG, tmp_path / "straight")
    assert files(out) == files(tmp_path / "straight")


def test_what_other_settings_left_is_not_used(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            job.build(read(source), CONFIG, tmp_path / "out")
    other = CONFIG.model_copy(update={"seed": 1})
    job.build(read(source), other, tmp_path / "out")
    job.build(read(source), other, tmp_path / "straight")
    assert files(tmp_path / "out") == files(tmp_path / "straight")


def test_broken_media_stop_the_job_or_are_left_out(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (source.parent / "1.wav").write_bytes(b"broken")
    (source.parent / "4.png").write_bytes(b"broken")
    (source.parent / "8.png").unlink()
    with pytest.raises(UserError, match=r"3 media files cannot be decoded; the first: .*1\.wav.*--skip-bad"):
        job.build(read(source, True), CONFIG, out)
    assert not out.exists()
    listed = (tmp_path / "out.bad_files.csv").read_text().splitlines()
    assert listed[0] == "id,file,reason"
    assert sorted(line.split(",")[0] for line in listed[1:]) == ["row1", "row4", "row8"]
    kept = tmp_path / "out.partial" / "test-00001.arrow"
    time = kept.stat().st_mtime_ns
    assert job.build(read(source, True), CONFIG, out, skip_bad=True)
    assert (out / kept.name).stat().st_mtime_ns == time  # what was right is not decoded again
    with pytest.raises(UserError, match="3 media files cannot be decoded"):
        job.build(read(source, True), CONFIG, out)
    assert job.build(read(source, True), CONFIG, out, skip_bad=True) is False
    assert (out / "bad_files.csv").read_text().splitlines() == listed
    shards = Shards(out)
    shards.verify()
    assert sorted(shards.card.skipped) == ["row1", "row4", "row8"]
    assert sum(shards.card.rows(split) for split in shards.card.splits) == 37
    media_files.wav(source.parent / "1.wav", seconds=0.1, seed=1)
    job.build(read(source, True), CONFIG, out, skip_bad=True)  # mended: the older dataset is replaced
    assert sum(Shards(out).card.rows(split) for split in Shards(out).card.splits) == 38


def test_a_split_without_a_good_row_is_an_error(source: Path, tmp_path: Path) -> None:
    for row in read(source).splits["val"]:
        Path(row.values["sound"]).write_bytes(b"broken")
    with pytest.raises(UserError, match="no row of split val is left"):
        job.build(read(source), CONFIG, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_foreign_folders_are_left_alone(source: Path, tmp_path: Path) -> None:
    manifest, out = read(source), tmp_path / "out"
    with pytest.raises(UserError, match="is not a dataset of lfm_ray"):
        job.build(manifest, CONFIG, source.parent)
    with pytest.raises(UserError, match="is not a dataset of lfm_ray"):
        job.build(manifest, CONFIG, source)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out\.partial: is in the way"):
        job.build(manifest, CONFIG, out)
    (tmp_path / "out.partial" / "thesis.txt").unlink()
    job.build(manifest, CONFIG, out)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        job.build(manifest, CONFIG.model_copy(update={"seed": 1}), out)
    assert (out / "thesis.txt").read_text() == "mine"


def test_two_at_once_into_one_folder_are_refused(source: Path, tmp_path: Path) -> None:
    manifest = read(source)
    with job._alone(tmp_path / "out.partial"), pytest.raises(UserError, match="another prepare is writing there"):
        job.build(manifest, CONFIG, tmp_path / "out")
    assert job.build(manifest, CONFIG, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    assert not (tmp_path / "out" / job.LOCK).exists()
