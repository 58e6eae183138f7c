"""The page docs/extending.md is true: its package, outside of this repository, is used, searched and refused."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import media_files
import pandas as pd
import pytest
import tiny_run
import torch
import torch.nn.functional as F
import yaml
from commands import SMALL_FLAGS, Completed, run
from made_sweep import make_sweep

import lfm_ray
from lfm_ray import trust
from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.cards import READERS
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.export import model_folder
from lfm_ray.methods import METHODS
from lfm_ray.models.encoders import ENCODERS
from lfm_ray.models.evaluation import METRICS
from lfm_ray.models.fusion import FUSION_HEADS
from lfm_ray.optimization.alpha import AlphaController
from lfm_ray.optimization.schedules import SCHEDULES
from lfm_ray.registry import Registry
from lfm_ray.runtime import checkpoint
from lfm_ray.search.spaces.space import SAMPLERS
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.samplers import sampler_for
from lfm_ray.search.sweep import Sweep, strategy_name
from lfm_ray.settings import flatten, load
from lfm_ray.training.run_folder import lines_of
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import Trainer

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
TESTS = [(file, name) for file in FILES for name in re.findall(r"^def (test_\w+)", FILES[file], re.MULTILINE)]
SPACES = [file for file in FILES if file.startswith("spaces/")]

TILT, SAWTOOTH, BILINEAR = "my_lab.methods:Tilt", "my_lab.schedules:Sawtooth", "my_lab.heads:Bilinear"
PERCEPTRON, WORST, PATIENT = "my_lab.encoders:PERCEPTRON", "my_lab.metrics:worst_class", "my_lab.samplers:patient"
PARTS: dict[str, Registry[Any]] = {
    TILT: METHODS, SAWTOOTH: SCHEDULES, PERCEPTRON: ENCODERS, BILINEAR: FUSION_HEADS, "my_lab.readers:spoken": READERS,
    WORST: METRICS, PATIENT: SAMPLERS,
}  # fmt: skip

# Where a part with settings of its own is named, its setting, two values of it, and one that it cannot have.
OWN: dict[str, tuple[str, str, str, tuple[Any, Any], Any]] = {
    "method": ("method.name", TILT, "method.weight", (0.5, 3.0), -1.0),
    "schedule": ("alpha.strategy", SAWTOOTH, "alpha.teeth", (1, 2), 0),
    "encoder": ("model.encoders.audio.name", PERCEPTRON, "model.encoders.audio.depth", (1, 2), 9),
    "head": ("model.fusion", BILINEAR, "model.fusion_settings.rank", (4, 5), 0),
}


def forget() -> None:
    """Nothing of the package is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
    for registry in PARTS.values():
        for name in [name for name in registry._found if name.startswith("my_lab")]:
            del registry._found[name]


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the page's files, from which Python imports; `imported` is there once it did."""
    folder = tmp_path_factory.mktemp("lab")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    marker = "from pathlib import Path\n(Path(__file__).parents[1] / 'imported').touch()\n"
    (folder / "my_lab" / "__init__.py").write_text(marker, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "_asked", set())
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # for Ray's workers
        yield folder
        forget()


@pytest.fixture
def ray_with_lab(ray_session: Callable[[], None]) -> None:
    """A Ray session whose workers have this process's PYTHONPATH."""
    import ray

    ray.shutdown()
    ray_session()


