from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    ResNetConfig,
    ResNetModel,
)

from lfm_ray.config import RunConfig
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier
from lfm_ray.models.encoders import ENCODERS, build_encoder, check_encoder, ngrams, small
from lfm_ray.models.encoders.base import EncoderSettings
from lfm_ray.models.encoders.clip_image import CLIP_MEAN, CLIP_STD
from lfm_ray.models.encoders.resnet import IMAGENET_MEAN, IMAGENET_STD
from lfm_ray.optimization.hypergradient import flatten, twice_differentiable
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer

D = 5
SHAPES: dict[Kind, list[int]] = {
    "audio": [1, 33, 40],
    "image": [3, 32, 32],
    "video": [2, 1, 32, 32],
    "text": [9],
    "feature": [3, 4],
}
BUILT = {name: encoder for name, encoder in ENCODERS.items() if name != "auto"}  # which has no random weights
CASES = [(name, kind) for name, encoder in BUILT.items() for kind in encoder.kinds]


def card_of(kind: Kind, dtype: str = "float32", shape: list[int] | None = None, **more: Any) -> ModalityCard:
    shape = shape or SHAPES[kind]
    more = {"vocabulary": 20} | more if kind == "text" else more
    return ModalityCard(kind=kind, shape=shape, dtype=dtype, mean=0.5, std=2.0, **more)


def tiny(name: str) -> EncoderSettings:
    layers = 1 if "layers" in ENCODERS[name].settings else None
    return EncoderSettings(name=name, width=8, layers=layers)


def values(card: ModalityCard, rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if card.vocabulary:
        return torch.randint(1, card.vocabulary, (rows, *card.shape), generator=generator)
    return torch.randn(rows, *card.shape, generator=generator)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_encoder_embeds_every_kind_that_it_takes(name: str, kind: Kind) -> None:
    torch.manual_seed(0)
    card = card_of(kind)
    encoder = build_encoder("m", card, tiny(name), D)
    value = values(card)
    embedding = encoder(value)
    assert embedding.shape == (3, D)
    gradients = torch.autograd.grad(embedding.square().sum(), list(encoder.parameters()), materialize_grads=True)
    without = [
        key for (key, _), gradient in zip(encoder.named_parameters(), gradients, strict=True) if not gradient.any()
    ]
    assert [key for key in without if "key" not in key and "k_proj" not in key] == []  # a key's bias has no effect
    encoder.eval()
    shuffled = encoder(value.flip(0)).flip(0)
    torch.testing.assert_close(encoder(value), shuffled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in BUILT if name != "small"])
def test_encoders_have_the_derivatives_that_the_solvers_take(name: str) -> None:
    """Second derivatives backward and first ones forward, BatchNorm and attention included; by finite differences."""
    torch.manual_seed(0)
    kind = ENCODERS[name].kinds[0]
    card = card_of(kind)
    encoder = build_encoder("m", card, tiny(name), D).double()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    value = values(card, 8).double() if kind != "text" else values(card)
    names, theta = zip(*encoder.named_parameters(), strict=True)
    directions = [torch.randn_like(parameter) for parameter in theta]

    def slope(step: float) -> list[torch.Tensor]:
        moved = [p.detach() + step * v for p, v in zip(theta, directions, strict=True)]
        moved = [p.requires_grad_() for p in moved]
        out = torch.func.functional_call(encoder, dict(zip(names, moved, strict=True)), (value,))
        return list(torch.autograd.grad(out.sin().sum(), moved, materialize_grads=True))

    h = 1e-8  # small: a ReLU must not switch between the two points
    with twice_differentiable(encoder):
        loss = encoder(value).sin().sum()
        first = torch.autograd.grad(loss, theta, create_graph=True, materialize_grads=True)
        product = sum((g * v).sum() for g, v in zip(first, directions, strict=True))
        second = torch.autograd.grad(product, theta, materialize_grads=True)
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(p.detach(), v) for p, v in zip(theta, directions, strict=True)]
            out = torch.func.functional_call(encoder, dict(zip(names, dual, strict=True)), (value,))
            forward = forward_ad.unpack_dual(out.sin().sum()).tangent
    torch.testing.assert_close(forward, product, rtol=1e-8, atol=1e-8)
    differences = [(plus - minus) / (2 * h) for plus, minus in zip(slope(h), slope(-h), strict=True)]
    found, expected = flatten(second), flatten(differences)
    assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", ["bert", "clip_text", "ngrams"])
