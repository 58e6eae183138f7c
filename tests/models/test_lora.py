"""Low-rank adapters of pretrained encoders, on tiny models of each family."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hub_models import MODELS, SIDE, card_for, save_all, values
from tiny_run import SMALL, same_weights, small_splits, train_until_killed

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, Shards, sha256, write_shard
from lfm_ray.errors import UserError
from lfm_ray.export import model_folder
from lfm_ray.models.encoders import build_encoder, check_encoder, lora
from lfm_ray.models.encoders.auto import AutoSettings
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import Trainer

pytest.importorskip("peft")

HELD_OUT = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """16 + 8 pictures and vectors of two classes."""
    folder, random, splits = tmp_path_factory.mktemp("data"), np.random.default_rng(0), {}
    for split, rows in {"train": 16, "val": 8}.items():
        file = folder / f"{split}-00000.arrow"
        arrays = {
            "picture": random.integers(0, 256, (rows, 3, SIDE, SIDE), dtype=np.uint8),
            "vector": random.normal(size=(rows, 4)).astype(np.float32),
        }
        write_shard(file, [f"{split}{row}" for row in range(rows)], [row % 2 for row in range(rows)], arrays)
        splits[split] = [ShardFile(file=file.name, rows=rows, sha256=sha256(file))]
    modalities = {
        "picture": card_for("vit"),
        "vector": ModalityCard(kind="feature", shape=[4], dtype="float32", mean=0, std=1),
    }
    card = DatasetCard(modalities=modalities, classes=["a", "b"], splits=splits, preprocessing={}, fingerprint="0")
    (folder / CARD).write_text(card.model_dump_json())
    return Shards(folder)


def encoder_of(name: str, folder: Path, **settings: Any) -> Any:
    card, own = card_for(name), AutoSettings(name="auto", pretrained=str(folder), **settings)
    check_encoder("m", card, own)
    torch.manual_seed(0)
    return build_encoder("m", card, own, 5)


def trained(encoder: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", MODELS)
def test_adapters_of_every_family_begin_as_the_model_learn_and_merge(name: str, folders: dict[str, Path]) -> None:
    plain, value = encoder_of(name, folders[name]).eval(), values(card_for(name))
    encoder = encoder_of(name, folders[name], lora={"rank": 2}).eval()
    encoder.project = plain.project
    torch.testing.assert_close(encoder(value), plain(value))
    its = trained(encoder)
    assert {key.split(".")[0] for key in its if "lora_" not in key} == {"project"}
    for key, parameter in its.items():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter)
    gradients = torch.autograd.grad(encoder(value).square().sum(), list(its.values()), allow_unused=True)
    assert [key for key, one in zip(its, gradients, strict=True) if one is None] == []  # several workers would wait
    adapted = encoder(value)
    assert not torch.allclose(adapted, plain(value), rtol=1e-3, atol=1e-4)
    lora.merge_adapters(encoder)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(encoder(value), adapted, rtol=1e-3, atol=1e-4)


def test_the_size_of_the_adapters_is_as_the_settings_say(folders: dict[str, Path]) -> None:
    how = {"rank": 3, "alpha": 6, "dropout": 0.5, "targets": ["q_proj", "v_proj"]}
    encoder = encoder_of("siglip", folders["siglip"], lora=how)
    layers = {name: module for name, module in encoder.named_modules() if lora.has_adapters(module)}
    assert {name.split(".")[-1] for name in layers} == {"q_proj", "v_proj"}
    assert len(layers) == 4  # of two layers
    for layer in layers.values():
        assert layer.lora_A["default"].weight.shape == (3, 8)
        assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (2.0, 0.5)


def test_layers_of_adapters_learn_the_slower_the_lower_they_are(folders: dict[str, Path]) -> None:
    encoder = encoder_of("vit", folders["vit"], lora={"rank": 2}, layer_decay=0.5)
    factors = encoder.learning_rate_factors()
    found = {key: factors.get(key, 1.0) for key in trained(encoder) if "lora_" in key}
    assert {factor for key, factor in found.items() if ".0." in key} == {0.25}
    assert {factor for key, factor in found.items() if ".1." in key} == {0.5}


def test_checkpointed_states_give_the_same_gradient_of_adapters(folders: dict[str, Path]) -> None:
    value, found = values(card_for("vit")), []
    for kept in (False, True):
        encoder = encoder_of("vit", folders["vit"], lora={"rank": 2}, gradient_checkpointing=kept).train()
        encoder(value).square().sum().backward()
        found.append({key: parameter.grad for key, parameter in trained(encoder).items()})
    torch.testing.assert_close(found[0], found[1])


def test_what_cannot_be_adapted_is_refused_in_a_line(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ("vit", {"targets": ["querry"]}, r"lora\.targets: the vit has no layer querry; it has .*q_proj"),
        ("vit", {"targets": ["layernorm_before"]}, r"lora\.targets: .* is not supported"),
        ("bert", {"targets": ["pooler.dense"]}, r"lora\.targets: the bert has no layer pooler\.dense"),
        (
            "wavlm",
            {"targets": ["q_proj"]},
            r"lora\.targets: adapters of q_proj have no effect, as the wavlm does not call",
        ),
    ]
    for name, how, said in cases:
        with pytest.raises(UserError, match=rf"model\.encoders\.m\.{said}") as caught:
            encoder_of(name, folders[name], lora=how)
        assert "\n" not in str(caught.value)
    both = f"model.encoders.m={{name: auto, pretrained: {folders['vit']}, frozen: true, lora: {{rank: 4}}}}"
    with pytest.raises(UserError, match=r"--set model\.encoders\.m: frozen trains nothing of the model, lora its adap"):
        load(RunConfig, None, [both])
    found = load(RunConfig, None, [both.replace("frozen: true, ", ""), "model.encoders.m.lora.rank=2"]).model.of("m")
    assert isinstance(found, AutoSettings) and found.lora and found.lora.rank == 2
    wrong = f"model.encoders.m={{name: auto, pretrained: {folders['vit']}, lora: {{r: 4}}}}"
    with pytest.raises(UserError, match=r"model\.encoders\.m\.lora\.r: unknown setting; .*rank"):
        load(RunConfig, None, [wrong])
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model\.encoders\.m\.lora: needs the package peft; pip install 'lfm_ray\[lo"):
        encoder_of("vit", folders["vit"], lora={})


def test_a_run_trains_adapters_resumes_and_is_exported_without_them(
    data: Shards, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = f"{{name: auto, pretrained: {folders['vit']}, lora: {{rank: 2, dropout: 0.2}}}}"
    learned = [
        "alpha.strategy=learned",
        "alpha.outer=held_out",
        "alpha.inner_iters=1",
        "optimizer.learning_rate=0.02",
        "data.batch_size=4",
    ]
    config = load(RunConfig, None, [*SMALL, *learned, "compute.precision=fp32", f"model.encoders.picture={how}"])

    run = Trainer(config, data.card)
    assert all("lora_" in name or ".body." not in name for name in run.named)  # what the hyper-gradient runs over
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    fit(run, small_splits(data, config, held_out=HELD_OUT))
    after = dict(run.model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(run.named)

    killed = Trainer(config, data.card)
    train_until_killed(killed, small_splits(data, config, held_out=HELD_OUT), tmp_path / "checkpoint.pt")
    resumed = Trainer(config, data.card)
    resumed.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    fit(resumed, small_splits(data, config, held_out=HELD_OUT))
    assert same_weights(resumed, run)

    model_folder.write(StoredModel.of(run.state_dict(), Path("checkpoint.pt")), tmp_path / "model")
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.split(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    card, model = model_folder.read(tmp_path / "model")
    kept = card.run.model.encoders["picture"]
    assert isinstance(kept, AutoSettings)
    assert kept.lora is not None  # the record of how it was trained
    assert not any("lora_" in name for name in model.state_dict())
    (batch,) = small_splits(data, load(RunConfig, None, ["data.batch_size=8"])).val.epoch(1)
    run.model.eval()
    torch.testing.assert_close(model(batch.inputs).fused, run.model(batch.inputs).fused, rtol=1e-4, atol=1e-5)


def test_the_statistics_of_batch_norm_stay(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    hf.ResNetModel(hf.ResNetConfig(**sizes)).save_pretrained(tmp_path)
    own = AutoSettings(name="auto", pretrained=str(tmp_path), lora={"rank": 2, "targets": ["convolution"]})
    encoder = build_encoder("m", card_for("vit"), own, 5)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.train()(values(card_for("vit"))).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    with pytest.raises(UserError, match=r"m\.lora: the resnet has no linear layer; set lora\.targets; it has con"):
        build_encoder("m", card_for("vit"), AutoSettings(name="auto", pretrained=str(tmp_path), lora={}), 5)


@pytest.mark.parametrize("product", ["gauss_newton", "hessian"])
def test_solvers_of_the_hyper_gradient_run_over_adapters(data: Shards, folders: dict[str, Path], product: str) -> None:
    how = f"{{name: auto, pretrained: {folders['vit']}, lora: {{rank: 1, targets: [q_proj]}}}}"
    learned = [
        "alpha.strategy=learned",
        "alpha.outer=held_out",
        "alpha.solver=cg",
        "alpha.damping=0.1",
        f"alpha.product={product}",
    ]
    settings = [*SMALL, *learned, "epochs=1", "alpha.inner_iters=1", f"model.encoders.picture={how}"]
    config = load(RunConfig, None, settings)
    run = Trainer(config, data.card)
    fit(run, small_splits(data, config, held_out=HELD_OUT))
    assert np.isfinite(run.history[-1]["alpha"])