@pytest.fixture
def stranger(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has neither asked for anything nor imported it; the file that appears if it does."""
    forget()
    monkeypatch.setattr(trust, "_asked", set())
    imported = lab / "imported"
    imported.unlink(missing_ok=True)
    return imported


def one_line(done: Completed) -> str:
    """The error with which a command ended."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def nested(*pairs: tuple[str, Any]) -> str:
    """Dotted settings as YAML with a line for each key."""
    values: dict[str, Any] = {}
    for dotted, value in pairs:
        *sections, key = dotted.split(".")
        section = values
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return yaml.safe_dump(values, sort_keys=False)


def own(kind: str, which: int) -> list[str]:
    """The part, with the first or the second value of its setting, as `--set` has them."""
    tag, name, setting, values, _ = OWN[kind]
    return [f"{tag}={name}", f"{setting}={values[which]}"]


def test_the_page_has_a_part_of_every_kind_and_its_test() -> None:
    assert {name.partition(":")[0] for name in PARTS} == {
        file.removesuffix(".py").replace("/", ".") for file in FILES if re.fullmatch(r"my_lab/\w+\.py", file)
    }
    assert len([file for file in FILES if file.startswith("tests/")]) == len(PARTS) == 7
    assert max(len(FILES[name.partition(":")[0].replace(".", "/") + ".py"].splitlines()) for name in PARTS) <= 40


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_the_tests_of_the_page_pass(lab: Path, tmp_path: Path, file: str, name: str) -> None:
    torch.manual_seed(0)
    test = runpy.run_path(str(lab / file))[name]
    test(*[tmp_path for _ in inspect.signature(test).parameters])


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_found_by_its_name_alone(name: str) -> None:
    trust.ask(name)
    assert PARTS[name][name].__module__.partition(".")[0] in ("my_lab", "lfm_ray")
    assert name not in list(PARTS[name])


@pytest.mark.parametrize("file", SPACES)
def test_a_space_of_the_page_draws_the_settings_of_its_part_with_it_alone(lab: Path, file: str) -> None:
    space = load_space(lab / file)
    for path, distribution in space.search.items():
        for tag, name in distribution.when.items():
            for value in distribution.bounds:
                config = space.config({tag: name, path: value})
                assert flatten(config.model_dump())[path] == value
                assert path in space.searched_in(config)
            builtin = next(other for other in space.search[tag].choice or [] if other != name)
            without = space.config({tag: builtin})
            assert path not in space.searched_in(without)
            assert path not in flatten(without.model_dump())


@pytest.mark.parametrize("kind", OWN)
def test_a_setting_of_its_own_has_an_effect(shards: Shards, kind: str) -> None:
    one, same, other = (tiny_run.train(shards, *own(kind, which)) for which in (0, 0, 1))
    assert tiny_run.same(one, same)
    assert not tiny_run.same_weights(one, other)


@pytest.mark.parametrize("kind", OWN)
def test_a_wrong_setting_is_one_line_with_its_place(tmp_path: Path, kind: str) -> None:
    tag, name, setting, _, wrong = OWN[kind]
    text = nested(("epochs", 2), (tag, name), (setting, wrong))
    (tmp_path / "run.yaml").write_text(text)
    line = text.splitlines().index(f"{'  ' * setting.count('.')}{setting.rpartition('.')[2]}: {wrong}") + 1
    said = one_line(run(tmp_path, "train", "run.yaml"))
    assert said.startswith(f"run.yaml, line {line}: {setting}: input should be ")
    assert said.endswith(f"(it is {wrong})")
    misspelled = f"{setting}s"
    (tmp_path / "run.yaml").write_text(nested((tag, name), (misspelled, wrong)))
    said = one_line(run(tmp_path, "train", "run.yaml"))
    assert said.startswith("run.yaml, line ")
    near = "" if kind == "head" else f"; did you mean {setting.rpartition('.')[2]}?"
    assert said.endswith(f"{misspelled}: unknown setting{near}")
    assert one_line(run(tmp_path, "tune", "cubic", "--set", f"{tag}={name}", "--set", f"{setting}={wrong}")).startswith(
        f"--set {setting}: input should be "
    )


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("what", ["module", "name", "package", "kind"])
def test_a_name_that_is_wrong_is_one_line(lab: Path, tmp_path: Path, name: str, what: str) -> None:
    module, _, attribute = name.partition(":")
    wrong, reason = {
        "module": (f"{module}x:{attribute}", f"cannot be imported: No module named '{module}x'"),
        "name": (f"{module}:{attribute}x", f"cannot be imported: module '{module}' has no attribute '{attribute}x'"),
        "package": (f"my_labs.x:{attribute}", "cannot be imported: No module named 'my_labs'"),
        "kind": ("my_lab.readers:pd", ": must be "),
    }[what]
    if name == "my_lab.readers:spoken":
        (tmp_path / "card.yaml").write_text((lab / "my_lab/spoken.yaml").read_text().replace(name, wrong))
        done = run(tmp_path, "prepare", "--dataset", "card.yaml", "--root", ".", "--out", "shards")
        place = "--dataset card.yaml: reader: "
    elif name in (WORST, PATIENT):
        (tmp_path / "space.yaml").write_text(f"trials: 2\n{'sampler' if name == PATIENT else 'objective'}: {wrong}\n")
        done = run(tmp_path, "tune", "space.yaml")
        place = "space.yaml"
    else:
        tag = next(one[0] for one in OWN.values() if one[1] == name)
        (tmp_path / "run.yaml").write_text(nested(("epochs", 2), (tag, wrong)))
        done = run(tmp_path, "train", "run.yaml")
        place = f"run.yaml, line {2 + tag.count('.')}: "
    said = one_line(done)
    assert said.startswith(place)
    assert wrong in said
    assert reason in said


def test_the_head_that_the_method_needs_is_its_first() -> None:
    assert load(RunConfig, None, [f"method={TILT}"]).model.fusion == "concat"
    with pytest.raises(UserError, match=r"needs model\.fusion concat or sum or my_lab\.heads:Bilinear, not gated"):
        load(RunConfig, None, [f"method={TILT}", "model.fusion=gated"])


def test_a_weight_of_zero_is_joint_training_bit_for_bit(shards: Shards) -> None:
    ours = tiny_run.train(shards, f"method={TILT}", "method.weight=0")
    assert tiny_run.same_weights(ours, tiny_run.train(shards, "model.fusion=concat"))


def test_a_modality_that_knows_everything_is_left_alone_in_a_run(shards: Shards) -> None:
    trainer, batches = tiny_run.prepared(shards, f"method={TILT}", "method.weight=1", "model.dropout=0")
    trainer.memory |= {"audio": 0.0, "image": 2.0}
    outputs = trainer.model(batches[0].inputs)
    labels = batches[0].labels
    joint, image = (F.cross_entropy(logits, labels) for logits in (outputs.fused, outputs.unimodal["image"]))
    assert trainer.losses(batches[0]).classification.item() == pytest.approx((joint + 2 * image).item())


def test_the_method_learns_and_reports_what_it_remembers(shards: Shards) -> None:
    ours = tiny_run.train(shards, f"method={TILT}")
    assert ours.history[-1]["tilt/audio"] == 1 - ours.history[-1]["val/audio/accuracy"]
    assert not tiny_run.same_weights(ours, tiny_run.train(shards, "model.fusion=concat"))


def test_the_schedule_is_followed(shards: Shards) -> None:
    rows = tiny_run.train(shards, *own("schedule", 1)).history
    assert [row["alpha"] for row in rows] == [1, 0.5, 1, 0.5]


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_schedule_that_leaves_its_bounds_ends_the_run(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    schedule = load(RunConfig, None, own("schedule", 0)).alpha
    monkeypatch.setattr(type(schedule), "alpha", lambda *_: value)
    with pytest.raises(TrainingFailed, match=rf"alpha\(2, 4\) of alpha.strategy {SAWTOOTH} is {value:g}; it must lie"):
        AlphaController(schedule, 4).begin_epoch(2)


def test_the_metric_is_in_the_rows(shards: Shards) -> None:
    rows = tiny_run.train(shards, f"metrics=[{WORST}]").history
    assert all(0 <= row[f"val/{WORST}"] <= row["val/fused/accuracy"] for row in rows)


def test_the_sampler_draws_the_trials(lab: Path) -> None:
    space = load_space(lab / "spaces/patient.yaml")
    sampler: Any = sampler_for(space, seed=0, number=3)
    assert sampler._n_startup_trials == 4
    assert load_space(lab / "spaces/tilt.yaml", sampler=PATIENT).sampler == PATIENT


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([f"method={TILT}"], "Tilt"),
        ([f"method={TILT}", f"alpha.strategy={SAWTOOTH}"], "Tilt + Sawtooth"),
        ([f"alpha.strategy={SAWTOOTH}"], "Sawtooth"),
    ],
)
def test_tables_show_a_short_name(overrides: list[str], name: str) -> None:
    assert strategy_name(load(RunConfig, None, overrides)) == name


