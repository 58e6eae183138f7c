from __future__ import annotations

import pytest
import torch

from lfm_ray.errors import UserError
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.evaluation import evaluate, metric_names
from lfm_ray.search.spaces.objective import Relation, check_metrics, objective_of, signed

ROW = {"val/fused/accuracy": 0.8, "val/audio/accuracy": 0.4, "val/image/accuracy": 0.7, "val/accuracy_gap": 0.3}


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("alpha.low <= alpha.high", -0.5),
        ("alpha.high <= alpha.low", 0.5),
        ("alpha.high >= 0.9", 0.2),
        ("0.9 < alpha.high", 0.2),
        ("alpha.high < 0.7", 2.3e-16),  # equal is not below
        ("alpha.high <= 0.7", 0.0),
        ("val/audio/accuracy >= 0.5", 0.1),
        ("val/*/accuracy >= 0.5", 0.1),  # the worst of the three
        ("val/*/accuracy <= 0.5", 0.3),
        ("val/accuracy_gap <= 0.25", 0.05),
        ("loss.tau <= 1", None),  # js has no tau: nothing to break
    ],
)
def test_a_relation_says_by_how_much_it_is_broken(text: str, violation: float | None) -> None:
    values = {"alpha.low": 0.2, "alpha.high": 0.7, **ROW}
    found = Relation.parse(text).violation(values)
    assert found == (None if violation is None else pytest.approx(violation, abs=1e-16 if violation < 1e-9 else 1e-12))


@pytest.mark.parametrize("text", ["alpha.low", "alpha.low = 3", "a <= b <= c", "0 <= 1", "a <= "])
def test_a_relation_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|neither a setting nor a metric"):
        Relation.parse(text)


def test_an_objective_is_written_as_a_metric_or_several_and_a_direction_is_the_natural_one() -> None:
    assert objective_of("val/fused/map") == {"val/fused/map": "maximize"}
    assert objective_of(["val/fused/accuracy", "val/accuracy_gap", "val/fused/loss"]) == {
        "val/fused/accuracy": "maximize",
        "val/accuracy_gap": "minimize",
        "val/fused/loss": "minimize",
    }
    assert objective_of(["val/modality_gap=maximize"]) == {"val/modality_gap": "maximize"}
    assert signed({"val/fused/accuracy": "maximize", "val/accuracy_gap": "minimize"}, ROW) == (0.8, -0.3)


def test_the_metrics_that_can_be_named_are_those_that_a_run_measures() -> None:
    random = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(6, 2, generator=random) for name in ("audio", "image")}
    outputs = Outputs(embeddings=logits, fused=logits["audio"], unimodal=logits)
    measured = evaluate(logits["audio"], outputs, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert metric_names(["audio", "image"]) == list(measured)
    check_metrics([f"val/{name}" for name in measured], [], ["audio", "image"])
    check_metrics([], [Relation.parse("val/*/map > 0.1")], ["audio", "image"])
    with pytest.raises(UserError, match="unknown metric val/audoi/accuracy; did you mean val/audio/accuracy"):
        check_metrics(["val/audoi/accuracy"], [], ["audio", "image"])
    with pytest.raises(UserError, match=r"val/\*/acuracy >= 0: unknown metric"):
        check_metrics([], [Relation.parse("val/*/acuracy >= 0")], ["audio"])
