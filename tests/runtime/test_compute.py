"""Precision, memory format, moving average, compilation: what they change, and that the rest stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_batches import CARD, LEARNED, RESNETS, SGD, TINY, Made, run_of, trained
from synthetic import write_dataset
from tiny_run import train_until_killed
from torch import nn

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import Outputs
from lfm_ray.optimization.hypergradient import flatten
from lfm_ray.runtime import checkpoint, compute
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, Workers
from lfm_ray.training.loop import Splits, fit
from lfm_ray.training.ray_train import run_on_workers
from lfm_ray.training.run_folder import PROFILE, read_epochs
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer


def test_twenty_steps_in_float32_equal_a_plain_loop() -> None:
    settings = [
        *RESNETS,
        *SGD,
        "optimizer.learning_rate=0.001",
        "alpha.value=0.3",
        "compute.precision=fp32",
        "optimizer.gradient_clip=null",
    ]
    run, plain = run_of(*settings), run_of(*settings).model
    run.prepare(20)
    run.alpha.value = 0.3
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    for step in range(20):
        batch = Made().batches[step % 3]
        found = run.training_step(batch).losses.total
        optimizer.zero_grad()
        embeddings, logits = [], torch.zeros(8, 3)
        for name, card in CARD.modalities.items():
            encoder = plain.encoders[name]
            pooled = encoder.body((batch.inputs[name] - card.mean) / card.std).pooler_output.flatten(1)
            embeddings.append(encoder.project(pooled))
            logits = logits + plain.head.classifiers[name](embeddings[-1])
        z = [F.normalize(value, dim=1) for value in embeddings]
        similarity, rows = z[0] @ z[1].T / 0.2, torch.arange(8)
        matching = (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows)) / 2
        expected = 0.7 * F.cross_entropy(logits, batch.labels) + 0.3 * matching
        expected.backward()
        optimizer.step()
        assert found.item() == pytest.approx(expected.item(), abs=1e-5), step


def test_bfloat16_is_for_the_encoders_and_everything_else_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("compute.precision=bf16", "model.projection_size=4", "optimizer.ema_decay=0.9")
    run.prepare(3)
    inside: list[torch.dtype] = []
    run.model.encoders["image"].features[0].register_forward_hook(lambda module, value, out: inside.append(out.dtype))
    seen: list[Outputs] = []
    run.model.register_forward_hook(lambda module, value, out: seen.append(out))
    losses = run.training_step(Made().batches[0]).losses
    assert inside == [torch.bfloat16]
    assert seen[0].columns().dtype == losses.total.dtype == torch.float32
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in run.parameters)
    exact = run_of("compute.precision=fp32", "model.projection_size=4")
    close = exact.losses(Made().batches[0]).total.item()
    assert losses.total.item() == pytest.approx(close, rel=2e-2)
    assert losses.total.item() != close
    assert run.evaluate(Made())["fused/loss"] > 0
    assert inside == [torch.bfloat16]  # the moving average was evaluated, by a network of its own


@pytest.mark.parametrize("overrides", [[], ["data.micro_batch_size=3"], ["alpha.solver=cg"], ["alpha.solver=neumann"]])
def test_solvers_with_products_run_in_float32_and_look_ahead_in_the_precision_of_its_step(overrides: list[str]) -> None:
    settings = [*LEARNED, *SGD, "alpha.product=hessian", *overrides]
    values = {}
    for precision in ("fp32", "bf16"):
        run = run_of(*settings, f"compute.precision={precision}")
        run.prepare(3)
        run.alpha.value = 0.5
        dtypes: set[torch.dtype] = set()
        run.model.encoders["image"].features[0].register_forward_hook(
            lambda m, i, out, seen=dtypes: seen.add(out.dtype)
        )
        batches = Made().batches
        d: list[torch.Tensor] = []
        d: list[torch.Tensor] = []
        if run.config.looks_ahead:
            losses = run.losses(batches[0])
            direct = flatten(torch.autograd.grad(losses.matching - losses.classification, run.parameters))
            d = run.training_step(batches[0], before_alpha=True).d
            assert F.cosine_similarity(flatten(d), direct, dim=0) > (0.99 if "micro" in str(overrides) else 1 - 1e-6)
        values[precision] = run.alpha_gradient(batches[0], iter([batches[1]]), d).value
        half = precision == "bf16" and run.config.looks_ahead
        assert dtypes == {torch.bfloat16 if half else torch.float32}
        assert (run.model.autocast != {}) == (precision == "bf16")  # it is back
    if "alpha.solver" in str(overrides):
        assert values["bf16"] == values["fp32"]


@pytest.mark.parametrize(
    ("capabilities", "encoder", "expected"),
    [
        ({"avx2": True}, "resnet18", None),
        ({"avx512_f": True, "avx512_bf16": True}, "resnet18", torch.bfloat16),
        ({"amx_bf16": True}, "resnet18", torch.bfloat16),
        ({"amx_bf16": True}, "small", None),
    ],
)
def test_auto_takes_bfloat16_where_the_hardware_has_it_and_the_encoder_is_large(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], encoder: str, expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    config = load(RunConfig, None, [f"model.encoder={encoder}"])
    assert compute.precision(config.compute, config.model, "image", torch.device("cpu")) == expected


@pytest.mark.parametrize(("width", "right"), [(16, False), (17, True), (32, True)])
def test_bfloat16_is_left_out_where_a_cpu_makes_noise_of_its_gradient(
    monkeypatch: pytest.MonkeyPatch, width: int, right: bool
) -> None:
    """A ResNet's last strided convolution has an input one wide; with oneDNN 3 its gradient reached 1e16, and NaN."""
    monkeypatch.setattr(compute, "computes_in_bfloat16", lambda device: True)
    image = CARD.modalities["image"].model_copy(update={"shape": [3, 48, width]})
    card = CARD.model_copy(update={"modalities": CARD.modalities | {"image": image}})
    batch = Made().batches[0]
    batch.inputs["image"] = torch.randn(8, 3, 48, width)
    gradients = {}
    for precision in ("auto", "fp32"):
        run = Trainer(load(RunConfig, None, [*TINY, *RESNETS, f"compute.precision={precision}"]), card)
        gradients[precision] = flatten(torch.autograd.grad(run.losses(batch).total, run.parameters))
        if precision == "auto":
            assert set(run.model.autocast) == ({"audio", "image"} if right else {"audio"})
    assert F.cosine_similarity(gradients["auto"], gradients["fp32"], dim=0) > 0.9
    if not right:
        with pytest.raises(UserError, match=r"bf16 gives wrong gradients on a CPU for model\.encoders\.image"):
            Trainer(load(RunConfig, None, [*TINY, *RESNETS, "compute.precision=bf16"]), card)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"compute\.precision: fp16 needs a GPU, and the device is cpu"):
        run_of("compute.precision=fp16")


