"""Is this search better than what its users would write by hand? The same trainer, space, data and wall time.

    OMP_NUM_THREADS=1 python benchmarks/peers.py PATH/TO/SHARDS               5 seeds of 4 x 110 s, then their tests
    python benchmarks/peers.py PATH/TO/SHARDS --time 60 --seeds 3 --test-seeds 4

    lfm_ray     lfm-ray tune alpha_schedule, as it is, with --time-budget
    fair off    the same with --no-fair: strategies compete from the first trial on
    ray tune    OptunaSearch (define by run, the same space) and ASHAScheduler, as Ray's documentation writes it
    optuna      Optuna alone: two processes, a SQLite storage, its TPE and Hyperband pruner

All trials are of the same length, on as many CPUs, one thread each; every kind has its own process and its own time,
the start-up of Ray included. What each one chose is trained with other seeds, and measured on the test split. The
seeds of the search take turns, so a slow minute of the machine hits all. A line is printed for every search, and a
table at the end; runs that are recorded in --out are not repeated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from progress import begin
from rich.console import Console
from rich.table import Table

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed
from lfm_ray.report.statistics import interval
from lfm_ray.resources import shipped_file
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.sweep import Sweep
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer

KINDS = ("lfm_ray", "fair off", "ray tune", "optuna")
METRIC = "val/fused/accuracy"
PROCESSES = 2


def space_on(shards: Path, seed: int) -> Space:
    """The shipped space alpha_schedule on these shards."""
    file = shipped_file("search_spaces/alpha_schedule.yaml")
    return load_space(file, [f"data.path={shards.absolute()}", f"seed={seed}"])


def train(config: RunConfig, report: Any) -> Trainer:
    """Trains a configuration in this process; `report` gets every epoch's row, and may raise to end it."""
    torch.set_num_threads(1)
    source = DataSource(Shards(Path(config.data.path)), {})
    trainer = Trainer(config, source.shards.card)
    fit(trainer, source.splits(config), lambda run: report(run.history[-1]))
    return trainer


def by_lfm_ray(shards: Path, seconds: float, seed: int, fair: bool) -> dict[str, Any]:
    """The product's command."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["tune", "alpha_schedule", "--data", shards, "--time-budget", f"{seconds:g}s", "--trials", 400]
        command += ["--seed", seed, "--storage", folder, "--name", "peer", *([] if fair else ["--no-fair"])]
        subprocess.run([sys.executable, "-m", "lfm_ray", *map(str, command)], check=True, capture_output=True)
        trials = Sweep.open(Path(folder) / "peer").trials()
        best = best_of(trials)
        assert best is not None
        whole = sum(trial.state == "finished" for trial in trials)
        return {"config": best.config.model_dump(mode="json"), "trials": len(trials), "whole": whole,
                "epochs": sum(trial.trained for trial in trials)}  # fmt: skip


def drawn(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """A draw from the space, as Ray's searcher asks for it; at the top of the module, since Ray pickles it."""
    return {"drawn": space.suggest(trial)}


def by_ray_tune(shards: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Ray Tune by hand."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = space_on(shards, seed)

    def trainable(config: dict[str, Any]) -> None:
        try:
            train(space.config(config["drawn"]), lambda row: tune.report({METRIC: row[METRIC], "epoch": row["epoch"]}))
        except TrainingFailed:
            tune.report({METRIC: 0.0, "epoch": 0})

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="r") as session:
        ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 _temp_dir=session)  # fmt: skip
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(space=partial(drawn, space), metric=METRIC, mode="max", seed=seed),
                scheduler=ASHAScheduler(metric=METRIC, mode="max", max_t=space.base.epochs, grace_period=1),
                num_samples=400,
                time_budget_s=seconds,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        best = results.get_best_result(metric=METRIC, mode="max")
        rows = [one.metrics or {} for one in results]
        ray.shutdown()
        assert best.config is not None
        epochs = [row.get("epoch", 0) for row in rows]
        return {"config": space.config(best.config["drawn"]).model_dump(mode="json"), "trials": len(rows),
                "whole": sum(epoch == space.base.epochs for epoch in epochs), "epochs": sum(epochs)}  # fmt: skip


