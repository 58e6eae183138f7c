"""A sweep in a notebook, and the example notebook of docs/ itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_sweep import make_sweep
from matplotlib.figure import Figure

import lfm_ray
from lfm_ray.errors import UserError
from lfm_ray.search.selection import best_of
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.run_folder import ALPHA

NOTEBOOK = Path(__file__).parents[2] / "docs" / "sweep.ipynb"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return make_sweep(tmp_path_factory.mktemp("work") / "sweeps" / "mine")


def test_frames_hold_what_the_trials_wrote(sweep: Sweep) -> None:
    loaded, trials = lfm_ray.load_sweep(sweep.folder), sweep.trials()
    assert list(loaded.trials["number"]) == [trial.number for trial in trials]
    assert len(loaded.epochs) == sum(len(trial.rows) for trial in trials)
    one = loaded.epochs[loaded.epochs["trial"] == 1]
    assert list(one["val/audio/accuracy"]) == [row["val/audio/accuracy"] for row in trials[1].rows]
    best = best_of(trials)
    assert loaded.strategies.iloc[-1][["strategy", "best trial"]].tolist() == [best.strategy, best.number]
    assert loaded.best == best.config
    assert f"{best.reached:.3f}" in loaded._repr_html_()


def test_updates_of_alpha(sweep: Sweep) -> None:
    (trial_folder(sweep.folder, 3) / ALPHA).write_text("\n[[5, 0.9], [10, 0.8]]")
    assert lfm_ray.load_sweep(sweep.folder).alpha_updates(3).to_dict() == {5: 0.9, 10: 0.8}
    assert lfm_ray.load_sweep(sweep.folder).alpha_updates(0).empty


def test_figures_are_those_of_the_report(sweep: Sweep) -> None:
    loaded = lfm_ray.load_sweep(str(sweep.folder))
    assert {"alpha", "accuracy-fused", "accuracy-audio", "best-so-far", "settings", "importance"} <= set(loaded.figures)
    figure = loaded.figure("alpha")
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_xlabel() == "share of the epochs"
    with pytest.raises(UserError, match="did you mean alpha"):
        loaded.figure("alhpa")


def test_what_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no sweep here"):
        lfm_ray.load_sweep(tmp_path)
    make_sweep(tmp_path / "failed", 2, ends=("failed",))
    with pytest.raises(UserError, match="no trial has finished"):
        _ = lfm_ray.load_sweep(tmp_path / "failed").best


def test_the_example_notebook_runs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.folder.parents[1])
    names: dict[str, object] = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("%")]
            exec(compile("\n".join(lines), NOTEBOOK.name, "exec"), names)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 5


def test_the_notebook_is_stored_with_its_outputs_which_are_small_and_of_no_failure() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in shown} <= {"execute_result", "display_data"}
    assert any("image/png" in output["data"] for output in shown)
