"""Files that are whole but in the wrong place, of another run, another sweep or an earlier time, and checkpoints that
somebody else has made: they are named, and never taken for what they are not."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import without_workers
from commands import run
from made_sweep import make_sweep
from tiny_run import SMALL

import lfm_ray
from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.export import from_run, model_folder
from lfm_ray.report.confirmed_files import confirmed_runs
from lfm_ray.report.gradcam import Kept
from lfm_ray.report.loaded_run import LoadedRun
from lfm_ray.report.predictions import Predictions
from lfm_ray.report.sentences import warnings
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.runtime import checkpoint
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.settings import load
from lfm_ray.training.costs import read_costs
from lfm_ray.training.execution import Launch, Workers, run_in_process
from lfm_ray.training.run_folder import lines_of, read_alpha_updates, read_confusions, read_epochs
from lfm_ray.training.source import DataSource


@pytest.fixture(scope="module")
def made(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sweeps of two trials, `one` and `two`, and two runs, `a` and `b`."""
    folder = tmp_path_factory.mktemp("made")
    source = DataSource(shards, {})
    small = load(
        RunConfig, None, [*SMALL, "epochs=2", f"data.path={shards.path}", "checkpoint.hours_between_failures=0"]
    )
    for name in ("one", "two"):
        search = {"optimizer.learning_rate": {"loguniform": [0.001, 0.03]}}
        space = {"run": small.model_dump(mode="json"), "search": search, "trials": 2, "pruning": {"by": "none"}}
        sweep = Sweep.create(folder / name, Space.model_validate(space), ord(name[0]), shards.card.fingerprint)
        without_workers.run_sweep(sweep, source, Resources(Workers()))
        sweep.let_go()
    for name in ("a", "b"):
        flags = [f"seed={ord(name)}", "alpha.strategy=learned", "checkpoint.keep_every=1"]
        flags += ["checkpoint.best=val/fused/accuracy", "checkpoint.hours_between_failures=0"]
        config = load(RunConfig, None, [*SMALL, "epochs=2", f"data.path={shards.path}", *flags])
        run_in_process(Launch(config, source, folder / name), lambda row: None)
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def save(file: Path, state: Any) -> None:
    """Writes a checkpoint as `checkpoint.save` does, with a right checksum."""
    content = io.BytesIO()
    torch.save(state, content)
    file.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


def best_and_other(folder: Path) -> tuple[Path, Path]:
    """The folders of the best trial of a sweep and of its other one."""
    best = best_of(Sweep.open(folder).trials())
    assert best is not None
    return trial_folder(folder, best.number), trial_folder(folder, 1 - best.number)