def test_a_name_that_a_built_in_part_has_is_shown_in_full(lab: Path) -> None:
    (lab / "my_lab/namesake.py").write_text("from my_lab.schedules import Sawtooth as heuristic\n")
    assert strategy_name(load(RunConfig, None, ["alpha.strategy=my_lab.namesake:heuristic"])) == (
        "my_lab.namesake:heuristic"
    )


@pytest.mark.usefixtures("ray_local")
def test_the_card_and_its_reader_make_shards(lab: Path, tmp_path: Path) -> None:
    for split, rows in {"train": 4, "val": 2}.items():
        for label in ("one", "seven"):
            (folder := tmp_path / "raw" / split / label).mkdir(parents=True)
            for row in range(rows):
                media_files.wav(folder / f"{row:03d}.wav", seed=row)
                media_files.png(folder / f"{row:03d}.png", seed=row)
    card = lab / "my_lab/spoken.yaml"
    done = run(tmp_path, "prepare", "--dataset", card, "--root", "raw", "--out", "shards/spoken")
    assert done.returncode == 0, done.stderr
    assert "tune --data shards/spoken" in done.stdout
    made = Shards(tmp_path / "shards/spoken").card
    assert made.classes == ["one", "seven"]
    assert {name: one.kind for name, one in made.modalities.items()} == {"audio": "audio", "image": "image"}
    assert (made.rows("train"), made.rows("val")) == (8, 4)
    assert made.preprocessing["audio"]["hop"] == 64


