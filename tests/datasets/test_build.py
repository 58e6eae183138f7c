from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import media_files
import numpy as np
import pytest
import torch

from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing import build as job
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import decode
from lfm_ray.datasets.preparing.manifest import Manifest, read_manifest
from lfm_ray.datasets.preparing.resolving import resolve
from lfm_ray.datasets.preparing.staging import StagingFolder
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_local")

CONFIG = PrepareConfig(audio=AudioSettings(n_fft=128, hop=64), noise={"sound": 0.3, "picture": 0.2})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "SHARD_ROWS", 6)
    return media_files.dataset(tmp_path / "raw")


def read(path: Path) -> Manifest:
    return read_manifest(path, {"sound": "audio", "picture": "image"})


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
            np.testing.assert_array_equal(arrays[name][number], decode(row, name, kind, config).stored)
    for name, card in shards.card.modalities.items():
        assert card.mean == pytest.approx(arrays[name].astype(float).mean())
        assert card.std == pytest.approx(arrays[name].astype(float).std())
        if card.kind == "audio":
            np.testing.assert_allclose(card.means, arrays[name].astype(float).mean(axis=(0, 1, 3)), rtol=1e-9)
            np.testing.assert_allclose(card.stds, arrays[name].astype(float).std(axis=(0, 1, 3)), rtol=1e-6)
    assert not list(out.parent.glob("out.*"))


def test_equal_input_gives_equal_bytes_by_ray_or_without_and_nothing_is_done_twice(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "_by_ray", None)  # a short job does not start it
        assert job.build(read(source), CONFIG, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(job, "RAY_STARTS", 0.0)
        assert job.build(read(source), CONFIG, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert not job.build(read(source), CONFIG, tmp_path / "a")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}


def test_a_job_is_short_if_its_rows_are_decoded_before_ray_would_begin(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, now = read(source), [0.0]
    rows = [row for rows in manifest.splits.values() for row in rows]

    def slow(*_: Any) -> None:
        now[0] += 0.3

    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0]))
    monkeypatch.setattr(job, "decode", slow)
    what = job.Job.of(manifest, CONFIG)
    assert job.is_short(rows[:13], what)  # 0.6 s a row: 7.8 s
    assert not job.is_short(rows[:14], what)
    before = now[0]
    assert not job.is_short(rows * 100, what)
    assert now[0] - before == pytest.approx(1.8)  # the first one, and two more


def test_a_job_that_is_longer_than_it_seemed_goes_on_by_ray(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, by_ray = read(source), []

    def rest(plan: dict[str, Any], *others: Any) -> Iterator[dict[str, Any]]:
        by_ray.extend(plan)
        return in_process(plan, *others)

    monkeypatch.setattr(job, "_by_ray", rest)
    monkeypatch.setattr(job, "is_short", lambda *_: True)
    clock = itertools.count(step=2 * job.RAY_STARTS - 1)
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: 0.0, process_time=lambda: next(clock)))
    assert job.build(manifest, CONFIG, tmp_path / "out")
    assert len(by_ray) == len(job.Job.of(manifest, CONFIG).plan()) - 1
    Shards(tmp_path / "out").verify()


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

    def run(*arguments: Any) -> Iterator[dict[str, Any]]:
        for result in original(*arguments):
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


