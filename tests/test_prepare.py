from __future__ import annotations

from pathlib import Path

import media_files
import pytest
import small_shards
from commands import run
from prepared import in_this_process

import lfm_ray
from lfm_ray.datasets.shards import CARD, Shards
from lfm_ray.report.inspection import rows_beside_the_papers


def test_raw_media_to_shards_and_their_inspection(tmp_path: Path, ray_local: None) -> None:
    manifest = media_files.dataset(tmp_path / "raw")
    out = tmp_path / "shards"
    done = run(
        tmp_path, "prepare", manifest, "--audio", "sound", "--image", "picture", "--out", out,
        "--set", "audio.n_fft=128", "--set", "limit.train=10", "--set", "noise.sound=0.3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "10 train, 8 val, 8 test rows of 4 classes" in printed
    assert "sound 1 x 65 x 5 float16, picture 1 x 8 x 8 uint8" in printed
    assert f"python -m lfm_ray.tune --data {out}" in printed
    assert "WARNING" not in done.stderr + done.stdout
    assert Shards(out).card.rows("train") == 10
    table = run(tmp_path, "prepare", "--inspect", out).stdout
    assert (out / "contact_sheet.png").stat().st_size > 10_000
    again = run(tmp_path, "prepare", manifest, "--audio", "sound", "--out", out, "--set", "audio.n_fft=128")
    assert again.returncode == 0  # replaced
    assert "65 x 5" in table.replace("1 x ", "")
    assert max(map(len, table.splitlines())) <= 100 or str(tmp_path) in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a manifest, --folders ROOT or --dataset"),
        (["MANIFEST", "--folders", "raw", "--image", "--out", "out"], "give a manifest, --folders ROOT or --dataset"),
        (["--folders", "raw", "--image", "--out", "out"], "raw: holds no folder; each class has one"),
        (["--folders", "raw", "--image", "--label", "x", "--out", "out"], "its folders are the classes; leave out"),
        (["MANIFEST", "--audio", "sound", "--label", "lable", "--out", "out"], "no such column; did you mean label?"),
        (
            ["raw", "--image", "--out", "out"],
            "holds no .parquet, .arrow or .tar file; a folder of files for each class",
        ),
        (["none.csv", "--text", "words", "--out", "out"], "none.csv: there is no such file"),
        (["MANIFEST", "--audio", "sund", "--out", "out"], "did you mean sound?"),
        (["MANIFEST", "--audio", "sound", "--image", "sound", "--out", "out"], "named for two modalities"),
        (["MANIFEST", "--audio", "sound", "--out", "out", "--set", "audio.n_mel=4"], "did you mean n_mels?"),
        (["MANIFEST", "--audio", "sound", "--out", "out", "--set", "noise.sond=1"], "did you mean sound?"),
        (["MANIFEST", "--audio", "sound", "--out", "raw"], "is not a dataset of lfm_ray"),
        (["--dataset", "cremad", "--root", "raw", "--out", "out"], "did you mean crema_d?"),
        (["--dataset", "crema_d", "--out", "out"], "give its raw folder with --root"),
        (["--dataset", "crema_d", "--root", "raw", "--out", "out"], "AudioWAV"),
        (["--inspect", "nowhere"], "there is no such dataset folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    manifest = media_files.dataset(tmp_path / "raw", rows=16, classes=4)
    done = run(tmp_path, "prepare", *(str(manifest) if word == "MANIFEST" else word for word in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_folders_of_classes_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    for label in ("cat", "dog"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for number in range(5):
            media_files.png(tmp_path / "raw" / label / f"{number}.png", seed=number)
            media_files.wav(tmp_path / "raw" / label / f"{number}.wav", seconds=0.1, seed=number)
    (tmp_path / "raw" / "dog" / "again").symlink_to(tmp_path / "raw")
    given = ["--folders", "raw", "--image", "--audio", "sound", "--out", "out", "--set", "audio.n_fft=128"]
    (tmp_path / "raw" / "dog" / "3.wav").unlink()
    refused = run(tmp_path, "prepare", *given)
    assert refused.returncode == 2
    assert "1 rows cannot be used; the first: dog/3: sound: : the sample has only png" in refused.stderr
    done = run(tmp_path, "prepare", *given, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "dog/3,sound,,the sample has only png" in (tmp_path / "out" / "bad_rows.csv").read_text()
    assert set(Shards(tmp_path / "out").card.modalities) == {"image", "sound"}
    shards = lfm_ray.prepare(folders=tmp_path / "raw", image="photo", out=tmp_path / "api", progress=False)
    assert list(shards.card.modalities) == ["photo"] and shards.card.classes == ["cat", "dog"]


def test_inspect_finds_an_altered_shard(tmp_path: Path) -> None:
    folder = small_shards.write(tmp_path)
    data = bytearray((folder / "val-00000.arrow").read_bytes())
    data[700] ^= 255
    (folder / "val-00000.arrow").write_bytes(data)
    done = run(tmp_path, "prepare", "--inspect", folder)
    assert done.returncode == 2
    assert "val-00000.arrow: checksum differs" in done.stderr
    assert CARD in done.stderr


def test_rows_stand_beside_those_of_the_paper_which_counts_train_and_val_together(shards: Shards) -> None:
    table = rows_beside_the_papers(shards.card, {"train": 72, "test": 25, "other": 1})
    assert [list(column.cells) for column in table.columns] == [
        ["train and val", "test", "other"], ["72", "24", "0"], ["72", "25", "1"], ["", "differs", "differs"]
    ]  # fmt: skip
    assert list(rows_beside_the_papers(shards.card, {"train": 48, "val": 24}).columns[0].cells) == ["train", "val"]


def test_missing_media_are_counted_and_inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    for label in ("cat", "dog"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for number in range(10):
            media_files.png(tmp_path / "raw" / label / f"{number}.png", seed=number)
            if label == "cat" or number > 3:
                media_files.features(tmp_path / "raw" / label / f"{number}.npy")
    given = ["--folders", "raw", "--image", "--feature", "--out", "out"]
    assert "4 rows cannot be used; the first: dog/0: feature" in run(tmp_path, "prepare", *given).stderr
    done = run(tmp_path, "prepare", *given, "--allow-missing")
    assert done.returncode == 0, done.stderr
    shown = (
        "missing: feature 4 train" if not Shards(tmp_path / "out").card.modalities["feature"].missing.get("val") else ""
    )
    assert "missing: feature " in done.stdout and shown in done.stdout
    inspected = run(tmp_path, "prepare", "--inspect", "out")
    assert inspected.returncode == 0, inspected.stderr
    assert "missing: feature " in inspected.stdout
    assert (tmp_path / "out" / "contact_sheet.png").exists()
