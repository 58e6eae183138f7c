"""What only a GPU can show, without Ray: precisions, copies, one rank of NCCL, frozen models.

`benchmarks/gpu.sh` runs these; where there is no GPU they are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hub_models import card_for, save, values
from made_batches import CARD, LEARNED, SGD, TINY, Made, run_of, trained
from torch.nn.parallel import DistributedDataParallel

from lfm_ray.config import RunConfig
from lfm_ray.models.embedding import Embedder, frozen_encoder
from lfm_ray.models.encoders import build_encoder
from lfm_ray.models.encoders.base import EncoderSettings
from lfm_ray.runtime import checkpoint, compute, distributed
from lfm_ray.settings import load
from lfm_ray.training.loop import Splits, fit
from lfm_ray.training.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def test_batches_reach_the_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    pin = torch.Tensor.pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or pin(self))
    copies: list[bool] = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda self, *a, **named: copies.append(named.get("non_blocking", False)) or to(self, *a, **named),
    )
    batch = Made().batches[0]
    moved = compute.on_device(batch, torch.device("cuda"))
    assert len(pinned) == 3
    assert copies == [True] * 3  # does not wait for the copy
    assert moved.labels.is_cuda
    torch.testing.assert_close(moved.inputs["image"].cpu(), batch.inputs["image"])
    compute.on_device(moved, torch.device("cuda"))
    assert len(pinned) == 3  # what is there is not copied again


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("micro", [[], ["data.micro_batch_size=3"]])
def test_on_a_gpu_every_precision_trains_and_learns_alpha(precision: str, micro: list[str]) -> None:
    settings = [*SGD, *LEARNED, *micro, "device=cuda", "optimizer.gradient_clip=null"]
    exact = run_of(*settings, "compute.precision=fp32")
    found = run_of(*settings, f"compute.precision={precision}")
    values = []
    for run in (exact, found):
        run.prepare(3)
        run.alpha.value = 0.5
        batches = Made().batches
        before = [parameter.detach().clone() for parameter in run.parameters]
        taken = run.training_step(batches[0], before_alpha=True)
        step = [after.detach() - was for after, was in zip(run.parameters, before, strict=True)]
        by_alpha = run.alpha_gradient(batches[0], iter([batches[1]]), taken.d).value
        values.append((torch.cat([one.flatten() for one in step]), by_alpha))
    assert F.cosine_similarity(values[0][0], values[1][0], dim=0) > 0.98
    assert values[1][1] == pytest.approx(values[0][1], rel=0.1)
    assert found.scaler.is_enabled() == (precision == "fp16")


def test_on_a_gpu_a_run_in_float16_resumes_with_its_scale(tmp_path: Path) -> None:
    run = trained("device=cuda", "compute.precision=fp16")
    run.scaler.update(1024.0)
    checkpoint.save(tmp_path / "checkpoint.pt", run.state_dict())
    again = run_of("device=cuda", "compute.precision=fp16")
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    again.prepare(3)
    assert again.scaler.get_scale() == 1024.0


def test_on_a_gpu_ddp_over_nccl_trains_as_one_process_does(tmp_path: Path) -> None:
    settings = [*SGD, *LEARNED, "device=cuda", "compute.precision=bf16"]
    alone = trained(*settings)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        config = load(RunConfig, None, [*TINY, *settings])
        run = Trainer(config, CARD, wrap=lambda model: DistributedDataParallel(model, device_ids=[0]))
        fit(run, Splits(Made(), Made(), Made()))
        rows = torch.randn(4, 3, device="cuda", requires_grad=True)
        gathered = distributed._GatherRows.apply(rows)  # the collectives themselves, which one rank alone leaves out
        (slope,) = torch.autograd.grad(gathered.square().sum(), rows)
    finally:
        dist.destroy_process_group()
    assert torch.equal(gathered, rows)
    torch.testing.assert_close(slope, 2 * rows)
    for one, other in zip(run.history, alone.history, strict=True):
        for key in ("train/loss", "val/fused/loss", "alpha_end"):
            assert one[key] == pytest.approx(other[key], rel=1e-2), key


@pytest.mark.parametrize("name", ["vit", "ast", "bert", "videomae"])
def test_on_a_gpu_a_frozen_model_gives_the_features_of_a_cpu(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    card = card_for(name)
    column = values(card, rows=5).numpy().astype(card.dtype)
    found = [
        Embedder("m", card, {}, frozen_encoder("m", card, str(tmp_path)).to(device), "auto")(column)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-2, atol=1e-2)


def test_on_a_gpu_a_text_has_the_n_grams_of_a_cpu() -> None:
    card = card_for("byte bert", vocabulary=257)
    encoder = build_encoder("m", card, EncoderSettings(name="ngrams", width=4), 5)
    torch.nn.init.normal_(encoder.embed.weight)
    value = values(card)
    torch.testing.assert_close(encoder.to("cuda")(value.to("cuda")).cpu(), encoder.cpu()(value), rtol=1e-3, atol=1e-3)
