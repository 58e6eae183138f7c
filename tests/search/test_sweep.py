"""A sweep's folder belongs to one process at a time, and its journal says how each trial ended."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_sweep import make_sweep

from lfm_ray.errors import UserError
from lfm_ray.search.ray_tune import adapters
from lfm_ray.search.ray_tune.adapters import StudySearcher
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.run_folder import EPOCHS, lines_of

SPACE = Space()
BUSY = "another process is running this sweep"


def test_whoever_makes_or_runs_a_sweep_keeps_others_from_it_and_anyone_may_read_it(tmp_path: Path) -> None:
    made = Sweep.create(tmp_path / "one", SPACE, 0, "of the data")
    with pytest.raises(UserError, match=f"one: {BUSY}"):
        Sweep.open(tmp_path / "one").hold()
    assert Sweep.open(tmp_path / "one").trials() == []
    del made

    first, second = Sweep.open(tmp_path / "one"), Sweep.open(tmp_path / "one")
    first.hold()
    with pytest.raises(UserError, match=f"one: {BUSY}"):
        second.hold()
    del first
    second.hold()


def test_of_two_that_make_the_same_sweep_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / ".lock").touch()  # of one that was killed before it had written anything
    made = Sweep.create(tmp_path / "two", SPACE, 0, "of the data")
    written = (tmp_path / "two" / "sweep.yaml").read_bytes()
    monkeypatch.setattr(Sweep, "check_free", lambda folder: None)  # both have looked at the same time
    with pytest.raises(UserError, match=f"two: {BUSY}"):
        Sweep.create(tmp_path / "two", SPACE, 1, "of the data")
    assert (tmp_path / "two" / "sweep.yaml").read_bytes() == written
    del made


def test_a_sweep_needs_no_locks_of_its_file_system_but_other_errors_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([errno.ENOSYS, errno.EIO])

    def flock(file: object, operation: int) -> None:
        raise OSError(next(failures), "from the file system")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert Sweep.create(tmp_path / "three", SPACE, 0, "of the data").trials() == []
    with pytest.raises(OSError, match="from the file system"):
        Sweep.open(tmp_path / "three").hold()


def test_a_trial_that_had_all_its_epochs_when_the_time_was_up_has_finished(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 3, ends=("finished", "running", "running"))
    whole, cut = sweep.trials()[1:]
    rows = sweep.trials()[0].rows
    (trial_folder(sweep.folder, whole.number) / EPOCHS).write_text("".join(lines_of(rows)), encoding="utf-8")
    sweep.settle()
    states = [trial.state for trial in Sweep.open(sweep.folder).trials()]
    assert states == ["finished", "finished", "running"]
    assert sweep.trials()[1].reached == pytest.approx(rows[-1]["val/fused/accuracy"])
    assert not cut.ended


@pytest.mark.parametrize("alive", [True, False])
def test_a_trial_that_ended_with_ray_itself_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    sweep = make_sweep(tmp_path / "sweep", trials=2, planned=4)
    searcher = StudySearcher(sweep)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": alive}])
    number = searcher.suggest("one")["number"]
    searcher.on_trial_complete("one", error=True)
    assert sweep.study.ended(number) is alive
    assert (searcher.suggest("two") == StudySearcher.FINISHED) is not alive


def test_ranges_are_looked_at_when_a_trial_has_ended_and_not_at_every_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(tmp_path / "sweep", trials=2, planned=5)
    looked: list[int] = []

    def counted(space: Space, best_first: Sequence[Mapping[str, Any]]) -> Space:
        looked.append(len(best_first))
        return space

    monkeypatch.setattr(adapters, "widened", counted)
    searcher = StudySearcher(sweep)
    number = searcher.suggest("one")["number"]
    searcher.suggest("two")
    assert looked == [2]  # what an earlier process may have left undone
    row = sweep.trials()[0].rows[-1]
    searcher.on_trial_complete("one", {**row, "epoch": sweep.study.epochs(number)})
    searcher.suggest("three")
    assert looked == [2, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, r"line \d+: is damaged; put a copy"),
        ('{"a": ' + "9" * 5000 + "}", r"line \d+: is damaged; put a copy"),
        ('{"op_code": 99, "worker_id": "x"}', "is not the journal of a search: its records do not fit together; put a"),
        ("", "is a folder, not the journal of a search; put a copy of it back"),
    ],
)
def test_a_journal_that_is_none_is_told_in_words(tmp_path: Path, line: str, said: str) -> None:
    journal = make_sweep(tmp_path / "sweep", trials=2, epochs=1).folder / "study.journal"
    records = [json.loads(text) for text in journal.read_text().splitlines()]
    for record in records:
        record.pop("crc32", None)
    journal.unlink()
    if line:
        journal.write_text("".join(f"{text}\n" for text in [*map(json.dumps, records), line]))
    else:
        journal.mkdir()
    with pytest.raises(UserError, match=rf"study\.journal.*{said}"):
        Sweep.open(journal.parent).trials()