EVERYTHING = f"""
run: {{method: {TILT}, model: {{fusion: {BILINEAR}}}}}
search:
  alpha.strategy: {{choice: [{SAWTOOTH}]}}
  alpha.teeth: {{integer: [1, 4], when: {{alpha.strategy: {SAWTOOTH}}}}}
  method.weight: {{loguniform: [0.03, 3]}}
  model.encoders.audio.name: {{choice: [{PERCEPTRON}]}}
  model.encoders.audio.depth: {{integer: [1, 3], when: {{model.encoders.audio.name: {PERCEPTRON}}}}}
  model.fusion_settings.rank: {{integer: [2, 5]}}
objective: {WORST}
sampler: {PATIENT}
"""


@pytest.mark.parametrize("processes", ["without_workers", pytest.param("ray_with_lab", marks=pytest.mark.slow)])
def test_all_kinds_at_once_from_the_search_to_the_test_split(
    processes: str, shards: Shards, tmp_path: Path, stranger: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(processes)
    (tmp_path / "everything.yaml").write_text(EVERYTHING)
    flags = ["--trials", "2", "--epochs", "2", "--concurrency", "1", *SMALL_FLAGS]
    done = run(tmp_path, "tune", "everything.yaml", "--data", shards.path, "--name", "all", *flags)
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert "best found: Tilt + Sawtooth" in done.stdout
    assert "worst class" in done.stdout
    sweep = Sweep.open(tmp_path / "sweeps/all")
    for trial in sweep.trials():
        assert (trial.state, len(trial.rows)) == ("finished", 2)
        assert {f"val/{WORST}", "tilt/audio"} <= trial.rows[-1].keys()
        teeth = flatten(trial.config.model_dump())["alpha.teeth"]
        assert [row["alpha"] for row in trial.rows] == [1, 1 - teeth / 2 % 1]

    forget()
    trust._asked.clear()
    stranger.unlink()
    for words in (["confirm", "sweeps/all"], ["tune", "--resume", "all"]):
        assert f"{PATIENT} is code of another package" in one_line(run(tmp_path, *words))
    assert not stranger.exists()
    done = run(tmp_path, "tune", "--resume", "all", "--trust")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "confirm", "sweeps/all", "--seeds", "1", "--trust")
    assert done.returncode == 0, done.stderr
    assert f"test/{WORST}" in pd.read_csv(tmp_path / "sweeps/all/confirm.csv").columns


