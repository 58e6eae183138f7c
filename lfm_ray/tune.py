"""Searches a training strategy: from a space of settings to the best configurations.

    python -m lfm_ray.tune                                                  the demo
    python -m lfm_ray.tune alpha_schedule --data shards/mine
    python -m lfm_ray.tune --data shards/mine --trials 100 --time-budget 2h --name mine
    python -m lfm_ray.tune cubic --from-learned                             fits a learned alpha(t), searches around it
    python -m lfm_ray.tune --start-from runs/learned                        tries its fitted alpha(t) first
    python -m lfm_ray.tune --data shards/mine --population 8                alpha(t) and the learning rate in one go
    python -m lfm_ray.tune --warm-start sweeps/other --data shards/mine     learns from the trials of another sweep
    python -m lfm_ray.tune --objective val/fused/map --objective val/accuracy_gap
    python -m lfm_ray.tune --resume mine                                    goes on after a kill
    python -m lfm_ray.tune --describe cubic                                 what a space searches

Trials run on Ray Tune, on this machine or on the cluster at --address. Settings are drawn by
Optuna, and trials that fall behind are stopped early. Everything lies under STORAGE/NAME.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lfm_ray.api import tune
from lfm_ray.arguments import fixed, space_source
from lfm_ray.cli import command_line, gpu_count, parser, positive, run, seconds, storage_folder, typed


def main() -> None:
    """The command. The outline of a sweep is `lfm_ray.workflows.sweeping.run_once`."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console
    from lfm_ray.report.outcome import print_outcome

    if given.describe:
        console.print(description(given))
        return
    sweep = tune(
        given.space, data=given.data, settings=given.overrides, name=given.name, resume=given.resume,
        trials=given.trials, epochs=given.epochs, epoch_budget=given.epoch_budget, time_budget=given.time_budget,
        seed=given.seed, sampler=given.sampler, objective=given.objective, fair=not given.no_fair,
        widen=not given.keep_ranges, population=given.population,
        start_from=given.start_from, from_learned=given.from_learned, warm_start=given.warm_start,
        storage=given.storage, log=given.log, address=given.address, concurrency=given.concurrency,
        workers_per_trial=given.workers_per_trial, cpus_per_worker=given.cpus_per_worker,
        gpus_per_worker=given.gpus_per_worker, trials_per_gpu=given.trials_per_gpu,
        epoch_time_limit=given.epoch_time_limit, command=command_line("tune"),
    )  # fmt: skip
    print_outcome(sweep.folder, console, typed)


def description(given: Namespace) -> object:
    """What --describe prints."""
    from lfm_ray.report.describe import describe
    from lfm_ray.workflows.sweeping import read_space

    source, _ = space_source(given.space)
    changes = {name: getattr(given, name) for name in ("trials", "epoch_budget", "sampler", "objective")}
    settings = fixed(given.overrides, given.data, given.epochs, given.seed)
    return describe(read_space(source, settings, start_from=given.start_from, **changes))


def arguments() -> Namespace:
    """The command line."""
    result = parser("tune", __doc__ or "")
    add = result.add_argument
    add("space", nargs="?", metavar="SPACE", help="search space: a file, or the name of a shipped one; default"
        " alpha_schedule")  # fmt: skip
    add("--data", metavar="FOLDER", help="shards of lfm_ray.prepare, or their s3:// or gs://; without it, the demo")
    add("--name", help="of the sweep; default: the space's and the time")
    add("--resume", metavar="NAME", help="go on with a sweep that was interrupted, or with more --trials")
    add("--start-from", type=Path, metavar="RUN", action="append", default=[],
        help="folder of a run, whose alpha(t) is fitted and tried among the first; repeatable")  # fmt: skip
    add("--from-learned", action="store_true",
        help="train the learned alpha(t) once, fit it, and search polynomials around the fit")  # fmt: skip
    add("--warm-start", type=storage_folder, metavar="SWEEP", action="append", default=[],
        help="folder of an earlier sweep, also of other data, from whose trials this one learns")  # fmt: skip
    add("--objective", metavar="METRIC", action="append",
        help="such as val/fused/map, or METRIC=minimize; repeatable: a Pareto front; default: the space's")  # fmt: skip
    add("--sampler", help="how settings are drawn: tpe, gp, cmaes, random, or your own; default: the space's")
    add("--no-fair", action="store_true",
        help="no equal shares: strategies compete from the first trial on, whatever the space says")  # fmt: skip
    add("--keep-ranges", action="store_true",
        help="widen no range during the sweep, also when the best trials lie at its end")  # fmt: skip
    add("--describe", action="store_true", help="print what the space searches, and end")
    add("--trials", type=positive, help="number of trials; default: the space's")
    add("--population", type=positive, metavar="N",
        help="population based training with N members: alpha and the learning rate change on the way")  # fmt: skip
    add("--epochs", type=positive, help="T of each trial; default: the space's")
    add("--epoch-budget", type=positive, metavar="N", help="start no trial that could bring all epochs above N")
    add("--time-budget", type=seconds, metavar="TIME", help="stop after this time, such as 90s, 30m, 2h")
    add("--seed", type=int, default=0, help="decides what is drawn, and the seed of every trial; default 0")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    add("--storage", type=storage_folder, default=Path("sweeps"), metavar="FOLDER",
        help="where sweeps are kept: a folder (on a cluster, one that all nodes share), s3://..., gs://")  # fmt: skip
    add("--epoch-time-limit", type=seconds, metavar="TIME",
        help="a trial whose epoch takes longer hangs: it starts again from its last saved epoch, 3 times")  # fmt: skip
    add("--log", action="append", choices=("wandb", "mlflow"), default=[],
        help="also log to Weights & Biases or MLflow, as their environment variables say; repeatable")  # fmt: skip
    add("--concurrency", type=positive, help="trials at once; default: as many as the CPUs and GPUs allow")
    add("--workers-per-trial", type=positive, default=1, help="more than 1: each trial is a DDP job; default 1")
    add("--cpus-per-worker", type=positive, default=1, help="default 1")
    add("--gpus-per-worker", type=gpu_count, default=0, help="below 1: a share of one; default 0")
    add("--trials-per-gpu", type=positive, metavar="N", help="trials that share a GPU, each with a worker on 1/N of it")
    return result.parse_args()


if __name__ == "__main__":
    run(main)
