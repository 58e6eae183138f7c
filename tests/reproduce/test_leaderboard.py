from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from lfm_ray import trust
from lfm_ray.datasets.shards import Shards, read_card
from lfm_ray.errors import UserError
from lfm_ray.methods import Method
from lfm_ray.reproduce.critical_difference import critical_difference_figure, inline_svg
from lfm_ray.reproduce.leaderboard import Leaderboard, by_name, lead
from lfm_ray.reproduce.plan import ComparisonFile, open_comparison, plan
from lfm_ray.reproduce.ranking import Ranking

METHODS = ["Concat", "Sum", "MLA", "QMF", "OGM-GE", "AGM", "LFM heuristic", "LFM learned", "<b>Tilt</b> & $x_1$"]


class Tilt(Method):
    """Somebody's method: joint training."""


def made(seeds: int = 3, datasets: tuple[str, ...] = ("digits", "crema_d"), rows: list[str] = METHODS) -> pd.DataFrame:
    random = np.random.default_rng(0)
    lines = []
    for dataset in datasets:
        for i, row in enumerate(rows):
            for seed in range(1, seeds + 1):
                line = {"dataset": dataset, "row": row, "seed": seed, "test/accuracy_gap": 0.1}
                line |= {"test/fused/accuracy": 0.6 + 0.03 * i + random.normal(0, 0.01)}
                line |= {"test/fused/loss": 0.8, "test/fused/calibration_error": 0.05}
                for name in ("audio", "image"):
                    line |= {f"test/{name}/accuracy": 0.5, f"test/{name}/shapley": 0.2, f"test/{name}/loss": 1.0}
                    line |= {f"test/{name}/preferred": 0.5, f"test/{name}/missing_accuracy": 0.4}
                    line |= {f"test/{name}/calibration_error": 0.1}
                line |= {"costs/parameters": 1e6, "costs/flops": 1e9, "costs/training_flops": 3e9}
                lines.append(line)
    return pd.DataFrame(lines)


@pytest.fixture
def board() -> Leaderboard:
    frame = made()
    frame = frame[(frame["row"] != "OGM-GE") | (frame["dataset"] == "digits")]
    left_out = {"crema_d": ["OGM-GE is left out: method: ogm_ge is defined for two modalities"]}
    return Leaderboard("table1", "test", frame, left_out, "5 trials of 20 epochs for each row, 3 seeds", "reproduce it")


def test_the_table_has_ranks_accuracies_and_scores_the_best_first(board: Leaderboard) -> None:
    cells = board.cells.set_index("method")
    assert cells.index[0] == METHODS[-1]
    assert cells.index[-1] == "OGM-GE"
    assert cells.loc["OGM-GE", "rank"] == "-"
    assert cells.loc["OGM-GE", "crema_d"] == "-"
    assert cells.loc[METHODS[-1], "rank"] == f"{board.ranking.ranks[METHODS[-1]]:.2f}"
    assert cells.loc[METHODS[-1], "w/t/l Concat"] == "2/0/0"
    assert cells.loc["Concat", "w/t/l Concat"] == "-"
    assert any("OGM-GE" in note for note in board.notes)
    assert any("Nemenyi" in note for note in board.notes)


def test_the_page_and_what_lies_beside_it(board: Leaderboard, tmp_path: Path) -> None:
    page = board.write(tmp_path).read_text(encoding="utf-8")
    assert "&lt;b&gt;Tilt&lt;/b&gt; &amp; $x_1$" in page
    assert "<b>Tilt" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for measure in ("Imbalance", "Calibration", "Costs", "Critical differences", "reproduce it"):
        assert measure in page
    names = ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard-runs.csv", "critical-difference.svg")
    assert all((tmp_path / name).stat().st_size for name in names)
    assert (tmp_path / "leaderboard.tex").read_text().count("\\begin{tabular}") == 2 + 2 * 3
    assert len(pd.read_csv(tmp_path / "leaderboard-runs.csv")) == len(board.frame)


