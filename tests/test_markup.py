"""What users write is shown as it is: no part of it is taken for markup."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from made_sweep import make_sweep
from rich.console import Console
from rich.table import Table

import lfm_ray
from lfm_ray import console as consoles
from lfm_ray.cli import run
from lfm_ray.errors import UserError
from lfm_ray.report.outcome import print_outcome

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
