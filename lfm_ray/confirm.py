"""Retrains what sweeps found over several seeds, and measures it on the test split.

    python -m lfm_ray.confirm sweeps/mine
    python -m lfm_ray.confirm sweeps/mine sweeps/joint --seeds 5 --top 3
    python -m lfm_ray.confirm sweeps/mine sweeps/joint --select 3

The best of many noisy trials looks better than it is, so what was selected on the validation split
is trained anew with other seeds. Of each sweep it takes the best trials, and the best trials of
alpha = 0 and of the heuristic; all are compared, seed by seed, with the best alpha = 0 and the best
heuristic of the given sweeps: difference, 95 % interval, paired tests, corrected for their number
(Holm), in fused accuracy and in the first sweep's objective. Further tables have what each modality
contributes, how well predictions are calibrated, and what a step costs. The tables are also written to the
first sweep's folder, as CSV, Markdown and LaTeX.

Where the strategies had equal shares of the trials (`fair` of a space), the best of each is trained. The
last lines say what to use: the strategy with the best mean on the validation split over these seeds, its
difference from tuned joint training on the measured split, and the simplest strategy that is as good
within one standard error; best.yaml and simplest.yaml hold the two.

With --select 3, the three best trials of each kind are first trained with two more seeds, and the one
with the highest mean on the validation split is taken: for the method and its baselines alike.

Only this command and `reproduce` read the test split; each time it does so it adds a line to
test_reads.log in the sweep's folder. Data without a test split are measured with --split val, which
is refused for an alpha that was itself fitted to the validation split (alpha.outer: val).
"""

from __future__ import annotations

from argparse import Namespace

from lfm_ray.cli import parser, positive, run, storage_folder


def main() -> None:
    """The command."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console
    from lfm_ray.report.confirmation import rich_table, tables
    from lfm_ray.report.measure_tables import note_of
    from lfm_ray.settings import parse_overrides
    from lfm_ray.workflows.confirming import confirm

    done = confirm(
        given.sweeps, seeds=given.seeds, top=given.top, select=given.select, split=given.split,
        changes=parse_overrides(given.overrides), address=given.address, console=console,
    )  # fmt: skip
    for title, cells in tables(done.runs, done.split, done.objective).items():
        console.print(rich_table(title, cells))
        if note := note_of(title):
            console.print(note)
    for sentence in done.verdict.sentences if done.verdict else []:
        console.print(sentence, soft_wrap=True)
    names = ",".join(file.name for file in done.files)
    console.print(f"written         {done.files[0].parent}/{{{names}}}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("confirm", __doc__ or "")
    add = result.add_argument
    add("sweeps", nargs="+", type=storage_folder, help="folders of finished sweeps of the same data")
    add("--seeds", type=positive, default=3, help="trainings of each configuration; default 3")
    add("--top", type=positive, default=1, help="how many of the best trials of each sweep; default 1")
    add("--select", type=positive, metavar="K",
        help="train the K best with two more seeds first, and take what is best on the validation split")  # fmt: skip
    add("--split", choices=("test", "val"), default="test", help="what is measured; default test")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    return result.parse_args()


if __name__ == "__main__":
    run(main)
