"""Any model of `transformers` as an encoder, on tiny ones of each family that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hub_models import EXTRACTORS, MODELS, PIXELS, RATE, SIDE, WORDS, card_for, save, save_all, values

from lfm_ray.errors import UserError
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier
from lfm_ray.models.encoders import build_encoder, check_encoder, timm_models
from lfm_ray.models.encoders.auto import AutoSettings, layer_heights
from lfm_ray.models.encoders.pretrained import architecture_only, save_architecture
from lfm_ray.optimization.optimizer import OptimizerSettings, build_optimizer

D = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory)


def encoder_of(name: str, folder: Path, card: Any = None, **settings: Any) -> Any:
    card, own = card or card_for(name), AutoSettings(name="auto", pretrained=str(folder), **settings)
    check_encoder("m", card, own)
    torch.manual_seed(0)
    return build_encoder("m", card, own, D)


@pytest.mark.parametrize("name", MODELS)
def test_every_family_embeds_and_learns(name: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(name, folders[name])
    value = values(card_for(name))
    embedding = encoder(value)
    assert embedding.shape == (3, D)
    trained = {key: parameter for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(embedding.square().sum(), list(trained.values()), allow_unused=True)
    unused = [key for key, gradient in zip(trained, gradients, strict=True) if gradient is None]
    assert unused == []  # several workers would wait for their gradients
    encoder.eval()
    torch.testing.assert_close(encoder(value), encoder(value.flip(0)).flip(0), rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    np.random.seed(3)
    encoder.train()
    first = encoder(value)
    torch.manual_seed(3)
    np.random.seed(4)  # nothing but PyTorch's generator decides
    torch.testing.assert_close(encoder(value), first)


@pytest.mark.parametrize("name", [name for name, (kind, _) in MODELS.items() if kind in ("image", "video")])
def test_pixels_are_scaled_as_the_processor_says(name: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(name, folders[name]).eval()
    value = values(card_for(name))
    mean, std = (torch.tensor(PIXELS[key])[:, None, None] for key in ("image_mean", "image_std"))
    scaled = value / 127.5 - 1 if name == "vivit" else value / 255
    whole = hf.AutoModel.from_pretrained(folders[name]).eval()
    body = whole.vision_model if name == "siglip" else whole
    found = body(pixel_values=(scaled - mean) / std)
    states = found.last_hidden_state
    pooled = found.get("pooler_output")
    if pooled is None:
        pooled = states.mean(dim=1) if name == "videomae" else states[:, 0]
    torch.testing.assert_close(encoder(value), encoder.project(pooled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_sound_is_prepared_by_the_models_own_extractor(name: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(name, folders[name]).eval()
    value = values(card_for(name))
    sound = [one.numpy() / 32768 for one in value.float()]
    inputs = EXTRACTORS[name]()(sound, sampling_rate=RATE, return_tensors="pt")
    whole = hf.AutoModel.from_pretrained(folders[name]).eval()
    body = whole.audio_model if name == "clap" else whole.get_encoder() if name == "whisper" else whole
    key = body.main_input_name
    found = body(**{key: inputs[key].float()})
    pooled = found.get("pooler_output")
    pooled = found.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)
    torch.testing.assert_close(encoder(value), encoder.project(pooled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_sound_is_prepared_in_float32_even_where_the_model_computes_in_less(
    name: str, folders: dict[str, Path]
) -> None:
    encoder = encoder_of(name, folders[name]).eval()
    value = values(card_for(name))
    expected = encoder.sound(value, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.sound(value, torch.float32)
        assert encoder(value).isfinite().all()
    for key, one in expected.items():
        assert torch.equal(found[key], one)


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta", "modernbert", "mpnet"])
@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_padding_of_a_text_has_no_effect(name: str, pooling: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(name, folders[name], pooling=pooling).eval()
    card = card_for(name)
    tokens = values(card)[:, :4]
    padded = torch.cat([tokens, torch.full((3, 5), card.padding)], dim=1)
    torch.testing.assert_close(encoder(tokens), encoder(padded), rtol=1e-4, atol=1e-5)
    assert encoder(torch.full_like(padded, card.padding)).isfinite().all()  # an empty text


def test_the_pooling_is_that_of_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    def pooling(name: str, folder: Path | None = None, **settings: Any) -> str:
        return encoder_of(name, folder or folders[name], **settings).pooling

    found = {name: pooling(name) for name in MODELS}
    assert {name for name, one in found.items() if one == "cls"} == {"deberta", "modernbert", "timesformer"}
    assert {name for name, one in found.items() if one == "mean"} == {
        "wav2vec2",
        "hubert",
        "wavlm",
        "whisper",
        "videomae",
    }
    assert pooling("bert", pooling="mean") == "mean"
    with pytest.raises(UserError, match=r"model\.encoders\.m\.pooling: .* has no pooler; use cls, mean or auto"):
        pooling("deberta", pooling="model")
    hf.BertForMaskedLM(hf.BertConfig(**WORDS)).save_pretrained(tmp_path)  # it has no pooler
    assert pooling("bert", tmp_path) == "cls"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert pooling("bert", tmp_path) == "mean"


def test_an_exported_architecture_takes_the_weights_and_the_pooling(folders: dict[str, Path], tmp_path: Path) -> None:
    hf.BertForMaskedLM(hf.BertConfig(**WORDS)).save_pretrained(tmp_path / "masked")
    for name, folder in {**folders, "bert": tmp_path / "masked"}.items():
        trained = encoder_of(name, folder).eval()
        save_architecture(str(folder), tmp_path / name)
        with architecture_only():
            opened = encoder_of(name, tmp_path / name).eval()
        opened.load_state_dict(trained.state_dict())
        value = values(card_for(name))
        torch.testing.assert_close(opened(value), trained(value))
        assert opened.pooling == trained.pooling


def test_images_of_a_clip_and_grey_pictures(folders: dict[str, Path]) -> None:
    clip = card_for("vit", kind="video", shape=[2, 1, SIDE, SIDE])
    encoder = encoder_of("vit", folders["vit"], clip).eval()
    value = values(clip)
    assert encoder(value).shape == (3, D)
    picture = encoder_of("vit", folders["vit"]).eval()
    colours = value.expand(-1, -1, 3, -1, -1)
    each = [picture.pooled(colours[:, frame]) for frame in range(2)]
    torch.testing.assert_close(encoder.pooled(value), (each[0] + each[1]) / 2)


@pytest.mark.parametrize("name", ["vit", "swin", "wav2vec2"])
def test_layers_learn_the_slower_the_lower_they_are(name: str, folders: dict[str, Path]) -> None:
    encoder = encoder_of(name, folders[name], layer_decay=0.5)
    factors = encoder.learning_rate_factors()
    heights = layer_heights(encoder.body)
    layers = {"vit": 2, "swin": 3, "wav2vec2": 2}[name]
    assert set(heights.values()) == set(range(layers + 1))
    lowest = {name: value for name, value in factors.items() if "embed" in name or "feature" in name}
    assert set(lowest.values()) == {0.5 ** (layers + 1)}
    settings = {"m": AutoSettings(name="auto", pretrained=str(folders[name]), layer_decay=0.5)}
    model = MultimodalClassifier({"m": card_for(name)}, 2, ModelSettings(encoders=settings))
    optimizer, _ = build_optimizer(OptimizerSettings(schedule="constant", learning_rate=0.1), model, 1, 1, {"m": 0.1})
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        if id(parameter) in rates:
            inner = key.removeprefix("encoders.m.")
            expected = 0.1 if inner == key else 0.01 * factors.get(inner, 1.0)
            assert rates[id(parameter)] == pytest.approx(expected)


def test_checkpointed_states_give_the_same_gradient(folders: dict[str, Path]) -> None:
    value = values(card_for("vit"))
    gradients = []
    for kept in (False, True):
        encoder = encoder_of("vit", folders["vit"], gradient_checkpointing=kept).train()
        encoder(value).square().sum().backward()
        gradients.append(encoder.body.embeddings.cls_token.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(UserError, match=r"model\.encoders\.m\.gradient_checkpointing: convnext has none"):
        encoder_of("convnext", folders["convnext"], gradient_checkpointing=True)


def test_models_of_other_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "find_spec", lambda name: None)
    files = {
        "adapter_config.json": ({"peft_type": "LORA", "base_model_name_or_path": "vit"}, "is an adapter of peft"),
        "config.json": (
            {"architecture": "resnet18", "num_classes": 0, "pretrained_cfg": {}},
            "is a model of timm, and timm is not",
        ),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"model\.encoders\.m\.pretrained: {tmp_path} {said}"):
            check_encoder("m", card_for("vit"), AutoSettings(name="auto", pretrained=str(tmp_path)))
        (tmp_path / name).unlink()


def test_what_does_not_fit_is_refused_before_anything_is_built(folders: dict[str, Path], tmp_path: Path) -> None:
    hf.Wav2Vec2Model(hf.Wav2Vec2Config(**{**WORDS, "conv_dim": (4,), "conv_stride": (5,), "conv_kernel": (10,),
                     "num_feat_extract_layers": 1, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}),
                     ).save_pretrained(tmp_path)  # fmt: skip
    spectrogram = {"shape": [1, 257, 30], "dtype": "float16", "sample_rate": None}
    cases = [
        ("vit", card_for("vit", shape=[3, 28, 28]), "takes 32 x 32 pixels, and there are 28 x 28; .* image.size=32"),
        ("vit", card_for("bert"), "is a vit, which takes image or video, not text"),
        ("bert", card_for("vit"), "is a bert, which takes text, not image"),
        ("wav2vec2", card_for("wav2vec2", **spectrogram), "--set audio.form=waveform --set audio.sample_rate=16000"),
        ("wav2vec2", card_for("wav2vec2", sample_rate=8000), "takes 16000 Hz, and there are 8000; .*sample_rate=16000"),
        ("wav2vec2", card_for("wav2vec2", shape=[8]), "takes longer clips"),
        ("ast", card_for("ast", shape=[20000]), r"at most 0\.655 s, and clips have 1\.25; .*audio\.seconds=0\.655"),
        ("whisper", card_for("whisper", shape=[20000]), r"at most 1 s, .*audio\.seconds=1"),
        ("clap", card_for("clap", shape=[20000]), r"at most 1 s, .*audio\.seconds=1"),
        ("bert", card_for("bert", shape=[40]), r"at most 12 tokens, and texts have 40; .*text\.length=12"),
        ("roberta", card_for("roberta", shape=[13]), r"at most 12 tokens, and texts have 13"),
        ("bert", card_for("bert", vocabulary=257), "20 different tokens .* there are 257 .*text.tokenizer="),
        ("bert", card_for("bert", padding=3), "padded with 0, and there are 20 padded with 3"),
        ("videomae", card_for("videomae", shape=[3, 3, SIDE, SIDE]), "takes 4 frames, .* 3 .*data.frames=4"),
        ("none", card_for("wav2vec2"), "has no preprocessor_config.json"),
    ]
    for name, card, said in cases:
        settings = AutoSettings(name="auto", pretrained=str({**folders, "none": tmp_path}[name]))
        with pytest.raises(UserError, match=said) as caught:
            check_encoder("m", card, settings)
        assert str(caught.value).startswith("model.encoders.m.pretrained: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"model\.encoders\.m\.pretrained: auto needs a folder"):
        check_encoder("m", card_for("vit"), AutoSettings(name="auto"))
    with pytest.raises(UserError, match=r"model\.encoders\.m\.name: resnet18 takes spectrograms, .*audio\.form"):
        check_encoder("m", card_for("wav2vec2"), AutoSettings(name="resnet18"))


def test_the_tokens_are_compared_with_those_of_the_models_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    save("bert", tmp_path)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "b"])}))
    hf.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    settings = AutoSettings(name="auto", pretrained=str(tmp_path))
    check_encoder("m", card_for("bert", vocabulary=4), settings)
    with pytest.raises(UserError, match=rf"takes 4 different tokens .* 20 .*text\.tokenizer={tmp_path}"):
        check_encoder("m", card_for("bert"), settings)