def test_padding_of_a_text_has_no_effect(name: str) -> None:
    torch.manual_seed(0)
    short, long = card_of("text", shape=[4]), card_of("text", shape=[9])
    encoder = build_encoder("m", long, tiny(name), D).eval()
    tokens = values(short)
    padded = torch.cat([tokens, torch.zeros(3, 5, dtype=torch.long)], dim=1)
    torch.testing.assert_close(encoder(tokens), encoder(padded))
    assert encoder(torch.zeros_like(padded)).isfinite().all()  # an empty text
    changed = padded.clone()
    changed[:, 3] = 1 + tokens[:, 3] % 19
    assert not torch.allclose(encoder(changed), encoder(padded))


def test_n_grams_are_those_of_the_text_and_of_nothing_else() -> None:
    """Any two texts have as many buckets in common as n-grams, which are listed one by one."""
    card = card_of("text", shape=[12], vocabulary=257)

    def tokens(text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()] + [0] * (12 - len(text))

    def found(text: str) -> Counter[int]:
        row = torch.tensor([tokens(text)])
        buckets, present = ngrams.hashed(row, row != card.padding)
        return Counter(buckets[present].tolist())

    def listed(text: str) -> Counter[str]:
        return Counter(text[at : at + n] for n in (1, 2, 3, 4) for at in range(len(text) - n + 1))

    texts = ["abcabc", "abc", "a", "", "cabcab", "zz zz", "zzzz", "ab-cd-ab-cd"]
    for one, other in itertools.product(texts, texts):
        assert (found(one) & found(other)).total() == (listed(one) & listed(other)).total(), (one, other)
    encoder = build_encoder("m", card, EncoderSettings(name="ngrams", width=2), D)
    one, other, third = encoder(torch.tensor([tokens(text) for text in ("Ab cD", "aB Cd", "ab cE")]))
    assert torch.equal(one, other) and not torch.allclose(one, third)


def test_an_open_encoder_is_small_and_for_text_n_grams_and_a_stored_name_is_kept() -> None:
    cards = {kind: card_of(kind) for kind in SHAPES}
    kinds = {name: type(one) for name, one in MultimodalClassifier(cards, 2, ModelSettings()).encoders.items()}
    assert kinds.pop("text") is ngrams.NGramEncoder
    small_ones = MultimodalClassifier(cards, 2, ModelSettings(encoder="small")).encoders  # as earlier versions wrote it
    assert type(small_ones["text"]) is small.TextEncoder
    assert kinds == {name: type(one) for name, one in small_ones.items() if name != "text"}
    own = ModelSettings(encoders={"text": EncoderSettings(width=3)})
    assert MultimodalClassifier(cards, 2, own).encoders["text"].embed.embedding_dim == 12


def test_clip_text_reads_the_end_token_that_it_is_padded_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    text.eos_token_id = text.pad_token_id = 19
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tiny_vision())).save_pretrained(tmp_path)
    settings = EncoderSettings(name="clip_text", pretrained=str(tmp_path))
    encoder = build_encoder("m", card_of("text", padding=19), settings, D).eval()
    tokens = torch.tensor([[4, 5, 19, 19, 19, 19, 19, 19, 19], [7, 8, 9, 10, 19, 19, 19, 19, 19]])
    pooled = encoder.body(input_ids=tokens).pooler_output  # transformers' own: the first end token
    torch.testing.assert_close(encoder(tokens), encoder.project(pooled))


def test_the_mean_over_frames_is_that_of_single_images() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("m", card_of("video"), tiny("resnet18"), D).eval()
    value = values(card_of("video"))
    torch.testing.assert_close(encoder(value), (encoder.image(value[:, 0]) + encoder.image(value[:, 1])) / 2)


