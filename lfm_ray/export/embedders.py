"""The frozen models that made a dataset's features, in the folder of an exported model, which takes raw files again.

embedders/MODALITY/    the architecture and the processor, and model.safetensors, the weights
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import UserError
from lfm_ray.models.embedding import Embedder, digest, frozen_encoder, weights_of
from lfm_ray.models.encoders.pretrained import architecture_only, save_architecture

EMBEDDERS, WEIGHTS = "embedders", "model.safetensors"


def write_embedders(dataset: DatasetCard, folder: Path) -> None:
    """Writes the models that made the features of a dataset's modalities.

    Raises:
        UserError: a model is no longer where the shards were made with it, or is another now.
    """
    for name, how in dataset.embedded.items():
        if name not in dataset.modalities:
            continue
        encoder = frozen_encoder(name, how.card, how.pretrained, how.pooling)
        if digest(encoder) != how.weights:
            raise UserError(f"{how.pretrained}: is not the model that made the features of {name}: its weights differ")
        own = folder / EMBEDDERS / name
        save_architecture(how.pretrained, own)
        plain = {key: value.contiguous().clone() for key, value in weights_of(encoder).items()}
        (own / WEIGHTS).write_bytes(save(plain))


def embedder_files(dataset: DatasetCard) -> Iterable[str]:
    """The files without which `read_embedders` would look elsewhere."""
    for name in dataset.embedded:
        if name in dataset.modalities:
            yield from (f"{EMBEDDERS}/{name}/config.json", f"{EMBEDDERS}/{name}/{WEIGHTS}")


def read_embedders(dataset: DatasetCard, folder: Path, device: torch.device) -> dict[str, Embedder]:
    """Modality -> its embedder, from what `write_embedders` wrote.

    Raises:
        UserError: the weights are not those of the architecture.
    """
    found = {}
    for name, how in dataset.embedded.items():
        if name not in dataset.modalities:
            continue
        own = folder / EMBEDDERS / name
        with torch.random.fork_rng(devices=[]), architecture_only():
            encoder = frozen_encoder(name, how.card, str(own), "auto")
        try:
            missing, unexpected = encoder.load_state_dict(load_file(own / WEIGHTS), strict=False)
        except (RuntimeError, SafetensorError) as error:
            raise UserError(f"{own / WEIGHTS}: {str(error).splitlines()[-1].strip()}") from None
        if unexpected or [key for key in missing if not key.startswith("project.")]:
            raise UserError(f"{own / WEIGHTS}: does not hold the weights of its config.json")
        found[name] = Embedder(name, how.card, dataset.preprocessing, encoder.to(device), how.pooling)
    return found