READERS: dict[str, Callable[[Path, Path], object]] = {
    "export": lambda folder, out: from_run.export(folder, out),
    "predictions": lambda folder, out: Predictions.of(folder),
    "gradcam": lambda folder, out: Kept.of(folder),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", ["checkpoint.pt", "config.yaml", ""])
def test_the_model_of_another_trial_is_not_taken_for_the_best(work: Path, reader: str, what: str) -> None:
    best, other = best_and_other(work / "one")
    exchange(best / what, other / what)
    with pytest.raises(UserError, match=r"checkpoint\.pt: is not the model of this run: its optimizer\.learning_rate"):
        READERS[reader](work / "one", work / "out")
    assert not (work / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_an_earlier_state_of_a_run_that_has_ended_is_not_its_model(work: Path, reader: str) -> None:
    best, _ = best_and_other(work / "one")
    for run_, folder in ((best, work / "one"), (work / "a", work / "a")):
        shutil.copy(run_ / "checkpoint.previous.pt", run_ / "checkpoint.pt")
        with pytest.raises(
            UserError, match=r"is from epoch 1, and epochs\.jsonl says that the run has ended with epoch 2"
        ):
            READERS[reader](folder, work / "out")


def test_metrics_of_another_training_are_not_those_of_a_model(work: Path) -> None:
    state = checkpoint.load(work / "a/checkpoint.pt")
    state["history"][-1]["val/fused/accuracy"] += 0.01
    save(work / "a/checkpoint.pt", state)
    with pytest.raises(UserError, match=r"its metrics of epoch 2 are not those of epochs\.jsonl"):
        from_run.export(work / "a", work / "out")


def test_the_best_epoch_and_the_weights_of_another_run_or_epoch_are_named(work: Path) -> None:
    shutil.copy(work / "b/best.pt", work / "a/best.pt")
    with pytest.raises(UserError, match="is not the model of this run: its seed"):
        from_run.export(work / "a", work / "out", best=True)
    model = torch.nn.Linear(1, 1)
    (kept,) = Kept.of(work / "a")
    shutil.copy(work / "b/weights/epoch-0001.pt", work / "a/weights/epoch-0001.pt")
    with pytest.raises(UserError, match="is not the model of this run: its seed"):
        kept.load(1, model)  # type: ignore[arg-type]
    shutil.copy(work / "b/weights/epoch-0002.pt", work / "b/weights/epoch-0001.pt")
    (kept,) = Kept.of(work / "b")
    with pytest.raises(UserError, match="holds the model after epoch 2, not 1"):
        kept.load(1, model)  # type: ignore[arg-type]
    (work / "b/weights/epoch-best.pt").write_bytes(b"of mine")
    assert list(Kept.of(work / "b")[0].files) == [1, 2]


def test_files_of_another_run_are_told_by_its_settings(work: Path) -> None:
    for name in ("epochs.jsonl", "alpha.jsonl", "costs.json", "confusion.json"):
        assert '"run":' in (work / "a" / name).read_text().replace(" ", "")
        shutil.copy(work / "b" / name, work / "a" / name)
    assert read_costs(work / "a") is None and read_costs(work / "b") is not None
    assert read_alpha_updates(work / "a") == {} != read_alpha_updates(work / "b")
    with pytest.raises(UserError, match=r"epochs\.jsonl: is of another run than the config\.yaml beside it"):
        LoadedRun(work / "a")
    exchange(work / "a/config.yaml", work / "b/config.yaml")
    with pytest.raises(UserError, match=r"confusion\.json: is of another run"):
        read_confusions(work / "b", "val")


@pytest.mark.parametrize("name", ["sweep.yaml", "study.journal"])
def test_the_parts_of_two_sweeps_are_not_mixed_up(work: Path, name: str) -> None:
    shutil.copy(work / "two" / name, work / "one" / name)
    for words in (["report", "one"], ["export", "one", "--out", "out"], ["sweeps", "remove", "one", "--trial", "0"]):
        if words[0] == "sweeps":
            words += ["--storage", "."]
        done = run(work, *words)
        assert done.returncode == 2
        assert "study.journal: is of another sweep than the sweep.yaml beside it" in done.stderr
    with pytest.raises(UserError, match="is of another sweep"):
        _ = Sweep.open(work / "one").study
    assert "cannot be opened" in run(work, "sweeps", "--storage", ".").stdout


def refusal(attempt: Callable[[], object]) -> str:
    """The line with which an attempt is refused; empty if it succeeds."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return ""


PARTS = ("config", "card", "model", "optimizer", "random", "memory", "alpha", "epoch", "steps", "history", "averaged")


def test_a_checkpoint_of_somebody_else_costs_one_line(work: Path, shards: Shards) -> None:
    state = checkpoint.load(work / "a/checkpoint.pt")
    first = next(iter(state["model"]))
    odd: list[Any] = [[1], {}, {"config": state["config"]}]
    odd += [{key: value for key, value in state.items() if key != part} for part in PARTS]
    odd += [state | {part: value} for part in PARTS for value in ("x", {"a": 1}, [2])]
    odd += [state | {"model": state["model"] | {first: value}} for value in ("x", torch.zeros(3))]
    odd += [state | {"model": state["model"] | {first: state["model"][first].to_sparse()}}]
    odd += [state | {"model": state["model"] | {"more": torch.zeros(3)}}, state | {"epoch": -1}, state | {"epoch": 7}]
    odd += [state | {"optimizer": {}}, state | {"random": {"cpu": 1}}]
    config = load(RunConfig, work / "a/config.yaml")
    (work / "a/checkpoint.previous.pt").unlink()
    for number, content in enumerate(odd):
        save(work / "a/checkpoint.pt", content)
        attempts: list[Callable[[], object]] = [
            partial(from_run.export, work / "a", work / f"out{number}"),
            partial(Predictions.of, work / "a"),
            partial(run_in_process, Launch(config, DataSource(shards, {}), work / "a"), lambda row: None),
        ]
        for attempt in attempts:
            said = refusal(attempt)
            assert "\n" not in said
            assert not re.search("Error|NoneType|object|state_dict|size mismatch", said), said
    save(work / "a/checkpoint.pt", state)
    assert Predictions.of(work / "a").epoch == 2


CONFIRMED = {
    "emptied": lambda text: "",
    "garbage": lambda text: "\x00\x81" * 50,
    "cut": lambda text: text[: len(text) // 2],
    "a word": lambda text: text.replace("0.5", "much"),
    "another number": lambda text: text.replace("0.5", "0.75"),
    "no seed": lambda text: text.replace("seed", "speed"),
}


@pytest.mark.parametrize("how", CONFIRMED)
def test_a_table_of_confirm_that_was_altered_is_left_out_and_named(made: Path, tmp_path: Path, how: str) -> None:
    sweep = make_sweep(tmp_path / "s", trials=2)
    shutil.copytree(made / "a", tmp_path / "s/confirm/0000-seed1")
    rows = read_epochs(made / "a")
    reached = rows[-1]["test/fused/accuracy"] = 0.515625
    (tmp_path / "s/confirm/0000-seed1/epochs.jsonl").write_text("".join(lines_of(rows)))
    row = {"sweep": "s", "trial": 0, "strategy": "x", "selected_by": 0.5, "seed": 1, "test/fused/accuracy": reached}
    row |= {"test/audio/accuracy": 0.5, "test/accuracy_gap": 0.1}
    file = tmp_path / "s/confirm.csv"
    pd.DataFrame([row]).to_csv(file, index=False)
    assert confirmed_runs(sweep)[1] == []
    file.write_text(CONFIRMED[how](file.read_text()), encoding="latin-1")
    found, (said,) = confirmed_runs(sweep)
    assert found == [] and said.startswith(f"{file}: ") and said.endswith("lfm_ray.confirm writes it anew")
    assert any("it is left out" in line for line in warnings([SweepView(sweep, sweep.trials(), "s")]))


CARDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no shape": lambda card: card["dataset"]["modalities"]["audio"].update(shape=[]),
    "another kind": lambda card: card["dataset"]["modalities"]["audio"].update(kind="text"),
    "too wide": lambda card: card["run"]["model"].update(width=10**6),
    "no such modality": lambda card: card["run"]["data"].update(modalities=["nope"]),
    "preprocessing": lambda card: card["dataset"].update(preprocessing={"audio": {"sample_rate": -1}}),
    "a class twice": lambda card: card["dataset"].update(classes=["a", "a", "b"]),
    "fewer classes": lambda card: card["dataset"].update(classes=["a"]),
    "metrics": lambda card: card.update(metrics=None),
}
TEXTS = {"empty": "", "nested": "[" * 100_000, "long number": f'{{"format": {"1" * 5000}}}', "cut": '{"format": "lfm_'}


def test_an_exported_model_of_somebody_else_costs_one_line(work: Path) -> None:
    from_run.export(work / "a", work / "model")
    (work / "model/embedders/audio").mkdir(parents=True)
    (work / "model/embedders/audio/preprocessor_config.json").write_text("{}")
    assert "does not list this file" in refusal(lambda: model_folder.read(work / "model"))
    shutil.rmtree(work / "model/embedders")
    file = work / "model/config.json"
    content = file.read_text()
    for how, change in CARDS.items():
        card = json.loads(content)
        change(card)
        file.write_text(json.dumps(card | {"checksum": None}))
        said = refusal(lambda: lfm_ray.load(work / "model"))
        assert said, how
        assert "\n" not in said and "pydantic" not in said
    for text in TEXTS.values():
        file.write_text(text)
        assert "config.json: cannot be read: it is not valid JSON" in refusal(lambda: model_folder.read(work / "model"))
