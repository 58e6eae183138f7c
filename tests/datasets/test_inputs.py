from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
from PIL import Image

from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.reading.augmentation import AugmentationSettings, mask, random_view
from lfm_ray.datasets.reading.inputs import DataSettings, Inputs
from lfm_ray.datasets.shards import ModalityCard, Shards

VIDEO = ModalityCard(kind="video", shape=[10, 3, 8, 8], dtype="uint8", mean=0, std=1)
SOUND = ModalityCard(kind="audio", shape=[1, 20, 30], dtype="float16", mean=-5, std=1)


def inputs(seed: int = 0, frames: int = 3, **augmentation: object) -> Inputs:
    settings = AugmentationSettings.model_validate(augmentation)
    return Inputs({"video": VIDEO, "sound": SOUND}, frames, {"sound": AudioSettings()}, settings, seed)


def samples(rows: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (rows, 3, 3, 8, 8), dtype=np.uint8)
    return {"video": video, "sound": random.normal(size=(rows, 1, 20, 30)).astype(np.float16)}


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert inputs().frames(np.arange(2), 1)["video"].tolist() == [[1, 5, 8]] * 2
    assert inputs(frames=1).frames(np.arange(1), 1)["video"].tolist() == [[5]]
    assert inputs(frames=10).frames(np.arange(2), 1) == {}  # all of them
    assert inputs(frames=30).frames(np.arange(2), 1) == {}


def test_random_frames_take_each_frame_of_each_part_as_often() -> None:
    chosen = inputs(random_frames=True, frames=2).frames(np.arange(1000), 1)["video"]
    assert (chosen[:, 0] < 5).all() and (chosen[:, 1] >= 5).all()
    counts = np.bincount(chosen.ravel(), minlength=10)
    assert counts.min() > 150 and counts.max() < 250  # 200 each


def test_what_is_drawn_depends_on_seed_epoch_and_row_alone() -> None:
    everything = {"flip": 0.5, "smallest_crop": 0.2, "time_mask": 0.5, "frequency_mask": 0.5}
    rows, columns = np.array([5, 9, 2, 40, 41, 42]), samples()
    whole = inputs(**everything)(columns, rows, 3)
    part = inputs(**everything)({name: value[[4, 1]] for name, value in columns.items()}, rows[[4, 1]], 3)
    for name, values in whole.items():
        assert torch.equal(values[[4, 1]], part[name])
        assert values.dtype == torch.from_numpy(columns[name]).dtype
        for other in (inputs(**everything)(columns, rows, 4), inputs(seed=1, **everything)(columns, rows, 3)):
            assert not torch.equal(values, other[name])
    assert not torch.equal(whole["video"], torch.from_numpy(columns["video"]))
    for name, values in inputs()(columns, rows, 3).items():  # nothing is drawn in evaluation
        assert torch.equal(values, torch.from_numpy(columns[name]))


def test_only_training_samples_are_augmented(tmp_path: Path) -> None:
    card = Shards(small_shards.write(tmp_path)).card
    data = DataSettings(modalities=["picture"], augmentation=AugmentationSettings(flip=1))
    pictures = {"picture": np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)}
    for training, expected in ((True, pictures["picture"][..., ::-1]), (False, pictures["picture"])):
        seen = Inputs.of(card, data.model_copy(update={"modalities": ["picture"]}), 0, training)(
            pictures, np.arange(1), 1
        )
        np.testing.assert_array_equal(seen["picture"].numpy(), expected)


