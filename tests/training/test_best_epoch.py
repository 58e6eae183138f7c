"""The epoch that counts, patience, and what is written of classes at a run's end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import SMALL, without_time

import lfm_ray
from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.export.from_run import export
from lfm_ray.report.confirmation import class_frame
from lfm_ray.report.loaded_run import LoadedRun
from lfm_ray.runtime import checkpoint
from lfm_ray.search.population import population_space
from lfm_ray.search.ray_tune.adapters import StudySearcher
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.settings import load
from lfm_ray.training.best_epoch import BestEpoch
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.run_folder import BEST, CHECKPOINT
from lfm_ray.training.source import DataSource, check_best
from lfm_ray.training.trainer import Row, Trainer
from lfm_ray.workflows.confirming import refuse_fitted_to_validation

LOSS = "checkpoint.best=val/fused/loss"
# A rate at which the loss on the validation split soon grows again.
FAST = [
    "epochs=8",
    "optimizer.learning_rate=0.05",
    "optimizer.schedule=constant",
    "checkpoint.hours_between_failures=0",
]


def run(shards: Shards, folder: Path, *overrides: str, **launch: Any) -> list[Row]:
    config = load(RunConfig, None, [*SMALL, *FAST, f"data.path={shards.path}", *overrides])
    return execute(Launch(config, DataSource(shards, {}), folder, **launch), lambda row: None)


def measured(shards: Shards, folder: Path, split: str, file: str) -> Row:
    """The metrics of the weights in a file of a run."""
    state = checkpoint.load(folder / file)
    config = load(RunConfig, folder / "config.yaml")
    trainer = Trainer(config, shards.card)
    trainer.model.load_state_dict(state["model"])
    return trainer.evaluate(DataSource(shards, {}).evaluation(split, config))


def test_the_best_epoch_is_kept_beside_the_last_and_measured(shards: Shards, tmp_path: Path) -> None:
    plain = run(shards, tmp_path / "plain")
    rows = run(shards, tmp_path / "run", LOSS, measure="test")
    losses = [row["val/fused/loss"] for row in rows]
    assert losses == [row["val/fused/loss"] for row in plain]  # it changes nothing else
    best = 1 + losses.index(min(losses))
    assert best < len(rows)
    for number, row in enumerate(rows, 1):
        assert row["best_epoch"] == 1 + losses.index(min(losses[:number]))
    of_best = measured(shards, tmp_path / "run", "test", BEST)
    of_last = measured(shards, tmp_path / "run", "test", CHECKPOINT)
    assert of_best["fused/loss"] != of_last["fused/loss"]
    assert {name: rows[-1][f"test/{name}"] for name in of_best} == of_best
    assert {name: rows[-1][f"test_last/{name}"] for name in of_last} == of_last
    opened = LoadedRun(tmp_path / "run")
    assert opened.best_metrics["epoch"] == best
    assert not LoadedRun(tmp_path / "plain").best_metrics


def test_patience_ends_a_run_that_does_not_get_better(shards: Shards, tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole", LOSS)
    rows = run(shards, tmp_path / "run", LOSS, "checkpoint.patience=2", measure="test")
    losses = [row["val/fused/loss"] for row in whole]
    ends = next(t for t in range(3, 9) if min(losses[: t - 2]) <= min(losses[t - 2 : t]))
    assert len(rows) == ends < 8
    assert [row.get("stopped_early") for row in rows] == [None] * (ends - 1) + [1.0]
    assert "test/fused/accuracy" in rows[-1]
    again = run(shards, tmp_path / "run", LOSS, "checkpoint.patience=2", measure="test")
    assert again == rows  # it has ended


def test_a_run_that_was_killed_still_knows_its_best_epoch(shards: Shards, tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole", LOSS, measure="test")
    best = int(whole[-1]["best_epoch"])

    class Killed(Exception):
        pass

    def kill(row: Row) -> None:
        if row["epoch"] == best + 1:
            raise Killed

    config = load(RunConfig, None, [*SMALL, *FAST, f"data.path={shards.path}", LOSS])
    with pytest.raises(Killed):
        execute(Launch(config, DataSource(shards, {}), tmp_path / "run"), kill)
    rows = run(shards, tmp_path / "run", LOSS, measure="test")
    assert without_time(rows) == without_time(whole)


def test_an_export_of_the_best_epoch(shards: Shards, tmp_path: Path) -> None:
    rows = run(shards, tmp_path / "run", LOSS)
    _, card, _ = export(tmp_path / "run", tmp_path / "best", best=True)
    assert card.epoch == rows[-1]["best_epoch"]
    assert card.metrics["val/fused/loss"] == min(row["val/fused/loss"] for row in rows)
    weights = checkpoint.load(tmp_path / "run" / BEST)["model"]
    opened = lfm_ray.load(tmp_path / "best").model.state_dict()
    assert all(torch.equal(value.cpu(), weights[name]) for name, value in opened.items())
    run(shards, tmp_path / "plain")
    with pytest.raises(UserError, match=r"has no best epoch; --set checkpoint\.best=METRIC keeps one"):
        export(tmp_path / "plain", tmp_path / "none", best=True)


def test_the_higher_or_the_lower_is_better() -> None:
    model = torch.nn.Linear(1, 1)
    for metric, values, best in (("val/fused/accuracy", [1, 3, 3, 2], 2), ("val/accuracy_gap", [2, 1, 3], 2)):
        kept = BestEpoch(checkpoint.CheckpointSettings(best=metric), 9)
        for epoch, value in enumerate(values, 1):
            with torch.no_grad():
                model.weight.fill_(epoch)
            kept.choose({"epoch": epoch, metric: value}, model)
        assert kept.epoch == best
        with kept.loaded(model):
            assert model.weight.item() == best
        assert model.weight.item() == len(values)


def test_settings_of_the_best_epoch_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"checkpoint: patience needs a metric to wait for"):
        load(RunConfig, None, ["checkpoint.patience=2"])
    config = load(RunConfig, None, ["checkpoint.best=val/fused/acuracy"])
    with pytest.raises(UserError, match=r"checkpoint\.best: unknown metric .*; did you mean val/fused/accuracy\?"):
        check_best(config, ["audio", "image"])


def test_classes_of_a_runs_end(shards: Shards, tmp_path: Path) -> None:
    rows = run(shards, tmp_path / "run", "epochs=2", measure="test")
    opened = LoadedRun(tmp_path / "run")
    for split in ("val", "test"):
        for name in ("fused", "audio", "image"):
            matrix = opened.confusion(name, split)
            assert matrix.to_numpy().sum() == 24
            assert matrix.to_numpy().trace() / 24 == pytest.approx(rows[-1][f"{split}/{name}/accuracy"])
        shares = opened.class_accuracies(split)
        assert list(shares.index) == shards.card.classes
        assert shares["fused"].mean() == pytest.approx(rows[-1][f"{split}/fused/balanced_accuracy"])
        assert shares["fused"].min() == pytest.approx(rows[-1][f"{split}/fused/worst_class_accuracy"])
    with pytest.raises(UserError, match="there is no modality 'sound'"):
        opened.confusion("sound")


def test_balanced_weights_come_from_the_training_split(shards: Shards, tmp_path: Path) -> None:
    source = DataSource(shards, {})
    assert source.class_counts() == [16, 16, 16]
    balanced = run(shards, tmp_path / "balanced", "epochs=2", "loss.class_weights=balanced")
    same = run(shards, tmp_path / "same", "epochs=2", "loss.class_weights=[1,1,1]")
    other = run(shards, tmp_path / "other", "epochs=2", "loss.class_weights=[1,1,5]")
    assert without_time(balanced) == without_time(same) != without_time(other)


@pytest.mark.parametrize("method", ["etmc", "recon_boost", "domfn"])
def test_methods_that_weigh_samples_themselves_take_no_weights(method: str) -> None:
    for setting in ("loss.class_weights=balanced", "loss.focal=2", "loss.label_smoothing=[0.1]"):
        with pytest.raises(UserError, match=rf"method {method} .*; leave out loss\.class_weights, focal"):
            load(RunConfig, None, [f"method={method}", setting])
    with pytest.raises(UserError, match=r"loss\.focal is not convex"):
        load(RunConfig, None, ["alpha.strategy=learned", "alpha.solver=cg", "loss.focal=2"])


def test_confirm_says_what_each_class_was_taken_for(shards: Shards, tmp_path: Path) -> None:
    folders = [tmp_path / str(seed) for seed in (1, 2)]
    for seed, folder in enumerate(folders, 1):
        run(shards, folder, "epochs=1", f"seed={seed}", measure="test")
    named = SimpleNamespace(folder=Path("mine"))
    confirmed: Any = SimpleNamespace(sweep=named, trial=SimpleNamespace(number=3, strategy="lfm"), folders=folders)
    frame = class_frame([confirmed], "test")
    own = frame[(frame["modality"] == "audio") & (frame["class"] == "1") & (frame["taken for"] == "1")]
    shares = [LoadedRun(folder).class_accuracies("test").loc["1", "audio"] for folder in folders]
    assert own["share"].item() == pytest.approx(sum(shares) / 2)
    assert frame.groupby(["modality", "class"])["samples"].sum().eq(16).all()  # eight of each, two seeds


def test_an_epoch_chosen_on_a_split_is_not_confirmed_on_it() -> None:
    config = load(RunConfig, None, [LOSS])
    trial: Any = SimpleNamespace(config=config, number=3)
    sweep: Any = SimpleNamespace(folder=Path("sweeps/mine"))
    with pytest.raises(UserError, match=r"sweeps/mine, trial 3: its epoch is chosen on the validation split"):
        refuse_fitted_to_validation([(sweep, trial)], {})
    refuse_fitted_to_validation([(sweep, trial)], {"checkpoint.best": None})


@pytest.mark.parametrize("row", [{"epoch": 10.0}, {"epoch": 4.0, "stopped_early": 1.0}, {"epoch": 4.0}])
def test_a_trial_that_ran_out_of_patience_has_finished(row: Row, tmp_path: Path) -> None:
    finished: list[int] = []
    study: Any = SimpleNamespace(
        space=SimpleNamespace(objective={"val/fused/accuracy": "maximize"}, widen=False),
        ended=lambda number: False,
        epochs=lambda number: 10,
        finish=lambda number, row: finished.append(number),
    )
    sweep: Any = SimpleNamespace(study=study, folder=tmp_path)
    searcher = StudySearcher(sweep)
    searcher._numbers["trial"] = 3
    searcher.on_trial_complete("trial", row)
    assert finished == ([] if row == {"epoch": 4.0} else [3])  # the last was cut short by the time budget


def test_members_of_a_population_have_no_patience_of_their_own() -> None:
    space = load_space(
        {"search": {"loss.tau": {"loguniform": [0.1, 1]}}}, ["checkpoint.best=val/fused/loss", "checkpoint.patience=2"]
    )
    with pytest.raises(UserError, match=r"leave out checkpoint\.patience"):
        population_space(space, 4)
