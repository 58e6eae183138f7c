from __future__ import annotations

import time
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import small_shards
from rich.console import Console

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import DatasetCard, Shards, read_card
from lfm_ray.errors import UserError
from lfm_ray.report.cells import markdown
from lfm_ray.reproduce.comparison import compare
from lfm_ray.reproduce.plan import ComparisonFile, baseline_of, plan, rounds_that_fit, tune_all
from lfm_ray.reproduce.tables import cells, friedman, paper_table, second_metric, summary
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.training.execution import Workers
from lfm_ray.training.source import DataSource

# Accuracies of three rows with three seeds, and a fourth row that ties with the first.
FUSED = {"Concat": [0.5, 0.6, 0.7], "MLA": [0.6, 0.75, 0.8], "LFM learned": [0.7, 0.7, 0.9], "Sum": [0.5, 0.6, 0.7]}


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": row, "trial": 0, "selected_by": 0.5, "seed": seed, "seconds_an_epoch": 0.5}
            | {"test/fused/accuracy": value, "test/fused/map": value / 2, "test/accuracy_gap": 0.1}
            | {"test/audio/accuracy": 0.3, "test/image/accuracy": 0.4}
            for row, values in FUSED.items()
            for seed, value in enumerate(values, start=1)
        ]
    )


def test_figures_ranks_and_corrected_tests_by_hand() -> None:
    found = summary(frame(), "test", "map").set_index("row")
    assert found.loc["MLA", "accuracy"] == pytest.approx(215 / 3)
    assert found.loc["Concat", "std"] == pytest.approx(10)
    assert found.loc["Concat", "map"] == pytest.approx(30)
    assert found.loc["Concat", "gap"] == pytest.approx(10)
    # Ranks by seed: LFM 1 2 1, MLA 2 1 2; Concat and Sum share the third and fourth place
    assert found["rank"].to_dict() == pytest.approx({"Concat": 3.5, "MLA": 5 / 3, "LFM learned": 4 / 3, "Sum": 3.5})
    # MLA - Concat: 10, 15, 10 points: t = (35 / 3) / (2.8868 / sqrt 3) = 7, p = 0.0198 with 2 degrees of freedom;
    # LFM - Concat: 20, 10, 20: t = 5, p = 0.0377; Sum: 1. Holm: 3 p1, 2 p2, 1.
    assert found.loc["MLA", "minus concat"] == pytest.approx(35 / 3)
    assert found.loc["MLA", "p"] == pytest.approx(3 * 0.0198, abs=2e-4)
    assert found.loc["LFM learned", "p"] == pytest.approx(2 * 0.0377, abs=2e-4)
    assert found.loc["Sum", "p"] == 1
    assert pd.isna(found.loc["Concat", "p"])


def test_friedmans_test_by_hand() -> None:
    one = frame()[lambda all_rows: all_rows["row"] != "Sum"]
    # Rank sums 9, 5, 4 of 3 rows and 3 seeds: 12 / (3 * 3 * 4) * (81 + 25 + 16) - 3 * 3 * 4 = 14 / 3; chi^2 with 2
    assert friedman(one, "test") == pytest.approx(2.718281828 ** (-7 / 3), rel=1e-6)


def test_the_table_has_a_line_of_dashes_for_what_the_data_rule_out_and_fits_the_terminal() -> None:
    shown = cells(summary(frame(), "test", "map"), ["Concat", "Affine", "LFM learned"])
    assert shown.iloc[1].tolist() == ["Affine", *["-"] * (len(shown.columns) - 1)]
    assert shown.iloc[0]["ACC"] == "60.0 ± 10.0"
    one_seed = frame()[lambda rows: rows["seed"] == 1]
    assert cells(summary(one_seed, "test", "map"), ["MLA"]).loc[0, "ACC"] == "60.0"
    console = Console(width=100, record=True)
    console.print(paper_table("Table 1", shown))
    assert max(len(line) for line in console.export_text().splitlines()) <= 100
    assert markdown(shown).splitlines()[1].startswith("| ---")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> DatasetCard:
    """sound, picture and words."""
    return read_card(small_shards.write(tmp_path_factory.mktemp("three")))


