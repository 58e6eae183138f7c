"""Features of frozen models, computed once: `prepare --embed`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run as run_command
from hub_models import save
from media_files import png, wav
from prepared import prepared
from tiny_run import SMALL

import lfm_ray
from lfm_ray.config import RunConfig
from lfm_ray.console import SILENT
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.export.model_folder import write
from lfm_ray.models.embedding import frozen_encoder
from lfm_ray.prepare import pairs
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import Trainer
from lfm_ray.workflows import embedding


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("vit", "wav2vec2"):
        (folder / name).mkdir()
        save(name, folder / name)
    return {"picture": str(folder / "vit"), "sound": str(folder / "wav2vec2")}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 rows: a sound, a picture and a text."""
    folder = tmp_path_factory.mktemp("raw")
    lines = ["id,sound,picture,words,label,split"]
    for row in range(12):
        wav(folder / f"{row}.wav", seconds=0.2, rate=16000, seed=row)
        png(folder / f"{row}.png", width=40, height=36, mode="RGB", seed=row)
        label, split = ["no", "yes"][row % 2], "val" if row > 7 else "train"
        lines.append(f"r{row},{row}.wav,{row}.png,word {10 ** (row % 4)},{label},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def source(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    manifest = read_manifest(raw / "manifest.csv", {"sound": "audio", "picture": "image", "words": "text"})
    how = ["audio.form=waveform", "image.size=32", "storage.picture=jpeg", "text.length=10"]
    return prepared(manifest, load(PrepareConfig, None, how), tmp_path_factory.mktemp("shards") / "mine")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Without Ray; the files that were made."""
    made: list[str] = []

    def run(plan: Any, job: embedding.Job, folder: Path, address: str | None) -> Iterator[dict[str, Any]]:
        import json

        actor = embedding.ShardEmbedder(job, folder, gpu=False, threads=1)
        for file, (split, first, rows) in plan.items():
            made.append(file)
            yield json.loads(actor({"file": file, "split": split, "first": first, "rows": rows})["result"])

    monkeypatch.setattr(embedding, "run", run)
    return made


def embed(source: Shards, out: Path, models: dict[str, str], **poolings: str) -> tuple[Shards, bool]:
    return embedding.embed(source.path, out, models, poolings, address=None, console=SILENT)


def test_features_are_what_the_frozen_models_give(
    source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str]
) -> None:
    shards, made = embed(source, tmp_path / "features", models)
    assert made
    shards.verify()
    assert {name: one.kind for name, one in shards.card.modalities.items()} == {
        "sound": "feature", "picture": "feature", "words": "text",
    }  # fmt: skip
    for split in ("train", "val"):
        features, labels = shards.arrays(split)
        stored, expected = source.arrays(split)
        assert labels.tolist() == expected.tolist()
        assert shards.ids(split) == source.ids(split)
        np.testing.assert_array_equal(features["words"], stored["words"])
        inputs = DataSource(source, {}).evaluation(split, load(RunConfig, None, []))
        (batch,) = inputs.epoch(1)
        for name in models:
            encoder = frozen_encoder(name, source.card.modalities[name], models[name])
            np.testing.assert_allclose(features[name], encoder.pooled(batch.inputs[name]), rtol=1e-4, atol=1e-6)
    train, card = shards.arrays("train")[0]["picture"], shards.card.modalities["picture"]
    assert isinstance(train, np.ndarray)
    assert (card.mean, card.std) == pytest.approx((train.mean(), train.std()), rel=1e-5)
    assert card.means == pytest.approx(train.mean(axis=0).tolist(), rel=1e-5)
    assert card.stds == pytest.approx(train.std(axis=0).tolist(), rel=1e-4)


def test_tokens_are_sequences_whose_padding_is_missing(
    source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str]
) -> None:
    (tmp_path / "bert").mkdir()
    save("byte bert", tmp_path / "bert")
    chosen = {"words": str(tmp_path / "bert"), "sound": models["sound"]}
    shards, _ = embed(source, tmp_path / "features", chosen, words="tokens", sound="tokens")
    words, sound = shards.card.modalities["words"], shards.card.modalities["sound"]
    assert (words.shape, words.padded, sound.padded) == ([10, 8], True, False)
    stored, features = source.arrays("train")[0]["words"], shards.arrays("train")[0]["words"]
    assert isinstance(features, np.ndarray)
    missing = np.isnan(features)
    np.testing.assert_array_equal(missing.all(axis=2), stored == 0)
    np.testing.assert_array_equal(missing.any(axis=2), stored == 0)
    assert words.means == pytest.approx(np.nanmean(features, axis=(0, 1)).tolist(), rel=1e-4)
    assert words.stds == pytest.approx(np.nanstd(features, axis=(0, 1)).tolist(), rel=1e-3)
    sequence = [f"model.encoders.{name}={{name: sequence, width: 8}}" for name in chosen]
    config = load(RunConfig, None, [*SMALL, "epochs=1", "data.batch_size=4", f"data.path={shards.path}", *sequence])
    run = Trainer(config, shards.card)
    fit(run, DataSource(shards, {}).splits(config))
    assert np.isfinite(run.history[-1]["val/words/loss"])


def test_an_interrupted_job_goes_on_and_a_finished_one_is_not_repeated(
    source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = embed(source, tmp_path / "whole", models)
    first, *others = list(in_this_process)
    in_this_process.clear()
    honest = embedding.run

    def killed(plan: Any, *rest: Any) -> Iterator[dict[str, Any]]:
        yield from honest({first: plan[first]}, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(source, tmp_path / "features", models)
    assert not (tmp_path / "features").exists()
    in_this_process.clear()
    monkeypatch.setattr(embedding, "run", honest)
    shards, made = embed(source, tmp_path / "features", models)
    assert made
    assert in_this_process == others
    assert shards.card == whole.card  # the same bytes
    assert embed(source, tmp_path / "features", models)[1] is False
    assert embed(source, tmp_path / "features", models, picture="cls")[1] is True  # others


def test_an_exported_model_takes_raw_files_again(
    raw: Path, source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str]
) -> None:
    copies = {name: shutil.copytree(model, tmp_path / name) for name, model in models.items()}
    shards, _ = embed(source, tmp_path / "features", {name: str(copy) for name, copy in copies.items()})
    config = load(RunConfig, None, [*SMALL, "epochs=1", "data.batch_size=4", f"data.path={shards.path}"])
    run = Trainer(config, shards.card)
    fit(run, DataSource(shards, {}).splits(config))
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    samples = [
        {"sound": raw / f"{row}.wav", "picture": raw / f"{row}.png", "words": f"word {10 ** (row % 4)}"}
        for row in range(8, 12)
    ]
    (batch,) = DataSource(shards, {}).evaluation("val", config).epoch(1)
    for copy in copies.values():
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="is not the model that made the features of"):
        write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "other")
    for copy in copies.values():
        shutil.rmtree(copy)
    opened = lfm_ray.load(tmp_path / "model")
    with torch.no_grad():
        expected = run.model.eval()(batch.inputs)
    torch.testing.assert_close(opened.outputs(samples).columns(), expected.columns(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_refused(
    source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str]
) -> None:
    cases: list[tuple[dict[str, str], dict[str, str], str]] = [
        ({"pictur": "x"}, {}, "--embed pictur: there is no such modality; did you mean picture?"),
        ({"picture": models["sound"]}, {}, "--embed picture: .* is a wav2vec2, which takes audio, not image"),
        ({"picture": str(tmp_path / "nowhere")}, {}, "--embed picture: .* cannot be loaded"),
        (models, {"picture": "max"}, "--pooling picture=max: give one of model, cls, mean, tokens"),
        (models, {"words": "cls"}, "--pooling words=cls: give one of .* of a modality of --embed"),
    ]
    for chosen, poolings, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            embed(source, tmp_path / "features", chosen, **poolings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "features").exists()
    shards, _ = embed(source, tmp_path / "features", models)
    with pytest.raises(UserError, match="--embed picture: holds features already"):
        embed(shards, tmp_path / "more", models)
    with pytest.raises(UserError, match="is the folder of --data"):
        embed(source, source.path, models)
    assert pairs("embed", ["a=b=c", "d=e"]) == {"a": "b=c", "d": "e"}
    for given, message in ((["a"], "write it as MODALITY=MODEL"), (["a=b", "a=c"], "a is named twice")):
        with pytest.raises(UserError, match=message):
            pairs("embed", given)


@pytest.mark.parametrize("processes", ["in_this_process", pytest.param("ray_local", marks=pytest.mark.slow)])
def test_the_command(
    source: Shards, models: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest, processes: str
) -> None:
    request.getfixturevalue(processes)
    chosen = [part for name, model in models.items() for part in ("--embed", f"{name}={model}")]
    out = tmp_path / "features"
    done = run_command(tmp_path, "prepare", *chosen, "--data", str(source.path), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stdout
    assert Shards(out).card.modalities["picture"].shape == [8]
    refused = run_command(tmp_path, "prepare", *chosen, "--out", str(out))
    assert refused.returncode != 0
    assert "--embed MODALITY=MODEL goes with --data SHARDS" in refused.stderr


def test_rows_that_lack_a_modality_lack_its_features(
    raw: Path, source: Shards, models: dict[str, str], tmp_path: Path, in_this_process: list[str]
) -> None:
    lines = (raw / "manifest.csv").read_text().splitlines()
    (raw / "gaps.csv").write_text(
        "\n".join(line.replace(",2.png", ",").replace(",9.png", ",") for line in lines) + "\n"
    )
    kinds = {"sound": "audio", "picture": "image"}
    manifest = read_manifest(raw / "gaps.csv", kinds, allow_missing=True)
    how = ["audio.form=waveform", "image.size=32", "storage.picture=jpeg"]
    gaps = prepared(manifest, load(PrepareConfig, None, how), tmp_path / "gaps")
    features, _ = embed(gaps, tmp_path / "features", {"picture": models["picture"]})
    features.verify()
    assert features.card.modalities["picture"].missing == {"train": 1, "val": 1}
    full, _ = embed(source, tmp_path / "full", {"picture": models["picture"]})
    for split in ("train", "val"):
        there = features.present(split, "picture")
        assert there.tolist() == gaps.present(split, "picture").tolist() and not there.all()
        found, expected = (one.arrays(split)[0]["picture"] for one in (features, full))
        np.testing.assert_allclose(found[there], expected[there], rtol=1e-4, atol=1e-6)
        assert not found[~there].any()
    rows = features.arrays("train")[0]["picture"][features.present("train", "picture")]
    assert features.card.modalities["picture"].means == pytest.approx(rows.mean(axis=0).tolist(), rel=1e-4)
