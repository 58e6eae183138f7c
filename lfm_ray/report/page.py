"""Writes the report as one self-contained HTML file, with its figures as PNG, SVG and CSV beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from lfm_ray.files import write_atomically
from lfm_ray.report import page_tables, sentences
from lfm_ray.report.page_figures import Figures
from lfm_ray.report.plots import COLOURS, DARK_COLOURS, Bars, Plot, for_page, save
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.storage import exclusive, push

HERE = Path(__file__).parent


def write_report(folders: Sequence[Path], page: Path) -> None:
    """Writes a page about one sweep, or comparing several, and a folder of the same name with its figures.

    The sweeps are only read; they may be running.

    Raises:
        UserError: a folder holds no sweep.
    """
    views = SweepView.of(folders)
    figures = Figures(views)
    beside = page.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    with exclusive(beside, "another process writes this report; wait for it, or write it elsewhere with --to"):
        table = page_tables.strategy_frame(views).to_csv(index=False, float_format="%.6g")
        write_atomically(beside / "strategies.csv", table)
        drawn: list[Plot | Bars] = [*figures.plots, *figures.charts]
        for figure in drawn:
            save(figure, figures.groups, beside)
        write_atomically(page, render(figures, beside.name))
    push(page, beside)


def render(figures: Figures, folder: str) -> str:
    """The page; `folder` is the target of its links to figures."""
    views = figures.views
    plots = [plot.thinned() for plot in figures.plots]
    details = [page_tables.differences(views)]
    if not figures.several:
        details += [page_tables.best_trials(views[0]), page_tables.pruned_table(views[0])]
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("page.html").render(
        title=" / ".join(view.name for view in views),
        questions=dict.fromkeys(view.sweep.space.question for view in views if view.sweep.space.question),
        summaries=[sentences.summary(view) for view in views],
        warnings=sentences.warnings(views),
        strategies=page_tables.strategy_table(page_tables.strategy_frame(views), views),
        measures=page_tables.measured_tables(views),
        formulas=[formula for view in views for formula in sentences.formulas(view)],
        confirmations=[table for view in views for table in page_tables.confirmed_tables(view)],
        groups=figures.groups,
        plots=plots,
        charts=figures.charts,
        details=[*details, page_tables.failed_table(views)],
        sweeps=[sentences.again(view) for view in views],
        data=for_page(plots, figures.groups),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        folder=folder,
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
    )
