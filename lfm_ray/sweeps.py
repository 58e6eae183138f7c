"""Lists the sweeps of a folder, and deletes sweeps or parts of them.

    python -m lfm_ray.sweeps                                  name, data, state, best trial and size of each
    python -m lfm_ray.sweeps --storage s3://bucket/sweeps
    python -m lfm_ray.sweeps remove mine                      the whole sweep
    python -m lfm_ray.sweeps remove mine --checkpoints        the models; all that was measured stays
    python -m lfm_ray.sweeps remove mine --trial 7 --trial 9  the folders of two trials; their last metrics stay

A sweep of which something was removed can still be reported, confirmed and resumed: its journal says what
is gone. Nothing outside of its folder is touched, whatever links lead there, and a sweep that is running
is left alone.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lfm_ray.cli import parser, run, storage_folder
from lfm_ray.errors import UserError


def main() -> None:
    """The command."""
    given = arguments()
    if given.action == "remove":
        remove(given)
    else:
        show(given.storage)


def show(where: Path) -> None:
    """Prints the sweeps of a folder."""
    # After the command line has been read, so that --help answers at once.
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from lfm_ray.console import console, notice
    from lfm_ray.search.listing import list_sweeps
    from lfm_ray.storage import shown

    sweeps = list_sweeps(where)
    if not sweeps:
        console.print(f"{shown(where)}: there are no sweeps here", soft_wrap=True)
        return
    table = Table("name", "data", "state", "best on validation")
    table.add_column("size", justify="right")
    for one in sweeps:
        cells = (one.name, one.data, one.state, one.best, decimal(one.size))
        table.add_row(*(Text(" ".join(cell.split()), overflow="fold") for cell in cells))
    console.print(table)
    for one in sweeps:
        if one.trouble:
            console.print(notice(f"{one.name}:", f" {one.trouble}"), soft_wrap=True)


def remove(given: Namespace) -> None:
    """Deletes what was asked for, and says what it was."""
    from rich.filesize import decimal

    from lfm_ray.console import console
    from lfm_ray.search import removal
    from lfm_ray.storage import shown

    numbers = sorted(set(given.trial))
    of_trials = f" of trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}" if numbers else ""
    if given.checkpoints:
        freed = removal.remove_checkpoints(given.storage, given.name, numbers)
        what = f"the models{of_trials} in {shown(given.storage / given.name)}"
    elif numbers:
        freed = removal.remove_trials(given.storage, given.name, numbers)
        what = f"the files{of_trials} in {shown(given.storage / given.name)}"
    else:
        freed = removal.remove_sweep(given.storage, given.name)
        what = shown(given.storage / given.name)
    console.print(f"removed         {what}, {decimal(freed)}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("sweeps", __doc__ or "", settings=False)
    add = result.add_argument
    add("action", nargs="?", choices=("list", "remove"), default="list", help="default: list")
    add("name", nargs="?", metavar="NAME", help="of the sweep to remove, or of which something is to be removed")
    add("--trial", type=number, metavar="N", action="append", default=[],
        help="remove only the folder of this trial, or with --checkpoints its model; repeatable")  # fmt: skip
    add("--checkpoints", action="store_true", help="remove only models: of ended trials, and of confirming runs")
    add("--storage", type=storage_folder, default=Path("sweeps"), metavar="FOLDER",
        help="where sweeps are kept: a folder, s3://..., gs://...; default sweeps")  # fmt: skip
    given = result.parse_args()
    if given.action == "remove" and given.name is None:
        raise UserError("remove: name the sweep")
    if given.action == "list" and (given.name or given.trial or given.checkpoints):
        raise UserError("list: takes no name, --trial or --checkpoints")
    return given


def number(text: str) -> int:
    """The number of a trial, from 0."""
    if not text.isdecimal():
        raise UserError(f"--trial {text}: must be the number of a trial")
    return int(text)


if __name__ == "__main__":
    run(main)
