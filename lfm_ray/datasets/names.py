"""Names that a modality can have: it stands in metrics, settings, files and modules beside names of our own."""

from __future__ import annotations

from lfm_ray.errors import UserError

# In the names of metrics (`val/NAME/accuracy`), or in batches.
OWN = ("fused", "train", "val", "test", "loss", "accuracy", "map", "macro_f1", "micro_f1", "balanced_accuracy",
       "worst_class_accuracy", "unimodal_accuracy", "accuracy_gap", "modality_gap", "probe_map", "mae", "correlation",
       "unimodal_map", "map_gap", "unimodal_correlation", "correlation_gap", "probe_correlation", "alpha", "tau",
       "epoch", "seconds", "learning_rate", "rows", "row", "labels")  # fmt: skip
WITH_A_MEANING = "/\\.=[]{}:,;*?\"'<>|"  # in paths, settings, YAML


COLUMNS = ("id", "label")  # of every shard
MOST_BYTES = 100  # as it is part of names of files


def check_name(what: str, name: str) -> None:
    """Raises a UserError, which begins with `what`, unless a modality can have this name."""
    from torch import nn

    if not name.strip() or name != name.strip() or not name.isprintable() or name.startswith("-"):
        raise UserError(f"{what}: a modality's name must be visible, without blanks at its ends or - at its start")
    if wrong := [letter for letter in name if letter in WITH_A_MEANING]:
        raise UserError(f"{what}: a modality's name cannot hold {wrong[0]}; rename the column")
    if len(name.encode()) > MOST_BYTES:
        raise UserError(f"{what[:40]}...: a modality's name has at most {MOST_BYTES} bytes; rename the column")
    if name in OWN or name in COLUMNS or hasattr(nn.ModuleDict(), name):
        raise UserError(f"{what}: lfm_ray uses this name for something else; rename the column")
