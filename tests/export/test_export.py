"""An exported model says of raw files what the run said of the same rows in the shards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hub_models import FRAMES, save
from media_files import features, png, save_tokenizer, video
from prepared import prepared
from tiny_run import SMALL

import lfm_ray
from lfm_ray.config import RunConfig
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest, read_manifest
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.export import model_folder
from lfm_ray.export.model_folder import CONFIG, WEIGHTS, write
from lfm_ray.models.classifier import Outputs
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import Trainer

KINDS: dict[str, Kind] = {"sound": "audio", "picture": "image", "clip": "video", "words": "text", "vector": "feature"}
SHORT = [*SMALL, "epochs=1", "data.batch_size=8", "optimizer.learning_rate=0.05"]
MEDIA = ["audio.n_fft=128", "audio.hop=64", "video.size=16", "text.length=12"]
STORAGES = {
    "tensor": [],
    "packed": ["storage.sound=waveform", "storage.picture=jpeg", "storage.clip=jpeg", "jpeg_quality=30"],
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 rows of five modalities and two classes; a clip and its sound lie in the same file."""
    folder = tmp_path_factory.mktemp("raw")
    lines = ["id,sound,picture,clip,words,vector,label,split,start,end"]
    for row in range(16):
        video(folder / f"{row}.mp4", frames=10 + row, sound=True, side=32)
        png(folder / f"{row}.png", width=12, height=8, mode="RGB", seed=row)
        features(folder / f"{row}.npy")
        words = ["good odd film", "bad bad film"][row % 2]
        split = "val" if row >= 10 else "train"
        lines.append(f"r{row},{row}.mp4,{row}.png,{row}.mp4,{words},{row}.npy,{['no', 'yes'][row % 2]},{split},0.2,1")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def dataset(raw: Path, out: Path, kinds: dict[str, Kind], *overrides: str) -> tuple[Manifest, Shards]:
    manifest = read_manifest(raw / "manifest.csv", kinds)
    return manifest, prepared(manifest, load(PrepareConfig, None, [*MEDIA, *overrides]), out)


def trained(shards: Shards, *overrides: str) -> Trainer:
    config = load(RunConfig, None, [*SHORT, f"data.path={shards.path}", *overrides])
    run = Trainer(config, shards.card)
    fit(run, DataSource(shards, {}).splits(config))
    return run


def samples_of(manifest: Manifest) -> list[dict[str, Any]]:
    return [row.values | {"start": row.start, "end": row.end} for row in manifest.splits["val"]]


def evaluated(run: Trainer, shards: Shards, model: Any = None) -> Outputs:
    """What a run's evaluation of the val split sees."""
    (batch,) = DataSource(shards, {}).evaluation("val", run.config).epoch(1)
    with torch.no_grad():
        return (model or run.model).eval()(batch.inputs)


