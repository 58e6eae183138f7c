"""What users write is shown as it is: no part of it is taken for markup."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
from made_sweep import make_sweep
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

import lfm_ray
from lfm_ray import console as consoles
from lfm_ray.callbacks.tensorboard import layout
from lfm_ray.cli import run
from lfm_ray.errors import UserError
from lfm_ray.report.cells import latex, markdown
from lfm_ray.report.outcome import print_outcome
from lfm_ray.report.plots import plain_text

SOURCES = sorted(Path(lfm_ray.__file__).parent.rglob("*.py"))
HOSTILE = "[/v2] [red]x [link=y] \\[b]"


def test_no_console_reads_markup() -> None:
    assert consoles.console._markup is consoles.SILENT._markup is False
    for file in SOURCES:
        for call in re.findall(r"\bConsole\([^)]*", text := file.read_text(encoding="utf-8")):
            assert "markup=False" in call, f"{file}: {call}"
        assert not re.search(r"\[/?(bold|yellow|red|dim|green|cyan)\b[^\]\"']*\]\S", text.replace("[bold]", "")), file
        for column in re.findall(r"TextColumn\(\"[^\"]*\{[^)]*", text):
            assert "markup=False" in column, f"{file}: {column}"


def test_the_outcome_of_a_sweep_shows_brackets_as_they_are(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / f"a {HOSTILE.replace('/', '')}")
    sweep.study.fail(sweep.study.ask()[0], HOSTILE)
    written = io.StringIO()
    print_outcome(sweep.folder, Console(file=written, markup=False, width=200), str)
    assert HOSTILE in written.getvalue()


STEERING = "\x1b[31m\x1b]0;title\x07 \x9b2J \u202e \r \ud800 end"


def test_no_character_of_a_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    table = Table(STEERING, title=STEERING)
    table.add_row(STEERING)
    for terminal in (False, True):
        shown = consoles.PlainConsole(file=written, width=300, force_terminal=terminal)
        shown.print(table, STEERING, consoles.notice(STEERING, STEERING), Text(STEERING))
    text = re.sub(
        r"\x1b\[[0-9;]*m", "", written.getvalue().replace("\x1b[31m", "hostile")
    )  # rich's own styles are others
    assert not consoles.UNSHOWN.search(text) and "hostile" not in text and text.count(r"\x1b[31m") == 14
    written.getvalue().encode()

    def fail() -> None:
        raise UserError(f"{STEERING}\nsecond line")

    with pytest.raises(SystemExit):
        run(fail)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and line.endswith(r"end\nsecond line")


def test_names_do_not_break_tables_of_markdown_and_latex() -> None:
    cells = pd.DataFrame([[r"a|b & $x$ \foo{#1}", "50 % ± 1"]], columns=["sweep", "a_b~^<i>[x](y)"])
    lines = markdown(cells).splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines) and "<" not in "".join(lines)
    text = latex("title\n\\input{x}", cells)
    assert text.startswith(r"% title\n\input{x}") and len(text.splitlines()) == 8
    assert r"a|b \& \$x\$ \textbackslash{}foo\{\#1\} & 50 \% $\pm$ 1 \\" in text
    assert r"a\_b\textasciitilde{}\textasciicircum{}<i>[x](y)" in text


def test_letters_that_a_font_lacks_are_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with plain_text():
            figure = Figure()
            figure.suptitle("\u72d7 $\\frac{")
            figure.savefig(io.BytesIO(), format="png")


def test_overlays_of_tensorboard_find_the_tags_of_any_modality() -> None:
    for name in ("a+b", "sound (left)", "x^2", "$"):
        ((_, (pattern,)), *_) = layout([name])["modalities"].values()
        assert re.match(pattern, f"val/{name}/accuracy")


def test_tables_and_errors_show_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    Console(file=written, markup=consoles.console._markup, width=200).print(table, consoles.notice(HOSTILE))
    assert written.getvalue().count(HOSTILE) == 4

    def fail() -> None:
        raise UserError(HOSTILE)

    with pytest.raises(SystemExit):
        run(fail)
    assert f"error: {HOSTILE}" in capsys.readouterr().err
