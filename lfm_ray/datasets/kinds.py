"""The kinds of modality, the ways in which shards can store them, and the kinds of target."""

from __future__ import annotations

from typing import Literal

Kind = Literal["audio", "image", "video", "text", "feature"]
Storage = Literal["tensor", "waveform", "jpeg"]
TargetKind = Literal["classes", "multilabel", "regression"]