@pytest.mark.parametrize("methods", [1, 2, 3, 30])
def test_a_diagram_names_each_method_once(methods: int) -> None:
    rows = [f"method {i}" for i in range(methods)]
    ranking = Ranking.of(made(rows=rows), "test/fused/accuracy")
    svg = inline_svg(critical_difference_figure(ranking))
    ElementTree.fromstring(svg)
    texts = [part.text or "" for part in ElementTree.fromstring(svg).iter() if part.tag.endswith("text")]
    assert all(sum(text.strip().endswith(row) or text.startswith(f"{row}  ") for text in texts) == 1 for row in rows)
    assert "#1c2128" not in svg


def test_one_seed_on_one_dataset_has_ranks_and_no_tests(tmp_path: Path) -> None:
    board = Leaderboard("table1", "test", made(seeds=1, datasets=("digits",)), {}, "1 trial")
    board.write(tmp_path)
    assert not any("Nemenyi" in note or "Friedman" in note for note in board.notes)


def test_two_datasets_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="another dataset is called digits"):
        by_name([Path("a/digits"), Path("b/digits")])


def test_added_methods_have_rows_that_are_tuned_like_the_others(shards: Shards) -> None:
    card = read_card(shards.path)
    trust.ask("test_leaderboard:Tilt")  # as the command does
    planned = plan("table1", card, [], ["Concat", "opm", "Tilt"], ["opm", "test_leaderboard:Tilt"])
    assert list(planned) == ["Concat", "opm", "Tilt"]
    opm, tilt = planned["opm"], planned["Tilt"]
    assert not isinstance(opm, str)
    assert not isinstance(tilt, str)
    assert (tilt.base.method.name, tilt.base.model.fusion) == ("test_leaderboard:Tilt", "concat")
    assert "optimizer.learning_rate" in tilt.search
    assert opm.base.method.name == "opm"
    assert "optimizer.learning_rate" in opm.search
    assert "method.rate" in opm.search
    for name, reason in {
        "opn": "did you mean opm",
        "mla": "there is a row of that name",
        "no.such:Thing": "code of another package",
    }.items():
        with pytest.raises(UserError, match=f"--add {name}: .*({reason})"):
            plan("table1", card, [], [], [name])


def test_what_was_added_is_remembered(tmp_path: Path) -> None:
    wanted = ComparisonFile(paper="table1", data="", fingerprint="0", settings=[], epochs=1, trials=2, seeds=[1])
    open_comparison(tmp_path / "it", wanted)
    assert open_comparison(tmp_path / "it", wanted.model_copy(update={"added": ["opm"]})).added == ["opm"]
    later = open_comparison(tmp_path / "it", wanted.model_copy(update={"added": ["cml"], "trials": None}))
    assert later.added == ["opm", "cml"]
    assert later.trials == 2


def test_a_leaderboard_is_added_to_without_running_the_others_again(
    tmp_path: Path, shards: Shards, without_workers: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = tmp_path / "other"
    from synthetic import write_dataset

    write_dataset(other, test=12)
    given = Namespace(
        paper="table1", data=[shards.path, other], name="board", storage=tmp_path, rows=["Concat", "MLA"], add=[],
        overrides=["model.width=4", "model.embedding_size=8", "data.batch_size=16"], epochs=1, trials=1, budget=None,
        seeds=2, split="test", address=None, concurrency=1,
    )  # fmt: skip
    lead(given)
    folder = tmp_path / "board"
    runs = pd.read_csv(folder / "leaderboard-runs.csv")
    assert sorted(runs["dataset"].unique()) == ["other", "shards"]
    assert len(runs) == 2 * 2 * 2
    assert {"costs/parameters", "costs/flops", "costs/training_flops", "costs/seconds"} <= set(runs)
    assert runs["costs/training_flops"].notna().all()
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("epochs.jsonl")}
    monkeypatch.setattr(trust, "_asked", set())
    lead(Namespace(**{**vars(given), "add": ["test_leaderboard:Tilt"]}))
    now = {path: path.stat().st_mtime_ns for path in folder.rglob("epochs.jsonl")}
    assert written.items() <= now.items()
    assert len(now) == len(written) + 2 * (1 + 2)
    assert ">Tilt<" in (folder / "leaderboard.html").read_text()
    assert "| Tilt |" in (folder / "shards" / "table1.md").read_text()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 300  # paths may be long
