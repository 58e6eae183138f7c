"""The recipes of search_spaces/, each on its raw layout made small, prepared by its own reader."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import prepared
from raw_layouts import LAYOUTS, OF_THE_PAPER, cmu_mosi, ucf101

from lfm_ray.datasets.preparing.cards import raw_card
from lfm_ray.datasets.preparing.sources import of_dataset
from lfm_ray.datasets.shards import Shards
from lfm_ray.resources import space_file
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer
from lfm_ray.tune import arguments

SPACES = Path(__file__).parents[2] / "search_spaces"
# Paper section 4.1: optimiser, learning rate, batch, encoders. It prints nothing for NVGesture.
VIDEO = ("sgd", 1e-2, 256, {"audio": "resnet18", "video": "resnet18"})
TWEETS = ("adam", 1e-4, 128, {"text": "bert", "image": "resnet50"})
PAPER = {"crema_d": VIDEO, "kinetics_sounds": VIDEO, "vggsound": VIDEO, "sarcasm": TWEETS, "twitter2015": TWEETS}
OFTEN = {"alpha.inner_iters": 1, "alpha.outer_fraction": 0.5}  # BatchNorm takes no batch of one
SMALL_MEDIA = ["audio.seconds=0.3", "video.size=32", "image.size=32", "text.length=16"]


def recipe(name: str, *overrides: str) -> Space:
    return load_space(SPACES / f"{name}.yaml", overrides)


def shards_of(name: str, folder: Path) -> Shards:
    """As `lfm_ray.prepare --dataset NAME` makes them, but small."""
    LAYOUTS[name](folder / "raw")
    sections = [item for item in SMALL_MEDIA if item.partition(".")[0] in raw_card(name).preprocessing]
    return prepared(*of_dataset(name, folder / "raw", settings=sections), folder / "shards")


# The other recipes differ from one of these in the path of their data, the batch and the epochs.
OF_A_KIND = [layout.__name__ for layout in (*OF_THE_PAPER, ucf101, cmu_mosi)]


@pytest.mark.parametrize("name", OF_A_KIND)
def test_every_known_point_of_a_recipe_trains_on_what_its_reader_prepared(tmp_path: Path, name: str) -> None:
    shards = shards_of(name, tmp_path)
    widths = [
        f"model.encoders.{modality}.{'width=8' if kind == 'text' else 'width=4'}"
        for modality, kind in raw_card(name).modalities.items()
    ]
    layers = ["model.encoders.text.layers=1"] if "text" in shards.card.modalities else []
    space = recipe(name, f"data.path={shards.path}", "epochs=1", "model.embedding_size=8", *widths, *layers)
    for label, point in space.points.items():
        config = space.config(point | (OFTEN if label == "learned" else {}))
        run = Trainer(config, shards.card)
        before = run.alpha.value
        (row,) = fit(run, DataSource(shards, {}).splits(config))
        assert all(np.isfinite(value) for value in row.values()), (label, row)
        assert {f"val/{modality}/accuracy" for modality in raw_card(name).modalities} <= set(row)
        assert (run.alpha.value != before) == (label != "alpha = 0")
    if "video" in shards.card.modalities:
        assert shards.card.modalities["video"].shape == [10, 3, 32, 32]
        batch = next(DataSource(shards, {}).splits(config).train.epoch(1))
        assert batch.inputs["video"].shape[1:] == (3, 3, 32, 32)  # three frames of ten
        channels = {name: body.num_channels for name, body in embedders(run).items()}
        assert channels == {"audio": 1, "video": 3}


def embedders(run: Trainer) -> dict[str, Any]:
    encoders = run.model.encoders
    return {name: getattr(encoders[name], "image", encoders[name]).body.embedder for name in ("audio", "video")}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recipe_has_the_papers_settings_and_downloads_nothing(name: str) -> None:
    run = recipe(name).base
    optimizer, encoders = run.optimizer, {one: run.model.of(one).name for one in raw_card(name).modalities}
    if name in PAPER:
        assert (optimizer.name, optimizer.learning_rate, run.data.batch_size, encoders) == PAPER[name]
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.schedule) == (0.9, 1e-4, "plateau")
    assert (run.data.path, run.data.frames) == (f"shards/{name}", 3)
    assert not any(run.model.of(one).pretrained for one in encoders)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_command_at_the_head_of_a_recipe_can_be_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SPACES / f"{name}.yaml").read_text().replace("\\\n#", "")
    (command,) = (line[1:] for line in text.splitlines() if "lfm-ray tune" in line)
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    given = arguments()
    assert space_file(given.space).resolve() == SPACES / f"{name}.yaml"
    space = recipe(name, *given.overrides)
    encoders = space.base.model.encoders
    published = {"text": "google-bert/bert-base-uncased", "image": "microsoft/resnet-50"}
    wanted = {one: model for one, model in published.items() if given.overrides and one in encoders}
    assert {one: settings.pretrained for one, settings in encoders.items() if settings.pretrained} == wanted
