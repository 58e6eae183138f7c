"""How often a training step passes through the encoders is as the methods say (`Method.passes`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from method_cases import CASES
from tiny_run import prepared

from lfm_ray.datasets.shards import Shards
from lfm_ray.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_step_takes_as_many_passes_as_the_method_says(shards: Shards, name: str) -> None:
    """At most, over eight steps of which every third begins an epoch."""
    run, batches = prepared(shards, *CASES[name], "epochs=6")
    counted: Counter[str] = Counter()
    encoder = run.model.encoders["audio"]

    def forward(module: Any, given: Any, embedding: torch.Tensor) -> None:
        counted["forward"] += 1
        if embedding.requires_grad:
            embedding.register_hook(lambda gradient: counted.update(backward=1))

    encoder.register_forward_hook(forward)
    most = [0, 0]
    for _ in range(4):
        for batch in batches[:2]:
            counted.clear()
            step = run.training_step(batch)
            most = [max(most[0], counted["forward"]), max(most[1], counted["backward"])]
        parts = ("fused", *run.model.encoders)
        measured = run.method.measures(step.outputs, step.labels)
        row = {f"val/{a}/{b}": 0.5 for a in parts for b in ("accuracy", "loss")}
        row |= {f"{split}/{name}": value for split in ("train", "val") for name, value in measured.items()}
        run.method.on_epoch_end(run.state(), row)
        run.epoch += 1
    assert most == [{"m": 2}.get(passes) or int(passes) for passes in METHODS[name].passes]
