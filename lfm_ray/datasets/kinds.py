"""The kinds of modality, and the ways in which shards can store them."""

from __future__ import annotations

from typing import Literal

Kind = Literal["audio", "image", "video", "text", "feature"]
Storage = Literal["tensor", "waveform", "jpeg"]
