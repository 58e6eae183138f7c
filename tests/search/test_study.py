from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.prior_trials import PriorTrial, normal_scores, pooled, read_prior_trials, write_prior_trials
from lfm_ray.search.study.pruning import PROTECTED
from lfm_ray.search.study.samplers import check_sampler, drawn_at_random, sampler_for
from lfm_ray.search.study.study import LABEL, REASON, SETTINGS, Study

SPACE = Space.model_validate(
    {
        "run": {"epochs": 4},
        "search": {
            "alpha.value": {"uniform": [0, 1]},
            "loss.tau": {"loguniform": [0.1, 1]},
        },
        "points": {"joint": {"alpha.value": 0}, "all": {"alpha.value": 1}},
        "trials": 14,
        "pruning": {"by": "unimodal_accuracy", "first_rung": 2, "reduction": 2},
    }
)


def value_of(settings: dict[str, Any]) -> float:
    return 1 - (settings["alpha.value"] - 0.4) ** 2


def run_trials(study: Study, count: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(count):
        number, settings = study.ask()
        drawn.append(settings)
        for epoch in range(1, 5):
            row = {"val/unimodal_accuracy": value_of(settings) * epoch, "val/fused/accuracy": value_of(settings)}
            if study.report(number, epoch, row):
                study.prune(number)
                break
        else:
            study.finish(number, row)
    return drawn


def test_known_points_come_first_and_those_of_baselines_are_never_pruned(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    drawn = run_trials(study, 4)
    assert [settings["alpha.value"] for settings in drawn[:2]] == [0.0, 1.0]
    assert [trial.user_attrs.get(LABEL) for trial in study.trials()[:2]] == ["joint", "all"]
    assert [trial.user_attrs[PROTECTED] for trial in study.trials()[:2]] == [True, False]
    assert study.trials()[0].state == TrialState.COMPLETE
    assert study.trials()[1].state == TrialState.PRUNED


def test_an_interrupted_study_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    whole = run_trials(Study(tmp_path / "a" / "study.journal", SPACE, seed=3), 14)
    first = run_trials(Study(tmp_path / "b" / "study.journal", SPACE, seed=3), 12)
    again = Study(tmp_path / "b" / "study.journal", SPACE, seed=3)
    assert again.remaining() == 2
    assert first + run_trials(again, 2) == whole
    assert Study(tmp_path / "b" / "study.journal", SPACE, seed=3).remaining() == 0


def test_a_trial_that_was_running_is_handed_out_again_under_its_number(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 2)
    number, settings = study.ask()
    study.report(number, 1, {"val/unimodal_accuracy": 0.5})
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.remaining() == 12
    assert again.ask() == (number, settings)
    assert not again.report(number, 1, {"val/unimodal_accuracy": 0.0})  # told before: not counted twice
    assert again.trials()[number].intermediate_values == {1: 0.5}


def test_a_trial_that_was_killed_before_its_settings_were_drawn_has_failed(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 2)
    study._study.ask()
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.trials()[2].state == TrialState.FAIL
    assert again.ask()[0] == 3


def test_a_decision_that_a_kill_prevented_is_made_on_resume(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 6)
    number, _ = study.ask()
    study.report(number, 1, {"val/unimodal_accuracy": -1})
    assert study.report(number, 2, {"val/unimodal_accuracy": -1})  # and here the driver is killed
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.ask()[0] == number
    assert not again.report(number, 1, {"val/unimodal_accuracy": -1})
    assert again.report(number, 2, {"val/unimodal_accuracy": -1})


def test_other_seeds_draw_other_settings(tmp_path: Path) -> None:
    one = run_trials(Study(tmp_path / "a" / "study.journal", SPACE, seed=1), 3)[2]
    two = run_trials(Study(tmp_path / "b" / "study.journal", SPACE, seed=2), 3)[2]
    assert one != two


def test_optuna_is_told_what_became_of_a_trial(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 10)
    study.fail(study.ask()[0], "the loss became NaN")
    states = [trial.state for trial in study.trials()[:11]]
    assert TrialState.PRUNED in states
    assert states[-1] == TrialState.FAIL
    assert study.trials()[10].user_attrs[REASON] == "the loss became NaN"
    pruned = next(trial for trial in study.trials() if trial.state == TrialState.PRUNED)
    assert max(pruned.intermediate_values) == 2  # stopped at the first rung, and no final value was made up


@pytest.mark.parametrize("by", ["none"])
def test_without_pruning_every_trial_goes_to_its_end(tmp_path: Path, by: str) -> None:
    space = Space.model_validate({**SPACE.model_dump(), "pruning": {"by": by}})
    study = Study(tmp_path / "study.journal", space, seed=0)
    run_trials(study, 14)
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}


def space_with(**changes: Any) -> Space:
    return Space.model_validate({**SPACE.model_dump(), **changes})


@pytest.mark.parametrize("sampler", ["random", "cmaes", "gp"])
def test_every_sampler_draws_the_same_after_an_interruption(tmp_path: Path, sampler: str) -> None:
    space = space_with(sampler=sampler, pruning={"by": "none"})
    whole = run_trials(Study(tmp_path / "a" / "study.journal", space, seed=3), 14)
    first = run_trials(Study(tmp_path / "b" / "study.journal", space, seed=3), 12)
    assert first + run_trials(Study(tmp_path / "b" / "study.journal", space, seed=3), 2) == whole
    values = [settings["alpha.value"] for settings in whole]
    assert len(set(values)) == 14


def test_the_gaussian_process_finds_the_top_of_a_parabola(tmp_path: Path) -> None:
    drawn = run_trials(Study(tmp_path / "study.journal", space_with(sampler="gp", pruning={"by": "none"}), seed=0), 14)
    best_of_last = min(abs(settings["alpha.value"] - 0.4) for settings in drawn[-4:])
    assert best_of_last < 0.02 < min(abs(settings["alpha.value"] - 0.4) for settings in drawn[:10])


def test_samplers_say_what_they_cannot_model() -> None:
    search = {
        "alpha.value": {"uniform": [0, 1]},
        "loss.matching": {"choice": ["infonce", "js"]},
        "loss.tau": {"loguniform": [0.1, 1], "when": {"loss.matching": "infonce"}},
        "model.width": {"same_as": "model.embedding_size"},
    }
    assert drawn_at_random(space_with(search=search, sampler="tpe")) == []
    assert drawn_at_random(space_with(search=search, sampler="gp")) == ["loss.tau"]
    assert drawn_at_random(space_with(search=search, sampler="cmaes")) == ["loss.matching", "loss.tau"]
    only = {"loss.matching": search["loss.matching"]}
    for changes, said in (
        ({"search": only, "points": {}}, "no searched setting is a number"),
        ({"objective": ["val/fused/map", "val/fused/accuracy"], "pruning": {"by": "none"}}, "several objectives"),
        ({"constraints": ["val/fused/map > 0"]}, "no constraints on metrics"),
    ):
        with pytest.raises(UserError, match=said):
            check_sampler(space_with(sampler="cmaes", **changes))
        check_sampler(space_with(sampler="tpe", **changes))


def test_a_draw_that_breaks_a_constraint_is_never_handed_out_and_optuna_knows(tmp_path: Path) -> None:
    space = space_with(constraints=["alpha.value <= loss.tau"], points={})
    study = Study(tmp_path / "study.journal", space, seed=0)
    drawn = run_trials(study, 14)
    assert all(settings["alpha.value"] <= settings["loss.tau"] for settings in drawn)
    assert len(study.started()) == 14
    assert study.remaining() == 0
    refused = [trial for trial in study.trials() if SETTINGS not in trial.user_attrs]
    assert refused
    for trial in refused:
        excess = trial.params["alpha.value"] - trial.params["loss.tau"]
        assert trial.constraints == {"alpha.value <= loss.tau": pytest.approx(excess)}
        assert trial.state == TrialState.PRUNED
        assert "never run" in trial.user_attrs[REASON]


def test_constraints_on_metrics_are_told_with_the_trial_and_bound_what_is_best(tmp_path: Path) -> None:
    space = space_with(constraints=["val/audio/accuracy >= 0.5"], pruning={"by": "none"})
    study = Study(tmp_path / "study.journal", space, seed=0)
    for audio, fused in ((0.25, 0.9), (0.5, 0.8), (0.75, 0.7)):
        number, _ = study.ask()
        study.finish(number, {"val/fused/accuracy": fused, "val/audio/accuracy": audio})
    assert [list(trial.constraints.values()) for trial in study.trials()[:3]] == [[0.25], [0.0], [-0.25]]
    assert study.front() == [1]


def test_several_objectives_have_a_pareto_front(tmp_path: Path) -> None:
    space = space_with(objective=["val/fused/accuracy", "val/accuracy_gap"], pruning={"by": "none"}, trials=4)
    study = Study(tmp_path / "study.journal", space, seed=0)
    for accuracy, gap in ((0.9, 0.3), (0.8, 0.1), (0.7, 0.2), (float("nan"), 0.0)):
        number, _ = study.ask()
        assert not study.report(number, 2, {"val/unimodal_accuracy": 0.0})
        study.finish(number, {"val/fused/accuracy": accuracy, "val/accuracy_gap": gap})
    assert study.front() == [0, 1]
    assert study.trials()[3].state == TrialState.FAIL
    assert "not a finite number" in study.trials()[3].user_attrs[REASON]


def test_optunas_own_plots_open_the_journal(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    run_trials(Study(tmp_path / "one" / "study.journal", SPACE, seed=0), 12)
    opened = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / "one" / "study.journal")))
    )
    assert opened.study_name == "one"
    assert opened.best_value == max(trial.value for trial in opened.trials if trial.state == TrialState.COMPLETE)
    plots = optuna.visualization.matplotlib
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for plot in (plots.plot_optimization_history, plots.plot_param_importances, plots.plot_intermediate_values,
                     plots.plot_parallel_coordinate, plots.plot_slice):  # fmt: skip
            plot(opened)


