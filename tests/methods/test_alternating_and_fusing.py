"""ETMC, MLA, MMPareto, QMF, ReconBoost and UMT in whole runs: what tells each from joint training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from synthetic import write_dataset
from tiny_run import moved, prepared, rows, same, small_config, small_splits, train, weights

from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.methods.etmc import evidence, fused_evidence
from lfm_ray.methods.recon_boost import boosting_loss, memory_loss
from lfm_ray.optimization.hypergradient import gradient
from lfm_ray.training.trainer import Trainer

NO_DROPOUT = "model.dropout=0"


def test_a_head_that_the_method_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"method mla needs model\.fusion shared, not concat"):
        small_config("method=mla", "model.fusion=concat")


def test_etmc_predicts_by_three_opinions_and_trains_all_of_them(shards: Shards) -> None:
    run, batches = prepared(shards, "method=etmc", NO_DROPOUT)
    outputs = run.model(batches[0].inputs)
    views = [evidence(logits) for logits in (*outputs.unimodal.values(), outputs.fused)]
    torch.testing.assert_close(run.method.predict(outputs).exp(), 1 + fused_evidence(views))
    before = weights(run)
    run.training_step(batches[0])
    assert moved(run, before) == set(before)


def test_etmcs_pull_grows_from_none_to_its_whole_strength(shards: Shards) -> None:
    fast = train(shards, "method=etmc", "method.annealing_epochs=1", "epochs=1")
    slow = train(shards, "method=etmc", "method.annealing_epochs=50", "epochs=1")
    assert same(fast, slow)  # the first epoch has none
    assert rows(train(shards, "method=etmc", "method.annealing_epochs=1")) != rows(
        train(shards, "method=etmc", "method.annealing_epochs=50")
    )


def test_mla_steps_with_one_encoder_at_a_time_and_projects_the_next_gradient(shards: Shards) -> None:
    sgd = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.gradient_clip=null"]
    run, batches = prepared(shards, "method=mla", "optimizer.schedule=constant", NO_DROPOUT, *sgd)
    batch = batches[0]
    before = weights(run)
    run._step(batch, run.state("audio"), keep=False)
    assert moved(run, before) == {name for name in before if not name.startswith("encoders.image")}
    after, features = weights(run), run.model(batch.inputs).embeddings
    loss = F.cross_entropy(run.model.head.classifier(features["image"]), batch.labels)
    (plain,) = torch.autograd.grad(loss, [run.model.head.classifier.weight])
    run._step(batch, run.state("image"), keep=False)
    assert moved(run, after) == {name for name in before if not name.startswith("encoders.audio")}
    first = Trainer(run.config, shards.card).model(batch.inputs).embeddings["audio"].double().mean(dim=0)
    projection = torch.linalg.inv(torch.eye(8, dtype=torch.float64) + torch.outer(first, first) / 0.1)
    step = (after["head.classifier.weight"] - run.model.head.classifier.weight) / run.config.optimizer.learning_rate
    torch.testing.assert_close(step.double(), plain.double() @ projection, rtol=1e-3, atol=1e-6)


def test_mmparetos_encoders_follow_a_direction_of_descent_for_both_losses(shards: Shards) -> None:
    run, batches = prepared(shards, "method=mmpareto", "method.magnitude=1", "optimizer.schedule=constant", NO_DROPOUT)
    conflicts = 0
    for batch in batches * 6:
        state = run.state()
        outputs = run.model(batch.inputs)
        losses = run.method.loss(outputs, batch.labels, state)
        terms = [dict(zip(run.named, gradient(term, run.parameters, keep=True), strict=True)) for term in losses.terms]
        found = run.method.gradient(terms, state)
        for modality in ("audio", "image"):
            names = [name for name in run.named if name.startswith(f"encoders.{modality}.")]
            alone = F.cross_entropy(outputs.unimodal[modality], batch.labels)
            own = dict(zip(run.named, gradient(alone, run.parameters, keep=True), strict=True))
            flat = [torch.cat([one[name].flatten() for name in names]) for one in (found, terms[0], own)]
            conflicts += bool(flat[1] @ flat[2] <= 0)
            assert flat[0] @ flat[1] > 0
            assert flat[0] @ flat[2] > 0
            if flat[1] @ flat[2] > 0:
                torch.testing.assert_close(flat[0], flat[1] + flat[2])
        torch.testing.assert_close(found["head.classifier.weight"], terms[0]["head.classifier.weight"])
        run.training_step(batch)
    assert conflicts


def test_qmf_remembers_the_losses_of_every_sample(shards: Shards) -> None:
    run, batches = prepared(
        shards, "method=qmf", "optimizer.schedule=constant", "optimizer.learning_rate=1e-12", NO_DROPOUT
    )
    for batch in [*batches, *batches]:
        run.training_step(batch)
    for batch in batches:
        with torch.no_grad():
            losses = F.cross_entropy(run.model(batch.inputs).unimodal["audio"], batch.labels, reduction="none")
        torch.testing.assert_close(run.memory["audio"][batch.rows], 2 * losses, rtol=1e-4, atol=1e-5)
    assert len(run.memory["audio"]) == 48


def test_qmfs_regulariser_changes_what_is_learnt_from_the_first_step_unless_its_margin_is_subtracted(
    shards: Shards,
) -> None:
    one = ["method=qmf", "epochs=1"]
    without = train(shards, *one, "method.regulariser=0")
    assert not same(train(shards, *one, "method.margin=added"), without)
    assert same(train(shards, *one), without)  # at first, confidences differ by less than any lead in hardness


def test_reconboost_trains_one_modality_a_stage_and_then_all(shards: Shards) -> None:
    seen: list[set[str]] = []

    def watch(run: Trainer) -> None:
        nonlocal before
        seen.append({name.split(".")[1] for name in moved(run, before) if name.startswith("encoders")})
        before = weights(run)

    run = Trainer(small_config(), shards.card)
    before = weights(run)
    train(shards, "method=recon_boost", on_epoch=watch)
    assert seen == [{"audio"}, {"audio", "image"}, {"image"}, {"audio", "image"}]


def test_reconboost_boosts_what_all_other_modalities_say_together(tmp_path: Path) -> None:
    three = Shards(write_dataset(tmp_path / "shards", more=("depth",)))
    run, batches = prepared(three, "method=recon_boost", NO_DROPOUT, "method.consolidation=0.3")
    outputs = run.model(batches[0].inputs)
    logits, labels = outputs.unimodal, batches[0].labels
    loss = boosting_loss(logits["audio"], logits["image"] + logits["depth"], labels, 0.2)
    torch.testing.assert_close(run.losses(batches[0]).classification, loss)
    classes = len(three.card.classes)
    run.epoch = 2  # of the third epoch, in which the second modality has its turn
    loss = boosting_loss(logits["image"], logits["audio"] + logits["depth"], labels, 0.2)
    torch.testing.assert_close(
        run.losses(batches[0]).classification, loss + 0.3 * classes / 5 * memory_loss(logits["image"], logits["audio"])
    )


def test_umt_begins_again_from_the_first_weights_with_what_it_learnt_as_teachers(shards: Shards) -> None:
    ends = {}

    def watch(run: Trainer) -> None:
        ends[run.epoch] = weights(run)

    first = weights(Trainer(small_config("method=umt"), shards.card))
    run = train(shards, "method=umt", on_epoch=watch)
    taught: list[dict[str, torch.Tensor]] = []
    train(shards, "method=unimodal", "model.fusion=concat", on_epoch=lambda run: taught.append(weights(run)))
    assert all(torch.equal(ends[2][name], value) for name, value in first.items())
    for name, value in taught[1].items():
        if name.startswith("encoders"):
            assert torch.equal(run.memory[f"teacher/{name}"], value)


def test_umt_draws_the_embeddings_to_those_of_its_teachers(shards: Shards) -> None:
    fast = ["epochs=8", "optimizer.learning_rate=0.01", NO_DROPOUT]

    def distance(weight: float) -> float:
        run = train(shards, "method=umt", f"method.distillation={weight}", *fast)
        batch = next(small_splits(shards, run.config).val.epoch(1))
        with torch.no_grad():
            outputs = run.method.forward(run.model.eval(), batch.inputs, run.state())
        learnt, taught = outputs.embeddings, outputs.extra
        return float(sum((value - taught[f"teacher/{name}"]).square().mean() for name, value in learnt.items()))

    near, far = distance(1000), distance(0)
    assert near < 0.9 * far


def test_umts_loss_is_the_joint_one_and_the_distance_from_the_teachers(shards: Shards) -> None:
    run = train(shards, "method=umt", "method.distillation=3")
    run.epoch = 3
    batch = next(small_splits(shards, run.config).val.epoch(1))
    outputs = run.method.forward(run.model.eval(), batch.inputs, run.state())
    teachers = Trainer(run.config, shards.card).model.eval()
    teachers.load_state_dict({key.removeprefix("teacher/"): value for key, value in run.memory.items()})
    taught = teachers(batch.inputs).embeddings
    distances = [(outputs.embeddings[name] - taught[name]).square().mean() for name in taught]
    expected = F.cross_entropy(outputs.fused, batch.labels) + 3 * (distances[0] + distances[1])
    torch.testing.assert_close(run.method.loss(outputs, batch.labels, run.state()).classification, expected)