def optimise(shards: Path, storage: str, seconds: float, seed: int) -> None:
    """One of Optuna's processes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = space_on(shards, seed)
    study = optuna.load_study(
        study_name="peer",
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(max_resource=space.base.epochs),
    )

    def objective(trial: optuna.Trial) -> float:
        def report(row: dict[str, float]) -> None:
            trial.report(row[METRIC], int(row["epoch"]))
            if trial.should_prune() or time.monotonic() > until:
                raise optuna.TrialPruned

        return train(space.config(space.suggest(trial)), report).history[-1][METRIC]

    until = time.monotonic() + seconds
    study.optimize(objective, timeout=seconds, catch=(TrainingFailed,))


def by_optuna(shards: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Optuna by hand."""
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{folder}/optuna.db"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(study_name="peer", storage=storage, direction="maximize")
        spawn = multiprocessing.get_context("spawn")
        workers = [
            spawn.Process(target=optimise, args=(shards, storage, seconds, seed + 1000 * i)) for i in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        space = space_on(shards, seed)
        trials = study.get_trials()
        again = optuna.create_study()
        again.enqueue_trial(study.best_trial.params)
        config = space.config(space.suggest(again.ask()))
        whole = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
        epochs = sum(trial.last_step or 0 for trial in trials)
        return {"config": config.model_dump(mode="json"), "trials": len(trials), "whole": whole, "epochs": epochs}


def searched(kind: str, shards: Path, seconds: float, seed: int) -> dict[str, Any]:
    """What a search of this kind chose, and what it did."""
    if kind == "ray tune":
        return by_ray_tune(shards, seconds, seed)
    if kind == "optuna":
        return by_optuna(shards, seconds, seed)
    return by_lfm_ray(shards, seconds, seed, fair=kind == "lfm_ray")


def measured(job: tuple[dict[str, Any], int]) -> float:
    """Test accuracy of a configuration with another seed."""
    config = load(RunConfig, None, {**job[0], "seed": job[1]})
    trainer = train(config, lambda row: None)
    source = DataSource(Shards(Path(config.data.path)), {})
    return trainer.evaluate(source.evaluation("test", config))["fused/accuracy"]


def main() -> None:
    """Runs what is not recorded, and prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shards", type=Path)
    arguments.add_argument("--time", type=float, default=110, help="seconds of each search; default 110")
    arguments.add_argument("--seeds", type=int, default=5, help="of the search; default 5")
    arguments.add_argument("--test-seeds", type=int, default=4, help="trainings of what was chosen; default 4")
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    arguments.add_argument("--out", type=Path, default=Path("runs/peers.jsonl"))
    arguments.add_argument("--one", nargs=2, metavar=("KIND", "SEED"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    begin("about three quarters of an hour for 5 seeds of 4 x 110 s and their tests")
    if given.one:
        print(json.dumps(searched(given.one[0], given.shards, given.time, int(given.one[1]))))
        return
    console = Console(width=100, highlight=False)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {(line["kind"], line["seed"]): line for line in lines if line["time"] == given.time}
    each = given.time + given.test_seeds * 5
    console.print(f"about {each * given.seeds * len(given.only) / 60:.0f} minutes")
    for seed in range(given.seeds):
        for kind in given.only:
            if (kind, seed) in known:
                continue
            started = time.monotonic()
            command = [sys.executable, __file__, str(given.shards), "--time", str(given.time), "--one", kind, str(seed)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds = time.monotonic() - started
            with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
                jobs = [(found["config"], 1000 + i) for i in range(given.test_seeds)]
                test = [100 * value for value in pool.map(measured, jobs)]
            line = {"kind": kind, "seed": seed, "time": given.time, "seconds": seconds, "test": test, **found}
            known[kind, seed] = line
            with given.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
            console.print(
                f"seed {seed}  {kind:<9} {np.mean(test):.1f} %  {found['trials']} trials, {found['whole']} whole,"
                f" {found['epochs']} epochs, {seconds:.0f} s"
            )
    console.print(table_of(known, given.seeds))


def table_of(known: dict[tuple[str, int], dict[str, Any]], seeds: int) -> Table:
    """Each kind over the seeds of the search, and the product minus each."""
    table = Table(title=f"test accuracy of what was chosen, {seeds} searches each", title_justify="left")
    for name in ("", "%", "lfm_ray minus it, points", "95 %", "trials", "whole", "epochs", "s"):
        table.add_column(name, justify="right" if name else "left")
    kinds = [kind for kind in KINDS if all((kind, seed) in known for seed in range(seeds))]
    means = {kind: np.array([np.mean(known[kind, seed]["test"]) for seed in range(seeds)]) for kind in kinds}
    for kind in kinds:
        of_kind = [known[kind, seed] for seed in range(seeds)]
        row = [kind, f"{means[kind].mean():.1f}", "", ""]
        if kind != "lfm_ray" and "lfm_ray" in means:
            difference = means["lfm_ray"] - means[kind]
            low, high = interval(difference)
            row[2:] = [f"{difference.mean():+.1f}", f"{low:+.1f} to {high:+.1f}"]
        row += [f"{np.mean([one[name] for one in of_kind]):.0f}" for name in ("trials", "whole", "epochs", "seconds")]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
