"""The kinds of modalities, and how shards can hold them."""

from __future__ import annotations

from typing import Literal

Kind = Literal["audio", "image", "video", "text", "feature"]
Storage = Literal["tensor", "waveform", "jpeg"]