def test_channels_last_changes_the_layout_and_not_the_gradient() -> None:
    resnets = ["model.encoders={audio: {name: resnet18, width: 16}, image: {name: resnet18, width: 16}}"]
    formats = ("contiguous", "channels_last", "auto")
    runs = {name: run_of(*resnets, "compute.precision=fp32", f"compute.memory_format={name}") for name in formats}
    found = {}
    for name, run in runs.items():
        weight = run.model.encoders["image"].body.embedder.embedder.convolution.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (name != "contiguous")
        found[name] = flatten(torch.autograd.grad(run.losses(Made().batches[0]).total, run.parameters))
    assert float((found["auto"] - found["contiguous"]).norm() / found["contiguous"].norm()) < 1e-4
    assert torch.equal(found["auto"], found["channels_last"])


def test_a_cpu_is_not_given_convolutions_whose_gradient_it_has_wrong() -> None:
    """Strided 1 x 1 ones of few channels (oneDNN issue 6035): wrong, and another value at every call."""
    run = run_of(*RESNETS)
    first, second = (
        torch.autograd.grad(run.losses(Made().batches[0]).total, run.parameters, materialize_grads=True) for _ in "ab"
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    weight = run.model.encoders["image"].body.embedder.embedder.convolution.weight
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UserError, match=r"channels_last gives wrong gradients on a CPU for model\.encoders\.audio"):
        run_of(*RESNETS, "compute.memory_format=channels_last")


def test_gradients_have_the_layout_of_their_parameters_whichever_way_they_come() -> None:
    """PyTorch's fused optimisers walk through both side by side."""
    for micro in ([], ["data.micro_batch_size=3"]):
        run = run_of(*SGD, "compute.memory_format=channels_last", *micro)
        run.prepare(3)
        run.training_step(Made().batches[0])
        assert all(p.grad is not None and p.grad.stride() == p.stride() for p in run.parameters)


