from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from synthetic import write_dataset

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.optimization.optimizer import OptimizerSettings
from lfm_ray.runtime import checkpoint
from lfm_ray.search.population import Population, explored, next_round, population_space, rate_factors, take_over
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.run_folder import read_epochs
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Row

SPACE = Space.model_validate(
    {
        "run": {"epochs": 6, "model": {"width": 4, "embedding_size": 8}, "data": {"batch_size": 16}},
        "search": {
            "alpha.strategy": {"choice": ["constant", "learned"]},
            "optimizer.learning_rate": {"loguniform": [0.001, 0.01]},
        },
        "points": {"joint": {"alpha.strategy": "constant"}},
        "pruning": {"by": "unimodal_accuracy"},
    }
)
LONG = {"alpha.values": [0.9, 0.9, 0.5, 0.5, 0.5], "optimizer.table": [0.1, 1.0, 0.8, 0.4, 0.2], "loss.tau": 0.3}


def test_exploring_changes_what_is_to_come_and_nothing_else() -> None:
    found = [explored(LONG, 3, np.random.default_rng(seed)) for seed in range(50)]
    for settings in found:
        assert settings["alpha.values"][:3] == [0.9, 0.9, 0.5]
        assert settings["alpha.values"][3] == settings["alpha.values"][4]
        assert settings["optimizer.table"][:3] == [0.1, 1.0, 0.8]
        assert settings["optimizer.table"][3] / 0.4 == pytest.approx(settings["optimizer.table"][4] / 0.2)
        assert settings["loss.tau"] == 0.3
    alphas = [settings["alpha.values"][3] for settings in found]
    assert 0.2 <= min(alphas) < 0.3
    assert 0.7 < max(alphas) <= 0.8
    assert {round(settings["optimizer.table"][3] / 0.4, 6) for settings in found} == {0.8, 1.25}
    high = explored({**LONG, "alpha.values": [1.0] * 5}, 2, np.random.default_rng(1))["alpha.values"][2]
    assert 0.7 <= high <= 1
    assert LONG["alpha.values"] == [0.9, 0.9, 0.5, 0.5, 0.5]


def test_the_lowest_quarter_follows_the_highest_and_so_do_members_that_failed() -> None:
    settings = [{**LONG, "loss.tau": i} for i in range(8)]
    scores = [0.5, 0.1, 0.7, float("nan"), 0.6, 0.3, 0.9, 0.4]
    step = next_round(settings, scores, 2, np.random.default_rng(0))
    followers = {i: parent for i, (parent, _) in enumerate(step) if parent != i}
    assert set(followers) == {1, 3}
    assert set(followers.values()) <= {2, 6}
    for i, (parent, its_settings) in enumerate(step):
        assert its_settings["loss.tau"] == parent
        assert (its_settings == settings[i]) == (parent == i)
    assert step == next_round(settings, scores, 2, np.random.default_rng(0))
    with pytest.raises(TrainingFailed, match="no member"):
        next_round(settings, [float("nan")] * 8, 2, np.random.default_rng(0))


def test_the_first_table_of_the_learning_rate_is_the_schedule_of_the_settings() -> None:
    assert rate_factors(OptimizerSettings(schedule="constant"), 3) == pytest.approx([1, 1, 1])
    assert rate_factors(OptimizerSettings(schedule="cosine"), 4) == pytest.approx(
        [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5]
    )
    assert rate_factors(OptimizerSettings(schedule="table", table=[1, 0.5]), 4) == [1, 1, 0.5, 0.5]
    one_cycle = rate_factors(OptimizerSettings(), 20)
    assert one_cycle[0] == pytest.approx(1 / 25)
    assert 0.99 < max(one_cycle) <= 1
    assert one_cycle[-1] < 0.02


def test_the_space_of_a_population_has_tables_in_place_of_alpha() -> None:
    space = population_space(SPACE, 8)
    assert list(space.search) == ["optimizer.learning_rate"]
    assert (space.trials, space.epochs_a_round, space.points) == (8, 1, {})
    longer = Space.model_validate({**SPACE.model_dump(), "run": {"epochs": 40}})
    assert population_space(longer, 4).epochs_a_round == 4
    with pytest.raises(UserError, match="at least 4"):
        population_space(SPACE, 3)


class Ended(Exception):
    """The round is over."""


def train(config: RunConfig, source: DataSource, folder: Path, until: int) -> list[Row]:
    def report(row: Row) -> None:
        if row["epoch"] == until:
            raise Ended

    try:
        return execute(Launch(config, source, folder), report)
    except Ended:
        return read_epochs(folder)


