"""The paper's figures: what they are drawn from, against values worked out by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tiny_run import train

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.reproduce.comparison import Comparison, show_figure, show_gradcam
from lfm_ray.reproduce.figures import (
    Embedded,
    alpha_plot,
    embeddings_figure,
    gap_cells,
    label_mixing_figure,
    over_seeds,
)
from lfm_ray.reproduce.plan import ComparisonFile, confirm_all, plan
from lfm_ray.reproduce.tables import paper_table
from lfm_ray.runtime import checkpoint
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.training.run_folder import weights_file
from lfm_ray.training.trainer import Trainer


def frame() -> pd.DataFrame:
    """Two rows, the second first by u, with two seeds."""
    return pd.DataFrame(
        [
            {"row": row, "seed": seed, "test/fused/accuracy": fused, "test/audio/accuracy": 0.25}
            | {"test/image/accuracy": 0.5, "test/accuracy_gap": 0.25, "test/modality_gap": gap}
            for row, seed, fused, gap in (
                ("u = 1", 1, 0.5, 0.4),
                ("u = 1", 2, 0.7, 0.6),
                ("u = 0", 1, 0.8, 0.3),
                ("u = 0", 2, 0.8, 0.3),
            )
        ]
    )


def test_means_and_deviations_over_seeds_by_hand() -> None:
    found = over_seeds(frame(), "test").set_index("row")
    assert found.loc["u = 1", ["fused", "fused std"]].tolist() == pytest.approx([60, 14.1421], abs=1e-4)
    assert found.loc["u = 1", ["modality gap", "modality gap std"]].tolist() == pytest.approx([0.5, 0.141421], abs=1e-6)
    assert found.loc["u = 0", ["audio", "image", "accuracy gap"]].tolist() == [25, 50, 25]
    shown = gap_cells(found.reset_index())
    assert shown.iloc[0].tolist() == [
        "u = 1", "60.0 ± 14.1", "25.0 ± 0.0", "50.0 ± 0.0", "25.0 ± 0.0", "0.50 ± 0.14"
    ]  # fmt: skip
    one_seed = gap_cells(over_seeds(frame()[lambda all_rows: all_rows["seed"] == 1], "test"))
    assert one_seed.iloc[0, 1] == "50.0"
    console = Console(width=100, record=True)
    console.print(paper_table("Figure 1", shown))
    assert max(len(line) for line in console.export_text().splitlines()) <= 100


def test_label_mixing_is_drawn_by_u_and_marks_the_papers_losses() -> None:
    figures = over_seeds(frame(), "test").assign(u=[1.0, 0.0])
    accuracy, gap, distance = label_mixing_figure(figures, classes=4).axes
    fused = accuracy.containers[0].lines[0].get_xydata()
    assert fused == pytest.approx(np.array([[0, 80], [1, 60]]))
    assert gap.containers[0].lines[0].get_ydata() == pytest.approx([25, 25])
    assert distance.containers[0].lines[0].get_ydata() == pytest.approx([0.3, 0.5])
    (top,) = accuracy.child_axes
    assert [tick.get_text() for tick in top.get_xticklabels()] == ["L_S", "L_U"]
    assert accuracy.lines[-1].get_ydata() == [25, 25]  # chance


def embedded(embeddings: dict[str, np.ndarray], gap: float) -> Embedded:
    rows = len(next(iter(embeddings.values())))
    return Embedded(embeddings, np.arange(rows) % 2, [f"id-{i}" for i in range(rows)], gap)


def test_the_plane_keeps_the_distances_of_what_lies_in_a_plane() -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0][:2]  # a plane in five dimensions
    flat = {"audio": np.array([[1.0, 0], [0, 1]]), "image": np.array([[-1.0, 0], [0, -1]])}
    one = embedded({name: points @ turned for name, points in flat.items()}, 2**0.5)
    points, share = one.in_plane()
    audio, image = (points[name].mean(axis=0) for name in ("audio", "image"))
    assert np.linalg.norm(audio - image) == pytest.approx(2**0.5)  # centroids at (1/2, 1/2) and (-1/2, -1/2)
    assert np.linalg.norm(points["audio"][0] - points["audio"][1]) == pytest.approx(2**0.5)
    assert np.linalg.norm(points["audio"][0] - points["image"][0]) == pytest.approx(2)
    assert share == pytest.approx(1)
    first = one.frame().iloc[2]
    assert first[["modality", "id", "label"]].tolist() == ["image", "id-0", 0]
    assert first[["x", "y"]].tolist() == pytest.approx(points["image"][0].tolist())


@pytest.mark.parametrize("modalities", [2, 3])
def test_gaps_are_drawn_at_their_true_length_whatever_else_the_embeddings_do(modalities: int) -> None:
    random = np.random.default_rng(1)
    wide = [random.normal(size=(20, 6)) * [9, 9, 9, 1, 1, 1] for _ in range(modalities)]
    centred = [
        values - values.mean(axis=0) + np.eye(6)[3 + i] for i, values in enumerate(wide)
    ]  # centroids: unit vectors
    points, share = embedded({str(i): values for i, values in enumerate(centred)}, 2**0.5).in_plane()
    shown = [values.mean(axis=0) for values in points.values()]
    for i, j in combinations(range(modalities), 2):
        assert np.linalg.norm(shown[i] - shown[j]) == pytest.approx(2**0.5)
    every = np.concatenate(centred)
    drawn = np.concatenate(list(points.values()))
    assert share == pytest.approx(((drawn - drawn.mean(axis=0)) ** 2).sum() / ((every - every.mean(axis=0)) ** 2).sum())


def test_the_second_direction_is_the_widest_that_is_left() -> None:
    across = np.array([[0.0, 3, 1], [0, -3, -1], [0, 3, -1], [0, -3, 1]])  # widest along the second coordinate
    points, _ = embedded({"audio": across + np.eye(3)[0], "image": across - np.eye(3)[0]}, 2).in_plane()
    assert np.abs(points["audio"]) == pytest.approx(np.array([[1, 3]] * 4))


def test_modalities_with_the_same_centroid_are_drawn_by_their_principal_components() -> None:
    cross = np.array([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]])
    points, share = embedded({"audio": cross, "image": cross}, 0).in_plane()
    assert np.abs(points["image"]) == pytest.approx(np.abs(cross[:, :2]))
    assert share == pytest.approx(1)


@pytest.mark.parametrize("overrides", [(), ("optimizer.ema_decay=0.5",)])
def test_embeddings_and_gap_are_those_that_the_run_was_measured_by(
    tmp_path: Path, shards: Shards, overrides: tuple[str, ...]
) -> None:
    run = train(shards, "epochs=2", *overrides)
    checkpoint.save(tmp_path / "checkpoint.pt", run.state_dict())
    one = Embedded.of(tmp_path, shards, "val")
    assert one.gap == pytest.approx(run.history[-1]["val/modality_gap"], rel=1e-5)
    for values in one.embeddings.values():
        assert values.shape == (24, 8)
        assert np.linalg.norm(values, axis=1) == pytest.approx(np.ones(24), rel=1e-5)
    audio, image = (values.mean(axis=0) for values in one.embeddings.values())
    assert one.gap == pytest.approx(np.linalg.norm(audio - image), rel=1e-5)
    assert one.labels.tolist() == [i % 3 for i in range(24)]
    assert one.ids[:2] == ["val-0", "val-1"]


def test_each_row_has_a_panel_of_the_same_scale_with_its_gap() -> None:
    circle = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    rows = {
        row: embedded({"audio": circle, "image": shift * circle, "text": -circle}, gap)
        for row, shift, gap in (("Concat", 1.0, 0.25), ("MLA", -1.0, 1.5))
    }
    left, right = embeddings_figure(rows, {"Concat": 50.0, "MLA": 75.0}).axes
    assert left.get_title(loc="left") == "Concat: gap 0.25, accuracy 50.0 %"
    assert right.get_title(loc="left") == "MLA: gap 1.50, accuracy 75.0 %"
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert len(left.collections) == 3
    assert len(left.lines) == 3 + 1  # a line for each pair of modalities, and the centroids


def test_alpha_over_the_share_of_the_epochs_and_its_mean_over_seeds(tmp_path: Path) -> None:
    for seed, alphas in enumerate(([0.9, 0.5], [0.7, 0.1]), start=1):
        (tmp_path / str(seed)).mkdir()
        text = "".join(json.dumps({"epoch": t, "alpha": alpha}) + "\n" for t, alpha in enumerate(alphas, start=1))
        (tmp_path / str(seed) / "epochs.jsonl").write_text(text)
    drawn = alpha_plot({"LFM learned": [tmp_path / "1", tmp_path / "2"], "LFM heuristic": [tmp_path / "1"]}).frame()
    values = {name: list(zip(mine.iloc[:, 2], mine.iloc[:, 3], strict=True)) for name, mine in drawn.groupby("curve")}
    assert values["LFM learned"] == [(0.5, pytest.approx(0.8)), (1.0, pytest.approx(0.3))]
    assert values["LFM learned, seed 2"] == [(0.5, 0.7), (1.0, 0.1)]
    assert values["LFM heuristic"] == [(0.5, 0.9), (1.0, 0.5)]


def test_the_rows_of_the_figures(shards: Shards) -> None:
    def bases(paper: str) -> dict[str, RunConfig]:
        spaces = plan(paper, shards.card, ["epochs=4"])
        return {row: space.base for row, space in spaces.items() if isinstance(space, Space)}

    mixed = bases("figure1")
    assert [run.loss.uniform_labels for run in mixed.values()] == [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1]
    assert {(run.method.name, run.model.fusion, run.alpha.alpha(1, 4)) for run in mixed.values()} == {
        ("lfm", "concat", 0)
    }
    assert {row: run.method.name for row, run in bases("figure2").items()} == {
        "Concat": "lfm", "G-Blend": "g_blend", "MLA": "mla", "LFM learned": "lfm"
    }  # fmt: skip
    assert [run.alpha.strategy for run in bases("figure3").values()] == ["heuristic", "polynomial", "learned"]
    assert list(bases("figure4")) == ["Concat", "LFM learned"]


def test_the_runs_of_grad_cam_keep_their_models_and_those_of_tuning_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[Path, RunConfig] = {}
    monkeypatch.setattr("lfm_ray.reproduce.plan.run_configs", lambda given, *others: runs.update(given))
    space = Space.model_validate({"run": {"epochs": 3}, "search": {"loss.tau": {"loguniform": [0.1, 1]}}})
    sweep = Sweep.create(tmp_path / "concat", space, 0, "made")
    sweep.study.ask()
    (best,) = sweep.trials()
    file = ComparisonFile(paper="figure4", data="", fingerprint="", settings=[], epochs=3, trials=1, seeds=[1])
    watch = lambda what, count: nullcontext()  # noqa: E731
    confirm_all(tmp_path, file, {"Concat": best}, None, None, "val", watch, {"checkpoint.keep_every": 2})
    (config,) = runs.values()
    assert (config.checkpoint.keep_every, config.seed) == (2, 1)
    assert best.config.checkpoint.keep_every is None


def test_figure_4_draws_the_epochs_that_were_kept(
    tmp_path: Path, shards: Shards, capsys: pytest.CaptureFixture[str]
) -> None:
    def keep(run: Trainer) -> None:
        checkpoint.save(weights_file(tmp_path / "run", run.epoch), run.weights())

    run = train(shards, "epochs=2", on_epoch=keep)
    (tmp_path / "run" / "config.yaml").write_text(run.config.to_yaml())
    file = ComparisonFile(paper="figure4", data="", fingerprint="", settings=[], epochs=2, trials=1, seeds=[1])
    done = Comparison(tmp_path, file, {}, {}, {"Concat": [tmp_path / "run"]}, "val", "2 CPUs")
    show_gradcam(done, Namespace(samples=["1"], class_of="true", data=shards.path))
    assert (tmp_path / "figure4.png").stat().st_size > 5000
    assert "figure4.png" in capsys.readouterr().out


def test_figure_2_from_runs_to_its_files(tmp_path: Path, shards: Shards, capsys: pytest.CaptureFixture[str]) -> None:
    runs, best = {}, {}
    for row, alpha in (("Concat", "0"), ("LFM", "0.5")):
        runs[row] = [tmp_path / row]
        run = train(shards, f"alpha.value={alpha}")
        checkpoint.save(tmp_path / row / "checkpoint.pt", run.state_dict())
        (tmp_path / row / "epochs.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in run.history))
        best[row] = SimpleNamespace(number=0, accuracy=0.5, reached=0.5, config=run.config)
    file = ComparisonFile(
        paper="figure2", data=str(shards.path), fingerprint="", settings=[], epochs=4, trials=1, seeds=[1]
    )
    planned: dict[str, Space | str] = {row: Space() for row in runs} | {"MLA": "is left out"}
    show_figure(Comparison(tmp_path, file, planned, cast(Any, best), runs, "val", "2 CPUs"))
    measured = pd.read_csv(tmp_path / "figure2-runs.csv").set_index("row")
    points = pd.read_csv(tmp_path / "figure2.csv")
    assert len(points) == 2 * 2 * 24
    for row, mine in points.groupby("row"):
        x, y = (mine.groupby("modality")[axis].mean() for axis in ("x", "y"))
        shown = np.hypot(x["audio"] - x["image"], y["audio"] - y["image"])
        assert shown == pytest.approx(measured.loc[row, "val/modality_gap"], rel=1e-4)
        said = f"{row}: gap {measured.loc[row, 'val/modality_gap']:.2f}, accuracy"
        assert said in (tmp_path / "figure2.svg").read_text()
    assert (tmp_path / "figure2.png").stat().st_size > 5000
    page = (tmp_path / "figure2.md").read_text()
    assert "| LFM |" in page
    assert "MLA is left out" in page
    assert "modality gap" in capsys.readouterr().out
