"""The commands tune, train, confirm and export, from end to end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from commands import SMALL_FLAGS, Completed, run, start, wait_for
from synthetic import write_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import without_time

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.export.model_folder import read_card
from lfm_ray.optimization.schedules import Polynomial
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.settings import load, read_yaml
from lfm_ray.training.run_folder import EPOCHS, read_alpha_updates, read_epochs

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("work")
    write_dataset(result / "shards" / "tiny")
    return result


@pytest.fixture(scope="module")
def sweep(folder: Path, ray_session: object) -> Completed:
    return run(folder, "tune", "--data", "shards/tiny", "--name", "one", "--trials", "7", "--epochs", "4", *SMALL_FLAGS)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share one process, as `--concurrency 1` has it, which `confirm` does not take."""
    monkeypatch.setattr(Resources, "trials_at_once", lambda self: 1)


def test_a_sweep_ends_with_the_table_the_formula_and_the_next_commands(folder: Path, sweep: Completed) -> None:
    assert sweep.returncode == 0, sweep.stderr
    for part in ("alpha = 0", "heuristic", "learned", "best found", "omega_hat(t) = ", "tensorboard --logdir"):
        assert part in sweep.stdout
    assert max(len(line) for line in sweep.stdout.splitlines()) <= 100
    assert "Traceback" not in sweep.stderr
    where = folder / "sweeps" / "one"
    assert (where / "strategies.png").stat().st_size > 10_000
    assert "python -m lfm_ray.tune --data shards/tiny --name one" in (where / "report.html").read_text()
    table = pd.read_csv(where / "trials.csv")
    assert list(table["number"]) == list(range(7))
    assert list(table["strategy"][:4]) == ["alpha = 0", "heuristic", "learned", "polynomial"]
    assert set(table["state"]) <= {"finished", "pruned"}
    best = table[table["state"] == "finished"].sort_values("val/fused/accuracy").iloc[-1]
    assert read_yaml(where / "best.yaml")["optimizer"]["learning_rate"] > 0
    assert f"{best['val/fused/accuracy']:.3f}" in sweep.stdout