def test_a_study_is_found_again_in_a_renamed_folder(tmp_path: Path) -> None:
    run_trials(Study(tmp_path / "one" / "study.journal", SPACE, seed=0), 3)
    (tmp_path / "one").rename(tmp_path / "two")
    assert len(Study(tmp_path / "two" / "study.journal", SPACE, seed=0).started()) == 3


def test_the_epoch_budget_counts_what_was_run_and_what_is_running(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(epoch_budget=10), seed=0)
    first, _ = study.ask()
    assert study.epochs_taken() == 4
    second, _ = study.ask()
    assert not study.has_epochs()  # 8 are promised, and a trial may take 4
    for epoch in (1, 2):
        study.report(first, epoch, {"val/unimodal_accuracy": 0.0})
    study.prune(first)
    assert study.epochs_taken() == 6
    assert study.has_epochs()
    again = Study(tmp_path / "study.journal", space_with(epoch_budget=10), seed=0)
    assert again.epochs_taken() == 2  # the second is to be handed out again
    assert again.ask()[0] == second
    assert again.epochs_taken() == 6
    assert not Study(tmp_path / "study.journal", space_with(epoch_budget=5), seed=0).has_epochs()


def test_normal_scores_are_quantiles_of_the_normal_distribution() -> None:
    # ranks 1, 3, 2 of 3: Phi^-1 of 1/6, 5/6, 1/2; equal values share the mean of their ranks
    scores = [score for (score,) in normal_scores([[0.1], [0.9], [0.5]])]
    assert scores == pytest.approx([-0.967421566, 0.967421566, 0.0])
    assert normal_scores([[1.0, 5.0], [1.0, 4.0]])[0] == pytest.approx([0.0, 0.67448975])


