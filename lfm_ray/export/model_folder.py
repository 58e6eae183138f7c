"""A trained model as a self-contained folder: it needs no run, no shards, no Ray and no network.

    config.json           the run's settings, the classes, the modalities, the preprocessing (`ModelCard`)
    model.safetensors     the weights
    tokenizer/            of the texts, if they have one
    embedders/MODALITY/   the frozen models that made features of raw files (`lfm_ray.export.embedders`)
    encoders/MODALITY/    the architecture and the processor of an encoder that started from pretrained weights

The files contain no code, and reading them executes none.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lfm_ray import own_parts
from lfm_ray.checksums import is_whole, with_checksum
from lfm_ray.config import RunConfig
from lfm_ray.datasets.media import text
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.shards import DatasetCard, sha256
from lfm_ray.errors import UserError
from lfm_ray.export.embedders import EMBEDDERS, embedder_files, write_embedders
from lfm_ray.files import check_path, check_within, read_json
from lfm_ray.models.classifier import MultimodalClassifier
from lfm_ray.models.encoders import EncoderSettings
from lfm_ray.models.encoders.auto import AutoSettings
from lfm_ray.models.encoders.lora import merge_adapters
from lfm_ray.models.encoders.pretrained import architecture_only, save_architecture
from lfm_ray.settings import Settings, build
from lfm_ray.storage import shown
from lfm_ray.training.stored_model import StoredModel, load_weights
from lfm_ray.training.trainer import build_model

FORMAT = "lfm_ray model 1"
CONFIG, WEIGHTS, TOKENIZER, ENCODERS = "config.json", "model.safetensors", "tokenizer", "encoders"


class ModelCard(Settings):
    """The content of `config.json`."""

    format: Literal["lfm_ray model 1"] = "lfm_ray model 1"
    run: RunConfig
    dataset: DatasetCard = Field(description="card of the shards it was trained on, without their list of files")
    epoch: int = Field(description="the weights are those after this epoch")
    averaged: bool = Field(description="whether the weights are the moving average, see optimizer.ema_decay")
    metrics: dict[str, float] = Field(description="metrics of that epoch")
    files: dict[str, str] = Field(description="file -> sha256, of every other file in the folder")
    versions: dict[str, str]
    checksum: str | None = Field(None, description="sha256 of all the rest of this file; null: of an earlier version")

    @field_validator("files")
    @classmethod
    def _in_the_folder(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"names {name}, a file outside of the exported model")
        return files

    @property
    def preprocessing(self) -> PrepareConfig:
        """How raw media become model inputs; no setting is null."""
        return build(PrepareConfig, self.dataset.preprocessing)


def check_free(out: Path) -> None:
    """Raises a UserError unless `out` can become a new folder."""
    check_path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: already exists; choose another folder, or remove this one")


def write(model: StoredModel, out: Path) -> ModelCard:
    """Writes the folder `out` from a checkpoint, and reads it back once as a check.

    The weights are the moving average if there is one, since that was evaluated. `out` is written
    as a whole or not at all.

    Raises:
        UserError: `out` already exists or cannot be written, or a tokenizer or a pretrained encoder's
            config is no longer where the run loaded it from.
    """
    check_free(out)
    if model.card is None:
        raise UserError(
            f"{shown(model.file)}: does not describe its data: it holds weights alone, or was written by an earlier"
            " version; train again"
        )
    config, dataset = model.config, model.card
    used = {name: dataset.modalities[name] for name in config.data.modalities or dataset.modalities}
    dataset = dataset.model_copy(update={"modalities": used, "splits": {}, "skipped": [], "checksum": ""})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            folder = Path(scratch) / out.name
            folder.mkdir()
            # a file of save_file would be readable by its owner only
            (folder / WEIGHTS).write_bytes(save(_plain(_merged(model, dataset))))
            for name in used:
                if source := config.model.of(name).pretrained:
                    save_architecture(source, folder / ENCODERS / name)
            write_embedders(dataset, folder)
            if any(modality.kind == "text" for modality in dataset.raw.values()):
                _copy_tokenizer(dataset, folder)
            files = {
                str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
            }
            card = ModelCard(
                run=config,
                dataset=dataset,
                epoch=model.epoch,
                averaged=model.averaged,
                metrics=model.history[-1],
                files=files,
                versions={name: importlib.metadata.version(name) for name in ("lfm_ray", "torch", "transformers")},
            )
            content = with_checksum(card.model_dump(mode="json"))
            (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            _read(folder, model.file)
            folder.replace(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return card


def read(folder: Path) -> tuple[ModelCard, MultimodalClassifier]:
    """The card and the model in a folder that `write` made; the model is on the CPU, in float32 and evaluation mode.

    Raises:
        UserError: the folder is not an exported model, or one of its files is missing or altered.
    """
    return _read(folder, folder / WEIGHTS)


def _read(folder: Path, source: Path) -> tuple[ModelCard, MultimodalClassifier]:
    """The same; source: the file to be named where its weights are not those of the model."""
    card = read_card(folder)
    for name, checksum in card.files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: this file of the exported model is missing; export it again")
        if sha256(folder / name) != checksum:
            raise UserError(f"{folder / name}: checksum differs from {CONFIG}, so it was altered; export it again")
    for part in (TOKENIZER, ENCODERS, EMBEDDERS):  # transformers would read more than is listed
        for file in sorted((folder / part).rglob("*")):
            if file.is_file() and file.relative_to(folder).as_posix() not in card.files:
                raise UserError(f"{file}: {CONFIG} does not list this file; remove it, or export the model again")
    if needed := [name for name in _needed(card) if name not in card.files]:
        raise UserError(f"{folder / CONFIG}: lists no {needed[0]}, without which the model cannot be built")
    model = _built(card, folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except (RuntimeError, ValueError, SafetensorError, OSError):  # what safetensors says of it is for programmers
        raise UserError(f"{folder / WEIGHTS}: is no file of safetensors, or damaged; export it again") from None
    load_weights(model, weights, source)
    return card, model.eval()


def _built(card: ModelCard, folder: Path) -> MultimodalClassifier:
    """The model that a card describes, with weights that are to be replaced.

    Raises:
        UserError: there is no such model; a card of somebody else may say anything.
    """
    try:
        with torch.random.fork_rng(devices=[]), architecture_only():
            return build_model(_as_exported(card.run, folder), card.dataset)
    except UserError:
        raise
    except Exception as error:
        if own_parts.blamed(error):
            raise
        raise UserError(f"{folder / CONFIG}: describes no model that can be built here; export it again") from None


def read_card(folder: Path) -> ModelCard:
    """Reads and checks `config.json`.

    Raises:
        UserError: it is missing or has another format.
    """
    how = f"make one with: python -m lfm_ray.export RUN --out {folder}"
    check_path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; {how}")
    check_within(folder)
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"{folder}: is not an exported model: it has no {CONFIG}; {how}")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file}: is not in the format {FORMAT!r}; {how}")
    if not is_whole(content):
        raise UserError(f"{file}: its checksum differs, so it was altered; export it again")
    return build(ModelCard, content, source=file)


def preprocessing_in(folder: Path, card: ModelCard) -> PrepareConfig:
    """How raw media become inputs of an exported model: with the folder's tokenizer, and without noise."""
    config = card.preprocessing
    if config.text.tokenizer:
        config = config.model_copy(
            update={"text": config.text.model_copy(update={"tokenizer": str(folder / TOKENIZER)})}
        )
    return config.model_copy(update={"noise": {}})