@pytest.mark.parametrize(("name", "depths"), [("resnet18", [2, 2, 2, 2]), ("resnet50", [3, 4, 6, 3])])
def test_resnets_are_of_the_published_size(name: str, depths: list[int]) -> None:
    encoder = build_encoder("m", card_of("image"), EncoderSettings(name=name), D)
    count = sum(parameter.numel() for parameter in encoder.body.parameters())
    assert encoder.body.config.depths == depths
    assert count == {"resnet18": 11_176_512, "resnet50": 23_508_032}[name]  # He et al., without the classifier


def tiny_resnet(layer_type: str = "basic") -> ResNetModel:
    torch.manual_seed(3)
    return ResNetModel(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 8, 8], depths=[2, 2, 2, 2], layer_type=layer_type)
    )


def tiny_vision() -> dict[str, Any]:
    return CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=8
    ).to_dict()


def tiny_bert() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=12,
        )
    )


def test_a_pretrained_resnet_sees_pixels_as_it_was_trained_to(tmp_path: Path) -> None:
    model = tiny_resnet().eval()
    model.save_pretrained(tmp_path)
    settings = EncoderSettings(name="resnet18", pretrained=str(tmp_path))
    encoder = build_encoder("m", card_of("image", "uint8"), settings, D).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    expected = model((pixels / 255 - mean) / std).pooler_output.flatten(1)
    torch.testing.assert_close(encoder(pixels), encoder.project(expected), rtol=1e-4, atol=1e-5)
    floats = build_encoder("m", card_of("image"), settings, D).eval()  # not pixels: standardised by the card
    value = torch.randn(2, 3, 32, 32)
    expected = model((value - 0.5) / 2).pooler_output.flatten(1)
    torch.testing.assert_close(floats(value), floats.project(expected), rtol=1e-4, atol=1e-5)


def test_one_channel_under_pretrained_kernels_is_three_equal_channels(tmp_path: Path) -> None:
    model = tiny_resnet().eval()
    model.save_pretrained(tmp_path)
    settings = EncoderSettings(name="resnet18", pretrained=str(tmp_path))
    encoder = build_encoder("m", card_of("audio"), settings, D).eval()
    value = values(card_of("audio"))
    expected = model(((value - 0.5) / 2).expand(-1, 3, -1, -1)).pooler_output.flatten(1)
    torch.testing.assert_close(encoder(value), encoder.project(expected), rtol=1e-4, atol=1e-5)


def test_pretrained_clip_towers_have_their_weights_and_their_pixels(tmp_path: Path) -> None:
    torch.manual_seed(4)
    text = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tiny_vision())).eval()
    model.save_pretrained(tmp_path)
    settings = EncoderSettings(name="clip_image", pretrained=str(tmp_path))
    encoder = build_encoder("m", card_of("image", "uint8"), settings, D).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    expected = model.vision_model((pixels / 255 - mean) / std).pooler_output
    torch.testing.assert_close(encoder(pixels), encoder.project(expected), rtol=1e-4, atol=1e-5)
    larger = build_encoder("m", card_of("image", "uint8", shape=[3, 40, 48]), settings, D)
    assert larger(torch.zeros(2, 3, 40, 48, dtype=torch.uint8)).shape == (2, D)


def test_pretrained_bert_has_its_weights(tmp_path: Path) -> None:
    model = tiny_bert().eval()
    model.save_pretrained(tmp_path)
    encoder = build_encoder("m", card_of("text"), EncoderSettings(name="bert", pretrained=str(tmp_path)), D).eval()
    tokens = values(card_of("text"))
    torch.testing.assert_close(encoder(tokens), encoder.project(model(input_ids=tokens).pooler_output))


