"""What TensorBoard is given of a sweep, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lfm_ray.callbacks.tensorboard import TensorBoardCallback
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import trial_folder
from lfm_ray.training.run_folder import ALPHA, read_alpha_updates

SPACE = Space.model_validate(
    {
        "question": "Which?",
        "run": {"epochs": 3},
        "search": {
            "alpha.strategy": {"choice": ["heuristic", "polynomial", "learned"]},
            "alpha.coefficients": {"uniform": [0, 1], "length": 2, "when": {"alpha.strategy": "polynomial"}},
            "alpha.inner_iters": {"integer": [1, 5], "when": {"alpha.strategy": "learned"}},
            "loss.learn_tau": {"choice": [True, False]},
            "data.micro_batch_size": {"choice": [None, 8]},
        },
    }
)
COMMON = {"loss.learn_tau": True, "data.micro_batch_size": None}


def trial(number: int, settings: dict[str, Any]) -> SimpleNamespace:
    """What the callback sees of a trial of Ray Tune."""
    config = {"number": number, "settings": settings}
    return SimpleNamespace(trial_id=f"t{number}", config=config, last_result={}, status="TERMINATED")


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "seconds": 1.0, "alpha": 0.5, "train/loss": 1.0, "val/fused/accuracy": 0.8 + epoch / 100}


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def hparams(folder: Path, tag: str) -> Any:
    return metadata._parse_plugin_data_as(events(folder).summary_metadata[tag].plugin_data.content, tag.split("/")[-1])


def test_a_run_is_named_by_what_it_was_and_holds_its_curves_and_typed_settings(tmp_path: Path) -> None:
    callback = TensorBoardCallback(tmp_path, SPACE, ["audio"])
    one = trial(17, {"alpha.strategy": "polynomial", "alpha.coefficients": [0.5, 0.25], **COMMON})
    for epoch in (1, 2, 3):
        callback.on_trial_result(0, [], one, row(epoch))
        assert (tmp_path / "tensorboard/017-polynomial").exists()
    callback.on_trial_complete(0, [], one)
    run = tmp_path / "tensorboard/017-polynomial-acc0.83"
    assert [event.step for event in events(run).Scalars("val/fused/accuracy")] == [1, 2, 3]
    start = hparams(run, metadata.SESSION_START_INFO_TAG).hparams
    assert start["alpha.coefficients.1"].number_value == 0.25
    assert start["loss.learn_tau"].bool_value is True
    assert start["data.micro_batch_size"].string_value == "None"
    assert start["strategy"].string_value == "polynomial"
    assert start["trial"].number_value == 17
    assert "alpha.inner_iters" not in start


def test_the_columns_of_hparams_are_typed_and_cover_every_strategy(tmp_path: Path) -> None:
    TensorBoardCallback(tmp_path, SPACE, ["audio"])
    found = hparams(tmp_path / "tensorboard/layout", metadata.EXPERIMENT_TAG)
    kinds = {info.name: info.type for info in found.hparam_infos}
    text, yes_or_no, number = 1, 2, 3  # of tensorboard's api.proto
    assert kinds == {
        "strategy": text, "trial": number, "alpha.strategy": text, "alpha.coefficients.0": number,
        "alpha.coefficients.1": number, "alpha.inner_iters": number, "loss.learn_tau": yes_or_no,
        "data.micro_batch_size": text,
    }  # fmt: skip
    first = {info.name for info in found.hparam_infos if info.differs}
    assert first == {"strategy", "trial", "alpha.strategy", "loss.learn_tau", "data.micro_batch_size"}
    assert found.metric_infos[0].name.tag == "val/fused/accuracy"


def test_every_update_of_a_learned_alpha_is_written_once(tmp_path: Path) -> None:
    callback = TensorBoardCallback(tmp_path, SPACE, ["audio"])
    one = trial(2, {"alpha.strategy": "learned", "alpha.inner_iters": 5, **COMMON})
    folder = trial_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    for epoch in (1, 2, 3):
        with (folder / ALPHA).open("a") as file:
            file.write("\n" + json.dumps([(10 * epoch - 5, 0.9), (10 * epoch, 0.9 - epoch / 10)]))
        callback.on_trial_result(0, [], one, row(epoch))
    callback.on_trial_complete(0, [], one)
    written = events(tmp_path / "tensorboard/002-learned-acc0.83").Scalars("alpha_per_update")
    assert [event.step for event in written] == [5, 10, 15, 20, 25, 30]
    assert [event.value for event in written] == pytest.approx([0.9, 0.8, 0.9, 0.7, 0.9, 0.6])


def test_updates_that_a_kill_has_cut_or_repeated(tmp_path: Path) -> None:
    (tmp_path / ALPHA).write_text("\n[[5, 0.9], [10, 0.8]]\n[[15, 0.7]]\n[[15, 0.\n[[15, 0.75]]\n[[20, 0.")
    assert read_alpha_updates(tmp_path) == {5: 0.9, 10: 0.8, 15: 0.75}
    assert read_alpha_updates(tmp_path / "absent") == {}


def test_names_of_trials_that_were_stopped_that_failed_and_that_went_on(tmp_path: Path) -> None:
    callback = TensorBoardCallback(tmp_path, SPACE, [])
    heuristic = {"alpha.strategy": "heuristic", **COMMON}
    for number, failed in ((0, False), (1, True)):
        one = trial(number, heuristic)
        callback.on_trial_result(0, [], one, row(1))
        one.last_result = {"failed": "out of memory"} if failed else row(1)
        callback.on_trial_complete(0, [], one)
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert sorted(names) == ["000-heuristic-acc0.81-epoch1", "001-heuristic-acc0.81-failed", "layout"]

    again = TensorBoardCallback(tmp_path, SPACE, [])  # after a kill; the trial reports its first epoch again
    for epoch in (1, 2, 3):
        again.on_trial_result(0, [], trial(0, heuristic), row(epoch))
    again.on_trial_complete(0, [], trial(0, heuristic))
    (run,) = (tmp_path / "tensorboard").glob("000-*")
    assert run.name == "000-heuristic-acc0.83"
    assert [event.step for event in events(run).Scalars("alpha")] == [1, 2, 3]