@pytest.fixture(scope="module")
def stored(lab: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep (sweeps/theirs), a run (runs/theirs) and an exported model that name the package."""
    folder = tmp_path_factory.mktemp("stored")
    trust.ask([TILT, BILINEAR])
    parts = {"method": TILT, "model": {"fusion": BILINEAR}}
    make_sweep(folder / "sweeps/theirs", trials=2, epochs=2, ends=("finished",), **parts)
    trained = tiny_run.train(shards, f"method={TILT}", f"model.fusion={BILINEAR}", "epochs=2")
    model_folder.write(StoredModel.of(trained.state_dict(), Path("checkpoint.pt")), folder / "model")
    theirs = folder / "runs/theirs"
    shutil.copytree(folder / "sweeps/theirs/trials/0001", theirs)
    (theirs / "config.yaml").write_text(trained.config.to_yaml())
    (theirs / "epochs.jsonl").write_text("".join(lines_of(trained.history)))
    checkpoint.save(theirs / "checkpoint.pt", trained.state_dict())
    return folder


COMMANDS = {
    "report": ["report", "sweeps/theirs"],
    "confirm": ["confirm", "sweeps/theirs"],
    "export a run": ["export", "runs/theirs", "--out", "out"],
    "export a sweep": ["export", "sweeps/theirs", "--out", "out"],
    "tune --resume": ["tune", "--resume", "theirs"],
    "tune --warm-start": ["tune", "cubic", "--warm-start", "sweeps/theirs", "--data", "SHARDS", "--name", "new"],
    "tune --start-from": ["tune", "cubic", "--start-from", "runs/theirs", "--data", "SHARDS", "--name", "new"],
}


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_strangers_folder(shards: Shards, stored: Path, stranger: Path, command: str) -> None:
    words = [str(shards.path) if word == "SHARDS" else word for word in COMMANDS[command]]
    said = one_line(run(stored, *words))
    assert re.search(rf"({TILT}|{BILINEAR}) is code of another package, named by a stored file; --trust", said)
    assert not stranger.exists()


@pytest.mark.parametrize("command", ["report", "export a run"])
def test_a_command_runs_it_if_it_is_trusted(stored: Path, stranger: Path, command: str) -> None:
    done = run(stored, *COMMANDS[command], "--trust")
    assert done.returncode == 0, done.stderr
    assert stranger.exists()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "load": lambda folder, **given: lfm_ray.load(folder / "model", **given),
    "load_sweep": lambda folder, **given: lfm_ray.load_sweep(folder / "sweeps/theirs", **given).best,
    "load_run": lambda folder, **given: lfm_ray.load_run(folder / "runs/theirs", **given),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_refuses_it_unless_it_is_trusted(stored: Path, stranger: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"is code of another package, named by a stored file; .*trust=True"):
        FUNCTIONS[name](stored)
    assert not stranger.exists()
    FUNCTIONS[name](stored, trust=True)
    assert stranger.exists()


def test_a_trained_model_predicts_once_it_is_trusted(stored: Path, stranger: Path) -> None:
    model = lfm_ray.load(stored / "model", trust=True)
    assert type(model.model.head).__module__ == "my_lab.heads"


def test_a_checkpoint_of_a_stranger_is_not_made_a_run_of(shards: Shards, stored: Path, stranger: Path) -> None:
    state = checkpoint.load(stored / "runs/theirs/checkpoint.pt")
    with pytest.raises(ValueError, match="is code of another package"):
        Trainer(RunConfig.model_validate(state["config"]), shards.card)
    assert not stranger.exists()
