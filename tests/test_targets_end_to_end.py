"""Several labels a row and numbers, from a manifest to predictions for raw files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import SMALL_FLAGS, run
from PIL import Image

from lfm_ray.datasets.shards import Shards
from lfm_ray.export.predictor import Predictor

ROWS = 60
BOTH = {
    "multilabel": lambda bright, red: ";".join(name for name, on in (("bright", bright), ("red", red)) if on) or ";",
    "regression": lambda bright, red: 50 + 10 * bright + 5 * red,
}


def raw(folder: Path, kind: str) -> Path:
    """Small pictures and features whose labels are told by both: one how bright it is, the other whether it is red."""
    random, lines = np.random.default_rng(0), []
    for i in range(ROWS):
        bright, red = random.integers(0, 2, 2).tolist()
        pixels = random.integers(0, 60, (8, 8), np.uint8) + 150 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        np.save(folder / f"{i}.npy", (random.normal(size=4) + 4 * red).astype(np.float32))
        split = "train" if i < 36 else "val" if i < 48 else "test"
        lines.append({"picture": f"{i}.png", "colour": f"{i}.npy", "label": BOTH[kind](bright, red), "split": split})
    pd.DataFrame(lines).to_csv(folder / "m.csv", index=False)
    return folder / "m.csv"


@pytest.mark.parametrize("kind", ["multilabel", pytest.param("regression", marks=pytest.mark.slow)])
def test_from_a_manifest_to_predictions(tmp_path: Path, without_workers: None, kind: str) -> None:
    manifest = raw(tmp_path, kind)
    said = run(
        tmp_path, "prepare", manifest, "--image", "picture", "--feature", "colour", "--target", kind, "--out", "shards"
    )
    assert said.returncode == 0, said.stderr
    what, lead = {"multilabel": ("2 labels", "map"), "regression": ("a number", "correlation")}[kind]
    assert f"36 train, 12 val, 12 test rows of {what}" in said.stdout
    looked = run(tmp_path, "prepare", "--inspect", "shards")
    assert looked.returncode == 0 and f"{lead} on 12 of validation" in looked.stdout, looked.stderr
    assert (tmp_path / "shards/contact_sheet.png").is_file()

    # a search over methods and losses, most of which are for classes
    (tmp_path / "space.yaml").write_text(
        "search:\n  method.name: {choice: [lfm, ogm_ge, agm, mla, unimodal]}\n"
        "  loss.matching: {choice: [infonce, js], when: {method.name: lfm}}\n"
        "  optimizer.learning_rate: {loguniform: [0.01, 0.05]}\n"
    )
    small = [*SMALL_FLAGS, "--set", "epochs=2"]
    found = run(tmp_path, "tune", "space.yaml", "--data", "shards", "--name", "mine", "--trials", "3", *small)
    assert found.returncode == 0, found.stderr + found.stdout
    assert f"left out of method.name: ogm_ge, agm, mla; defined for classes, and the dataset's targets are {kind}" in (
        " ".join(found.stdout.split())
    )
    assert f"objective: val/fused/{lead}" in found.stdout
    page = (tmp_path / "sweeps/mine/report.html").read_text()
    assert f"Fused {lead}" in page and "accuracy" not in re.sub(
        r"<style.*?</style>|<script.*?</script>", "", page, flags=re.S
    )

    confirmed = run(tmp_path, "confirm", "sweeps/mine", "--seeds", "2", "--top", "1")
    assert confirmed.returncode == 0, confirmed.stderr
    unit = " in %" if kind == "multilabel" else ""
    assert f"test {lead}{unit}, mean ± std over 2 seeds" in confirmed.stdout
    summary = pd.read_csv(tmp_path / "sweeps/mine/confirm-summary.csv")
    beside = {"multilabel": ["fused/micro_f1", "fused/macro_f1"], "regression": ["fused/mae"]}[kind]
    assert {"picture", "colour", "gap", *beside} <= set(summary)

    shown = run(tmp_path, "report", "--predictions", "sweeps/mine")
    assert shown.returncode == 0, shown.stderr
    table = pd.read_csv(next(tmp_path.rglob("predictions.csv")))
    shards = Shards(tmp_path / "shards")
    assert table["id"].tolist() == [int(name) for name in shards.ids("val")]
    made = run(tmp_path, "export", "sweeps/mine", "--out", "exported")
    assert made.returncode == 0 and f"val {lead}" in made.stdout and what in made.stdout, made.stderr
    predictor = Predictor(tmp_path / "exported")
    samples = [
        {"picture": str(tmp_path / f"{i}.png"), "colour": str(tmp_path / f"{i}.npy")} for i in table["id"].tolist()
    ]
    for row, prediction in zip(table.to_dict("records"), predictor.predict(samples), strict=True):
        if kind == "multilabel":
            assert prediction.probabilities["red"] == pytest.approx(row["fused: red"], abs=1e-4)
            assert list(prediction.labels) == [name for name, p in prediction.probabilities.items() if p > 0.5]
            assert prediction.unimodal["colour"]["red"] == pytest.approx(row["colour: red"], abs=1e-4)
            assert prediction.label == ";".join(prediction.labels) and prediction.value is None
        else:
            assert prediction.value == pytest.approx(row["fused"], abs=1e-3)
            assert float(prediction.label) == pytest.approx(row["fused"], abs=1e-3)
            assert row["fused"] - row["label"] == pytest.approx(row["fused error"], abs=1e-3)
            assert prediction.unimodal_values["picture"] == pytest.approx(row["picture"], abs=1e-3)
            assert prediction.probabilities == {}

    trained = run(tmp_path, "train", "sweeps/mine/best.yaml", "--name", "again")
    assert trained.returncode == 0, trained.stderr
    assert {"multilabel": "micro F1", "regression": "MAE"}[kind] in trained.stdout

    for refused, why in (
        (["--set", "method=ogm_ge"], "method: ogm_ge compares modalities by the probability of the class"),
        (["--set", "loss.matching=js"], "loss.matching: js compares predictions of classes"),
        (["--set", "checkpoint.best=val/fused/accuracy"], "checkpoint.best: unknown metric val/fused/accuracy"),
    ):
        ended = run(tmp_path, "train", "sweeps/mine/best.yaml", "--name", "no", *refused)
        assert ended.returncode == 2 and why in ended.stderr and len(ended.stderr.splitlines()) == 1
        assert not (tmp_path / "runs/no").exists()
    ended = run(tmp_path, "report", "--gradcam", "sweeps/mine")
    assert ended.returncode != 0 and "Grad-CAM explains a class" in ended.stderr, ended.stderr
    ended = run(tmp_path, "reproduce", "table1", "--data", "shards", "--trials", "1")
    assert ended.returncode == 2 and f"are of classes, not of {kind}" in ended.stderr
