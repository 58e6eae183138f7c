"""Every byte range of every file of a sweep, a run, shards and an exported model is altered: the numbers that are read
are those that were written, or one line says what is wrong.

pytest tests/test_alterations.py                   once in each kind of file
pytest tests/test_alterations.py -m slow           1,000 alterations
pytest tests/test_alterations.py -m long           7,500
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import whole_folders
from whole_folders import FACTS, facts_of

from lfm_ray.errors import UserError
from lfm_ray.report.loaded_run import LoadedRun
from lfm_ray.storage import LOCK
from lfm_ray.training.run_folder import PROFILE

# What a sweep, a run, shards and a model have; so that none of their files is passed over.
OF_A_RUN = {
    "alpha.jsonl", "best.pt", "checkpoint.previous.pt", "checkpoint.pt", "config.yaml", "confusion.json", "costs.json",
    "epoch-N.pt", "epochs.jsonl",
}  # fmt: skip
FILES = {
    "shards": {"contact_sheet.png", "dataset.json", "linear_baselines.json", "SPLIT-N.arrow"},
    "made": {"epochs.jsonl", "study.journal", "sweep.yaml"},
    "sweep": OF_A_RUN | {
        "best.yaml", "confirm-classes.csv", "confirm-comparisons.csv", "confirm-summary.csv", "confirm.csv",
        "confirm.csv.sha256", "confirm.md", "confirm.tex", "report.html", "simplest.yaml", "strategies.png",
        "study.journal", "sweep.yaml", "test_reads.log", "trials.csv", "warm_start.jsonl",
    },
    "run": OF_A_RUN | {"fitted.yaml", "profile.json"},
    "model": {"config.json", "model.safetensors"},
}  # fmt: skip
FIGURES = "report"  # the folder of a report's figures, which are only looked at
PICTURES = (".png", ".svg", ".html", ".tex", ".md", ".log")  # of which nothing is read


def flipped(content: bytes, first: int, last: int) -> bytes:
    return content[:first] + bytes(byte ^ 1 for byte in content[first:last]) + content[last:]


def zeroed(content: bytes, first: int, last: int) -> bytes:
    return content[:first] + bytes(last - first) + content[last:]


def cut_out(content: bytes, first: int, last: int) -> bytes:
    return content[:first] + content[last:]


def cut_off(content: bytes, first: int, last: int) -> bytes:
    return content[:first]


def doubled(content: bytes, first: int, last: int) -> bytes:
    return content[:last] + content[first:]


def digits_changed(content: bytes, first: int, last: int) -> bytes:
    """Digits become the next ones, which JSON and YAML read as well as the right ones."""
    changed = bytes(48 + (byte - 47) % 10 if 48 <= byte <= 57 else byte for byte in content[first:last])
    return content[:first] + changed + content[last:]


WAYS = (flipped, zeroed, cut_out, cut_off, doubled, digits_changed)


def name_of(file: Path) -> str:
    """The name that files of the same kind share."""
    return re.sub(r"\d+(?=\.)", "N", re.sub(r"^(train|val|test)-", "SPLIT-", file.name))


def files_in(folder: Path) -> list[Path]:
    """All files that are read, and one of each kind that is not."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != LOCK)
    files = [file for file in files if FIGURES not in file.relative_to(folder).parts]
    once = {name_of(file): file for file in files}
    return [file for file in files if file.suffix not in PICTURES or once[name_of(file)] == file]


def alterations(folder: Path, count: int) -> Iterator[tuple[Path, bytes, str]]:
    """At least `count` alterations of the files in a folder: of each its ranges in turn, in one way after another.

    count: 1 for one of each kind of file.
    """
    draw = random.Random(0)
    files = files_in(folder)
    if count == 1:
        files = list({name_of(file): file for file in files}.values())
    ranges = -(-count // len(files))
    for file in files:
        content = file.read_bytes()
        for number in range(ranges):
            first, end = number * len(content) // ranges, (number + 1) * len(content) // ranges
            first = draw.randint(first, max(first, end - 1)) if count == 1 else first
            last = min(len(content), draw.choice((first + 1, first + 2, first + 8, end, end)))
            way = draw.choice(WAYS)
            yield file, way(content, first, last), f"{file.relative_to(folder)}: {way.__name__} {first} to {last}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_folders.make(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", list(FACTS))
def test_every_file_of_a_folder_is_altered(whole: Path, kind: str) -> None:
    assert {name_of(file) for file in files_in(whole / kind)} == FILES[kind]


@pytest.mark.parametrize("kind", list(FACTS))
@pytest.mark.parametrize(
    "count", [1, pytest.param(200, marks=pytest.mark.slow), pytest.param(1500, marks=pytest.mark.long)]
)
def test_an_altered_file_gives_one_line_or_the_same_numbers(whole: Path, kind: str, count: int) -> None:
    folder = whole / kind
    true, none = facts_of(kind, folder)
    assert not none
    kept = folder.with_name(f"{kind}-kept")
    shutil.copytree(folder, kept)
    for file, content, how in alterations(kept, count):
        altered = folder / file.relative_to(kept)
        altered.write_bytes(content)
        found, said = facts_of(kind, folder)
        assert not [line for line in said if "\n" in line or not line], how
        # A journal without the end of its last line is as a kill leaves it: that trial has not ended yet.
        told = ("named", "strategy ") if altered.name == "study.journal" else ("named",)
        assert [name for name in found if not name.startswith(told) and found[name] != true.get(name)] == [], how
        if not said and found.keys() != true.keys() and kind in ("made", "sweep"):
            # A kill also leaves a journal that is cut; of alpha and the costs only what is whole is shown; and an
            # empty file of settings says nothing.
            known = found["named"] or altered.name == "study.journal"
            assert known or altered.name in ("alpha.jsonl", "costs.json", "best.yaml", "simplest.yaml"), how
        shutil.copyfile(file, altered)
    shutil.rmtree(kept)
    assert facts_of(kind, folder) == (true, [])


def test_a_profile_whose_checksum_lost_its_name_is_not_taken_for_one_of_an_earlier_version(whole: Path) -> None:
    file = whole / "run" / PROFILE
    true = file.read_text()
    file.write_text(true.replace('"checksum"', '"checkchecksum"'))
    with pytest.raises(UserError, match=r"profile\.json: is damaged"):
        _ = LoadedRun(file.parent).profile
    file.write_text(true)
    assert LoadedRun(file.parent).profile is not None
