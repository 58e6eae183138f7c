"""lfm_ray from Python, in a script or a notebook. The commands of the shell do the same.

    import lfm_ray

    shards = lfm_ray.prepare(frame, audio="audio", image="image", out="shards/mine")
    sweep = lfm_ray.tune("alpha_schedule", data=shards, trials=40)
    table = lfm_ray.confirm(sweep, seeds=4)
    run = lfm_ray.train(sweep.best, workers=2)
    model = lfm_ray.export(run, "exported/mine")
    model.predict({"audio": "seven.wav", "image": "seven.png"}).label

What goes wrong is raised as `lfm_ray.UserError`, which says in one line what to put right, or as
`lfm_ray.TrainingFailed`. Messages name options as the shell has them: `--time-budget` is the argument
`time_budget`, `--set` is `settings`. `settings` maps the path of a setting to its value, such as
{"optimizer.learning_rate": 0.01}; nested mappings are understood too.

Each function that computes uses the Ray session of this process if there is one, and leaves it
running; otherwise it starts one of this machine (or joins the cluster at `address`) and ends it.
Progress is shown in a terminal and in a notebook, where a bar moves if ipywidgets is installed;
`progress=False` silences everything.

torch, Ray and pandas take seconds to import; this file is read by `import lfm_ray` and by every --help,
so its functions import what they need themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfm_ray import trust as trusting
from lfm_ray.arguments import (
    as_called,
    check_counts,
    console_for,
    fixed,
    folder_of,
    gpus,
    name_of_new,
    path_or_none,
    seconds,
    space_source,
    trust_parts,
    working_folder_of,
)
from lfm_ray.errors import UserError
from lfm_ray.files import check_name

if TYPE_CHECKING:
    import pandas as pd

    from lfm_ray.config import RunConfig
    from lfm_ray.datasets.kinds import Kind, TargetKind
    from lfm_ray.datasets.shards import Shards
    from lfm_ray.export.predictor import Predictor
    from lfm_ray.report.loaded_run import LoadedRun
    from lfm_ray.report.loaded_sweep import LoadedSweep
    from lfm_ray.search.spaces.space import Space
    from lfm_ray.settings import Overrides

    Folder = str | Path


def prepare(
    manifest: Folder | pd.DataFrame | None = None,
    *,
    out: Folder,
    audio: str | Sequence[str] = (),
    image: str | Sequence[str] = (),
    video: str | Sequence[str] = (),
    text: str | Sequence[str] = (),
    feature: str | Sequence[str] = (),
    dataset: str | None = None,
    root: Folder | None = None,
    folders: Folder | None = None,
    label: str = "label",
    settings: Overrides = (),
    config: Folder | None = None,
    skip_bad: bool = False,
    group: str | None = None,
    target: TargetKind = "classes",
    allow_outside: bool = False,
    allow_missing: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> Shards:
    """Raw media and labels -> shards, which `tune` and `train` read.

    It goes on where an interrupted call with the same arguments was; if the shards are there already,
    nothing is done. Equal input gives equal bytes.

    Args:
        manifest: a data frame, or a .csv or .parquet file: a row for each sample, a column for each
            modality (the path of a file, or the text itself), `label`, and optionally `split` (train,
            val, test; otherwise each class is split 80/10/10), `id`, `start` and `end` (seconds). Or a folder
            of Hugging Face's `datasets` (save_to_disk, or Parquet files), or of WebDataset's tars, or one tar.
        out: the folder to make. Shards that lie there are replaced once the new ones are complete.
        audio, image, video, text, feature: the columns that hold these kinds of modality; a video is a
            file or a folder of frames, a feature a .npy file. A modality is named like its column.
        dataset: instead of a manifest, a dataset of the field that has a card, such as "crema_d".
        folders: instead of a manifest, a folder that has one for each class, or for each split and class.
        label: the column of the labels.
        root: of `dataset`, its raw folder; of a data frame, where relative paths start (default: here).
        settings: of `lfm_ray.datasets.preparing.config.PrepareConfig`, such as {"audio.sample_rate": 8000}.
        config: a YAML file of such settings.
        skip_bad: leave out rows that cannot be used, and list them in `bad_rows.csv`.
        group: of a manifest without `split`, a column whose equal values, such as a speaker's, stay in one split.
        target: what `label` is: a class, several labels such as "dog;rain" or a list of them ("multilabel"), or a
            number ("regression").
        allow_outside: read media outside the manifest's folder (of a data frame: outside `root`) too.
        allow_missing: keep rows that lack some of their modalities, but not all.
        address: a Ray cluster; None: this machine.

    Returns:
        The shards: `path` is their folder, `card` says what they hold (classes, rows, shapes), and
        `take(split, rows)` reads samples, modality -> (N, ...) array, and their labels (N,).

    Raises:
        UserError: a column or a file is missing, rows cannot be used, or `out` holds something else.
    """
    from lfm_ray.workflows import preparing

    columns: dict[Kind, str | Sequence[str]] = {
        "audio": audio, "image": image, "video": video, "text": text, "feature": feature,
    }  # fmt: skip
    shards, _ = preparing.prepare(
        Path(manifest) if isinstance(manifest, str) else manifest,
        {kind: [named] if isinstance(named, str) else list(named) for kind, named in columns.items()},
        out=Path(out), dataset=dataset, root=path_or_none(root), folders=path_or_none(folders), label=label,
        settings=settings, config=path_or_none(config), skip_bad=skip_bad, group=group, target=target,
        allow_outside=allow_outside, allow_missing=allow_missing, address=address, progress=progress,
    )  # fmt: skip
    return shards


def embed(
    data: Folder | Shards,
    models: Mapping[str, str],
    *,
    out: Folder,
    poolings: Mapping[str, str] | None = None,
    address: str | None = None,
    progress: bool = True,
) -> Shards:
    """Runs frozen pretrained models over shards once, and writes shards that hold their features instead.

        features = lfm_ray.embed(shards, {"image": "facebook/dinov2-small"}, out="shards/mine-dino")

    It goes on where an interrupted call was; if the shards are there already, nothing is done.

    Args:
        data: shards, or their folder.
        models: modality -> a folder written by save_pretrained, or a name on the Hugging Face hub. Other
            modalities are copied.
        out: the folder to make.
        poolings: modality -> "model", "cls" or "mean", how states become one vector, or "tokens", all of them, for
            the encoder `sequence`; left out: as the model is published.
        address: a Ray cluster; None: this machine.

    Returns:
        The shards. A model that was trained on them and exported takes raw files.

    Raises:
        UserError: a model does not take what the shards hold, or `out` holds something else.
    """
    from lfm_ray.console import SILENT, console
    from lfm_ray.datasets.shards import Shards
    from lfm_ray.workflows import embedding

    source = data.path if isinstance(data, Shards) else Path(data)
    shown = console if progress else SILENT
    return embedding.embed(source, Path(out), models, poolings or {}, address=address, console=shown)[0]


def tune(
    space: Folder | Mapping[str, Any] | Space | None = None,
    *,
    data: Folder | Shards | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    time_budget: float | str | None = None,
    epoch_budget: int | None = None,
    name: str | None = None,
    storage: Folder = "sweeps",
    resume: str | None = None,
    settings: Overrides = (),
    objective: str | Sequence[str] | Mapping[str, str] | None = None,
    sampler: str | None = None,
    seed: int = 0,
    fair: bool = True,
    widen: bool = True,
    population: int | None = None,
    start_from: Sequence[Folder] = (),
    from_learned: bool = False,
    warm_start: Sequence[Folder] = (),
    log: Sequence[str] = (),
    concurrency: int | None = None,
    workers_per_trial: int = 1,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    trials_per_gpu: int | None = None,
    epoch_time_limit: float | str | None = None,
    address: str | None = None,
    progress: bool = True,
    trust: bool = False,
    command: str | None = None,
) -> LoadedSweep:
    """Searches a training strategy: from a space of settings to the best configurations.

    Args:
        space: the name of a shipped search space ("alpha_schedule", the default; "cubic", "methods",
            ...), a file, or the content of one as a mapping or a `Space`.
        data: shards, as `prepare` returns them, their folder, or their s3:// or gs:// URI; None: those
            that the space names, or the demo, which is made where it is not there.
        trials: number of trials; None: the space's, as for all that follow.
        epochs: T, passes of each trial over the training split.
        time_budget: stop after this time, in seconds or as "90s", "30m", "2h".
        epoch_budget: start no trial that could bring the epochs of all trials above this.
        name: of the sweep; None: the space's and the time. It lies in the folder `storage`/`name`.
        storage: a folder (on a cluster, one that all nodes share) or a URI.
        resume: the name of a sweep to go on with, after an interruption or with more `trials`. Only
            budgets and resources can be given with it.
        settings: fixed for all trials, and no longer searched.
        objective: "val/fused/map", or several for a Pareto front; a mapping says "maximize" or "minimize".
        sampler: "tpe", "gp", "cmaes" or "random".
        seed: decides what is drawn, and the seed of every trial.
        fair: give each strategy an equal share of the trials first, where the space says so.
        widen: widen a range during the sweep when the best trials lie at its end.
        population: members of a population based training, in place of `trials`.
        start_from: folders of runs whose alpha(t) is fitted and tried among the first.
        from_learned: train the learned alpha(t) once, fit it, and search polynomials around the fit.
        warm_start: folders of earlier sweeps, also of other data, from whose trials this one learns.
        log: "wandb", "mlflow": where curves and settings are sent too.
        concurrency: trials at once; None: as many as the CPUs and GPUs allow.
        workers_per_trial: more than 1: each trial is a DDP job. cpus_per_worker, gpus_per_worker: of each;
            a share of a GPU is below 1. trials_per_gpu: that many trials of one worker share a GPU.
        epoch_time_limit: a trial whose epoch takes longer (seconds, or as `time_budget`) starts again
            from its last saved epoch, 3 times.
        trust: of `resume`, `start_from` and `warm_start`, see `load`.
        command: what the sweep's files record as the way in which it was made; None: this call.

    Returns:
        The sweep, as `load_sweep` gives it; `best` are the settings of its best trial. Its folder also
        holds report.html, trials.csv, best.yaml, strategies.png.

    Raises:
        UserError: something that was given is wrong or does not fit; no trial was started.
        TrainingFailed: no trial finished.
    """
    called = command or as_called(tune, locals())
    trust_parts(trust)
    check_counts(trials=trials, epochs=epochs, epoch_budget=epoch_budget, population=population,
        concurrency=concurrency, workers_per_trial=workers_per_trial, cpus_per_worker=cpus_per_worker,
        trials_per_gpu=trials_per_gpu)  # fmt: skip
    if resume and any([space is not None, settings, data, epochs, name, start_from, from_learned, warm_start,
                       objective, sampler, population, not fair, not widen]):  # fmt: skip
        raise UserError("--resume goes on with the settings of the sweep; only budgets and resources can change")
    if population and any([start_from, from_learned, warm_start, trials, epoch_budget]):
        raise UserError(
            "--population says how many members there are, which train side by side; --trials, --epoch-budget,"
            " --start-from, --from-learned and --warm-start do not go with it"
        )
    if trials_per_gpu and (gpus_per_worker or workers_per_trial > 1):
        raise UserError("--trials-per-gpu says how much of a GPU a trial of one worker gets; leave out the other flags")

    from lfm_ray.report.loaded_sweep import LoadedSweep
    from lfm_ray.training.execution import Workers
    from lfm_ray.workflows import sweeping

    means = sweeping.Means(
        Workers(
            workers_per_trial,
            cpus_per_worker,
            gpus(1 / trials_per_gpu if trials_per_gpu else gpus_per_worker),
            seconds(epoch_time_limit),
        ),
        concurrency, seconds(time_budget), log, address, console_for(progress),
    )  # fmt: skip
    folder = working_folder_of(storage)
    if name is not None:
        check_name("--name", name)
    if resume:
        asked: sweeping.Asked = sweeping.goes_on(folder / check_name("--resume", resume), trials, epoch_budget)
    else:
        source, stem = space_source(space)
        found = sweeping.read_space(
            source, fixed(settings, data, epochs, seed), trials=trials, epoch_budget=epoch_budget, sampler=sampler,
            objective=objective if objective is None or isinstance(objective, str | Mapping) else list(objective),
            population=population, start_from=[Path(run) for run in start_from], warm_start=bool(warm_start),
            from_learned=from_learned, fair=fair, widen=widen,
        )  # fmt: skip
        earlier = [working_folder_of(sweep) for sweep in warm_start]
        new = sweeping.NewSweep(folder / name_of_new(name, stem), found, seed, earlier, from_learned, called)
        asked = sweeping.fitted_to_data(new, means.console)
    sweeping.run(asked, means)
    return LoadedSweep(asked.folder)


def train(
    config: Folder | Mapping[str, Any] | RunConfig | LoadedSweep,
    *,
    workers: int = 1,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    settings: Overrides = (),
    data: Folder | Shards | None = None,
    epochs: int | None = None,
    name: str | None = None,
    storage: Folder = "runs",
    fit_degree: int | None = None,
    profile: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> LoadedRun:
    """Trains one configuration on Ray Train, on one worker or several (DDP).

    The run lies in the folder `storage`/`name`; the same call goes on with one that was interrupted. A
    learned alpha(t) is fitted by a polynomial, as in paper section 4.4.

    Args:
        config: the settings of a run: what `LoadedSweep.best` gives, a YAML file, a mapping, or a sweep,
            whose best ones are taken.
        workers: processes that share every batch. cpus_per_worker, gpus_per_worker: of each.
        settings: those that differ from `config`.
        data: shards in place of those of `config`. epochs: T in place of that of `config`.
        name: of the run; None: the file's, or "run", and the time.
        fit_degree: of the polynomial that is fitted to a learned alpha(t); None: chosen.
        profile: also measure where the time of a training step goes.

    Returns:
        The run: `folder`, `epochs` (a data frame), `metrics` (its last row), `config`.

    Raises:
        UserError: a setting is wrong, the data do not fit, or the folder holds a run with other settings.
        TrainingFailed: the run failed; the message says why.
    """
    check_counts(workers=workers, cpus_per_worker=cpus_per_worker, epochs=epochs, fit_degree=fit_degree)

    from lfm_ray.config import RunConfig
    from lfm_ray.report.loaded_run import LoadedRun
    from lfm_ray.report.loaded_sweep import LoadedSweep
    from lfm_ray.resources import shipped_file
    from lfm_ray.settings import build, load, merge, read_yaml
    from lfm_ray.training.execution import Workers
    from lfm_ray.workflows import single_run

    if name is not None:
        check_name("--name", name)
    changes = fixed(settings, data, epochs)
    stem = "run"
    if isinstance(config, str | Path):
        stem = Path(config).stem
        file = shipped_file(config)
        trusting.ask(read_yaml(file))
        if not file.read_text(encoding="utf-8").strip():  # else what was cut would train with the default settings
            raise UserError(f"{file}: is empty; to train with the default settings, write {{}}")
        found = load(RunConfig, file, changes)
    else:
        config = config.best if isinstance(config, LoadedSweep) else config
        values = config.model_dump() if isinstance(config, RunConfig) else config
        trusting.ask(values)
        found = build(RunConfig, merge(values, changes), changed=changes)
    folder = working_folder_of(storage).absolute() / name_of_new(name, stem)
    single_run.train(
        found, folder, Workers(workers, cpus_per_worker, gpus(gpus_per_worker)),
        fit_degree=fit_degree, profile=profile, address=address, console=console_for(progress),
    )  # fmt: skip
    return LoadedRun(folder)


def confirm(
    sweeps: Folder | LoadedSweep | Sequence[Folder | LoadedSweep],
    *,
    seeds: int = 3,
    top: int = 1,
    select: int | None = None,
    split: str = "test",
    settings: Overrides = (),
    address: str | None = None,
    progress: bool = True,
    trust: bool = False,
) -> pd.DataFrame:
    """Trains what sweeps found with other seeds, and measures it on the test split.

    The best of many noisy trials looks better than it is. Of each sweep the best trials are taken, and
    the best ones of alpha = 0 and of the heuristic, chosen on the validation split alone. Each reading
    of the test split adds a line to test_reads.log in the sweep's folder.

    Args:
        sweeps: one or several finished sweeps of the same data, or their folders.
        seeds: trainings of each configuration.
        top: how many of the best trials of each sweep.
        select: train so many of the best with two more seeds first, and take what is best then on the
            validation split; above `top`.
        split: "test", or "val", which is refused for an alpha that was fitted to it.
        settings: those that differ from the trials'.
        trust: see `load`.

    Returns:
        One row for each configuration, the best on the validation split last:
            sweep, trial, strategy: which it is.
            fused, fused std: mean and standard deviation over the seeds of the fused accuracy, in per cent.
            low, high: the 95 % interval of that mean (Student's t); NaN with one seed.
            MODALITY, MODALITY std: the same of the accuracy of each modality alone.
            gap: mean difference between the best and the worst modality, in points.
            METRIC, METRIC std: of each further metric of the objective of the first sweep.
        Each run, and the comparison with the baselines seed by seed (difference, interval, p corrected
        by Holm), are written to the first sweep's folder: confirm.csv, confirm-comparisons.csv.

    Raises:
        UserError: no trial has finished, or the sweeps are of different data.
        TrainingFailed: a run failed.
    """
    check_counts(seeds=seeds, top=top, select=select)
    trust_parts(trust)
    if split not in ("test", "val"):
        raise UserError(f"--split {split}: must be test or val")

    from lfm_ray.settings import parse_overrides
    from lfm_ray.workflows import confirming

    several = sweeps if isinstance(sweeps, Sequence) and not isinstance(sweeps, str) else [sweeps]
    done = confirming.confirm(
        [folder_of(sweep) for sweep in several], seeds=seeds, top=top, select=select, split=split,
        changes=parse_overrides(settings), address=address, console=console_for(progress),
    )  # fmt: skip
    return done.table


def export(run: Folder | LoadedRun | LoadedSweep, out: Folder, *, best: bool = False, trust: bool = False) -> Predictor:
    """Writes a trained model as a folder that `load` opens anywhere, without the shards and without Ray.

    run: what `train` returned, a sweep, whose best trial is taken, or the folder of a run, of a trial
    or of a sweep. out: the folder to make. It holds weights (safetensors), settings, classes and
    preprocessing, and no code. best: the model after the best epoch, by `checkpoint.best`, not the last.
    trust: see `load`.

    Returns:
        The model; `predict` takes raw media files.

    Raises:
        UserError: there is no run, no trial has finished, or `out` is in the way.
    """
    from lfm_ray.export import from_run

    trust_parts(trust)
    _, _, said = from_run.export(folder_of(run), Path(out), best)
    if said:
        warnings.warn(said, stacklevel=2)
    return load(out)


def load(folder: Folder, device: str = "auto", *, trust: bool = False) -> Predictor:
    """Opens a model that `export` wrote.

        model = lfm_ray.load("exported/mine")
        prediction = model.predict({"audio": "seven.wav", "image": "seven.png"})     # or a list of such samples
        prediction.label, prediction.probabilities, prediction.unimodal["audio"]

    device: "cpu", "cuda", or "auto": the GPU where there is one. trust: whether parts of other packages
    that the folder names (`package.module:Name`) may be imported, which runs their code; from then on any
    that this process reads of.

    Raises:
        UserError: the folder is no exported model, is not as it was written, or names parts that are not trusted.
    """
    from lfm_ray.export.predictor import Predictor

    trust_parts(trust)
    return Predictor(folder, device)


def load_sweep(sweep: Folder, *, trust: bool = False) -> LoadedSweep:
    """Reads a sweep, running or ended: data frames of it, its best settings, and the figures of its report.

    sweep: its folder, or where an object store keeps it. trust: see `load`.

    Raises:
        UserError: there is no sweep.
    """
    from lfm_ray.report.loaded_sweep import LoadedSweep

    trust_parts(trust)
    return LoadedSweep(working_folder_of(sweep))


def load_run(run: Folder, *, trust: bool = False) -> LoadedRun:
    """Reads a run of `train`, or a trial of a sweep, running or ended: its settings, and its epochs as a data frame.

    run: its folder, or where an object store keeps it. trust: see `load`.

    Raises:
        UserError: there is no run, or its first epoch has not ended.
    """
    from lfm_ray.report.loaded_run import LoadedRun

    trust_parts(trust)
    return LoadedRun(working_folder_of(run))