def test_every_row_is_in_the_table_with_a_reason_where_the_data_rule_it_out(three: DatasetCard) -> None:
    planned = plan("table1", three, [])
    assert list(planned)[:4] == ["Unimodal-1: sound", "Unimodal-2: picture", "Unimodal-3: words", "Concat"]
    refused = {row for row, space in planned.items() if isinstance(space, str)}
    assert refused == {"Affine", "OGM-GE", "DOMFN", "PMR"}
    for row, space in planned.items():
        if isinstance(space, Space):
            assert space.pruning.by == "none"
            assert "method.name" not in space.search
            assert ("alpha.eta_alpha" in space.search) == (row == "LFM learned")
            assert list(space.known_points()) == ["defaults"]
    mslr = planned["MSLR"]
    assert isinstance(mslr, Space)
    assert {"method.factors.sound", "method.factors.words"} <= set(mslr.search)


def test_the_second_figure_is_map_where_there_is_sound_among_the_modalities_that_are_used(three: DatasetCard) -> None:
    runs = pd.DataFrame([{"val/fused/accuracy": 0.5, "val/picture/accuracy": 0.5, "val/words/accuracy": 0.5}])
    assert second_metric(three, runs, "val") == "macro_f1"
    assert second_metric(three, runs.assign(**{"val/sound/accuracy": 0.5}), "val") == "map"


def test_table_5_has_the_encoders_of_clip_and_refuses_sound(three: DatasetCard) -> None:
    with pytest.raises(UserError, match="CLIP has no encoder for sound"):
        plan("table5", three, [])
    planned = plan("table5", three, ["data.modalities=[picture, words]"])
    mla = planned["CLIP + MLA"]
    assert isinstance(mla, Space)
    assert mla.base.method.name == "mla"
    assert {name: one.name for name, one in mla.base.model.encoders.items()} == {
        "picture": "clip_image",
        "words": "clip_text",
    }
    assert list(planned) == ["Unimodal-1: picture", "Unimodal-2: words", "CLIP", "CLIP + MLA", "CLIP + LFM"]
    assert baseline_of("table5") in planned


def test_tables_3_and_4_fix_alpha_and_tune_all_else_alike(three: DatasetCard) -> None:
    planned = plan("table4", three, ["epochs=10"])
    assert list(planned) == [
        "alpha = 0", "alpha = 0.5", "alpha = 1", "h(0)", "h(1)", "h(0.05)", "h(0.95)", "LFM heuristic", "LFM learned"
    ]  # fmt: skip
    ends = {}
    for row, space in planned.items():
        assert isinstance(space, Space)
        searched = [name for name in space.search if not name.startswith("alpha.")]
        assert searched == ["loss.matching", "loss.tau", "optimizer.learning_rate"]
        if row != "LFM learned":
            assert not space.searched_in(space.base)[0].startswith("alpha.")
            ends[row] = space.base.alpha.alpha(1, 10), space.base.alpha.alpha(10, 10)
    assert ends["alpha = 0.5"] == (0.5, 0.5)
    assert ends["h(0.05)"] == pytest.approx((0.05, 0.95))
    assert ends["h(1)"] == (1, 0)
    assert ends["LFM heuristic"] == pytest.approx((0.6321, 0.0952), abs=1e-4)

    assert list(plan("table3", three, [])) == ["alpha = 0", "CL", "CL + DI"]
    named = frame().replace({"row": {"Concat": "alpha = 0"}})
    found = summary(named, "test", "map", baseline_of("table3")).set_index("row")
    assert found.loc["MLA", "minus alpha = 0"] == pytest.approx(35 / 3)
    assert cells(found.reset_index(), ["MLA"]).loc[0, "- alpha = 0"] == "+11.7"


def test_a_row_that_does_not_exist_is_refused_with_the_nearest(three: DatasetCard) -> None:
    with pytest.raises(UserError, match="--rows Concatt: there is no such row; did you mean Concat"):
        plan("table1", three, [], ["Concatt"])


def test_the_budget_pays_for_further_rounds_and_one_for_each_seed() -> None:
    assert rounds_that_fit(90, 10, 3) == 9 - 3
    assert rounds_that_fit(70, 30, 3) == 0
    assert rounds_that_fit(-10, 10, 3) == 0


