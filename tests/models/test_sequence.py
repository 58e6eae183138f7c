"""Sequences of features: what is missing is neither read nor counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import prepared

from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import read_manifest
from lfm_ray.datasets.shards import ModalityCard, Shards
from lfm_ray.errors import UserError
from lfm_ray.models.encoders import build_encoder, check_encoder
from lfm_ray.models.encoders.sequence import SequenceSettings, positions
from lfm_ray.settings import load

CARD = ModalityCard(
    kind="feature", shape=[7, 3], dtype="float32", mean=0.0, std=1.0, means=[1, 2, 3], stds=[2, 0, 1], padded=True
)
POOLINGS = ("mean", "attention", "transformer")


def encoder_of(pooling: str, **more: Any) -> Any:
    torch.manual_seed(0)
    settings = SequenceSettings(name="sequence", pooling=pooling, width=8, **more)
    return build_encoder("m", CARD, settings, 5)


def values() -> torch.Tensor:
    """Four sequences, of 7, 4, 1 and no steps."""
    value = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(1))
    for row, steps in enumerate((7, 4, 1, 0)):
        value[row, steps:] = torch.nan
    return value


@pytest.mark.parametrize("pooling", POOLINGS)
def test_missing_steps_have_no_effect(pooling: str) -> None:
    encoder = encoder_of(pooling).eval()
    value = values()
    found = encoder(value)
    assert found.isfinite().all()
    for row, steps in enumerate((7, 4, 1)):
        alone = value[row : row + 1, :steps]
        if pooling == "transformer":
            whole, encoder.positions = encoder.positions, encoder.positions[:steps]
        torch.testing.assert_close(encoder(alone)[0], found[row], rtol=1e-4, atol=1e-5)
        if pooling == "transformer":
            encoder.positions = whole
    changed = value.clone()
    changed[1, 3] += 1
    assert not torch.allclose(encoder(changed)[1], found[1])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_parameter_learns(pooling: str) -> None:
    encoder = encoder_of(pooling)
    encoder(values()).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_mean_worked_out_by_hand() -> None:
    encoder = encoder_of("mean")
    value = values()
    standardised = (value[1, :4] - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([2.0, 1.0, 1.0])
    expected = encoder.project(encoder.hidden(standardised).relu().mean(dim=0))
    torch.testing.assert_close(encoder(value)[1], expected)


def test_positions_are_those_of_the_paper() -> None:
    found = positions(5, 6)
    assert found.shape == (5, 6)
    assert found[3, 2].item() == pytest.approx(np.sin(3 / 10_000 ** (2 / 6)))
    assert found[3, 3].item() == pytest.approx(np.cos(3 / 10_000 ** (2 / 6)))
    assert positions(5, 7).shape == (5, 7)


def test_what_is_no_sequence_is_refused() -> None:
    flat = CARD.model_copy(update={"shape": [3]})
    with pytest.raises(UserError, match=r"model\.encoders\.m\.name: sequence takes features of shape \(T, d\).*small"):
        check_encoder("m", flat, SequenceSettings(name="sequence"))
    with pytest.raises(ValueError, match="layers are those of pooling: transformer"):
        SequenceSettings(name="sequence", layers=2)
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4 heads"):
        SequenceSettings(name="sequence", pooling="transformer", width=6)


def write(folder: Path, lengths: list[int]) -> Path:
    random = np.random.default_rng(0)
    lines = ["id,words,label,split"]
    for row, steps in enumerate(lengths):
        np.save(folder / f"{row}.npy", 5 + 2 * random.normal(size=(steps, 3)))
        lines.append(f"r{row},{row}.npy,{['no', 'yes'][row % 2]},{'val' if row >= len(lengths) - 2 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def shards_of(folder: Path, lengths: list[int], *overrides: str) -> Shards:
    manifest = read_manifest(write(folder, lengths), {"words": "feature"})
    return prepared(manifest, load(PrepareConfig, None, list(overrides)), folder / "shards")


def test_sequences_are_cut_and_padded(tmp_path: Path) -> None:
    lengths = [4, 9, 1, 6, 3, 5]
    shards = shards_of(tmp_path, lengths, "feature.length=6")
    card = shards.card.modalities["words"]
    assert (card.shape, card.padded) == ([6, 3], True)
    train = shards.arrays("train")[0]["words"]
    assert isinstance(train, np.ndarray)
    assert (~np.isnan(train).any(axis=2)).sum(axis=1).tolist() == [4, 6, 1, 6]
    np.testing.assert_allclose(train[1], np.load(tmp_path / "1.npy")[:6].astype(np.float32))
    assert card.means == pytest.approx(np.nanmean(train, axis=(0, 1)).tolist(), rel=1e-5)
    assert card.stds == pytest.approx(np.nanstd(train, axis=(0, 1)).tolist(), rel=1e-4)
    assert card.std == pytest.approx(np.nanstd(train), rel=1e-4)
    small = build_encoder("m", card, load_small(), 5)
    assert small(torch.from_numpy(train.copy())).isfinite().all()


def load_small() -> Any:
    from lfm_ray.models.encoders import EncoderSettings

    return EncoderSettings(name="small", width=4)


def test_sequences_of_different_lengths_say_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"where the others have .*--set feature\.length=STEPS"):
        shards_of(tmp_path, [4, 9, 4, 4, 4, 4])
