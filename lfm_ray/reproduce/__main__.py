"""Makes one of the paper's tables or figures for your data.

    python -m lfm_ray.reproduce table1 --data shards/mine --budget 4h      every method, tuned alike
    python -m lfm_ray.reproduce figure2 --data shards/mine --budget 1h     embeddings and the modality gap
    python -m lfm_ray.reproduce table4 --data shards/mine --trials 10 --seeds 5 --rows "alpha = 0" "LFM learned"

    python -m lfm_ray.reproduce table1 --data shards/a --data shards/b --budget 4h   a leaderboard over datasets

    table1   every method, alone and fused          figure1  label mixing: accuracies and gaps against u
    table3   ablation of LFM                        figure2  embeddings in the plane, with the modality gap
    table4   constant, stepwise, dynamic alpha      figure3  alpha(t): heuristic, found, learned
    table5   with CLIP's encoders                   figure4  Grad-CAM over the epochs

Every row is tuned with the same number of trials and epochs, then its best trial is retrained with
several seeds and evaluated on the test split (figure3 and figure4 do not read it). The same command
resumes after an interruption. All results are in STORAGE/NAME.

A table of several datasets is made for each, and its methods are ranked over datasets and seeds: a page
with a critical-difference diagram, wins and losses, imbalance and costs, and LaTeX. --add METHOD, a built-in
one or package.module:Name, gives it a row of table1, also of one that is there already; nothing is repeated.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lfm_ray.cli import parser, positive, run, seconds, storage_folder
from lfm_ray.errors import UserError
from lfm_ray.reproduce.papers import OF_TRAINING, PAPERS


def main() -> None:
    """The command."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    if len(given.data) > 1:
        from lfm_ray.reproduce.leaderboard import lead

        lead(given)
        return
    from lfm_ray.reproduce.comparison import compare

    compare(Namespace(**{**vars(given), "data": given.data[0]}))


def arguments() -> Namespace:
    """The command line."""
    result = parser("reproduce", __doc__ or "")
    add = result.add_argument
    add("paper", choices=PAPERS, metavar="WHAT", help="the table or figure, see above")
    add("--data", type=storage_folder, metavar="FOLDER", required=True, action="append",
        help="shards of lfm_ray.prepare; given several times, a leaderboard over the datasets")  # fmt: skip
    add("--budget", type=seconds, metavar="TIME", help="time for everything, such as 4h; determines the trials per row")
    add("--trials", type=positive, help="trials per row, instead of --budget")
    add("--epochs", type=positive, help="epochs per trial; default 20")
    add("--seeds", type=positive, help="how many seeds retrain the best trial of each row; default 3 (figure4: 1)")
    add("--rows", nargs="+", default=[], metavar="ROW", help='only these rows, such as Concat MLA "LFM learned"')
    add("--add", action="append", default=[], metavar="METHOD",
        help="a further method for table1, such as opm or my_lab.methods:Tilt, with its default settings; its learning"
        " rate is tuned as for the others; repeatable")  # fmt: skip
    add("--split", choices=("test", "val"), help="the split to evaluate on; default test")
    add("--samples", nargs="+", default=["3"], metavar="SAMPLE",
        help="for figure4: a number of samples, ids, or rows such as val/7; default 3")  # fmt: skip
    add("--class-of", choices=("true", "predicted"), default="true",
        help="for figure4: explain the logit of the true or of the predicted class; default true")  # fmt: skip
    add("--name", help="name of the folder; default WHAT-DATA. The same name resumes after a kill")
    add("--storage", type=Path, default=Path("sweeps"), metavar="FOLDER", help="where it is kept; default sweeps")
    add("--concurrency", type=positive, help="concurrent trials; default: as many as the CPUs and GPUs allow")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    given = result.parse_args()
    if not (given.budget or given.trials):
        raise UserError("give --budget or --trials")
    if given.split and given.paper in OF_TRAINING:
        raise UserError(f"{given.paper} does not read the test split; leave out --split")
    if len(given.data) > 1 and not given.paper.startswith("table"):
        raise UserError(f"{given.paper}: several --data are for tables; give one")
    if given.add and given.paper != "table1":
        raise UserError(f"{given.paper}: --add is for table1, which compares methods")
    return given


if __name__ == "__main__":
    run(main)
