"""Shows what sweeps have found, on one page.

    python -m lfm_ray.report sweeps/mine                      writes sweeps/mine/report.html
    python -m lfm_ray.report sweeps/mine sweeps/joint         compares them: sweeps/report-mine-joint.html
    python -m lfm_ray.report sweeps/mine --to mine.html

The page needs no network and can be sent to anyone. Its figures lie beside it in a folder of its
name, as PNG and SVG, with their data as CSV. A sweep that is still running is shown as far as it is.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from lfm_ray.cli import console, run
from lfm_ray.errors import UserError


def main() -> None:
    """The command."""
    given = arguments()
    page = given.to or default_page(given.sweeps)

    from lfm_ray.report.page import write_report

    with console.status("reading"):
        write_report(given.sweeps, page)
    console.print(f"report          {page}", soft_wrap=True)
    console.print(f"figures, data   {page.with_suffix('')}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = ArgumentParser(
        prog="python -m lfm_ray.report", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("sweeps", nargs="+", type=Path, metavar="SWEEP", help="folder of a sweep, running or ended")
    add("--to", type=Path, metavar="FILE.html", help="the page; default: in the sweep's folder, or beside several")
    given = result.parse_args()
    if given.to and given.to.suffix != ".html":
        raise UserError(f"--to {given.to}: the page is an .html file")
    if len({folder.resolve() for folder in given.sweeps}) < len(given.sweeps):
        raise UserError("the same sweep is given twice")
    return given


def default_page(sweeps: list[Path]) -> Path:
    """Where the page of these sweeps is written."""
    if len(sweeps) == 1:
        return sweeps[0] / "report.html"
    return sweeps[0].parent / f"report-{'-'.join(sweep.resolve().name for sweep in sweeps)}.html"


if __name__ == "__main__":
    run(main)