def test_prior_trials_are_ranked_within_their_sweep_and_leave_the_journal_alone(tmp_path: Path) -> None:
    # On the other data everything is 0.3 better; the best alpha there is 0.9.
    prior_trials = [
        PriorTrial("other", {"alpha.value": value, "loss.tau": 0.3}, [1.3 - (value - 0.9) ** 2], {})
        for value in [i / 40 for i in range(41)]
    ]
    file = tmp_path / "warm_start.jsonl"
    write_prior_trials(file, prior_trials)
    assert read_prior_trials(file) == prior_trials
    space = space_with(pruning={"by": "none"}, points={}, trials=8)
    warm = Study(tmp_path / "warm" / "study.journal", space, 0, prior_trials)
    run_trials(warm, 8)
    assert len(warm.trials()) == 8
    firsts = [pooled(space, [], prior_trials, sampler_for(space, seed, 0)).ask() for seed in range(20)]
    distances = [abs(space.suggest(trial)["alpha.value"] - 0.9) for trial in firsts]
    assert sum(distances) / 20 < 0.15  # it would be 0.41 for draws that know nothing
    pool = pooled(space, warm.trials(), prior_trials, sampler_for(space, 0, 0))
    own = [trial.value for trial in pool.trials[41:]]
    values = [trial.value for trial in warm.trials()]
    assert sorted(range(8), key=own.__getitem__) == sorted(range(8), key=values.__getitem__)
    assert max(own) == pytest.approx(1.5341205)  # Phi^-1(15/16)
    again = Study(
        tmp_path / "warm" / "study.journal", space_with(**{**space.model_dump(), "trials": 9}), 0, prior_trials
    )
    assert again.ask()[0] == 8
