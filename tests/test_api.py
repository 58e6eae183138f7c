"""The functions of `import lfm_ray`, in one process and one Ray session, as a notebook has them.

Trials and runs take place in this process; in the slow tier, in workers as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import media_files
import pandas as pd
import pytest
import ray
import without_workers
import yaml
from synthetic import write_dataset

import lfm_ray
from lfm_ray.errors import UserError
from lfm_ray.report.loaded_run import LoadedRun
from lfm_ray.report.loaded_sweep import LoadedSweep
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep

SMALL = {"model": {"width": 4, "embedding_size": 8}, "data.batch_size": 16}
SPACE = {
    "question": "Which alpha?",
    "search": {"alpha.value": {"uniform": [0, 1]}},
    "points": {"joint": {"alpha.value": 0.0}},
}


@pytest.fixture(scope="module", params=["without_workers", pytest.param("workers", marks=pytest.mark.slow)])
def work(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder to work in, with shards, and a Ray session that the user has begun."""
    folder = tmp_path_factory.mktemp("work")
    write_dataset(folder / "shards" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without_workers":
            without_workers.use(patch)
        patch.chdir(folder)
        if not ray.is_initialized():
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield folder
        assert ray.is_initialized()


@pytest.fixture(scope="module")
def sweep(work: Path) -> LoadedSweep:
    return lfm_ray.tune(SPACE, data="shards/tiny", trials=3, epochs=2, name="one", settings=SMALL, progress=False)


def test_a_sweep_is_returned_with_its_trials_and_its_best_settings(sweep: LoadedSweep) -> None:
    assert sweep.folder == Path("sweeps/one")
    assert list(sweep.trials["number"]) == [0, 1, 2]
    assert sweep.trials["model.width"].eq(4).all()
    assert sweep.best.epochs == 2
    assert {"report.html", "best.yaml", "trials.csv"} <= {file.name for file in sweep.folder.iterdir()}
    file = Sweep.open(sweep.folder).file
    assert file.command.startswith("lfm_ray.tune({'question': 'Which alpha?'")
    assert file.command.endswith("}, data='shards/tiny', trials=3, epochs=2, name='one', settings="
        "{'model': {'width': 4, 'embedding_size': 8}, 'data.batch_size': 16})")  # fmt: skip
    assert file.space.question == "Which alpha?"


def test_it_can_go_on_in_the_same_process_and_is_shown_when_asked(
    sweep: LoadedSweep, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    more = lfm_ray.tune(resume="one", trials=4)
    assert list(more.trials["number"]) == [0, 1, 2, 3]
    shown = capsys.readouterr().out
    assert "sweeps/one" in shown
    assert "of at most 2 epochs" in shown
    if request.node.callspec.params["work"] == "workers":
        assert "trial   3" in shown


def test_a_sweep_that_failed_can_go_on_while_its_error_is_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch, without_workers: None
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lfm_ray.workflows.sweeping.run_sweep", interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            lfm_ray.tune(SPACE, data="shards/tiny", trials=1, epochs=1, name="stopped", settings=SMALL, progress=False)
    assert len(lfm_ray.tune(resume="stopped", progress=False).trials) == 1
    assert kept.traceback


def test_the_best_settings_are_trained_silently_and_exported(
    sweep: LoadedSweep, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = lfm_ray.train(sweep.best, settings={"alpha.value": 0.25}, epochs=3, name="again", progress=False)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert isinstance(run, LoadedRun)
    assert run.folder == work / "runs" / "again"
    assert list(run.epochs["epoch"]) == [1, 2, 3]
    assert run.metrics == run.epochs.iloc[-1].to_dict()
    assert (run.config.alpha.value, run.config.epochs, run.config.model.width) == (0.25, 3, 4)
    assert (run.fitted, run.notices) == (None, [])
    assert "epoch 3 of 3" in repr(run)
    again = lfm_ray.load_run("runs/again")
    pd.testing.assert_frame_equal(again.epochs, run.epochs)
    for number, source in enumerate((run, "runs/again", sweep)):
        model = lfm_ray.export(source, f"exported/{number}")
        assert model.classes == ["0", "1", "2"]
        assert set(model.modalities) == {"audio", "image"}
    trial = lfm_ray.load_run(sweep.folder / "trials/0001")
    assert trial.metrics["val/fused/accuracy"] == sweep.trials["val/fused/accuracy"][1]


def test_a_learned_alpha_is_fitted(work: Path, without_workers: None) -> None:
    settings = {**SMALL, "alpha": {"strategy": "learned", "inner_iters": 1}}
    run = lfm_ray.train({"epochs": 4}, data="shards/tiny", settings=settings, name="learned", fit_degree=2,
        progress=False)  # fmt: skip
    assert run.fitted is not None
    assert len(run.fitted.alpha.coefficients) == 3
    assert 0 <= run.residual < 0.5
    assert run.alpha_updates.between(0, 1).all()
    assert len(run.alpha_updates) > 4


def test_confirm_gives_a_row_for_each_configuration(sweep: LoadedSweep, without_workers: None) -> None:
    table = lfm_ray.confirm(sweep, seeds=2, progress=False)
    columns = {"sweep", "trial", "strategy", "fused", "fused std", "low", "high", "audio", "audio std", "image", "gap"}
    assert columns <= set(table)
    assert "alpha = 0" in set(table["strategy"])
    runs = pd.read_csv(sweep.folder / "confirm.csv")
    for _, row in table.iterrows():
        values = 100 * runs[runs["trial"] == row["trial"]]["test/fused/accuracy"]
        assert row["fused"] == pytest.approx(values.mean())
        assert row["fused std"] == pytest.approx(values.std())
        assert row["low"] <= row["fused"] <= row["high"]
    assert (sweep.folder / "test_reads.log").read_text().count("\n") == 1
    again = lfm_ray.confirm([sweep.folder, sweep], seeds=2, progress=False)  # the same one twice; nothing is trained
    pd.testing.assert_frame_equal(table, again)


def test_a_data_frame_becomes_shards_and_nothing_is_shown_where_nothing_is_asked_for(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = media_files.dataset(work / "raw")
    frame = pd.read_csv(manifest).set_index("label", drop=False)
    settings = {"audio": {"n_fft": 128}, "limit.train": 10}
    shards = lfm_ray.prepare(frame, audio="sound", image=["picture"], root=manifest.parent, out="shards/made",
        settings=settings, progress=False)  # fmt: skip
    assert (shards.path, shards.card.rows("train")) == (Path("shards/made"), 10)
    assert "10 train" in repr(shards)
    same = lfm_ray.prepare(manifest, audio="sound", image="picture", out="shards/file", settings=settings,
        progress=False)  # fmt: skip
    assert same.card.fingerprint == shards.card.fingerprint
    space = Space.model_validate(SPACE)
    found = lfm_ray.tune(space, data=shards, trials=1, epochs=1, name="made", settings=SMALL, progress=False)
    assert found.trials["data.path"][0] == "shards/made"
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_what_is_wrong_is_an_exception_of_one_line(work: Path, sweep: LoadedSweep, without_workers: None) -> None:
    frame = pd.DataFrame({"text": ["a"], "label": ["x"]})
    wrong = {
        "cubik: there is no such file; did you mean cubic": lambda: lfm_ray.tune("cubik", data="shards/tiny"),
        "no such dataset folder": lambda: lfm_ray.tune(data="shards/none"),
        "--trials 0: must be": lambda: lfm_ray.tune(data="shards/tiny", trials=0),
        "such as 90s": lambda: lfm_ray.tune(data="shards/tiny", time_budget="soon"),
        "a share of one GPU": lambda: lfm_ray.tune(data="shards/tiny", gpus_per_worker=1.5),
        "sampler": lambda: lfm_ray.tune(SPACE, data="shards/tiny", sampler="tpee"),
        "search, alpha.valeu": lambda: lfm_ray.tune({"search": {"alpha.valeu": {"uniform": [0, 1]}}}),
        "only budgets and resources": lambda: lfm_ray.tune("cubic", resume="one"),
        "already holds a sweep": lambda: lfm_ray.tune(SPACE, data="shards/tiny", name="one"),
        "did you mean tau": lambda: lfm_ray.train(sweep.best, settings={"loss.tua": 1}),
        "there is no such file": lambda: lfm_ray.train("none.yaml"),
        "there is no sweep here": lambda: lfm_ray.confirm("sweeps/none"),
        "must be test or val": lambda: lfm_ray.confirm(sweep, split="tset"),
        "must be above 1": lambda: lfm_ray.confirm(sweep, select=1),
        "already exists": lambda: lfm_ray.export(sweep, "shards"),
        "holds no run": lambda: lfm_ray.load_run("runs/none"),
        "did you mean text": lambda: lfm_ray.prepare(frame, text="txt", out="out"),
        "give a manifest, --folders ROOT or --dataset": lambda: lfm_ray.prepare(out="out"),
        "no row is in split 'val'": lambda: lfm_ray.prepare(frame, text="text", out="out"),
    }
    for reason, call in wrong.items():
        with pytest.raises(lfm_ray.UserError, match=reason) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not Path("out").exists()
    failing = {"optimizer": {"name": "sgd", "learning_rate": 10, "momentum": 0.99, "gradient_clip": None,
        "schedule": "constant"}, "model.fusion": "concat"}  # fmt: skip
    with pytest.raises(lfm_ray.TrainingFailed, match="NaN"):
        lfm_ray.train({"alpha": {"value": 0.2}}, data="shards/tiny", epochs=40, settings={**SMALL, **failing},
            progress=False)  # fmt: skip


def test_a_file_that_the_settings_were_written_to_is_read(
    sweep: LoadedSweep, work: Path, without_workers: None
) -> None:
    Path("my.yaml").write_text(sweep.best.to_yaml())
    run = lfm_ray.train("my.yaml", epochs=1, progress=False)
    assert run.folder.name.startswith("my-")
    assert run.config == sweep.best.model_copy(update={"epochs": 1})
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["epochs"] == 1


@pytest.mark.parametrize("path", ["x" * 300, "/".join(["y" * 100] * 45), "loop", "nul\0"])
def test_a_path_that_cannot_be_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    calls: list[Callable[[], object]] = [
        lambda: lfm_ray.prepare(path, image="image", out="out"),
        lambda: lfm_ray.prepare("m.csv", image="image", out=path),
        lambda: lfm_ray.prepare(folders=path, image="image", out="out"),
        lambda: lfm_ray.load(path), lambda: lfm_ray.load_sweep(path), lambda: lfm_ray.load_run(path),
    ]  # fmt: skip
    said = r"is no path that can be used|at most 200 bytes|cannot be shown|leads nowhere"
    for call in calls:
        with pytest.raises(UserError, match=said):
            call()


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--target class: unknown; did you mean classes"):
        lfm_ray.prepare("m.csv", image="image", out=tmp_path / "out", target="class")  # type: ignore[arg-type]
