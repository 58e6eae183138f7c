"""Tiny models of each family of `transformers`, with random weights and the processors that they are published with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import ModalityCard

SIDE, FRAMES, RATE, SAMPLES, TOKENS = 32, 4, 16000, 4000, 9
SMALL: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16
}  # fmt: skip
PATCHES: dict[str, Any] = {"image_size": SIDE, "patch_size": 8}
WORDS: dict[str, Any] = {**SMALL, "vocab_size": 20, "max_position_embeddings": 12, "pad_token_id": 0}
AFTER: dict[str, Any] = {**WORDS, "pad_token_id": 1, "max_position_embeddings": 14}  # positions begin after the padding
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
WAVES: dict[str, Any] = {
    **SMALL, "conv_dim": (4, 4), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    "d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 30, "num_mel_bins": 16, "max_source_positions": 50,
    "pad_token_id": 0, "decoder_start_token_id": 1, **ENDS,
}  # fmt: skip
CLAP_AUDIO: dict[str, Any] = {
    "num_mel_bins": 16, "spec_size": 64, "hidden_size": 16, "patch_size": 4, "patch_stride": [4, 4],
    "patch_embeds_hidden_size": 4, "depths": [1, 1, 1], "num_attention_heads": [1, 2, 2], "window_size": 2,
    "num_hidden_layers": 3, "projection_dim": 8,
}  # fmt: skip
PIXELS: dict[str, Any] = {
    "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def siglip() -> Any:
    """Both towers."""
    return hf.SiglipModel(hf.SiglipConfig(text_config={**WORDS, **ENDS}, vision_config={**SMALL, **PATCHES}))


def clap() -> Any:
    """Both towers."""
    words = {**AFTER, "projection_dim": 8, **ENDS}
    return hf.ClapModel(hf.ClapConfig(text_config=words, audio_config=CLAP_AUDIO))


MODELS: dict[str, tuple[Kind, Callable[[], Any]]] = {
    "vit": ("image", lambda: hf.ViTModel(hf.ViTConfig(**SMALL, **PATCHES))),
    "dinov2": ("image", lambda: hf.Dinov2Model(hf.Dinov2Config(**{**SMALL, **PATCHES, "image_size": 48}))),
    "convnext": ("image", lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 2, 1]))),
    "swin": (
        "image",
        lambda: hf.SwinModel(
            hf.SwinConfig(image_size=SIDE, patch_size=4, embed_dim=4, depths=[1, 2], num_heads=[1, 2], window_size=2)
        ),
    ),
    "siglip": ("image", siglip),
    "siglip text": ("text", siglip),
    "ast": (
        "audio",
        lambda: hf.ASTModel(
            hf.ASTConfig(**SMALL, max_length=64, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
        ),
    ),
    "wav2vec2": ("audio", lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES))),
    "hubert": ("audio", lambda: hf.HubertModel(hf.HubertConfig(**WAVES))),
    "wavlm": ("audio", lambda: hf.WavLMModel(hf.WavLMConfig(**WAVES))),
    "whisper": ("audio", lambda: hf.WhisperModel(hf.WhisperConfig(**WHISPER))),
    "clap": ("audio", clap),
    "bert": ("text", lambda: hf.BertModel(hf.BertConfig(**WORDS))),
    "byte bert": ("text", lambda: hf.BertModel(hf.BertConfig(**{**WORDS, "vocab_size": 257}))),
    "roberta": ("text", lambda: hf.RobertaModel(hf.RobertaConfig(**AFTER))),
    "deberta": ("text", lambda: hf.DebertaV2Model(hf.DebertaV2Config(**WORDS))),
    "modernbert": (
        "text",
        lambda: hf.ModernBertModel(hf.ModernBertConfig(**WORDS, **ENDS, cls_token_id=1, sep_token_id=2)),
    ),
    "mpnet": ("text", lambda: hf.MPNetModel(hf.MPNetConfig(**AFTER))),
    "videomae": (
        "video",
        lambda: hf.VideoMAEModel(hf.VideoMAEConfig(**SMALL, **PATCHES, num_frames=FRAMES, tubelet_size=2)),
    ),
    "timesformer": (
        "video",
        lambda: hf.TimesformerModel(hf.TimesformerConfig(**SMALL, **PATCHES, num_frames=FRAMES)),
    ),
    "vivit": (
        "video",
        lambda: hf.VivitModel(hf.VivitConfig(**SMALL, image_size=SIDE, num_frames=FRAMES, tubelet_size=[2, 8, 8])),
    ),
}
EXTRACTORS: dict[str, Callable[[], Any]] = {
    "ast": lambda: hf.ASTFeatureExtractor(num_mel_bins=16, max_length=64),
    "wav2vec2": lambda: hf.Wav2Vec2FeatureExtractor(do_normalize=True),
    "hubert": lambda: hf.Wav2Vec2FeatureExtractor(do_normalize=False),
    "wavlm": lambda: hf.Wav2Vec2FeatureExtractor(do_normalize=True),
    "whisper": lambda: hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1),
    "clap": lambda: hf.ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, max_length_s=1, frequency_max=8000, truncation="rand_trunc"
    ),
}


def save(name: str, folder: Path) -> Any:
    """Saves a tiny model, with its processor, into a folder; returns it, in evaluation mode."""
    torch.manual_seed(7)
    kind, make = MODELS[name]
    model = make().eval()
    hf.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if name in EXTRACTORS:
        EXTRACTORS[name]().save_pretrained(folder)
    elif kind != "text":
        more = {"rescale_factor": 1 / 127.5, "offset": True} if name == "vivit" else {}
        (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS | more))
    return model


def card_for(name: str, **more: Any) -> ModalityCard:
    """A modality that fits the model."""
    kind = MODELS[name][0]
    fields: dict[str, Any] = {
        "image": {"shape": [3, SIDE, SIDE], "dtype": "uint8"},
        "video": {"shape": [FRAMES, 3, SIDE, SIDE], "dtype": "uint8"},
        "audio": {"shape": [SAMPLES], "dtype": "int16", "sample_rate": RATE},
        "text": {
            "shape": [TOKENS], "dtype": "int32", "vocabulary": 20, "padding": int(name in ("roberta", "mpnet"))
        },
    }[kind]  # fmt: skip
    return ModalityCard(**{"kind": kind, "mean": 0.5, "std": 2.0, **fields, **more})


def values(card: ModalityCard, rows: int = 3) -> torch.Tensor:
    """Random samples of a modality, as the shards hold them."""
    random = torch.Generator().manual_seed(1)
    if card.kind == "text":
        return torch.randint(2, card.vocabulary or 0, (rows, *card.shape), generator=random)
    low, high, dtype = (-9000, 9000, torch.int16) if card.kind == "audio" else (0, 256, torch.uint8)
    return torch.randint(low, high, (rows, *card.shape), generator=random, dtype=dtype)


def save_all(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model, in a folder of its own; its name -> the folder."""
    made = {name: tmp_path_factory.mktemp(name.replace(" ", "_")) for name in MODELS}
    for name, folder in made.items():
        save(name, folder)
    return made
