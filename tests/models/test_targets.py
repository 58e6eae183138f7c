"""Losses and metrics of several labels and of numbers, against scikit-learn, SciPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from method_cases import CASES
from tiny_run import same, small_config, small_splits, train, train_with_outer

from lfm_ray.datasets.shards import Shards
from lfm_ray.datasets.targets import TargetCard
from lfm_ray.errors import UserError
from lfm_ray.methods import METHODS
from lfm_ray.methods.losses import LossSettings, classification_loss
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.evaluation import confusions, evaluate, metric_names
from lfm_ray.models.metrics import correlation, f1_of_labels
from lfm_ray.models.targets import TARGETS
from lfm_ray.training.trainer import Trainer

N, C = 60, 5


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of several labels, of which each occurs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, C, dtype=torch.float64, generator=generator)
    return logits, (torch.rand(N, C, generator=generator) < torch.linspace(0.1, 0.7, C)).to(torch.uint8)


def test_losses_are_those_of_pytorch() -> None:
    logits, labels = drawn()
    expected = F.binary_cross_entropy_with_logits(logits, labels.double())
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    numbers = torch.randn(N)
    squared, absolute = (LossSettings(regression=one) for one in ("mse", "l1"))
    torch.testing.assert_close(
        classification_loss(logits[:, :1], numbers, squared), (logits[:, 0] - numbers.double()).square().mean()
    )
    torch.testing.assert_close(
        classification_loss(logits[:, :1], numbers, absolute), (logits[:, 0] - numbers.double()).abs().mean()
    )


def test_metrics_of_several_labels_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, f1_score

    logits, labels = drawn()
    found = TARGETS["multilabel"].metrics(logits, labels, 1.0)
    hits, said = labels.numpy(), (logits > 0).numpy()
    assert found["map"] == pytest.approx(average_precision_score(hits, logits.numpy(), average="macro"))
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(f1_score(hits, said, average=average))
    assert found["loss"] == pytest.approx(float(classification_loss(logits, labels)))


def test_labels_that_no_sample_has_are_left_out() -> None:
    logits, labels = drawn()
    without = labels.clone()
    without[:, 2] = 0
    kept = [0, 1, 3, 4]
    found, of_kept = (
        TARGETS["multilabel"].metrics(*one, 1.0) for one in ((logits, without), (logits[:, kept], labels[:, kept]))
    )
    assert found["map"] == pytest.approx(of_kept["map"])
    none = TARGETS["multilabel"].metrics(logits, torch.zeros_like(labels), 1.0)
    assert none["map"] == 0 and none["micro_f1"] == 0
    nothing = np.zeros((3, 2), bool)
    assert f1_of_labels(nothing, nothing) == {"micro_f1": 0.0, "macro_f1": 0.0}
    assert f1_of_labels(np.eye(2, dtype=bool), np.array([[1, 0], [1, 0]], bool)) == pytest.approx(
        {"micro_f1": 0.5, "macro_f1": 1 / 3}  # 2 * 1 / 4; 2/3 of the first label, 0 of the second
    )


def test_metrics_of_numbers_are_those_of_scipy_in_their_own_unit() -> None:
    from scipy.stats import pearsonr

    random = np.random.default_rng(0)
    truth = 100 + 8 * random.normal(size=N)
    said = truth + random.normal(size=N)
    card = TargetCard(kind="regression", mean=100.0, std=8.0)
    labels, logits = (torch.from_numpy(card.for_training(one)) for one in (truth, said))
    found = TARGETS["regression"].metrics(logits[:, None], labels, card.std)
    assert found["mae"] == pytest.approx(np.abs(said - truth).mean(), rel=1e-4)
    assert found["correlation"] == pytest.approx(pearsonr(said, truth).statistic, rel=1e-5)
    assert found["loss"] == pytest.approx(np.square((said - truth) / 8).mean(), rel=1e-3)
    assert card.in_its_unit(card.for_training(truth)) == pytest.approx(truth, rel=1e-5)
    assert correlation(np.full(N, 3.0), truth) == 0


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_an_evaluation_has_the_metrics_that_are_named(kind: str) -> None:
    logits, labels = drawn()
    if kind == "regression":
        logits, labels = logits[:, :1], logits[:, 0].float() + 0.1
    embeddings = {"audio": torch.randn(N, logits.shape[1]), "image": logits}
    outputs = Outputs(logits, {"audio": -logits, "image": logits}, embeddings)
    found = evaluate(logits, outputs, labels, unit=2.0)
    assert list(found) == metric_names(["audio", "image"], kind)  # type: ignore[arg-type]
    lead = "map" if kind == "multilabel" else "correlation"
    assert found["fused/loss"] == pytest.approx(found["image/loss"])
    assert found[f"{lead}_gap"] == pytest.approx(abs(found[f"image/{lead}"] - found[f"audio/{lead}"]))
    assert found[f"unimodal_{lead}"] == pytest.approx((found[f"image/{lead}"] + found[f"audio/{lead}"]) / 2)
    if kind == "regression":
        assert found["fused/mae"] == pytest.approx(0.2, rel=1e-5) and found["fused/correlation"] == pytest.approx(1)
        assert found["probe_correlation"] > 0.9
    assert confusions(logits, outputs, labels) == {}


def takes_any_target(name: str) -> bool:
    """Whether a method says so of its cases in `method_cases`."""
    return not METHODS[name].only_classes and name not in ("mla", "mslr")


@pytest.mark.parametrize("name", sorted(CASES))
def test_methods_learn_other_targets_or_say_why_not(other_shards: Shards, name: str) -> None:
    kind = other_shards.card.target.kind
    if takes_any_target(name):
        run = train(other_shards, *CASES[name], "optimizer.learning_rate=0.01")
        assert run.history[-1]["val/fused/loss"] < run.history[0]["val/fused/loss"]
        return
    with pytest.raises(UserError, match=f"^method: {name} .*, and the dataset's targets are {kind}"):
        Trainer(small_config(*CASES[name]), other_shards.card)
    if not METHODS[name].only_classes:
        other = {"mla": "method.weighting=mean", "mslr": "method.strategy=keep"}[name]
        Trainer(small_config(*CASES[name], other), other_shards.card)


@pytest.mark.parametrize("solver", ["identity", "cg"])
def test_alpha_is_learned_with_other_targets(other_shards: Shards, solver: str) -> None:
    settings = [f"alpha.solver={solver}", "alpha.eta_alpha=0.01", "alpha.inner_iters=2"]
    if other_shards.card.target.kind == "regression" and solver == "cg":
        settings.append("loss.regression=l1")  # whose second derivative is 0
    run = train_with_outer(other_shards, "alpha.strategy=learned", "alpha.outer=held_out", *settings)
    values = [row["alpha"] for row in run.history]
    assert len(set(values)) > 1 and all(0 <= value <= 1 for value in values)


def test_numbers_are_learned_in_their_unit_and_in_micro_batches(tmp_path_factory: pytest.TempPathFactory) -> None:
    from synthetic import write_dataset

    shards = Shards(write_dataset(tmp_path_factory.mktemp("data") / "shards", noise=0.3, kind="regression"))
    long = ["epochs=20", "optimizer.learning_rate=0.02", "model.dropout=0"]
    last = train(shards, *long).history[-1]
    assert last["val/fused/correlation"] > 0.9 and last["val/fused/mae"] < 4  # of 100, 110 and 120
    assert train(shards, *long, "loss.regression=l1").history[-1]["val/fused/mae"] < 4
    whole, parts = (train(shards, "model.dropout=0", *more) for more in ([], ["data.micro_batch_size=5"]))
    assert parts.history[-1]["val/fused/mae"] == pytest.approx(whole.history[-1]["val/fused/mae"], rel=1e-3)


def test_a_run_is_the_same_twice(other_shards: Shards) -> None:
    assert same(train(other_shards), train(other_shards))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss.matching=js", r"loss\.matching: js compares predictions of classes"),
        ("loss.matching=kl_to_mean", r"loss\.matching: kl_to_mean compares"),
        ("loss.focal=1", r"loss\.focal: is for classes"),
        ("loss.class_weights=balanced", r"loss\.class_weights: is for classes"),
        ("loss.uniform_labels=0.1", r"loss\.uniform_labels: is for classes"),
    ],
)
def test_losses_of_classes_are_refused_for_other_targets(other_shards: Shards, setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Trainer(small_config(setting), other_shards.card)


def test_the_loss_of_numbers_is_refused_for_classes(shards: Shards) -> None:
    with pytest.raises(UserError, match=r"loss\.regression: l1 is for numbers, and the dataset has classes"):
        Trainer(small_config("loss.regression=l1"), shards.card)


def test_labels_are_read_as_they_were_written(other_shards: Shards) -> None:
    stored = other_shards.arrays("val")[1]
    batch = next(small_splits(other_shards, small_config()).val.epoch(1))
    if other_shards.card.target.kind == "regression":
        assert stored[:3].tolist() == [100.0, 110.0, 120.0]
        assert batch.labels[:3].tolist() == pytest.approx([-1.25, 0, 1.25])
    else:
        assert stored[:3].tolist() == [[1, 0], [0, 1], [1, 1]] == batch.labels[:3].tolist()
