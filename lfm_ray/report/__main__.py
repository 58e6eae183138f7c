"""Reports the results of sweeps on one page.

    python -m lfm_ray.report sweeps/mine                      writes sweeps/mine/report.html
    python -m lfm_ray.report sweeps/mine sweeps/joint         compares them in sweeps/report-mine-joint.html
    python -m lfm_ray.report sweeps/mine --to mine.html
    python -m lfm_ray.report --gradcam runs/joint runs/lfm --samples 3
    python -m lfm_ray.report --paper table1 --data shards/mine --budget 4h      every method, tuned alike
    python -m lfm_ray.report --paper figure2 --data shards/mine --budget 1h     embeddings and the modality gap

The page is self-contained and can be sent to anyone. A folder of the same name beside it holds its
figures as PNG and SVG, with their data as CSV. A sweep that is still running is shown as it stands.

--gradcam writes a single PNG instead: the parts of images, frames and spectrograms that the logit of a
class depends on, for each run over its epochs (paper Figure 4). Runs save several epochs with --set
checkpoint.keep_every=5; a sweep stands for the best trial of each strategy. Only the validation and
training splits are read, never the test split.

--paper makes one of the paper's tables or figures for your data: every row is tuned with the same number
of trials and epochs, then its best trial is retrained with several seeds and evaluated on the test split
(figure3 and figure4 do not read it). The same command resumes after an interruption.

    table1   every method, alone and fused          figure1  label mixing: accuracies and gaps against u
    table3   ablation of LFM                        figure2  embeddings in the plane, with the modality gap
    table4   constant, stepwise, dynamic alpha      figure3  alpha(t): heuristic, found, learned
    table5   with CLIP's encoders                   figure4  Grad-CAM over the epochs
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lfm_ray.cli import parser, positive, run, seconds, storage_folder
from lfm_ray.console import console
from lfm_ray.errors import UserError
from lfm_ray.storage import shown


def main() -> None:
    """The command."""
    given = arguments()
    if given.paper:
        from lfm_ray.reproduce.comparison import compare

        compare(given)
        return
    if given.gradcam:
        show_gradcam(given)
        return
    page = given.to or default_page(given.sweeps)

    from lfm_ray.report.page import write_report

    with console.status("reading"):
        write_report(given.sweeps, page)
    console.print(f"report          {shown(page)}", soft_wrap=True)
    console.print(f"figures, data   {shown(page.with_suffix(''))}", soft_wrap=True)


def show_gradcam(given: Namespace) -> None:
    """Writes the Grad-CAM figure."""
    from lfm_ray.report.gradcam import Kept, gradcam_figure

    path = given.to or Path("gradcam.png")
    with console.status("computing Grad-CAM"):
        kept = [one for source in given.gradcam for one in Kept.of(source)]
        gradcam_figure(kept, given.samples, path, given.class_of, given.data)
    for one in kept:
        if len(one.files) == 1:
            console.print(f"{' '.join(one.name.split())}: one epoch is kept; --set checkpoint.keep_every=5 keeps more")
    console.print(f"Grad-CAM        {path}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("report", __doc__ or "")
    add = result.add_argument
    add("sweeps", nargs="*", type=storage_folder, metavar="SWEEP", help="folder of a sweep, running or ended")
    add("--to", type=Path, metavar="FILE", help="the .html page (default: in the sweep's folder, or beside several), or"
        " the .png of --gradcam (default gradcam.png)")  # fmt: skip
    add("--gradcam", nargs="+", type=Path, metavar="RUN", help="folders of runs or sweeps, or files of weights")
    add("--samples", nargs="+", default=["3"], metavar="SAMPLE",
        help="of Grad-CAM: how many, or ids, or rows such as val/7; default 3, of different classes")  # fmt: skip
    add("--class-of", choices=("true", "predicted"), default="true",
        help="of Grad-CAM: which class's logit, that of the sample or the predicted one; default true")  # fmt: skip
    add("--data", type=storage_folder, metavar="FOLDER", help="shards: of --paper, or --gradcam in place of the runs'")
    add = result.add_argument_group("the paper's tables and figures").add_argument
    add("--paper", choices=("table1", "table3", "table4", "table5", "figure1", "figure2", "figure3", "figure4"),
        help="which one, see above")  # fmt: skip
    add("--budget", type=seconds, metavar="TIME", help="of everything, such as 4h; decides the trials of each row")
    add("--trials", type=positive, help="of each row, in place of --budget")
    add("--epochs", type=positive, help="of each trial; default: 20")
    add("--seeds", type=positive, help="with which the best trial of each row is trained; default 3 (figure4: 1)")
    add("--rows", nargs="+", default=[], metavar="ROW", help='only these, such as Concat MLA "LFM learned"')
    add("--split", choices=("test", "val"), help="what is measured; default test")
    add("--name", help="of the folder; default: PAPER-DATA. The same name goes on after a kill")
    add("--storage", type=Path, default=Path("sweeps"), metavar="FOLDER", help="where it is kept; default sweeps")
    add("--concurrency", type=positive, help="trials at once; default: as many as the CPUs and GPUs allow")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    given = result.parse_args()
    if sum(map(bool, (given.sweeps, given.gradcam, given.paper))) != 1:
        raise UserError("give the folders of sweeps, or --gradcam with runs, or --paper")
    if given.paper and (given.to or not given.data or not (given.budget or given.trials)):
        raise UserError("--paper needs --data, and --budget or --trials; it takes no --to")
    if given.split and given.paper in ("figure3", "figure4"):
        raise UserError(f"--paper {given.paper} does not read the test split; leave out --split")
    if given.overrides and not given.paper:
        raise UserError("--set goes with --paper")
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