def test_the_best_trial_of_a_sweep_is_exported(folder: Path, sweep: Completed) -> None:
    done = run(folder, "export", "sweeps/one", "--out", "exported/one")
    assert done.returncode == 0, done.stderr
    card = read_card(folder / "exported" / "one")
    best = load(RunConfig, folder / "sweeps/one/best.yaml")
    assert card.run == best
    assert (card.epoch, card.dataset.classes) == (4, ["0", "1", "2"])
    assert f"fused {card.metrics['val/fused/accuracy']:.3f}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_tensorboard_has_alpha_losses_accuracies_and_settings_of_every_trial(folder: Path, sweep: Completed) -> None:
    runs = sorted(path for path in (folder / "sweeps/one/tensorboard").iterdir() if path.name != "layout")
    assert len(runs) == 7
    table = pd.read_csv(folder / "sweeps/one/trials.csv")
    assert runs[1].name == f"001-heuristic-acc{table['val/fused/accuracy'][1]:.2f}"
    events = EventAccumulator(str(runs[1]))
    events.Reload()
    assert {"alpha", "train/loss", "train/matching_loss", "val/fused/accuracy", "val/audio/accuracy"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("alpha")] == [1, 2, 3, 4]
    assert events.Scalars("alpha")[0].value == pytest.approx(0.6321, abs=1e-4)
    assert {"train/audio/macro_f1", "val/modality_gap", "learning_rate", "seconds"} <= set(events.Tags()["scalars"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    updates = EventAccumulator(str(runs[2])).Reload().Scalars("alpha_per_update")
    assert [event.step for event in updates] == list(read_alpha_updates(folder / "sweeps/one/trials/0002"))


@pytest.mark.parametrize("processes", ["without_workers", pytest.param("one_at_a_time", marks=pytest.mark.slow)])
def test_confirm_measures_on_the_test_split_and_says_that_it_did(
    folder: Path, sweep: Completed, tmp_path: Path, request: pytest.FixtureRequest, processes: str
) -> None:
    request.getfixturevalue(processes)
    shutil.copytree(folder / "sweeps", tmp_path / "sweeps")
    shutil.copytree(folder / "shards", tmp_path / "shards")
    folder = tmp_path
    done = run(folder, "confirm", "sweeps/one", "--seeds", "2", "--select", "3")
    assert done.returncode == 0, done.stderr
    selecting = {path.name: read_epochs(path)[-1] for path in (folder / "sweeps/one/confirm-select").glob("*-seed*")}
    assert not any(key.startswith("test/") for row in selecting.values() for key in row)
    frame = pd.read_csv(folder / "sweeps/one/confirm.csv")
    assert set(frame["seed"]) == {1, 2}
    assert frame["test/fused/accuracy"].between(0, 1).all()
    assert "alpha = 0" in set(frame["strategy"])
    means = frame.groupby("trial")["selected_by"].first()
    for trial, mean in means.items():
        accuracies = [selecting[f"{trial:04d}-seed{seed}"]["val/fused/accuracy"] for seed in (10_001, 10_002)]
        assert mean == pytest.approx(sum(accuracies) / 2)
    best = sorted(
        (trial for trial in Sweep.open(folder / "sweeps/one").trials() if trial.state == "finished"),
        key=lambda trial: trial.score,
    )[-3:]
    assert means.max() == max(
        sum(selecting[f"{trial.number:04d}-seed{seed}"]["val/fused/accuracy"] for seed in (10_001, 10_002)) / 2
        for trial in best
    )
    assert (folder / "sweeps/one/test_reads.log").read_text().count("\n") == 1
    first = frame[frame["strategy"] == "alpha = 0"]["test/fused/accuracy"]
    assert f"{100 * first.mean():.1f} ± {100 * first.std():.1f}" in done.stdout


def test_best_yaml_gives_the_trial_again_to_the_last_bit(folder: Path, sweep: Completed, without_workers: None) -> None:
    done = run(folder, "train", "sweeps/one/best.yaml", "--name", "w1")
    assert done.returncode == 0, done.stderr
    best = best_of(Sweep.open(folder / "sweeps/one").trials())
    assert best
    assert without_time(read_epochs(folder / "runs/w1")) == without_time(best.rows)


@pytest.mark.slow
def test_two_workers_take_the_same_steps(folder: Path, sweep: Completed) -> None:
    done = run(folder, "train", "sweeps/one/best.yaml", "--workers", "2", "--name", "w2")
    assert done.returncode == 0, done.stderr
    best = best_of(Sweep.open(folder / "sweeps/one").trials())
    assert best
    one, two = pd.DataFrame(best.rows), pd.read_json(folder / "runs/w2/epochs.jsonl", lines=True)
    assert list(one["alpha"]) == pytest.approx(list(two["alpha"]))
    assert list(one["train/loss"]) == pytest.approx(list(two["train/loss"]), abs=1e-3)
    assert (folder / "runs/w2/checkpoint.pt").exists()


def test_a_sweep_learns_from_another(folder: Path, sweep: Completed, without_workers: None) -> None:
    done = run(folder, "tune", "--data", "shards/tiny", "--name", "warm", "--trials", "2", "--epochs", "2",
               "--concurrency", "1", "--warm-start", "sweeps/one", *SMALL_FLAGS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    finished = [trial for trial in Sweep.open(folder / "sweeps/one").trials() if trial.state == "finished"]
    assert f"{len(finished)} trials of sweeps/one, {len(finished)} of them compared by rank" in done.stdout  # other T
    assert [trial.state for trial in Sweep.open(folder / "sweeps/warm").trials()] == ["finished"] * 2


@pytest.mark.slow
def test_shards_too_large_for_the_object_store_reach_the_trials_by_any_way(folder: Path) -> None:
    arguments = ["--data", "shards/tiny", "--trials", "2", "--epochs", "2", "--concurrency", "1", *SMALL_FLAGS]
    arguments += ["--objective", "val/fused/map", "--objective", "val/accuracy_gap"]
    for name, setting in (("mapped", "memory_share=0"), ("streamed", "reader_cpus=1")):
        done = run(folder, "tune", "--name", name, *arguments, "--set", f"data.{setting}")
        assert done.returncode == 0, done.stderr
        assert "Pareto front" in done.stdout
        assert "best trial of each strategy, validation map" in done.stdout
    mapped, streamed = (pd.read_csv(folder / f"sweeps/{name}/trials.csv") for name in ("mapped", "streamed"))
    assert list(mapped["train/loss"]) == pytest.approx(list(streamed["train/loss"]), rel=1e-5)


@pytest.mark.slow
def test_a_sweep_killed_in_its_middle_goes_on_and_ends_as_an_undisturbed_one(folder: Path) -> None:
    common = ["--data", "shards/tiny", "--trials", "6", "--epochs", "6", "--concurrency", "1", *SMALL_FLAGS]
    assert run(folder, "tune", *common, "--name", "whole").returncode == 0
    process = start(folder, "tune", *common, "--name", "killed")
    wait_for((folder / "sweeps/killed/trials/0002/epochs.jsonl").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = [trial.number for trial in Sweep.open(folder / "sweeps/killed").trials() if trial.state == "finished"]
    written = {n: (folder / f"sweeps/killed/trials/{n:04d}/checkpoint.pt").stat().st_mtime_ns for n in finished}
    assert finished
    (folder / "sweeps/killed/study.journal.lock").symlink_to("nowhere")  # a kill while the journal was written

    done = run(folder, "tune", "--resume", "killed", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    for number, changed in written.items():
        assert (folder / f"sweeps/killed/trials/{number:04d}/checkpoint.pt").stat().st_mtime_ns == changed
    whole, killed = (Sweep.open(folder / "sweeps" / name).table() for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), killed.drop(columns="seconds"))


def test_a_sweep_that_another_process_runs_is_left_alone(folder: Path, sweep: Completed) -> None:
    other = Sweep.open(folder / "sweeps/one")
    other.hold()
    before = (folder / "sweeps/one/sweep.yaml").read_bytes()
    for name, arguments in (("tune", ["--resume", "one", "--trials", "9"]), ("confirm", ["sweeps/one"])):
        done = run(folder, name, *arguments)
        assert done.returncode == 2
        assert done.stderr == "error: sweeps/one: another process is running this sweep; wait for it, or end it\n"
    assert (folder / "sweeps/one/sweep.yaml").read_bytes() == before
    del other
    Sweep.open(folder / "sweeps/one").hold()


def test_a_failed_trial_is_recorded_and_a_sweep_of_failures_fails_with_the_first_reason(
    folder: Path, without_workers: None
) -> None:
    space = folder / "failing.yaml"
    space.write_text(
        "run: {optimizer: {name: sgd, learning_rate: 10, momentum: 0.99, gradient_clip: null, schedule: constant}}\n"
        "search: {alpha.value: {uniform: [0, 0.2]}}\n"
    )
    done = run(folder, "tune", space, "--data", "shards/tiny", "--name", "failing", "--trials", "2", "--epochs", "40",
               "--concurrency", "1", *SMALL_FLAGS, "--set", "model.fusion=concat")  # fmt: skip
    assert done.returncode == 1
    assert "no trial finished (2 failed): the loss became NaN" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_learned_curve_is_fitted_and_a_search_starts_from_it(folder: Path, without_workers: None) -> None:
    learned = folder / "learned.yaml"
    learned.write_text(
        "data: {path: shards/tiny, batch_size: 16}\nmodel: {width: 4, embedding_size: 8}\nepochs: 5\n"
        "alpha: {strategy: learned, eta_alpha: 0.1, inner_iters: 1}\noptimizer: {learning_rate: 0.0123}\n"
    )
    done = run(folder, "train", learned, "--name", "learned", "--fit-degree", "2")
    assert done.returncode == 0, done.stderr
    assert "alpha(t) of degree 2, root mean square residual 0." in done.stdout
    assert " t^2 " in done.stdout
    curve = pd.read_json(folder / "runs/learned/epochs.jsonl", lines=True)["alpha"]
    fitted = load(RunConfig, folder / "runs/learned/fitted.yaml")
    assert fitted.alpha.coefficients == pytest.approx(Polynomial.fit(list(curve), 2)[0].coefficients)
    assert fitted.optimizer.learning_rate == 0.0123

    done = run(folder, "tune", "search_spaces/cubic.yaml", "--data", "shards/tiny", "--name", "started", "--epochs",
               "3", "--trials", "1", "--start-from", "runs/learned", *SMALL_FLAGS)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (trial,) = Sweep.open(folder / "sweeps/started").trials()
    assert trial.label == "fit of learned"
    assert trial.config.alpha.bernstein == pytest.approx(Polynomial.fit(list(curve), 3)[0].coefficients)
    assert trial.config.optimizer.learning_rate == pytest.approx(0.0123)


def test_confirm_on_the_validation_split_refuses_an_alpha_that_was_fitted_to_it(
    folder: Path, without_workers: None
) -> None:
    settings = {"data": {"path": "shards/tiny"}, "model": {"width": 4, "embedding_size": 8}, "epochs": 2}
    learned = {"alpha": {"strategy": "learned", "outer": "val"}}
    space = Space.model_validate({"run": settings | learned, "search": {"loss.tau": {"uniform": [0.1, 1]}}})
    made = Sweep.create(folder / "sweeps/outer", space, 0, Shards(folder / "shards/tiny").card.fingerprint)
    number, _ = made.study.ask()
    row = {"epoch": 2, "val/fused/accuracy": 0.5, "val/fused/loss": 1.0}
    trial_folder(made.folder, number).mkdir(parents=True)
    (trial_folder(made.folder, number) / EPOCHS).write_text(json.dumps(row) + "\n")
    made.study.finish(number, row)
    del made  # which holds the sweep
    refused = run(folder, "confirm", "sweeps/outer", "--split", "val", "--seeds", "1")
    assert refused.returncode == 2
    assert "its alpha is fitted to the validation split" in re.sub(r"\s+", " ", refused.stderr)
    twice = ["sweeps/outer", folder / "sweeps/outer"]
    done = run(folder, "confirm", *twice, "--split", "val", "--seeds", "2", "--set", "alpha.outer=held_out")
    assert done.returncode == 0, done.stderr
    assert "val accuracy in %" in done.stdout
    assert not (folder / "sweeps/outer/test_reads.log").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("tune", ["--data", "shards/absent"], "shards/absent: there is no such dataset folder"),
        ("tune", ["--data", "."], "it has no dataset.json"),
        ("tune", ["absent.yaml", "--data", "shards/tiny"], "absent.yaml: there is no such file"),
        ("tune", ["--data", "shards/tiny", "--set", "loss.tua=1"], "did you mean tau"),
        ("tune", ["--data", "shards/tiny", "--set", "data.modalities=[audoi]", "--name", "x"], "did you mean audio"),
        ("tune", ["--data", "shards/tiny", "--start-from", "absent"], "holds no run"),
        (
            "tune",
            ["search_spaces/learned.yaml", "--data", "shards/tiny", "--from-learned"],
            "does not search alpha.coef",
        ),
        ("tune", ["--data", "shards/tiny", "--warm-start", "absent", "--name", "x"], "absent: there is no sweep here"),
        (
            "tune",
            ["--data", "shards/tiny", "--objective", "val/fused/mpa", "--name", "x"],
            "did you mean val/fused/map",
        ),
        ("tune", ["--sampler", "random", "--warm-start", "sweeps/one"], "choose --sampler tpe or gp"),
        ("tune", ["--resume", "one", "--objective", "val/fused/map"], "only budgets and resources can change"),
        ("tune", ["--resume", "absent"], "there is no sweep here"),
        ("tune", ["--data", "shards/tiny", "--name", "one"], "--resume one"),
        ("tune", ["--trials", "0"], "at least 1"),
        (
            "tune",
            ["--data", "shards/tiny", "--population", "4", "--workers-per-trial", "2", "--name", "x"],
            "leave out --workers-per-trial",
        ),
        ("tune", ["--time-budget", "soon"], "such as 90s"),
        ("tune", ["--gpus-per-worker", "1.5"], "a share of one GPU"),
        ("train", ["best.yaml", "--gpus-per-worker", "nan"], "a share of one GPU"),
        ("tune", ["--storage", "s3://key@bucket/path"], "in the environment"),
        ("tune", ["--data", "shards/tiny", "--name", "y", "--cpus-per-worker", "999"], "needs 999 CPUs"),
        ("train", ["absent.yaml"], "absent.yaml: there is no such file"),
        ("confirm", ["absent"], "absent: there is no sweep here"),
        ("confirm", ["sweeps/one", "--select", "1"], "--select 1: must be above 1"),
        ("export", ["absent", "--out", "x"], "absent: holds neither a run (checkpoint.pt) nor a sweep (sweep.yaml)"),
        ("export", ["sweeps/one", "--out", "shards"], "--out shards: already exists"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    folder: Path,
    sweep: Completed,
    name: str,
    arguments: list[str],
    said: str,
) -> None:
    done = run(folder, name, *arguments)
    assert done.returncode == 2
    assert said in re.sub(r"\s+", " ", done.stderr)
    assert not (folder / "sweeps" / "x").exists()
    assert not (folder / "sweeps" / "y").exists()