def test_the_moving_average_is_that_of_the_weights_and_is_what_is_evaluated() -> None:
    run = run_of("optimizer.ema_decay=0.6", *RESNETS)
    run.prepare(3)
    key = "encoders.audio.project.weight"
    weights, means = [], []
    for batch in Made().batches:
        run.training_step(batch)
        weights.append(run.model.state_dict()[key].clone())
        means.append(run.model.state_dict()["encoders.image.body.embedder.embedder.normalization.running_mean"].clone())
    averaged = run.averaged.module.state_dict()
    for values, name in ((weights, key), (means, "encoders.image.body.embedder.embedder.normalization.running_mean")):
        expected = 0.6 * (0.6 * values[0] + 0.4 * values[1]) + 0.4 * values[2]
        torch.testing.assert_close(averaged[name], expected)
    with_average = run.evaluate(Made())
    run.model.load_state_dict(averaged)
    run.averaged = None
    assert run.evaluate(Made()) == with_average


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.ema_decay=0.9", "compute.precision=bf16", "compute.memory_format=channels_last"],
        ["optimizer.ema_decay=0.9", *RESNETS, *LEARNED],
        [
            "optimizer.name=sgd",
            "model.encoders={audio: {dropout: 0.4, learning_rate_factor: 0.5}}",
            "model.fusion=ml_lstm",
        ],
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tmp_path: Path, overrides: list[str]) -> None:
    whole = trained(*overrides)
    train_until_killed(run_of(*overrides), Splits(Made(), Made(), Made()), tmp_path / "checkpoint.pt")
    again = run_of(*overrides, "seed=0")
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    torch.manual_seed(99)
    fit(again, Splits(Made(), Made(), Made()))
    states = [again.model.state_dict(), whole.model.state_dict()]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    for one, other in zip(again.history, whole.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_compiled_encoders_are_used_and_refused_where_second_derivatives_are_taken() -> None:
    run = run_of("compute.compile=true")
    run.prepare(3)
    with torch.compiler.set_stance("force_eager"):
        found = run.training_step(Made().batches[0]).losses.total
    assert all(encoder._compiled_call_impl is not None for encoder in run.model.encoders.values())
    assert found.item() == pytest.approx(run_of().losses(Made().batches[0]).total.item())
    assert set(run.model.state_dict()) == set(run_of().model.state_dict())
    for strategy in (["alpha.strategy=learned", "alpha.solver=cg"], ["alpha.strategy=official", "method=official"]):
        with pytest.raises(UserError, match=r"compute\.compile works with alpha\.solver identity only"):
            load(RunConfig, None, ["compute.compile=true", *strategy])


@pytest.mark.parametrize(
    ("overrides", "device", "world_size", "expected"),
    [
        ([], "cuda", 2, True),
        (LEARNED, "cuda", 2, True),
        ([], "cuda", 1, False),
        ([], "cpu", 2, False),
        ([*LEARNED, "alpha.solver=cg"], "cuda", 2, False),
        (["data.micro_batch_size=2"], "cuda", 2, False),
    ],
)
def test_batch_norm_is_synchronised_where_that_can_be_done(
    overrides: list[str], device: str, world_size: int, expected: bool
) -> None:
    config = load(RunConfig, None, overrides)
    second, micro = config.learns_alpha and not config.looks_ahead, config.data.micro_batch_size is not None
    assert compute.synchronised(torch.device(device), world_size, second, micro) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_profiled_run_goes_through_ray_train(tmp_path: Path, ray_local: None) -> None:
    config = load(RunConfig, None, [*TINY, f"data.path={write_dataset(tmp_path / 'shards')}", "device=cuda"])
    run_on_workers(Launch(config, DataSource.open(config), tmp_path / "run", Workers(1, 1, 1), profile=True), [])
    assert len(read_epochs(tmp_path / "run")) == config.epochs
    found = json.loads((tmp_path / "run" / PROFILE).read_text())
    assert found["parts"]["forward"] > 0
    assert found["parts"]["other"] < 0.5 * found["seconds"]


def test_synchronised_batch_norm_replaces_every_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "synchronised", lambda *arguments, **named: True)
    model = run_of(*RESNETS).model
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {nn.SyncBatchNorm}
