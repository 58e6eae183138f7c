"""Settings of single columns, and what is decided by the files of each."""

from __future__ import annotations

from pathlib import Path

import media_files
import numpy as np
import pytest
import torch
from PIL import Image

import lfm_ray
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing import resolving
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.decoding import decode, modality_card
from lfm_ray.datasets.preparing.manifest import Row, read_manifest
from lfm_ray.datasets.preparing.resolving import resolve
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.small import FeatureEncoder
from lfm_ray.settings import load


def rows(folder: Path, count: int = 5) -> list[Row]:
    """A grey picture of 12 pixels, one in colour of 20, features of 3 and of 2 x 5 numbers, sound of two rates."""
    found = []
    for row in range(count):
        depth, rgb = folder / f"d{row}.png", folder / f"c{row}.png"
        media_files.png(depth, 12, 12, seed=row)
        media_files.png(rgb, 20, 20, mode="RGB", seed=row)
        np.save(folder / f"f{row}.npy", np.arange(3.0) + row)
        np.save(folder / f"g{row}.npy", np.ones((2, 5)))
        near, far = folder / f"n{row}.wav", folder / f"r{row}.wav"
        media_files.wav(near, 0.5, rate=8000, seed=row)
        media_files.wav(far, 1.0, rate=4000, seed=row)
        values = {"depth": depth, "rgb": rgb, "few": folder / f"f{row}.npy", "many": folder / f"g{row}.npy",
                  "near": near, "far": far}  # fmt: skip
        found.append(Row(str(row), row % 2, {name: str(path) for name, path in values.items()}))
    return found


KINDS: dict[str, Kind] = {
    "depth": "image", "rgb": "image", "few": "feature", "many": "feature", "near": "audio", "far": "audio",
}  # fmt: skip


def test_what_is_open_is_decided_for_each_column_by_its_own_files(tmp_path: Path) -> None:
    for kinds in (KINDS, dict(reversed(KINDS.items()))):
        config = resolve(PrepareConfig(audio={"n_fft": 256}), kinds, rows(tmp_path))  # type: ignore[arg-type]
        shapes = {name: modality_card(name, kind, config).shape for name, kind in kinds.items()}
        assert shapes == {"depth": [1, 12, 12], "rgb": [3, 20, 20], "few": [3], "many": [2, 5],
                          "near": [1, 129, 24], "far": [1, 129, 24]}  # fmt: skip
        assert (config.of("near", "audio").sample_rate, config.of("far", "audio").sample_rate) == (8000, 4000)


def test_a_column_has_settings_of_its_own(tmp_path: Path) -> None:
    config = load(PrepareConfig, None, ["image.size=8", "image.depth.channels=3", "image.rgb={channels: 1, size: 16}"])
    config = resolve(config, {"depth": "image", "rgb": "image"}, sample := rows(tmp_path))
    assert modality_card("depth", "image", config).shape == [3, 8, 8]
    assert decode(sample[0], "rgb", "image", config).seen.shape == (1, 16, 16)
    again = PrepareConfig.model_validate(config.model_dump(mode="json"))
    assert again == config


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("image.dept.channels=1", "image.dept: is neither a setting nor a column of image; did you mean depth?"),
        ("image.depth.chanels=1", r"image\.depth\.chanels: .*did you mean channels"),
        ("image.depth.channels=2", r"image\.depth\.channels: "),
        ("audio.depth.hop=2", "audio.depth: is neither a setting nor a column of audio"),
        ("text.words.tokenizer=x", "text.words.tokenizer: all texts share one tokenizer"),
    ],
)
def test_a_wrong_setting_of_a_column_is_named(tmp_path: Path, setting: str, said: str) -> None:
    kinds: dict[str, Kind] = {"depth": "image", "rgb": "image", "words": "text"}
    sample = [Row(row.id, row.label, row.values | {"words": "x"}) for row in rows(tmp_path)]
    with pytest.raises(UserError, match=said):
        resolve(load(PrepareConfig, None, [setting]), kinds, sample)


