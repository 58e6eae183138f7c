"""Trials that are paused at a rung in place of stopped, and go on when they are among the best there after all."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import without_workers
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from synthetic import write_dataset

from lfm_ray.datasets.shards import Shards
from lfm_ray.report.sentences import counts
from lfm_ray.search.ray_tune.adapters import NUMBER, KeepBest, StudyScheduler, StudySearcher
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.ray_tune.tuning import saved_after
from lfm_ray.search.removal import remove_checkpoints
from lfm_ray.search.spaces.space import Pruning, Space
from lfm_ray.search.study.arms import JOINT
from lfm_ray.search.study.pruning import ARM, FIRST_SHARE, PAUSED, PROMOTED, SuccessiveHalving, goes_on, is_paused
from lfm_ray.search.study.study import Study
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.execution import Launch, Workers, run_in_process
from lfm_ray.training.run_folder import CHECKPOINT, EPOCHS, read_epochs
from lfm_ray.training.source import DataSource

SPACE = Space.model_validate(
    {
        "run": {"epochs": 4},
        "search": {"alpha.value": {"uniform": [0.1, 0.9]}},
        "trials": 6,
        "pruning": {"by": "unimodal_accuracy", "first_rung": 2, "reduction": 2, "promotion": True},
    }
)


def space_with(**changes: Any) -> Space:
    return Space.model_validate({**SPACE.model_dump(), **changes})


def row(value: float) -> dict[str, float]:
    return {"val/unimodal_accuracy": value, "val/fused/accuracy": value, "val/fused/loss": 1 - value}


def go_on(study: Study, value: float) -> tuple[int, str]:
    """Runs the next trial, or goes on with one, at this value: its number, and what became of it."""
    number, _ = study.ask()
    reached = study.trials()[number].user_attrs.get(PROMOTED, 0)
    for epoch in range(1, 5):  # one that goes on reports its earlier epochs again
        if study.report(number, epoch, row(value)):
            assert epoch > reached
            study.stop(number)
            return number, f"stopped at {epoch}"
    study.finish(number, row(value) | {"epoch": 4})
    return number, "finished"


def test_a_trial_is_promoted_once_it_is_among_the_best_after_all(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert go_on(study, 0.9) == (0, "finished")  # the first
    assert go_on(study, 0.6) == (1, "stopped at 2")  # one of two goes on
    assert study.running() == []
    assert go_on(study, 0.5) == (2, "stopped at 2")  # one of three
    assert go_on(study, 0.4) == (3, "stopped at 2")  # two of four: trial 1 is promoted
    assert study.has_next()
    assert go_on(study, 0.6) == (1, "finished")
    assert go_on(study, 0.3) == (4, "stopped at 2")  # two of five
    assert study.remaining() == 1
    assert go_on(study, 0.2) == (5, "stopped at 2")  # three of six: trial 2
    assert go_on(study, 0.5) == (2, "finished")
    assert not study.has_next()
    study.end_paused()
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED] * 3
    assert study.epochs_taken() == 3 * 4 + 3 * 2


def test_without_promotion_a_stopped_trial_stays_stopped(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(pruning={**SPACE.pruning.model_dump(), "promotion": False}), 0)
    numbers = [go_on(study, value)[0] for value in (0.9, 0.6, 0.5, 0.4, 0.3, 0.2)]
    assert numbers == list(range(6))
    assert not study.has_next()
    assert study.trials()[1].state == TrialState.PRUNED


@pytest.mark.parametrize("promotion", [True, False])  # a third rounded down, or up
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(5))
def test_what_has_gone_on_in_the_end_is_what_a_simulation_lets_go_on(
    direction: str, seed: int, promotion: bool
) -> None:
    """Against a simulation that keeps, for each rung, a list of values and of who may pass it."""
    halving, T, sign = SuccessiveHalving(1, 3, promotion), 12, 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction, pruner=halving)
    values = np.random.default_rng(seed).permutation(40).astype(float)
    reached: dict[int, int] = {}
    left = list(values)
    paused: dict[int, float] = {}

    def train(trial: optuna.Trial, value: float, since: int) -> None:
        for epoch in range(since + 1, T + 1):
            trial.report(sign * value, epoch)
            reached[int(value)] = epoch
            if epoch < T and trial.should_prune():
                trial.set_user_attr(PAUSED, epoch)
                paused[trial.number] = value
                return
        study.tell(trial, value)

    while True:
        there = [trial for trial in study.get_trials() if is_paused(trial)]
        assert {trial.number for trial in there} == set(paused)
        found = halving.promoted(study, there, at_the_end=not left)
        if found is not None:
            since = found.user_attrs[PAUSED]
            trial = optuna.Trial(study, found._trial_id)
            trial.set_user_attr(PROMOTED, since)
            train(trial, paused.pop(found.number), since)
        elif left:
            train(study.ask(), left.pop(0), 0)
        else:
            break

    simulated: dict[int, int] = {}
    rungs: dict[int, dict[int, bool]] = {1: {}, 3: {}, 9: {}}  # value -> whether it has passed

    def passes(rung: int, value: int, at_the_end: bool = False) -> bool:
        others = sorted(rungs[rung], reverse=True)
        down = promotion and T in simulated.values() and not at_the_end
        return others.index(value) < (len(others) // 3 if down else math.ceil(len(others) / 3))

    def advance(value: int, rung: int | None) -> None:
        while rung in rungs:
            rungs[rung].setdefault(value, False)
            simulated[value] = rung
            if not passes(rung, value):
                return
            rungs[rung][value] = True
            rung *= 3
        simulated[value] = T

    for number, value in enumerate(values, start=1):
        advance(int(value), 1)
        while True:
            waiting = [(r, v) for r, known in rungs.items() for v, passed in known.items() if not passed]
            able = [(r, v) for r, v in waiting if passes(r, v, at_the_end=number == len(values))]
            if not able:
                break
            rung, best = max(able)
            rungs[rung][best] = True
            advance(best, rung * 3)
    assert reached == simulated
    for rung, known in rungs.items():  # whoever is among the best third in the end has passed, whenever it came
        best = sorted(known, reverse=True)[: math.ceil(len(known) / 3)]
        assert all(known[value] for value in best), rung


def test_the_hopeless_are_those_that_no_order_of_what_is_to_come_promotes() -> None:
    halving, study = SuccessiveHalving(1, 3), optuna.create_study(direction="maximize")
    for value in (9.0, 8.0, 7.0, 6.0):
        trial = study.ask()
        trial.report(value, 1)
        trial.set_user_attr(PAUSED, 1)
    known = study.get_trials()
    assert [trial.number for trial in halving.hopeless(study, known, 9)] == [3]  # three of nine, and three are better
    assert halving.hopeless(study, known, 10) == []
    worst = [-float(i) for i in range(5)]
    assert goes_on(7.0, [9.0, 8.0, 6.0, *worst], 3)
    assert not goes_on(6.0, [9.0, 8.0, 7.0, *worst], 3)


def test_what_cannot_be_promoted_any_more_is_pruned_at_once(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    for value in (0.9, 0.91, 0.92, 0.1):
        go_on(study, value)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]


def test_paused_trials_are_found_again_after_a_kill(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    for value in (0.9, 0.6):
        go_on(study, value)
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.remaining() == 4  # the paused one is not handed out anew
    assert again.running() == []
    for number, value in ((2, 0.5), (3, 0.4)):
        assert go_on(again, value) == (number, "stopped at 2")
    assert again.ask()[0] == 1
    last = Study(tmp_path / "study.journal", SPACE, seed=0)  # killed while the promoted one trains
    assert last.remaining() == 3  # it, and two new ones
    assert last.running() == [1]
    assert go_on(last, 0.6) == (1, "finished")
    last.end_paused()
    assert last.epochs_taken() == 4 + 4 + 2 + 2


def test_the_epoch_budget_counts_what_a_paused_trial_has_trained_and_what_a_promoted_one_needs(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(epoch_budget=12), seed=0)
    for value, taken in ((0.9, 4), (0.6, 6), (0.5, 8), (0.4, 10)):
        assert study.has_epochs()  # for a new one of 4
        go_on(study, value)
        assert study.epochs_taken() == taken
    assert study.has_epochs()  # for 2 more of the promoted one
    assert go_on(study, 0.6) == (1, "finished")
    assert study.epochs_taken() == 12
    assert not study.has_epochs()


def test_trials_of_an_arm_that_was_dropped_are_not_promoted_and_the_baseline_is_compared_within_itself(
    tmp_path: Path,
) -> None:
    strategies = {"alpha.strategy": {"choice": ["constant", "heuristic"]}}
    searched = strategies | {"alpha.value": {"uniform": [0, 1], "when": {"alpha.strategy": "constant"}}}
    space = space_with(search=searched, fair="alpha.strategy", trials=9)
    worth = {JOINT: [0.9, 0.3], "constant": [0.88, 0.2], "heuristic": [0.95, 0.1]}
    study = Study(tmp_path / "study.journal", space, seed=0)
    outcomes = []
    for _ in range(6):
        number, _ = study.ask()
        arm = study.trials()[number].user_attrs[ARM]
        value = worth[arm].pop(0)
        stop = study.report(number, 1, row(value)) or study.report(number, 2, row(value))
        study.stop(number) if stop else study.finish(number, row(value) | {"epoch": 4})
        outcomes.append((arm, value, stop))
    assert outcomes == [
        (JOINT, 0.9, False), ("constant", 0.88, True), ("heuristic", 0.95, False),
        (JOINT, 0.3, True), ("constant", 0.2, True), ("heuristic", 0.1, True),
    ]  # fmt: skip
    assert study.trials()[3].user_attrs[FIRST_SHARE]
    assert study._promoted() is None  # 0.88 is among the best three of six, but its arm was dropped
    study.arms = {}
    assert study._promoted().number == 1  # type: ignore[union-attr]


def test_the_setting_is_off_in_files_that_do_not_name_it_and_rungs_are_where_they_were() -> None:
    assert not Pruning.model_validate({"by": "probe_map"}).promotion
    assert Pruning(first_rung=2, reduction=3).rungs(18) == [2, 6]
    assert Pruning(by="none").rungs(18) == []
    halving = SuccessiveHalving(2, 3)
    assert [epoch for epoch in range(1, 19) if halving.is_rung(epoch)] == [2, 6, 18]
    assert saved_after(SPACE, 9) == {2, 4, 8}
    assert saved_after(space_with(pruning={"by": "probe_map"}), 9) == frozenset()
    assert saved_after(space_with(epochs_a_round=3), 7) == {3, 6}


def test_a_promoted_trial_of_a_sweep_ends_like_one_that_was_never_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DataSource(Shards(write_dataset(tmp_path / "shards", train=16)), {})
    run = {
        "epochs": 4,
        "data": {"path": str(tmp_path / "shards"), "batch_size": 8},
        "model": {"width": 4, "embedding_size": 8, "dropout": 0.3},
        "checkpoint": {"hours_between_failures": 6},  # nothing is saved in between on its own account
    }
    space = space_with(run=run, trials=6)
    values = iter([0.9, 0.6, 0.5, 0.4, 0.3, 0.2])
    of: dict[int, float] = {}
    report = Study.report

    def given(study: Study, number: int, epoch: int, row: dict[str, float]) -> bool:
        of[number] = of.get(number) or next(values)
        return report(study, number, epoch, row | {"val/unimodal_accuracy": of[number]})

    monkeypatch.setattr(Study, "report", given)
    sweep = Sweep.create(tmp_path / "sweeps" / "one", space, 0, source.shards.card.fingerprint)
    without_workers.run_sweep(sweep, source, Resources(Workers()))
    trials = sweep.trials()
    assert [trial.state for trial in trials] == ["finished"] * 3 + ["pruned"] * 3
    assert counts(trials) == "3 finished, 3 pruned"
    assert list(sweep.table()["epochs"]) == [4, 4, 4, 2, 2, 2]
    assert not sweep.troubles(trials)
    promoted = trials[1]
    assert promoted.frozen.user_attrs[PROMOTED] == 2
    alone = tmp_path / "alone"
    run_in_process(Launch(promoted.config, source, alone), lambda row: None)

    def without_time(rows: list[Any]) -> list[Any]:
        return [{key: value for key, value in one.items() if key != "seconds"} for one in rows]

    assert without_time(read_epochs(alone)) == without_time(promoted.rows)
    assert (trial_folder(sweep.folder, 1) / CHECKPOINT).exists()
    assert len((trial_folder(sweep.folder, 1) / EPOCHS).read_text().splitlines()) == 4


def test_trials_of_several_workers_are_stopped_as_without_promotion(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(pruning={**SPACE.pruning.model_dump(), "reduction": 3}), 0)
    study.prune_at_once()
    assert [go_on(study, value)[1] for value in (0.9, 0.8, 0.7)] == ["finished", "stopped at 2", "stopped at 2"]
    assert study.trials()[1].state == TrialState.PRUNED
    assert go_on(study, 0.85) == (3, "finished")  # two of four, rounded up


def test_tune_waits_for_a_running_trial_that_may_make_room_and_checkpoints_stay_as_long(tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "sweeps" / "one", space_with(trials=3), 0, "")
    searcher, scheduler, keep_best = StudySearcher(sweep), StudyScheduler(sweep.study), KeepBest(sweep, 1)

    def report(number: int, epoch: int, value: float) -> str:
        return scheduler.on_trial_result(None, SimpleNamespace(config={NUMBER: number}), row(value) | {"epoch": epoch})  # type: ignore[arg-type]

    def stretch(name: str, number: int, value: float, first: int = 1) -> None:
        for epoch in range(first, 5):
            if report(number, epoch, value) == TrialScheduler.STOP:
                break
        file = trial_folder(sweep.folder, number) / CHECKPOINT
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        searcher.on_trial_complete(name, row(value) | {"epoch": epoch})
        keep_best.tidy()

    assert [searcher.suggest(name)[NUMBER] for name in "ab"] == [0, 1]
    assert report(0, 1, 0.9) == report(0, 2, 0.9) == TrialScheduler.CONTINUE
    stretch("b", 1, 0.6)
    assert [trial.state for trial in sweep.trials()] == ["running", "pruned"]
    sweep.let_go()
    remove_checkpoints(tmp_path / "sweeps", "one")
    sweep.hold()
    assert (trial_folder(sweep.folder, 1) / CHECKPOINT).exists()  # it has not ended
    assert searcher.suggest("c")[NUMBER] == 2
    assert searcher.suggest("d") is None  # two run
    assert report(2, 1, 0.5) == TrialScheduler.CONTINUE
    stretch("c", 2, 0.5, first=2)
    assert searcher.suggest("d")[NUMBER] == 1  # two of three, as no more come
    assert searcher.suggest("e") is None  # two run again
    stretch("a", 0, 0.9, first=3)
    stretch("d", 1, 0.6)
    assert searcher.suggest("e") == Searcher.FINISHED
    kept = [trial_folder(sweep.folder, number) / CHECKPOINT for number in range(3)]
    assert [file.exists() for file in kept] == [True, False, False]
    assert [one.state for one in sweep.trials()] == ["finished", "finished", "pruned"]
