"""The scripts in benchmarks/ can be loaded, say how long they take, and show what they measure at once."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(
    file.stem
    for file in FOLDER.glob("*.py")
    if "__main__" in file.read_text(encoding="utf-8") and file.stem != "rows"  # it only shows what others measured
)
TIME = r"(second|minute|hour)s?\b"


def loaded(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    patch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, module.__name__, module)  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_loaded_and_says_how_long_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, text = loaded(name, monkeypatch), (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    (said,) = re.findall(r'\bbegin\(f?"([^"]*)"\)', text)
    assert re.search(TIME, said)
    assert module.__doc__


def test_rows_are_printed_as_they_come(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    progress = loaded("progress", monkeypatch)
    progress.begin("a minute")
    progress.say("the data are made")
    assert re.fullmatch(r"takes a minute; .*\n +0 s  the data are made\n", capsys.readouterr().out)
    table = loaded("rows", monkeypatch).RunningTable({"what": 8, "value": 7, "x": 3}, "steps")
    capsys.readouterr()
    table.add("a step", "0.3 s", "2")
    assert capsys.readouterr().out == "a step     0.3 s   2\n"


@pytest.mark.parametrize(("count", "below"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (100, 39)])
def test_the_interval_of_a_median_is_that_of_the_tables_of_the_sign_test(
    count: int, below: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = loaded("intervals", monkeypatch).interval_of_median([float(value) for value in range(count)])
    assert (low, high) == (below, count - 1 - below)
    if below:
        assert 2 * binom.cdf(below, count, 0.5) <= 0.05 < 2 * binom.cdf(below + 1, count, 0.5)
