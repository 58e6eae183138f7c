"""Makes one of the paper's tables or figures for your data.

    python -m lfm_ray.reproduce table1 --data shards/mine --budget 4h      every method, tuned alike
    python -m lfm_ray.reproduce figure2 --data shards/mine --budget 1h     embeddings and the modality gap
    python -m lfm_ray.reproduce table4 --data shards/mine --trials 10 --seeds 5 --rows "alpha = 0" "LFM learned"

    table1   every method, alone and fused          figure1  label mixing: accuracies and gaps against u
    table3   ablation of LFM                        figure2  embeddings in the plane, with the modality gap
    table4   constant, stepwise, dynamic alpha      figure3  alpha(t): heuristic, found, learned
    table5   with CLIP's encoders                   figure4  Grad-CAM over the epochs

Every row is tuned with the same number of trials and epochs, then its best trial is retrained with
several seeds and evaluated on the test split (figure3 and figure4 do not read it). The same command
resumes after an interruption. All results are in STORAGE/NAME.
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
    from lfm_ray.reproduce.comparison import compare

    compare(given)


def arguments() -> Namespace:
    """The command line."""
    result = parser("reproduce", __doc__ or "")
    add = result.add_argument
    add("paper", choices=PAPERS, metavar="WHAT", help="the table or figure, see above")
    add("--data", type=storage_folder, metavar="FOLDER", required=True, help="shards of lfm_ray.prepare")
    add("--budget", type=seconds, metavar="TIME", help="time for everything, such as 4h; determines the trials per row")
    add("--trials", type=positive, help="trials per row, instead of --budget")
    add("--epochs", type=positive, help="epochs per trial; default 20")
    add("--seeds", type=positive, help="how many seeds retrain the best trial of each row; default 3 (figure4: 1)")
    add("--rows", nargs="+", default=[], metavar="ROW", help='only these rows, such as Concat MLA "LFM learned"')
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
    return given


if __name__ == "__main__":
    run(main)
