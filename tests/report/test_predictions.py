"""`report --predictions`: what a run says of each sample."""

from __future__ import annotations

import base64
import io
import re
import wave
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import run as run_command
from media_files import png, wav
from prepared import prepared
from synthetic import with_gaps
from tiny_run import SMALL

from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.report.predictions import MOST_CLASSES, Predictions, render, write_predictions
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Row


def trained(shards: Shards, folder: Path, *overrides: str) -> list[Row]:
    config = load(RunConfig, None, [*SMALL, "epochs=2", f"data.path={shards.path}", *overrides])
    return execute(Launch(config, DataSource(shards, {}), folder), lambda row: None)


def test_every_sample_has_a_row_that_agrees_with_the_metrics(shards: Shards, tmp_path: Path) -> None:
    rows = trained(shards, tmp_path / "run", "optimizer.ema_decay=0.5")
    table, page = write_predictions(Predictions.of(tmp_path / "run"))
    frame = pd.read_csv(table, dtype={"label": str, "fused": str})
    assert list(frame["id"]) == shards.ids("val")
    for name in ("fused", "audio", "image"):
        assert frame[f"{name} correct"].mean() == pytest.approx(rows[-1][f"val/{name}/accuracy"])
        chances = frame[[f"{name}: {label}" for label in shards.card.classes]]
        np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-4)
        assert list(chances.idxmax(axis=1).str.removeprefix(f"{name}: ")) == list(frame[name].astype(str))
    assert (frame["preferred"] == "audio").mean() == pytest.approx(rows[-1]["val/audio/preferred"])
    assert (frame["audio contributes"] > frame["image contributes"]).tolist() == (
        frame["preferred"] == "audio"
    ).tolist()
    assert (frame["fused"] == frame["label"]).tolist() == frame["fused correct"].tolist()
    text = page.read_text()
    most = frame.sort_values("disagreement", ascending=False, kind="stable")["id"].head(12)
    assert re.findall(r"<h3>(val-\d+): ", text) == list(most)
    assert "http" not in text.replace("http-equiv", "")


def test_disagreement_worked_out_by_hand(shards: Shards) -> None:
    one, other = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    chances = {"fused": one, "a": one, "b": other}
    found = Predictions(Path(), 1, load(RunConfig, None, []), shards, np.array([0, 1]), chances)
    assert found.disagreement == pytest.approx([np.log(2), 0], abs=1e-9)


@pytest.mark.parametrize("how", [[], ["storage.sound=waveform", "storage.picture=jpeg"], ["audio.form=waveform"]])
def test_the_page_shows_and_plays_the_samples(tmp_path: Path, how: list[str]) -> None:
    lines = ["id,sound,picture,words,label,split"]
    for row in range(12):
        wav(tmp_path / f"{row}.wav", seconds=0.2, seed=row)
        png(tmp_path / f"{row}.png", width=16, height=16, mode="RGB", seed=row)
        lines.append(
            f"<b>{row},{row}.wav,{row}.png,<i>word</i> {row},{['no', 'a&b'][row % 2]},{'val' if row > 7 else 'train'}"
        )
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "manifest.csv", {"sound": "audio", "picture": "image", "words": "text"})
    config = load(PrepareConfig, None, ["audio.n_fft=64", "audio.hop=32", "text.length=24", *how])
    shards = prepared(manifest, config, tmp_path / "shards")
    chosen = ["data.modalities=[picture,words]"] if "audio.form=waveform" in how else []
    trained(shards, tmp_path / "run", "data.batch_size=8", *chosen)
    text = render(Predictions.of(tmp_path / "run"))
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "&lt;i&gt;word&lt;/i&gt;" in text
    assert text.count('<img src="data:image/png') == (4 if chosen else 8)
    sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    assert len(sounds) == (0 if chosen else 4)
    for sound in sounds:
        with wave.open(io.BytesIO(base64.b64decode(sound))) as opened:
            assert opened.getframerate() == 8000
            assert opened.getnframes() / 8000 == pytest.approx(0.2, abs=0.02)


def test_many_classes_are_listed_by_their_confusions(shards: Shards) -> None:
    count = MOST_CLASSES + 1
    classes = [f"class {number}" for number in range(count)]
    many = Shards(shards.path)
    many.card = shards.card.model_copy(update={"classes": classes})
    labels = np.arange(24) % count
    chances = np.eye(count)[(labels + 1) % count]
    found = Predictions(Path("run"), 1, load(RunConfig, None, ["data.modalities=[image]"]), many, labels, {
        "fused": chances, "image": np.eye(count)[labels]})  # fmt: skip
    text = render(found)
    assert "most frequent confusions" in text
    assert 'id="matrix-0"' not in text
    assert re.search(r"<td>fused</td><td class=\"text\">class 0</td><td class=\"text\">class 1</td><td>1</td>", text)


def test_the_command_and_what_it_refuses(shards: Shards, tmp_path: Path) -> None:
    trained(shards, tmp_path / "run")
    done = run_command(tmp_path, "report", "--predictions", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "predictions.html" in done.stdout
    for arguments, said in (
        (["--predictions", "run", "run"], "give the folders of sweeps, or --gradcam"),
        (["--predictions", "run", "--to", "x.html"], "lie in the run's folder"),
        (["--predictions", str(tmp_path)], "holds neither a run"),
    ):
        refused = run_command(tmp_path, "report", *arguments)
        assert refused.returncode != 0
        assert said in refused.stderr
    other = shards.card.model_copy(update={"fingerprint": "other"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset.json").write_text(other.model_dump_json())
    with pytest.raises(UserError, match="are not the shards of this run"):
        Predictions.of(tmp_path / "run", tmp_path / "other")


def test_of_a_modality_that_a_sample_lacks_nothing_is_said(tmp_path: Path) -> None:
    gaps = with_gaps(tmp_path / "shards")
    rows = trained(gaps, tmp_path / "run")
    found = Predictions.of(tmp_path / "run")
    table, page = write_predictions(found)
    frame = pd.read_csv(table)
    assert list(frame["id"]) == gaps.ids("val")
    for name in ("audio", "image"):
        there = gaps.present("val", name)
        assert frame[name].notna().tolist() == frame[f"{name}: 0"].notna().tolist() == there.tolist()
        own = frame[f"{name} correct"][there].astype(bool)
        assert own.mean() == pytest.approx(rows[-1][f"val/{name}/accuracy"])
        assert found.matrix(name).sum() == there.sum()
        assert not (frame["preferred"][~there] == name).any()
    both = gaps.present("val", "audio") & gaps.present("val", "image")
    assert (frame["disagreement"][~both] == 0).all() and (frame["disagreement"][both] > 0).all()
    assert "missing" in page.read_text() or both.sum() >= 12
    one = trained(gaps, tmp_path / "one", "data.modalities=[image]")
    frame = Predictions.of(tmp_path / "one").frame()
    assert list(frame["id"]) == [
        name for name, has in zip(gaps.ids("val"), gaps.present("val", "image"), strict=True) if has
    ]
    assert frame["image correct"].mean() == pytest.approx(one[-1]["val/image/accuracy"])