def _as_exported(config: RunConfig, folder: Path) -> RunConfig:
    """The settings, with pretrained encoders built from the folder, and without adapters, which the weights contain."""
    encoders = {}
    for name, one in config.model.encoders.items():
        update: dict[str, Any] = {"pretrained": str(folder / ENCODERS / name)} if one.pretrained else {}
        encoders[name] = one.model_copy(update=update | ({"lora": None} if _adapted(one) else {}))
    return config.model_copy(update={"model": config.model.model_copy(update={"encoders": encoders})})


def _merged(stored: StoredModel, dataset: DatasetCard) -> dict[str, Tensor]:
    """The weights of a run with its adapters added to those of their layers, if it has any."""
    if not any(_adapted(one) for one in stored.config.model.encoders.values()):
        return stored.weights
    with torch.random.fork_rng(devices=[]), architecture_only():
        model = build_model(stored.config, dataset)
    stored.load_into(model)
    merge_adapters(model)
    return model.state_dict()


def _adapted(settings: EncoderSettings) -> bool:
    """Whether an encoder is trained by adapters."""
    return isinstance(settings, AutoSettings) and settings.lora is not None


def _needed(card: ModelCard) -> list[str]:
    """Files that the folder must have, or parts of the model would be looked up elsewhere."""
    pretrained = [name for name in card.dataset.modalities if card.run.model.of(name).pretrained]
    tokens = any(one.kind == "text" for one in card.dataset.raw.values()) and card.preprocessing.text.tokenizer
    return [
        WEIGHTS,
        *embedder_files(card.dataset),
        *(f"{ENCODERS}/{name}/config.json" for name in pretrained),
        *([f"{TOKENIZER}/tokenizer_config.json"] if tokens else []),
    ]


def _copy_tokenizer(dataset: DatasetCard, folder: Path) -> None:
    settings = build(PrepareConfig, dataset.preprocessing).text
    if not settings.tokenizer:
        return
    found = text.vocabulary_and_padding(settings)
    if any((card.vocabulary, card.padding) != found for card in dataset.raw.values() if card.kind == "text"):
        raise UserError(f"text.tokenizer: {settings.tokenizer} is not the tokenizer that the shards were made with")
    text.load_tokenizer(settings.tokenizer).save_pretrained(folder / TOKENIZER)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as safetensors needs them: contiguous, while a run may hold them in channels_last."""
    return {name: value.to_dense().contiguous() for name, value in weights.items()}