def test_pretrained_models_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    tiny_resnet().save_pretrained(tmp_path / "resnet")
    tiny_resnet("bottleneck").save_pretrained(tmp_path / "bottleneck")
    tiny_bert().save_pretrained(tmp_path / "bert")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "empty").mkdir()
    ResNetConfig().save_pretrained(tmp_path / "empty")
    cases = [
        ("resnet18", "nowhere", card_of("image"), "cannot be loaded"),
        ("resnet18", "broken", card_of("image"), "cannot be (read|loaded)"),
        ("resnet18", "empty", card_of("image"), "cannot be loaded"),
        ("resnet18", "bert", card_of("image"), "is a bert, not a resnet"),
        ("bert", "resnet", card_of("text"), "is a resnet, not a bert"),
        ("resnet18", "bottleneck", card_of("image"), "not resnet18"),
        ("resnet18", "resnet", card_of("image", shape=[2, 32, 32]), "takes 3 channels or 1, and there are 2"),
        ("bert", "bert", card_of("text", vocabulary=300), "has 20 tokens, and the dataset has 300; prepare the text"),
        ("bert", "bert", card_of("text", shape=[40]), "has 12 positions, and the dataset has 40"),
    ]
    for name, folder, card, said in cases:
        settings = EncoderSettings(name=name, pretrained=str(tmp_path / folder))
        with pytest.raises(UserError, match=said) as caught:
            build_encoder("m", card, settings, D)
        message = str(caught.value)
        assert message.startswith("model.encoders.m.pretrained: ")
        assert "\n" not in message


def test_encoders_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.encoders\.m\.name: bert takes text, and m is image; .*resnet18"):
        check_encoder("m", card_of("image"), EncoderSettings(name="bert"))
    with pytest.raises(UserError, match=r"model\.encoders\.m\.layers: resnet18 has no such setting"):
        check_encoder("m", card_of("image"), EncoderSettings(name="resnet18", layers=2))
    with pytest.raises(UserError, match=r"model\.encoders\.m\.pretrained: small has no such setting"):
        check_encoder("m", card_of("image"), EncoderSettings(name="small", pretrained="x"))
    with pytest.raises(UserError, match=r"model\.encoders\.imge: there is no such modality; did you mean image"):
        MultimodalClassifier({"image": card_of("image")}, 2, ModelSettings(encoders={"imge": EncoderSettings()}))


def test_the_dropout_of_a_modality_is_its_own() -> None:
    settings = ModelSettings(
        dropout=0.25, encoders={"a": EncoderSettings(dropout=0.0), "b": EncoderSettings(dropout=0.75)}
    )
    model = MultimodalClassifier({name: card_of("feature") for name in "abc"}, 2, settings)
    assert [model.dropout[name].p for name in "abc"] == [0.0, 0.75, 0.25]


def run_of(*overrides: str) -> Trainer:
    cards = {"audio": card_of("audio"), "image": card_of("image")}
    card = DatasetCard(modalities=cards, classes=["a", "b"], splits={}, preprocessing={}, fingerprint="0")
    return Trainer(load(RunConfig, None, ["device=cpu", *overrides]), card)


def batch(rows: int = 4) -> Any:
    from lfm_ray.datasets.reading.batches import Batch

    inputs = {"audio": values(card_of("audio"), rows), "image": values(card_of("image"), rows)}
    return Batch(inputs, torch.arange(rows) % 2)