def test_most_files_decide_not_the_first(tmp_path: Path) -> None:
    sample = rows(tmp_path)
    np.save(sample[0].values["few"], np.zeros(7))
    Image.new("RGB", (99, 99)).save(sample[0].values["depth"])
    config = resolve(PrepareConfig(), KINDS, sample)
    assert config.of("few", "feature").shape == [3]
    assert (config.of("depth", "image").size, config.of("depth", "image").channels) == (12, 1)


def test_stored_waveforms_become_spectrograms_by_their_own_settings(tmp_path: Path, ray_local: None) -> None:
    lines = ["near,far,label,split"]
    for row, one in enumerate(rows(tmp_path, 8)):
        lines.append(f"{one.values['near']},{one.values['far']},{row % 2},{'val' if row > 5 else 'train'}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    settings = {"audio.n_fft": 64, "audio.far.n_mels": 8, "storage.near": "waveform", "storage.far": "waveform"}
    shards = lfm_ray.prepare(tmp_path / "m.csv", audio=["near", "far"], out=tmp_path / "out", settings=settings,
        progress=False)  # fmt: skip
    assert {name: card.shape for name, card in shards.card.modalities.items()} == {
        "near": [1, 33, 25], "far": [1, 8, 25],
    }  # fmt: skip
    columns, _ = Shards(tmp_path / "out").take("train", np.arange(2), ["near", "far"])
    inputs = Inputs.of(shards.card)(columns, np.arange(2), 1)
    assert {name: list(value.shape) for name, value in inputs.items()} == {"near": [2, 1, 33, 25], "far": [2, 1, 8, 25]}
    manifest = read_manifest(tmp_path / "m.csv", {"near": "audio", "far": "audio"})
    config = PrepareConfig.model_validate(shards.card.preprocessing)
    for name in ("near", "far"):
        seen = decode(manifest.splits["train"][0], name, "audio", config).seen
        np.testing.assert_allclose(inputs[name][0].numpy(), seen, atol=2e-2)


def test_features_are_standardised_entry_by_entry(tmp_path: Path, ray_local: None) -> None:
    random, lines = np.random.default_rng(0), ["f,label,split"]
    values = random.normal(size=(8, 2, 3)) * [1, 1000, 0] + [0, 5000, 7]
    for row, value in enumerate(values):
        np.save(tmp_path / f"{row}.npy", value)
        lines.append(f"{row}.npy,{row % 2},{'val' if row > 5 else 'train'}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    card = lfm_ray.prepare(tmp_path / "m.csv", feature="f", out=tmp_path / "out", progress=False).card.modalities["f"]
    train = values[:6].astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(card.means, train.mean(axis=(0, 1)), rtol=1e-9)
    np.testing.assert_allclose(card.stds, train.std(axis=(0, 1)), rtol=1e-6, atol=1e-6)
    assert (card.mean, card.std) == pytest.approx((train.mean(), train.std()))
    encoder = FeatureEncoder(card, 4, 5)
    seen: list[torch.Tensor] = []
    encoder.hidden.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(torch.tensor(train, dtype=torch.float32))
    standard = seen[0].reshape(6, 2, 3)
    np.testing.assert_allclose(standard.mean(dim=(0, 1)), [0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(standard.std(dim=(0, 1), correction=0), [1, 1, 0], atol=1e-4)
    whole = FeatureEncoder(card.model_copy(update={"means": [], "stds": []}), 4, 5)  # of shards without them
    assert (whole.mean.item(), whole.std.item()) == pytest.approx((card.mean, card.std))


def test_odd_files_that_stand_together_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 odd files of 1,000, the first ones or the last ones: the majority of all decides."""
    rows = [Row(str(number), 0, {"f": str(number), "s": str(number), "i": str(number)}) for number in range(1000)]
    for odd in (range(100), range(900, 1000)):
        monkeypatch.setattr(resolving.features, "header", lambda path, odd=odd: [3] if int(path) in odd else [4])
        monkeypatch.setattr(resolving.audio, "header", lambda path, odd=odd: (4000 if int(path) in odd else 8000, 1.0))
        monkeypatch.setattr(resolving.pictures, "image_header", lambda path, odd=odd: (8, 3 if int(path) in odd else 1))
        found = resolve(PrepareConfig(), {"f": "feature", "s": "audio", "i": "image"}, rows)
        assert (found.feature.shape, found.audio.sample_rate, found.image.channels) == ([4], 8000, 1)