def test_bad_rows_stop_the_job_or_are_left_out(source: Path, tmp_path: Path) -> None:
    out, listing = tmp_path / "out", tmp_path / "out.bad_rows.csv"
    (source.parent / "8.png").unlink()
    with pytest.raises(
        UserError, match=r"1 rows cannot be used; the first: row8: picture: 8\.png: there is no such file"
    ):
        job.build(read(source), CONFIG, out)
    assert listing.read_text().splitlines() == ["id,column,value,reason", "row8,picture,8.png,there is no such file"]
    assert not (tmp_path / "out.partial").exists()
    media_files.png(source.parent / "8.png", seed=8)
    (source.parent / "1.wav").write_bytes(b"broken")
    (source.parent / "4.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"2 rows cannot be used; the first: row1: sound: .*1\.wav.*--skip-bad"):
        job.build(read(source), CONFIG, out)
    assert not out.exists()
    listed = listing.read_text().splitlines()
    assert sorted(line.split(",")[0] for line in listed[1:]) == ["row1", "row4"]
    kept = tmp_path / "out.partial" / "test-00001.arrow"
    time = kept.stat().st_mtime_ns
    assert job.build(read(source), CONFIG, out, skip_bad=True)
    assert (out / kept.name).stat().st_mtime_ns == time  # what was right is not decoded again
    assert not listing.exists()
    with pytest.raises(UserError, match="2 rows cannot be used"):
        job.build(read(source), CONFIG, out)
    assert job.build(read(source), CONFIG, out, skip_bad=True) is False
    assert (out / "bad_rows.csv").read_text().splitlines() == listed
    shards = Shards(out)
    shards.verify()
    assert sorted(shards.card.skipped) == ["row1", "row4"]
    assert sum(shards.card.rows(split) for split in shards.card.splits) == 38
    media_files.wav(source.parent / "1.wav", seconds=0.1, seed=1)
    job.build(read(source), CONFIG, out, skip_bad=True)  # mended: the older dataset is replaced
    assert sum(Shards(out).card.rows(split) for split in Shards(out).card.splits) == 39


def test_rows_that_the_manifest_alone_shows_to_be_bad_are_recorded_too(source: Path, tmp_path: Path) -> None:
    with source.open("a") as file:
        file.write("row0,0.wav,0.png,0,train\nrow1,1.wav,1.png,1,val\nrow99,0.wav,0.png,7,val\n")
    manifest = read(source)
    with pytest.raises(UserError, match="3 rows cannot be used"):
        job.build(manifest, CONFIG, tmp_path / "out")
    assert job.build(manifest, CONFIG, tmp_path / "out", skip_bad=True)
    assert Shards(tmp_path / "out").card.skipped == ["row0", "row1", "row99"]
    assert len((tmp_path / "out" / "bad_rows.csv").read_text().splitlines()) == 4


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
    manifest, other = read(source), StagingFolder(tmp_path / "out", "of another process")
    with other.opened(), pytest.raises(UserError, match="another prepare is writing there"):
        job.build(manifest, CONFIG, tmp_path / "out")
    assert job.build(manifest, CONFIG, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("storage", [{}, {"sound": "waveform", "picture": "jpeg"}])
def test_any_storage_comes_back_as_models_see_it(source: Path, tmp_path: Path, storage: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"noise": {}, "storage": storage, "jpeg_quality": 100})
    manifest = read(source)
    job.build(manifest, config, tmp_path / "out")
    shards = Shards(tmp_path / "out")
    shards.verify()
    resolved = resolve(config, manifest.kinds, manifest.splits["train"])
    rows = np.arange(shards.card.rows("train"))[::-1]
    seen = Inputs.of(shards.card)(shards.take("train", rows)[0], rows, 1)
    for name, kind in manifest.kinds.items():
        expected = np.stack([decode(manifest.splits["train"][row], name, kind, resolved).seen for row in rows])
        assert seen[name].dtype == getattr(torch, shards.card.modalities[name].dtype)
        # 16-bit files are kept exactly; JPEG of the highest quality is off by some of 255 levels.
        np.testing.assert_allclose(seen[name].numpy(), expected, atol=0.01 if name == "sound" else 4 if storage else 0)
        assert shards.card.modalities[name].mean == pytest.approx(expected.astype(float).mean(), abs=1e-3)


class Killed(BaseException):
    """As if the process were gone."""


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_finishes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change of the file system by the command's own process is the last one, once."""
    monkeypatch.setattr(job, "_run", in_process)
    few = {"train": 12, "val": 6, "test": 6}
    manifest = read_manifest(source, {"sound": "audio", "picture": "image"}, limit=few)
    first, second = (CONFIG.model_copy(update={"seed": seed}) for seed in (1, 2))
    job.build(manifest, CONFIG, tmp_path / "straight")
    expected = files(tmp_path / "straight")
    survived = 0
    for fatal in itertools.count():
        place = tmp_path / f"killed{fatal}"
        job.build(manifest, first, place / "out")  # an older dataset, which is to be replaced
        with monkeypatch.context() as patch:  # and unfinished work on another
            kill_at(8, patch)
            with contextlib.suppress(Killed):
                job.build(manifest, second, place / "out")
        assert len(list((place / "out.partial").glob("*.arrow"))) >= 1
        with monkeypatch.context() as patch:
            left = kill_at(fatal, patch)
            with contextlib.suppress(Killed):
                job.build(manifest, CONFIG, place / "out")
        if (place / "out").exists():
            Shards(place / "out").verify()
        job.build(manifest, CONFIG, place / "out")
        assert files(place / "out") == expected
        assert [path.name for path in place.iterdir()] == ["out"]
        if left[0] >= 0:
            break
        survived += 1
    assert survived > 20


def kill_at(fatal: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Lets `fatal` changes of the file system happen and ends with the next; returns how many are left, live."""
    left = [fatal]

    def counted(original: Any) -> Any:
        def function(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*arguments, **options)

        return function

    for name in ("write_text", "replace", "rename", "unlink", "mkdir"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return left


def in_process(plan: dict[str, Any], folder: Path, what: job.Job, address: Any) -> Iterator[dict[str, Any]]:
    for name, rows in plan.items():
        yield job.make_shard(folder / name, rows, what.cards, what.config)


def test_a_full_disk_is_one_line_and_the_work_goes_on_when_there_is_room(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(job, "_run", in_process)
    manifest, out = read(source), tmp_path / "out"
    for owner, name, message in (
        (job, "write_shard", r"arrow: cannot be written"),
        (job, "write_atomically", "cannot be"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(UserError, match=f"{message}.*: No space left on device"):
                job.build(manifest, CONFIG, out)
        assert not out.exists()
    assert job.build(manifest, CONFIG, out)
    Shards(out).verify()