@pytest.mark.parametrize("solver", [[], ["alpha.solver=cg"], ["data.micro_batch_size=2"]])
def test_a_frozen_encoder_does_not_move_but_its_last_layer(solver: list[str]) -> None:
    run = run_of(
        "model.encoders.image={name: resnet18, width: 4, frozen: true}",
        "alpha.strategy=learned",
        "alpha.outer=held_out",
        "data.batch_size=4",
        *solver,
    )
    run.prepare(2)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.model.train()
    step = run.training_step(batch(), before_alpha=True)
    assert run.alpha_gradient(batch(), iter([batch()]), step.d).value != 0
    moved = {key for key, value in run.model.state_dict().items() if not torch.equal(value, before[key])}
    of_image = {key for key in moved if key.startswith("encoders.image.")}
    assert of_image == {"encoders.image.project.weight", "encoders.image.project.bias"}
    assert any(key.startswith("encoders.audio.features") for key in moved)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_each_modality_has_its_learning_rate_throughout_the_schedule(schedule: str) -> None:
    run = run_of(
        "model.encoders.image.learning_rate_factor=0.1",
        f"optimizer.schedule={schedule}",
        "epochs=4",
        "loss.learn_tau=true",
    )
    run.prepare(2)
    image = {id(parameter) for parameter in run.model.encoders["image"].parameters()}
    seen = set()
    for _ in range(8):
        rates = {id(parameter): group["lr"] for group in run.optimizer.param_groups for parameter in group["params"]}
        assert set(rates) == {id(parameter) for parameter in run.parameters}
        for parameter, rate in rates.items():
            factor = 0.1 if parameter in image else 1.0
            assert rate == pytest.approx(factor * run.learning_rate, rel=1e-9)
        seen.add(run.learning_rate)
        run.optimizer.step()
        run.scheduler.step()
    assert len(seen) > 1 or schedule == "constant"


def test_batch_norm_keeps_its_statistics_through_an_update_of_alpha() -> None:
    for solver in ("identity", "cg"):
        small = ["model.encoder=resnet18", "model.encoders={audio: {width: 4}, image: {width: 4}}"]
        learned = ["alpha.strategy=learned", "alpha.outer=held_out", f"alpha.solver={solver}"]
        run = run_of(*small, *learned, "data.batch_size=4")
        run.prepare(2)
        step = run.training_step(batch(), before_alpha=True)
        before = {key: value.clone() for key, value in run.model.named_buffers()}
        assert "encoders.audio.body.embedder.embedder.normalization.running_mean" in before
        run.alpha_gradient(batch(), iter([batch()]), step.d)
        assert all(torch.equal(value, before[key]) for key, value in run.model.named_buffers())


def test_a_resnet_without_a_projection_gives_the_mean_over_space() -> None:
    card = ModalityCard(kind="audio", shape=[1, 64, 64], dtype="float32", mean=3, std=2)
    own = ENCODERS["resnet18"].settings_class
    settings = own.model_validate({"name": "resnet18", "width": 4, "project": False, "inputs": "fixed"})
    encoder = build_encoder("m", card, settings, 32).eval()
    value = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(encoder(value), encoder.body(value).last_hidden_state.mean(dim=(2, 3)))
    assert not [name for name, _ in encoder.named_parameters() if "project" in name]
    with pytest.raises(UserError, match=r"model\.encoders\.m\.project: .* model\.embedding_size=32"):
        build_encoder("m", card, settings, 16)
    with pytest.raises(ValueError, match="nothing to train"):
        own.model_validate({"name": "resnet18", "project": False, "frozen": True})


def test_fixed_inputs_are_images_as_in_imagenet() -> None:
    card = ModalityCard(kind="image", shape=[3, 32, 32], dtype="uint8", mean=3, std=2)
    own = ENCODERS["resnet18"].settings_class
    encoder = build_encoder("m", card, own.model_validate({"name": "resnet18", "width": 4, "inputs": "fixed"}), 8)
    found = encoder.pixels(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.float32)[0, :, 0, 0]
    expected = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert found.tolist() == pytest.approx(expected)


def test_bands_of_a_spectrogram_are_standardised_by_themselves() -> None:
    card = card_of("audio", shape=[1, 8, 12])
    means, stds = [float(band) for band in range(8)], [0.5 + band for band in range(8)]
    torch.manual_seed(0)
    encoder = build_encoder("m", card.model_copy(update={"means": means, "stds": stds}), tiny("small"), D)
    torch.manual_seed(0)
    plain = build_encoder("m", card.model_copy(update={"mean": 0.0, "std": 1.0}), tiny("small"), D)
    value = torch.randn(3, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    scaled = value * torch.tensor(stds)[:, None] + torch.tensor(means)[:, None]
    torch.testing.assert_close(encoder(scaled), plain(value), rtol=1e-3, atol=1e-4)