def same(one: Outputs, other: Outputs) -> None:
    torch.testing.assert_close(one.columns(), other.columns(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokenizer", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_raw_files_give_the_logits_of_the_same_rows_in_the_shards(
    raw: Path, tmp_path: Path, storage: str, tokenizer: bool
) -> None:
    texts = [f"text.tokenizer={save_tokenizer(tmp_path / 'words', pad_token='[PAD]')}"] if tokenizer else []
    manifest, shards = dataset(raw, tmp_path / "shards", KINDS, *STORAGES[storage], *texts)
    run = trained(shards, "model.fusion=concat", "data.augmentation.flip=1")
    expected = evaluated(run, shards)
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    for gone in (tmp_path / "shards", tmp_path / "words"):
        shutil.rmtree(gone, ignore_errors=True)
    before = torch.get_rng_state()
    predictor = lfm_ray.load(tmp_path / "model", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are left alone
    samples = samples_of(manifest)
    same(predictor.outputs(samples), expected)
    predictions = predictor.predict(samples, batch_size=4)
    for name, logits in {"fused": expected.fused, **expected.unimodal}.items():
        found = [p.probabilities if name == "fused" else p.unimodal[name] for p in predictions]
        wanted = logits.softmax(dim=1).numpy()
        np.testing.assert_allclose([[one["no"], one["yes"]] for one in found], wanted, atol=1e-5)
    assert [p.label for p in predictions] == [["no", "yes"][i] for i in expected.fused.argmax(dim=1)]
    assert predictor.predict(samples[2]).probabilities["yes"] == pytest.approx(predictions[2].probabilities["yes"])
    assert predictor.modalities == KINDS


@pytest.fixture(scope="module")
def two(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Shards]:
    """Only the picture, with noise, and the text."""
    out = tmp_path_factory.mktemp("two") / "shards"
    return dataset(raw, out, {"picture": "image", "words": "text"}, "noise.picture=0.5")


@pytest.fixture(scope="module")
def exported(two: tuple[Manifest, Shards], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    write(StoredModel.of(trained(two[1]).state_dict(), Path("checkpoint.pt")), folder)
    return folder


def test_the_noise_of_the_preparation_is_not_added(two: tuple[Manifest, Shards], exported: Path) -> None:
    sample = samples_of(two[0])[0]
    first, second = lfm_ray.load(exported).outputs([sample, sample]).unimodal["picture"]
    assert torch.equal(first, second)  # the noise would be another one of each row


@pytest.mark.parametrize("method", ["official", "unimodal"])
def test_the_fusion_is_the_methods_own(two: tuple[Manifest, Shards], tmp_path: Path, method: str) -> None:
    manifest, shards = two
    run = trained(shards, f"method={method}")
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    predictor = lfm_ray.load(tmp_path / "model")
    samples = samples_of(manifest)
    outputs = predictor.outputs(samples)
    logits = outputs.fused if method == "unimodal" else sum(outputs.unimodal.values()) / 2
    found = [[p.probabilities["no"], p.probabilities["yes"]] for p in predictor.predict(samples)]
    np.testing.assert_allclose(found, logits.softmax(dim=1).numpy(), atol=1e-6)


def test_the_moving_average_is_exported_where_there_is_one(two: tuple[Manifest, Shards], tmp_path: Path) -> None:
    run = trained(two[1], "optimizer.ema_decay=0.8", "model.projection_size=4", "loss.learn_tau=true")
    assert write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model").averaged
    predictor = lfm_ray.load(tmp_path / "model")
    weights = predictor.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in run.averaged.module.state_dict().items())
    assert not all(torch.equal(weights[name], value) for name, value in run.model.state_dict().items())


def test_an_encoder_that_was_pretrained_is_made_again_without_its_source(
    two: tuple[Manifest, Shards], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path / "bert")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    encoders = {"words": ("bert", "bert"), "picture": ("resnet18", "resnet")}
    run = trained(two[1], "compute.precision=fp32", *(
        f"model.encoders.{name}={{name: {encoder}, pretrained: {tmp_path / folder}}}"
        for name, (encoder, folder) in encoders.items()
    ))  # fmt: skip
    expected = evaluated(run, two[1])
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    for folder in ("bert", "resnet"):
        shutil.rmtree(tmp_path / folder)
    predictor = lfm_ray.load(tmp_path / "model")
    (batch,) = DataSource(two[1], {}).evaluation("val", run.config).epoch(1)
    with torch.no_grad():
        same(predictor.model(batch.inputs), expected)
    (tmp_path / "model" / "encoders" / "words" / "config.json").unlink()
    with pytest.raises(UserError, match=r"encoders/words/config\.json: this file of the exported model is missing"):
        lfm_ray.load(tmp_path / "model")


def test_loading_needs_neither_ray_nor_torch_before_it_is_asked_to(
    two: tuple[Manifest, Shards], exported: Path
) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"  # an import of it would fail
        "import lfm_ray; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)\n"
        f"print(lfm_ray.load({str(exported)!r}).predict({samples_of(two[0])[0]!r}).label)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("no", "yes")


def test_a_folder_that_is_there_or_a_failure_leaves_everything_as_it_was(
    two: tuple[Manifest, Shards], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, file = trained(two[1]).state_dict(), Path("checkpoint.pt")
    model = StoredModel.of(state, file)
    with pytest.raises(UserError, match="already exists"):
        write(model, exported)
    with pytest.raises(UserError, match="earlier version"):
        write(StoredModel.of({key: value for key, value in state.items() if key != "card"}, file), tmp_path / "out")

    def full(*arguments: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "save", full)
    with pytest.raises(UserError, match="out: cannot be written: No space left"):
        write(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def alter(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[-1] ^= 1
        (folder / file).write_bytes(data)

    return change


def swap_classes(file: Path) -> None:
    card = json.loads(file.read_text())
    card["dataset"]["classes"].reverse()
    file.write_text(json.dumps(card))


def with_card(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        card = json.loads((folder / CONFIG).read_text())
        change(card)
        card["checksum"] = None  # of an earlier version
        (folder / CONFIG).write_text(json.dumps(card))

    return changed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "there is no such folder; make one with: python -m lfm_ray.export"),
        (lambda folder: (folder / CONFIG).unlink(), "is not an exported model: it has no config.json"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
        (lambda folder: (folder / CONFIG).write_text('{"model_type": "bert"}'), "not in the format 'lfm_ray model 1'"),
        (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors: this file of the exported model is missing"),
        (lambda folder: swap_classes(folder / CONFIG), "config.json: its checksum differs"),
        (alter(WEIGHTS), "model.safetensors: checksum differs"),
        (with_card(lambda card: card["run"]["loss"].update(tua=1)), "run.loss.tua: unknown setting; did you mean tau"),
        (with_card(lambda card: card["run"]["model"].update(width=8)), "is no tensor of shape"),
        (with_card(lambda card: card["files"].clear()), "lists no model.safetensors"),
        (
            with_card(
                lambda card: card["run"]["model"].update(encoders={"words": {"name": "bert", "pretrained": "x"}})
            ),
            "lists no encoders/words/config.json",
        ),
        (
            with_card(lambda card: card["dataset"]["preprocessing"]["text"].update(tokenizer="evil/code")),
            "lists no tokenizer/tokenizer_config.json",
        ),
    ],
)
def test_what_is_no_whole_exported_model_is_named(
    exported: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    spoil(folder)
    with pytest.raises(UserError) as caught:
        lfm_ray.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (str(folder), said)), message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"picture": None}, "sample 1: picture must be the path of its image; the model takes picture, words"),
        ({"words": "  "}, "sample 1: words must be the text"),
        ({"words": Path("text.txt")}, "sample 1: words must be the text"),
        ({"pictrue": "x.png"}, "sample 1: there is no modality 'pictrue'; did you mean picture?"),
        ({"picture": "absent.png"}, "sample 1: picture: absent.png: there is no such file"),
        ({"picture": __file__}, "test_export.py: is text, not media; it begins"),
        ({"start": -1}, "sample 1: start must be a number of seconds"),
        ({"start": 2, "end": 1.5}, "sample 1: end must be after start"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(
    two: tuple[Manifest, Shards], exported: Path, change: dict[str, Any], said: str
) -> None:
    good = samples_of(two[0])[0]
    with pytest.raises(UserError) as caught:
        lfm_ray.load(exported).predict([good, good | change])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_mapping_or_nothing_at_all(exported: Path) -> None:
    predictor = lfm_ray.load(exported)
    with pytest.raises(UserError, match="sample 0: must be a mapping from modality to file or text, not str"):
        predictor.predict(["seven.wav"])
    assert predictor.predict([]) == []


def test_pretrained_encoders_of_any_family_come_along(raw: Path, tmp_path: Path) -> None:
    """Sound as a waveform, whole clips, texts by the model's own length: from raw files to raw files."""
    kinds: dict[str, Kind] = {"sound": "audio", "picture": "image", "clip": "video"}
    for name in ("wav2vec2", "vit", "videomae"):
        (tmp_path / name).mkdir()
        save(name, tmp_path / name)
    how = ["audio.form=waveform", "audio.sample_rate=16000", "image.size=32", "video.size=32", f"video.frames={FRAMES}"]
    manifest, shards = dataset(raw, tmp_path / "shards", kinds, *how, "noise.sound=0.1")
    assert shards.card.modalities["sound"].dtype == "int16"
    encoders = {"sound": "wav2vec2", "picture": "vit", "clip": "videomae"}
    settings = [f"data.frames={FRAMES}", "epochs=1", "compute.precision=fp32", "model.encoders.picture.frozen=true"]
    for name, model in encoders.items():
        settings += [f"model.encoders.{name}.name=auto", f"model.encoders.{name}.pretrained={tmp_path / model}"]
    run = trained(shards, *settings)
    assert run.history[-1]["val/sound/loss"] > 0
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    for model in encoders.values():
        shutil.rmtree(tmp_path / model)
    opened = lfm_ray.load(tmp_path / "model")
    clean = prepared(manifest, load(PrepareConfig, None, [*MEDIA, *how]), tmp_path / "clean")  # without the noise
    same(opened.outputs(samples_of(manifest)), evaluated(run, clean))


def test_a_sample_may_lack_what_rows_lacked_in_training(raw: Path, tmp_path: Path) -> None:
    table = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    for row, lacking in {1: ["picture"], 3: ["sound", "words"], 11: ["words"], 12: ["picture", "sound"]}.items():
        table.loc[row, lacking] = ""
    table.to_csv(raw / "gaps.csv", index=False)
    kinds: dict[str, Kind] = {name: KINDS[name] for name in ("sound", "picture", "words", "vector")}
    manifest = read_manifest(raw / "gaps.csv", kinds, allow_missing=True)
    shards = prepared(manifest, load(PrepareConfig, None, [*MEDIA, *STORAGES["packed"][:2]]), tmp_path / "shards")
    run = trained(shards, "model.fusion=concat")
    write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    predictor = lfm_ray.load(tmp_path / "model", device="cpu")
    samples = samples_of(manifest)
    same(predictor.outputs(samples), evaluated(run, shards))
    predictions = predictor.predict(samples)
    for sample, prediction in zip(samples, predictions, strict=True):
        assert set(prediction.unimodal) == set(sample) & set(kinds)
    alone = predictor.predict({"words": "good odd film", "picture": None, "vector": samples[0]["vector"]})
    assert set(alone.unimodal) == {"words", "vector"}
    with pytest.raises(UserError, match="sample 0: vector must be the path"):  # no row lacked it
        predictor.predict({"words": "good odd film"})
