"""Writes a trained model as a folder that `lfm_ray.load` opens anywhere, without the shards and without Ray.

    python -m lfm_ray.export runs/mine --out exported/mine                    a run of lfm_ray.train
    python -m lfm_ray.export sweeps/mine --out exported/mine                  the best trial of a sweep
    python -m lfm_ray.export sweeps/mine/trials/0007 --out exported/seven     any other trial

The folder holds the weights (safetensors; their moving average if the run has one), the settings, the
classes and the preprocessing, but no code. In Python, classify raw files with

    import lfm_ray
    model = lfm_ray.load("exported/mine")
    prediction = model.predict({"audio": "seven.wav", "image": "seven.png"})     or a list of samples
    prediction.label, prediction.probabilities, prediction.unimodal["audio"]
"""

from __future__ import annotations

from pathlib import Path

from lfm_ray.cli import parser, run, storage_folder
from lfm_ray.console import console
from lfm_ray.errors import UserError
from lfm_ray.storage import exists, fetch, shown


def main() -> None:
    """The command."""
    arguments = parser("export", __doc__ or "", settings=False)
    arguments.add_argument(
        "run", type=storage_folder, metavar="RUN", help="folder of a run, a trial or a sweep, or its URI"
    )
    arguments.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to create")
    given = arguments.parse_args()

    from lfm_ray.export.model_folder import check_free, write
    from lfm_ray.runtime import checkpoint

    check_free(given.out)
    file = checkpoint_of(given.run)
    card = write(checkpoint.load(file), given.out)
    size = sum(part.stat().st_size for part in given.out.rglob("*") if part.is_file())
    names = ["fused", *card.dataset.modalities]
    figures = ", ".join(f"{name} {card.metrics[f'val/{name}/accuracy']:.3f}" for name in names)
    weights = ", the moving average of the weights" if card.averaged else ""
    unfinished = "" if card.epoch == card.run.epochs else " [yellow](it was stopped, or is still running)[/]"
    sample = ", ".join(
        f'"{name}": "{"TEXT" if one.kind == "text" else "FILE"}"' for name, one in card.dataset.modalities.items()
    )
    console.print(f"run             {shown(file.parent)}, epoch {card.epoch} of {card.run.epochs}{weights}{unfinished}",
                  soft_wrap=True)  # fmt: skip
    console.print(f"val accuracy    {figures}", soft_wrap=True)
    console.print(
        f"model           {given.out}, {len(card.dataset.classes)} classes, {size / 1e6:.1f} MB", soft_wrap=True
    )
    console.print(f'use it          lfm_ray.load("{given.out}").predict({{{sample}}})', soft_wrap=True)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint of a run, or of a sweep's best trial.

    Raises:
        UserError: there is none.
    """
    from lfm_ray.search.selection import best_of
    from lfm_ray.search.sweep import SWEEP, Sweep, trial_folder
    from lfm_ray.training.run_folder import CHECKPOINT

    fetch(path / CHECKPOINT)
    if (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    if not exists(path / SWEEP):
        raise UserError(f"{shown(path)}: holds neither a run ({CHECKPOINT}) nor a sweep ({SWEEP})")
    best = best_of(Sweep.open(path).trials())
    if best is None:
        raise UserError(f"{shown(path)}: no trial of this sweep has finished; name one of its folders under trials/")
    fetch(trial_folder(path, best.number) / CHECKPOINT)
    return trial_folder(path, best.number) / CHECKPOINT


if __name__ == "__main__":
    run(main)
