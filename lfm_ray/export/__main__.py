"""Writes a trained model as a folder that `lfm_ray.load` opens anywhere, without the shards and without Ray.

    python -m lfm_ray.export runs/mine --out exported/mine                    a run of lfm_ray.train
    python -m lfm_ray.export sweeps/mine --out exported/mine                  the best trial of a sweep
    python -m lfm_ray.export sweeps/mine/trials/0007 --out exported/seven     any other trial
    python -m lfm_ray.export runs/mine --best --out exported/best             its best epoch, by checkpoint.best

The folder holds the weights (safetensors; their moving average if the run has one), the settings, the
classes and the preprocessing, but no code. In Python, classify raw files with

    import lfm_ray
    model = lfm_ray.load("exported/mine")
    prediction = model.predict({"audio": "seven.wav", "image": "seven.png"})     or a list of samples
    prediction.label, prediction.probabilities, prediction.unimodal["audio"]
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lfm_ray.cli import parser, run, storage_folder


def main() -> None:
    """The command."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console, notice
    from lfm_ray.datasets.shards import what_is_told
    from lfm_ray.export.from_run import export
    from lfm_ray.models.directions import leading
    from lfm_ray.storage import shown

    folder, card, said = export(given.run, given.out, given.best)
    if said:
        console.print(notice("notice", f"          {said}"), soft_wrap=True)
    size = sum(part.stat().st_size for part in given.out.rglob("*") if part.is_file())
    names = ["fused", *card.dataset.modalities]
    lead = leading(card.metrics)
    figures = ", ".join(f"{name} {card.metrics[f'val/{name}/{lead}']:.3f}" for name in names)
    weights = ", the moving average of the weights" if card.averaged else ""
    unfinished = "" if card.epoch == card.run.epochs else " (it was stopped, or is still running)"
    sample = ", ".join(
        f'"{name}": "{"TEXT" if one.kind == "text" else "FILE"}"' for name, one in card.dataset.modalities.items()
    )
    for what, line in {
        "run": f"{shown(folder)}, epoch {card.epoch} of {card.run.epochs}{weights}{unfinished}",
        f"val {lead}": figures,
        "model": f"{given.out}, {what_is_told(card.dataset)}, {size / 1e6:.1f} MB",
        "use it": f'lfm_ray.load("{given.out}").predict({{{sample}}})',
    }.items():
        console.print(f"{what:<16}{line}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("export", __doc__ or "", settings=False)
    add = result.add_argument
    add("run", type=storage_folder, metavar="RUN", help="folder of a run, of a trial, or of a sweep; or its URI")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    add("--best", action="store_true", help="the model after the best epoch, by checkpoint.best, not the last")
    return result.parse_args()


if __name__ == "__main__":
    run(main)
