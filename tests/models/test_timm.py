"""Models of `timm` as encoders, on tiny ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_models import card_for, values

from lfm_ray.errors import UserError
from lfm_ray.models.embedding import frozen_encoder
from lfm_ray.models.encoders import build_encoder, check_encoder, timm_models
from lfm_ray.models.encoders.auto import AutoSettings
from lfm_ray.models.encoders.pretrained import architecture_only, save_architecture

timm = pytest.importorskip("timm")
pytest.importorskip("torchvision")
optim = pytest.importorskip("timm.optim")

SIDE = 32
TINY: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": TINY,
    "beit_base_patch16_224": TINY,
    "swin_tiny_patch4_window7_224": {
        "img_size": SIDE, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4
    },
    "test_resnet": {},
    "test_convnext": {},
    "mobilenetv3_small_050": {},  # its pooled vector is wider than its feature map
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, arguments in MODELS.items():
        torch.manual_seed(0)
        made[name] = tmp_path_factory.mktemp(name)
        model = timm.create_model(name, num_classes=7, **arguments)
        data = {"input_size": (3, SIDE, SIDE)}
        timm.models.save_for_hf(model, made[name], safe_serialization=True, data_config=data)
    return made


def encoder_of(folder: Path, **settings: Any) -> Any:
    own = AutoSettings(name="auto", pretrained=str(folder), **settings)
    check_encoder("m", card_for("vit"), own)
    torch.manual_seed(0)
    return build_encoder("m", card_for("vit"), own, 5)


@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_computes_what_timm_does(name: str, folders: dict[str, Path]) -> None:
    encoder, value = encoder_of(folders[name]).eval(), values(card_for("vit"))
    model = timm.create_model(f"local-dir:{folders[name]}", pretrained=True, num_classes=0).eval()
    how = timm.data.resolve_data_config(model=model)
    mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
    pixels = (value / 255 - mean) / std
    torch.testing.assert_close(encoder.pooled(value), model(pixels), rtol=1e-4, atol=1e-5)
    tokens, states = encoder.tokens(value), model.forward_features(pixels)
    space = (1, 2) if name.startswith("swin") else (2, 3) if states.ndim == 4 else (1,)
    torch.testing.assert_close(tokens.mean(dim=1), states.mean(dim=space), rtol=1e-4, atol=1e-5)
    mean_pooled = encoder_of(folders[name], pooling="mean").eval()
    torch.testing.assert_close(mean_pooled.pooled(value), states.mean(dim=space), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_architecture_takes_the_weights(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    trained, value = encoder_of(folders[name]).eval(), values(card_for("vit"))
    save_architecture(str(folders[name]), tmp_path / "model")
    with architecture_only():
        opened = encoder_of(tmp_path / "model").eval()
    opened.load_state_dict(trained.state_dict())
    torch.testing.assert_close(opened(value), trained(value))
    assert frozen_encoder("m", card_for("vit"), str(folders[name]), "tokens").tokens(value).ndim == 3


def test_layers_learn_the_slower_the_lower_they_are(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["vit_tiny_patch16_224"], layer_decay=0.5)
    factors = encoder.learning_rate_factors()
    for part, factor in {
        "patch_embed.proj.bias": 0.125,
        "blocks.0.norm1.bias": 0.25,
        "blocks.1.norm1.bias": 0.5,
    }.items():
        assert factors[f"body.timm_model.{part}"] == factor
    for name in MODELS:
        factors = encoder_of(folders[name], layer_decay=0.5).learning_rate_factors()
        # as timm has them for a model with a classifier
        model = timm.create_model(name, num_classes=2, **MODELS[name])
        for group in optim.param_groups_layer_decay(model, layer_decay=0.5):
            for key in [key for key, one in model.named_parameters() if any(one is its for its in group["params"])]:
                assert factors.get(f"body.timm_model.{key}", 1.0) == group["lr_scale"]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "test_resnet"])
def test_adapters_are_where_they_have_an_effect(name: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("peft")
    how = {"targets": ["conv_pw"]} if name.startswith("mobilenet") else {}
    encoder = encoder_of(folders[name], lora={"rank": 2, **how}).eval()
    its = {key: parameter for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(encoder(values(card_for("vit"))).sum(), list(its.values()), allow_unused=True)
    assert all(one is not None for one in gradients)
    assert any("fc1.lora_A" in key or "conv_pw.lora_A" in key for key in its)
    assert any("qkv.lora_A" in key for key in its) == name.startswith(("vit", "swin"))  # BEiT's reads its weights


def test_checkpointed_states_give_the_same_gradient(folders: dict[str, Path]) -> None:
    gradients = []
    for kept in (False, True):
        encoder = encoder_of(folders["vit_tiny_patch16_224"], gradient_checkpointing=kept).train()
        encoder(values(card_for("vit"))).square().sum().backward()
        gradients.append(encoder.body.timm_model.cls_token.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_size_of_pictures_is_that_of_the_model(folders: dict[str, Path]) -> None:
    own = AutoSettings(name="auto", pretrained=str(folders["test_resnet"]))
    with pytest.raises(
        UserError, match=r"takes 32 x 32 pixels, and there are 16 x 16; prepare with --set image\.size="
    ):
        check_encoder("m", card_for("vit", shape=[3, 16, 16]), own)
    with pytest.raises(UserError, match="is a timm_wrapper, which takes image or video, not text"):
        check_encoder("m", card_for("bert"), own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "hf-hub:somebody/model"}, "has no architecture 'hf-hub:somebody/model'"),
        ({"architecture": "local-dir:/tmp"}, "has no architecture"),
        ({"architecture": "resnot18"}, "has no architecture 'resnot18'"),
        ({"architecture": ["resnet18"]}, "has no architecture"),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "model_args in config.json has checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "model_args in config.json has pretrained"),
        ({"model_args": ["pretrained"]}, "model_args in config.json has a list"),
        ({"model_args": {"global_pool": ""}}, "does not pool its features"),
        ({"model_args": {"no_such": 1}}, "cannot be loaded"),
    ],
)
def test_configs_that_ask_for_something_else_are_refused(
    change: dict[str, Any], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads((folders["test_resnet"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    (tmp_path / "model.safetensors").write_bytes((folders["test_resnet"] / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=rf"model\.encoders\.m\.pretrained: {tmp_path}.*{said}") as caught:
        encoder_of(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_package_is_named(package: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(
        UserError, match=rf"is a model of timm, and {package} is not installed; pip install 'lfm_ray\[t"
    ):
        encoder_of(folders["test_resnet"])
