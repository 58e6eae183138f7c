"""Reports the results of sweeps on one page.

    python -m lfm_ray.report sweeps/mine                      writes sweeps/mine/report.html
    python -m lfm_ray.report sweeps/mine sweeps/joint         compares them in sweeps/report-mine-joint.html
    python -m lfm_ray.report sweeps/mine --to mine.html
    python -m lfm_ray.report --gradcam runs/joint runs/lfm --samples 3
    python -m lfm_ray.report --predictions runs/mine          writes runs/mine/predictions.csv and .html

The page is self-contained and can be sent to anyone. A folder of the same name beside it holds its
figures as PNG and SVG, with their data as CSV. A sweep that is still running is shown as it stands.

--gradcam writes a single PNG instead: the parts of images, frames and spectrograms that the logit of a
class depends on, for each run over its epochs (paper Figure 4). Runs save several epochs with --set
checkpoint.keep_every=5; a sweep stands for the best trial of each strategy. Only the validation and
training splits are read, never the test split.

--predictions writes what a run, or the best trial of a sweep, says of each sample of the validation split, as
CSV, and a page: confusion matrices, the accuracy of each class by the fusion and by each modality, and the
samples on which the modalities disagree most, with their pictures and their sound.
"""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from pathlib import Path

from lfm_ray.cli import parser, run, storage_folder, typed
from lfm_ray.errors import UserError


def main() -> None:
    """The command."""
    given = arguments()
    if given.gradcam:
        show_gradcam(given)
        return
    if given.predictions:
        show_predictions(given)
        return
    page = given.to or default_page(given.sweeps)

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console
    from lfm_ray.report.page import write_report
    from lfm_ray.storage import shown

    with console.status("reading"):
        write_report(given.sweeps, page)
    console.print(f"report          {shown(page)}", soft_wrap=True)
    console.print(f"figures, data   {shown(page.with_suffix(''))}", soft_wrap=True)


def show_gradcam(given: Namespace) -> None:
    """Writes the Grad-CAM figure."""
    from lfm_ray.console import console, notice
    from lfm_ray.report.gradcam import Kept, gradcam_figure

    path = given.to or Path("gradcam.png")
    with console.status("computing Grad-CAM"):
        kept = [one for source in given.gradcam for one in Kept.of(source)]
        gradcam_figure(kept, given.samples, path, given.class_of, given.data)
    for one in kept:
        if one.notice:
            console.print(notice("Grad-CAM", f"        {one.notice}"), soft_wrap=True)
        if len(one.files) == 1:
            console.print(f"{' '.join(one.name.split())}: one epoch is kept; --set checkpoint.keep_every=5 keeps more")
    console.print(f"Grad-CAM        {path}", soft_wrap=True)


def show_predictions(given: Namespace) -> None:
    """Writes the table and the page of a run's predictions."""
    from lfm_ray.console import console, notice
    from lfm_ray.report.predictions import Predictions, write_predictions
    from lfm_ray.storage import shown

    with console.status("predicting"):
        predictions = Predictions.of(given.predictions, given.data)
        table, page = write_predictions(predictions)
    if predictions.said:
        console.print(notice("notice", f"          {predictions.said}"), soft_wrap=True)
    console.print(f"predictions     {shown(table)}", soft_wrap=True)
    console.print(f"page            {shown(page)}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("report", __doc__ or "", settings=False)
    add = result.add_argument
    add("sweeps", nargs="*", type=storage_folder, metavar="SWEEP", help="folder of a sweep, running or ended")
    add("--to", type=Path, metavar="FILE", help="the .html page (default: in the sweep's folder, or beside several), or"
        " the .png of --gradcam (default gradcam.png)")  # fmt: skip
    add("--gradcam", nargs="+", type=Path, metavar="RUN", help="folders of runs or sweeps, or weights files")
    add("--samples", nargs="+", default=["3"], metavar="SAMPLE",
        help="for Grad-CAM: a number of samples, ids, or rows such as val/7; default 3")  # fmt: skip
    add("--class-of", choices=("true", "predicted"), default="true",
        help="for Grad-CAM: explain the logit of the true or of the predicted class; default true")  # fmt: skip
    add("--predictions", type=storage_folder, metavar="RUN", help="folder of a run, of a trial, or of a sweep")
    add(
        "--data",
        type=storage_folder,
        metavar="FOLDER",
        help="for Grad-CAM and predictions: shards to use instead of the runs'",
    )
    add("--paper", help=SUPPRESS)
    given, others = result.parse_known_args()
    if given.paper:
        raise UserError(f"--paper {given.paper}: this is now a separate command: {typed('reproduce')} {given.paper}")
    if others:
        result.error(f"unrecognized arguments: {' '.join(others)}")
    if sum(map(bool, (given.sweeps, given.gradcam, given.predictions))) != 1:
        raise UserError("give the folders of sweeps, or --gradcam with runs, or --predictions with one")
    if given.predictions and given.to:
        raise UserError("--to: the files of --predictions lie in the run's folder")
    kind, what = (".png", "figure") if given.gradcam else (".html", "page")
    if given.to and given.to.suffix != kind:
        raise UserError(f"--to {given.to}: the {what} is {'a' if given.gradcam else 'an'} {kind} file")
    if len({folder.resolve() for folder in given.sweeps}) < len(given.sweeps):
        raise UserError("the same sweep is given twice")
    return given


def default_page(sweeps: list[Path]) -> Path:
    """The default path of the page about these sweeps."""
    if len(sweeps) == 1:
        return sweeps[0] / "report.html"
    return sweeps[0].parent / f"report-{'-'.join(sweep.resolve().name for sweep in sweeps)}.html"


if __name__ == "__main__":
    run(main)