def test_the_schedule_of_a_follower_trained_on_its_own_gives_its_numbers_bit_for_bit(tmp_path: Path) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards")), {})
    space = population_space(SPACE, 4)
    first = {"optimizer.learning_rate": 0.005, "alpha.values": [0.8] * 6, "optimizer.table": space.base.optimizer.table}
    other = explored(first, 3, np.random.default_rng(0))
    train(space.config(first), source, tmp_path / "parent", until=3)
    for _ in range(2):  # a copy that is made again, as after a kill, changes nothing
        take_over(tmp_path / "parent", tmp_path / "child", space.config(other))
    train(space.config(other), source, tmp_path / "child", until=6)
    train(space.config(other), source, tmp_path / "alone", until=6)
    child, alone = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("child", "alone"))
    assert all(torch.equal(child["model"][name], value) for name, value in alone["model"].items())
    for ours, theirs in zip(child["history"], alone["history"], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert child["history"][3]["alpha"] != child["history"][2]["alpha"]


def test_a_killed_population_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    def play(sweep: Sweep, population: Population, segments: int) -> Population:
        """Members that only pretend to train: their score is a function of their settings."""
        for _ in range(segments):
            number, settings = population.next() or pytest.fail("nobody waits, and nobody trains")
            folder, epoch = trial_folder(sweep.folder, number), population.until
            score = 1 - abs(settings["alpha.values"][epoch - 1] - 0.4)
            row = {"epoch": epoch, "val/unimodal_accuracy": score, "val/fused/accuracy": score}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "epochs.jsonl").write_text(json.dumps(row) + "\n")
            config = population.space.config(settings).model_dump(mode="json")
            state = {"config": config, "optimizer": {"param_groups": [{"lr": 0.0, "initial_lr": 1.0}]}}
            checkpoint.save(folder / "checkpoint.pt", {**state, "epoch": epoch, "history": [row]})
            population.ended(number)
        return population

    space = population_space(SPACE, 8)
    whole = Sweep.create(tmp_path / "whole", space, 0, "data")
    done = play(whole, Population(whole), 8 * 6)
    killed = Sweep.create(tmp_path / "killed", space, 0, "data")
    assert play(killed, Population(killed), 8 * 3 + 5).remaining() == 8 * 3  # of a round that has begun, all
    again = Sweep.open(tmp_path / "killed")
    play(again, Population(again), 8 * 3)
    assert (tmp_path / "whole/population.jsonl").read_text() == (tmp_path / "killed/population.jsonl").read_text()
    assert [trial.state for trial in again.trials()] == ["finished"] * 8
    best = max(again.trials(), key=lambda trial: trial.reached)
    assert best.strategy == "table"
    assert best.reached > 0.9
    assert any(parent != i for step in done.rounds for i, (parent, _) in enumerate(step))


def test_a_population_is_over_when_all_of_its_members_have_failed(tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "sweep", population_space(SPACE, 4), 0, "data")
    population = Population(sweep)
    members = [population.next() for _ in range(4)]
    for member, _ in filter(None, members):
        assert not population.over
        population.ended(member, f"member {member} broke")
    assert population.over
    assert population.next() is None
    assert [(trial.state, trial.reason) for trial in sweep.trials()][2] == ("failed", "member 2 broke")


FAILING = """
run:
  epochs: 2
  model: {width: 4, embedding_size: 8}
  data: {path: shards/tiny, batch_size: 16}
search: {loss.tau: {choice: [0.2, 1.0e-40]}}
"""


@pytest.mark.slow
def test_a_member_that_fails_on_ray_follows_another_and_says_why(ray_local: None, tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards/tiny")
    (tmp_path / "failing.yaml").write_text(FAILING)
    done = run(tmp_path, "tune", "failing.yaml", "--population", "4", "--name", "pbt")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    first, second = Population(Sweep.open(tmp_path / "sweeps/pbt")).rounds
    failed = {n for n, (_, settings) in enumerate(first) if settings["loss.tau"] != 0.2}
    assert 0 < len(failed) < 4
    trials = Sweep.open(tmp_path / "sweeps/pbt").trials()
    assert [trial.state for trial in trials] == ["finished"] * 4
    assert not {second[member][0] for member in failed} & failed
    names = ", ".join(f"trial {member}" for member in sorted(failed))
    reason = "the loss became NaN or infinite in epoch 1; a lower learning rate may help"
    assert f"overcome: {names}: {reason}; it went on from another member after epoch 1" in said
    best = max(trials, key=lambda trial: trial.score)
    assert load(RunConfig, tmp_path / "sweeps/pbt/best.yaml") == best.config
    assert best.config.alpha.values == [row["alpha"] for row in best.rows]