def test_threads_change_nothing() -> None:
    everything = {"flip": 0.5, "smallest_crop": 0.2, "time_mask": 0.5}
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(inputs(**everything)(samples(), np.arange(6), 1))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_augmentation_leaves_torchs_random_state_alone() -> None:
    torch.manual_seed(17)
    before = torch.random.get_rng_state()
    inputs(time_mask=0.5, flip=0.5)(samples(), np.arange(6), 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_crop_is_the_one_that_pillow_makes_of_the_same_box() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 40), dtype=np.uint8))
    smooth = torch.nn.functional.avg_pool2d(pixels.float(), 5, 1, 2).to(torch.uint8)
    settings = AugmentationSettings(smallest_crop=0.1)
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        area, ratio = random.uniform(0.1, 1) * 1600, np.exp(random.uniform(-np.log(4 / 3), np.log(4 / 3)))
        height, width = min(40, round((area / ratio) ** 0.5)), min(40, round((area * ratio) ** 0.5))
        top, left = random.integers(41 - height), random.integers(41 - width)
        shares.append(height * width / 1600)
        found = random_view(smooth, np.random.default_rng(seed), settings)
        image = Image.fromarray(smooth.permute(1, 2, 0).numpy())
        box = image.crop((left, top, left + width, top + height)).resize((40, 40), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), np.asarray(box).astype(int), atol=1.01)
    assert 0.1 < min(shares) < 0.15 and max(shares) > 0.9


def test_all_frames_of_a_clip_are_cropped_and_flipped_alike() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, 3, 8, 8), dtype=np.uint8)
    columns = {"video": np.repeat(np.repeat(frame, 3, axis=1), 20, axis=0), "sound": samples(20)["sound"]}
    found = inputs(flip=0.5, smallest_crop=0.5)(columns, np.arange(20), 1)["video"]
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    flipped = inputs(flip=0.5)(columns, np.arange(20), 1)["video"]
    mirrored = [torch.equal(sample[0], torch.from_numpy(frame[0, 0, :, :, ::-1].copy())) for sample in flipped]
    assert 3 < sum(mirrored) < 17


@pytest.mark.parametrize(("setting", "axis"), [("frequency_mask", 1), ("time_mask", 2)])
def test_a_mask_is_one_band_of_at_most_the_share(setting: str, axis: int) -> None:
    settings = AugmentationSettings.model_validate({setting: 0.4})
    longest = 0
    for seed in range(60):
        masked = mask(torch.zeros(1, 1, 20, 30), [np.random.default_rng(seed)], settings, -5.0)[0] == -5
        hit = masked.any(dim=3 - axis)[0]
        where = hit.nonzero().flatten()
        assert masked.sum() == len(where) * masked.shape[3 - axis]  # all of the other axis
        assert len(where) == 0 or where[-1] - where[0] + 1 == len(where)  # in one piece
        longest = max(longest, len(where))
    assert 0.3 * masked.shape[axis] < longest <= 0.4 * masked.shape[axis]


def test_masks_hold_the_mean_of_each_band() -> None:
    means = list(range(SOUND.shape[1]))
    card = SOUND.model_copy(update={"means": means, "stds": [1.0] * len(means)})
    settings = AugmentationSettings(frequency_mask=0.5, time_mask=0.5)
    masked = Inputs({"sound": card}, 3, {}, settings)({"sound": np.full((20, *SOUND.shape), -7.0, np.float32)},
        np.arange(20), 1)["sound"][:, 0]  # fmt: skip
    expected = torch.tensor(means)[:, None].expand(masked.shape).to(masked.dtype)
    assert (masked == -7).any() and (masked != -7).any()
    assert torch.equal(masked[masked != -7], expected[masked != -7])


def test_an_empty_share_of_a_waveform_has_the_spectrograms_shape() -> None:
    card = ModalityCard(
        kind="audio", shape=[1, 33, 5], dtype="float16", mean=0, std=1, storage="waveform", stored_shape=[100]
    )
    audio = PrepareConfig.model_validate({"audio": {"n_fft": 64, "hop": 9, "sample_rate": 1000, "seconds": 0.1}}).audio
    found = Inputs({"x": card}, 3, {"x": audio})({"x": np.zeros((0, 100), np.int16)}, np.arange(0), 1)["x"]
    assert found.shape == (0, 1, 33, 5) and found.dtype == torch.float16
    assert Inputs({"x": card}, 3, {"x": audio})({"x": np.zeros((2, 100), np.int16)}, np.arange(2), 1)["x"].shape == (
        2,
        1,
        33,
        5,
    )