@pytest.mark.parametrize(
    ("budget", "rounds"),
    [
        (270, 2 + 10 - 3),  # 270 - 50 - 20 = 200 pay for ten rounds of 20, of which three are the seeds'
        (240, 1),  # 240 - 50 = 190 seem to pay for three rounds of 50, those of the seeds
        (0, 1),
    ],
)
def test_rounds_are_reckoned_from_the_second_since_the_first_starts_processes(
    tmp_path: Path, three: DatasetCard, monkeypatch: pytest.MonkeyPatch, budget: float, rounds: int
) -> None:
    planned = plan("table1", three, ["epochs=1"], ["Concat", "MLA"])
    spaces = {row: space for row, space in planned.items() if isinstance(space, Space)}
    clock = [0.0]

    def run_each(runs: dict[Path, RunConfig], *others: object) -> dict[Path, str]:
        clock[0] += 20 if clock[0] else 50
        for folder in runs:
            folder.mkdir(parents=True)
            (folder / "epochs.jsonl").write_text('{"epoch": 1, "seconds": 2.0, "val/fused/accuracy": 0.5}\n')
        return {}

    monkeypatch.setattr("lfm_ray.reproduce.plan.run_each", run_each)
    monkeypatch.setattr("lfm_ray.reproduce.plan.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Resources, "trials_at_once", lambda self: 1)
    file = ComparisonFile(paper="table1", data="", fingerprint="0", settings=[], epochs=1, trials=None, seeds=[1, 2, 3])
    watch: Any = lambda what, runs: nullcontext()  # noqa: E731
    assert (
        tune_all(tmp_path, file, spaces, cast(DataSource, None), Resources(Workers(1)), budget, watch).trials == rounds
    )
    assert [len(Sweep.open(tmp_path / row).trials()) for row in ("concat", "mla")] == [rounds, rounds]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_next_round_goes_on(
    tmp_path: Path, three: DatasetCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan("table1", three, ["epochs=1"], ["Concat", "MLA"])
    spaces = {row: space for row, space in planned.items() if isinstance(space, Space)}
    rounds: list[list[str]] = []

    def run_each(runs: dict[Path, RunConfig], *others: object) -> dict[Path, str]:
        rounds.append([f"{folder.parts[-3]} {folder.name}" for folder in runs])
        failures = {folder: "NaN" for folder in runs if len(rounds) == 1 and "mla" in folder.parts}
        for folder in runs.keys() - failures.keys():
            folder.mkdir(parents=True)
            (folder / "epochs.jsonl").write_text('{"epoch": 1, "seconds": 2.0, "val/fused/accuracy": 0.5}\n')
        return failures

    monkeypatch.setattr("lfm_ray.reproduce.plan.run_each", run_each)
    file = ComparisonFile(paper="table1", data="", fingerprint="0", settings=[], epochs=1, trials=2, seeds=[1])
    watch: Any = lambda what, runs: nullcontext()  # noqa: E731
    tune_all(tmp_path, file, spaces, cast(DataSource, None), Resources(Workers(1)), None, watch)
    assert rounds == [["concat 0000", "mla 0000"], ["concat 0001", "mla 0001"]]
    first, second = Sweep.open(tmp_path / "mla").trials()
    assert (first.state, first.reason, second.state) == ("failed", "NaN", "finished")


def test_a_comparison_runs_and_goes_on_where_it_was(
    tmp_path: Path, shards: Shards, without_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = Namespace(
        paper="table1", data=shards.path, name="try", storage=tmp_path, rows=["Concat", "MLA"], add=[],
        overrides=["model.width=4", "model.embedding_size=8"], epochs=1, trials=1, budget=None, seeds=2, split="test",
        address=None, concurrency=1,
    )  # fmt: skip
    compare(given)
    frame = pd.read_csv(tmp_path / "try" / "table1.csv")
    assert frame["row"].tolist() == ["Concat", "Concat", "MLA", "MLA"]
    assert (tmp_path / "try" / "test_reads.log").exists()
    trials = Sweep.open(tmp_path / "try" / "mla").trials()
    assert [trial.state for trial in trials] == ["finished"]
    method = trials[0].config.method.model_dump()
    assert (method["name"], method["damping"], method["weighting"]) == ("mla", 0.1, "entropy")
    assert "| MLA |" in (tmp_path / "try" / "table1.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("epochs.jsonl")}
    time.sleep(0.01)
    compare(given)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("epochs.jsonl")} == written
    assert "MLA" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a comparison with other seeds"):
        compare(Namespace(**{**vars(given), "seeds": 3}))
